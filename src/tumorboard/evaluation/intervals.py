"""Intervals of scores where images of one patient are not independent, or the reason why there is none.

Proportions have the Korn-Graubard interval: Clopper-Pearson's with the number of independent images that would have the
same variance. The other scores have a logit-t interval with the variance between groups. Brier score and loss have the
outer ends of this interval (for the loss on the scale of its logarithm) and of the bootstrap-t interval. Without a
mistake, or with mistakes only, the interval has one side: the score at which G groups without a mistake have a chance
of 1 - confidence. The lower end of an AUC allows for the misranked image that the sample happens not to have.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy  # which imports scipy.special when that is first used
from numpy.typing import NDArray

from tumorboard.base.errors import counted
from tumorboard.base.randomness import keys_of
from tumorboard.base.tables import Predictions, classes_of
from tumorboard.evaluation.bootstrap import Means, resample_means
from tumorboard.evaluation.clustered import BRIER_RANGE, Estimate, Rows, estimate_scores, image_briers, image_losses
from tumorboard.evaluation.metrics import labels_and_probabilities

MIN_GROUPS = 10  # groups of a class; with fewer no method has its nominal coverage (docs/intervals.md)
CONCENTRATED = 1 / 3  # a group with this share of the images is named in a warning
# The bootstrap moves an end at most this many times as far out: with 15 groups single resamples almost without errors
# would else make the mean width six times as large, for no more coverage.
MOST_WIDENING = 1.5
MANY_POINTS = 3  # percentage points from which a precision is stated without decimals
UNSEEN = 0.5  # share of the other images against which an image ranked by chance is misranked
LEAST = 1e-3  # `t_limits` lowers no AUC below this one
# A score that differs by less from 0 or 1 differs by rounding only.
ROUNDING = 1e-12


class Interval(NamedTuple):
    """The ends of an interval, or why there is none."""

    low: float | None
    high: float | None
    method: str  # the method's name; without an interval the reason


def intervals(
    predictions: Predictions,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    bootstrap: int = 1000,
    unit: str | None = None,
) -> dict[str, float | str | None]:
    """Computes every score with its interval.

    Args:
        predictions: N rows that all have a label; rows with the same `group` belong together.
        confidence: confidence level of the intervals, in (0, 1).
        seed: seed of the bootstrap; the resamples depend on it and on the groups' names, not on the order of the rows.
        bootstrap: the number of resamples; 0: Brier score and loss have the t interval alone.
        unit: the noun for a group, such as 'patient'; None: 'group'.

    Returns:
        For each score of `metrics.scores` but the counts: `<score>`, None where undefined; `<score>_low` and
        `<score>_high`, both None where there is no interval; `<score>_method`, the method or why there is no interval.
        A score of a class needs `MIN_GROUPS` groups with an image in its denominator, the AUC as many with and without
        the class, a mean over classes as many for each class.

    Raises:
        InputError: where there are no rows, or one row has no label.

    Source:
        Korn and Graubard 1998; Obuchowski 1997; docs/intervals.md has the coverage in simulations.

    Example:
        >>> import pandas as pd
        >>> from tumorboard.base.tables import make_predictions
        >>> rows = pd.DataFrame({"id": [f"i{k}" for k in range(60)], "label": ["a", "b"] * 30, "split": "test"})
        >>> rows["group"] = [f"p{k // 4}" for k in range(60)]  # 15 patients with 4 images each
        >>> p = np.where(np.arange(60) % 5 > 0, 0.9, 0.4) * (rows["label"] == "a") + 0.1 * (rows["label"] == "b")
        >>> table = make_predictions(rows, np.stack([p, 1 - p], 1), ["a", "b"], "digest")
        >>> result = intervals(table, unit="patient")
        >>> result["accuracy"], round(result["accuracy_low"], 3), round(result["accuracy_high"], 3)
        (0.9, 0.795, 0.962)
        >>> result["recall_b"], round(result["recall_b_low"], 3), result["recall_b_method"]  # 0.05 ** (1 / 15)
        (1.0, 0.819, 'one-sided, by patient')
        >>> few = intervals(table[table["group"].isin([f"p{k}" for k in range(7)])], unit="patient")
        >>> few["accuracy_low"], few["accuracy_method"]
        (None, 'too few patients for an interval (7)')
    """
    actual, probabilities = labels_and_probabilities(predictions)
    names, group = np.unique(predictions["group"].to_numpy(object), return_inverse=True)
    rows, keys = Rows(actual, probabilities, group, len(names)), keys_of(names.tolist())
    result: dict[str, float | str | None] = {}
    for estimate in estimate_scores(rows, classes_of(predictions)):
        interval = interval_with_bootstrap(
            estimate, rows, keys, confidence=confidence, seed=seed, resamples=bootstrap, unit=unit
        )
        result |= _entries(estimate, interval)
    return result


def _entries(estimate: Estimate, interval: Interval) -> dict[str, float | str | None]:
    score, factor = estimate.score, BRIER_RANGE if estimate.score == "brier" else 1.0
    return {
        score: None if np.isnan(estimate.value) else estimate.value * factor,
        f"{score}_low": None if interval.low is None else interval.low * factor,
        f"{score}_high": None if interval.high is None else interval.high * factor,
        f"{score}_method": interval.method,
    }


def interval_with_bootstrap(
    estimate: Estimate,
    rows: Rows,
    keys: NDArray[np.uint64],
    *,
    confidence: float,
    seed: int,
    resamples: int,
    unit: str | None,
) -> Interval:
    """Returns the interval of one estimate of `estimate_scores(rows, ...)`; Brier score and loss use the bootstrap too.

    Args:
        estimate: the score.
        rows: the predictions.
        keys: uint64[G], the key of each group's name.
        confidence: confidence level of the interval.
        seed: seed of the resamples.
        resamples: number of resamples; 0: no bootstrap.
        unit: the noun for a group; None: 'group'.
    """
    interval = interval_of(estimate, confidence, unit)
    if resamples == 0 or estimate.score not in _IMAGE_VALUES or interval.method not in _SCALES:
        return interval
    totals = np.bincount(rows.group, _IMAGE_VALUES[estimate.score](rows), rows.groups)
    images = np.bincount(rows.group, minlength=rows.groups)
    means = resample_means(totals.astype(np.float64), images.astype(np.float64), keys, resamples=resamples, seed=seed)
    return _widen_by_bootstrap(interval, estimate, means, confidence)


def interval_of(estimate: Estimate, confidence: float, unit: str | None) -> Interval:
    """Returns the interval of one estimate, without bootstrap; `unit` is the noun for a group."""
    noun, value = unit or "group", estimate.value
    if np.isnan(value):
        return Interval(None, None, "undefined")
    if estimate.groups < MIN_GROUPS:
        return Interval(None, None, f"too few {noun}s for an interval ({estimate.groups})")
    if estimate.scale != "mean" and not ROUNDING < value < 1 - ROUNDING:
        return Interval(*one_sided(estimate, confidence), f"one-sided, by {noun}")
    if np.sqrt(estimate.simple_variance) < ROUNDING:
        return Interval(None, None, "no interval: the images of each class do not differ")
    if estimate.scale == "proportion":
        return _korn_graubard(estimate, confidence)
    scale = "log-t" if estimate.scale == "mean" else "logit-t"
    return Interval(*t_limits(estimate, confidence, scale), scale)


def one_sided(estimate: Estimate, confidence: float) -> tuple[float, float]:
    """Returns the ends of the interval of a score of 0 or 1."""
    # P(no mistake in a group) is at most the score, however alike the images of a group are.
    limit = (1 - confidence) ** (1 / estimate.groups)
    if estimate.value > 0.5:
        return limit, 1.0
    high = 1 - limit
    # Of the images that are or are called of a class, at most `high` are right: the F1 of this share is the bound.
    return 0.0, 2 * high / (1 + high) if estimate.score.startswith("f1_") else high


def _korn_graubard(estimate: Estimate, confidence: float) -> Interval:
    """Returns Clopper-Pearson's interval for the effective number of images, which never exceeds their number."""
    tail, value, images = (1 - confidence) / 2, estimate.value, estimate.images
    # simple_variance is value (1 - value) / images; it gets images - 1, as the other has, for the estimated mean.
    design_effect = estimate.variance / estimate.simple_variance * (images - 1) / images
    effective = images * (_t(tail, images - 1) / _t(tail, _degrees(estimate))) ** 2 / max(design_effect, ROUNDING)
    effective = min(effective, images)
    hits, misses = value * effective, (1 - value) * effective
    low, high = scipy.special.betaincinv(hits, misses + 1, tail), scipy.special.betaincinv(hits + 1, misses, 1 - tail)
    return Interval(float(low), float(high), "Korn-Graubard")


