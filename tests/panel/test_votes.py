"""The votes, by hand, and the weights of the weighted one, by exhaustive search and by the optimum's own condition."""

import numpy as np
import pytest

from tumorboard.base.params import NEVER_AUTOMATIC
from tumorboard.panel.votes import (
    AUTOMATIC,
    POOLS,
    PROBABILISTIC,
    STACKING,
    TEMPERED,
    VOTES,
    fit_weights,
    hard_vote,
    product_vote,
    single_vote,
    soft_vote,
    weighted_vote,
)

NONE = np.zeros(9)  # weights that only the weighted vote reads


def members(*rows_of_members):
    """The probabilities float64[M, N, K] of members, each a list of rows."""
    return np.array(rows_of_members, dtype=np.float64)


def test_parameters_know_which_votes_are_not_chosen_automatically() -> None:
    assert set(VOTES) - set(AUTOMATIC) == NEVER_AUTOMATIC


def test_soft_vote_is_the_mean():
    assert soft_vote(members([[0.5, 0.3, 0.2]], [[0.1, 0.9, 0.0]]), NONE)[0] == pytest.approx([0.3, 0.6, 0.1])


def test_product_vote_multiplies_and_normalizes():
    voted = product_vote(members([[0.5, 0.3, 0.2]], [[0.2, 0.6, 0.2]]), NONE)
    assert voted[0] == pytest.approx(np.array([0.10, 0.18, 0.04]) / 0.32)


def test_product_vote_survives_zeros_and_many_small_factors():
    assert product_vote(members([[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]), NONE)[0] == pytest.approx([0.5, 0.5, 0])
    small = members(*[[[1e-200, 2e-200, 1 - 3e-200]]] * 5)
    assert product_vote(small, NONE)[0] == pytest.approx([0, 0, 1])
    # The products, 3e-400 and 2e-400, underflow to 0 in float64; their logarithms do not.
    four = members([[1.0, 1e-200, 0.0]], [[1.0, 2e-200, 0.0]], [[1e-200, 1.0, 0.0]], [[3e-200, 1.0, 0.0]])
    assert product_vote(four, NONE)[0] == pytest.approx([0.6, 0.4, 0])


def test_single_vote_is_the_member_with_the_largest_weight_and_the_first_of_equals():
    some = members([[0.5, 0.5]], [[0.1, 0.9]], [[0.3, 0.7]])
    assert single_vote(some, np.array([0.2, 0.3, 0.5])).tolist() == [[0.3, 0.7]]
    assert single_vote(some, np.array([0.0, 0.5, 0.5])).tolist() == [[0.1, 0.9]]


def test_hard_vote_counts_decisions_and_the_mean_breaks_ties():
    three = members(
        [[0.6, 0.4, 0.0], [0.51, 0.49, 0.0]],
        [[0.1, 0.9, 0.0], [0.51, 0.49, 0.0]],
        [[0.2, 0.0, 0.8], [0.0, 1.0, 0.0]],
    )
    voted = hard_vote(three, NONE)
    assert voted[0] == pytest.approx((np.array([1, 1, 1]) + np.array([0.9, 1.3, 0.8]) / 3) / 4)
    assert voted[0].argmax() == 1
    assert soft_vote(three, NONE)[1].argmax() == 1
    assert voted[1].argmax() == 0, "two votes against one, whatever their certainty"


def test_weighted_vote_is_the_weighted_mean():
    voted = weighted_vote(members([[0.5, 0.5]], [[0.1, 0.9]], [[1.0, 0.0]]), np.array([0.5, 0.25, 0.25]))
    assert voted[0] == pytest.approx([0.525, 0.475])


@pytest.mark.parametrize("name", POOLS)
def test_one_member_decides_alone(name):
    voted = POOLS[name](members([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]]), np.ones(1))
    assert voted.argmax(1).tolist() == [1, 0]
    if name in PROBABILISTIC:
        assert voted == pytest.approx(np.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]]))


