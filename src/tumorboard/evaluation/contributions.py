"""Divides scores into one contribution per group, as tests and intervals by patient need them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.evaluation.clustered import placements
from tumorboard.evaluation.metrics import log_odds

Floats = NDArray[np.float64]

SCORES_OF_LOSS = ("brier", "loss")  # scores of which less is better


class Contribution(NamedTuple):
    """What each of G groups adds to a score of two models; float64[G] each."""

    first: Floats  # its sum is the first model's score
    second: Floats  # its sum is the second model's score
    weights: Floats  # what each group would add to a score of 1; its sum is 1
    fewest: int  # number of groups with the rarest class where the score is a mean over classes, else of all groups
    largest: float = 1.0  # largest possible difference

    @property
    def difference(self) -> Floats:
        """What each group adds to the difference; exchanging the models in a group flips its sign, except for AUC."""
        return self.first - self.second


def paired_contributions(
    actual: NDArray[np.int64],
    group: NDArray[np.int64],
    *,
    first: Floats,
    second: Floats,
    classes: Sequence[str],
    positive: str | None = None,
    only: Collection[str] = (),
) -> dict[str, Contribution]:
    """Divides the scores of two models by groups.

    Args:
        actual: int64[N], class indices.
        group: int64[N], the index of each row's group: 0 to G - 1, each with a row.
        first: float64[N, K], probabilities of the first model.
        second: float64[N, K], probabilities of the second model.
        classes: the K class names.
        positive: the positive one of two classes; the recalls are then called sensitivity and specificity.
        only: names of the scores that are divided; other names have no effect; empty: all.

    Returns:
        The contributions by score: accuracy, balanced_accuracy, recall_<class> or sensitivity and specificity, brier,
        auc. The contributions to an undefined score are nan.

    Raises:
        InputError: `positive` is not one of two classes.
    """
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(f"data.positive is '{positive}', expected one of two classes; there are {', '.join(classes)}")
    both = (first, second)
    by_group = _Groups(group, int(group.max()) + 1, actual, len(classes))
    right = [(table.argmax(1) == actual).astype(np.float64) for table in both]
    parts: dict[str, Callable[[], Contribution]] = {
        "accuracy": lambda: by_group.linear(right, by_group.every),
        "balanced_accuracy": lambda: by_group.linear(right, by_group.mean_of_classes(), by_group.fewest),
    }
    for k in sorted(range(len(classes)), key=lambda k: classes[k] != positive):  # sensitivity before specificity
        own = "sensitivity" if classes[k] == positive else "specificity" if positive else f"recall_{classes[k]}"
        parts[own] = partial(by_group.recall, right, k)
    parts["brier"] = lambda: by_group.brier(both)
    parts["auc"] = lambda: by_group.auc(log_odds(first), log_odds(second))
    return {score: part() for score, part in parts.items() if not only or score in only}


class _Groups(NamedTuple):
    """Sums over the groups of N rows."""

    group: NDArray[np.int64]  # [N], the index of each row's group
    groups: int  # G, the number of groups
    actual: NDArray[np.int64]  # [N], class indices
    classes: int  # K, the number of classes

    @property
    def every(self) -> Floats:
        """The weights of the rows in the mean over all rows."""
        return np.full(len(self.actual), 1 / len(self.actual))

    def mean_of_class(self, k: int) -> Floats:
        """Returns the weights of the rows in the mean over a class's images; nan where it has none."""
        of_class = self.actual == k
        return of_class / of_class.sum() if of_class.any() else np.full(len(of_class), np.nan)

    def mean_of_classes(self) -> Floats:
        """Returns the weights of the rows in the mean over the classes of their means."""
        means: Floats = np.mean([self.mean_of_class(k) for k in range(self.classes)], axis=0)
        return means

    @property
    def fewest(self) -> int:
        """The number of groups with images of the class that has the fewest groups."""
        return min(len(np.unique(self.group[self.actual == k])) for k in range(self.classes))

    def total(self, values: Floats) -> Floats:
        """Returns the sum of the rows' values in each group, float64[G]."""
        return np.bincount(self.group, values, self.groups).astype(np.float64)

    def linear(self, values: list[Floats], weights: Floats, fewest: int | None = None) -> Contribution:
        """Returns the contributions to a weighted mean over the rows of each model's values."""
        first, second = (self.total(value * weights) for value in values)
        return Contribution(first, second, self.total(weights), fewest or self.groups)

    def recall(self, right: list[Floats], k: int) -> Contribution:
        """Returns the contributions to the recall of a class; `right` is 1 where a model decides for the label."""
        return self.linear(right, self.mean_of_class(k))

    def brier(self, both: Sequence[Floats]) -> Contribution:
        """Returns the contributions to the Brier score of two models' probabilities [N, K]."""
        one_hot = np.eye(self.classes)[self.actual]
        squared = [np.square(table - one_hot).sum(1) for table in both]
        return self.linear(squared, self.every)._replace(largest=2.0)

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
