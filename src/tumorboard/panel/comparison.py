"""Fits the panel to held-out rows, lets it vote on validation and test rows, and scores members and votes."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import Predictions, probabilities_of
from tumorboard.evaluation.calibration import apply_temperature, calibration_scores
from tumorboard.evaluation.held_out import HeldOut
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.evaluation.summary import Judging, mean_and_spread, summarize
from tumorboard.panel.fits import CrossFit, Fit, Fitting, apply_vote, cross_fit, vote_uncalibrated
from tumorboard.panel.members import join_test, join_validation, replace_probabilities
from tumorboard.panel.votes import VOTES, Array

HEADING = "heading"  # the table of the vote that heads the report
UNCALIBRATED = "uncalibrated"  # the table of the same vote without any temperature

# Keys: votes (by vote, and HEADING), members, folds; `score_part` states what is below them.
ScoreTree: TypeAlias = dict[str, Any]


class MemberOutputs(NamedTuple):
    """What one model of one fold predicted."""

    validation: Predictions  # of the fold's validation rows, uncalibrated
    held_out: HeldOut  # the same rows in the same order, by part
    test: Predictions  # of the test rows, uncalibrated; no rows where the test part is not scored


MemberFolds: TypeAlias = Mapping[str, Mapping[int, MemberOutputs]]  # by model and fold


class PartResults(NamedTuple):
    """The panel's predictions for one part of the data."""

    members: dict[str, Predictions]  # by model, its folds joined, calibrated
    votes: dict[str, Predictions]  # by vote, and as HEADING and UNCALIBRATED the vote that heads the report
    thresholds: Array  # [N], of the positive class in the heading vote; nan: the most probable class decides
    raw_members: dict[str, Predictions]  # by model, its folds joined, uncalibrated


class PanelResults(NamedTuple):
    """What `judge_panel` returns."""

    fit: Fit  # on all validation rows, for test rows and new images
    validation: PartResults  # each row without any fit to its own label
    test: PartResults
    validation_scores: ScoreTree
    test_scores: ScoreTree  # empty where there are no test rows


def judge_panel(outputs: MemberFolds, fitting: Fitting, judging: Judging) -> PanelResults:
    """Fits a panel to its validation rows, applies it, and scores members and votes.

    Args:
        outputs: by model and fold; all models have the same folds.
        fitting: what is fitted.
        judging: how predictions are scored.

    Raises:
        InputError: where the members do not belong together.
    """
    fitted, validation = _judge_validation(outputs, fitting)
    test = _judge_test(outputs, fitted.final)
    by_fold = {}
    folds = list(next(iter(outputs.values())))
    if len(folds) > 1:
        for fold in folds:
            alone = {model: {fold: tables[fold]} for model, tables in outputs.items()}
            fold_fit, fold_validation = _judge_validation(alone, fitting)
            by_fold[fold] = fold_validation, _judge_test(alone, fold_fit.final)
    return PanelResults(
        fitted.final,
        validation,
        test,
        score_part(validation, [results[0] for results in by_fold.values()], fitted.final.vote, judging),
        score_part(test, [results[1] for results in by_fold.values()], fitted.final.vote, judging)
        if len(test.thresholds)
        else {},
    )


def _judge_validation(outputs: MemberFolds, fitting: Fitting) -> tuple[CrossFit, PartResults]:
    joined = join_validation(
        {model: {fold: one.validation for fold, one in folds.items()} for model, folds in outputs.items()}
    )
    rows = next(iter(joined.values()))
    actual, _ = labels_and_probabilities(rows)
    versions, parts = _versions(outputs, rows["id"])
    fitted = cross_fit(fitting, versions, actual, parts)
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


def _judge_test(outputs: MemberFolds, fit: Fit) -> PartResults:
    calibrated = {
        model: {fold: calibrate_predictions(one.test, fit.temperatures[model]) for fold, one in folds.items()}
        for model, folds in outputs.items()
    }
    members = join_test(calibrated)
    raw = join_test({model: {fold: one.test for fold, one in folds.items()} for model, folds in outputs.items()})
    votes = vote_on(members, fit)
    votes[UNCALIBRATED] = replace_probabilities(votes[HEADING], vote_uncalibrated(fit, stack(raw, fit)))
    threshold = np.nan if fit.threshold is None else fit.threshold
    return PartResults(members, votes, np.full(len(votes[HEADING]), threshold), raw)


