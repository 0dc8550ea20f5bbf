import numpy as np
import pytest

from tests.panel.tables import predictions_of
from tumorboard.base.errors import InputError
from tumorboard.base.tables import check_predictions, probabilities_of
from tumorboard.panel.votes import VOTES, fit_weights, hard_vote, product_vote, soft_vote, vote_by_fold, weighted_vote


def member(*test_rows, classes=("a", "b", "c")):
    """Returns a model's joined Predictions: test rows t0, t1 ... of class a, then one validation row."""
    rows = [(f"t{k}", "test", "a", *probabilities) for k, probabilities in enumerate(test_rows)]
    certain = [1.0] + [0.0] * (len(classes) - 1)
    return predictions_of([*rows, ("v", "val", "a", *certain)], classes=classes)


def row_of(predictions, row=0):
    return probabilities_of(predictions)[row]


def test_soft_vote_is_the_mean():
    members = {"x": member([0.5, 0.3, 0.2]), "y": member([0.1, 0.9, 0.0])}
    assert row_of(soft_vote(members)) == pytest.approx([0.3, 0.6, 0.1])


def test_product_vote_multiplies_and_normalizes():
    members = {"x": member([0.5, 0.3, 0.2]), "y": member([0.2, 0.6, 0.2])}
    assert row_of(product_vote(members)) == pytest.approx(np.array([0.10, 0.18, 0.04]) / 0.32)


def test_product_vote_survives_zeros_and_many_small_factors():
    members = {"x": member([1.0, 0.0, 0.0]), "y": member([0.0, 1.0, 0.0])}
    assert row_of(product_vote(members)) == pytest.approx([0.5, 0.5, 0])
    members = {f"m{k}": member([1e-200, 2e-200, 1 - 3e-200]) for k in range(5)}
    assert row_of(product_vote(members)) == pytest.approx([0, 0, 1])
    # The products, 3e-400 and 2e-400, underflow to 0 in float64; their logarithms do not.
    members = {"w": member([1.0, 1e-200, 0.0]), "x": member([1.0, 2e-200, 0.0])}
    members |= {"y": member([1e-200, 1.0, 0.0]), "z": member([3e-200, 1.0, 0.0])}
    assert row_of(product_vote(members)) == pytest.approx([0.6, 0.4, 0])


def test_hard_vote_counts_decisions_and_the_mean_breaks_ties():
    members = {"x": member([0.6, 0.4, 0.0], [0.51, 0.49, 0.0]), "y": member([0.1, 0.9, 0.0], [0.51, 0.49, 0.0])}
    members["z"] = member([0.2, 0.0, 0.8], [0.0, 1.0, 0.0])
    voted = hard_vote(members)
    assert row_of(voted, 0) == pytest.approx((np.array([1, 1, 1]) + np.array([0.9, 1.3, 0.8]) / 3) / 4)
    assert row_of(voted, 0).argmax() == 1
    assert row_of(soft_vote(members), 1).argmax() == 1
    assert row_of(voted, 1).argmax() == 0, "two votes against one, whatever their certainty"


@pytest.mark.parametrize("name", VOTES)
def test_one_member_decides_alone_and_votes_are_predictions(name):
    alone = {"x": member([0.2, 0.5, 0.3], [0.7, 0.2, 0.1])}
    voted = VOTES[name](alone)
    assert probabilities_of(voted).argmax(1).tolist() == [1, 0, 0]
    check_predictions(voted, name)
    assert voted["manifest"].unique().tolist() == ["digest"]
    assert voted["id"].tolist() == ["t0", "t1", "v"]


@pytest.mark.parametrize("name", VOTES)
def test_votes_do_not_depend_on_the_order_of_members(name):
    random = np.random.default_rng(4)
    members = {f"m{k}": random_member(random) for k in range(4)}
    turned = dict(reversed(members.items()))
    assert probabilities_of(VOTES[name](members)) == pytest.approx(probabilities_of(VOTES[name](turned)), abs=1e-4)


