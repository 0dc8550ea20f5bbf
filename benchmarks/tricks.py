"""Measures what each option of the training engine costs: the time of an epoch with it, relative to one without.

Each repetition times one epoch per option in one process, over 128 random images, with the recipe of params.yaml: CPU
time on a CPU, wall time on CUDA. The first repetition warms up and does not count.

Example:
    python -m benchmarks.tricks --model cnn --side 64 --repetitions 5
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import ROOT, argument_parser, machine, summary
from tumorboard.base.params import Params, Recipe, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.device import choose_device
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.job import Job
from tumorboard.training.loop import mean_std_of, set_up
from tumorboard.training.steps import train_epoch

IMAGES = 128

# Changes of the recipe by the name of the option.
OPTIONS: dict[str, dict[str, Any]] = {
    "none (the spread)": {},
    "layer_decay": {"layer_decay": 0.75},
    "clip_norm": {"clip_norm": 1.0},
    "ema_decay": {"ema_decay": 0.999},
    "mixup": {"mixup": 0.2},
    "mixup and cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "nonfinite: skip": {"nonfinite": "skip"},
}


def make_store(folder: Path, side: int) -> CropStore:
    """Writes random crops to a store in the folder and opens it."""
    crops = np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    write_store(folder, [str(number) for number in range(IMAGES)], crops, 1)
    return CropStore(folder)


def make_job(store: CropStore, model: str, recipe: Recipe, params: Params) -> Job:
    """Returns a Job that trains on all crops of the store, half of them in either class."""
    rows = pd.DataFrame({"id": store.ids, "label": ["a", "b"] * (IMAGES // 2)})
    return Job(
        name=model,
        fold=0,
        recipe=recipe,
        rows=rows,
        val_rows=rows,
        store=store,
        classes=("a", "b"),
        crop=params.crop,
        digest="",
        weights=Path(),
        held_out=Path(),
        out=Path(),
    )


def measure(model: str, side: int, repetitions: int) -> None:
    """Prints the seconds of a plain epoch, then one line per option."""
    params = load_params(ROOT / "params.yaml")
    recipe = resolve_recipe(params, model)
    device = torch.device(choose_device(params.runtime))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), side)
        trainings = []
        for changes in ({}, *OPTIONS.values()):
            job = make_job(store, model, recipe.model_copy(update=changes), params)
            trainings.append(set_up(Group(0, 1, device), job, mean_std_of(job)))
        seconds = np.empty((1 + repetitions, len(trainings)))
        for repetition in range(len(seconds)):
            for column, (setup, state) in enumerate(trainings):
                start = clock()
                train_epoch(setup, state, 0, Checkpoints(setup.group, folder=None, key="", seconds=0.0))
                seconds[repetition, column] = clock() - start
    counted = seconds[1:]
    ratios = counted[:, 1:] / counted[:, :1]
    print(machine())
    print(
        f"{model}, {side} pixels, batch {recipe.batch_size}, precision {recipe.precision}, {device}: "
        f"{counted[:, 0].mean():.2f} s per plain epoch"
    )
    for name, column in zip(OPTIONS, ratios.T, strict=True):
        print(f"{name}: {summary(column.tolist(), 3)}")


def main() -> None:
    """Reads the options and measures."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="resnet18", help="a name under `recipes` (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="epochs timed per option (default: %(default)s)")
    options = parser.parse_args()
    measure(options.model, options.side, options.repetitions)


if __name__ == "__main__":
    main()
