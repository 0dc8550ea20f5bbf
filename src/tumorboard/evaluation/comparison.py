"""Members and votes side by side: the scores over all classes of each, and their spread over folds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import OVERALL, scores
from tumorboard.evaluation.vote import fit_weights
from tumorboard.params import Evaluate


def compare(
    folds: Mapping[str, Mapping[int, pd.DataFrame]],
    members: Mapping[str, pd.DataFrame],
    votes: Mapping[str, pd.DataFrame],
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """The scores of votes and members (joined Predictions by name) and the members' weights in the weighted vote.

    `votes` and `members`: by name 'test', with bootstrap intervals, and 'val'. `folds`: where a model has several, the
    mean and standard deviation (n - 1) of their models' test scores, `<score>_mean` and `<score>_sd`.
    """
    return {
        "votes": {name: _by_part(table, evaluate, seed) for name, table in votes.items()},
        "members": {model: _by_part(table, evaluate, seed) for model, table in members.items()},
        "weights": fit_weights(members),
        "folds": {model: _spread(tables) for model, tables in folds.items() if len(tables) > 1},
    }


def _by_part(table: pd.DataFrame, evaluate: Evaluate, seed: int) -> dict[str, dict[str, float]]:
    test, val = (table[table["split"] == part] for part in ("test", "val"))
    return {"test": _overall(test) | bootstrap_intervals(test, evaluate, seed), "val": _overall(val)}


def _overall(predictions: pd.DataFrame) -> dict[str, float]:
    found = scores(predictions)
    return {name: found[name] for name in ("images", *OVERALL)}


def _spread(folds: Mapping[int, pd.DataFrame]) -> dict[str, float]:
    table = pd.DataFrame([scores(fold[fold["split"] == "test"]) for fold in folds.values()])[list(OVERALL)]
    mean, deviation = table.mean(skipna=False), table.std(skipna=False)
    return {f"{name}_{kind}": float(of[name]) for name in OVERALL for kind, of in (("mean", mean), ("sd", deviation))}
