"""Scores as sums of one contribution per group, which is what tests and intervals by patient need."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.evaluation.clustered import placements
from tumorboard.evaluation.metrics import log_odds

Floats = NDArray[np.float64]

SCORES_OF_LOSS = ("brier", "loss")  # less is better


class Contribution(NamedTuple):
    """What each of G groups adds to a score of two models; float64[G] each."""

    first: Floats  # its sum is the first model's score
    second: Floats  # its sum is the second model's score
    weights: Floats  # what each would add to a score of 1; its sum is 1
    fewest: int  # groups of the rarest class, where the score is one of several classes; else of all
    largest: float = 1.0  # possible difference

    @property
    def difference(self) -> Floats:
        """What each group adds to the difference; but for AUC, exchanging the two models there flips its sign."""
        return self.first - self.second


def paired_contributions(
    actual: NDArray[np.int64],
    group: NDArray[np.int64],
    *,
    first: Floats,
    second: Floats,
    classes: Sequence[str],
    positive: str | None = None,
) -> dict[str, Contribution]:
    """Divides the scores of two models by groups.

    Args:
        actual: int64[N], class indices.
        group: int64[N], the index of each row's group: 0 to G - 1, each with a row.
        first: float64[N, K], probabilities of the first model.
        second: float64[N, K], probabilities of the second.
        classes: the K names.
        positive: of two classes; the recalls are then called sensitivity and specificity.

    Returns:
        The contributions by score: accuracy, balanced_accuracy, recall_<class> or sensitivity and specificity, brier,
        auc. Those of an undefined score are nan.

    Raises:
        InputError: `positive` is none of two classes.
    """
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(f"data.positive is '{positive}', expected one of two classes; there are {', '.join(classes)}")
    both = (first, second)
    by_group = _Groups(group, int(group.max()) + 1, actual, len(classes))
    right = [(table.argmax(1) == actual).astype(np.float64) for table in both]
    one_hot = np.eye(len(classes))[actual]
    squared = [np.square(table - one_hot).sum(1) for table in both]
    every = np.full(len(actual), 1 / len(actual))
    balanced = np.mean([by_group.mean_of_class(k) for k in range(len(classes))], axis=0)
    parts = {
        "accuracy": by_group.linear(right, every),
        "balanced_accuracy": by_group.linear(right, balanced, by_group.fewest),
    }
    for k in sorted(range(len(classes)), key=lambda k: classes[k] != positive):  # sensitivity before specificity
        own = "sensitivity" if classes[k] == positive else "specificity" if positive else f"recall_{classes[k]}"
        parts[own] = by_group.linear(right, by_group.mean_of_class(k))
    parts["brier"] = by_group.linear(squared, every)._replace(largest=2.0)
    parts["auc"] = by_group.auc(log_odds(first), log_odds(second))
    return parts


class _Groups(NamedTuple):
    """Sums over the groups of N rows."""

    group: NDArray[np.int64]  # [N], the index of each row's group
    groups: int  # how many
    actual: NDArray[np.int64]  # [N], class indices
    classes: int

    def mean_of_class(self, k: int) -> Floats:
        """Returns the weights of the rows in a mean over the images of a class; nan where it has none."""
        of_class = self.actual == k
        return of_class / of_class.sum() if of_class.any() else np.full(len(of_class), np.nan)

    @property
    def fewest(self) -> int:
        """The number of groups with images of the class that has the fewest."""
        return min(len(np.unique(self.group[self.actual == k])) for k in range(self.classes))

    def total(self, values: Floats) -> Floats:
        """Returns the sum of the rows' values in each group, float64[G]."""
        return np.bincount(self.group, values, self.groups).astype(np.float64)

    def linear(self, values: list[Floats], weights: Floats, fewest: int | None = None) -> Contribution:
        """Returns the contributions to a weighted mean over the rows of each model's values."""
        first, second = (self.total(value * weights) for value in values)
        return Contribution(first, second, self.total(weights), fewest or self.groups)

    def auc(self, first: Floats, second: Floats) -> Contribution:
        """Returns the contributions to the macro AUC of log-odds [N, K]; two classes have the same AUC."""
        columns = [1] if self.classes == 2 else list(range(self.classes))
        parts = [np.stack(list(self._auc_parts(self.actual == k, first[:, k], second[:, k]))) for k in columns]
        first, second, weights = np.mean(parts, axis=0)
        return Contribution(first, second, weights, self.fewest)

    def _auc_parts(self, positive: NDArray[np.bool_], first: Floats, second: Floats) -> Iterator[Floats]:
        """Yields first, second and weights of a Contribution to one class's AUC; each pair of images counts half."""
        images = positive.sum(), (~positive).sum()
        if 0 in images:
            yield from np.full((3, self.groups), np.nan)
            return
        halves = np.where(positive, 1 / images[0], 1 / images[1]) / 2
        for model in (first, second):
            yield self.total(placements(positive, model) * halves)
        yield self.total(halves)
