"""Scores of Predictions as one flat dict, and the tables behind the confusion, ROC and precision-recall figures.

A score that cannot be computed is nan ('undefined'), never 0: the recall of a class without images, the precision of a
class that is never predicted (scikit-learn's zero_division=nan), the AUC of images of one class. A mean over classes is
undefined if it is undefined for one of them: a mean over fewer classes would flatter a model that never predicts the
hard class.

Scores and curves are computed by numpy, equal to scikit-learn's to the bit: a training computes scores every epoch, and
importing scikit-learn takes as long as importing pandas twice; a report of many classes computes thousands of curves.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.tables import Predictions, classes_of, probabilities_of

Curves: TypeAlias = pd.DataFrame  # one row per point of a curve, one curve per class
Confusion: TypeAlias = pd.DataFrame  # one row per pair of actual and predicted class

# The scores over all classes that training, the comparison of models and the report show.
HEADLINE_SCORES = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "auc")
# The scores of one class against the rest.
CLASS_SCORES = ("precision", "recall", "specificity", "f1", "auc")
CURVE_POINTS = 200  # the most points per curve: a browser draws several curves of that length without delay
# Decimals of log-odds that count: rounding errors of equal probabilities, at most 1e-13, must not break their tie.
LOG_ODDS_DECIMALS = 9


def scores(predictions: Predictions) -> dict[str, float]:
    """Computes the scores of all given rows.

    The predicted class of a row is its most probable class; at a tie it is the first of them.

    Args:
        predictions: rows of one split, all with a label.

    Returns:
        By name, nan where undefined:

        - `images`: the number of rows.
        - `loss`: cross-entropy in nats, with probabilities clipped at float64's epsilon.
        - `brier`: the mean over the images of the squared error, summed over the classes; 0 to 2 (Brier 1950).
        - `accuracy`: the share of images whose predicted class is their label.
        - `balanced_accuracy`: the same number as `recall`.
        - `precision`, `recall`, `specificity`, `f1`, `auc`: the unweighted (macro) means over the classes, each class
          against the rest. With two classes both have the same AUC.
        - `<score>_<class>` for each of these five, and `support_<class>`, the number of images with that label.

    Raises:
        InputError: where there are no rows, or one row has no label.

    Example:
        >>> rows = pd.DataFrame({"id": ["1", "2", "3", "4"], "label": ["cat", "cat", "cat", "dog"]})
        >>> rows = rows.assign(group=rows["id"], split="test")
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
        >>> from tumorboard.base.tables import make_predictions
        >>> four = scores(make_predictions(rows, probabilities, ["cat", "dog"], "digest"))
        >>> four["accuracy"], four["recall_dog"], four["precision_dog"], four["auc"]
        (0.75, 1.0, 0.5, 1.0)
        >>> round(four["balanced_accuracy"], 4), round(four["brier"], 4)  # (2/3 + 1) / 2
        (0.8333, 0.25)
    """
    actual, probabilities = labels_and_probabilities(predictions)
    classes = classes_of(predictions)
    confusion = _confusion_matrix(actual, probabilities)
    by_class = class_rates(confusion) | {"auc": _auc_by_class(actual, probabilities)}
    one_hot = np.eye(len(classes))[actual]
    flat: dict[str, float] = {
        "images": len(predictions),
        "loss": _log_loss(actual, probabilities),
        "brier": float(np.square(probabilities - one_hot).sum(1).mean()),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(by_class["recall"].mean()),
    }
    flat |= {score: float(by_class[score].mean()) for score in CLASS_SCORES}
    for column, name in enumerate(classes):
        flat |= {f"{score}_{name}": float(by_class[score][column]) for score in CLASS_SCORES}
        flat[f"support_{name}"] = int(confusion[column].sum())
    return flat


def labels_and_probabilities(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the labels as class indices, int64[N], and the probabilities, float64[N, K].

    Raises:
        InputError: where there are no rows, or one row has no label or a probability that is not finite.
    """
    if predictions.empty:
        raise InputError("no predictions to score: the table has no rows")
    if (unlabeled := predictions["label"].eq("")).any():
        raise InputError(f"id '{predictions['id'][unlabeled].iloc[0]}' has no label, so it cannot be scored")
    index = {name: column for column, name in enumerate(classes_of(predictions))}
    probabilities = probabilities_of(predictions)
    if not (finite := np.isfinite(probabilities).all(1)).all():
        raise InputError(f"id '{predictions['id'].iloc[int(finite.argmin())]}' has a probability that is no number")
    return np.array([index[label] for label in predictions["label"]], dtype=np.int64), probabilities


