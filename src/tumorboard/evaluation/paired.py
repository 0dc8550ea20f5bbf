"""Compares two models on the same images: each score's difference with its interval and a test, by whole groups.

AUC is compared by DeLong's method with clusters, all other scores by exchanging the two models within groups.

Example:
    >>> from tumorboard.base.tables import make_predictions
    >>> rows = pd.DataFrame({"id": [f"{k:02}" for k in range(32)], "split": "test", "label": list("ab") * 16})
    >>> rows["group"] = [f"P{k // 4}" for k in range(32)]  # eight patients with four images
    >>> right = np.array([[0.9, 0.1], [0.1, 0.9]] * 16)
    >>> wrong = right.copy()
    >>> wrong[::4] = 0.2, 0.8  # one image of each patient
    >>> better, worse = (make_predictions(rows, table, ["a", "b"], "digest") for table in (right, wrong))
    >>> differences = compare(better, worse, unit="patient").set_index("score")
    >>> [*map(str, differences.loc["accuracy"])]
    ['1.0', '0.75', '0.25', '0.25', '0.25', '0.0078125', 'first is ahead']
    >>> compare(better[:16], worse[:16], unit="patient")["verdict"].tolist()[0]
    'too few patients (4)'
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, printable
from tumorboard.base.tables import Predictions, classes_of, probabilities_of
from tumorboard.evaluation.auc_difference import auc_difference
from tumorboard.evaluation.clustered import Rows
from tumorboard.evaluation.contributions import SCORES_OF_LOSS, Contribution, paired_contributions
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.sign_flip import Flipped, fewest_groups, flip_signs
from tumorboard.evaluation.summary import OF_PROBABILITIES

Differences: TypeAlias = pd.DataFrame  # one row per score: DIFFERENCE_COLUMNS

# The two models' values; first minus second, with the ends of its interval; the two-sided p; and one of the verdicts
# below, or 'too few patients (4)', where interval and p are missing.
DIFFERENCE_COLUMNS = ("score", "first", "second", "difference", "low", "high", "p", "verdict")
PERMUTATIONS = 9999  # number of flips; the smallest p is 1 in 10,000
MIN_GROUPS_PER_CLASS = 3  # the fewest groups of each class for a score over several classes
NOISE, FIRST, SECOND = "within noise", "first is ahead", "second is ahead"  # for brier less is better
UNDEFINED = "undefined"  # verdict where a class has no image
SHARES_ALONE = "shares of votes, no probabilities"  # why a score of a hard vote is not stated
SHARES = f"not compared: a hard vote has {SHARES_ALONE}"


def compare(
    first: Predictions,
    second: Predictions,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    positive: str | None = None,
    unit: str | None = None,
    names: tuple[str, str] = ("the first", "the second"),
    probabilities: bool = True,
    only: Collection[str] = (),
) -> Differences:
    """Tests the differences between two models' scores on the same images.

    Args:
        first: the first model's rows, which all have a label; rows with the same `group` belong together.
        second: the second model's rows for the same images, in any order.
        confidence: confidence level of the intervals; 1 minus it is the share of false alarms.
        seed: seed of the drawn flips (`flip_signs`).
        permutations: number of flips to draw where there are too many to take all.
        positive: the positive one of two classes; the recalls are then called sensitivity and specificity.
        unit: the noun for a group, in the singular, for verdicts and messages; None: 'group'.
        names: names of the two tables, for messages.
        probabilities: whether both tables hold probabilities; where one has a hard vote's shares, scores of
            probabilities are not compared.
        only: names of the scores that are compared; other names have no effect; empty: all.

    Returns:
        One row per score, by the more probable class: accuracy, balanced_accuracy, recall_<class> of each class (or
        sensitivity and specificity), brier, auc.

    Raises:
        InputError: the tables are not of the same images with the same labels, groups and classes; there are no rows,
            or one has no label; `positive` is not one of two classes.
    """
    unit = unit or "group"
    first, second = align(first, second, names=names, unit=unit)
    actual, of_first = labels_and_probabilities(first)
    of_second = probabilities_of(second)
    groups, group = np.unique(first["group"].to_numpy(object), return_inverse=True)
    contributions = paired_contributions(
        actual, group, first=of_first, second=of_second, classes=classes_of(first), positive=positive, only=only
    )
    sides = Rows(actual, of_first, group, len(groups)), Rows(actual, of_second, group, len(groups))
    flip = partial(flip_signs, groups=groups.tolist(), confidence=confidence, seed=seed, permutations=permutations)
    rows: list[tuple[object, ...]] = []
    for score, part in contributions.items():
        if not probabilities and score in OF_PROBABILITIES:
            rows.append((score, *[np.nan] * 6, SHARES))
            continue
        flipped = _test(score, part, sides, flip, confidence)
        rows.append(_difference_row(score, part, flipped, alpha=1 - confidence, unit=unit))
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def _test(
    score: str, part: Contribution, sides: tuple[Rows, Rows], flip: Callable[..., Flipped], confidence: float
) -> Flipped:
    """Returns the test of the difference in one score: `_compare_auc` for the AUC, `flip` for all others."""
    flipped = _compare_auc(*sides, confidence=confidence) if score == "auc" else flip(part.difference, part.weights)
    if np.array_equal(sides[0].probabilities, sides[1].probabilities):  # one model twice: nothing is estimated
        return flipped._replace(low=0.0, high=0.0)
    return flipped


def _compare_auc(first: Rows, second: Rows, *, confidence: float) -> Flipped:
    """Returns the difference of two AUCs; interval and p are nan where so few groups give no other score any."""
    result = auc_difference(first, second, confidence)
    if first.groups < fewest_groups(confidence):
        result = result._replace(low=np.nan, high=np.nan, p=np.nan)
    return Flipped(*result, first.groups)


def _difference_row(score: str, part: Contribution, flipped: Flipped, *, alpha: float, unit: str) -> tuple[object, ...]:
    values = (score, float(part.first.sum()), float(part.second.sum()), flipped.difference)
    if np.isnan(flipped.difference):
        return (*values, np.nan, np.nan, np.nan, UNDEFINED)
    if np.isnan(flipped.p) or part.fewest < MIN_GROUPS_PER_CLASS:
        few = flipped.groups if np.isnan(flipped.p) else part.fewest
        return (*values, np.nan, np.nan, np.nan, f"too few {unit}s ({few})")
    low, high = max(flipped.low, -part.largest), min(flipped.high, part.largest)
    return (*values, low, high, flipped.p, verdict_of(score, flipped.difference, flipped.p, alpha))


def verdict_of(score: str, difference: float, p: float, alpha: float) -> str:
    """Returns NOISE, or which of two models is ahead.

    >>> verdict_of("accuracy", -0.02, 0.01, 0.05), verdict_of("brier", -0.02, 0.01, 0.05)
    ('second is ahead', 'first is ahead')
    >>> verdict_of("accuracy", -0.02, 0.3, 0.05)
    'within noise'
    """
    if np.isnan(p):
        return UNDEFINED
    if p >= alpha:
        return NOISE
    return FIRST if (difference > 0) != (score in SCORES_OF_LOSS) else SECOND


def align(
    first: Predictions, second: Predictions, *, names: tuple[str, str], unit: str
) -> tuple[Predictions, Predictions]:
    """Returns two tables of the same images sorted by id, with the classes in the order of the first.

    Args:
        first: the first model's Predictions.
        second: the second model's Predictions.
        names: names of the two tables, for messages.
        unit: the noun for a group, for messages.

    Raises:
        InputError: names the first difference in ids, labels, groups or classes, and how many there are.
    """
    for name, table in zip(names, (first, second), strict=True):
        if twice := table["id"][table["id"].duplicated()].tolist():
            raise InputError(f"{name}: id '{printable(twice[0])}' is in more than one part: compare one part at a time")
    _check_same(classes_of(first), classes_of(second), names, "class", "classes", "the same classes")
    cure = "the same test images (data, seed and split must be equal)" if _is_test(first) else "the same images"
    _check_same(first["id"].tolist(), second["id"].tolist(), names, "id", "ids", cure)
    first, second = (_sort_by_id(table) for table in (first, second))
    for column, word in {"label": "label", "group": unit}.items():
        differing = np.flatnonzero((first[column] != second[column]).to_numpy())
        if len(differing):
            row = differing[0]
            one, other, image = (
                printable(str(text)) for text in (first[column][row], second[column][row], first["id"][row])
            )
            raise InputError(
                f"{names[0]} and {names[1]} were made of different data: id '{image}' has the {word} '{one}' in one, "
                f"'{other}' in the other; {len(differing):,} of {len(first):,} ids differ"
            )
    return first, second[first.columns]


def _sort_by_id(predictions: Predictions) -> Predictions:
    """Returns the rows in the order of their ids; a panel's tables, which it compares again and again, have it."""
    if predictions["id"].is_monotonic_increasing:
        return predictions.reset_index(drop=True)
    return predictions.sort_values("id", ignore_index=True)


def _is_test(predictions: Predictions) -> bool:
    return bool(len(predictions)) and bool((predictions["split"] == "test").all())


def _check_same(
    one: Sequence[str], other: Sequence[str], names: tuple[str, str], word: str, words: str, cure: str
) -> None:
    """Raises InputError unless two lists have the same entries in any order."""
    only = [sorted(set(one) - set(other)), sorted(set(other) - set(one))]
    if not any(only):
        return
    parts = [
        f"{len(missing):,} of {len(entries):,} {words} are only in {name}, such as {word} '{printable(missing[0])}'"
        for missing, entries, name in zip(only, (one, other), names, strict=True)
        if missing
    ]
    raise InputError(f"{names[0]} and {names[1]} were made of different data: {'; '.join(parts)}: compare {cure}")
