"""Scores with their variance between groups: images of one patient are not independent.

Every score here is a smooth function of means over images (of the cells of the confusion matrix, of squared errors, of
the ranks of AUC). Its influence values say by how much each image moves it; their sums per group give the
cluster-robust ("sandwich") variance of any such score, without assumptions about how images of a group resemble each
other.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.metrics import CLASS_SCORES, log_odds

# proportion: of images; share: another score between 0 and 1; mean: of a loss per image, at least 0.
Scale: TypeAlias = Literal["proportion", "share", "mean"]

SCALES: dict[str, Scale] = {"precision": "proportion", "recall": "proportion", "specificity": "proportion"}
BRIER_RANGE = 2.0  # the largest Brier score


class Rows(NamedTuple):
    """Labeled predictions of N images as arrays."""

    actual: NDArray[np.int64]  # [N], the label's class index
    probabilities: NDArray[np.float64]  # [N, K]
    group: NDArray[np.int64]  # [N], 0 to G - 1; each group has an image
    groups: int  # G


class Estimate(NamedTuple):
    """A score with what its interval needs. Without images of a class the value is nan and the rest is 0."""

    score: str
    scale: Scale
    value: float
    variance: float  # of the value, between groups; corrected for few groups
    simple_variance: float  # the variance if all images were independent
    images: int  # in the denominator; of the rarer class
    groups: int  # with such an image
    effective_groups: float  # the number of equally large groups that would be as informative


class _Part(NamedTuple):
    """A score of one class, or of all images, before its variance is summed."""

    value: float
    influence: NDArray[np.float64]  # [N], sums to 0
    corrected: NDArray[np.float64]  # [N], influence divided by the root of 1 - the group's share of the denominator
    images: float
    groups: int
    effective_groups: float


def estimate_scores(rows: Rows, classes: Sequence[str]) -> Iterator[Estimate]:
    """Estimates every score that is a mean, a ratio of means or an AUC, with its variance between groups.

    Args:
        rows: the predictions.
        classes: the K class names.

    Yields:
        loss, brier (divided by `BRIER_RANGE`), accuracy and, for each class and as mean over the classes, CLASS_SCORES;
        `balanced_accuracy` equals `recall`. A mean over the classes is undefined if one class's score is.

    Source:
        Obuchowski 1997 for AUC (DeLong, DeLong and Clarke-Pearson 1988 with clusters); Bell and McCaffrey 2002 for the
        correction of the variance (CR2 of a mean, whose degrees of freedom are `effective_groups` - 1 for independent
        images); Hong, Lim and Bae 2026 (arXiv 2606.03656) for confusion-matrix scores under one sandwich variance.
    """
    count = len(rows.actual)
    one = np.ones(count)
    yield _estimate("loss", "mean", _ratio(rows, image_losses(rows), one), rows)
    yield _estimate("brier", "share", _ratio(rows, image_briers(rows), one), rows)
    predicted = rows.probabilities.argmax(1)
    yield _estimate("accuracy", "proportion", _ratio(rows, predicted == rows.actual, one), rows)
    for score in CLASS_SCORES:
        yield from _class_estimates(rows, predicted, classes, score)


def estimate_proportion(hits: NDArray[np.bool_], groups: NDArray[np.object_]) -> Estimate:
    """Estimates the share of images with an event, with its variance between groups.

    Args:
        hits: bool[N], the event of each image.
        groups: object[N], the name of each image's group.

    >>> estimate = estimate_proportion(np.arange(8) < 6, np.repeat(["p1", "p2", "p3", "p4"], 2).astype(object))
    >>> estimate.value, estimate.groups, round(estimate.variance, 4)  # variance p q / 3
    (0.75, 4, 0.0625)
    """
    names, codes = np.unique(groups, return_inverse=True)
    rows = Rows(np.zeros(len(hits), dtype=np.int64), np.zeros((len(hits), 0)), codes, len(names))
    return _estimate("proportion", "proportion", _ratio(rows, hits, np.ones(len(hits))), rows)


def image_losses(rows: Rows) -> NDArray[np.float64]:
    """Returns the cross-entropy of each image in nats, float64[N]; probabilities are clipped at float64's epsilon."""
    chosen = rows.probabilities[np.arange(len(rows.actual)), rows.actual]
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1))
    return losses


def image_briers(rows: Rows) -> NDArray[np.float64]:
    """Returns the squared error of each image, float64[N], summed over the classes and divided by `BRIER_RANGE`."""
    chosen = rows.probabilities[np.arange(len(rows.actual)), rows.actual]
    # The sum over the classes of (p - y)² without the array y: that of the other classes' p², plus (1 - p)².
    others = np.maximum(np.square(rows.probabilities).sum(1) - np.square(chosen), 0)
    briers: NDArray[np.float64] = (others + np.square(1 - chosen)) / BRIER_RANGE
    return briers


