"""How good Predictions are: scores as one flat dict, and the tables behind confusion, ROC and precision-recall figures.

What cannot be computed is nan, 'undefined', never 0: the recall of a class without images, the precision of a class
that is never predicted (scikit-learn's zero_division=nan), the AUC where one side is empty. A mean over classes is
undefined as soon as one class is: a mean over fewer classes would flatter a model that never predicts the hard one.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_curve, roc_auc_score, roc_curve

from tumorboard.errors import InputError
from tumorboard.tables import classes_of, probabilities_of

OVERALL = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "auc")
BY_CLASS = ("precision", "recall", "specificity", "f1", "auc")
_CURVE_POINTS = 200


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """The scores of all given rows of Predictions.

    `images`; `loss` (cross-entropy in nats, probabilities clipped at float64's epsilon); `brier` (sum over classes of
    squared errors, 0 to 2; Brier 1950); `accuracy`; `balanced_accuracy` (the macro recall); `precision`, `recall`,
    `specificity`, `f1`, `auc`: unweighted (macro) means over the classes, each class against the rest. Then each of
    these five, and `support`, by class as `<score>_<class>`. A row's decision is its most probable class, at a tie the
    first. Of two classes both have the same AUC. Undefined scores are nan; no rows, or one without label: InputError.
    """
    actual, probabilities = judged(predictions)
    classes = classes_of(predictions)
    confusion = confusion_matrix(actual, probabilities.argmax(1), labels=range(len(classes)))
    by_class = rates(confusion) | {"auc": _auc_by_class(actual, probabilities)}
    certain = np.eye(len(classes))[actual]
    flat: dict[str, float] = {
        "images": len(predictions),
        "loss": float(log_loss(actual, probabilities, labels=range(len(classes)))),
        "brier": float(np.square(probabilities - certain).sum(1).mean()),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(by_class["recall"].mean()),
    }
    flat |= {score: float(by_class[score].mean()) for score in BY_CLASS}
    for column, name in enumerate(classes):
        flat |= {f"{score}_{name}": float(by_class[score][column]) for score in BY_CLASS}
        flat[f"support_{name}"] = int(confusion[column].sum())
    return flat


def judged(predictions: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The labels as indices int64[N] of the classes, and the probabilities float64[N, K].

    Raises InputError where there are no rows, or one without a label.
    """
    if predictions.empty:
        raise InputError("no predictions to score: the table has no rows")
    if (unlabelled := predictions["label"].eq("")).any():
        raise InputError(f"id '{predictions['id'][unlabelled].iloc[0]}' has no label, so that it cannot be scored")
    index = {name: column for column, name in enumerate(classes_of(predictions))}
    return np.array([index[label] for label in predictions["label"]], dtype=np.int64), probabilities_of(predictions)


def rates(confusion: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall, specificity and F1 by class, float64[..., K], of confusion matrices int[..., K, K].

    Actual classes run along the last axis but one, predicted ones along the last. F1 is
    2 TP / (2 TP + FP + FN): defined, and 0, for a class that has images but is never predicted.
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


def _auc_by_class(actual: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = probabilities.shape[1]
    if classes == 2:
        return np.repeat(_auc(actual == 1, probabilities[:, 1]), 2)
    return np.array([_auc(actual == column, probabilities[:, column]) for column in range(classes)])


def _auc(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    return np.nan if positive.all() or not positive.any() else float(roc_auc_score(positive, probability))


def roc_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The ROC curve of each class against the rest: class, fpr, tpr, threshold, at most 200 points a curve, fpr rising.

    The first point calls nothing positive (threshold inf). A class without images, or without others, has no curve.
    """
    tables = []
    for name, positive, probability in _one_against_rest(predictions):
        fpr, tpr, threshold = roc_curve(positive, probability)
        tables.append(_curve({"class": name, "fpr": fpr, "tpr": tpr, "threshold": threshold}, fpr, tpr))
    return _stack(tables, ["class", "fpr", "tpr", "threshold"])


def precision_recall_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The precision-recall curve of each class: class, recall, precision, threshold, at most 200 points, recall rising.

    The first point, recall 0 at precision 1, is a convention (threshold inf). A class without images has no curve.
    """
    tables = []
    for name, positive, probability in _one_against_rest(predictions):
        precision, recall, threshold = precision_recall_curve(positive, probability, drop_intermediate=True)
        recall, precision, threshold = recall[::-1], precision[::-1], np.append(threshold, np.inf)[::-1]
        columns = {"class": name, "recall": recall, "precision": precision, "threshold": threshold}
        tables.append(_curve(columns, recall, precision))
    return _stack(tables, ["class", "recall", "precision", "threshold"])


def _one_against_rest(predictions: pd.DataFrame) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    actual, probabilities = judged(predictions)
    for column, name in enumerate(classes_of(predictions)):
        positive = actual == column
        if positive.any() and not positive.all():
            yield name, positive, probabilities[:, column]


def _curve(columns: dict[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> pd.DataFrame:
    """Of a curve with many points those that are evenly spaced along its length: none moves, the ends stay."""
    table = pd.DataFrame(columns)
    if len(table) <= _CURVE_POINTS:
        return table
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS))
    kept[-1] = len(table) - 1
    return table.iloc[np.unique(kept)].reset_index(drop=True)


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def confusion_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Actual against predicted class: actual, predicted, count, share (of the actual class; nan without images)."""
    actual, probabilities = judged(predictions)
    classes = classes_of(predictions)
    confusion = confusion_matrix(actual, probabilities.argmax(1), labels=range(len(classes)))
    with np.errstate(invalid="ignore"):
        share = confusion / confusion.sum(1, keepdims=True)
    rows = pd.MultiIndex.from_product([classes, classes], names=["actual", "predicted"])
    return pd.DataFrame({"count": confusion.ravel(), "share": share.ravel()}, index=rows).reset_index()
