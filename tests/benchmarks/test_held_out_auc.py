"""The AUC of held-out rows on simulated panels: nothing is lost without a fit, much with few patients."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.held_out_auc import BETWEEN, SKILL, WITHIN, held_out_auc


def means(patients: int, members: int, leaning: float) -> list[float]:
    every = [held_out_auc(patients, members=members, leaning=leaning, seed=seed) for seed in range(12)]
    return np.mean(every, axis=0).tolist()


def test_without_a_fit_the_auc_is_that_of_two_normal_distributions_whatever_the_leaning() -> None:
    expected = norm.cdf(SKILL / np.hypot(BETWEEN, WITHIN) / np.sqrt(2))
    for leaning in (0.0, 2.0):
        assert means(60, 1, leaning)[0] == pytest.approx(expected, abs=0.03)


def test_one_member_is_its_own_vote_and_few_patients_cost_more_than_many() -> None:
    (raw, soft, weighted), (many, many_soft, _) = means(3, 1, 2.0), means(60, 1, 2.0)
    assert soft == pytest.approx(weighted, abs=1e-6)
    assert soft < raw - 0.05
    assert many - 0.05 < many_soft <= many + 0.001
