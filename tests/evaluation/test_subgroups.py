import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation import gap_test
from tumorboard.evaluation.gap_test import blocks_of, compare_sides
from tumorboard.evaluation.intervals import intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.subgroups import (
    ABOVE,
    BELOW,
    NOISE,
    SUBGROUP_COLUMNS,
    correct_by_holm,
    subgroup_scores,
    subgroups_warnings,
)


def draw(seed, bad_site=False, patients=60, sites=4, effect=0.6, split_patients=False):
    """Returns Predictions with about 84 % right, and a table of sites; half the labels of `site 0` may be wrong."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), generator.poisson(8, patients) + 1)
    site = (
        generator.integers(sites, size=len(group)) if split_patients else generator.permutation(patients)[group] % sites
    )
    actual = generator.integers(2, size=len(group))
    ability = 1.8 + effect * generator.normal(size=patients)[group]
    predicted = np.where(ability + generator.logistic(size=len(group)) > 0, actual, 1 - actual)
    wrong = (site == 0) & (generator.uniform(size=len(group)) < 0.5) & bad_site
    ids = [f"i{k}" for k in range(len(group))]
    rows = pd.DataFrame({"id": ids, "group": [f"p{k}" for k in group], "split": "test"})
    rows["label"] = np.where(np.where(wrong, 1 - actual, actual) == 1, "ill", "well")
    ill = np.where(predicted == 1, 0.8, 0.2)
    attributes = pd.DataFrame({"id": ids, "site": [f"site {k}" for k in site]})
    return make_predictions(rows, np.stack([ill, 1 - ill], 1), ["ill", "well"], "digest"), attributes


def verdicts(table):
    return dict(zip(table["value"], table["verdict"], strict=True))


@pytest.mark.parametrize("split_patients", [False, True])
def test_a_site_with_half_its_labels_wrong_is_named_and_no_other_one(split_patients, monkeypatch):
    monkeypatch.setattr(gap_test, "PERMUTATIONS", 299)
    named = others = 0
    for seed in range(20):
        rows = draw(seed, bad_site=True, split_patients=split_patients)
        table = subgroup_scores(*rows, ["site"], seed=seed)
        below = [value for value, verdict in verdicts(table).items() if verdict == BELOW]
        named += "site 0" in below
        others += below not in ([], ["site 0"])
    assert named >= 19
    assert others <= 1


@pytest.mark.parametrize("split_patients", [False, True])
def test_equal_sites_are_not_named(split_patients, monkeypatch):
    monkeypatch.setattr(gap_test, "PERMUTATIONS", 299)
    false_alarms = 0
    for seed in range(20):
        rows = draw(seed, patients=30, sites=3, effect=1.0, split_patients=split_patients)
        table = subgroup_scores(*rows, ["site"], seed=seed)
        false_alarms += not table["verdict"].eq(NOISE).all()
    assert false_alarms <= 2


def test_columns_of_the_table():
    predictions, attributes = draw(0, bad_site=True)
    table = subgroup_scores(predictions, attributes, ["site"], confidence=0.9, seed=7, unit="patient")
    assert tuple(table.columns) == SUBGROUP_COLUMNS
    assert table["value"].tolist() == [f"site {k}" for k in range(4)]
    site = attributes.set_index("id")["site"].loc[predictions["id"]].to_numpy()
    for row in table.to_dict("records"):
        part = predictions[site == row["value"]]
        assert (row["images"], row["groups"]) == (len(part), part["group"].nunique())
        expected = scores(part)
        with_ends = intervals(part, 0.9, unit="patient")
        for score in ("accuracy", "balanced_accuracy", "auc"):
            assert row[score] == pytest.approx(expected[score])
            for end in ("low", "high", "method"):
                assert row[f"{score}_{end}"] == with_ends[f"{score}_{end}"]
        right = (part["p_ill"] > 0.5) == (part["label"] == "ill")
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["gap_low"] < row["gap"] < row["gap_high"]
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])


def test_two_values_are_one_test():
    predictions, attributes = draw(0, bad_site=True, sites=2)
    table = subgroup_scores(predictions, attributes, ["site"])
    first, second = table.to_dict("records")
    assert first["p"] == second["p"] == first["p_holm"] == second["p_holm"]
    assert (first["gap"], first["gap_low"], first["gap_high"]) == (
        -second["gap"],
        -second["gap_high"],
        -second["gap_low"],
    )
    assert verdicts(table) == {"site 0": BELOW, "site 1": ABOVE}
    (sentence,) = subgroups_warnings(table)
    right = f"{100 * first['accuracy']:.1f} % of {first['images']:,} images are right"
    assert sentence.startswith(f"site site 0: {right}, ")
    assert f"{-100 * first['gap']:.1f} points below the other values" in sentence


def test_all_columns_are_corrected_together():
    predictions, attributes = draw(4, patients=40)
    generator = np.random.default_rng(0)
    sex = dict(zip(predictions["group"].unique(), generator.choice(["F", "M"], 40), strict=True))
    attributes = attributes.assign(sex=predictions["group"].map(sex).to_numpy(object))
    table = subgroup_scores(predictions, attributes, ["sex", "site", "sex"])
    assert table["column"].tolist() == ["sex"] * 2 + ["site"] * 4
    p = [table["p"].iloc[0], *table["p"].iloc[2:]]
    expected = multipletests(p, method="holm")[1]
    assert table["p_holm"].tolist() == pytest.approx([expected[0], *expected])


def test_the_gap_is_that_of_the_groups():
    predictions, attributes = draw(0)
    table = subgroup_scores(predictions, attributes, ["site"], seed=3)
    right = ((predictions["p_ill"] > 0.5) == (predictions["label"] == "ill")).to_numpy()
    actual = (predictions["label"] == "well").to_numpy().astype(int)
    blocks = blocks_of(
        predictions["group"].to_numpy(object), actual, right, (attributes["site"] == "site 2").to_numpy()
    )
    gap = compare_sides(blocks, confidence=0.95, seed=3, stream="subgroup site site 2")
    assert table.loc[2, ["gap", "gap_low", "gap_high", "p"]].tolist() == pytest.approx(list(gap))


def test_empty_cells_are_a_value_and_small_values_are_not_tested():
    predictions, attributes = draw(0)
    few = predictions["group"].isin(["p0", "p1"]).to_numpy()
    attributes["site"] = np.where(few, "", np.where(attributes["site"] == "site 0", "A", "B"))
    table = subgroup_scores(predictions, attributes, ["site"], unit="patient")
    assert table["value"].tolist() == ["A", "B", "unknown"]
    assert verdicts(table)["unknown"] == "too few patients to compare (2)"
    last = table.iloc[2]
    assert np.isfinite(last["gap"])
    assert np.isnan([last["p"], last["p_holm"], last["gap_low"], last["accuracy_low"]]).all()
    assert last["accuracy_method"] == "too few patients for an interval (2)"
    assert table["p_holm"].iloc[:2].to_numpy() == pytest.approx(correct_by_holm(table["p"].iloc[:2].to_numpy()))


def test_four_against_four_groups_cannot_reach_significance_among_many_tests():
    """Four of eight groups: 70 arrangements, so p is at least 2 / 70, above 0.05 / 2 for two columns of two values."""
    predictions, attributes = draw(0, patients=8, sites=2)
    one = subgroup_scores(predictions, attributes, ["site"])
    assert one["p"].notna().all()
    two = subgroup_scores(predictions, attributes.assign(hospital=attributes["site"]), ["site", "hospital"])
    assert two["verdict"].eq("too few groups to compare (4)").all()


@pytest.mark.parametrize("split_patients", [False, True])
def test_the_arrangements_of_more_groups_than_a_float_can_count_are_enough(split_patients):
    """Of 1,200 patients more than 2^1023 arrangements, whose number no float64 holds."""
    table = subgroup_scores(*draw(0, patients=1200, sites=2, split_patients=split_patients), ["site"])
    assert table["groups"].min() >= 600
    assert table["p"].between(0, 1).all()
    assert table["verdict"].isin([BELOW, ABOVE, NOISE]).all()


def test_shares_of_votes_have_no_auc():
    predictions, attributes = draw(0)
    table = subgroup_scores(predictions, attributes, ["site"], probabilities=False)
    full = subgroup_scores(predictions, attributes, ["site"])
    assert full["auc"].notna().all()
    assert table[["auc", "auc_low", "auc_high"]].isna().all(axis=None)
    assert set(table["auc_method"]) == {"shares of votes, no probabilities"}
    others = [name for name in full if not name.startswith("auc")]
    pd.testing.assert_frame_equal(table[others], full[others])


def test_a_single_value_and_values_of_other_classes_have_nothing_to_be_compared_with():
    predictions, attributes = draw(0)
    table = subgroup_scores(predictions, attributes.assign(site="A"), ["site"])
    assert verdicts(table) == {"A": "the only value"}
    by_label = attributes.assign(site=predictions["label"].to_numpy(object))
    table = subgroup_scores(predictions, by_label, ["site"])
    assert table["verdict"].eq("no class in common with the others").all()
    assert subgroups_warnings(table) == []


def test_no_columns_give_no_rows_and_unknown_ones_are_named():
    predictions, attributes = draw(0)
    assert tuple(subgroup_scores(predictions, attributes, []).columns) == SUBGROUP_COLUMNS
    with pytest.raises(InputError, match=r"evaluate.subgroups names 'sex'.*it has site"):
        subgroup_scores(predictions, attributes, ["sex"])


def test_the_order_of_rows_does_not_matter():
    predictions, attributes = draw(1)
    table = subgroup_scores(predictions, attributes, ["site"])
    shuffled = subgroup_scores(
        predictions.sample(frac=1, random_state=0), attributes.sample(frac=1, random_state=1), ["site"]
    )
    pd.testing.assert_frame_equal(table, shuffled)


@pytest.mark.parametrize("p", [[0.04, 0.01, 0.03], [0.5, 0.9, 0.01, 0.01], [1.0], [0.02, 0.02]])
def test_holm_agrees_with_statsmodels(p):
    assert correct_by_holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_of_nothing():
    assert correct_by_holm(np.array([])).size == 0
    assert np.isnan(correct_by_holm(np.array([np.nan]))).all()
