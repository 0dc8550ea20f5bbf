"""One training in two processes of a core each, beside one process of two cores; and where the difference goes.

    python -m benchmarks.ddp ../shared/data/brain_mri --side 64 --side 224

Turns within one run; images a second of each training's second epoch. *Apart*: two trainings at a time, of one core and
half the batch each, which exchange nothing: what two cores give without gradients to average.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import machine
from benchmarks.train import prepare_job, summary
from tumorboard.params import Runtime, load_params, resolve_recipe
from tumorboard.training.loop import train_model
from tumorboard.training.state import Epoch, Job


def main(
    data: Path,
    side: Annotated[list[int], typer.Option()] = [64, 224],  # noqa: B006 - typer's way
    images: int = 640,
    model: str = "resnet18",
    rounds: int = 3,
) -> None:
    """Print images a second and ratios."""
    params = load_params("params.yaml")
    recipe = resolve_recipe(params, model).model_copy(update={"epochs": 2, "batch_size": 32, "warmup_epochs": 0.0})
    half = recipe.model_copy(update={"batch_size": 16})
    training = data / "Training" if (data / "Training").is_dir() else data
    settings = {"device": "cpu", "checkpoint_seconds": 0.0}
    one, two = (params.runtime.model_copy(update=settings | {"processes": n}) for n in (1, 2))
    print(machine())
    for size in side:
        with tempfile.TemporaryDirectory() as folder:
            job = prepare_job(training, images, size, recipe, params, Path(folder))
            job = replace(job, val_rows=job.rows[:32], weights=Path(folder) / "w", out=Path(folder) / "out")
            apart = replace(job, recipe=half, rows=job.rows[::2])
            speeds: dict[str, list[float]] = {"one": [], "two": [], "apart": []}
            for _ in range(rounds):
                speeds["one"].append(train(job, one, 2))
                speeds["two"].append(train(job, two, 2))
                with ThreadPoolExecutor(2) as pool:
                    jobs = [replace(apart, out=Path(folder) / name, weights=Path(folder) / f"w{name}") for name in "ab"]
                    speeds["apart"].append(sum(pool.map(lambda each: train(each, one, 1), jobs)))
        print(f"{model}, {size} pixels, batch 32, bf16, {images} images")
        for name, values in speeds.items():
            ratios = [speed / alone for speed, alone in zip(values, speeds["one"], strict=True)]
            print(f"  {name}: {np.median(values):.1f} images/s; of one process {summary(ratios)}")


def train(job: Job, runtime: Runtime, threads: int) -> float:
    """Images a second of the second epoch, trained in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(_train, job, runtime, threads).result()


def _train(job: Job, runtime: Runtime, threads: int) -> float:
    torch.set_num_threads(threads)
    epochs: list[Epoch] = []
    train_model(job, runtime, epochs.append)
    return epochs[-1].images_per_second


if __name__ == "__main__":
    typer.run(main)
