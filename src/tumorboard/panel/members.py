"""Merges each model's per-fold Predictions into one table per model and checks that the tables belong together."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError
from tumorboard.base.tables import PREDICTIONS, Predictions, classes_of, make_predictions, probabilities_of

FoldPredictions: TypeAlias = Mapping[str, Mapping[int, Predictions]]  # one table per model name and fold


def join_members(folds: FoldPredictions) -> dict[str, Predictions]:
    """Merges each model's per-fold Predictions into one table per model.

    A model's validation rows are those of all its folds together. Its test rows have the mean probabilities over its
    folds. Rows are matched by id.

    Args:
        folds: all models have the same folds.

    Returns:
        The Predictions by model. All tables have the same rows in the same order: test before validation, each sorted
        by id.

    Raises:
        InputError: where tables differ in their manifest, classes, ids, labels, groups or splits, lack one of the two
            splits, or an id is a validation image in two folds of a model. It names model, fold and id.
    """
    first_model = next(iter(folds))
    first_fold = next(iter(folds[first_model]))
    for model, tables in folds.items():
        for fold, table in tables.items():
            name, same_fold = _describe_member(model, fold), folds[first_model][fold]
            _check_same_data(name, table, _describe_member(first_model, first_fold), folds[first_model][first_fold])
            _check_same_rows(name, table, _describe_member(first_model, fold), same_fold)
    return {model: _join_folds(model, tables) for model, tables in folds.items()}


def _describe_member(model: str, fold: int) -> str:
    return f"model {model}, fold {fold}"


def _join_folds(model: str, tables: Mapping[int, Predictions]) -> Predictions:
    tests: list[Predictions] = []
    validations: list[Predictions] = []
    fold_of: dict[str, int] = {}
    for fold, table in tables.items():
        tests.append(_sorted_split(table, "test"))
        validations.append(_sorted_split(table, "val"))
        _check_same_rows(
            _describe_member(model, fold), tests[-1], _describe_member(model, next(iter(tables))), tests[0]
        )
        for id_ in validations[-1]["id"]:
            if fold_of.setdefault(id_, fold) != fold:
                raise InputError(
                    f"{_describe_member(model, fold)}: id '{id_}' is a validation image of fold {fold_of[id_]} as well"
                )
    validation = pd.concat(validations, ignore_index=True).sort_values("id", ignore_index=True)
    mean = np.mean([probabilities_of(test) for test in tests], axis=0)
    test = make_predictions(tests[0], mean, classes_of(validation), validation["manifest"].iloc[0])
    return pd.concat([test, validation], ignore_index=True)


def _sorted_split(table: Predictions, split: str) -> Predictions:
    return table[table["split"] == split].sort_values("id", ignore_index=True)


def _check_same_data(name: str, table: Predictions, other_name: str, other: Predictions) -> None:
    """Raises InputError unless a table has both splits, and the other table's classes and manifest."""
    if missing := {"val", "test"} - set(table["split"]):
        raise InputError(f"{name}: no rows with split '{min(missing)}'")
    if classes_of(table) != classes_of(other):
        raise InputError(f"{name}: classes {classes_of(table)}, but {other_name} has {classes_of(other)}")
    manifests = table["manifest"].iloc[0], other["manifest"].iloc[0]
    if manifests[0] != manifests[1]:
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
