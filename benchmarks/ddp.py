"""Measures the speed of one training in two processes of one core each, relative to one process with two cores.

The speed is that of each training's second epoch; the settings take turns. The third setting, separate, explains the
difference: two trainings at the same time, with one core and half the batch each, which exchange no gradients.

Example:
    python -m benchmarks.ddp --data ../shared/data/brain_mri --side 64 224
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks import ROOT, argument_parser, machine, summary
from benchmarks.jobs import make_job
from tumorboard.base.params import Runtime, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.training.job import Epoch, Job
from tumorboard.training.loop import train_model

# Images per step over all processes.
BATCH = 32
# Images, about, of all classes that are validated after each epoch; the time of that is left out.
VALIDATION = 32


def images_per_second(job: Job, runtime: Runtime, threads: int) -> float:
    """Trains in a new process and returns the images per second of the last epoch."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_train, job, runtime, threads).result()


def _train(job: Job, runtime: Runtime, threads: int) -> float:
    torch.set_num_threads(threads)
    epochs: list[Epoch] = []
    train_model(job, runtime, epochs.append)
    return epochs[-1].images_per_second


def measure(job: Job, runtime: Runtime, repetitions: int, folder: Path) -> dict[str, list[float]]:
    """Returns the images per second of each setting, one value per repetition.

    Args:
        job: the training.
        runtime: its `processes` are replaced.
        repetitions: number of trainings per setting.
        folder: to write the trained models to.
    """
    one, two = (runtime.model_copy(update={"processes": count}) for count in (1, 2))
    half = job.recipe.model_copy(update={"batch_size": BATCH // 2})
    halves = [
        replace(job, recipe=half, rows=job.rows[::2], out=folder / name, weights=folder / f"{name}.safetensors")
        for name in ("first", "second")
    ]
    speeds: dict[str, list[float]] = {"one process": [], "two processes": [], "separate": []}
    for _ in range(repetitions):
        speeds["one process"].append(images_per_second(job, one, threads=2))
        speeds["two processes"].append(images_per_second(job, two, threads=2))
        with ThreadPoolExecutor(2) as pool:
            speeds["separate"].append(sum(pool.map(partial(images_per_second, runtime=one, threads=1), halves)))
    return speeds


def main() -> None:
    """Prints the images per second and the ratios per size."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has one folder per class, or Training with these")
    parser.add_argument(
        "--side", type=int, nargs="+", default=[64, 224], help="sides of the crops in pixels (default: 64 224)"
    )
    parser.add_argument("--images", type=int, default=640, help="images per epoch (default: %(default)s)")
    parser.add_argument("--model", default="resnet18", help="a name under `recipes` (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="trainings per setting (default: %(default)s)")
    options = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    changes = {"epochs": 2, "batch_size": BATCH, "warmup_epochs": 0.0}
    recipe = resolve_recipe(params, options.model).model_copy(update=changes)
    runtime = params.runtime.model_copy(update={"device": "cpu", "checkpoint_seconds": 0.0})
    print(machine())
    for side in options.side:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            job = make_job(options.data, options.images, side=side, recipe=recipe, crop=params.crop, folder=folder)
            job = replace(
                job,
                val_rows=job.rows[:: max(1, len(job.rows) // VALIDATION)],
                out=folder / "out",
                weights=folder / "whole.safetensors",
            )
            speeds = measure(job, runtime, options.repetitions, folder)
        print(f"{options.model}, {side} pixels, batch {BATCH}, {recipe.precision}, {options.images} images per epoch")
        for setting, values in speeds.items():
            ratios = [speed / single for speed, single in zip(values, speeds["one process"], strict=True)]
            print(f"  {setting}: {np.median(values):.1f} images/s, relative to one process {summary(ratios)}")


if __name__ == "__main__":
    main()
