"""Writes the report of a run: tables and pictures for `dvc plots`, and one page of HTML."""

import shutil
from pathlib import Path

from tumorboard.base.files import remove_leftovers, replacing, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import run_stage
from tumorboard.report.figures import draw_figures, plot_tables
from tumorboard.report.page import render_page, summarize_scores
from tumorboard.report.plots import to_png
from tumorboard.report.results import read_results


def main(
    params: Params,
    *,
    crop: Path,
    split: Path,
    recipes: Path,
    training: Path,
    predictions: Path,
    metrics: Path,
    plots: Path,
    page: Path,
) -> None:
    """Writes `plots`/*.csv, `plots`/images/*.png and the page for the models and folds that params.yaml lists.

    Deletes the folders in `training` and the files in `metrics`/evaluate of models and folds that it does not list.
    """
    _remove_unlisted(params, training, metrics / "evaluate")
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


def _remove_unlisted(params: Params, training: Path, evaluations: Path) -> None:
    listed = [Path(model) / str(fold) for model in params.models for fold in params.folds]
    remove_leftovers(training, "*/[0-9]*", [training / path for path in listed])
    remove_leftovers(evaluations, "*/*.json", [evaluations / f"{path}.json" for path in listed])


def _write(content: bytes, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run_stage(main)
