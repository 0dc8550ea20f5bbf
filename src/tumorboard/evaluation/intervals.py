"""How sure a score is: bootstrap intervals over whole groups, because images of one patient are not independent."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.evaluation.metrics import judged, rates
from tumorboard.params import Evaluate
from tumorboard.randomness import keys_of, uniforms

_CHUNK_CELLS = 8_000_000  # resamples times rows worked on at once: 64 MB


def bootstrap_intervals(predictions: pd.DataFrame, evaluate: Evaluate, seed: int) -> dict[str, float]:
    """Percentile intervals `<score>_low`, `<score>_high` of accuracy, balanced accuracy, macro F1 and macro AUC.

    The cluster bootstrap: all rows of a `group` are drawn together, with replacement, as many groups as there are
    (Efron & Tibshirani 1993, chapter 13; Field & Welsh 2007). Resamples in which a score is undefined do not count.
    Where all resamples agree (a single group, or no mistake that could be drawn more or less often) they say nothing
    and the interval is nan. Depends on the seed and the groups' names, not on the order of the rows;
    `evaluate.bootstrap` 0 gives an empty dict.
    """
    if evaluate.bootstrap == 0:
        return {}
    names, group = np.unique(predictions["group"].to_numpy(object), return_inverse=True)
    draws = (uniforms(seed, keys_of(names.tolist()), 0, evaluate.bootstrap) * len(names)).astype(np.int64)
    weights = np.stack([np.bincount(column, minlength=len(names)) for column in draws.T])
    tail = (1 - evaluate.confidence) / 2
    intervals: dict[str, float] = {}
    for score, values in _resampled_scores(predictions, group, weights).items():
        defined = values[np.isfinite(values)]
        usable = len(defined) > 0 and np.ptp(defined) > 1e-12
        low, high = np.quantile(defined, [tail, 1 - tail]) if usable else (np.nan, np.nan)
        intervals |= {f"{score}_low": float(low), f"{score}_high": float(high)}
    return intervals


def _resampled_scores(
    predictions: pd.DataFrame, group: NDArray[np.int64], weights: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """The scores float64[R] of R resamples; `weights` int64[R, G] says how often each holds each of the G groups."""
    actual, probabilities = judged(predictions)
    classes = probabilities.shape[1]
    by_group = np.zeros((weights.shape[1], classes, classes), dtype=np.int64)
    np.add.at(by_group, (group, actual, probabilities.argmax(1)), 1)
    confusion = np.tensordot(weights, by_group, 1)
    by_class = rates(confusion)
    # Of two classes both have the same AUC.
    columns = [1] if classes == 2 else range(classes)
    auc = np.mean([_resampled_auc(actual == k, probabilities[:, k], group, weights) for k in columns], axis=0)
    return {
        "accuracy": np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2)),
        "balanced_accuracy": by_class["recall"].mean(1),
        "f1": by_class["f1"].mean(1),
        "auc": auc,
    }


def _resampled_auc(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], group: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The AUC float64[R] of one class: the share of (positive, negative) pairs in the right order, ties half."""
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(probability[order]) > 0))
    auc = np.empty(len(weights))
    step = max(1, _CHUNK_CELLS // len(order))
    for first in range(0, len(weights), step):
        rows = weights[first : first + step, group[order]].astype(np.float64)
        positives = np.add.reduceat(rows * positive[order], starts, axis=1)
        negatives = np.add.reduceat(rows * ~positive[order], starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        with np.errstate(invalid="ignore"):
            auc[first : first + step] = (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))
    return auc
