"""The difference of two AUCs: MOVER with DeLong's variances, by hand and beside other formulas."""

import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, logit

from tumorboard.evaluation.auc_difference import auc_difference
from tumorboard.evaluation.clustered import Rows


def table(actual, group, score):
    p = expit(np.asarray(score, dtype=np.float64))
    return Rows(np.asarray(actual), np.stack([1 - p, p], 1), np.asarray(group), int(np.max(group)) + 1)


def simulated(patients, *, seed=0, gains=(1.5, 0.8), by_patient=False, images=6):
    """Two models of the same images; each patient shifts each model's scores."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), images)
    actual = (group % 2 if by_patient else np.arange(len(group)) % 2).astype(np.int64)
    effects = generator.normal(0, 0.5, (2, patients))[:, group]
    scores = [
        gain * (2 * actual - 1) + effect + generator.normal(size=len(group))
        for gain, effect in zip(gains, effects, strict=True)
    ]
    return [table(actual, group, score) for score in scores]


def placements(rows):
    odds = logit(rows.probabilities[:, 1])
    positive = rows.actual == 1
    right = (odds[:, None] > odds[None]) + 0.5 * (odds[:, None] == odds[None])
    return positive, np.where(positive, right[:, ~positive].mean(1), right[positive].mean(0))


def test_independent_images_give_the_combination_of_delongs_intervals():
    """MOVER of two logit-t intervals, all computed again from DeLong's placements; degrees of freedom of Welch."""
    generator = np.random.default_rng(1)
    actual = np.repeat([0, 1], [60, 40])
    shared = generator.normal(size=100)
    first, second = (
        table(actual, np.arange(100), gain * actual + shared + generator.normal(size=100)) for gain in (1.8, 1)
    )
    aucs, errors, reaches, sides = [], [], [], []
    for rows in (first, second):
        positive, place = placements(rows)
        auc = place[positive].mean()
        variances = np.array([place[side].var(ddof=1) / side.sum() for side in (positive, ~positive)])
        simple = sum(np.square(place[side] - auc).sum() / side.sum() ** 2 for side in (positive, ~positive))
        error = math.sqrt(variances.sum())
        degrees = variances.sum() ** 2 / (variances**2 / np.array([39, 59])).sum()
        half = scipy.stats.t.ppf(0.975, degrees) * error
        low, high = (expit(logit(auc) + sign * half / (auc * (1 - auc))) for sign in (-1, 1))
        lowered = auc - 0.5 / 40 * error**2 / simple
        low = min(low, expit(logit(lowered) - half / (lowered * (1 - lowered))))
        aucs.append(auc)
        errors.append(error)
        reaches.append((auc - low, high - auc))
        sides.append((place[positive], place[~positive]))
    covariance = sum(np.cov(one, other)[0, 1] / len(one) for one, other in zip(*sides, strict=True))
    r = covariance / (errors[0] * errors[1])

    def combined(x, y):
        return math.sqrt(x**2 - 2 * r * x * y + y**2)

    result = auc_difference(first, second, 0.95)
    difference = aucs[0] - aucs[1]
    assert result.difference == pytest.approx(difference)
    assert result.low == pytest.approx(difference - combined(reaches[0][0], reaches[1][1]))
    assert result.high == pytest.approx(difference + combined(reaches[0][1], reaches[1][0]))


def test_many_independent_images_give_delongs_p():
    ps = []
    for seed in range(20):
        first, second = simulated(600, images=1, gains=(0.75, 0.62), seed=seed)
        positive, _ = placements(first)
        sides = [(place[positive], place[~positive]) for _, place in map(placements, (first, second))]
        variance = sum(np.var(one - other, ddof=1) / len(one) for one, other in zip(*sides, strict=True))
        z = (sides[0][0].mean() - sides[1][0].mean()) / math.sqrt(variance)
        ps.append((auc_difference(first, second, 0.95).p, 2 * scipy.stats.norm.sf(abs(z))))
        assert ps[-1][0] == pytest.approx(ps[-1][1], abs=0.01 + 0.1 * ps[-1][1])
    assert np.corrcoef(np.transpose(ps))[0, 1] > 0.99


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("by_patient", [False, True])
def test_the_interval_excludes_0_if_and_only_if_p_says_so(confidence, by_patient):
    outcomes = []
    for seed in range(40):
        result = auc_difference(*simulated(12, seed=seed, by_patient=by_patient), confidence)
        outcomes.append(result.p < 1 - confidence)
        assert outcomes[-1] == (result.low > 0 or result.high < 0)
    assert 0 < sum(outcomes) < 40


