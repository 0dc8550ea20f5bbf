"""Bootstrap intervals of scores that resample whole groups, because images of one patient are not independent."""

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.params import Evaluate
from tumorboard.base.randomness import keys_of, uniforms
from tumorboard.base.tables import Predictions
from tumorboard.evaluation.metrics import class_rates, labels_and_probabilities

CHUNK_CELLS = 8_000_000  # resamples times rows in memory at a time: 64 MB of float64
SMALLEST_SPREAD = 1e-12  # resampled scores that differ by less are equal but for rounding


def bootstrap_intervals(predictions: Predictions, evaluate: Evaluate, seed: int) -> dict[str, float]:
    """Computes percentile intervals of accuracy, balanced accuracy, macro F1 and macro AUC by the cluster bootstrap.

    A resample draws as many groups as there are, with replacement, and takes all rows of each drawn group. Resamples in
    which a score is undefined do not count.

    Args:
        predictions: rows that all have a label; `group` says which of them belong together.
        evaluate: `bootstrap` is the number of resamples, `confidence` the share of them inside the interval.
        seed: the resamples depend on it and on the groups' names, not on the order of the rows.

    Returns:
        `<score>_low` and `<score>_high` of each score. Both are nan where all resamples agree, as they do with a single
        group or without a mistake. An empty dict if `evaluate.bootstrap` is 0.

    Raises:
        InputError: where there are no rows, or one row has no label.

    Source:
        Efron and Tibshirani 1993, chapter 13; Field and Welsh 2007.

    Example:
        >>> import pandas as pd
        >>> from tumorboard.base.tables import make_predictions
        >>> rows = pd.DataFrame({"id": list("123456"), "group": list("ppqqrr"), "label": list("ababab")})
        >>> p = np.array([0.9, 0.2, 0.8, 0.7, 0.6, 0.1])  # five of six are right; the mistake is in group q
        >>> six = make_predictions(rows.assign(split="test"), np.stack([p, 1 - p], 1), ["a", "b"], "digest")
        >>> intervals = bootstrap_intervals(six, Evaluate(bootstrap=1000, confidence=0.8), seed=0)
        >>> round(intervals["accuracy_low"], 4), intervals["accuracy_high"]  # with q drawn twice, and never
        (0.6667, 1.0)
    """
    if evaluate.bootstrap == 0:
        return {}
    names, group = np.unique(predictions["group"].to_numpy(object), return_inverse=True)
    draws = (uniforms(seed, keys_of(names.tolist()), 0, evaluate.bootstrap) * len(names)).astype(np.int64)
    counts = np.stack([np.bincount(column, minlength=len(names)) for column in draws.T])
    tail = (1 - evaluate.confidence) / 2
    intervals: dict[str, float] = {}
    for score, values in resampled_scores(predictions, group, counts).items():
        defined = values[np.isfinite(values)]
        usable = len(defined) > 0 and np.ptp(defined) > SMALLEST_SPREAD
        low, high = np.quantile(defined, [tail, 1 - tail]) if usable else (np.nan, np.nan)
        intervals |= {f"{score}_low": float(low), f"{score}_high": float(high)}
    return intervals


def resampled_scores(
    predictions: Predictions, group: NDArray[np.int64], counts: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Computes the scores of R resamples of G groups without copying a row.

    Args:
        predictions: N rows that all have a label.
        group: int64[N], the index of each row's group.
        counts: int64[R, G], how often each resample holds each group.

    Returns:
        float64[R] by score: accuracy, balanced_accuracy, f1 and auc; nan where undefined.
    """
    actual, probabilities = labels_and_probabilities(predictions)
    classes = probabilities.shape[1]
    by_group = np.zeros((counts.shape[1], classes, classes), dtype=np.int64)
    np.add.at(by_group, (group, actual, probabilities.argmax(1)), 1)
    confusion = np.tensordot(counts, by_group, 1)
    by_class = class_rates(confusion)
    columns = [1] if classes == 2 else range(classes)  # two classes have the same AUC
    auc = np.mean([_resampled_auc(actual == k, probabilities[:, k], group, counts) for k in columns], axis=0)
    return {
        "accuracy": np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2)),
        "balanced_accuracy": by_class["recall"].mean(1),
        "f1": by_class["f1"].mean(1),
        "auc": auc,
    }


def _resampled_auc(
    positive: NDArray[np.bool_], probability: NDArray[np.float64], group: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Computes one class's AUC float64[R]: the share of (positive, negative) pairs in the right order, ties half."""
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(probability[order]) > 0))
    auc = np.empty(len(counts))
    step = max(1, CHUNK_CELLS // len(order))
    for first in range(0, len(counts), step):
        row_counts = counts[first : first + step, group[order]].astype(np.float64)
        # Rows of equal probability are summed first, so that each tie counts half, in any order of the rows.
        positives = np.add.reduceat(row_counts * positive[order], starts, axis=1)
        negatives = np.add.reduceat(row_counts * ~positive[order], starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        with np.errstate(invalid="ignore"):
            auc[first : first + step] = (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))
    return auc
