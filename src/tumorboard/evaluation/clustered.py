"""Scores with their variance between groups: images of one patient are not independent.

Every score here is a smooth function of means over images (of the cells of the confusion matrix, of squared errors, of
the ranks of AUC). Its influence values measure how far each image moves it; their sums per group give the
cluster-robust ("sandwich") variance of any such score, without assumptions about how images of a group resemble each
other.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.metrics import CLASS_SCORES, log_odds

# proportion: a share of images; share: another score between 0 and 1; mean: a mean loss per image, at least 0.
Scale: TypeAlias = Literal["proportion", "share", "mean"]

SCALES: dict[str, Scale] = {"precision": "proportion", "recall": "proportion", "specificity": "proportion"}
BRIER_RANGE = 2.0  # the largest Brier score


class Rows(NamedTuple):
    """Labeled predictions of N images as arrays."""

    actual: NDArray[np.int64]  # [N], the label's class index
    probabilities: NDArray[np.float64]  # [N, K]
    group: NDArray[np.int64]  # [N], number of the image's group, 0 to G - 1; each group has an image
    groups: int  # G, the number of groups


class Estimate(NamedTuple):
    """A score with what its interval needs. Without images of a class the value is nan and the rest is 0."""

    score: str
    scale: Scale
    value: float
    variance: float  # variance of the value between groups, corrected for few groups
    simple_variance: float  # the variance if all images were independent
    images: int  # images in the denominator; in an AUC or a mean over classes, images of the rarer class
    groups: int  # groups with such an image
    effective_groups: float  # the number of equally large groups that would be as informative
    weight: float = 0.0  # weight of one image of the rarer class in an AUC; 0 for other scores


class _Part(NamedTuple):
    """A score of one class, or of all images, before its variance is summed."""

    value: float
    influence: NDArray[np.float64]  # [N], sums to 0
    corrected: NDArray[np.float64]  # [N], influence divided by the root of 1 - the group's share of the denominator
    images: float
    groups: int
    effective_groups: float
    weight: float = 0.0


def estimate_scores(rows: Rows, classes: Sequence[str], *, only: Collection[str] = ()) -> Iterator[Estimate]:
    """Estimates every score that is a mean, a ratio of means or an AUC, with its variance between groups.

    Args:
        rows: the predictions.
        classes: the K class names.
        only: names of the CLASS_SCORES that are estimated; empty: all scores.

    Yields:
        loss, brier (divided by `BRIER_RANGE`), accuracy and, for each class and as mean over the classes, CLASS_SCORES;
        `balanced_accuracy` equals `recall`. A mean over the classes is undefined if one class's score is.

    Source:
        Obuchowski 1997 for AUC (DeLong, DeLong and Clarke-Pearson 1988 with clusters); Bell and McCaffrey 2002 for the
        correction of the variance (CR2 of a mean, whose degrees of freedom are `effective_groups` - 1 for independent
        images); Satterthwaite 1946 and Welch 1947 for the degrees of freedom of AUC, a sum of two means; Hong, Lim and
        Bae 2026 (arXiv 2606.03656) for confusion-matrix scores under one sandwich variance.
    """
    for score, scale, part in _named_parts(rows, classes, only):
        yield _estimate(score, scale, part, rows)


def estimate_means(models: Sequence[Rows], classes: Sequence[str]) -> Iterator[tuple[Estimate, NDArray[np.float64]]]:
    """Estimates the mean over M models of each score of `estimate_scores`, with its variance between groups.

    Args:
        models: each model's predictions for the same images in the same order.
        classes: the K class names.

    Yields:
        The estimate of the mean, and the models' values float64[M].
    """
    for parts in zip(*(_named_parts(rows, classes, ()) for rows in models), strict=True):
        score, scale, first = parts[0]
        mean = _scale(reduce(_sum, (part for _, _, part in parts)), 1 / len(parts))
        # Every model may misrank the same image: it has the weight in the mean that it has in one model's score.
        mean = mean._replace(weight=first.weight)
        yield _estimate(score, scale, mean, models[0]), np.array([part.value for _, _, part in parts])


def _named_parts(rows: Rows, classes: Sequence[str], only: Collection[str]) -> Iterator[tuple[str, Scale, _Part]]:
    """Yields each score of `estimate_scores` with its scale, before its variance is summed."""
    one, predicted = np.ones(len(rows.actual)), rows.probabilities.argmax(1)
    if not only:
        yield "loss", "mean", _ratio(rows, image_losses(rows), one)
        yield "brier", "share", _ratio(rows, image_briers(rows), one)
        yield "accuracy", "proportion", _ratio(rows, predicted == rows.actual, one)
    for score in only or CLASS_SCORES:
        yield from _class_parts(rows, predicted, classes, score)


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


def estimate_share(values: NDArray[np.float64], groups: NDArray[np.object_]) -> Estimate:
    """Estimates the mean over images of a value from 0 to 1, with its variance between groups.

    Args:
        values: float64[N].
        groups: object[N], the name of each image's group.

    >>> estimate = estimate_share(np.array([0.2, 0.4, 0.6]), np.array(["p1", "p2", "p3"], dtype=object))
    >>> round(estimate.value, 3), round(estimate.variance, 4)  # the sample variance 0.04 / 3
    (0.4, 0.0133)
    """
    names, codes = np.unique(groups, return_inverse=True)
    rows = Rows(np.zeros(len(values), dtype=np.int64), np.zeros((len(values), 0)), codes, len(names))
    return _estimate("share", "share", _ratio(rows, values, np.ones(len(values))), rows)


def image_losses(rows: Rows) -> NDArray[np.float64]:
    """Returns the cross-entropy of each image in nats, float64[N]; probabilities are clipped at float64's epsilon."""
    chosen = rows.probabilities[np.arange(len(rows.actual)), rows.actual]
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1))
    return losses


