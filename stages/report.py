"""Writes the report of a run: tables and pictures for `dvc plots`, and one page of HTML."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorboard.base.files import remove_leftovers, replacing, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.report.figures import draw_figures, plot_tables
from tumorboard.report.page import render_page, summarize_scores
from tumorboard.report.plots import to_png
from tumorboard.report.results import read_results


def main(
    params: Params,
    *,
    crop: Input,
    split: Input,
    recipes: Input,
    training: Path,
    predictions: Input,
    metrics: Path,
    plots: Output,
    page: Output,
) -> None:
    """Writes `plots`/*.csv, `plots`/images/*.png and the page for the models and folds that params.yaml lists.

    Deletes the folders in `training` and the files in `metrics`/train and `metrics`/evaluate of models and folds that
    it does not list.
    """
    trainings, evaluations = _listed_files(params, training, metrics)
    remove_leftovers(training, "*/[0-9]*", trainings)
    remove_leftovers(metrics / "evaluate", "*/*.json", evaluations)
    remove_leftovers(
        metrics / "train",
        "*/*.json",
        [metrics / "train" / file.relative_to(metrics / "evaluate") for file in evaluations],
    )
    results = read_results(
        params,
        crop=crop,
        split=split,
        recipes=recipes,
        training=training,
        predictions=predictions,
        metrics=metrics,
    )
    tables = plot_tables(results)
    for name, table in tables.items():
        write_table(table, plots / f"{name}.csv")
    pictures = {name: to_png(figure) for name, figure in draw_figures(results, tables).items()}
    # DVC shows every picture in this folder, so that those of earlier runs have to go.
    shutil.rmtree(plots / "images", ignore_errors=True)
    for name, png in pictures.items():
        _write(png, plots / "images" / f"{name}.png")
    # A file name need not be valid UTF-8, but the page must be.
    _write(render_page(results, pictures).encode("utf-8", "backslashreplace"), page)
    print(summarize_scores(results))


def _listed_files(params: Params, training: Path, metrics: Path) -> tuple[list[Path], list[Path]]:
    """The folders of the trainings and the files of the evaluations that params.yaml lists."""
    listed = [Path(model) / str(fold) for model in params.models for fold in params.folds]
    return [training / path for path in listed], [metrics / "evaluate" / f"{path}.json" for path in listed]


def _inputs(params: Params, options: Mapping[str, Any]) -> list[Path]:
    trainings, evaluations = _listed_files(params, options["training"], options["metrics"])
    return [*trainings, *evaluations, *(options["metrics"] / f"{name}.json" for name in ("votes", "split", "audit"))]


def _write(content: bytes, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run_stage(main, _inputs)
