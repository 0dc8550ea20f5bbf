"""Fits the panel to held-out rows, lets it vote on validation and test rows, and scores members and votes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.files import write_table
from tumorboard.base.tables import Predictions, classes_of, probabilities_of, read_predictions
from tumorboard.evaluation.calibration import calibration_scores
from tumorboard.evaluation.held_out import HeldOut, read_held_out
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.summary import Judging, mean_and_spread, summarize
from tumorboard.evaluation.temperature import apply_temperature
from tumorboard.panel.fits import CrossFit, Fitting, TooFewImagesError, cross_fit
from tumorboard.panel.fitted import Fit, apply_vote, vote_uncalibrated
from tumorboard.panel.members import join_test, join_validation, replace_probabilities
from tumorboard.panel.stacking import Cells
from tumorboard.panel.stacking_columns import cells_of
from tumorboard.panel.votes import Array

HEADING = "heading"  # the table of the vote that heads the report
UNCALIBRATED = "uncalibrated"  # the table of the same vote without any temperature

# Keys: votes (by vote, and HEADING), members, folds; `score_part` states what is below them.
ScoreTree: TypeAlias = dict[str, Any]


class MemberOutputs(NamedTuple):
    """What one model of one fold predicted."""

    validation: Predictions  # predictions of the fold's validation rows, uncalibrated
    held_out: HeldOut  # outputs for the same rows in the same order, by part
    test: Predictions  # predictions of the test rows, uncalibrated; no rows where they are not scored


MemberFolds: TypeAlias = Mapping[str, Mapping[int, MemberOutputs]]  # each model's outputs by fold


def read_outputs(
    validation: Mapping[tuple[str, int], Path],
    held_out: Mapping[tuple[str, int], Path],
    test: Mapping[tuple[str, int], Path],
) -> MemberFolds:
    """Reads what each model of each fold predicted.

    Args:
        validation: files of the Predictions for validation images, by model and fold.
        held_out: files of the outputs by part for the same images, by model and fold.
        test: files of the Predictions for test images, by model and fold.

    Raises:
        InputError: a file is missing or damaged.
    """
    outputs: dict[str, dict[int, MemberOutputs]] = {}
    for (model, fold), file in validation.items():
        table = read_predictions(file)
        own = read_held_out(held_out[model, fold], len(table), len(classes_of(table)))
        outputs.setdefault(model, {})[fold] = MemberOutputs(table, own, read_predictions(test[model, fold]))
    return outputs


class PartResults(NamedTuple):
    """The panel's predictions for one part of the data."""

    members: dict[str, Predictions]  # predictions by model, its folds joined, calibrated
    votes: dict[str, Predictions]  # predictions by vote; HEADING and UNCALIBRATED: of the vote that heads the report
    thresholds: Array  # [N], threshold of the positive class in the heading vote; nan: the most probable class decides
    raw_members: dict[str, Predictions]  # predictions by model, its folds joined, uncalibrated


class PanelResults(NamedTuple):
    """What `judge_panel` returns."""

    fit: Fit  # fit to all validation rows, for test rows and new images
    validation: PartResults  # predictions of each row without any fit to its own label
    test: PartResults
    validation_scores: ScoreTree
    test_scores: ScoreTree  # empty where there are no test rows


def judge_panel(
    outputs: MemberFolds, fitting: Fitting, judging: Judging, attributes: pd.DataFrame | None = None
) -> PanelResults:
    """Fits a panel to its validation rows, applies it, and scores members and votes.

    Args:
        outputs: each model's outputs by fold; all models have the same folds.
        fitting: what is fitted.
        judging: how predictions are scored.
        attributes: one row per image: id, then one text column per attribute; None: `fitting` names no column.

    Raises:
        InputError: where the members do not belong together, a column is missing, or the vote cannot be fitted.
    """
    fitted, validation = _judge_validation(outputs, fitting, attributes)
    test = _judge_test(outputs, fitted.final, attributes)
    folds = list(next(iter(outputs.values())))
    by_fold = [
        _judge_fold({model: {fold: tables[fold]} for model, tables in outputs.items()}, fitting, attributes)
        for fold in folds
        if len(folds) > 1
    ]
    return PanelResults(
        fitted.final,
        validation,
        test,
        score_part(validation, [results[0] for results in by_fold], fitted.final.vote, judging, held_out=True),
        score_part(test, [results[1] for results in by_fold], fitted.final.vote, judging, held_out=False)
        if len(test.thresholds)
        else {},
    )