def calibrate_predictions(predictions: Predictions, temperature: float) -> Predictions:
    """Applies a temperature to the probabilities of a table."""
    return replace_probabilities(predictions, apply_temperature(probabilities_of(predictions), temperature))


def vote_on(members: Mapping[str, Predictions], fit: Fit) -> dict[str, Predictions]:
    """Returns the table of each vote, and as HEADING that of the vote that heads the report.

    Args:
        members: calibrated, by model in the order of `fit.temperatures`; same rows, same order.
        fit: of the panel.
    """
    rows, stacked = next(iter(members.values())), stack(members, fit)
    votes = {vote: replace_probabilities(rows, apply_vote(fit, vote, stacked)) for vote in VOTES}
    return votes | {HEADING: votes[fit.vote]}


def stack(members: Mapping[str, Predictions], fit: Fit) -> Array:
    """Returns the members' probabilities float64[M, N, K] in the order of `fit.temperatures`."""
    return np.stack([probabilities_of(members[model]) for model in fit.temperatures])


def score_part(part: PartResults, folds: list[PartResults], vote: str, judging: Judging) -> ScoreTree:
    """Scores members and votes on one part of the data, joined and per fold.

    Args:
        part: of all folds together.
        folds: of each fold on its own, where only its models vote; empty where there is one fold only.
        vote: that heads the report.
        judging: how predictions are scored.

    Returns:
        - `members`, `votes`: the scores by name, as `summarize` returns them. The hard vote has no scores of
          probabilities. The heading vote has those of its threshold.
        - `uncalibrated`: by model the calibration scores of its probabilities before its temperature.
        - `folds`: `members` and `votes` again, with the mean and the standard deviation (n - 1) of the folds' scores,
          `<score>_mean` and `<score>_sd`.
    """

    shares = {"hard", HEADING, UNCALIBRATED} if vote == "hard" else {"hard"}  # of votes, which are no probabilities

    def scores_of(kind: str, name: str) -> dict[str, Any]:
        thresholds = part.thresholds if kind == "votes" and name == HEADING else None
        stated = kind == "members" or name not in shares
        return summarize(getattr(part, kind)[name], judging, probabilities=stated, thresholds=thresholds)

    kinds = {"members": part.members, "votes": part.votes}
    return {kind: {name: scores_of(kind, name) for name in tables} for kind, tables in kinds.items()} | {
        "uncalibrated": {
            model: calibration_scores(table, positive=judging.positive) for model, table in part.raw_members.items()
        },
        "folds": {
            kind: {name: mean_and_spread([getattr(fold, kind)[name] for fold in folds]) for name in tables if folds}
            for kind, tables in kinds.items()
        },
    }


def headline(tree: ScoreTree, fit: Fit) -> dict[str, Any]:
    """Returns the scores of the heading vote as a flat dict for `dvc metrics` and `dvc exp show`.

    It holds the name of the vote, the scores with their intervals and, with several folds, `<score>_mean` and
    `<score>_sd`.
    """
    spread = tree["folds"]["votes"].get(HEADING, {})
    scores = {name: value for name, value in tree["votes"][HEADING].items() if not isinstance(value, dict)}
    return {"vote": fit.vote, **scores, **spread}


def headline_of_test(results: PanelResults) -> dict[str, Any]:
    """Returns the same of the test images, each name with the prefix 'test_'; {} where they are not scored."""
    flat = headline(results.test_scores, results.fit) if results.test_scores else {}
    return {f"test_{name}": value for name, value in flat.items()}


def best_member(validation_scores: Mapping[str, Any]) -> str:
    """Returns the member with the least validation loss; the first of equals."""
    members = validation_scores["members"]
    best: str = min(members, key=lambda model: members[model]["loss"])
    return best
