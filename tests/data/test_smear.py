"""The drawing of a smear: its cues, outlines and textures against formulas worked out by hand."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm

from tumorboard.data.smear import CUES, _depth, _draw_cues, _draw_grain, _inside, _soft_minimum


def test_each_cue_is_weak_and_all_together_are_strong_but_not_perfect():
    # If two classes of equal frequency are normally distributed with means d standard deviations apart, the best
    # threshold is right with probability Phi(d / 2). For independent cues the squares of d add up.
    apart = {name: abs(cue.blast - cue.normal) / cue.deviation for name, cue in CUES.items()}
    assert all(0.65 < norm.cdf(d / 2) < 0.92 for d in apart.values()), apart
    assert 0.98 < norm.cdf(sqrt(sum(d * d for d in apart.values())) / 2) < 0.999


@pytest.mark.parametrize("maturity", [0.0, 0.3])
def test_a_cue_is_drawn_around_the_mean_of_its_class_moved_by_the_patients_maturity(maturity):
    rng = np.random.default_rng(0)
    for label in ("normal", "blast"):
        drawn = [_draw_cues(label, maturity, rng) for _ in range(2000)]
        for name, cue in CUES.items():
            values = [cues[name] for cues in drawn]
            mean = (cue.blast if label == "blast" else cue.normal) + maturity * (cue.normal - cue.blast)
            assert abs(np.mean(values) - mean) < 4 * cue.deviation / sqrt(2000), name
            assert np.std(values) == pytest.approx(cue.deviation, rel=0.08), name


def test_an_outline_is_a_circle_plus_its_bumps():
    angles = np.linspace(0, 2 * np.pi, 9)
    # 10 pixels from the center; bump k multiplies the radius by 1 + |bump| cos((k + 2) angle + phase).
    plane = 10 * np.exp(1j * angles)
    depth = _depth(plane, 20.0, np.array([0.1, 0.05j]))
    expected = 20 * (1 + 0.1 * np.cos(2 * angles) + 0.05 * np.cos(3 * angles + np.pi / 2)) - 10
    np.testing.assert_allclose(depth, expected, atol=1e-9)


def test_inside_is_a_smooth_step_of_four_times_the_softness():
    np.testing.assert_allclose(_inside(np.array([-9, -2, 0, 1, 2, 9.0]), 1.0), [0, 0, 0.5, 27 / 32, 1, 1])


def test_the_soft_minimum_is_the_minimum_except_where_the_depths_are_close():
    a, b = np.array([0.0, 5, 2]), np.array([9.0, 1, 2])
    # Equal depths are lowered by a quarter of the reach.
    np.testing.assert_allclose(_soft_minimum(a, b, 2.0), [0, 1, 1.5])


def test_grain_has_unit_variance_and_clumps_of_the_given_size():
    fine, coarse = (_draw_grain(np.random.default_rng(0), (400, 400), size) for size in (2.0, 5.0))
    for grain in (fine, coarse):
        assert grain.std() == pytest.approx(1, abs=0.08)
    # White noise filtered by a Gaussian of width s has the autocorrelation exp(-d^2 / (4 s^2)) at distance d.
    for grain, size in ((fine, 2.0), (coarse, 5.0)):
        correlation = np.corrcoef(grain[:, :-4].ravel(), grain[:, 4:].ravel())[0, 1]
        assert correlation == pytest.approx(np.exp(-(4**2) / (4 * size**2)), abs=0.05)
