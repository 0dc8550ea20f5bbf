import dataclasses

import numpy as np
import pytest

from tumorboard.base.errors import InputError
from tumorboard.evaluation.comparisons import holm
from tumorboard.evaluation.paired import SHARES, compare
from tumorboard.panel.votes import POOLS
from tumorboard.report.conclusions import compare_part, draw_conclusions, sentence_of, verdict_text


def test_each_scored_part_is_compared_and_an_unscored_one_is_not(results, conclusions):
    assert list(conclusions.comparisons) == ["validation", "test"]
    only = draw_conclusions(dataclasses.replace(results, test=None))
    assert list(only.comparisons) == ["validation"]


def test_the_primary_pair_is_the_heading_vote_and_the_best_member_by_validation_loss(results, conclusions):
    """On test images too, where another member may be better: the choice must not be made by them."""
    losses = {name: scores["loss"] for name, scores in results.validation.scores["members"].items()}
    best = min(losses, key=losses.get)
    for comparison in conclusions.comparisons.values():
        assert comparison.primary[["first_name", "second_name", "score"]].to_numpy().tolist() == [
            ["soft vote", best, "accuracy"]
        ]
    reversed_losses = {
        name: scores | {"loss": -scores["loss"]} for name, scores in results.validation.scores["members"].items()
    }
    other = dataclasses.replace(results.validation, scores=results.validation.scores | {"members": reversed_losses})
    changed = dataclasses.replace(results, validation=other)
    assert compare_part(changed.test, changed).primary["second_name"].tolist() == [max(losses, key=losses.get)]


def test_the_differences_are_those_of_the_paired_comparison(results, conclusions):
    part = results.test
    expected = compare(part.votes["soft"], part.members["cnn"], seed=results.seed, unit="patient").set_index("score")
    row = conclusions.comparisons["test"].primary.iloc[0]
    for name in ("first", "second", "difference", "low", "high", "p", "verdict"):
        assert row[name] == expected.loc["accuracy", name]


def test_all_others_are_exploratory_and_corrected_together(conclusions):
    table = conclusions.comparisons["test"].exploratory
    accuracies = table[table["score"] == "accuracy"]
    assert accuracies["second_name"].tolist() == ["linear", *(f"{vote} vote" for vote in POOLS if vote != "soft")]
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()), nan_ok=True)


def test_a_class_that_is_to_be_detected_has_its_sensitivity_and_specificity_compared(binary):
    """Of the primary pair, by the more probable class; they count in the correction of the exploratory table."""
    part = binary.test
    comparison = compare_part(part, binary)
    (pair,) = comparison.primary[["first_name", "second_name", "score"]].to_numpy().tolist()
    table = comparison.exploratory
    of_pair = table[table[["first_name", "second_name"]].eq(pair[:2]).all(axis=1)].set_index("score")
    assert of_pair.index.tolist() == ["balanced_accuracy", "sensitivity", "specificity", "brier", "auc"]
    assert table["score"].isin(["sensitivity", "specificity"]).sum() == 2
    heading, member = part.votes[part.vote], part.members[pair[1]]
    for score, label in (("sensitivity", "b"), ("specificity", "a")):
        rights = [table[table["label"] == label][f"p_{label}"].gt(0.5).mean() for table in (heading, member)]
        assert of_pair.loc[score, ["first", "second"]].tolist() == pytest.approx(rights)
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()), nan_ok=True)


@pytest.mark.parametrize(
    ("primary", "names"),
    [
        (("vote", "linear"), ["soft vote", "linear"]),
        (("cnn", "linear"), ["cnn", "linear"]),
        (("product", "cnn"), ["product vote", "cnn"]),
    ],
)
def test_params_name_the_primary_pair(results, primary, names):
    changed = dataclasses.replace(results, evaluate=results.evaluate.model_copy(update={"primary": primary}))
    row = compare_part(changed.test, changed).primary
    assert row[["first_name", "second_name"]].to_numpy().tolist() == [names]


