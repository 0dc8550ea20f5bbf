"""Write the tables, figures and page: CROP SPLIT RECIPES TRAINING PREDICTIONS METRICS PLOTS REPORT."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from tumorboard.data.store import CropStore
from tumorboard.door import run
from tumorboard.errors import InputError
from tumorboard.evaluation import plots as drawing
from tumorboard.evaluation.leftovers import remove_leftovers
from tumorboard.evaluation.report import Run, figures, plot_tables, render, summarise
from tumorboard.evaluation.vote import VOTES
from tumorboard.params import Params
from tumorboard.tables import manifest_digest, read_manifest, read_predictions, read_table, replacing, write_table


def main(
    params: Params,
    crop: str,
    split: str,
    recipes: str,
    training: str,
    predictions: str,
    metrics: str,
    plots: str,
    report: str,
) -> None:
    """Write `plots`/*.csv, `plots`/images/*.png and the page `report`; read only what params.yaml lists."""
    _remove_leftovers(params, Path(training), Path(metrics) / "evaluate")
    read = _read(params, Path(crop), Path(split), Path(recipes), Path(training), Path(predictions), Path(metrics))
    tables = plot_tables(read)
    for name, table in tables.items():
        write_table(table, Path(plots) / f"{name}.csv")
    pictures = {name: drawing.png(figure) for name, figure in figures(read, tables).items()}
    # DVC shows every picture in the folder, one of an earlier run too.
    shutil.rmtree(Path(plots) / "images", ignore_errors=True)
    for name, png in pictures.items():
        _write(Path(plots) / "images" / f"{name}.png", png)
    # Names of files need not be valid UTF-8; the page must be.
    _write(Path(report), render(read, pictures).encode("utf-8", "backslashreplace"))
    print(summarise(read))


def _remove_leftovers(params: Params, training: Path, metrics: Path) -> None:
    runs = [Path(model) / str(fold) for model in params.models for fold in params.folds]
    remove_leftovers(training, "*/[0-9]*", [training / entry for entry in runs])
    remove_leftovers(metrics, "*/*.json", [metrics / f"{entry}.json" for entry in runs])


def _read(
    params: Params, crop: Path, split: Path, recipes: Path, training: Path, predictions: Path, metrics: Path
) -> Run:
    manifest = read_manifest(split / "manifest.csv")
    return Run(
        seed=params.seed,
        vote=params.ensemble.vote,
        evaluate=params.evaluate,
        manifest=manifest,
        digest=manifest_digest(manifest),
        counts=read_table(split / "counts.csv"),
        quarantined=pd.concat([read_table(folder / "quarantined.csv") for folder in (crop, split)]),
        cropped=_read_json(metrics / "crop.json"),
        divided=_read_json(metrics / "split.json"),
        audited=_read_json(metrics / "audit.json"),
        duplicates=read_table(split / "duplicates.csv"),
        shortcuts=read_table(split / "shortcuts.csv"),
        recipes={model: _read_json(recipes / f"{model}.json") for model in params.models},
        histories={
            model: {fold: read_table(training / model / str(fold) / "history.csv") for fold in params.folds}
            for model in params.models
        },
        evaluated={
            model: {fold: _read_json(metrics / "evaluate" / model / f"{fold}.json") for fold in params.folds}
            for model in params.models
        },
        members={model: read_predictions(predictions / "joined" / f"{model}.csv") for model in params.models},
        votes={vote: read_predictions(predictions / "votes" / f"{vote}.csv") for vote in VOTES},
        compared=_read_json(metrics / "votes.json"),
        pictures=CropStore(crop / "store").__getitem__,
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run(main)
