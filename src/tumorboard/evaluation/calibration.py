"""Whether probabilities mean what they say: one temperature that mends them, and the tables and scores that show it.

A model that says 0.9 is calibrated if nine of ten such images are what it says. A temperature above 1 makes it less
sure, one below 1 surer; the order of the classes within an image stays.
"""

import math
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from tumorboard.base.errors import InputError
from tumorboard.base.tables import Predictions, classes_of
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.proportions import rate_by_group

Reliability: TypeAlias = pd.DataFrame  # one row per bin: RELIABILITY_COLUMNS

COLDEST, HOTTEST = 0.05, 20.0  # bounds of a temperature
# Standard deviation of log T in the prior: two of three models need a factor between 1/2 and 2. It decides where the
# rows cannot: twenty images without a mistake would ask for a temperature of 0.
PRIOR_SPREAD = math.log(2)
GRID = 25  # temperatures that are tried before the best of them is refined
BINS = 10  # of a reliability table
BIN_ROWS = 10  # images that a bin has at least
SATURATED = np.finfo(np.float64).eps  # logits are of probabilities clipped to [eps, 1 - eps]
TOP_LABEL = "predicted class"  # value of `probability_of` for the probability of the most probable class
RELIABILITY_COLUMNS = ("probability_of", "images", "groups", "probability", "observed", "observed_low", "observed_high")

Probabilities: TypeAlias = NDArray[np.float64]


def fit_temperature(
    probabilities: Probabilities, actual: NDArray[np.int64], *, prior_spread: float = PRIOR_SPREAD
) -> float:
    """Fits the temperature by which the logarithms of probabilities are to be divided.

    It minimizes the cross-entropy, summed over the rows, plus (log T)^2 / (2 prior_spread^2). This is the most probable
    temperature where log T has a normal distribution around 0. The prior counts as much as a few images: it matters
    below about a hundred rows, and without a mistake or with one class only it keeps T from the bounds.

    Args:
        probabilities: float64[N, K]; 0 counts as the smallest normal float64.
        actual: int64[N], the index of each row's label.
        prior_spread: standard deviation of log T; `math.inf` fits without a prior, as scikit-learn does.

    Returns:
        T between COLDEST and HOTTEST, to six significant digits, so that the order of the rows does not matter.

    Raises:
        InputError: there are no rows.

    Source:
        Guo et al. 2017, temperature scaling.

    >>> sure = np.array([[0.99, 0.01]] * 100)  # 99 % sure, and right in 80 of 100
    >>> temperature = fit_temperature(sure, np.repeat([0, 1], [80, 20]))
    >>> round(temperature, 2), apply_temperature(sure, temperature)[0].round(3).tolist()
    (3.09, [0.816, 0.184])
    """
    if len(probabilities) == 0:
        raise InputError("no images to fit a temperature on")
    logarithms = _logarithms(probabilities)
    rows = np.arange(len(actual))

    def cost(log_temperature: float) -> float:
        scaled = log_softmax(logarithms / math.exp(log_temperature), axis=1)
        return float(-scaled[rows, actual].sum() + log_temperature**2 / (2 * prior_spread**2))

    grid = np.linspace(math.log(COLDEST), math.log(HOTTEST), GRID)
    best = int(np.argmin([cost(point) for point in grid]))
    bounds = (grid[max(0, best - 1)], grid[min(GRID - 1, best + 1)])
    refined = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    # The bounded method never tries the bounds themselves.
    log_temperature = min((*bounds, refined.x), key=cost)
    return float(f"{math.exp(log_temperature):.6g}")


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Returns softmax(log(probabilities) / temperature), float64[N, K].

    Args:
        probabilities: float64[N, K]; 0 counts as the smallest normal float64.
        temperature: 1 returns a copy of the probabilities, unchanged to the last digit.
    """
    if temperature == 1:
        return np.array(probabilities, dtype=np.float64)
    tempered: Probabilities = softmax(_logarithms(probabilities) / temperature, axis=1)
    return tempered


def _logarithms(probabilities: Probabilities) -> Probabilities:
    logarithms: Probabilities = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logarithms


def reliability_table(
    predictions: Predictions, *, positive: str | None = None, bins: int = BINS, confidence: float = 0.95
) -> Reliability:
    """Compares stated probabilities with observed shares in bins of about equally many images.

    Images of equal probability are in one bin, whatever their number. With fewer than `bins` times BIN_ROWS images
    there are fewer bins.

    Args:
        predictions: rows that all have a label.
        positive: a class; its probability has bins of its own, besides that of the most probable class.
        bins: the most bins.
        confidence: of the intervals.

    Returns:
        One row per bin, by rising probability. `probability_of`: TOP_LABEL, or `positive`; `images`, `groups`: how
        many; `probability`: the mean; `observed`: the share of images that are of the predicted class, or `positive`;
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
    """Returns the position of a class among the classes; raises InputError that lists them where it is none."""
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
    """Divides N values into bins of about equally many; equal values are in one bin.

    Returns:
        int64[N], the number of each value's bin, rising with the value; with fewer than `bins` times BIN_ROWS values
        there are fewer bins, at least one.

    >>> equal_bins(np.arange(40) / 40, 4).tolist() == np.repeat([0, 1, 2, 3], 10).tolist()
    True
    """
    usable = max(1, min(bins, len(values) // BIN_ROWS))
    _, distinct, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - counts / 2  # of the rows of each distinct value
    numbers: NDArray[np.int64] = (middle_rank * usable / len(values)).astype(np.int64)[distinct]
    return numbers


def calibration_scores(predictions: Predictions, *, positive: str | None = None) -> dict[str, float]:
    """Computes how far probabilities are from calibrated ones.

    Slope and intercept recalibrate by logistic regression. With two classes the event is the class `positive` (by
    default the second) and x is the logit of its probability. With more classes the event is that the most probable
    class is right, and x is the logit of the highest probability. Logits are of probabilities clipped to
    [eps, 1 - eps].

    Args:
        predictions: rows that all have a label.
        positive: of two classes.

    Returns:
        - `brier`: as in `metrics.scores`, 0 to 2.
        - `calibration_slope`: of the event's log-odds on x; 1 is right, below 1 the model is too sure. nan where x
          separates event from no event, since no finite slope is the most likely one then.
        - `calibration_intercept`: of the same with a slope of 1; 0 is right, above 0 the event happens more often than
          stated ('calibration in the large'). nan where every row or none has the event.
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
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=200)
    return float(model.fit(x[:, None], event).coef_[0, 0])


def _intercept(x: NDArray[np.float64], event: NDArray[np.bool_]) -> float:
    """Returns the intercept of the logistic regression of an event on x with a slope of 1."""
    if event.all() or not event.any():
        return math.nan
    bound = (
        float(np.abs(x).max()) + math.log(len(x)) + 1
    )  # there the expected number of events is below 1, or misses it
    return float(brentq(lambda intercept: float((expit(x + intercept) - event).sum()), -bound, bound))
