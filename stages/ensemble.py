"""Fits the panel to held-out predictions, lets it vote, and scores members and votes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tumorboard.base.files import read_table, remove_leftovers, write_json
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import classes_of
from tumorboard.evaluation.summary import judging_of
from tumorboard.panel.comparison import HEADING, headline, headline_of_test, judge_panel, read_outputs, write_part
from tumorboard.panel.fits import fitting_of
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.unlike import read_threshold
from tumorboard.panel.unlike_test_images import share_unlike

Files: TypeAlias = Mapping[tuple[str, int], Path]  # one file by model and fold

# The folders that have one file per model and fold, by the option that names them, and the kind of file.
INPUT_FOLDERS = {
    "members": "csv",
    "test_members": "csv",
    "held_out": "safetensors",
    "unlike": "safetensors",
    "test_unlike": "csv",
}


def main(
    params: Params,
    *,
    members: Path,
    test_members: Path,
    held_out: Path,
    unlike: Path,
    test_unlike: Path,
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

    Deletes from the five folders that it reads the files of models and folds that params.yaml does not list.

    Args:
        members: folder with the members' Predictions for validation images, <model>/<fold>.csv.
        test_members: folder with the members' Predictions for test images.
        held_out: folder with the outputs for validation images by left-out part, <model>/<fold>.safetensors.
        unlike: folder with the statistics of the training images, <model>/<fold>.safetensors.
        test_unlike: folder with how unlike the training images each test image is, <model>/<fold>.csv.
        attributes: file of the data's further columns, some of which the vote `stacking` may use.
        panel: file for the fitted numbers, which `tumorboard predict` reads.
        joined: folder for each member's calibrated Predictions for validation images, <model>.csv.
        votes: folder for each vote's Predictions, <vote>.csv, and for the heading vote's, heading.csv.
        test_joined: folder for each member's calibrated Predictions for test images.
        test_votes: folder for each vote's Predictions for test images.
        metrics: JSON file for the validation scores of the vote that heads the report.
        comparison: JSON file for the validation scores of all members and votes.
        test_metrics: JSON file for the test scores of the vote that heads the report, named test_<score>.
        test_comparison: JSON file for the test scores of all members and votes; empty where they are not computed.
    """
    listed = _keep_listed(params, members, test_members, held_out, unlike, test_unlike)
    tables, tests, outputs, statistics, scores = listed
    read = read_outputs(tables, outputs, tests)
    classes = classes_of(read[params.models[0]][params.folds[0]].validation)
    judging = judging_of(params)
    results = judge_panel(read, fitting_of(params, classes), judging, read_table(attributes))
    manifest = results.validation.votes[HEADING]["manifest"].iloc[0]
    limit = read_threshold(statistics, params.evaluate.unlike)
    share = share_unlike(scores, results.test.votes[HEADING], limit, judging) if results.test_scores else {}
    write_panel(panel, results.fit, classes=classes, manifest=manifest, positive=params.data.positive, unlike=limit)
    write_part(results.validation, joined, votes)
    write_part(results.test, test_joined, test_votes)
    write_json(results.validation_scores, comparison)
    write_json(headline(results.validation_scores, results.fit), metrics)
    write_json(results.test_scores | share, test_comparison)
    write_json(headline_of_test(results) | {f"test_{name}": value for name, value in share.items()}, test_metrics)


def _keep_listed(params: Params, *folders: Path) -> list[Files]:
    """Returns the listed files of each folder, in the order of INPUT_FOLDERS, and deletes all others of their kind."""
    pairs = list(zip(folders, INPUT_FOLDERS.values(), strict=True))
    for folder, kind in pairs:
        remove_leftovers(folder, f"*/*.{kind}", list(_files(params, folder, kind).values()))
    return [_files(params, *pair) for pair in pairs]


def _files(params: Params, folder: Path, kind: str) -> Files:
    return {(model, fold): folder / model / f"{fold}.{kind}" for model in params.models for fold in params.folds}


def _inputs(params: Params, options: Mapping[str, Any]) -> list[Path]:
    return [file for name, kind in INPUT_FOLDERS.items() for file in _files(params, options[name], kind).values()]


if __name__ == "__main__":
    run_stage(main, _inputs)
