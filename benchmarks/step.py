"""Measures a training's steps on a GPU, in one process: small batches with CUDA graphs against large ones without.

    python -m benchmarks.step                                # cnn, resnet18, googlenet at 64 pixels, resnet50 at 224
    python -m benchmarks.step --device cpu --models cnn:32 --images 64 --batches 8 16   # the script itself

Images are drawn at random, since a step's time does not depend on them. Per network the lines are, in images
per second:

- resident N: steps on one batch of N images in the GPU's memory, which is not altered: no input at all
- trainer N: the trainer's epoch with batches of N images, altered and read from a crop store
- the same with "graphs": captured as CUDA graphs

--profile prints where the time of an epoch of the trainer goes.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import ROOT, argument_parser, machine, summary
from benchmarks.train import epoch_of, resident_steps, start_training
from tumorboard.base.params import Params, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.training.graphs import STEPS_BEFORE_CAPTURE
from tumorboard.training.job import Job


def random_job(params: Params, model: str, side: int, images: int, folder: Path) -> Job:
    """Returns a job of two classes on random crops."""
    ids = [f"{number}.png" for number in range(images)]
    crops = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    write_store(folder, ids, crops, 8)
    labels = [("one", "two")[number % 2] for number in range(images)]
    rows = pd.DataFrame({"id": ids, "group": ids, "split": "train", "label": labels})
    recipe = resolve_recipe(params, model).model_copy(update={"pretrained": "none", "precision": "bf16"})
    places = dict.fromkeys(("weights", "held_out", "out"), Path())
    store, crop = CropStore(folder), params.crop.model_copy(update={"side": side})
    return Job(
        name=model, fold=0, recipe=recipe, rows=rows, val_rows=rows, store=store, classes=("one", "two"), crop=crop,
        digest="", **places,
    )  # fmt: skip


def loops_of(job: Job, batches: list[int], device: torch.device) -> dict[str, Callable[[], object]]:
    """Returns what runs an epoch, by title."""
    loops: dict[str, Callable[[], object]] = {}
    for batch in batches:
        one = replace(job, recipe=job.recipe.model_copy(update={"batch_size": batch}))
        for graphs in (False, True) if device.type == "cuda" else (False,):
            remark = ", graphs" if graphs else ""
            loops[f"resident {batch}{remark}"] = resident_steps(one, device, cuda_graphs=graphs)
            loops[f"trainer {batch}{remark}"] = epoch_of(*start_training(one, device, cuda_graphs=graphs))
    return loops


def measure(job: Job, options: argparse.Namespace) -> None:
    """Prints the speed of each loop, and its ratio to the resident step with the largest batch."""
    device = torch.device(options.device)
    loops = loops_of(job, options.batches, device)
    seconds: dict[str, list[float]] = {title: [] for title in loops}
    steps = len(job.rows) // max(options.batches)
    warm = 1 - (-STEPS_BEFORE_CAPTURE - 1) // steps  # epochs until all graphs are captured
    for repetition in range(options.repetitions + warm):
        for title, run in loops.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repetition >= warm:
                seconds[title].append(time.perf_counter() - start)
    best = seconds[f"resident {max(options.batches)}"]
    for title, taken in seconds.items():
        ratios = [reference / one for reference, one in zip(best, taken, strict=True)]
        print(f"  {title:<20} {len(job.rows) / np.median(taken):8.0f} images/s  {summary(ratios, 2)}", flush=True)
    if options.profile:
        print_profiles(loops[f"trainer {min(options.batches)}{', graphs' if device.type == 'cuda' else ''}"])


def print_profiles(run: Callable[[], object]) -> None:
    """Prints where the time of an epoch goes: in Python, and in kernels."""
    python = cProfile.Profile()
    python.runcall(run)
    pstats.Stats(python).sort_stats("tottime").print_stats(25)
    with torch.profiler.profile() as profile:
        run()
    print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=20, max_name_column_width=60))


def main() -> None:
    """Measures each network."""
    parser = argument_parser(__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    default = ["cnn:64", "resnet18:64", "googlenet:64", "resnet50:224"]
    parser.add_argument("--models", nargs="+", default=default, metavar="NAME:SIDE", help="(default: %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256], help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=2048, help="per epoch (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="epochs timed per loop (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    for name in options.models:
        model, side = name.split(":")
        with tempfile.TemporaryDirectory() as folder:
            job = random_job(params, model, int(side), options.images, Path(folder))
            print(f"{model}, {side} pixels; in brackets: speed relative to resident {max(options.batches)}", flush=True)
            measure(job, options)
    gpu = [torch.cuda.get_device_name()] if options.device == "cuda" else []
    print(machine(), f"torch {torch.__version__}", *gpu, sep=", ")


if __name__ == "__main__":
    main()
