"""Fits the panel to held-out predictions, lets it vote, and scores members and votes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorboard.base.files import read_table, remove_leftovers, write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import Members, classes_of, read_predictions
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.evaluation.summary import judging_of
from tumorboard.panel.comparison import HEADING, MemberOutputs, headline, headline_of_test, judge_panel
from tumorboard.panel.fits import fitting_of
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.unlike import load_unlike, panel_threshold

# The folders that have one file per model and fold, by the option that names them, and the kind of file.
INPUT_FOLDERS = {"members": "csv", "test_members": "csv", "held_out": "safetensors", "unlike": "safetensors"}


def main(
    params: Params,
    *,
    members: Path,
    test_members: Path,
    held_out: Path,
    unlike: Path,
    attributes: Input,
    panel: Output,
    joined: Output,
    votes: Output,
    test_joined: Output,
    test_votes: Output,
    metrics: Output,
    comparison: Output,
    test_metrics: Output,
    test_comparison: Output,
) -> None:
    """Writes the panel's fitted numbers, its predictions and their scores.

    Deletes from the four folders that it reads the files of models and folds that params.yaml does not list.

    Args:
        params: of the run.
        members: folder with the members' Predictions for validation images, <model>/<fold>.csv.
        test_members: folder with those for test images.
        held_out: folder with the outputs for validation images by left-out part, <model>/<fold>.safetensors.
        unlike: folder with the statistics of the training images, <model>/<fold>.safetensors.
        attributes: file of the data's further columns, of which the vote `stacking` may use some.
        panel: file for the fitted numbers, which `tumorboard predict` reads.
        joined: folder for each member's calibrated Predictions for validation images, <model>.csv.
        votes: folder for each vote's, <vote>.csv, and that of the vote that heads the report, heading.csv.
        test_joined: folder for each member's calibrated Predictions for test images.
        test_votes: folder for each vote's.
        metrics: JSON file for the validation scores of the vote that heads the report.
        comparison: JSON file for the validation scores of all members and votes.
        test_metrics: JSON file for the test scores of the vote that heads the report, named test_<score>.
        test_comparison: JSON file for the test scores of all members and votes; empty where they are not computed.
    """
    folders = (members, test_members, held_out, unlike)
    kinds = list(INPUT_FOLDERS.values())
    tables, tests, outputs, statistics = (_files(params, *pair) for pair in zip(folders, kinds, strict=True))
    for folder, kind, files in zip(folders, kinds, (tables, tests, outputs, statistics), strict=True):
        remove_leftovers(folder, f"*/*.{kind}", list(files.values()))
    read = {
        model: {fold: _read(tables[model, fold], tests[model, fold], outputs[model, fold]) for fold in params.folds}
        for model in params.models
    }
    classes = classes_of(read[params.models[0]][params.folds[0]].validation)
    results = judge_panel(read, fitting_of(params, classes), judging_of(params), read_table(attributes))
    manifest = results.validation.votes[HEADING]["manifest"].iloc[0]
    by_fold = {fold: [load_unlike(statistics[model, fold]) for model in params.models] for fold in params.folds}
    limit = panel_threshold(by_fold, params.evaluate.unlike)
    write_panel(panel, results.fit, classes=classes, manifest=manifest, positive=params.data.positive, unlike=limit)
    _write_tables(results.validation.members, joined)
    _write_tables(results.validation.votes, votes)
    _write_tables(results.test.members, test_joined)
    _write_tables(results.test.votes, test_votes)
    write_json(results.validation_scores, comparison)
    write_json(headline(results.validation_scores, results.fit), metrics)
    write_json(results.test_scores, test_comparison)
    write_json(headline_of_test(results), test_metrics)


def _read(table: Path, test: Path, outputs: Path) -> MemberOutputs:
    validation = read_predictions(table)
    held_out = read_held_out(outputs, len(validation), len(classes_of(validation)))
    return MemberOutputs(validation, held_out, read_predictions(test))


def _write_tables(tables: Members, folder: Path) -> None:
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")


def _files(params: Params, folder: Path, kind: str) -> dict[tuple[str, int], Path]:
    return {(model, fold): folder / model / f"{fold}.{kind}" for model in params.models for fold in params.folds}


def _inputs(params: Params, options: Mapping[str, Any]) -> list[Path]:
    return [file for name, kind in INPUT_FOLDERS.items() for file in _files(params, options[name], kind).values()]


if __name__ == "__main__":
    run_stage(main, _inputs)
