"""The panel's decision: members' Predictions joined by id, and the votes that make one table of them.

A member is a model's joined Predictions, as `join_members` gives them; a vote takes all members by name and returns
Predictions of the same rows, of the same manifest.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import judged
from tumorboard.tables import PREDICTIONS, classes_of, make_predictions, probabilities_of

_GAP, _EM_STEPS = 1e-4, 20_000  # of a fit: how much lower a loss could be, in nats; how long that is sought


def join_members(folds: Mapping[str, Mapping[int, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """One Predictions table a model from one a model and fold, all with the same rows in the same order.

    A model's validation rows are those of all its folds together; its test probabilities are the mean over its folds.
    Rows are matched by id and come out sorted by split and id. Other manifests, classes, ids, labels or groups in one
    of the tables, or an id that is validation in two folds: InputError that names model, fold and id.
    """
    first_model = next(iter(folds))
    first_fold = next(iter(folds[first_model]))
    for model, tables in folds.items():
        for fold, table in tables.items():
            name, other = _name(model, fold), folds[first_model][fold]
            _check_kinship(name, table, _name(first_model, first_fold), folds[first_model][first_fold])
            _check_rows(name, table, _name(first_model, fold), other)
    return {model: _join_folds(model, tables) for model, tables in folds.items()}


def _name(model: str, fold: int) -> str:
    return f"model {model}, fold {fold}"


def _join_folds(model: str, tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    tests, validations, seen = [], [], dict[str, int]()
    for fold, table in tables.items():
        tests.append(_rows(table, "test"))
        validations.append(_rows(table, "val"))
        _check_rows(_name(model, fold), tests[-1], _name(model, next(iter(tables))), tests[0])
        for row in validations[-1]["id"]:
            if seen.setdefault(row, fold) != fold:
                raise InputError(f"{_name(model, fold)}: id '{row}' is validation in fold {seen[row]} as well")
    validation = pd.concat(validations, ignore_index=True).sort_values("id", ignore_index=True)
    mean = np.mean([probabilities_of(test) for test in tests], axis=0)
    test = make_predictions(tests[0], mean, classes_of(validation), validation["manifest"].iloc[0])
    return pd.concat([test, validation], ignore_index=True)


def _rows(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].sort_values("id", ignore_index=True)


def _check_kinship(name: str, table: pd.DataFrame, other_name: str, other: pd.DataFrame) -> None:
    """Raise InputError unless two tables have rows of both parts, the same manifest and the same classes."""
    if missing := {"val", "test"} - set(table["split"]):
        raise InputError(f"{name}: no rows with split '{min(missing)}'")
    if classes_of(table) != classes_of(other):
        raise InputError(f"{name}: classes {classes_of(table)}, but {other_name} has {classes_of(other)}")
    manifests = table["manifest"].iloc[0], other["manifest"].iloc[0]
    if manifests[0] != manifests[1]:
        raise InputError(f"{name}: predictions for manifest {manifests[0]}, but {other_name} for {manifests[1]}")


def _check_rows(name: str, table: pd.DataFrame, other_name: str, other: pd.DataFrame) -> None:
    """Raise InputError unless two tables have the same ids, with the same group, split and label; names the first."""
    if apart := sorted(set(table["id"]) ^ set(other["id"])):
        lacking = name if apart[0] in set(other["id"]) else other_name
        raise InputError(f"{name} and {other_name} judged different images: {lacking} lacks id '{apart[0]}'")
    columns = list(PREDICTIONS)
    mine, theirs = (frame[columns].sort_values("id", ignore_index=True) for frame in (table, other))
    differs = mine.to_numpy() != theirs.to_numpy()
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise InputError(
            f"{name}: id '{mine['id'][row]}' has {columns[column]} '{mine.iloc[row, column]}', "
            f"but {other_name} has '{theirs.iloc[row, column]}'"
        )


def hard(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The share of members that decide for each class.

    Their mean probability counts as one vote more, divided among the classes: it breaks ties, cannot overturn a
    majority (its lead is below one vote), and leaves probabilities whose largest is the decision.
    """
    probabilities = _stack(members)
    votes = np.eye(probabilities.shape[2])[probabilities.argmax(2)].sum(0)
    return _predictions(members, (votes + probabilities.mean(0)) / (len(members) + 1))


def soft(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean of the members' probabilities."""
    return _predictions(members, _stack(members).mean(0))


def product(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The members' probabilities multiplied and normalised (Kittler et al. 1998)."""
    logarithms = np.log(np.maximum(_stack(members), np.finfo(np.float64).tiny))
    return _predictions(members, softmax(logarithms.sum(0), axis=1))


def weighted(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean of the members' probabilities under the weights of `fit_weights`."""
    weights = fit_weights(members)
    return _predictions(members, np.tensordot([weights[model] for model in members], _stack(members), 1))


VOTES: dict[str, Callable[[Mapping[str, pd.DataFrame]], pd.DataFrame]] = {
    "hard": hard,
    "soft": soft,
    "product": product,
    "weighted": weighted,
}


def vote_by_fold(folds: Mapping[str, Mapping[int, pd.DataFrame]]) -> dict[str, dict[int, pd.DataFrame]]:
    """Each vote's Predictions of every fold: the fold's models alone vote, on its validation rows and the test rows."""
    panels = {
        fold: join_members({model: {fold: tables[fold]} for model, tables in folds.items()})
        for fold in next(iter(folds.values()))
    }
    return {name: {fold: vote(panel) for fold, panel in panels.items()} for name, vote in VOTES.items()}


def fit_weights(members: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Weights by model, not negative, sum 1, with the least cross-entropy on the members' validation rows alone.

    A convex problem (linear opinion pool, Stone 1961; stacking, Breiman 1996), solved by SLSQP from equal weights.
    Where that stops early, as it may among members that are very sure and wrong, EM ends it (Dempster et al. 1977).
    """
    validation = {model: table[table["split"] == "val"] for model, table in members.items()}
    actual, _ = judged(next(iter(validation.values())))
    given = _stack(validation)[:, np.arange(len(actual)), actual]
    # Where no member gives the right class any probability the logarithm would be minus infinity whatever the weights.
    given = np.maximum(given, np.finfo(np.float64).eps)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        pooled = weights @ given
        return -float(np.log(pooled).mean()), -(given / pooled).mean(1)

    found = minimize(
        loss,
        np.full(len(given), 1 / len(given)),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(given),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    weights = np.maximum(found.x, 0)
    weights /= weights.sum()
    # By Jensen's inequality no weights have a loss that is lower by more than the logarithm of the largest gain.
    if (given / (weights @ given)).mean(1).max() > 1 + _GAP:
        weights = (weights + 1 / len(weights)) / 2
        for _ in range(_EM_STEPS):
            gain = (given / (weights @ given)).mean(1)
            if gain.max() <= 1 + _GAP:
                break
            weights *= gain
    return dict(zip(members, weights.tolist(), strict=True))


def _stack(members: Mapping[str, pd.DataFrame]) -> NDArray[np.float64]:
    """The members' probabilities, float64[M, N, K]."""
    return np.stack([probabilities_of(table) for table in members.values()])


def _predictions(members: Mapping[str, pd.DataFrame], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    rows = next(iter(members.values()))
    return make_predictions(rows, probabilities, classes_of(rows), rows["manifest"].iloc[0])
