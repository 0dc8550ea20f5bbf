"""All scores of one table of Predictions, as the metrics files and the report have them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.params import Evaluate, Params
from tumorboard.base.tables import Predictions, probabilities_of
from tumorboard.evaluation.by_group import group_predictions
from tumorboard.evaluation.calibration import calibration_scores, class_column
from tumorboard.evaluation.intervals import MIN_GROUPS, intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.operating_point import operating_scores

# Scores over all classes. Macro means of precision, recall and specificity are left out: the mean recall is the
# balanced accuracy, and the others would pose as the precision and specificity of a decision.
SUMMARY_SCORES = ("loss", "brier", "accuracy", "balanced_accuracy", "f1", "auc")
OF_PROBABILITIES = ("loss", "brier", "auc")  # scores that need probabilities, not shares of votes
OPERATING_SCORES = ("decided_accuracy", "sensitivity", "specificity", "ppv", "npv")
DECISIONS = ("true_positives", "false_negatives", "false_positives", "true_negatives")  # numbers of images
CALIBRATION_SCORES = ("calibration_slope", "calibration_intercept")


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How predictions are scored."""

    evaluate: Evaluate  # confidence, bootstrap, by_patient
    seed: int  # seed of the bootstrap
    unit: str | None = None  # the noun for a group; None: not stated
    positive: str | None = None  # the positive one of two classes


def judging_of(params: Params) -> Judging:
    """Returns how the predictions of a study are scored."""
    return Judging(evaluate=params.evaluate, seed=params.seed, unit=params.data.unit, positive=params.data.positive)


def summarize(
    predictions: Predictions,
    judging: Judging,
    *,
    probabilities: bool = True,
    thresholds: NDArray[np.float64] | None = None,
    held_out: bool = False,
) -> dict[str, Any]:
    """Scores predictions, with intervals.

    Args:
        predictions: N rows that all have a label.
        judging: how they are scored.
        probabilities: whether the table holds probabilities; a hard vote's shares are none.
        thresholds: float64[N], the lowest probability of the positive class that decides for it; nan: the more probable
            class. None: the table is not decided by a threshold and has no OPERATING_SCORES.
        held_out: whether each row was left out of the fit that it comes from, so that the rows are of several fits;
            there is no AUC then where `why_not_ranked` has a reason.

    Returns:
        A dict, flat but for its last two keys: `images` and `groups`; SUMMARY_SCORES by the more probable class, shares
        without OF_PROBABILITIES; with a positive class and thresholds also OPERATING_SCORES, by the thresholds.
        Each of these scores has `<score>_low` and `<score>_high`; where these are None, `<score>_method` is the reason.
        CALIBRATION_SCORES, for probabilities. `decisions`: DECISIONS, where there are OPERATING_SCORES. `by_group`: the
        scores of one row per group, where its images can be taken together, else the `reason` why they cannot.
    """
    flat: dict[str, Any] = {"images": len(predictions), "groups": int(predictions["group"].nunique())}
    flat |= _headline(predictions, judging, probabilities, held_out)
    if judging.positive is not None and thresholds is not None:
        flat |= _operating(predictions, judging.positive, judging, thresholds)
    if probabilities:
        calibration = calibration_scores(predictions, positive=judging.positive)
        flat |= {name: calibration[name] for name in CALIBRATION_SCORES}
    return flat | {"by_group": _by_group(predictions, judging, probabilities, held_out)}


def why_not_ranked(predictions: Predictions, unit: str | None) -> str:
    """Returns why rows that were left out of their fits cannot be ranked together; '' where they can.

    A fit without a group depends on that group's label: without a group on which the model is wrong it becomes surer.
    With fewer than MIN_GROUPS groups of a class the ranks of such rows lean against their labels (docs/metrics.md).

    Args:
        predictions: rows that all have a label.
        unit: the noun for a group, in the singular; None: 'group'.
    """
    groups = predictions.groupby("label")["group"].nunique()
    if len(groups) < 2 or groups.min() >= MIN_GROUPS:
        return ""
    return f"too few {unit or 'group'}s of '{groups.idxmin()}' to rank held-out images ({groups.min()})"