def image_briers(rows: Rows) -> NDArray[np.float64]:
    """Returns the squared error of each image, float64[N], summed over the classes and divided by `BRIER_RANGE`."""
    chosen = rows.probabilities[np.arange(len(rows.actual)), rows.actual]
    # The sum over the classes of (p - y)² without the array y: the sum of the other classes' p², plus (1 - p)².
    others = np.maximum(np.square(rows.probabilities).sum(1) - np.square(chosen), 0)
    briers: NDArray[np.float64] = (others + np.square(1 - chosen)) / BRIER_RANGE
    return briers


def _class_parts(
    rows: Rows, predicted: NDArray[np.int64], classes: Sequence[str], score: str
) -> Iterator[tuple[str, Scale, _Part]]:
    """Yields one score of each class, then its mean over the classes."""
    total: _Part | None = None
    number = 0
    for part in _auc_parts(rows) if score == "auc" else _ratio_parts(rows, predicted, score):
        both = score == "auc" and len(classes) == 2  # both classes have the same AUC
        for name in classes if both else (classes[number],):
            yield f"{score}_{name}", SCALES.get(score, "share"), part
        total = part if total is None else _sum(total, part)
        number += 1
    assert total is not None
    mean = _scale(total, 1 / number)
    yield score, "share", mean
    if score == "recall":
        yield "balanced_accuracy", "share", mean


def estimate_auc(rows: Rows) -> tuple[Estimate, NDArray[np.float64]]:
    """Returns the mean AUC of each class against the rest, and what each group adds to its variance.

    Returns:
        The estimate, and float64[G], whose squares sum to the variance; zeros where the AUC is undefined.
    """
    parts = list(_auc_parts(rows))
    mean = _scale(reduce(_sum, parts), 1 / len(parts))
    by_group = np.zeros(rows.groups)
    if not np.isnan(mean.value):
        by_group += np.bincount(rows.group, mean.corrected, rows.groups)
    return _estimate("auc", "share", mean, rows), by_group


def _auc_parts(rows: Rows) -> Iterator[_Part]:
    """Yields the AUC of each class against the rest; with two classes only one, which both have."""
    odds = log_odds(rows.probabilities)
    for column in range(1 if odds.shape[1] == 2 else odds.shape[1]):
        yield _auc(rows, rows.actual == column, odds[:, column])


