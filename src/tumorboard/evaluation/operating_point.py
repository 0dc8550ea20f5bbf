"""Decisions by a threshold of the positive class: the choice of the threshold, its scores and its net benefit.

All functions are for two classes, of which the positive one (`data.positive` in params.yaml) is to be detected.
"""

import math
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.params import AtSensitivity, AtSpecificity, Cost, Threshold
from tumorboard.base.tables import Predictions, classes_of
from tumorboard.evaluation.calibration import class_column
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.proportions import rate_by_group

DecisionCurve: TypeAlias = pd.DataFrame  # one row per threshold: threshold, model, all, none

HALF = 0.5  # the threshold without a rule: the more probable class
ROUNDING = 1e-9  # counts and relative costs that differ by less are equal


def positive_and_probability(predictions: Predictions, positive: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Returns which rows are positive, bool[N], and the probability of the positive class, float64[N].

    Raises:
        InputError: there are no rows, one has no label, `positive` is no class, or there are not two classes.
    """
    column = class_column(predictions, positive)
    if len(classes := classes_of(predictions)) != 2:
        raise InputError(
            f"data.positive is '{positive}', but there are {len(classes)} classes ({', '.join(classes)}): a positive "
            "class is one of two, leave data.positive empty"
        )
    actual, probabilities = labels_and_probabilities(predictions)
    return actual == column, probabilities[:, column]


def choose_threshold(predictions: Predictions, positive: str, rule: Threshold) -> float:
    """Chooses the probability from which an image is called positive.

    The threshold lies halfway between two neighboring probabilities of the given rows, so that none of them is on it.
    Below the lowest it is 0 and calls every image positive; above the highest it is halfway to 1, or above 1. Where
    several thresholds are equally good, the lowest is chosen: it misses the fewest.

    Args:
        predictions: rows that the threshold is not scored on.
        positive: the positive one of two classes.
        rule: `evaluate.threshold` of params.yaml. None: 0.5. 'youden': the largest sensitivity + specificity - 1.
            AtSensitivity: the highest threshold that reaches the sensitivity. AtSpecificity: the lowest that reaches
            the specificity. Both are always reached, if need be by calling all images the same. AtCost: the least
            sum of costs over these rows, hence at their own share of positives.

    Returns:
        The threshold; `decide` applies it.

    Raises:
        InputError: a class that the rule counts has no image, or the reasons of `positive_and_probability`.

    Source:
        Youden 1950.

    >>> from tumorboard.base.tables import make_predictions
    >>> rows = pd.DataFrame({"id": list("12345"), "group": list("12345"), "split": "val", "label": list("nnpnp")})
    >>> ill = np.array([0.1, 0.2, 0.3, 0.6, 0.9])
    >>> five = make_predictions(rows, np.stack([1 - ill, ill], 1), ["n", "p"], "digest")
    >>> choose_threshold(five, "p", "youden"), choose_threshold(five, "p", AtSpecificity(specificity=0.99))
    (0.25, 0.75)
    """
    is_positive, probability = positive_and_probability(predictions, positive)
    if rule is None:
        return HALF
    _check_classes(is_positive, classes_of(predictions), positive, rule)
    return threshold_by_rule(is_positive, probability, rule)


def threshold_by_rule(is_positive: NDArray[np.bool_], probability: NDArray[np.float64], rule: Threshold) -> float:
    """Chooses a threshold as `choose_threshold` does, from arrays.

    Args:
        is_positive: bool[N]; the classes that the rule counts have rows.
        probability: float64[N], probability of the positive class.
        rule: `evaluate.threshold` of params.yaml.
    """
    if rule is None:
        return HALF
    thresholds, true_positives, false_positives = _candidates(is_positive, probability)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if isinstance(rule, AtSensitivity):
        return float(thresholds[true_positives >= rule.sensitivity * positives - ROUNDING][-1])
    if isinstance(rule, AtSpecificity):
        return float(thresholds[negatives - false_positives >= rule.specificity * negatives - ROUNDING][0])
    if rule == "youden":
        merit = (true_positives * negatives - false_positives * positives).astype(np.float64)  # exact in integers
    else:
        merit = -_cost(rule.cost, positives - true_positives, false_positives)
    return float(thresholds[merit >= merit.max() - ROUNDING * abs(merit.max())][0])


def _check_classes(is_positive: NDArray[np.bool_], classes: list[str], positive: str, rule: Threshold) -> None:
    """Raises InputError if a class that the rule counts has no image."""
    negative = next(name for name in classes if name != positive)
    without = [name for name, rows in ((positive, is_positive), (negative, ~is_positive)) if not rows.any()]
    uncounted = negative if isinstance(rule, AtSensitivity) else positive if isinstance(rule, AtSpecificity) else None
    if missing := [name for name in without if name != uncounted]:
        raise InputError(
            f"no image of class '{missing[0]}' to choose evaluate.threshold on: add such images, have fewer folds, or "
            "leave evaluate.threshold empty"
        )


def _cost(cost: Cost, misses: NDArray[np.int64], false_alarms: NDArray[np.int64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = cost.false_negative * misses + cost.false_positive * false_alarms
    return total


def _candidates(
    is_positive: NDArray[np.bool_], probability: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Returns all thresholds that decide differently, rising, with their true and false positives, each [D + 1]."""
    values, index = np.unique(probability, return_inverse=True)
    middles = (values[:-1] + values[1:]) / 2
    # Two adjacent float64 have no number between them: the upper one itself separates them, since `decide` includes it.
    middles = np.where(middles > values[:-1], middles, values[1:])
    above_all = (values[-1] + 1) / 2
    end = above_all if above_all > values[-1] else np.nextafter(values[-1], 2)
    counts = [np.bincount(index, weights=rows).astype(np.int64) for rows in (is_positive, ~is_positive)]
    true_positives, false_positives = (np.append(np.cumsum(count[::-1])[::-1], 0) for count in counts)
    return np.concatenate([[0.0], middles, [end]]), true_positives, false_positives


def decide(probabilities: NDArray[np.float64], threshold: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which images are called positive, bool[N]: those whose probability is at least the threshold.

    Args:
        probabilities: float64[N], probability of the positive class.
        threshold: one threshold for all images, or float64[N].
    """
    decided: NDArray[np.bool_] = np.asarray(probabilities) >= threshold
    return decided


def operating_scores(
    predictions: Predictions,
    positive: str,
    threshold: float | NDArray[np.float64],
    *,
    confidence: float = 0.95,
    unit: str | None = None,
) -> dict[str, float | str | None]:
    """Scores the decisions at a threshold.

    Args:
        predictions: N rows that all have a label and that did not choose the threshold.
        positive: the positive one of two classes.
        threshold: one threshold for all rows, or float64[N], such as one per part of a cross-fitting.
        confidence: confidence level of the intervals.
        unit: the noun for a group, such as 'patient'; None: 'group'.

    Returns:
        - `sensitivity`, `specificity`, `ppv`, `npv` and `decided_accuracy`, the share of right decisions; None where
          there is nothing to divide by. Each also has `<score>_low` and `<score>_high`, its interval by group, None
          where there is none; `<score>_method`, the method or why there is no interval; `<score>_images`, the
          denominator, and `<score>_groups`, the number of groups of these images.
        - `true_positives`, `false_negatives`, `false_positives`, `true_negatives`: numbers of images.
        - `threshold`: the threshold; None where the rows have different ones.

    Raises:
        InputError: the reasons of `positive_and_probability`.
    """
    is_positive, probability = positive_and_probability(predictions, positive)
    called = decide(probability, threshold)
    groups = predictions["group"].to_numpy(object)
    events = {
        "sensitivity": (is_positive, called),
        "specificity": (~is_positive, ~called),
        "ppv": (called, is_positive),
        "npv": (~called, ~is_positive),
        "decided_accuracy": (np.ones_like(called), called == is_positive),
    }
    flat: dict[str, float | str | None] = {}
    for score, (among, hits) in events.items():
        rate = rate_by_group(hits[among], groups[among], confidence, unit)
        numbers = {score: rate.rate, f"{score}_low": rate.low, f"{score}_high": rate.high}
        flat |= {name: None if math.isnan(number) else number for name, number in numbers.items()}
        flat |= {f"{score}_method": rate.method, f"{score}_images": rate.images, f"{score}_groups": rate.groups}
    flat |= {
        "true_positives": int((called & is_positive).sum()),
        "false_negatives": int((~called & is_positive).sum()),
        "false_positives": int((called & ~is_positive).sum()),
        "true_negatives": int((~called & ~is_positive).sum()),
    }
    distinct = np.unique(threshold)
    return flat | {"threshold": float(distinct[0]) if len(distinct) == 1 else None}


def decision_curve(predictions: Predictions, positive: str) -> DecisionCurve:
    """Computes the net benefit of deciding by the model, against treating all and treating none.

    At the threshold probability t a person weighs one false alarm as t / (1 - t) of one detected case. The net benefit
    is (true positives - false positives * t / (1 - t)) / images, in detected cases per image. It needs calibrated
    probabilities: the model calls positive what has a probability of at least t.

    Returns:
        One row per threshold 0.01, 0.02 to 0.99: `threshold`, `model`, `all`, `none` (0 throughout).

    Raises:
        InputError: the reasons of `positive_and_probability`.

    Source:
        Vickers and Elkin 2006.
    """
    is_positive, probability = positive_and_probability(predictions, positive)
    thresholds = np.arange(1, 100) / 100
    weight = thresholds / (1 - thresholds)
    # Rows with a probability of at least t, by counting those below it in the sorted probabilities of each class.
    true_positives, false_positives = (
        rows.sum() - np.searchsorted(np.sort(probability[rows]), thresholds, side="left")
        for rows in (is_positive, ~is_positive)
    )
    images = len(is_positive)
    columns = {
        "threshold": thresholds,
        "model": (true_positives - false_positives * weight) / images,
        "all": (is_positive.sum() - (~is_positive).sum() * weight) / images,
        "none": np.zeros_like(thresholds),
    }
    return pd.DataFrame(columns)