def _class_estimates(
    rows: Rows, predicted: NDArray[np.int64], classes: Sequence[str], score: str
) -> Iterator[Estimate]:
    """Yields the estimates of one score: of each class and of the mean over the classes."""
    odds = log_odds(rows.probabilities) if score == "auc" else None
    mean: _Part | None = None
    for column, name in enumerate(classes):
        is_class, called = rows.actual == column, predicted == column
        if odds is None:
            part = _ratio(rows, *_ratio_of(score, is_class, called))
        else:
            part = _auc(rows, is_class, odds[:, column])
        yield _estimate(f"{score}_{name}", SCALES.get(score, "share"), part, rows)
        mean = part if mean is None else _sum(mean, part)
        if odds is not None and len(classes) == 2:  # both classes have the same AUC
            yield _estimate(f"{score}_{classes[1]}", "share", part, rows)
            break
    assert mean is not None
    if score != "auc" or len(classes) > 2:
        mean = _scale(mean, 1 / len(classes))
    yield _estimate(score, "share", mean, rows)
    if score == "recall":
        yield _estimate("balanced_accuracy", "share", mean, rows)


def _ratio_of(
    score: str, is_class: NDArray[np.bool_], called: NDArray[np.bool_]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Returns numerator and denominator [N] of a class's score; is_class: the label, called: the predicted class."""
    if score == "recall":
        return is_class & called, is_class
    if score == "specificity":
        return ~is_class & ~called, ~is_class
    if score == "precision":
        return is_class & called, called
    return 2.0 * (is_class & called), is_class + called.astype(np.float64)


def _ratio(rows: Rows, numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> _Part:
    """Returns the ratio of two sums over the images."""
    above, below = numerator.astype(np.float64), denominator.astype(np.float64)
    total = below.sum()
    if total == 0:
        return _Part(np.nan, np.zeros(0), np.zeros(0), 0, 0, 0)
    held = np.bincount(rows.group, below, rows.groups) / total
    value = above.sum() / total
    influence = (above - value * below) / total
    groups, effective = int(np.count_nonzero(held)), float(1 / np.square(held).sum())
    return _Part(float(value), influence, _correct(influence, held, rows), total, groups, effective)


def _auc(rows: Rows, positive: NDArray[np.bool_], odds: NDArray[np.float64]) -> _Part:
    """Returns the share of pairs of a positive and another image that `odds` ranks rightly, ties half."""
    count, others = np.count_nonzero(positive), np.count_nonzero(~positive)
    if count == 0 or others == 0:
        return _Part(np.nan, np.zeros(0), np.zeros(0), 0, 0, 0)
    place = placements(positive, odds)
    value = place[positive].mean()
    influence = (place - value) / np.where(positive, count, others)
    held = np.stack([np.bincount(rows.group, side, rows.groups) / side.sum() for side in (positive, ~positive)])
    corrected = np.where(positive, _correct(influence, held[0], rows), _correct(influence, held[1], rows))
    groups, effective = int((held > 0).sum(1).min()), float((1 / np.square(held).sum(1)).min())
    return _Part(float(value), influence, corrected, float(min(count, others)), groups, effective)


def placements(positive: NDArray[np.bool_], odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the share of images of the other kind that each image is ranked rightly against, ties half.

    Args:
        positive: bool[N], which images are of the class; both kinds occur.
        odds: float64[N], larger for images that are ranked as more probably of the class; infinities allowed.

    Returns:
        float64[N]; the mean over the positive images and the mean over the others are both the AUC. Takes N log N time.

    >>> placements(np.array([True, True, False, False]), np.array([2.0, 0.0, 1.0, 0.0]))
    array([1.  , 0.25, 0.5 , 0.75])
    """
    _, rank = np.unique(odds, return_inverse=True)
    own, other = np.bincount(rank, positive), np.bincount(rank, ~positive)
    # Of the other kind: those ranked below a positive image, above another image; half of those at the same rank.
    below, above = np.cumsum(other) - other / 2, own.sum() - np.cumsum(own) + own / 2
    place: NDArray[np.float64] = np.where(positive, (below / other.sum())[rank], (above / own.sum())[rank])
    return place


def _correct(influence: NDArray[np.float64], held: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Divides by the root of 1 - held: the more of the denominator a group holds, the closer the score is to it."""
    return influence / np.sqrt(np.maximum(1 - held, np.finfo(np.float64).eps))[rows.group]


def _sum(one: _Part, other: _Part) -> _Part:
    """Adds two classes' scores; the counts are those of the rarer class."""
    if np.isnan(one.value) or np.isnan(other.value):
        return _Part(np.nan, np.zeros(0), np.zeros(0), 0, 0, 0)
    return _Part(
        one.value + other.value,
        one.influence + other.influence,
        one.corrected + other.corrected,
        min(one.images, other.images),
        min(one.groups, other.groups),
        min(one.effective_groups, other.effective_groups),
    )


def _scale(part: _Part, factor: float) -> _Part:
    return part._replace(
        value=part.value * factor, influence=part.influence * factor, corrected=part.corrected * factor
    )


def _estimate(score: str, scale: Scale, part: _Part, rows: Rows) -> Estimate:
    if np.isnan(part.value):
        return Estimate(score, scale, np.nan, 0, 0, 0, 0, 0)
    variance = np.square(np.bincount(rows.group, part.corrected, rows.groups)).sum()
    return Estimate(
        score,
        scale,
        part.value,
        float(variance),
        float(np.square(part.influence).sum()),
        round(part.images),
        int(part.groups),
        float(part.effective_groups),
    )
