"""Scores by the values of the user's own columns, such as sex or site, and a test of each value against the others."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import Predictions
from tumorboard.evaluation.attribute_values import values_of_column
from tumorboard.evaluation.gap_test import MIN_GROUPS, Blocks, Gap, blocks_of, compare_sides
from tumorboard.evaluation.intervals import intervals
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.paired import SHARES_ALONE

Subgroups: TypeAlias = pd.DataFrame  # one row per column and value: SUBGROUP_COLUMNS

SUBGROUP_SCORES = ("accuracy", "balanced_accuracy", "auc")
SUBGROUP_COLUMNS = (
    *("column", "value", "images", "groups"),
    *(f"{score}{end}" for score in SUBGROUP_SCORES for end in ("", "_low", "_high", "_method")),
    *("gap", "gap_low", "gap_high", "p", "p_holm", "verdict"),
)
BELOW, ABOVE, NOISE = "below the others", "above the others", "within noise"
NO_GAP = Gap(np.nan, np.nan, np.nan, np.nan)


class _Value(NamedTuple):
    column: str
    value: str
    rows: NDArray[np.bool_]  # [N], which images have the value
    blocks: Blocks | None  # None: no image has another value
    second: bool  # whether it is the second of two values, which share one test


def subgroup_scores(
    predictions: Predictions,
    attributes: pd.DataFrame,
    columns: Sequence[str],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    unit: str | None = None,
    probabilities: bool = True,
) -> Subgroups:
    """Scores the images of each value of each column, and tests whether the model is worse on them than on the others.

    Args:
        predictions: N rows that all have a label.
        attributes: one row per image: id, then one text column per attribute, '' where unknown.
        columns: names of the attributes to score by. Empty cells are a value of their own, 'unknown'. A column with
            many different numbers is divided into ranges (`values_of_column`).
        confidence: confidence level of the intervals; 1 minus it is the share of false alarms in the whole table.
        seed: seed of the permutations.
        unit: the noun for a group, for the verdict; None: 'group'.
        probabilities: whether the table holds probabilities; a hard vote's shares of votes have no AUC.

    Returns:
        One row per column and value. `images`, `groups`: their numbers; the scores with their intervals as in
        `intervals`, nan where there is none; `gap`: the share of right images minus the share among the column's other
        values, at equal shares of classes, with its interval; `p`: the p-value of the gap (`gap_test`); `p_holm`: p
        after Holm's correction for all tests of the table (a column with two values has one test). `verdict`: BELOW or
        ABOVE where p_holm is below 1 - confidence, NOISE where it is not, else the reason why there is no test.

    Raises:
        InputError: a column is missing or has too many values, or an image is not in `attributes`.
    """
    actual, stated = labels_and_probabilities(predictions)
    right = stated.argmax(1) == actual
    groups = predictions["group"].to_numpy(object)
    values: list[_Value] = []
    for column in dict.fromkeys(columns):
        of_image, names = values_of_column(attributes, column, predictions["id"].tolist())
        for place, name in enumerate(names):
            rows = of_image == name
            blocks = blocks_of(groups, actual, right, rows) if len(names) > 1 else None
            values.append(_Value(column, name, rows, blocks, len(names) == 2 and place == 1))
    table = []
    for value, tested in zip(values, _test_values(values, 1 - confidence, seed, unit or "group"), strict=True):
        scored = intervals(predictions[value.rows], confidence, seed, bootstrap=0, unit=unit)
        if not probabilities:
            scored |= {"auc": None, "auc_low": None, "auc_high": None, "auc_method": SHARES_ALONE}
        cells = [scored[f"{score}{end}"] for score in SUBGROUP_SCORES for end in ("", "_low", "_high", "_method")]
        cells = [np.nan if cell is None else cell for cell in cells]
        count = (int(value.rows.sum()), len(set(groups[value.rows])))
        table.append((value.column, value.value, *count, *cells, *tested.gap, tested.p_holm, tested.verdict))
    return pd.DataFrame(table, columns=list(SUBGROUP_COLUMNS))


class _Tested(NamedTuple):
    gap: Gap
    p_holm: float
    verdict: str


def _test_values(values: list[_Value], alpha: float, seed: int, unit: str) -> list[_Tested]:
    """Returns the gap, the corrected p and the verdict of each value."""
    tests = sum(value.blocks is not None and not value.second for value in values)
    refusals = [_refusal(value, alpha / max(1, tests), unit) for value in values]
    gaps: list[Gap] = []
    for value, refusal in zip(values, refusals, strict=True):
        if value.second:
            gap = Gap(-gaps[-1].gap, -gaps[-1].high, -gaps[-1].low, gaps[-1].p)
        elif value.blocks is None:
            gap = NO_GAP
        else:
            gap = compare_sides(
                value.blocks, confidence=1 - alpha, seed=seed, stream=f"subgroup {value.column} {value.value}"
            )
        gaps.append(gap._replace(p=np.nan) if refusal else gap)
    first = [position for position, value in enumerate(values) if not value.second]
    p_holm = np.full(len(values), np.nan)
    p_holm[first] = correct_by_holm(np.array([gaps[position].p for position in first]))
    results = []
    for position, (value, gap, refusal) in enumerate(zip(values, gaps, refusals, strict=True)):
        p = float(p_holm[position - value.second])
        significant = BELOW if gap.gap < 0 else ABOVE
        refusal = refusal or ("no class in common with the others" if np.isnan(gap.p) else "")
        results.append(_Tested(gap, p, refusal or (significant if p < alpha else NOISE)))
    return results


def _refusal(value: _Value, least: float, unit: str) -> str:
    """Returns why a value cannot be tested, or '' where it can.

    Args:
        value: the value with its images.
        least: the p that the first step of Holm's correction requires.
        unit: the noun for a group.
    """
    if value.blocks is None:
        return "the only value"
    fewest = min(value.blocks.sides)
    # Exchanging sides of equal size gives the same |statistic|, so the least p is 2 / arrangements. The arrangements of
    # more than a thousand groups exceed the largest float64: Python compares the integer with a float as it is.
    if fewest < MIN_GROUPS or value.blocks.arrangements < 2 / least:
        return f"too few {unit}s to compare ({fewest})"
    return ""


def correct_by_holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns p-values corrected for their number by Holm's method, float64[N]; nan stays nan and does not count.

    >>> correct_by_holm(np.array([0.04, 0.01, np.nan, 0.03])).round(3).tolist()
    [0.06, 0.03, nan, 0.06]
    """
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    rising = tested[np.argsort(p[tested], kind="stable")]
    steps = p[rising] * np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(1, np.maximum.accumulate(steps)) if len(rising) else steps
    return corrected


def p_text(p: float) -> str:
    """Returns a p-value with three digits; '' for nan.

    >>> p_text(0.0341), p_text(0.0004), p_text(math.nan)
    ('0.034', '< 0.001', '')
    """
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def subgroups_warnings(subgroups: Subgroups) -> list[str]:
    """Returns a sentence for each value on which the model is worse than on the others."""
    return [
        f"{row['column']} {row['value']}: {100 * row['accuracy']:.1f} % of {row['images']:,} images are right, "
        f"{-100 * row['gap']:.1f} points below the other values at equal shares of classes "
        f"(p {p_text(row['p_holm'])} after Holm's correction)"
        for row in subgroups[subgroups["verdict"] == BELOW].to_dict("records")
    ]