def _headline(predictions: Predictions, judging: Judging, probabilities: bool, held_out: bool) -> dict[str, Any]:
    evaluate = judging.evaluate
    every = intervals(predictions, evaluate.confidence, judging.seed, bootstrap=evaluate.bootstrap, unit=judging.unit)
    left_out = () if probabilities else OF_PROBABILITIES
    names = [name for name in SUMMARY_SCORES if name not in left_out]
    flat: dict[str, Any] = {}
    for name in names:
        flat[name] = every[name]
        if f"{name}_low" in every:
            flat |= _ends(name, every[f"{name}_low"], every[f"{name}_high"], str(every[f"{name}_method"]))
    if held_out and probabilities and (reason := why_not_ranked(predictions, judging.unit)):
        flat |= {"auc": None} | _ends("auc", None, None, reason)
    return flat


def _ends(name: str, low: Any, high: Any, method: str) -> dict[str, Any]:
    ends = {f"{name}_low": low, f"{name}_high": high}
    return ends if low is not None else ends | {f"{name}_method": method}


def _operating(
    predictions: Predictions, positive: str, judging: Judging, thresholds: NDArray[np.float64]
) -> dict[str, Any]:
    # A tie goes to the first class, as everywhere, so that no single threshold decides like the more probable class.
    more_probable = probabilities_of(predictions).argmax(1) == class_column(predictions, positive)
    at = np.where(np.isnan(thresholds), np.where(more_probable, 0.0, np.inf), thresholds)
    every = operating_scores(predictions, positive, at, confidence=judging.evaluate.confidence, unit=judging.unit)
    flat: dict[str, Any] = {"decisions": {name: every[name] for name in DECISIONS}}
    for name in OPERATING_SCORES:
        flat |= {name: every[name]} | _ends(
            name, every[f"{name}_low"], every[f"{name}_high"], str(every[f"{name}_method"])
        )
    return flat


def _by_group(predictions: Predictions, judging: Judging, probabilities: bool, held_out: bool) -> dict[str, Any]:
    """Returns the scores of groups, or as `reason` why there are none."""
    if predictions["group"].nunique() == len(predictions):
        return {"reason": f"each image is its own {judging.unit or 'group'}"}
    try:
        table = group_predictions(
            predictions, judging.evaluate.by_patient, positive=judging.positive, unit=judging.unit
        )
    except InputError as error:
        return {"reason": str(error)}
    if table["label"].nunique() < 2:
        return {"reason": f"every {judging.unit or 'group'} has an image of '{table['label'].iloc[0]}'"}
    return {"groups": len(table)} | _headline(table, judging, probabilities, held_out)


def mean_and_spread(
    folds: Sequence[Predictions], *, probabilities: bool = True, held_out: bool = False
) -> dict[str, float]:
    """Returns the mean and the standard deviation (n - 1) of the folds' headline scores.

    Args:
        folds: predictions of each fold.
        probabilities: whether the tables hold probabilities; shares of votes have no OF_PROBABILITIES.
        held_out: as in `summarize`.

    Returns:
        `<score>_mean` and `<score>_sd`; nan if the score is undefined in one fold.
    """
    names = [name for name in SUMMARY_SCORES if probabilities or name not in OF_PROBABILITIES]
    per_fold = pd.DataFrame([scores(fold) for fold in folds])[names]
    if held_out and probabilities and any(why_not_ranked(fold, None) for fold in folds):
        per_fold["auc"] = np.nan
    statistics = {"mean": per_fold.mean(skipna=False), "sd": per_fold.std(skipna=False)}
    return {f"{name}_{statistic}": float(values[name]) for name in names for statistic, values in statistics.items()}
