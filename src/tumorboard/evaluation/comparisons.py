"""Comparisons within one panel, one of them chosen before the run, and the spread over models of several seeds."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.tables import Members, classes_of, probabilities_of
from tumorboard.evaluation.clustered import BRIER_RANGE, Estimate, Rows, estimate_means
from tumorboard.evaluation.intervals import interval_of
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.paired import DIFFERENCE_COLUMNS, Differences, align, compare, verdict_of
from tumorboard.evaluation.subgroups import correct_by_holm

Seeds: TypeAlias = pd.DataFrame  # one row per score: SEED_COLUMNS

NAME_COLUMNS = ("first_name", "second_name")
EXPLORATORY_COLUMNS = (*NAME_COLUMNS, *DIFFERENCE_COLUMNS[:-1], "p_holm", "verdict")
SEED_COLUMNS = ("score", "models", "mean", "sd", "low", "high", "method")
PRIMARY_SCORE = "accuracy"  # score of the one comparison that is not exploratory
# The scores of a panel's primary pair: all but the recalls of single classes.
OF_PRIMARY = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "auc")


class PanelComparison(NamedTuple):
    """What `compare_panel` returns."""

    primary: Differences  # one row, with NAME_COLUMNS before the others
    exploratory: pd.DataFrame  # EXPLORATORY_COLUMNS; its verdicts follow from p_holm


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number by Holm's method (1979); nan stays nan and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected: list[float] = correct_by_holm(np.array(p_values, dtype=np.float64)).tolist()
    return corrected


def compare_panel(
    predictions: Members,
    *,
    primary: tuple[str, str] | None,
    heading: str,
    best_member: str,
    confidence: float,
    seed: int,
    score: str = PRIMARY_SCORE,
    scores: Collection[str] = OF_PRIMARY,
    positive: str | None = None,
    unit: str | None = None,
    without_probabilities: Collection[str] = (),
) -> PanelComparison:
    """Makes one comparison that was chosen before the run, and all others as exploratory ones.

    The first is free of multiple testing, because it is one pair and one score. The exploratory table has the primary
    pair's other scores, and the heading vote against each other member and vote in `score`; Holm's correction counts
    all its rows.

    Args:
        predictions: Predictions of the same images by the name of a member or vote.
        primary: the two names of the primary comparison; None: the heading vote against the best member.
        heading: name of the vote that heads the report.
        best_member: name of the member with the least held-out loss; never chosen by the images compared here.
        confidence: confidence level of the intervals, which are not corrected.
        seed: seed of the drawn flips.
        score: score of the primary comparison.
        scores: scores of the primary pair; other names have no effect; empty: all.
        positive: the positive one of two classes.
        unit: the noun for a group, in the singular, for the verdicts.
        without_probabilities: names whose tables hold shares of votes; they are not compared in `brier` and `auc`.

    Raises:
        InputError: a name is not in the panel, the two names of the primary comparison are the same, or the tables are
            not of the same images.
    """
    pair = _chosen_pair(predictions, primary, heading, best_member)
    settled = partial(compare, confidence=confidence, seed=seed, positive=positive, unit=unit)
    of_pair = _named_differences(predictions, pair, partial(settled, only=scores), without_probabilities)
    tables = [of_pair[of_pair["score"] != score]]
    for name in predictions:
        if name != heading and {name, heading} != set(pair):
            of_score = partial(settled, only=(score,))
            tables.append(_named_differences(predictions, (heading, name), of_score, without_probabilities))
    chosen = of_pair.loc[of_pair["score"] == score, [*NAME_COLUMNS, *DIFFERENCE_COLUMNS]]
    return PanelComparison(
        chosen.reset_index(drop=True), _correct(pd.concat(tables, ignore_index=True), 1 - confidence)
    )


def compare_pair(
    pair: Members,
    *,
    confidence: float,
    seed: int,
    positive: str | None = None,
    unit: str | None = None,
    without_probabilities: Collection[str] = (),
) -> PanelComparison:
    """Compares two tables in PRIMARY_SCORE and, as exploration, in every other score, by `compare_panel` on both.

    Args:
        pair: the two Predictions by name, the first one first.
        confidence: confidence level of the intervals, which are not corrected.
        seed: seed of the drawn flips.
        positive: the positive one of two classes.
        unit: the noun for a group, in the singular, for the verdicts.
        without_probabilities: names whose tables hold shares of votes.
    """
    first, second = pair
    return compare_panel(
        pair,
        primary=(first, second),
        heading=first,
        best_member=second,
        confidence=confidence,
        seed=seed,
        scores=(),
        positive=positive,
        unit=unit,
        without_probabilities=without_probabilities,
    )


def _named_differences(
    predictions: Members, names: tuple[str, str], settled: Callable[..., Differences], without: Collection[str]
) -> Differences:
    """Compares two tables and adds NAME_COLUMNS.

    Args:
        predictions: Predictions of the same images by name.
        names: names of the two tables.
        settled: `compare` with all arguments set but the tables, their names and `probabilities`.
        without: names whose tables hold shares of votes.
    """
    first, second = names
    probabilities = not {first, second} & set(without)
    table = settled(predictions[first], predictions[second], names=names, probabilities=probabilities)
    return table.assign(**dict(zip(NAME_COLUMNS, names, strict=True)))


def _chosen_pair(
    predictions: Members, primary: tuple[str, str] | None, heading: str, best_member: str
) -> tuple[str, str]:
    """Returns the names of the primary comparison; raises InputError where one is unknown or both are the same."""
    pair = primary or (heading, best_member)
    for name in (*pair, heading):
        if name not in predictions:
            raise InputError(f"evaluate.primary: '{name}' is no member or vote; there are {', '.join(predictions)}")
    if pair[0] == pair[1]:
        raise InputError(f"evaluate.primary compares '{pair[0]}' with itself: name two members or votes")
    return pair


def _correct(exploratory: Differences, alpha: float) -> pd.DataFrame:
    """Adds p_holm to comparisons and sets their verdicts by it; returns EXPLORATORY_COLUMNS."""
    exploratory = exploratory.assign(p_holm=holm(exploratory["p"].tolist()))
    exploratory["verdict"] = [
        row["verdict"]
        if math.isnan(row["p_holm"])
        else verdict_of(row["score"], row["difference"], row["p_holm"], alpha)
        for row in exploratory.to_dict("records")
    ]
    return exploratory[list(EXPLORATORY_COLUMNS)]


def across_seeds(models: Members, *, confidence: float = 0.95, unit: str | None = None) -> Seeds:
    """Summarizes models that differ in their seed alone: mean, standard deviation, and an interval of the mean.

    Args:
        models: Predictions of the same images by the name of a model; two or more.
        confidence: confidence level of the interval.
        unit: the noun for a group, in the singular, for messages.

    Returns:
        One row per score: accuracy, balanced_accuracy, recall_<class>, brier, auc. `models`: their number; `mean` and
        `sd` over them; `low`, `high` and `method`: the interval of the recipe's expected score, as in `intervals`; nan
        and the reason where there is none. Its variance is the mean's variance between groups plus its variance between
        seeds (sd^2 / models), with the degrees of freedom of Welch and Satterthwaite.

    Raises:
        InputError: there are fewer than two models, or the tables are not of the same images.
    """
    if len(models) < 2:
        raise InputError(f"{len(models)} model: a spread over seeds needs two or more that differ in `seed` alone")
    names = list(models)
    reference = models[names[0]]
    rows = []
    for name in names:
        first, table = align(reference, models[name], names=(names[0], name), unit=unit or "group")
        actual, _ = labels_and_probabilities(first)
        groups, group = np.unique(first["group"].to_numpy(object), return_inverse=True)
        rows.append(Rows(actual, probabilities_of(table), group, len(groups)))
    classes = classes_of(reference)
    scores = ("accuracy", "balanced_accuracy", *(f"recall_{name}" for name in classes), "brier", "auc")
    by_score = {
        estimate.score: _seed_row(estimate, values, confidence, unit)
        for estimate, values in estimate_means(rows, classes)
        if estimate.score in scores
    }
    return pd.DataFrame([by_score[score] for score in scores], columns=list(SEED_COLUMNS))


def _seed_row(
    estimate: Estimate, values: NDArray[np.float64], confidence: float, unit: str | None
) -> tuple[object, ...]:
    """Returns a row of SEED_COLUMNS.

    Args:
        estimate: the mean over models.
        values: float64[M], the score of each model.
        confidence: confidence level of the interval.
        unit: the noun for a group; None: 'group'.
    """
    between = float(values.var(ddof=1)) / len(values)
    interval = interval_of(_with_spread(estimate, between, len(values)), confidence, unit)
    low, high = (math.nan if end is None else end for end in (interval.low, interval.high))
    factor = BRIER_RANGE if estimate.score == "brier" else 1.0
    numbers = (factor * number for number in (estimate.value, values.std(ddof=1), low, high))
    return (estimate.score, len(values), *numbers, interval.method)


def _with_spread(estimate: Estimate, between: float, models: int) -> Estimate:
    """Adds the variance between seeds to a mean over models, which has its variance between groups.

    Independent images would have the variance between seeds as well. A proportion's simple variance is the variance of
    single decisions, which the mean of several models undercuts.

    Args:
        estimate: the mean over models.
        between: the variance of the mean between seeds.
        models: number of models.
    """
    within, degrees = estimate.variance, max(1.0, estimate.effective_groups - 1)
    total = within + between
    if total == 0 or math.isnan(total):
        return estimate
    pooled = total**2 / (within**2 / degrees + between**2 / (models - 1))
    simple = estimate.simple_variance + between
    if estimate.scale == "proportion":
        simple = estimate.value * (1 - estimate.value) / estimate.images
    return estimate._replace(variance=total, simple_variance=simple, effective_groups=pooled + 1)
