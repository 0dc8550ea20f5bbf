import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.tables import check_predictions, make_predictions
from tumorboard.evaluation.by_group import group_predictions, groups_with_several_labels


def predictions(groups, labels, probabilities, classes=("ill", "well"), split="test"):
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(len(groups))], "group": groups, "split": split, "label": labels})
    return make_predictions(rows, np.array(probabilities, dtype=float), list(classes), "digest")


ILL = [0.1, 0.9, 0.35, 0.3, 0.2]
FIVE = predictions(
    ["q", "p", "p", "q", "p"], ["well", "ill", "ill", "well", "ill"], np.stack([ILL, 1 - np.array(ILL)], 1)
)


@pytest.mark.parametrize("positive", ["ill", None])
def test_mean_by_hand(positive):
    table = group_predictions(FIVE, "mean", positive=positive)
    assert table["id"].tolist() == table["group"].tolist() == ["p", "q"]
    assert table["label"].tolist() == ["ill", "well"]
    assert table["p_ill"].to_numpy() == pytest.approx([1.45 / 3, 0.2])
    assert table["p_well"].to_numpy() == pytest.approx([1.55 / 3, 0.8])
    assert table["manifest"].tolist() == ["digest"] * 2
    check_predictions(table, "table")


@pytest.mark.parametrize(("positive", "expected"), [("ill", [0.9, 0.3]), ("well", [0.2, 0.1])])
def test_worst_is_the_image_with_the_most_probable_positive_class(positive, expected):
    table = group_predictions(FIVE, "worst", positive=positive)
    assert table["p_ill"].tolist() == expected
    assert table["p_well"].to_numpy() == pytest.approx(1 - np.array(expected))


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_the_order_of_rows_does_not_matter(how):
    ill = np.random.default_rng(0).uniform(size=300)
    table = predictions([f"p{k % 3}" for k in range(300)], ["ill"] * 300, np.stack([ill, 1 - ill], 1))
    shuffled = group_predictions(table.sample(frac=1, random_state=5), how, positive="ill")
    pd.testing.assert_frame_equal(shuffled, group_predictions(table, how, positive="ill"), check_exact=True)


def test_a_group_of_one_image_stays_what_it_is():
    single = FIVE.assign(group=FIVE["id"])
    table = group_predictions(single, "mean")
    assert table["p_ill"].tolist() == single.sort_values("id")["p_ill"].tolist()


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_one_positive_image_makes_a_positive_group(how):
    table = predictions(["p", "p", "p"], ["well", "ill", "well"], [[0.1, 0.9]] * 3)
    assert group_predictions(table, how, positive="ill")["label"].tolist() == ["ill"]
    assert group_predictions(table, how, positive="well")["label"].tolist() == ["well"]


def test_without_a_positive_class_groups_that_disagree_are_counted_and_refused():
    table = predictions(list("ppqqr"), ["ill", "well", "well", "ill", "ill"], [[0.1, 0.9]] * 5)
    assert groups_with_several_labels(table) == ["p", "q"]
    with pytest.raises(InputError, match=r"2 of 3 patients have images of several classes, such as p.*data\.positive"):
        group_predictions(table, "mean", unit="patient")
    with pytest.raises(InputError, match="2 of 3 groups"):
        group_predictions(table, "mean")
    assert groups_with_several_labels(FIVE) == []


def test_an_image_without_a_label_leaves_its_group_without_one_unless_another_is_positive():
    table = predictions(list("ppqqrr"), ["ill", "", "well", "", "", ""], [[0.1, 0.9]] * 6)
    assert group_predictions(table, "mean", positive="ill")["label"].tolist() == ["ill", "", ""]
    assert group_predictions(table, "mean")["label"].tolist() == ["", "", ""]


def test_several_classes_have_means_and_no_worst():
    table = predictions(["p", "p"], ["b", "b"], [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], classes="abc")
    assert group_predictions(table)[["p_a", "p_b", "p_c"]].to_numpy()[0] == pytest.approx([0.3, 0.55, 0.15])
    with pytest.raises(InputError, match=r"worst needs data\.positive"):
        group_predictions(table, "worst")
    with pytest.raises(InputError, match=r"data\.positive is 'a', expected one of two classes; there are a, b, c"):
        group_predictions(table, "worst", positive="a")
    with pytest.raises(InputError, match=r"data\.positive is 'x'"):
        group_predictions(FIVE, "mean", positive="x")


def test_a_group_in_two_splits_has_two_rows():
    both = pd.concat([FIVE, FIVE.assign(split="val")], ignore_index=True)
    table = group_predictions(both, "mean")
    assert table[["group", "split"]].to_numpy().tolist() == [["p", "test"], ["p", "val"], ["q", "test"], ["q", "val"]]


def test_no_rows_give_no_rows():
    assert group_predictions(FIVE.iloc[:0], "mean").empty
    assert group_predictions(FIVE.iloc[:0], "worst", positive="ill").empty
