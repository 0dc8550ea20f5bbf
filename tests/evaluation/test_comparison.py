import numpy as np
import pandas as pd
import pytest

from tumorboard.evaluation.comparison import compare, headline
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.vote import VOTES, join_members, vote_by_fold
from tumorboard.params import Evaluate
from tumorboard.tables import make_predictions

SETTINGS = Evaluate(bootstrap=100, confidence=0.9)


def fold(*, right, validation):
    """Ten test images, of which a model gets the first `right` right, and one validation image."""
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
    members = join_members(folds)
    votes = {name: vote(members) for name, vote in VOTES.items()}
    found = compare(folds, vote_by_fold(folds), members, votes, SETTINGS, 0)
    spread = found["folds"]["members"]["one"]
    assert spread["test"]["accuracy_mean"] == pytest.approx(0.7)
    assert spread["test"]["accuracy_sd"] == pytest.approx(0.1 * np.sqrt(2))
    # Each fold's one validation image gets 0.4 of probability from the first model, 0.4 from the second: both wrong.
    assert (spread["val"]["accuracy_mean"], spread["val"]["accuracy_sd"]) == (0, 0)
    assert np.isnan(spread["val"]["auc_mean"])
    # By fold the mean of both models is right where one of them is sure: 10 and 9 of 10.
    assert found["folds"]["votes"]["soft"]["test"]["accuracy_mean"] == pytest.approx(0.95)
    assert found["folds"]["votes"]["soft"]["test"]["accuracy_sd"] == pytest.approx(0.05 * np.sqrt(2))
    assert found["members"]["one"]["test"]["accuracy"] == pytest.approx(0.8), "of the mean of 0.8 and 0.4, above a half"
    assert found["members"]["one"]["test"]["images"] == 10
    assert found["members"]["one"]["val"]["images"] == 2
    test = members["one"][members["one"]["split"] == "test"]
    expected = bootstrap_intervals(test, SETTINGS, 0)
    assert {key: found["members"]["one"]["test"][key] for key in expected} == pytest.approx(expected, nan_ok=True)
    assert "accuracy_low" not in found["votes"]["soft"]["val"]
    assert set(found["votes"]) == set(VOTES)
    assert sum(found["weights"].values()) == pytest.approx(1)


def test_one_fold_has_no_spread():
    folds = {"one": {3: fold(right=6, validation="v0")}}
    members = join_members(folds)
    votes = {"soft": VOTES["soft"](members)}
    found = compare(folds, vote_by_fold(folds), members, votes, SETTINGS, 0)
    assert found["folds"] == {"votes": {}, "members": {}}
    assert headline(found, "soft") == {"vote": "soft"} | found["votes"]["soft"]["test"]


def test_the_headline_is_flat_and_tells_test_from_validation():
    folds = {"one": {0: fold(right=6, validation="v0"), 1: fold(right=11, validation="v1")}}
    members = join_members(folds)
    found = compare(folds, vote_by_fold(folds), members, {"soft": VOTES["soft"](members)}, SETTINGS, 0)
    flat = headline(found, "soft")
    assert not any(isinstance(value, dict) for value in flat.values())
    assert flat["accuracy"] == 1.0, "of the mean of 0.8 and 0.8 or 0.4"
    assert flat["accuracy_mean"] == pytest.approx(0.8)
    assert (flat["val_accuracy_mean"], flat["val_accuracy_sd"]) == pytest.approx((0.5, 0.5 * np.sqrt(2)))
