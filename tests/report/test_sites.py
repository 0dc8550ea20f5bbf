"""The scores per left-out value: each of the images of its fold, with the value's name."""

import dataclasses

import numpy as np
import pytest

from tumorboard.base.tables import probabilities_of
from tumorboard.evaluation.intervals import intervals
from tumorboard.report.conclusions import draw_conclusions
from tumorboard.report.front import front_page
from tumorboard.report.results import Results
from tumorboard.report.sites import site_spread


@pytest.fixture(scope="module")
def by_site(binary: Results) -> Results:
    """The run with its two folds as the sites 'Ulm <1>' and 'Aachen', of which fold 0 is the later name."""
    names = {0: "Ulm <1>", 1: "Aachen"}
    rows = binary.manifest
    attributes = rows[["id"]].assign(hospital=rows["fold"].map(names).fillna("Aachen").astype(object))
    split = binary.split.model_copy(update={"leave_out": "hospital"})
    return dataclasses.replace(binary, attributes=attributes, split=split)


def test_without_a_left_out_column_there_is_no_spread(binary: Results) -> None:
    assert site_spread(binary) is None
    assert draw_conclusions(binary).sites is None


def test_each_fold_has_the_name_and_the_scores_of_its_images(by_site: Results) -> None:
    sites = site_spread(by_site)
    assert sites is not None
    assert sites.rows[["fold", "value", "images", "groups"]].to_numpy().tolist() == [
        [0, "Ulm <1>", 72, 24],
        [1, "Aachen", 72, 24],
    ]
    heading = by_site.validation.heading
    for row in sites.rows.to_dict("records"):
        ids = set(by_site.manifest.loc[by_site.manifest["fold"] == row["fold"], "id"])
        own = heading[heading["id"].isin(ids)]
        right = np.array(["a", "b"])[probabilities_of(own).argmax(1)] == own["label"].to_numpy()
        assert row["accuracy"] == pytest.approx(right.mean())
        expected = intervals(own, by_site.evaluate.confidence, bootstrap=0, unit="patient")
        assert (row["auc_low"], row["accuracy_high"]) == (expected["auc_low"], expected["accuracy_high"])


def test_the_lowest_and_the_highest_are_named_on_the_front_page(by_site: Results) -> None:
    sites = site_spread(by_site)
    low, high = sorted(sites.rows["accuracy"])
    name_of = sites.rows.set_index("accuracy")["value"]
    assert sites.spread == (
        f"Accuracy per hospital: {50 * (low + high):.1f} % in the mean, standard deviation "
        f"{100 * (high - low) / np.sqrt(2):.1f} points; lowest {100 * low:.1f} % on {name_of[low]} (24 patients), "
        f"highest {100 * high:.1f} % on {name_of[high]} (24 patients)."
    )
    assert low < high
    assert sites.spread in front_page(by_site, draw_conclusions(by_site)).failures


def test_one_scored_site_has_no_spread(by_site: Results) -> None:
    ids = by_site.manifest.loc[by_site.manifest["fold"] == 1, "id"]
    heading = by_site.validation.heading
    votes = {**by_site.validation.votes, "heading": heading[heading["id"].isin(set(ids))].reset_index(drop=True)}
    alone = dataclasses.replace(by_site, validation=dataclasses.replace(by_site.validation, votes=votes))
    assert site_spread(alone).spread.startswith("Accuracy on the only scored hospital, Aachen: ")


def test_a_hard_vote_has_no_auc_per_site(by_site: Results) -> None:
    hard = dataclasses.replace(by_site, validation=dataclasses.replace(by_site.validation, vote="hard"))
    assert not [name for name in site_spread(hard).rows if name.startswith("auc")]