def _judge_fold(
    outputs: MemberFolds, fitting: Fitting, attributes: pd.DataFrame | None
) -> tuple[PartResults, PartResults]:
    """Returns the predictions of one fold's models for its validation rows and for test rows.

    Where a fold has too few rows for the vote that was named, it has no vote that heads the report.
    """
    try:
        fitted, validation = _judge_validation(outputs, fitting, attributes)
        return validation, _judge_test(outputs, fitted.final, attributes)
    except TooFewImagesError:
        fitted, validation = _judge_validation(outputs, replace(fitting, vote="soft"), attributes)
        parts = validation, _judge_test(outputs, fitted.final, attributes)
        for part in parts:
            del part.votes[HEADING], part.votes[UNCALIBRATED]
        return parts


def _cells(rows: Predictions, columns: Sequence[str], attributes: pd.DataFrame | None) -> Cells | None:
    """Returns the cells object[N, J] of the rows in columns of the data's table; None where no column is used."""
    return cells_of(attributes, columns, rows["id"].tolist()) if columns and attributes is not None else None


def _judge_validation(
    outputs: MemberFolds, fitting: Fitting, attributes: pd.DataFrame | None
) -> tuple[CrossFit, PartResults]:
    joined = join_validation(
        {model: {fold: one.validation for fold, one in folds.items()} for model, folds in outputs.items()}
    )
    rows = next(iter(joined.values()))
    actual, _ = labels_and_probabilities(rows)
    versions, parts = _versions(outputs, rows["id"])
    fitted = cross_fit(fitting, versions, actual, parts, cells=_cells(rows, fitting.stacking_columns, attributes))
    members = {model: replace_probabilities(rows, one) for model, one in zip(joined, fitted.members, strict=True)}
    votes = {vote: replace_probabilities(rows, one) for vote, one in fitted.votes.items()}
    votes[HEADING] = replace_probabilities(rows, fitted.heading)
    votes[UNCALIBRATED] = replace_probabilities(rows, fitted.uncalibrated)
    own = versions[parts, :, np.arange(len(parts))].swapaxes(0, 1)  # each row's version without its part
    raw = {model: replace_probabilities(rows, one) for model, one in zip(joined, own, strict=True)}
    return fitted, PartResults(members, votes, fitted.thresholds, raw)


def _versions(outputs: MemberFolds, ids: pd.Series) -> tuple[Array, NDArray[np.int64]]:
    """Returns the members' probabilities by left-out part, float64[P + 1, M, N, K], and the parts int64[N].

    The rows are in the order of `ids`. A fold with fewer parts has no rows in the others, so that the epoch which all
    its rows chose stands for them.
    """
    first = next(iter(outputs.values()))
    place = pd.Series(range(len(ids)), index=ids.to_numpy(object))
    choices = max(len(one.held_out.logits) for one in first.values())
    classes = next(iter(first.values())).held_out.logits.shape[2]
    versions = np.empty((choices, len(outputs), len(ids), classes))
    parts = np.empty(len(ids), np.int64)
    for member, folds in enumerate(outputs.values()):
        for one in folds.values():
            rows = place[one.validation["id"]].to_numpy()
            own = len(one.held_out.logits) - 1
            for choice in range(choices):
                versions[choice, member, rows] = one.held_out.probabilities(min(choice, own))
            parts[rows] = one.held_out.parts
    return versions, parts


def _judge_test(outputs: MemberFolds, fit: Fit, attributes: pd.DataFrame | None) -> PartResults:
    calibrated = {
        model: {fold: calibrate_predictions(one.test, fit.temperatures[model]) for fold, one in folds.items()}
        for model, folds in outputs.items()
    }
    members = join_test(calibrated)
    raw = join_test({model: {fold: one.test for fold, one in folds.items()} for model, folds in outputs.items()})
    columns = [column.name for column in fit.stacking.columns] if fit.stacking else []
    cells = _cells(next(iter(members.values())), columns, attributes)
    votes = vote_on(members, fit, cells)
    votes[UNCALIBRATED] = replace_probabilities(votes[HEADING], vote_uncalibrated(fit, stack(raw, fit), cells))
    threshold = np.nan if fit.threshold is None else fit.threshold
    return PartResults(members, votes, np.full(len(votes[HEADING]), threshold), raw)


def calibrate_predictions(predictions: Predictions, temperature: float) -> Predictions:
    """Applies a temperature to the probabilities of a table."""
    return replace_probabilities(predictions, apply_temperature(probabilities_of(predictions), temperature))