def test_the_models_of_a_fold_vote_alone():
    def fold(p, validation):
        return predictions_of([("t", "test", "a", p, 1 - p), (validation, "val", "a", p, 1 - p)])

    folds = {"x": {1: fold(0.9, "v1"), 5: fold(0.2, "v5")}, "y": {1: fold(0.7, "v1"), 5: fold(0.4, "v5")}}
    voted = vote_by_fold(folds)
    assert list(voted) == list(VOTES)
    assert {number: table["id"].tolist() for number, table in voted["soft"].items()} == {1: ["t", "v1"], 5: ["t", "v5"]}
    assert voted["soft"][1]["p_a"].tolist() == pytest.approx([0.8, 0.8])
    assert voted["soft"][5]["p_a"].tolist() == pytest.approx([0.3, 0.3])


def random_member(generator, n=150, sharpness=1.0):
    odds = generator.normal(size=(n, 3))
    odds[:, 0] += sharpness
    p = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    return predictions_of([(f"v{k}", "val", "a", *row) for k, row in enumerate(p)], classes=("a", "b", "c"))


def test_weights_are_the_best_on_validation_by_exhaustive_search():
    generator = np.random.default_rng(0)
    members = {"weak": random_member(generator, sharpness=0.5), "good": random_member(generator, sharpness=1.5)}
    members["bad"] = random_member(generator, sharpness=-2.0)
    weights = fit_weights(members)
    of_label = np.stack([members[name]["p_a"] for name in members])
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401)), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1]
    grid = np.column_stack([grid, 1 - grid.sum(1)])
    losses = -np.log(np.maximum(grid @ of_label, 1e-12)).mean(1)
    assert list(weights.values()) == pytest.approx(grid[losses.argmin()], abs=0.005)
    assert -np.log(np.array(list(weights.values())) @ of_label).mean() <= losses.min() + 1e-9
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    expected = np.tensordot(list(weights.values()), [probabilities_of(m) for m in members.values()], 1)
    assert probabilities_of(weighted_vote(members)) == pytest.approx(expected)


def test_weights_among_members_that_are_sure_and_wrong_leave_nothing_to_gain():
    """At the optimum of a pool no member's mean ratio to the pool exceeds 1."""
    generator = np.random.default_rng(14)
    actual = generator.integers(0, 3, 250)
    members = {}
    for name in "abcdef":
        odds = generator.normal(size=(250, 3)) * 60
        odds[np.arange(250), actual] += 120 * (generator.random(250) < generator.uniform(0.3, 0.95))
        p = np.exp(odds - odds.max(1, keepdims=True))
        rows = [(f"v{k}", "val", "xyz"[actual[k]], *row) for k, row in enumerate(p / p.sum(1, keepdims=True))]
        members[name] = predictions_of(rows, classes=("x", "y", "z"))
    weights = np.array(list(fit_weights(members).values()))
    of_label = np.stack([probabilities_of(member)[np.arange(250), actual] for member in members.values()])
    of_label = np.maximum(of_label, np.finfo(float).eps)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (of_label / (weights @ of_label)).mean(1).max() < 1.00011


def test_weights_see_no_test_row():
    good, bad = ("v", "val", "a", 0.9, 0.1), ("v", "val", "a", 0.2, 0.8)
    members = {
        "right on validation": predictions_of([good, ("t", "test", "b", 1.0, 0.0)]),
        "right on test": predictions_of([bad, ("t", "test", "b", 0.0, 1.0)]),
    }
    assert list(fit_weights(members).values()) == pytest.approx([1, 0], abs=1e-6)


def test_weights_of_equal_members_are_equal_and_certain_mistakes_do_not_break_the_fit():
    same = predictions_of([("v", "val", "a", 0.0, 1.0), ("w", "val", "b", 0.3, 0.7)])
    assert list(fit_weights({"x": same, "y": same}).values()) == pytest.approx([0.5, 0.5])
    # No weights can help where all members give the label the probability 0; the other row decides alone.
    sure = predictions_of([("v", "val", "a", 0.0, 1.0), ("w", "val", "b", 0.1, 0.9)])
    unsure = predictions_of([("v", "val", "a", 0.0, 1.0), ("w", "val", "b", 0.8, 0.2)])
    assert list(fit_weights({"x": unsure, "y": sure}).values()) == pytest.approx([0, 1], abs=1e-3)


def test_weights_need_labeled_validation_rows():
    with pytest.raises(InputError, match="no rows"):
        fit_weights({"x": predictions_of([("t", "test", "a", 0.5, 0.5)])})
    with pytest.raises(InputError, match="id 'v' has no label"):
        fit_weights({"x": predictions_of([("v", "val", "", 0.5, 0.5)])})