def test_p_is_the_level_whose_interval_ends_at_0():
    first, second = simulated(15)
    result = auc_difference(first, second, 0.95)
    assert auc_difference(first, second, 1 - result.p).low == pytest.approx(0, abs=1e-6)
    assert result.low != pytest.approx(0, abs=0.01)
    other = auc_difference(second, first, 0.95)
    assert (other.low, other.high, other.p) == pytest.approx((-result.high, -result.low, result.p))


def test_copies_of_images_within_a_patient_are_no_evidence():
    rows = simulated(15)
    copies = [Rows(*(np.repeat(part, 9, axis=0) for part in one[:3]), one.groups) for one in rows]
    assert auc_difference(*copies, 0.95) == pytest.approx(auc_difference(*rows, 0.95))


def test_two_perfect_models_are_not_proven_equal():
    """Both rank all images rightly, with other scores: 1 - .05^(1/10) is what ten patients leave open."""
    actual, group = np.tile([0, 1], 20), np.repeat(np.arange(10), 4)
    first, second = (table(actual, group, score) for score in (4.0 * actual, 4.0 * actual + np.arange(40) / 40))
    reach = 1 - 0.05 ** (1 / 10)
    assert auc_difference(first, second, 0.95) == pytest.approx((0, -reach, reach, 1))


def test_one_misranked_image_is_within_noise_of_perfect():
    actual, group = np.tile([0, 1], 60), np.repeat(np.arange(12), 10)
    score = 4.0 * actual
    first, second = table(actual, group, score), table(actual, group, np.where(np.arange(120) == 1, -1, score))
    result = auc_difference(first, second, 0.95)
    assert result.difference == pytest.approx(1 / 60)
    assert result.low < 0 < result.high
    assert result.p > 0.05


def test_a_constant_model_has_an_auc_of_a_half_and_no_spread():
    better, _ = simulated(20, gains=(2.0, 0.5))
    constant = better._replace(probabilities=np.full((120, 2), 0.5))
    result = auc_difference(better, constant, 0.95)
    assert result.low > 0.1
    assert auc_difference(constant, constant, 0.95) == (0, 0, 0, 1)


def test_an_absent_class_leaves_nothing():
    first, second = simulated(10)
    result = auc_difference(first._replace(actual=np.zeros(60, int)), second._replace(actual=np.zeros(60, int)), 0.95)
    assert all(math.isnan(value) for value in result)


def test_three_classes_are_the_mean_of_each_against_the_rest():
    """With one class far easier than the others the difference is a third of each class's, added up."""
    generator = np.random.default_rng(0)
    actual, group = np.arange(180) % 3, np.arange(180) // 9
    odds = [np.exp(generator.normal(size=(180, 3)) + gain * np.eye(3)[actual]) for gain in (2.0, 1.0)]
    first, second = (Rows(actual, one / one.sum(1, keepdims=True), group, 20) for one in odds)
    single = []
    for k in range(3):
        sides = []
        for rows in (first, second):
            p = rows.probabilities[:, k]
            sides.append(Rows((actual == k).astype(int), np.stack([1 - p, p], 1), group, 20))
        single.append(auc_difference(*sides, 0.95))
    result = auc_difference(first, second, 0.95)
    assert result.difference == pytest.approx(np.mean([one.difference for one in single]))
    assert result.high - result.low < max(one.high - one.low for one in single)


def test_misses_are_as_rare_as_claimed():
    """15 patients with an effect of their own, labels by image; the true difference is 0, as both models are alike."""
    misses = [auc_difference(*simulated(15, seed=seed, gains=(1, 1)), 0.9).p < 0.1 for seed in range(150)]
    assert 0.02 < np.mean(misses) < 0.17