def vote_on(members: Mapping[str, Predictions], fit: Fit, cells: Cells | None = None) -> dict[str, Predictions]:
    """Returns the table of each vote; HEADING is the table of the vote that heads the report.

    Args:
        members: calibrated predictions by model, in the order of `fit.temperatures`; same rows, same order.
        fit: the panel's fitted numbers.
        cells: object[N, J], the columns that the vote 'stacking' uses; None without any.
    """
    rows, stacked = next(iter(members.values())), stack(members, fit)
    votes = {vote: replace_probabilities(rows, apply_vote(fit, vote, stacked, cells)) for vote in fit.votes}
    return votes | {HEADING: votes[fit.vote]}


def stack(members: Mapping[str, Predictions], fit: Fit) -> Array:
    """Returns the members' probabilities float64[M, N, K] in the order of `fit.temperatures`."""
    return np.stack([probabilities_of(members[model]) for model in fit.temperatures])


def score_part(
    part: PartResults, folds: list[PartResults], vote: str, judging: Judging, *, held_out: bool
) -> ScoreTree:
    """Scores members and votes on one part of the data, joined and per fold.

    Args:
        part: predictions of all folds together.
        folds: predictions of each fold on its own, where only its models vote; empty where there is one fold only.
        vote: the vote that heads the report.
        judging: how predictions are scored.
        held_out: whether each row was left out of the fits that its predictions come from, as validation rows are.

    Returns:
        - `members`, `votes`: the scores by name, as `summarize` returns them. The hard vote has no scores of
          probabilities. The heading vote has the scores of its threshold.
        - `uncalibrated`: the calibration scores of each model's probabilities before its temperature.
        - `folds`: `members` and `votes` again, with the mean and the standard deviation (n - 1) of the folds' scores,
          `<score>_mean` and `<score>_sd`, for the votes that were fitted in each fold.
    """

    shares = {"hard", HEADING, UNCALIBRATED} if vote == "hard" else {"hard"}  # shares of votes are no probabilities

    def stated(kind: str, name: str) -> bool:
        return kind == "members" or name not in shares

    def scores_of(kind: str, name: str) -> dict[str, Any]:
        thresholds = part.thresholds if kind == "votes" and name == HEADING else None
        return summarize(
            getattr(part, kind)[name],
            judging,
            probabilities=stated(kind, name),
            thresholds=thresholds,
            held_out=held_out,
        )

    kinds = {"members": part.members, "votes": part.votes}
    return {kind: {name: scores_of(kind, name) for name in tables} for kind, tables in kinds.items()} | {
        "uncalibrated": {
            model: calibration_scores(table, positive=judging.positive) for model, table in part.raw_members.items()
        },
        "folds": {
            kind: {
                name: mean_and_spread(
                    [getattr(fold, kind)[name] for fold in folds],
                    probabilities=stated(kind, name),
                    held_out=held_out,
                )
                for name in tables
                if folds and all(name in getattr(fold, kind) for fold in folds)
            }
            for kind, tables in kinds.items()
        },
    }


def write_part(part: PartResults, members: Path, votes: Path) -> None:
    """Writes the tables of the members and of the votes into a folder each, <name>.csv."""
    for folder, tables in ((members, part.members), (votes, part.votes)):
        for name, table in tables.items():
            write_table(table, folder / f"{name}.csv")


def headline(tree: ScoreTree, fit: Fit) -> dict[str, Any]:
    """Returns the scores of the heading vote as a flat dict for `dvc metrics` and `dvc exp show`.

    It holds the name of the vote, the scores with their intervals and, with several folds, `<score>_mean` and
    `<score>_sd`.
    """
    spread = tree["folds"]["votes"].get(HEADING, {})
    scores = {name: value for name, value in tree["votes"][HEADING].items() if not isinstance(value, dict)}
    return {"vote": fit.vote, **scores, **spread}


def headline_of_test(results: PanelResults) -> dict[str, Any]:
    """Returns `headline` of the test images, each name with the prefix 'test_'; {} where they are not scored."""
    flat = headline(results.test_scores, results.fit) if results.test_scores else {}
    return {f"test_{name}": value for name, value in flat.items()}


def best_member(validation_scores: Mapping[str, Any]) -> str:
    """Returns the member with the least validation loss; the first at a tie."""
    members = validation_scores["members"]
    best: str = min(members, key=lambda model: members[model]["loss"])
    return best
