"""Measures what single changes of a recipe bring: held-out loss and accuracy, paired with the recipe as it is.

The base is an entry under `recipes` with the alterations of a preset, without averages of weights, views at test time
and a growing side. Each ingredient is one change of it. A run with seed s validates fold s (modulo the number of
folds), and each ingredient has the same folds, seeds and images as the base. The loss of each validation image is that
of the epoch which the images outside its part choose; the tempered loss follows a temperature that was fitted outside
the part as well, as in a panel. Folds keep copies and groups together; a test part is not used.

Each training is a line of the file --out. A training that has its line is not repeated, so that a run that was stopped
goes on. With --table nothing is trained: the tables of all lines are printed.

Example:
    python -m benchmarks.ingredients --data ../shared/data/bccd_cells --group-pattern '(BloodImage_[0-9]+)' \\
        --preset cells --side 64 --images 200
    python -m benchmarks.ingredients --table
"""

import argparse
import io
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import argument_parser, machine
from benchmarks.presets import augment_of, prepare, read_lines, spread
from tumorboard.base.params import Params, Recipe
from tumorboard.base.presets import DEFAULT, PRESETS
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.tables import Manifest
from tumorboard.data.store import CropStore
from tumorboard.evaluation.held_out import HeldOut, read_held_out
from tumorboard.evaluation.temperature import apply_temperature, fit_temperature
from tumorboard.models.inference import softmax
from tumorboard.training.job import Job
from tumorboard.training.loop import train_model