def class_rates(confusion: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
    """Computes precision, recall, specificity and F1 of each class from confusion matrices.

    Args:
        confusion: int[..., K, K]; rows are the actual classes, columns the predicted ones.

    Returns:
        float64[..., K] by score, nan where undefined. F1 is 2 TP / (2 TP + FP + FN): defined, and 0, for a class that
        has images but is never predicted.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    actual, predicted = confusion.sum(-1), confusion.sum(-2)
    total = actual.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return {
            "precision": hits / predicted,
            "recall": hits / actual,
            "specificity": (total - actual - predicted + hits) / (total - actual),
            "f1": 2 * hits / (actual + predicted),
        }


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes by how much each class is more probable than all others together: log p_k - log(sum of the others).

    AUC and curves rank by it and not by p_k: a confident network's p_k is rounded to exactly 1 for many images, while
    the small probabilities of the other classes still distinguish these. With two classes one column is the negative of
    the other, so both classes have the same AUC.

    Args:
        probabilities: float64[N, K]; rows sum to 1.

    Returns:
        float64[N, K] in nats, rounded to `LOG_ODDS_DECIMALS`; -inf for probability 0, inf where all others are 0.

    Example:
        >>> log_odds(np.array([[0.5, 0.5], [1.0, 1e-20], [1.0, 0.0]]))[:, 0].round(2)
        array([ 0.  , 46.05,   inf])
    """
    # Sums of the columns to the left and to the right: 1 - p_k would round the small ones away.
    others = np.zeros_like(probabilities)
    others[:, 1:] += np.cumsum(probabilities[:, :-1], axis=1)
    others[:, :-1] += np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(probabilities) - np.log(others)
    return odds.round(LOG_ODDS_DECIMALS)


def _confusion_matrix(actual: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts the rows int64[K, K] by actual class and most probable class."""
    classes = probabilities.shape[1]
    counts = np.bincount(actual * classes + probabilities.argmax(1), minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.int64)


def _log_loss(actual: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Returns the cross-entropy in nats; probabilities are clipped at float64's epsilon, as scikit-learn does."""
    epsilon = np.finfo(np.float64).eps
    given = np.clip(probabilities[np.arange(len(actual)), actual], epsilon, 1 - epsilon)
    # The C library's logarithm, as scikit-learn's by way of scipy: numpy's may differ in the last bit.
    return float(-np.array(list(map(math.log, given.tolist()))).mean())


def _auc_by_class(actual: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = probabilities.shape[1]
    odds = log_odds(probabilities)
    if classes == 2:
        return np.repeat(_auc(actual == 1, odds[:, 1]), 2)
    return np.array([_auc(actual == column, odds[:, column]) for column in range(classes)])


def _auc(positive: NDArray[np.bool_], odds: NDArray[np.float64]) -> float:
    """Returns the area under the ROC curve by the trapezoidal rule; nan where one of the two sides has no rows.

    As in scikit-learn's `roc_auc_score`, points within a straight line are dropped before the areas are summed.
    """
    if positive.all() or not positive.any():
        return np.nan
    hits, misses = _counts_from_the_top(positive, _ranks(odds))
    bends = _bends(hits, misses)
    hits, misses = np.append(0.0, hits[bends]), np.append(0.0, misses[bends])
    return float(np.trapezoid(hits / hits[-1], misses / misses[-1]))


def _counts_from_the_top(
    positive: NDArray[np.bool_], ranks: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns how many rows of the class and how many others are at each rank or above, float64[R], top rank first."""
    hits = np.bincount(ranks, weights=positive)[::-1].cumsum()
    return hits, np.bincount(ranks)[::-1].cumsum() - hits


def _bends(hits: NDArray[np.float64], misses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which points of an ROC curve are not within a straight line."""
    inner = (np.diff(misses, 2) != 0) | (np.diff(hits, 2) != 0)
    return np.concatenate([[True], inner, [True]])[: len(hits)]


def _ranks(odds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the rank int64[N] of each row's log-odds among their distinct values; scikit-learn takes no infinity."""
    return np.unique(odds, return_inverse=True)[1]


def curve_tables(predictions: Predictions) -> tuple[Curves, Curves]:
    """Returns the ROC curve and the precision-recall curve of each class against the rest.

    A curve has at most `CURVE_POINTS` points. A class without images, or without images of other classes, has none.

    Returns:
        class, fpr, tpr, threshold, sorted by rising fpr; the first point calls no image positive (threshold inf).
        And class, recall, precision, threshold, sorted by rising recall; the first point, recall 0 at precision 1, is a
        convention (threshold inf).
    """
    roc, precision_recall = [], []
    for name, hits, misses, least in _one_vs_rest(predictions):
        bends = _bends(hits, misses)
        fpr, tpr = (np.append(0.0, counts[bends] / counts[-1]) for counts in (misses, hits))
        roc.append(_thin_curve(name, fpr, tpr, np.append(np.inf, least[bends])))
        changes = np.diff(hits) != 0
        kept = np.concatenate([[True], changes[:-1] | changes[1:], [True]])[: len(hits)]
        recall = np.append(0.0, hits[kept] / hits[-1])
        precision = np.append(1.0, hits[kept] / (hits + misses)[kept])
        precision_recall.append(_thin_curve(name, recall, precision, np.append(np.inf, least[kept])))
    return (
        _concat_curves(roc, ["class", "fpr", "tpr", "threshold"]),
        _concat_curves(precision_recall, ["class", "recall", "precision", "threshold"]),
    )


def _one_vs_rest(
    predictions: Predictions,
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Yields each class that has a curve.

    Yields:
        Its name; then by the R distinct log-odds of the class, float64[R], highest first: how many rows of the class
        and how many others are there or above, and the least probability of the class there, which is the threshold
        that takes these rows.
    """
    actual, probabilities = labels_and_probabilities(predictions)
    odds = log_odds(probabilities)
    for column, name in enumerate(classes_of(predictions)):
        positive = actual == column
        if positive.any() and not positive.all():
            ranks = _ranks(odds[:, column])
            least = np.full(ranks.max() + 1, np.inf)
            np.minimum.at(least, ranks, probabilities[:, column])
            yield name, *_counts_from_the_top(positive, ranks), least[::-1]


def _thin_curve(
    name: str, x: NDArray[np.float64], y: NDArray[np.float64], threshold: NDArray[np.float64]
) -> list[NDArray[Any]]:
    """Returns the columns of a curve with at most `CURVE_POINTS` points.

    They are evenly spaced along the curve; both ends stay and no point moves.
    """
    if len(x) > CURVE_POINTS:
        length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS)))
        x, y, threshold = x[kept], y[kept], threshold[kept]
    return [np.full(len(x), name, dtype=object), x, y, threshold]


def _concat_curves(curves: list[list[NDArray[Any]]], columns: list[str]) -> Curves:
    """Returns the points of all curves in one table."""
    if not curves:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame(dict(zip(columns, map(np.concatenate, zip(*curves, strict=True)), strict=True)))


def confusion_table(predictions: Predictions) -> Confusion:
    """Returns one row per pair of classes: actual, predicted, count, share.

    `share` is the part of the actual class's images that are predicted so; nan for a class without images.
    """
    actual, probabilities = labels_and_probabilities(predictions)
    classes = classes_of(predictions)
    confusion = _confusion_matrix(actual, probabilities)
    with np.errstate(invalid="ignore"):
        share = confusion / confusion.sum(1, keepdims=True)
    rows = pd.MultiIndex.from_product([classes, classes], names=["actual", "predicted"])
    return pd.DataFrame({"count": confusion.ravel(), "share": share.ravel()}, index=rows).reset_index()
