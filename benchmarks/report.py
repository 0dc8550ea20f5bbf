"""Measures the CPU time of the stages `ensemble` and `report` by their parts, for a panel of made-up members.

Writes the files of a run without training: `--images` validation images of one fold and as many test images of 60
patients each, of whom all have images of all classes, so that every score has its interval. The members' logits are
noise that favors the right class. `--profile` runs the report under cProfile, which makes it slower, and prints the
functions that take most time. `--out` keeps the folder, to look at its report.

Example:
    python -m benchmarks.report --classes 60 --members 10
"""

import cProfile
import gc
import pstats
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pandas as pd

from benchmarks import ROOT, argument_parser, machine, stage_environment
from tests.report.finished_run import run_ensemble, run_report, write_run
from tumorboard.base.params import Params, load_params
from tumorboard.base.tables import Manifest
from tumorboard.data.store import CropBatch

SIDE = 64  # pixels of a crop
PATIENTS = 60  # patients per part
PARTS = ("validation", "other folds", "test")
SKILL = 3.0  # lead of the right class's logit, for each member
PROFILED = 35  # functions that --profile prints
# The functions that the stage calls, with the module in which it finds each, by what is timed.
STEPS = {
    "statistics": (
        ("stages.report", "read_results"),
        ("stages.report", "draw_conclusions"),
        ("tumorboard.report.figures", "plot_tables"),
    ),
    "drawing": (
        ("tumorboard.report.figures", "draw_figures"),
        ("tumorboard.report.figures", "draw_test_figures"),
        ("tumorboard.report.explained", "draw_explained"),
        ("tumorboard.report.plots", "to_png"),
    ),
    "HTML": (("tumorboard.report.page", "render_page"),),
}
# All modules are imported before any function is replaced, so that only the stage calls the replaced ones.
MODULES = {name: import_module(name) for name in sorted({module for names in STEPS.values() for module, _ in names})}


def make_params(members: int) -> Params:
    """Returns the committed params with the first recipes as members of fold 0."""
    params = load_params(ROOT / "params.yaml")
    if members > len(params.recipes):
        raise SystemExit(f"--members {members}: params.yaml has {len(params.recipes)} recipes")
    return params.model_copy(
        update={
            "study": "Made-up members",
            "models": tuple(params.recipes)[:members],
            "data": params.data.model_copy(update={"positive": None}),
        }
    )


def make_manifest(classes: list[str], images: int) -> Manifest:
    """Returns `images` rows of each part, dealt to its patients so that each has all classes."""
    number = np.arange(len(PARTS) * images)
    part, row = number // images, number % images
    ids = [f"P{p}/{k}.png" for p, k in zip(part, number, strict=True)]
    # A patient's images follow each other: dealt in turns, a patient would have one class where the numbers divide.
    patient = part * PATIENTS + row * PATIENTS // images
    return pd.DataFrame(
        {
            "id": ids,
            "path": ids,
            "label": np.array(classes, dtype=object)[row % len(classes)],
            "group": np.array([f"p{one}" for one in patient], dtype=object),
            "split": np.where(part == PARTS.index("test"), "test", "train"),
            "fold": pd.Series(part, dtype="Int64").mask(part == PARTS.index("test")),
            "source_id": ids,
            "sha256": [f"{k:064x}" for k in number],
        }
    )


def make_crops(count: int, generator: np.random.Generator) -> CropBatch:
    """Returns blurred noise, uint8[count, SIDE, SIDE, 3]."""
    coarse = generator.integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in coarse])


def timed(function: Callable[..., Any], name: str, seconds: Counter[str]) -> Callable[..., Any]:
    """Returns the function as one that adds the CPU time of its calls to `seconds`."""

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return function(*given, **named)
        finally:
            seconds[name] += time.process_time() - start  # type: ignore[assignment]

    return call


def time_report(folder: Path, params: Params) -> Counter[str]:
    """Runs the stage report and returns its CPU seconds by part, and `other`."""
    seconds: Counter[str] = Counter()
    with ExitStack() as patches:
        for part, names in STEPS.items():
            for module, name in names:
                function = timed(getattr(MODULES[module], name), part, seconds)
                patches.enter_context(mock.patch.object(MODULES[module], name, function))
        timed(run_report, "all", seconds)(folder, params)
    whole = seconds.pop("all")
    return seconds + Counter({"other": whole - seconds.total()})


def start_up() -> float:
    """Returns the CPU seconds until the stage's code is imported, of a process of its own."""
    code = f"import time, {', '.join(MODULES)}; print(time.process_time())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=stage_environment(), check=True, text=True, stdout=subprocess.PIPE
    )
    return float(done.stdout)


def measure(folder: Path, classes: int, members: int, images: int, profile: bool) -> None:
    """Writes a run to the folder, runs both stages there and prints their CPU seconds."""
    params, names = make_params(members), [f"tissue type {number:02}" for number in range(1, classes + 1)]
    generator = np.random.default_rng(0)
    manifest = make_manifest(names, images)
    crops = make_crops(len(manifest), generator)
    skills = [SKILL] * members
    write_run(folder, params, manifest, crops=crops, classes=names, skills=skills, generator=generator)
    seconds: Counter[str] = Counter()
    gc.freeze()  # as a stage does once its modules are imported
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    timed(run_ensemble, "ensemble", seconds)(folder, params)
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(PROFILED)
        profiler = cProfile.Profile()
        profiler.enable()
    seconds |= time_report(folder, params)
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(PROFILED)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(PROFILED)
    print(f"ensemble: {seconds.pop('ensemble'):.2f} s")
    print(f"report: {seconds.total() + (begun := start_up()):.2f} s, start-up {begun:.2f}", end="")
    print("".join(f", {part} {value:.2f}" for part, value in seconds.items()))
    page = folder / "report" / "index.html"
    print(f"page: {page.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    """Measures one panel."""
    parser = argument_parser(__doc__)
    parser.add_argument("--classes", type=int, default=60)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--images", type=int, default=3000, help="of each part")
    parser.add_argument("--profile", action="store_true", help="print the functions that take most time")
    parser.add_argument("--out", type=Path, help="folder that keeps the run; default: one that is deleted")
    options = parser.parse_args()
    print(f"{options.classes} classes, {options.members} members, {options.images} images: {machine()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.out or Path(temporary), options.classes, options.members, options.images, options.profile)


if __name__ == "__main__":
    main()
