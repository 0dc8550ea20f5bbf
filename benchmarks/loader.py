"""How many images a second the loader gives on one core, beside ImageFolder and PIL, and what memory it takes.

    python -m benchmarks.loader ../shared/data/brain_mri --side 64 --side 224

The same files, crops and alterations; one core, one thread, no other process; turns within one run. Memory: what is
held beside the mapped shards (RssAnon) after an epoch over stores of two sizes.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer

from benchmarks import machine
from benchmarks.train import data_loader, prepare_job, summary
from tumorboard.data.store import CropStore, write_store
from tumorboard.params import Recipe, load_params, resolve_recipe
from tumorboard.training.loader import Loader, epoch_batches


def main(
    data: Path,
    side: Annotated[list[int], typer.Option()] = [64, 224],  # noqa: B006 - typer's way
    images: int = 480,
    rounds: int = 5,
) -> None:
    """Print images a second, the ratio, and memory."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    params = load_params("params.yaml")
    recipe = resolve_recipe(params, "resnet18").model_copy(update={"batch_size": 32})
    training = data / "Training" if (data / "Training").is_dir() else data
    print(machine())
    for size in side:
        with tempfile.TemporaryDirectory() as folder:
            job = prepare_job(training, images, size, recipe, params, Path(folder))
            ours = load_all(CropStore(folder), recipe)
            theirs = data_loader(training, job, 0, "cpu")
            seconds: dict[str, list[float]] = {"loader": [], "ImageFolder": []}
            for turn in range(rounds + 1):
                for name, batches in (("loader", ours), ("ImageFolder", theirs)):
                    start = time.perf_counter()
                    for _ in batches() if callable(batches) else batches:
                        pass
                    if turn:
                        seconds[name].append(time.perf_counter() - start)
        speeds = {name: images / np.median(taken) for name, taken in seconds.items()}
        ratios = [other / own for own, other in zip(*seconds.values(), strict=True)]
        print(f"{size} pixels: " + ", ".join(f"{name} {speed:.0f} images/s" for name, speed in speeds.items()))
        print(f"  as fast as ImageFolder times {summary(ratios)}")
    for count in (2_000, 20_000):
        with get_context("spawn").Pool(1) as fresh:
            grown = fresh.apply(measure_memory, (count, recipe))
        print(f"an epoch over {count} crops of 64 pixels ({count * 12288 / 2**20:.0f} MiB): {grown:.0f} MiB held")


def load_all(store: CropStore, recipe: Recipe) -> Callable[[], Iterator[object]]:
    """The batches of an epoch of the loader."""
    ids = store.ids
    labels = np.zeros(len(ids), np.int64)
    loader = Loader(store, ids, labels, "shuffle", recipe.augment, 0, torch.device("cpu"))
    batches = epoch_batches(loader.keys, loader.strata, 0, 0, recipe.batch_size)
    return lambda: loader.load(batches)


def measure_memory(count: int, recipe: Recipe) -> float:
    """MiB that an epoch over a store of that many random crops adds to what this process holds."""
    with tempfile.TemporaryDirectory() as folder:
        crops = (np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8) for n in range(count))
        write_store(folder, [f"{n:06d}" for n in range(count)], crops, 8)
        before = held()
        store = CropStore(folder)
        for _ in load_all(store, recipe)():
            pass
        return held() - before


def held() -> float:
    """Anonymous memory of this process in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    cv2.setNumThreads(1)
    typer.run(main)
