"""The difference between two models' AUCs on the same images, by DeLong's method with clusters: interval and test.

Each model's AUC has the interval of `intervals`, which follows the skew near 1, and the two are combined into the
interval of the difference by their correlation between groups. The test is the inverse of this interval: its p is the
least share of false alarms at which the interval does not contain 0, so that test and interval always agree.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.clustered import Estimate, Rows, estimate_auc
from tumorboard.evaluation.intervals import ROUNDING, one_sided, t_limits

LEAST_P = 1e-9  # the smallest p that is returned
STEPS = 40  # halvings of the range of log p


class AucDifference(NamedTuple):
    """What `auc_difference` returns; nan where an AUC is undefined."""

    difference: float  # the first AUC minus the second
    low: float  # lower end of the interval
    high: float  # upper end of the interval
    p: float  # two-sided p-value


def auc_difference(first: Rows, second: Rows, confidence: float) -> AucDifference:
    """Estimates the difference of two AUCs (with several classes, of two macro means) with its interval and p.

    Args:
        first: the first model's predictions.
        second: the second model's predictions for the same images in the same order.
        confidence: confidence level of the interval.

    Source:
        Zou and Donner 2008 (MOVER) for the interval of a difference from two correlated intervals; Obuchowski 1997 and
        DeLong, DeLong and Clarke-Pearson 1988 for variances and covariance. docs/comparing.md has the error rates.

    >>> actual, group = np.tile([0, 0, 1, 1], 12), np.repeat(np.arange(12), 4)
    >>> generator = np.random.default_rng(0)
    >>> ill = [np.clip(0.4 + gain * actual + generator.normal(0, 0.15, 48), 0.01, 0.99) for gain in (0.4, 0.1)]
    >>> better, worse = (Rows(actual, np.stack([1 - p, p], 1), group, 12) for p in ill)
    >>> result = auc_difference(better, worse, 0.95)
    >>> [round(number, 2) for number in result[:3]], result.p < 0.05
    ([0.26, 0.11, 0.5], True)
    """
    (one, of_first), (other, of_second) = estimate_auc(first), estimate_auc(second)
    difference = one.value - other.value
    if math.isnan(difference):
        return AucDifference(difference, math.nan, math.nan, math.nan)
    correlation = _correlation(of_first, of_second)
    low, high = _limits(one, other, correlation, confidence)
    if abs(difference) <= ROUNDING:
        return AucDifference(difference, low, high, 1.0)

    def excludes_0(p: float) -> bool:
        ends = _limits(one, other, correlation, 1 - p)
        return ends[0] > 0 or ends[1] < 0

    return AucDifference(difference, low, high, _least_p(excludes_0, 1 - confidence))


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Returns the correlation of two AUCs from what the groups add to their variances; 0 where one of them is 0."""
    variances = np.square(first).sum() * np.square(second).sum()
    return float((first * second).sum() / np.sqrt(variances)) if variances > 0 else 0.0


def _limits(one: Estimate, other: Estimate, correlation: float, confidence: float) -> tuple[float, float]:
    """Returns the ends of the interval of the difference between two correlated AUCs."""
    difference = one.value - other.value
    below, above = _reach(one, confidence)
    other_below, other_above = _reach(other, confidence)
    return (
        difference - _combine(below, other_above, correlation),
        difference + _combine(above, other_below, correlation),
    )


def _reach(estimate: Estimate, confidence: float) -> tuple[float, float]:
    """Returns how far the interval of one AUC reaches below and above it."""
    value = estimate.value
    if not ROUNDING < value < 1 - ROUNDING:
        low, high = one_sided(estimate, confidence)
    elif estimate.simple_variance < ROUNDING**2:  # all images are ranked alike
        low = high = value
    else:
        low, high = t_limits(estimate, confidence, floor=False)
    return max(value - low, 0.0), max(high - value, 0.0)


def _combine(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _least_p(excludes_0: Callable[[float], bool], alpha: float) -> float:
    """Returns the least p at which the interval excludes 0; below alpha if and only if the interval at alpha does.

    Args:
        excludes_0: whether the interval with the confidence 1 - p excludes 0, as a function of p.
        alpha: 1 minus the confidence of the interval that is shown.
    """
    low, high = (LEAST_P, alpha) if excludes_0(alpha) else (alpha, 1 - LEAST_P)
    if excludes_0(low):
        return low
    if not excludes_0(high):  # the AUCs differ by less than one image can change
        return 1.0
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if excludes_0(middle) else (middle, high)
    return low
