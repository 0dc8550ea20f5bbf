"""Members and votes side by side: the scores over all classes of each, and their spread over the folds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import OVERALL, scores
from tumorboard.evaluation.vote import fit_weights
from tumorboard.params import Evaluate


def compare(
    member_folds: Mapping[str, Mapping[int, pd.DataFrame]],
    vote_folds: Mapping[str, Mapping[int, pd.DataFrame]],
    members: Mapping[str, pd.DataFrame],
    votes: Mapping[str, pd.DataFrame],
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """The scores of votes and members (Predictions by name, joined and by fold) and the weights in the weighted vote.

    `votes` and `members`: by name 'test', with bootstrap intervals, and 'val'. `folds`: the same names, but of the
    folds' scores the mean and standard deviation (n - 1), `<score>_mean` and `<score>_sd`; empty where there is one.
    """
    folds = {"votes": vote_folds, "members": member_folds}
    return {
        "votes": {name: _by_part(table, evaluate, seed) for name, table in votes.items()},
        "members": {model: _by_part(table, evaluate, seed) for model, table in members.items()},
        "weights": fit_weights(members),
        "folds": {
            kind: {name: _spread(tables) for name, tables in judges.items() if len(tables) > 1}
            for kind, judges in folds.items()
        },
    }


def headline(compared: Mapping[str, Any], vote: str) -> dict[str, Any]:
    """One vote's test scores as a flat dict, and of several folds the spreads, those of validation as `val_<score>`."""
    spread = compared["folds"]["votes"].get(vote, {"test": {}, "val": {}})
    of_val = {f"val_{name}": value for name, value in spread["val"].items()}
    return {"vote": vote, **compared["votes"][vote]["test"], **spread["test"], **of_val}


def _by_part(table: pd.DataFrame, evaluate: Evaluate, seed: int) -> dict[str, dict[str, float]]:
    test, val = (table[table["split"] == part] for part in ("test", "val"))
    return {"test": _overall(test) | bootstrap_intervals(test, evaluate, seed), "val": _overall(val)}


def _overall(predictions: pd.DataFrame) -> dict[str, float]:
    found = scores(predictions)
    return {name: found[name] for name in ("images", *OVERALL)}


def _spread(folds: Mapping[int, pd.DataFrame]) -> dict[str, dict[str, float]]:
    spread = {}
    for part in ("test", "val"):
        table = pd.DataFrame([scores(fold[fold["split"] == part]) for fold in folds.values()])[list(OVERALL)]
        both = {"mean": table.mean(skipna=False), "sd": table.std(skipna=False)}
        spread[part] = {f"{name}_{kind}": float(of[name]) for name in OVERALL for kind, of in both.items()}
    return spread
