"""Merges each model's per-fold Predictions into one table per model and checks that the tables belong together."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.tables import PREDICTIONS, Predictions, classes_of, make_predictions, probabilities_of

FoldPredictions: TypeAlias = Mapping[str, Mapping[int, Predictions]]  # one table per model name and fold


def join_validation(folds: FoldPredictions) -> dict[str, Predictions]:
    """Merges the validation rows of each model's folds into one table per model.

    Args:
        folds: all models have the same folds.

    Returns:
        The Predictions by model. All tables have the same rows in the same order, sorted by id.

    Raises:
        InputError: where tables differ in their manifest, classes, ids, labels or groups, have no rows, or an id is a
            validation image in two folds of a model. It names model, fold and id.
    """
    _check_folds(folds)
    return {model: _concat_folds(model, tables) for model, tables in folds.items()}


def join_test(folds: FoldPredictions) -> dict[str, Predictions]:
    """Averages the probabilities of each model's folds for the test rows.

    Args:
        folds: all models have the same folds; the tables may have no rows.

    Returns:
        The Predictions by model. All tables have the same rows in the same order, sorted by id.

    Raises:
        InputError: where tables differ in their manifest, classes, ids, labels or groups. It names model, fold and id.
    """
    _check_folds(folds)
    return {model: _average_folds(model, tables) for model, tables in folds.items()}


def _check_folds(folds: FoldPredictions) -> None:
    """Raises InputError unless all models have the same rows in each fold, and all tables the same data."""
    first_model = next(iter(folds))
    first_fold = next(iter(folds[first_model]))
    for model, tables in folds.items():
        for fold, table in tables.items():
            name, same_fold = _describe_member(model, fold), folds[first_model][fold]
            _check_same_data(name, table, _describe_member(first_model, first_fold), folds[first_model][first_fold])
            _check_same_rows(name, table, _describe_member(first_model, fold), same_fold)


def _describe_member(model: str, fold: int) -> str:
    return f"model {model}, fold {fold}"


def _concat_folds(model: str, tables: Mapping[int, Predictions]) -> Predictions:
    fold_of: dict[str, int] = {}
    for fold, table in tables.items():
        if table.empty:
            raise InputError(f"{_describe_member(model, fold)}: no validation rows")
        for id_ in table["id"]:
            if fold_of.setdefault(id_, fold) != fold:
                raise InputError(
                    f"{_describe_member(model, fold)}: id '{id_}' is a validation image of fold {fold_of[id_]} as well"
                )
    return pd.concat(tables.values(), ignore_index=True).sort_values("id", ignore_index=True)


def _average_folds(model: str, tables: Mapping[int, Predictions]) -> Predictions:
    ordered = [table.sort_values("id", ignore_index=True) for table in tables.values()]
    for fold, table in zip(tables, ordered, strict=True):
        _check_same_rows(_describe_member(model, fold), table, _describe_member(model, next(iter(tables))), ordered[0])
    mean = np.mean([probabilities_of(table) for table in ordered], axis=0)
    return replace_probabilities(ordered[0], mean)


def replace_probabilities(rows: Predictions, probabilities: NDArray[np.float64]) -> Predictions:
    """Returns the rows with other probabilities float64[N, K]."""
    digest = rows["manifest"].iloc[0] if len(rows) else ""
    return make_predictions(rows, probabilities, classes_of(rows), digest)


def _check_same_data(name: str, table: Predictions, other_name: str, other: Predictions) -> None:
    """Raises InputError unless a table has the other table's classes and manifest."""
    if classes_of(table) != classes_of(other):
        raise InputError(f"{name}: classes {classes_of(table)}, but {other_name} has {classes_of(other)}")
    manifests = [one["manifest"].iloc[0] if len(one) else "" for one in (table, other)]
    if "" not in manifests and manifests[0] != manifests[1]:
        raise InputError(
            f"{name}: predictions for manifest {manifests[0]}, but those of {other_name} are for {manifests[1]}"
        )


def _check_same_rows(name: str, table: Predictions, other_name: str, other: Predictions) -> None:
    """Raises InputError, for the first difference, unless two tables have the same ids, groups, splits and labels."""
    if unmatched := sorted(set(table["id"]) ^ set(other["id"])):
        lacking = name if unmatched[0] in set(other["id"]) else other_name
        raise InputError(f"{name} and {other_name} have different images: {lacking} lacks id '{unmatched[0]}'")
    columns = list(PREDICTIONS)
    mine, theirs = (frame[columns].sort_values("id", ignore_index=True) for frame in (table, other))
    differs = mine.to_numpy() != theirs.to_numpy()
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise InputError(
            f"{name}: id '{mine['id'][row]}' has {columns[column]} '{mine.iloc[row, column]}', "
            f"but {other_name} has '{theirs.iloc[row, column]}'"
        )