def t_limits(
    estimate: Estimate, confidence: float, scale: str = "logit-t", *, floor: bool = True
) -> tuple[float, float]:
    """Returns the ends of a t interval on the scale of the logit or logarithm.

    An AUC is lowered to the AUC with one more image of the rarer class, ranked by chance; the lower end around it
    replaces the lower end around the estimate where it is lower. The weight of one image is the inverse of the
    effective number of images, since a further image of a known group counts less than a whole one.

    Args:
        estimate: the score, not 0 or 1.
        confidence: confidence level of the interval.
        scale: 'logit-t' or 'log-t'.
        floor: whether the interval is no narrower than for independent images.
    """
    tail, value = (1 - confidence) / 2, estimate.value
    forward, back, slope = _SCALES[scale]
    variance, simple = estimate.variance, estimate.simple_variance
    half = -_t(tail, _degrees(estimate)) * np.sqrt(variance)
    if floor or variance < ROUNDING**2:
        variance = max(variance, simple)
        half = max(half, -_t(tail, max(estimate.images - 1, _degrees(estimate))) * np.sqrt(simple))
    low, high = (float(back(forward(value) + side * half * slope(value))) for side in (-1, 1))
    if estimate.weight and simple > 0:
        lower = max(value - UNSEEN * estimate.weight * variance / simple, min(value, LEAST))
        low = min(low, float(back(forward(lower) - half * slope(lower))))
    return low, high


