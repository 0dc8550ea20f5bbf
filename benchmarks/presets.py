"""Measures which preset's alterations suit a folder of images: held-out loss over folds, paired with `general`.

Each preset trains one model per fold and seed on the same crops and the same split; only `train.augment` differs. The
arm `none` alters nothing. The loss of each validation image is that of the epoch which the images outside its part
choose. Folds keep copies and groups together; a test part is not used.

Each training is a line of the file --out. A training that has its line, with the same alterations, is not repeated, so
that a run that was stopped goes on, and a preset that was edited is measured anew.

Example:
    python -m benchmarks.presets --data ../shared/data/bccd_cells --group-pattern '(BloodImage_[0-9]+)' --side 64
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks import ROOT, argument_parser, machine
from benchmarks.studies import Study
from tumorboard.base.params import Augment, Params, load_params
from tumorboard.base.presets import DEFAULT, PRESETS
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.tables import Manifest
from tumorboard.data.check import params_for
from tumorboard.data.store import CropStore
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.training.job import Job
from tumorboard.training.loop import train_model

NONE = "none"  # the arm that alters nothing
STILL = {"hflip": 0, "vflip": 0, "rotate": 0, "zoom": [1, 1], "shift": 0, "brightness": 0, "contrast": 0} | {
    "saturation": 0,
    "blur": 0,
    "fill": "reflect",
}


class Cell(NamedTuple):
    """One training of the comparison."""

    preset: str
    fold: int
    seed: int


def augment_of(preset: str, params: Params) -> Augment:
    """Returns the alterations of a preset, or of `none`; keys that presets do not set are those of params.yaml."""
    section = "train.augment."
    values = (
        STILL
        if preset == NONE
        else {
            key.removeprefix(section): setting.value
            for key, setting in PRESETS[preset].settings.items()
            if key.startswith(section)
        }
    )
    return Augment.model_validate(params.train.augment.model_dump() | values, strict=False)


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Params, Manifest, CropStore]:
    """Crops, audits and splits the images, and returns the parameters, the split manifest and the crops."""
    params = load_params(ROOT / "params.yaml")
    data = {"group_pattern": options.group_pattern, "positive": None, "unit": None, "max_quarantined": 10**6}
    params = params_for(params.model_copy(update={"folds": tuple(range(options.folds))}), options.data, None)
    params = params.model_copy(
        update={
            "data": params.data.model_copy(update=data),
            "crop": params.crop.model_copy(update={"side": options.side}),
            "split": params.split.model_copy(update={"folds": options.folds}),
        }
    )
    study = Study(params, folder)
    return params, study.split(params), CropStore(folder / "crop/store")


def measure(
    cell: Cell, options: argparse.Namespace, *, params: Params, rows: Manifest, store: CropStore
) -> dict[str, Any]:
    """Trains one model and returns its held-out loss, accuracy, number of images and CPU seconds."""
    recipe = resolve_recipe(params, options.model).model_copy(
        update={"epochs": options.epochs, "seed": cell.seed, "augment": augment_of(cell.preset, params)}
    )
    folds = rows[rows["fold"].notna()]
    validates = folds["fold"].eq(cell.fold)
    classes = tuple(sorted(rows["label"].unique()))
    start = time.process_time()
    with TemporaryDirectory() as out:
        job = Job(
            name=options.model,
            fold=cell.fold,
            recipe=recipe,
            rows=folds[~validates],
            val_rows=folds[validates],
            store=store,
            classes=classes,
            crop=params.crop,
            digest="",
            weights=Path(out, "weights.safetensors"),
            held_out=Path(out, "held_out.safetensors"),
            out=Path(out),
        )
        train_model(job, params.runtime.model_copy(update={"processes": 1}), lambda _: None)
        held_out = read_held_out(job.held_out, len(job.val_rows), len(classes))
    truth = job.val_rows["label"].map(classes.index).to_numpy()
    logits = held_out.own_logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {
        "loss": float(-log_p[np.arange(len(truth)), truth].mean()),
        "accuracy": float((log_p.argmax(axis=1) == truth).mean()),
        "images": len(truth),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def key_of(cell: Cell, options: argparse.Namespace, params: Params) -> dict[str, Any]:
    """Returns what a line must have to be the result of a training: data, model, length, alterations, fold and seed."""
    return {
        "data": options.data.name,
        "model": options.model,
        "side": options.side,
        "epochs": options.epochs,
        "folds": options.folds,
        **cell._asdict(),
        "augment": augment_of(cell.preset, params).model_dump(mode="json"),
    }


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the results of earlier runs; a line that was cut off when a run was killed is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def table(results: Mapping[Cell, Mapping[str, Any]], presets: Sequence[str]) -> list[str]:
    """Returns the lines of a Markdown table: loss, accuracy and the paired difference to `general` per preset.

    >>> cells = {Cell(name, fold, 0): {"loss": loss, "accuracy": 0.5} for name, fold, loss in
    ...          [("general", 0, 0.4), ("general", 1, 0.6), ("mri", 0, 0.3), ("mri", 1, 0.6)]}
    >>> print(table(cells, ["general", "mri"])[-1])
    | mri | 0.450 ± 0.212 | 50.0 % | -0.050 ± 0.071 | 1 of 2 |
    """
    lines = ["| preset | held-out loss | accuracy | loss against general | lower in |", "|---|---|---|---|---|"]
    for name in presets:
        cells = [cell for cell in results if cell.preset == name]
        if not cells:
            continue
        losses = [results[cell]["loss"] for cell in cells]
        accuracy = mean(results[cell]["accuracy"] for cell in cells)
        twins = [cell._replace(preset=DEFAULT) for cell in cells]
        gaps = [
            results[cell]["loss"] - results[twin]["loss"]
            for cell, twin in zip(cells, twins, strict=True)
            if twin in results
        ]
        gap = f"{spread(gaps, '+')} | {sum(gap < 0 for gap in gaps)} of {len(gaps)}" if name != DEFAULT else " | "
        lines.append(f"| {name} | {spread(losses)} | {accuracy:.1%} | {gap} |".replace("%", " %"))
    return lines


def spread(values: Sequence[float], sign: str = "") -> str:
    """Returns mean and standard deviation."""
    if not values:
        return ""
    return f"{mean(values):{sign}.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    """Trains what has no line yet and prints the table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, in a form that `check` accepts")
    parser.add_argument("--group-pattern", help="as data.group_pattern")
    parser.add_argument("--model", default="cnn", help="an entry under recipes")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--presets", nargs="+", choices=[NONE, *PRESETS], default=[NONE, *PRESETS])
    parser.add_argument("--out", type=Path, default=Path("presets.jsonl"))
    options = parser.parse_args()

    # Folds outside: after each fold every preset has been measured as often as the others.
    cells = [
        Cell(preset, fold, seed)
        for seed in range(options.seeds)
        for fold in range(options.folds)
        for preset in options.presets
    ]
    results: dict[Cell, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        params, rows, store = prepare(options, Path(folder))
        known = list(read_lines(options.out))
        for cell in cells:
            key = key_of(cell, options, params)
            line = next((line for line in known if key.items() <= line.items()), None)
            if line is None:
                line = key | measure(cell, options, params=params, rows=rows, store=store)
                with options.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")
            results[cell] = line
            print(f"{cell}: loss {line['loss']:.4f}, accuracy {line['accuracy']:.1%}", flush=True)
    print(f"\n{options.data.name}, {options.model}, {options.side} pixels, {options.epochs} epochs; {machine()}")
    print("\n".join(table(results, options.presets)))


if __name__ == "__main__":
    main()
