"""Joins the members, lets them vote, and compares the scores of members and votes."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from tumorboard.base.params import Evaluate
from tumorboard.base.tables import Members, Predictions
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import HEADLINE_SCORES, scores
from tumorboard.panel.members import FoldPredictions, join_members
from tumorboard.panel.votes import VOTES, fit_weights, vote_by_fold

# Keys: votes, members, weights, folds; `compare_scores` states what is below them.
ScoreTree: TypeAlias = dict[str, Any]


class Comparison(NamedTuple):
    """What `compare_votes` returns."""

    members: dict[str, Predictions]  # one table per model, all its folds joined
    votes: dict[str, Predictions]  # one table per vote
    scores: ScoreTree  # of both


def compare_votes(folds: FoldPredictions, evaluate: Evaluate, seed: int) -> Comparison:
    """Joins the folds of each model, applies every vote, and scores models and votes.

    Args:
        folds: the Predictions by model and fold.
        evaluate: the settings of the bootstrap intervals.
        seed: of the bootstrap intervals.

    Raises:
        InputError: where the members do not belong together.
    """
    members = join_members(folds)
    votes = {name: vote(members) for name, vote in VOTES.items()}
    tree = compare_scores(
        members=members,
        votes=votes,
        member_folds=folds,
        vote_folds=vote_by_fold(folds),
        evaluate=evaluate,
        seed=seed,
    )
    return Comparison(members, votes, tree)


def compare_scores(
    *,
    members: Members,
    votes: Members,
    member_folds: FoldPredictions,
    vote_folds: FoldPredictions,
    evaluate: Evaluate,
    seed: int,
) -> ScoreTree:
    """Scores members and votes, joined and per fold.

    Args:
        members: joined Predictions by model.
        votes: joined Predictions by vote.
        member_folds: Predictions by model and fold.
        vote_folds: Predictions by vote and fold, where the models of the fold alone vote.
        evaluate: the settings of the bootstrap intervals.
        seed: of the bootstrap intervals.

    Returns:
        - `votes`, `members`: by name the scores of `test`, with bootstrap intervals, and of `val`.
        - `weights`: the members' weights in the weighted vote.
        - `folds`: `votes` and `members` again, but for `test` and `val` the mean and the standard deviation (n - 1) of
          the folds' scores, `<score>_mean` and `<score>_sd`. A name with one fold is left out.
    """
    folds = {"votes": vote_folds, "members": member_folds}
    return {
        "votes": {name: _scores_by_split(table, evaluate, seed) for name, table in votes.items()},
        "members": {model: _scores_by_split(table, evaluate, seed) for model, table in members.items()},
        "weights": fit_weights(members),
        "folds": {
            kind: {name: _spread(tables) for name, tables in by_name.items() if len(tables) > 1}
            for kind, by_name in folds.items()
        },
    }


def headline(tree: Mapping[str, Any], vote: str) -> dict[str, Any]:
    """Returns the test scores of one vote as a flat dict.

    With several folds it also holds the mean and standard deviation over the folds, `<score>_mean` and `<score>_sd` of
    the test images, `val_<score>_mean` and `val_<score>_sd` of the validation images.
    """
    spread = tree["folds"]["votes"].get(vote, {"test": {}, "val": {}})
    val_spread = {f"val_{name}": value for name, value in spread["val"].items()}
    return {"vote": vote, **tree["votes"][vote]["test"], **spread["test"], **val_spread}


def _scores_by_split(table: Predictions, evaluate: Evaluate, seed: int) -> dict[str, dict[str, float]]:
    test, val = (table[table["split"] == split] for split in ("test", "val"))
    return {"test": _headline_scores(test) | bootstrap_intervals(test, evaluate, seed), "val": _headline_scores(val)}


def _headline_scores(predictions: Predictions) -> dict[str, float]:
    every_score = scores(predictions)
    return {name: every_score[name] for name in ("images", *HEADLINE_SCORES)}


def _spread(folds: Mapping[int, Predictions]) -> dict[str, dict[str, float]]:
    """Returns mean and standard deviation over the folds by split; nan if the score is undefined in one fold."""
    spread = {}
    for split in ("test", "val"):
        every_score = pd.DataFrame([scores(fold[fold["split"] == split]) for fold in folds.values()])
        per_fold = every_score[list(HEADLINE_SCORES)]
        statistics = {"mean": per_fold.mean(skipna=False), "sd": per_fold.std(skipna=False)}
        spread[split] = {
            f"{name}_{statistic}": float(values[name])
            for name in HEADLINE_SCORES
            for statistic, values in statistics.items()
        }
    return spread