def _degrees(estimate: Estimate) -> float:
    return max(1.0, estimate.effective_groups - 1)


def _t(tail: float, degrees: float) -> float:
    return float(scipy.special.stdtrit(degrees, tail))


def _widen_by_bootstrap(interval: Interval, estimate: Estimate, means: Means, confidence: float) -> Interval:
    """Moves each end out to the end of the bootstrap-t interval, which follows the skew of the errors.

    Source: Davison and Hinkley 1997, section 5.2.2.
    """
    assert interval.low is not None
    assert interval.high is not None
    forward, back, slope = _SCALES[interval.method]
    usable = (means.values > 0) & (means.errors > 0)
    values, center = means.values[usable], forward(estimate.value)
    if len(values) == 0:
        return interval
    tail, error = (1 - confidence) / 2, np.sqrt(estimate.variance) * slope(estimate.value)
    distance = (forward(values) - center) / (means.errors[usable] * slope(values))
    far_low, far_high = error * np.quantile(distance, [1 - tail, tail]) * [1, -1]
    near_low, near_high = center - forward(interval.low), forward(interval.high) - center
    low = center - min(max(near_low, far_low), MOST_WIDENING * near_low)
    high = center + min(max(near_high, far_high), MOST_WIDENING * near_high)
    return Interval(float(back(low)), float(back(high)), f"{interval.method} and bootstrap")


def precision_statement(result: Mapping[str, float | str | None], groups: int, unit: str | None = None) -> str:
    """Returns a sentence on how exact a run's accuracy is.

    Two models that are scored on the same images are compared more exactly than this; two runs on other images less.

    Args:
        result: the scores and intervals that `intervals` returns.
        groups: the number of groups of the scored images.
        unit: the noun for a group; None: 'group'.

    >>> precision_statement({"accuracy": 0.9, "accuracy_low": 0.81, "accuracy_high": 0.97}, 15, "patient")
    '15 patients: this run can tell differences of about 8 points'
    """
    noun, (low, high) = unit or "group", (result["accuracy_low"], result["accuracy_high"])
    number = counted(groups, noun)
    if not isinstance(low, float) or not isinstance(high, float):
        return f"{number}: too few to tell any difference"
    points = (high - low) / 2 * 100
    size = f"{points:.1f}" if points < MANY_POINTS else f"{points:.0f}"
    return f"{number}: this run can tell differences of about {size} points"


def concentration_warning(predictions: Predictions, unit: str | None = None) -> str:
    """Returns a sentence where one group has at least `CONCENTRATED` of the images, else ''.

    >>> import pandas as pd
    >>> concentration_warning(pd.DataFrame({"group": ["p1"] * 44 + [f"q{k}" for k in range(56)]}), "patient")
    'one patient has 44 % of the images'
    """
    _, images = np.unique(predictions["group"].to_numpy(object), return_counts=True)
    if len(images) == 0 or images.max() < CONCENTRATED * images.sum():
        return ""
    return f"one {unit or 'group'} has {images.max() / images.sum():.0%} of the images".replace("%", " %")


_Function = Callable[[Any], Any]
# The scale of each method: a function, its inverse and its slope.
_SCALES: dict[str, tuple[_Function, _Function, _Function]] = {
    "log-t": (np.log, np.exp, lambda value: 1 / value),
    "logit-t": (
        lambda value: scipy.special.logit(value),
        lambda value: scipy.special.expit(value),
        lambda value: 1 / (value * (1 - value)),
    ),
}
# The scores that are means of an unevenly distributed value per image.
_IMAGE_VALUES: dict[str, Callable[[Rows], NDArray[np.float64]]] = {"loss": image_losses, "brier": image_briers}
