"""Agreement of members: kappa against scikit-learn and by hand, where it is undefined, images that split a panel."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from tumorboard.base.tables import Predictions
from tumorboard.evaluation.disagreement import find_splits, pairwise_agreement, share_unanimous


def table(probabilities, labels=None) -> Predictions:
    probabilities = np.asarray(probabilities, dtype=float)
    frame = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in "abc"[: probabilities.shape[1]]])
    frame.insert(0, "id", [f"i{row}" for row in range(len(frame))])
    frame.insert(1, "label", labels if labels is not None else "a")
    return frame


def decisions(text, classes="abc", sure=0.8):
    """Predictions whose decisions are the letters of a text."""
    rest = (1 - sure) / (len(classes) - 1)
    return table([[sure if name == letter else rest for name in classes] for letter in text])


@pytest.mark.parametrize("classes", [2, 3])
def test_kappa_is_that_of_scikit_learn(classes):
    generator = np.random.default_rng(classes)
    members = {name: table(generator.dirichlet([1] * classes, 70)) for name in ("x", "y", "z")}
    rows = pairwise_agreement(members)
    assert rows[["first", "second"]].to_numpy().tolist() == [["x", "y"], ["x", "z"], ["y", "z"]]
    for row in rows.itertuples():
        one, two = (members[name].filter(like="p_").to_numpy().argmax(1) for name in (row.first, row.second))
        assert row.kappa == pytest.approx(cohen_kappa_score(one, two), abs=1e-12)
        assert row.agreement == (one == two).mean()


def test_kappa_by_hand():
    """Eight of ten are the same; by chance 0.5 · 0.7 + 0.5 · 0.3 = 0.5."""
    row = pairwise_agreement({"x": decisions("aaaaabbbbb"), "y": decisions("aaaaaaabbb")}).iloc[0]
    assert (row["agreement"], row["kappa"]) == (0.8, pytest.approx(0.6))
    opposite = pairwise_agreement({"x": decisions("ab"), "y": decisions("ba")}).iloc[0]
    assert (opposite["agreement"], opposite["kappa"]) == (0.0, -1.0)


def test_kappa_is_undefined_where_both_always_decide_for_the_same_class_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = pairwise_agreement({"x": decisions("aaa"), "y": decisions("aaa"), "z": decisions("bbb")})
        mixed = pairwise_agreement({"x": decisions("aaa"), "y": decisions("aab")})
    assert np.isnan(rows["kappa"][0])
    assert rows["agreement"].tolist() == [1, 0, 0]
    assert rows["kappa"][1:].tolist() == [0, 0], "never the same, as chance would have it"
    assert mixed["kappa"].tolist() == [0]
    assert pairwise_agreement({"x": decisions("ab")}).empty


def test_images_that_split_the_panel_most_come_first():
    members = {
        "one": decisions("aaaac"),
        "two": decisions("aabac"),
        "three": decisions("abcac"),
        "four": decisions("abbbc", sure=0.9),
    }
    splits = find_splits(members)
    # i2: a, b, c, b (2, 1, 1); i1: two against two; i3: three against one; i0 and i4: all agree
    assert splits["id"].tolist() == ["i2", "i1", "i3"]
    assert splits["rank"].tolist() == [1, 2, 3]
    assert splits["entropy"].tolist() == pytest.approx(
        [1.5 * np.log(2), np.log(2), -0.75 * np.log(0.75) - 0.25 * np.log(0.25)]
    )
    assert splits.loc[0, [f"decided {name}" for name in members]].tolist() == ["a", "b", "c", "b"]
    assert splits.loc[2, "probability four"] == pytest.approx(0.9)
    assert share_unanimous(members) == 0.4


def test_equal_divisions_are_sorted_by_the_distance_of_the_probabilities_then_by_id():
    one = table([[0.6, 0.4], [0.6, 0.4], [0.99, 0.01], [0.6, 0.4]], labels=list("abab"))
    two = table([[0.4, 0.6], [0.4, 0.6], [0.01, 0.99], [0.4, 0.6]], labels=list("abab"))
    splits = find_splits({"one": one, "two": two})
    assert splits["id"].tolist() == ["i2", "i0", "i1", "i3"]
    assert splits["label"].tolist() == ["a", "a", "b", "b"]
    swapped = find_splits({"two": two, "one": one})
    assert swapped["id"].tolist() == splits["id"].tolist()


def test_a_panel_that_agrees_splits_on_nothing():
    same = {"one": decisions("abc"), "two": decisions("abc", sure=0.7)}
    assert find_splits(same).empty
    assert share_unanimous(same) == 1
    assert find_splits({"one": decisions("abc")}).empty
    sure = {"one": table([[1.0, 0.0]]), "two": table([[0.0, 1.0]])}
    assert np.isfinite(find_splits(sure)["entropy"]).all()
