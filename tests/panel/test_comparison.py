import numpy as np
import pandas as pd
import pytest

from tests.panel.tables import predictions_of
from tumorboard.base.params import Evaluate
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import HEADLINE_SCORES
from tumorboard.panel.comparison import compare_votes, headline
from tumorboard.panel.members import join_members
from tumorboard.panel.votes import VOTES

SETTINGS = Evaluate(bootstrap=100, confidence=0.9)


def fold(*, right, validation):
    """Ten test images, the first `right` of which a model gets right, and one validation image."""
    ids = [*(f"t{k}" for k in range(10)), validation]
    rows = pd.DataFrame({"id": ids, "group": ids, "split": ["test"] * 10 + ["val"], "label": ["a", "b"] * 5 + ["a"]})
    of_label = np.where(np.arange(11) < right, 0.8, 0.4)
    p_a = np.where(rows["label"] == "a", of_label, 1 - of_label)
    return make_predictions(rows, np.stack([p_a, 1 - p_a], 1), ["a", "b"], "digest")


def test_test_scores_have_intervals_and_several_folds_a_spread():
    folds = {
        "one": {0: fold(right=6, validation="v0"), 1: fold(right=8, validation="v1")},
        "two": {0: fold(right=10, validation="v0"), 1: fold(right=9, validation="v1")},
    }
    compared = compare_votes(folds, SETTINGS, 0)
    tree = compared.scores
    spread = tree["folds"]["members"]["one"]
    assert spread["test"]["accuracy_mean"] == pytest.approx(0.7)
    assert spread["test"]["accuracy_sd"] == pytest.approx(0.1 * np.sqrt(2))
    # Both models give each fold's one validation image the probability 0.4, so that both are wrong.
    assert (spread["val"]["accuracy_mean"], spread["val"]["accuracy_sd"]) == (0, 0)
    assert np.isnan(spread["val"]["auc_mean"])
    # In each fold the mean of both models is right where one of them is sure: 10 and 9 of 10.
    assert tree["folds"]["votes"]["soft"]["test"]["accuracy_mean"] == pytest.approx(0.95)
    assert tree["folds"]["votes"]["soft"]["test"]["accuracy_sd"] == pytest.approx(0.05 * np.sqrt(2))
    assert tree["members"]["one"]["test"]["accuracy"] == pytest.approx(0.8), "the mean of 0.8 and 0.4 is above a half"
    assert tree["members"]["one"]["test"]["images"] == 10
    assert tree["members"]["one"]["val"]["images"] == 2
    test = compared.members["one"][compared.members["one"]["split"] == "test"]
    expected = bootstrap_intervals(test, SETTINGS, 0)
    assert {key: tree["members"]["one"]["test"][key] for key in expected} == pytest.approx(expected, nan_ok=True)
    assert set(tree["votes"]["soft"]["val"]) == {"images", *HEADLINE_SCORES}, "validation scores have no intervals"
    assert set(tree["votes"]) == set(VOTES)
    assert sum(tree["weights"].values()) == pytest.approx(1)


def test_the_tables_are_the_joined_members_and_their_votes():
    folds = {"one": {0: fold(right=6, validation="v0")}, "two": {0: fold(right=10, validation="v0")}}
    compared = compare_votes(folds, SETTINGS, 0)
    expected = join_members(folds)
    assert list(compared.members) == ["one", "two"]
    for model, table in expected.items():
        pd.testing.assert_frame_equal(compared.members[model], table)
    assert list(compared.votes) == list(VOTES)
    for name, vote in VOTES.items():
        pd.testing.assert_frame_equal(compared.votes[name], vote(expected))


def test_a_score_that_is_undefined_in_one_fold_has_no_spread():
    test = [("t1", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.2, 0.8)]
    both_classes = [("v1", "val", "a", 0.9, 0.1), ("v2", "val", "b", 0.2, 0.8)]
    folds = {"one": {0: predictions_of([*test, *both_classes]), 1: predictions_of([*test, ("v3", "val", "a", 1, 0)])}}
    spread = compare_votes(folds, SETTINGS, 0).scores["folds"]["members"]["one"]
    assert (spread["test"]["auc_mean"], spread["test"]["auc_sd"]) == (1, 0)
    assert (spread["val"]["accuracy_mean"], spread["val"]["accuracy_sd"]) == (1, 0)
    assert np.isnan([spread["val"]["auc_mean"], spread["val"]["auc_sd"]]).all()


def test_one_fold_has_no_spread():
    tree = compare_votes({"one": {3: fold(right=6, validation="v0")}}, SETTINGS, 0).scores
    assert tree["folds"] == {"votes": {}, "members": {}}
    assert headline(tree, "soft") == {"vote": "soft"} | tree["votes"]["soft"]["test"]


def test_the_headline_is_flat_and_distinguishes_test_from_validation():
    folds = {"one": {0: fold(right=6, validation="v0"), 1: fold(right=11, validation="v1")}}
    flat = headline(compare_votes(folds, SETTINGS, 0).scores, "soft")
    assert not any(isinstance(value, dict) for value in flat.values())
    assert flat["accuracy"] == 1.0, "the means of 0.8 and 0.8, and of 0.4 and 0.8, are above a half"
    assert flat["accuracy_mean"] == pytest.approx(0.8)
    assert (flat["val_accuracy_mean"], flat["val_accuracy_sd"]) == pytest.approx((0.5, 0.5 * np.sqrt(2)))