BASE = "base"
# What the base leaves out, whatever params.yaml says.
PLAIN: dict[str, Any] = {"ema_decay": 0.0, "average_last": 0, "tta": (), "progressive": 1.0, "early_stopping": 0}
# Changes of the base by the name of the ingredient; a function has the number of epochs as its argument.
INGREDIENTS: dict[str, Any] = {
    BASE: {},
    "ema 0.99": {"ema_decay": 0.99},
    "average of the last quarter": lambda epochs: {"average_last": max(1, epochs // 4)},
    "tta hflip": {"tta": ("hflip",)},
    "tta flips": {"tta": ("hflip", "vflip")},
    "tta flips and turns": {"tta": ("hflip", "vflip", "quarter_turns")},
    "tta shift": {"tta": ("shift",)},
    "progressive 0.5": {"progressive": 0.5},
    "layer_decay 0.75": {"layer_decay": 0.75},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "cosine": {"schedule": "cosine"},
    "onecycle": {"schedule": "onecycle"},
    "longer x2": lambda epochs: {"epochs": 2 * epochs},
    "longer x2, stop after 3": lambda epochs: {"epochs": 2 * epochs, "early_stopping": 3},
    "scratch": {"pretrained": "none", "lr": 0.001},
    "bf16": {"precision": "bf16"},
}
SETTINGS = ("data", "preset", "model", "side", "images", "epochs", "folds")  # equal in all lines of a table


def draw_groups(rows: Manifest, count: int) -> Manifest:
    """Returns rows of whole groups, in an order of the groups' own, until each class has `count` or all its images.

    Args:
        rows: rows of a Manifest.
        count: images wanted per class; 0: all rows.
    """
    if not count:
        return rows
    wanted = dict.fromkeys(rows["label"].unique(), count)
    groups = {str(group): labels.value_counts() for group, labels in rows.groupby("group")["label"]}
    names = sorted(groups)
    taken = set()
    for place in order(0, keys_of(names), 0):
        counts = groups[names[place]]
        if any(wanted[label] > 0 for label in counts.index):
            taken.add(names[place])
            for label, number in counts.items():
                wanted[label] -= number
    return rows[rows["group"].isin(taken)]


def recipe_of(ingredient: str, seed: int, options: argparse.Namespace, params: Params) -> Recipe:
    """Returns the recipe of a training; the checks of a recipe apply to it."""
    change = INGREDIENTS[ingredient]
    base = resolve_recipe(params, options.model).model_dump() | PLAIN
    base |= {"epochs": options.epochs, "seed": seed, "augment": augment_of(options.preset, params)}
    return Recipe.model_validate(base | (change(options.epochs) if callable(change) else change))


def measure(job: Job, params: Params) -> dict[str, Any]:
    """Trains a job in this process and returns its held-out scores and its cost in seconds of CPU time."""
    start = time.process_time()
    with redirect_stdout(io.StringIO()):
        train_model(job, params.runtime.model_copy(update={"processes": 1, "device": "cpu"}), lambda _: None)
    seconds = time.process_time() - start
    held_out = read_held_out(job.held_out, len(job.val_rows), len(job.classes))
    actual = job.val_rows["label"].map(job.classes.index).to_numpy(np.int64)
    plain, tempered = softmax(held_out.own_logits), temper(held_out, actual)
    rows = np.arange(len(actual))
    return {
        "loss": float(-np.log(np.maximum(plain[rows, actual], 1e-300)).mean()),
        "tempered_loss": float(-np.log(np.maximum(tempered[rows, actual], 1e-300)).mean()),
        "accuracy": float((plain.argmax(1) == actual).mean()),
        "validation_images": len(actual),
        "training_images": len(job.rows),
        "epoch": int(held_out.epochs[-1]),
        "cpu_seconds": round(seconds, 1),
    }


def temper(held_out: HeldOut, actual: np.ndarray) -> np.ndarray:
    """Returns the probabilities float64[N, K], each part's by the temperature that the other parts fit."""
    result = softmax(held_out.own_logits)
    for part in np.unique(held_out.parts):
        inside, chosen = held_out.parts == part, held_out.probabilities(int(part))
        if not inside.all():
            temperature = fit_temperature(chosen[~inside], actual[~inside])
            result[inside] = apply_temperature(chosen[inside], temperature)
    return result


def train_missing(options: argparse.Namespace) -> None:
    """Trains what has no line yet; all ingredients of a seed come before the next seed."""
    known = list(read_lines(options.out))
    with TemporaryDirectory() as folder:
        params, rows, store = prepare(options, Path(folder))
        rows = draw_groups(rows[rows["fold"].notna()], options.images)
        for seed in options.seeds:
            for ingredient in options.only:
                recipe = recipe_of(ingredient, seed, options, params)
                key = {name: getattr(options, name) for name in SETTINGS} | {"data": options.data.name}
                key |= {"ingredient": ingredient, "seed": seed, "recipe": recipe.model_dump(mode="json")}
                if any(key.items() <= line.items() for line in known):
                    continue
                with TemporaryDirectory() as out:
                    job = make_job(recipe, seed % options.folds, rows=rows, store=store, params=params, out=Path(out))
                    line = key | measure(job, params)
                append_line(line, options.out)
                print(
                    f"{options.data.name}, seed {seed}, {ingredient}: loss {line['loss']:.4f}, "
                    f"accuracy {line['accuracy']:.1%}, {line['cpu_seconds']:.0f} s",
                    flush=True,
                )


def append_line(line: Mapping[str, Any], file: Path) -> None:
    """Appends a result to the file, on a line of its own even where a killed run left half a line."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n")
    with file.open("a", encoding="utf-8") as lines:
        lines.write("\n" * torn + json.dumps(line) + "\n")


def make_job(recipe: Recipe, fold: int, *, rows: Manifest, store: CropStore, params: Params, out: Path) -> Job:
    """Returns the job that trains on all folds but one."""
    validates = rows["fold"].eq(fold)
    return Job(
        name=recipe.architecture,
        fold=fold,
        recipe=recipe,
        rows=rows[~validates],
        val_rows=rows[validates],
        store=store,
        classes=tuple(sorted(rows["label"].unique())),
        crop=params.crop,
        digest="",
        weights=out / "weights.safetensors",
        held_out=out / "held_out.safetensors",
        out=out,
    )


def tables(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns Markdown: per data set and setting one table, with each ingredient's paired differences to the base.

    >>> setting = dict.fromkeys(SETTINGS, "x") | {"accuracy": 0.5, "cpu_seconds": 9.0}
    >>> lines = [setting | {"ingredient": name, "seed": seed, "loss": loss, "tempered_loss": loss / 2} for
    ...          name, seed, loss in [("base", 0, 0.4), ("base", 1, 0.6), ("onecycle", 0, 0.3), ("onecycle", 1, 0.6)]]
    >>> print(tables(lines)[-1])
    | onecycle | 2 | 0.450 ± 0.212 | -0.050 ± 0.071 | 1 of 2 | -0.025 ± 0.035 | 50.0 % | +0.0 | 9 |
    """
    text: list[str] = []
    for setting in dict.fromkeys(tuple(line[name] for name in SETTINGS) for line in lines):
        own = [line for line in lines if tuple(line[name] for name in SETTINGS) == setting]
        results = {(line["ingredient"], line["seed"]): line for line in own}  # the later of two equal ones
        text += [
            "",
            ", ".join(f"{name} {value}" for name, value in zip(SETTINGS, setting, strict=True)),
            "",
            "| ingredient | runs | held-out loss | against base | lower in | tempered, against base | accuracy "
            "| against base, points | CPU seconds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        names = [name for name in INGREDIENTS if any(name == ingredient for ingredient, _ in results)]
        text += [table_row(name, results) for name in names]
    return text


def table_row(name: str, results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Returns the line of one ingredient."""
    runs = {seed: line for (ingredient, seed), line in results.items() if ingredient == name}
    pairs = [(line, results[BASE, seed]) for seed, line in runs.items() if (BASE, seed) in results]
    loss, tempered, accuracy = (
        [line[score] - base[score] for line, base in pairs] for score in ("loss", "tempered_loss", "accuracy")
    )
    against = ["", "", "", ""]
    if name != BASE and pairs:
        lower = f"{sum(gap < 0 for gap in loss)} of {len(loss)}"
        against = [spread(loss, "+"), lower, spread(tempered, "+"), f"{100 * mean(accuracy):+.1f}"]
    cells = [
        name,
        str(len(runs)),
        spread([line["loss"] for line in runs.values()]),
        *against[:3],
        f"{100 * mean(line['accuracy'] for line in runs.values()):.1f} %",
        against[3],
        f"{mean(line['cpu_seconds'] for line in runs.values()):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Trains what is missing, unless --table is given, and prints the tables."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("data/phantom"), help="folder of images (default: %(default)s)"
    )
    parser.add_argument("--group-pattern", help="as data.group_pattern")
    parser.add_argument("--preset", choices=list(PRESETS), default=DEFAULT, help="of the alterations (%(default)s)")
    parser.add_argument("--model", default="efficientnet_lite0", help="an entry under recipes (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="of the crops in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=0, help="per class, by whole groups; 0: all (the default)")
    parser.add_argument("--epochs", type=int, default=8, help="of the base (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=3, help="of the split (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--only", nargs="+", choices=list(INGREDIENTS), default=list(INGREDIENTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("ingredients.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and train nothing")
    options = parser.parse_args()
    if not options.table:
        train_missing(options)
        print(machine())
    print("\n".join(tables(list(read_lines(options.out)))))


if __name__ == "__main__":
    main()
