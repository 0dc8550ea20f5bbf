"""Reliability tables and calibration scores: how well stated probabilities agree with observed shares.

A model is calibrated if nine of ten images to which it gives a class with a probability of 0.9 are of this class.
`temperature.py` calibrates probabilities.
"""

import math
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy  # which imports its parts when they are first used
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.tables import Predictions, classes_of
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.proportions import rate_by_group

Reliability: TypeAlias = pd.DataFrame  # one row per bin: RELIABILITY_COLUMNS

BINS = 10  # the most bins of a reliability table
BIN_ROWS = 10  # images per bin that limit the number of bins
SATURATED = np.finfo(np.float64).eps  # logits are taken of probabilities clipped to [eps, 1 - eps]
TOP_LABEL = "predicted class"  # value of `probability_of` for the probability of the most probable class
RELIABILITY_COLUMNS = ("probability_of", "images", "groups", "probability", "observed", "observed_low", "observed_high")

Probabilities: TypeAlias = NDArray[np.float64]


def reliability_table(
    predictions: Predictions, *, positive: str | None = None, bins: int = BINS, confidence: float = 0.95
) -> Reliability:
    """Compares stated probabilities with observed shares in bins of about equally many images.

    Images of equal probability are in one bin, whatever their number. With fewer than `bins` times BIN_ROWS images
    there are fewer bins.

    Args:
        predictions: rows that all have a label.
        positive: a class; its probability has bins of its own, besides that of the most probable class.
        bins: largest number of bins.
        confidence: confidence level of the intervals.

    Returns:
        One row per bin, by rising probability. `probability_of`: TOP_LABEL, or `positive`; `images`, `groups`: their
        numbers; `probability`: mean; `observed`: the share of images that are of the predicted class, or `positive`;
        `observed_low`, `observed_high`: its interval by `rate_by_group`, nan where the bin has too few groups.

    Raises:
        InputError: there are no rows, one has no label, or `positive` is no class.

    Source:
        Bröcker and Smith 2007; scikit-learn's `calibration_curve(strategy="quantile")`.
    """
    actual, probabilities = labels_and_probabilities(predictions)
    groups = predictions["group"].to_numpy(object)
    tables = [
        _reliability(TOP_LABEL, probabilities.max(1), probabilities.argmax(1) == actual, groups, bins, confidence)
    ]
    if positive is not None:
        column = class_column(predictions, positive)
        tables.append(_reliability(positive, probabilities[:, column], actual == column, groups, bins, confidence))
    return pd.concat(tables, ignore_index=True)


def class_column(predictions: Predictions, name: str) -> int:
    """Returns the position of a class among the classes; raises InputError, which lists them, where it is none."""
    classes = classes_of(predictions)
    if name not in classes:
        raise InputError(f"data.positive is '{name}', which is no class: choose one of {', '.join(classes)}")
    return classes.index(name)


def _reliability(
    probability_of: str,
    stated: NDArray[np.float64],
    hits: NDArray[np.bool_],
    groups: NDArray[np.object_],
    bins: int,
    confidence: float,
) -> Reliability:
    bin_of_row = equal_bins(stated, bins)
    rows = []
    for number in np.unique(bin_of_row):
        inside = bin_of_row == number
        observed = rate_by_group(hits[inside], groups[inside], confidence)
        images, group_count = int(inside.sum()), len(set(groups[inside]))
        rows.append(
            (probability_of, images, group_count, stated[inside].mean(), observed.rate, observed.low, observed.high)
        )
    return pd.DataFrame(rows, columns=list(RELIABILITY_COLUMNS))


def equal_bins(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Divides N values into bins of about equal size; equal values are in one bin.

    Returns:
        int64[N], the number of each value's bin, rising with the value; with fewer than `bins` times BIN_ROWS values
        there are fewer bins, at least one.

    >>> equal_bins(np.arange(40) / 40, 4).tolist() == np.repeat([0, 1, 2, 3], 10).tolist()
    True
    """
    usable = max(1, min(bins, len(values) // BIN_ROWS))
    _, distinct, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - counts / 2  # middle rank of the rows of each distinct value
    numbers: NDArray[np.int64] = (middle_rank * usable / len(values)).astype(np.int64)[distinct]
    return numbers


def calibration_scores(predictions: Predictions, *, positive: str | None = None) -> dict[str, float]:
    """Computes how far probabilities are from calibrated ones.

    Slope and intercept recalibrate by logistic regression. With two classes the event is the class `positive` (by
    default the second) and x is the logit of its probability. With more classes the event is that the most probable
    class is right, and x is the logit of the highest probability. Logits are taken of probabilities clipped to
    [eps, 1 - eps].

    Args:
        predictions: rows that all have a label.
        positive: the positive one of two classes.

    Returns:
        - `brier`: as in `metrics.scores`, 0 to 2.
        - `calibration_slope`: slope of the event's log-odds on x; 1 is right, below 1 the model is too sure. nan where
          x separates event from no event, since no finite slope is the most likely one then.
        - `calibration_intercept`: intercept of this regression with a slope of 1; 0 is right, above 0 the event happens
          more often than stated ('calibration in the large'). nan where every row or none has the event.
        - `ece`: the expected calibration error of the highest probability, over the bins of `reliability_table`. Chance
          alone puts it above 0 where bins have few images.

    Raises:
        InputError: there are no rows, one has no label, or `positive` is no class.

    Source:
        Cox 1958; Van Calster et al. 2019, "Calibration: the Achilles heel of predictive analytics"; Naeini et al. 2015.
    """
    actual, probabilities = labels_and_probabilities(predictions)
    top, right = probabilities.max(1), probabilities.argmax(1) == actual
    if probabilities.shape[1] == 2:
        column = 1 if positive is None else class_column(predictions, positive)
        event, stated = actual == column, probabilities[:, column]
    else:
        event, stated = right, top
    clipped = np.clip(stated, SATURATED, 1 - SATURATED)
    x = np.log(clipped) - np.log1p(-clipped)
    bin_of_row = equal_bins(top, BINS)
    gaps = np.bincount(bin_of_row, weights=right - top)  # observed minus stated, summed per bin
    return {
        "brier": float(np.square(probabilities - np.eye(probabilities.shape[1])[actual]).sum(1).mean()),
        "calibration_slope": _slope(x, event),
        "calibration_intercept": _intercept(x, event),
        "ece": float(np.abs(gaps).sum() / len(actual)),
    }


def _slope(x: NDArray[np.float64], event: NDArray[np.bool_]) -> float:
    """Returns the slope of the logistic regression of an event on x; nan where it is not finite."""
    if event.all() or not event.any():
        return math.nan
    overlap = x[event].min() < x[~event].max() and x[~event].min() < x[event].max()
    if not overlap:
        return math.nan
    from sklearn.linear_model import LogisticRegression  # here, because it is slow to import

    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=200)
    return float(model.fit(x[:, None], event).coef_[0, 0])


def _intercept(x: NDArray[np.float64], event: NDArray[np.bool_]) -> float:
    """Returns the intercept of the logistic regression of an event on x with a slope of 1."""
    if event.all() or not event.any():
        return math.nan
    # At -bound the expected number of events is below 1, at +bound the expected number of rows without an event.
    bound = float(np.abs(x).max()) + math.log(len(x)) + 1

    def expected_minus_observed(intercept: float) -> float:
        return float((scipy.special.expit(x + intercept) - event).sum())

    return float(scipy.optimize.brentq(expected_minus_observed, -bound, bound))