def _ratio_parts(rows: Rows, predicted: NDArray[np.int64], score: str) -> Iterator[_Part]:
    """Yields precision, recall, specificity or F1 of each class."""
    for column in range(rows.probabilities.shape[1]):
        yield _ratio(rows, *_ratio_of(score, rows.actual == column, predicted == column))


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
    """Returns the share of pairs of a positive and another image that `odds` ranks correctly; ties count half."""
    count, others = np.count_nonzero(positive), np.count_nonzero(~positive)
    if count == 0 or others == 0:
        return _Part(np.nan, np.zeros(0), np.zeros(0), 0, 0, 0)
    place = placements(positive, odds)
    value = place[positive].mean()
    influence = (place - value) / np.where(positive, count, others)
    held = np.stack([np.bincount(rows.group, side, rows.groups) / side.sum() for side in (positive, ~positive)])
    sides = [
        np.where(side, _correct(influence, of, rows), 0) for side, of in zip((positive, ~positive), held, strict=True)
    ]
    variances = [np.square(np.bincount(rows.group, side, rows.groups)).sum() for side in sides]
    fewer = min(count, others)
    return _Part(
        float(value),
        influence,
        sides[0] + sides[1],
        float(fewer),
        int((held > 0).sum(1).min()),
        _degrees_of_two_means(held, np.array(variances)) + 1,
        1 / fewer,
    )


def _degrees_of_two_means(held: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """Returns the degrees of freedom of the sum of two means over groups, at least 1.

    One mean has 1 / S - 1 degrees, where S is the sum of its groups' squared shares. Two means over different groups
    have Welch's degrees, two means over the same groups in equal shares have the degrees of one; S of two means is the
    sum of the products of their groups' shares.

    Args:
        held: float64[2, G], the share of each group in the denominator of each mean.
        variances: float64[2], the variances of the two means.

    >>> apart = np.array([[0.5, 0.5, 0, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]])  # 1 and 2 degrees of freedom
    >>> round(_degrees_of_two_means(apart, np.ones(2)), 6)  # (1 + 1)^2 / (1 / 1 + 1 / 2)
    2.666667
    >>> round(_degrees_of_two_means(np.full((2, 5), 0.2), np.ones(2)), 6)
    4.0
    """
    total = variances.sum()
    parts = variances / total if total > 0 else np.full(2, 0.5)
    products = np.minimum(held @ held.T, 1 - np.finfo(np.float64).eps)
    return float(max(1.0, 1 / (parts @ (products / (1 - products)) @ parts)))


def placements(positive: NDArray[np.bool_], odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the share of the other kind's images that each image is ranked correctly against; ties count half.

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
    # Numbers of images of the other kind: below a positive image's rank, above another image's rank; ties count half.
    below, above = np.cumsum(other) - other / 2, own.sum() - np.cumsum(own) + own / 2
    place: NDArray[np.float64] = np.where(positive, (below / other.sum())[rank], (above / own.sum())[rank])
    return place


def _correct(influence: NDArray[np.float64], held: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Divides by the root of 1 - held: the more of the denominator a group holds, the closer the score is to it."""
    return influence / np.sqrt(np.maximum(1 - held, np.finfo(np.float64).eps))[rows.group]


def _sum(one: _Part, other: _Part) -> _Part:
    """Adds two classes' scores; the counts and the weight are those of the rarer class."""
    if np.isnan(one.value) or np.isnan(other.value):
        return _Part(np.nan, np.zeros(0), np.zeros(0), 0, 0, 0)
    return _Part(
        one.value + other.value,
        one.influence + other.influence,
        one.corrected + other.corrected,
        min(one.images, other.images),
        min(one.groups, other.groups),
        min(one.effective_groups, other.effective_groups),
        max(one.weight, other.weight),
    )


def _scale(part: _Part, factor: float) -> _Part:
    return part._replace(
        value=part.value * factor,
        influence=part.influence * factor,
        corrected=part.corrected * factor,
        weight=part.weight * factor,
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
        part.weight,
    )
