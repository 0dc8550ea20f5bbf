"""Writes the report of a run: tables and pictures for `dvc plots`, and one page of HTML."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorboard.base.files import remove_leftovers, replacing, side_cache, write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.report.conclusions import conclusion_tables, draw_conclusions
from tumorboard.report.results import read_results
from tumorboard.report.score_schema import schema as score_schema


def main(
    params: Params,
    *,
    crop: Input,
    split: Input,
    balance: Input,
    recipes: Input,
    training: Path,
    predictions: Input,
    panel: Input,
    metrics: Path,
    plots: Output,
    page: Output,
    schema: Output,
) -> None:
    """Writes `plots`/*.csv, `plots`/images/*.png, `plots`/test/*.png and the page for the listed models and folds.

    `schema` has the meaning, unit and interval of each score in the files of `metrics`.

    The tables and images show validation images; the pictures in `plots`/test are no plots of DVC.

    Deletes the folders in `training` and the files in `metrics`/train and `metrics`/evaluate of models and folds that
    it does not list.
    """
    _remove_unlisted(params, training, metrics)
    results = read_results(
        params,
        crop=crop,
        split=split,
        balance=balance,
        recipes=recipes,
        training=training,
        predictions=predictions,
        panel=panel,
        metrics=metrics,
        ledger=side_cache("test-looks.jsonl"),
    )
    conclusions = draw_conclusions(results)
    # Here, because matplotlib is slow to import, and files that cannot be read are reported before.
    from tumorboard.report.explained import draw_explained
    from tumorboard.report.figures import draw_figures, draw_test_figures, plot_tables
    from tumorboard.report.page import render_page, summarize_scores
    from tumorboard.report.plots import to_png

    tables = plot_tables(results, conclusions)
    for name, table in (tables | conclusion_tables(results, conclusions)).items():
        write_table(table, plots / f"{name}.csv")
    pictures = {name: to_png(figure) for name, figure in draw_figures(results, conclusions, tables).items()}
    test_pictures = {name: to_png(figure) for name, figure in draw_test_figures(results).items()}
    _replace_pictures(plots / "images", pictures)
    _replace_pictures(plots / "test", test_pictures)
    # A file name need not be valid UTF-8, but the page must be.
    html = render_page(results, conclusions, pictures, test_pictures, explained=draw_explained(results))
    _write(html.encode("utf-8", "backslashreplace"), page)
    write_json(score_schema(), schema)
    print(summarize_scores(results))


def _remove_unlisted(params: Params, training: Path, metrics: Path) -> None:
    trainings, evaluations = _listed_files(params, training, metrics)
    scored = [metrics / "train" / file.relative_to(metrics / "evaluate") for file in evaluations]
    remove_leftovers(training, "*/[0-9]*", trainings)
    remove_leftovers(metrics / "evaluate", "*/*.json", evaluations)
    remove_leftovers(metrics / "train", "*/*.json", scored)


def _replace_pictures(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Writes pictures as PNG; DVC shows every picture in a folder, so pictures of earlier runs are deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, png in pictures.items():
        _write(png, folder / f"{name}.png")


def _listed_files(params: Params, training: Path, metrics: Path) -> tuple[list[Path], list[Path]]:
    """Returns the folders of the trainings and the files of the evaluations that params.yaml lists."""
    listed = [Path(model) / str(fold) for model in params.models for fold in params.folds]
    return [training / path for path in listed], [metrics / "evaluate" / f"{path}.json" for path in listed]


def _inputs(params: Params, options: Mapping[str, Any]) -> list[Path]:
    trainings, evaluations = _listed_files(params, options["training"], options["metrics"])
    names = ("crop", "votes", "test/votes", "places", "test/places", "split", "audit")
    return [*trainings, *evaluations, *(options["metrics"] / f"{name}.json" for name in names)]


def _write(content: bytes, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run_stage(main, _inputs)
