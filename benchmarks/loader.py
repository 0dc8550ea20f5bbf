"""Measures how many images per second the loader of the trainer yields on one core, and how much memory it needs.

Speed: relative to ImageFolder and PIL, with the same files, crops and augmentation; one core, one thread, no other
process; the two take turns. Memory: what the process holds in addition to the memory-mapped shards (RssAnon) after an
epoch, for stores of two sizes.

Example:
    python -m benchmarks.loader --data ../shared/data/brain_mri --side 64 224
"""

import os
import tempfile
import time
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import ROOT, argument_parser, machine, summary
from benchmarks.jobs import data_loader, make_job
from tumorboard.base.params import Params, Recipe, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.training.loader import Loader, epoch_batches

# Pixels; side of the random crops whose memory is measured.
MEMORY_SIDE = 64
MIB = 2**20


def epoch_of(store: CropStore, recipe: Recipe) -> Iterable[object]:
    """Returns the augmented batches of one epoch of the trainer's loader over all images of a store."""
    labels = np.zeros(len(store.ids), np.int64)
    loader = Loader(
        store,
        ids=store.ids,
        labels=labels,
        sampler="shuffle",
        augment=recipe.augment,
        seed=0,
        device=torch.device("cpu"),
    )
    return loader.load(epoch_batches(loader.keys, loader.strata, seed=0, epoch=0, batch_size=recipe.batch_size))


def seconds_to_exhaust(batches: Iterable[object]) -> float:
    """Iterates to the end and returns the wall time."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def measure_speed(data: Path, images: int, *, side: int, repetitions: int, recipe: Recipe, params: Params) -> None:
    """Prints images per second of both loaders and their ratio; the first repetition warms up and does not count."""
    ours, pil = [], []
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(data, images, side=side, recipe=recipe, crop=params.crop, folder=Path(folder))
        image_folder = data_loader(data, job, 0, "cpu")
        for _ in range(1 + repetitions):
            ours.append(seconds_to_exhaust(epoch_of(job.store, recipe)))
            pil.append(seconds_to_exhaust(image_folder))
    ratios = [theirs / own for own, theirs in zip(ours[1:], pil[1:], strict=True)]
    speeds = (images / np.median(seconds[1:]) for seconds in (ours, pil))
    print("{} pixels: loader {:.0f} images/s, ImageFolder and PIL {:.0f} images/s".format(side, *speeds))
    print(f"  speed of loader relative to ImageFolder and PIL: {summary(ratios)}", flush=True)


def measure_memory(count: int, recipe: Recipe) -> float:
    """Returns the MiB that an epoch over a store of `count` random crops adds to what this process holds."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (MEMORY_SIDE, MEMORY_SIDE, 3)
        crops = (np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8) for n in range(count))
        write_store(folder, [f"{n:06d}" for n in range(count)], crops, 8)
        before = anonymous_memory()
        store = CropStore(folder)
        seconds_to_exhaust(epoch_of(store, recipe))
        return anonymous_memory() - before


def anonymous_memory() -> float:
    """Returns the memory of this process in MiB, without that of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**10


def main() -> None:
    """Prints the speed per size, then the memory per size of the store."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has one folder per class, or Training with these")
    parser.add_argument(
        "--side", type=int, nargs="+", default=[64, 224], help="sides of the crops in pixels (default: 64 224)"
    )
    parser.add_argument("--images", type=int, default=480, help="images per epoch (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="timed epochs (default: %(default)s)")
    parser.add_argument(
        "--crops",
        type=int,
        nargs="+",
        default=[2_000, 20_000],
        help="sizes of the stores whose memory is measured (default: 2000 20000)",
    )
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    params = load_params(ROOT / "params.yaml")
    recipe = resolve_recipe(params, "resnet18").model_copy(update={"batch_size": 32})
    print(machine())
    for side in options.side:
        measure_speed(
            options.data, options.images, side=side, repetitions=options.repetitions, recipe=recipe, params=params
        )
    for count in options.crops:
        with get_context("spawn").Pool(1) as pool:
            added = pool.apply(measure_memory, (count, recipe))
        size = count * MEMORY_SIDE**2 * 3 / MIB
        print(f"an epoch over {count} crops of {MEMORY_SIDE} pixels ({size:.0f} MiB) adds {added:.0f} MiB")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