@pytest.mark.parametrize("name", POOLS)
def test_rows_are_probabilities_in_any_order_of_members_and_one_by_one(name):
    some = np.stack([random_member(np.random.default_rng(seed)) for seed in range(4)])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    voted = POOLS[name](some, weights)
    assert voted.sum(1) == pytest.approx(1, abs=1e-12)
    assert (voted >= 0).all()
    assert POOLS[name](some[::-1], weights[::-1]) == pytest.approx(voted, abs=1e-12)
    assert np.concatenate([POOLS[name](some[:, :1], weights), POOLS[name](some[:, 1:], weights)]) == pytest.approx(
        voted, abs=1e-15
    )


@pytest.mark.parametrize("name", POOLS)
def test_no_images_have_no_votes(name):
    assert POOLS[name](np.empty((3, 0, 2)), np.full(3, 1 / 3)).shape == (0, 2)


def test_all_votes_but_that_of_shares_are_probabilities():
    assert set(PROBABILISTIC) == set(VOTES) - {"hard"}
    assert set(VOTES) == {*POOLS, STACKING}
    assert set(TEMPERED) == set(PROBABILISTIC) - {"single", STACKING}, "these two are calibrated as they are"


def random_member(generator, n=150, sharpness=1.0):
    """Probabilities float64[n, 3]; the first class is the label of all rows."""
    odds = generator.normal(size=(n, 3))
    odds[:, 0] += sharpness
    return np.exp(odds) / np.exp(odds).sum(1, keepdims=True)


def test_weights_are_the_best_by_exhaustive_search():
    generator = np.random.default_rng(0)
    some = np.stack([random_member(generator, sharpness=sharpness) for sharpness in (0.5, 1.5, -2.0)])
    weights = fit_weights(some, np.zeros(150, np.int64))
    of_label = some[:, :, 0]
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401)), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1]
    grid = np.column_stack([grid, 1 - grid.sum(1)])
    losses = -np.log(np.maximum(grid @ of_label, 1e-12)).mean(1)
    assert weights.tolist() == pytest.approx(grid[losses.argmin()], abs=0.005)
    assert -np.log(weights @ of_label).mean() <= losses.min() + 1e-9
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_weights_among_members_that_are_sure_and_wrong_leave_nothing_to_gain():
    """At the optimum of a pool no member's mean ratio to the pool exceeds 1."""
    generator = np.random.default_rng(14)
    actual = generator.integers(0, 3, 250)
    some = []
    for _ in range(6):
        odds = generator.normal(size=(250, 3)) * 60
        odds[np.arange(250), actual] += 120 * (generator.random(250) < generator.uniform(0.3, 0.95))
        p = np.exp(odds - odds.max(1, keepdims=True))
        some.append(p / p.sum(1, keepdims=True))
    weights = fit_weights(np.stack(some), actual)
    of_label = np.maximum(np.stack(some)[:, np.arange(250), actual], np.finfo(float).eps)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (of_label / (weights @ of_label)).mean(1).max() < 1.00011


def test_the_member_that_is_right_has_all_the_weight():
    good, bad = [[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.7, 0.3]]
    assert fit_weights(members(good, bad), np.array([0, 1])).tolist() == pytest.approx([1, 0], abs=1e-6)
    assert fit_weights(members(good, bad), np.array([1, 0])).tolist() == pytest.approx([0, 1], abs=1e-6)


def test_weights_of_equal_members_are_equal_and_certain_mistakes_do_not_break_the_fit():
    same = [[0.0, 1.0], [0.3, 0.7]]
    assert fit_weights(members(same, same), np.array([0, 1])).tolist() == pytest.approx([0.5, 0.5])
    # No weights can help where all members give the label the probability 0; the other row decides alone.
    sure, unsure = [[0.0, 1.0], [0.1, 0.9]], [[0.0, 1.0], [0.8, 0.2]]
    assert fit_weights(members(unsure, sure), np.array([0, 1])).tolist() == pytest.approx([0, 1], abs=1e-3)


def test_without_rows_all_weights_are_equal():
    assert fit_weights(np.empty((4, 0, 2)), np.empty(0, np.int64)).tolist() == [0.25] * 4
