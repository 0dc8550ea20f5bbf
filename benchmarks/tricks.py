"""What each trick of the training engine costs: an epoch with it over the same epoch without, in turn within one run.

[MODEL] [SIDE] [ROUNDS]: 128 random images, the recipe of params.yaml, one process; processor time on a CPU, wall time
on CUDA; the median of ROUNDS ratios and their range.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer

from tumorboard.data.store import CropStore, write_store
from tumorboard.models.inference import choose_device
from tumorboard.params import load_params, resolve_recipe
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.loop import mean_std_of, prepare
from tumorboard.training.state import Job
from tumorboard.training.steps import train_epoch

TRICKS: dict[str, dict[str, Any]] = {
    "none (the spread)": {},
    "layer_decay": {"layer_decay": 0.75},
    "clip_norm": {"clip_norm": 1.0},
    "ema_decay": {"ema_decay": 0.999},
    "mixup": {"mixup": 0.2},
    "mixup and cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "nonfinite: skip": {"nonfinite": "skip"},
}


def main(model: str = "resnet18", side: int = 64, rounds: int = 5) -> None:
    """Print a line a trick."""
    params = load_params("params.yaml")
    device = torch.device(choose_device(params.runtime))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    ids = [str(number) for number in range(128)]
    rows = pd.DataFrame({"id": ids, "label": ["a", "b"] * 64})
    with tempfile.TemporaryDirectory() as folder:
        crops = np.random.default_rng(0).integers(0, 256, (128, side, side, 3), dtype=np.uint8)
        write_store(Path(folder), ids, crops, 1)
        plain = resolve_recipe(params, model)
        runs = []
        for changes in ({}, *TRICKS.values()):
            recipe = plain.model_copy(update=changes)
            job = Job(model, 0, recipe, rows, rows, CropStore(folder), ("a", "b"), params.crop, "", Path(), Path())
            runs.append(prepare(Group(0, 1, device), job, mean_std_of(job)))
        seconds = np.empty((rounds + 1, len(runs)))
        for turn in range(len(seconds)):
            for column, (run, state) in enumerate(runs):
                start = clock()
                train_epoch(run, state, 0, Checkpoints(run.group, None, "", 0.0))
                seconds[turn, column] = clock() - start
    ratios = seconds[1:, 1:] / seconds[1:, :1]  # the first round warms up
    print(f"{model}, {side} px, batch {plain.batch_size}, {plain.precision}, {device}: {seconds[1:, 0].mean():.2f} s")
    for name, column in zip(TRICKS, ratios.T, strict=True):
        print(f"{name}: {np.median(column):.3f} ({column.min():.3f} to {column.max():.3f}, n = {len(column)})")


if __name__ == "__main__":
    typer.run(main)
