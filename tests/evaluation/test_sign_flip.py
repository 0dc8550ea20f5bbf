import itertools
import math

import numpy as np
import pytest
import scipy.stats

from tumorboard.evaluation import sign_flip
from tumorboard.evaluation.sign_flip import flip_signs

SETTINGS = {"confidence": 0.95, "seed": 0, "permutations": 9999}


def names(count):
    return [f"P{k:03}" for k in range(count)]


def gains(count, seed=0, mean=0.3):
    return np.random.default_rng(seed).normal(mean, 1, count) / count


def test_exact_p_is_that_of_scipy():
    values = gains(10)
    expected = scipy.stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert flip_signs(values, np.full(10, 0.1), names(10), **SETTINGS).p == pytest.approx(expected.pvalue)


def test_drawn_p_and_interval_are_close_to_the_exact_ones():
    values = gains(13, mean=0.7)
    exact = flip_signs(values, np.full(13, 1 / 13), names(13), **SETTINGS)
    drawn = flip_signs(values, np.full(13, 1 / 13), names(13), **SETTINGS | {"permutations": 4000})
    assert drawn.p != exact.p
    assert drawn.p == pytest.approx(exact.p, abs=0.01)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.1 * (exact.high - exact.low))


def test_equal_sums_count_half():
    """Ten gains of one unit and nine losses: p of the sign test, with half of the probability of the observed count."""
    values = np.array([1.0] * 8 + [-1.0] * 4) / 12
    both_tails = 2 * scipy.stats.binom.cdf(3, 12, 0.5) + scipy.stats.binom.pmf(4, 12, 0.5)
    observed = 2**-12  # the observed signs themselves count whole
    assert flip_signs(values, np.full(12, 1 / 12), names(12), **SETTINGS).p == pytest.approx(both_tails + observed)


@pytest.mark.parametrize("weights", [np.full(9, 1 / 9), np.arange(1, 10) / 45])
def test_the_interval_has_the_differences_that_the_test_does_not_reject(weights):
    values = gains(9, seed=3)
    flipped = flip_signs(values, weights, names(9), **SETTINGS)

    def p_of(difference):
        rest = values - difference * weights
        sums = [abs(np.dot(signs, rest)) for signs in itertools.product([1, -1], repeat=9)]
        return np.mean(np.array(sums) >= abs(rest.sum()) - 1e-12)

    width = flipped.high - flipped.low
    for end, outward in ((flipped.low, -1), (flipped.high, 1)):
        assert p_of(end + outward * 1e-6 * width) < 0.05
        assert p_of(end - outward * 1e-6 * width) >= 0.05
    assert flipped.low < flipped.difference < flipped.high


@pytest.mark.parametrize("seed", range(30))
def test_p_and_interval_agree_on_0(seed):
    values = gains(12, seed=seed, mean=0.6)
    flipped = flip_signs(values, np.full(12, 1 / 12), names(12), **SETTINGS)
    assert (flipped.p < 0.05) == (not flipped.low <= 0 <= flipped.high)


@pytest.mark.parametrize(("count", "confidence", "enough"), [(5, 0.95, False), (6, 0.95, True), (4, 0.8, True)])
def test_too_few_groups_have_neither_p_nor_interval(count, confidence, enough):
    values = np.full(count, 1 / count)
    flipped = flip_signs(values, values, names(count), **SETTINGS | {"confidence": confidence})
    assert flipped.groups == count
    assert flipped.difference == pytest.approx(1)
    assert [not math.isnan(x) for x in (flipped.p, flipped.low, flipped.high)] == [enough] * 3


def test_groups_without_weight_do_not_count():
    values, weights = gains(8), np.full(8, 1 / 8)
    padded = flip_signs(np.append(values, [0] * 20), np.append(weights, [0] * 20), names(28), **SETTINGS)
    assert padded == flip_signs(values, weights, names(8), **SETTINGS)
    assert padded.groups == 8


def test_order_and_seed():
    values, weights = gains(30), np.full(30, 1 / 30)
    first = flip_signs(values, weights, names(30), **SETTINGS)
    turned = flip_signs(values[::-1], weights, names(30)[::-1], **SETTINGS)
    assert turned[1:4] == pytest.approx(first[1:4])
    assert flip_signs(values, weights, names(30), **SETTINGS | {"seed": 1}).p != first.p


def test_chunks_do_not_repeat_draws(monkeypatch):
    values, weights = gains(30), np.full(30, 1 / 30)
    whole = flip_signs(values, weights, names(30), **SETTINGS)
    monkeypatch.setattr(sign_flip, "CHUNK_CELLS", 30 * 100)
    sign_flip._drawn_flips.cache_clear()
    flips = np.concatenate(sign_flip._drawn_flips(tuple(range(30)), 0, 1000))
    assert flips.shape == (1000, 30)
    assert len(np.unique(flips, axis=0)) == 1000
    sign_flip._drawn_flips.cache_clear()
    assert flip_signs(values, weights, names(30), **SETTINGS).p == pytest.approx(whole.p, abs=0.02)


def test_kept_flips_are_those_of_the_same_groups_and_seed():
    cases = [(30, 0), (31, 0), (30, 1), (30, 0)]
    fresh = []
    for count, seed in cases:
        sign_flip._drawn_flips.cache_clear()
        fresh.append(flip_signs(gains(count), np.full(count, 1 / count), names(count), **SETTINGS | {"seed": seed}))
    for _ in range(2):
        for (count, seed), expected in zip(cases, fresh, strict=True):
            options = SETTINGS | {"seed": seed}
            assert flip_signs(gains(count), np.full(count, 1 / count), names(count), **options) == expected


def test_many_groups_are_flipped_in_sets_and_agree_with_the_normal_distribution():
    values = gains(20_000, mean=0.015)
    flipped = flip_signs(values, np.full(20_000, 1 / 20_000), names(20_000), **SETTINGS)
    error = math.sqrt(np.square(values - values.mean()).sum())
    assert flipped.groups == 20_000
    assert flipped.p == pytest.approx(2 * scipy.stats.norm.sf(abs(values.sum()) / error), abs=0.02)
    assert flipped.high - flipped.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_where_no_group_differs_the_interval_is_what_may_have_gone_unseen():
    flipped = flip_signs(np.zeros(20), np.full(20, 1 / 20), names(20), **SETTINGS)
    limit = 1 - 0.025 ** (1 / 20)  # Clopper and Pearson's for 0 of 20
    assert flipped.p == 1
    assert (flipped.low, flipped.high) == pytest.approx((-limit, limit))


def test_one_group_that_differs_does_not_exclude_the_other_direction():
    values = np.zeros(20)
    values[3] = 0.1 / 20  # a tenth of its images
    flipped = flip_signs(values, np.full(20, 1 / 20), names(20), **SETTINGS)
    none, one = (scipy.stats.beta.ppf(0.975, seen + 1, 20 - seen) for seen in (0, 1))
    assert (flipped.low, flipped.high) == pytest.approx((-0.1 * none, 0.1 * one))