@pytest.mark.parametrize("primary", [("vote", "vgg"), ("vote", "soft")])
def test_a_primary_pair_that_cannot_be_compared_is_refused(results, primary):
    changed = dataclasses.replace(results, evaluate=results.evaluate.model_copy(update={"primary": primary}))
    with pytest.raises(InputError, match=r"evaluate\.primary"):
        compare_part(changed.test, changed)


def test_a_hard_vote_is_not_compared_in_scores_of_probabilities(hard):
    comparison = draw_conclusions(hard).comparisons["test"]
    assert comparison.primary["first_name"].tolist() == ["hard vote"]
    refused = comparison.exploratory[comparison.exploratory["score"].isin(["brier", "auc"])]
    assert refused["verdict"].tolist() == [SHARES] * 2
    assert refused[["first", "second", "difference", "p_holm"]].isna().to_numpy().all()


def test_subgroups_are_those_of_the_shown_part(results, conclusions):
    table = conclusions.subgroups
    assert table[["column", "value", "images", "groups"]].to_numpy().tolist() == [
        ["site", "<south>", 18, 6],
        ["site", "north", 18, 6],
    ]
    on_validation = draw_conclusions(dataclasses.replace(results, test=None)).subgroups
    assert on_validation["images"].sum() == 54


@pytest.mark.parametrize("columns", [(), ("sex",), ("id",)])
def test_columns_that_the_data_lacks_are_left_out(results, columns):
    changed = dataclasses.replace(results, evaluate=results.evaluate.model_copy(update={"subgroups": columns}))
    drawn = draw_conclusions(changed)
    assert drawn.subgroups.empty
    lacking = [f"no subgroups by {name}: the data's table has no such column" for name in columns if name != "id"]
    assert drawn.subgroup_warnings == lacking


def test_a_site_whose_labels_are_wrong_is_named(judged):
    """With 72 groups, 12 test patients per site; the labels of the north are exchanged after the prediction."""
    results = judged(skill=4.0)
    sites = results.attributes.set_index("id")["site"]
    heading = results.test.heading
    north = heading["id"].map(sites).eq("north")
    exchanged = heading.assign(label=np.where(north, heading["label"].map({"a": "b", "b": "a"}), heading["label"]))
    votes = {**results.test.votes, "heading": exchanged}
    changed = dataclasses.replace(results, test=dataclasses.replace(results.test, votes=votes))
    assert draw_conclusions(results).subgroup_warnings == []
    (warning,) = draw_conclusions(changed).subgroup_warnings
    assert warning.startswith("site north: ")


def test_suspects_are_of_validation_images(results, conclusions):
    assert set(conclusions.suspects["id"]) <= set(results.validation.heading["id"])


ROW = {
    "first_name": "soft vote",
    "second_name": "cnn",
    "score": "balanced_accuracy",
    "difference": 0.0123,
    "low": -0.004,
    "high": 0.05,
    "p": 0.0312,
    "verdict": "first is ahead",
}


def test_a_comparison_as_a_sentence():
    assert sentence_of(ROW) == (
        "The soft vote against cnn, on the same images: +1.2 points of balanced accuracy (-0.4 to +5.0, p 0.031): "
        "soft vote is ahead."
    )
    few = ROW | {"first_name": "linear", "low": np.nan, "high": np.nan, "p": np.nan, "verdict": "too few patients (4)"}
    assert sentence_of(few) == (
        "linear against cnn, on the same images: +1.2 points of balanced accuracy: too few patients (4)."
    )


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ("first is ahead", "soft vote is ahead"),
        ("second is ahead", "cnn is ahead"),
        ("within noise", "within noise"),
        ("too few patients (4)", "too few patients (4)"),
    ],
)
def test_verdicts_name_who_is_ahead(verdict, text):
    assert verdict_text(ROW | {"verdict": verdict}) == text


def test_one_patient_with_a_third_of_the_images_is_a_concentration(judged):
    results = judged(giant=True)
    assert draw_conclusions(results).concentration == "one patient has 50 % of the images"
