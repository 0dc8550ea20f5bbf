"""Measures `tumorboard predict` on many files: its speed beside decoding and inference alone, and its memory.

The panel has untrained networks of the models in params.yaml, as fast as trained ones. Decoding alone is what
the command's processes do, inference alone what its main process does with crops in memory; neither counts starting up,
which the command's time includes. The rates take turns. Memory is the largest sum, over the command and its processes,
of the proportional set size (PSS): pages that several processes share are counted once. Linux only.

With `--broken`, as many of the drawn files are cut off in the middle, and the command has to name each of them.

Start-up is the CPU time (user and system) of the command with one file, relative to `import torch`.

Example:
    python -m benchmarks.predict --files 5000 --broken 0.01 --repetitions 3
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import psutil

from benchmarks import ROOT, argument_parser, machine, stage_environment, summary
from tests.panel.models import CLASSES, NORMALIZATION, untrained_card
from tumorboard.base.params import Params, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.data.new_files import crop_new_files, list_new_files, open_decoders
from tumorboard.data.workers import worker_count
from tumorboard.models.model_file import save_model
from tumorboard.models.registry import build_model
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.predict import classify_crops
from tumorboard.panel.trained_model import load_panel

# Pixels; width and height of the drawn JPEGs, and side of their grain before it is enlarged.
WIDTH, HEIGHT, GRAIN = 512, 480, 16
# Between two looks at the memory of the processes.
LOOK_SECONDS = 0.25
KIB = 2**10


class CommandRun(NamedTuple):
    """What one run of the command took."""

    seconds: float  # wall time
    cpu: float  # seconds, of the command and its processes
    memory: float  # MiB; peak of the sum of the processes' PSS
    largest: float  # MiB; peak of the sum of their RSS, which counts shared pages once per process
    table: bytes


def draw_files(folder: Path, count: int, broken: int) -> None:
    """Writes blurred noise as JPEGs of about 50 kB, of which as many, evenly spread, end in their middle."""
    cut = set(np.linspace(0, count - 1, broken).astype(int).tolist())
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (GRAIN, GRAIN, 3), dtype=np.uint8)
        image = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        content = cv2.imencode(".jpg", image)[1].tobytes()
        (folder / f"{number:06d}.jpg").write_bytes(content[: len(content) // 2] if number in cut else content)


def save_models(params: Params, models: Sequence[str], side: int, folder: Path) -> list[Path]:
    """Writes one untrained model file per recipe."""
    files = [folder / f"{name}.safetensors" for name in models]
    for name, file in zip(models, files, strict=True):
        recipe = resolve_recipe(params, name)
        card = untrained_card(name, recipe, params.crop.model_copy(update={"side": side}))
        save_model(file, build_model(recipe, len(CLASSES), side, NORMALIZATION), card)
    return files


def run_command(models: Sequence[Path], images: Sequence[Path], folder: Path, broken: int = 0) -> CommandRun:
    """Runs `tumorboard predict` and looks at the memory of its processes.

    It exits with the command's messages if that fails, or does not report as many files as are broken.
    """
    out = folder / "table.csv"
    options = [word for model in models for word in ("--model", str(model))]
    command = [
        sys.executable,
        "-m",
        "tumorboard.commands.app",
        "predict",
        *map(str, images),
        *options,
        "--out",
        str(out),
        "--force",
    ]
    start, before = time.perf_counter(), os.times()
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(command, cwd=folder, env=stage_environment(), stderr=errors)
        memory, largest = [0.0], [0.0]
        while process.poll() is None:
            shares, wholes = tree_memory(process.pid)
            memory.append(shares)
            largest.append(wholes)
            time.sleep(LOOK_SECONDS)
        errors.seek(0)
        messages = errors.read()
    if process.returncode != (1 if broken else 0):
        raise SystemExit(messages)
    unclassified = sum(row["problem"] != "" for row in csv.DictReader(out.open(encoding="utf-8")))
    if unclassified != broken:
        raise SystemExit(f"{broken} files are broken, and {unclassified} were reported:\n{messages}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return CommandRun(time.perf_counter() - start, cpu, max(memory), max(largest), out.read_bytes())


def tree_memory(number: int) -> tuple[float, float]:
    """Returns the sums of PSS and of RSS in MiB over a process and its descendants; 0 once they have ended."""
    shares = wholes = 0.0
    try:
        parent = psutil.Process(number)
        for process in [parent, *parent.children(recursive=True)]:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            shares += sizes["Pss"] / KIB
            wholes += sizes["Rss"] / KIB
    except (psutil.Error, OSError, KeyError):  # a process has just ended
        pass
    return shares, wholes


def measure_rates(params: Params, models: Sequence[Path], files: Sequence[Path]) -> tuple[float, float, float]:
    """Returns files per second of decoding alone and of inference alone, and the CPU seconds of inference alone."""
    panel = load_panel(models, "cpu")
    fit = unfitted(list(panel.models))
    deciding = Deciding(fit=fit, vote=fit.vote, positive=None, abstain=0.0)
    crops = []
    with open_decoders(len(files), worker_count(params.runtime.workers), None) as decoders:
        list(crop_new_files(files[:64], panel.card.crop, None, decoders))  # the processes have started
        start = time.perf_counter()
        for _, chunk in crop_new_files(files, panel.card.crop, None, decoders):
            crops.append(np.stack([new.crop for new in chunk if new.crop is not None]))
        decoding = time.perf_counter() - start
    classify_crops(panel, crops[0], deciding)
    start, cpu = time.perf_counter(), time.process_time()
    for batch in crops:
        classify_crops(panel, batch, deciding)
    return len(files) / decoding, len(files) / (time.perf_counter() - start), time.process_time() - cpu


def measure_start(models: Sequence[Path], file: Path, folder: Path) -> tuple[float, float]:
    """Returns the CPU seconds of `import torch` and of the command with one file."""
    before = os.times()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = os.times()
    torch = after.children_user + after.children_system - before.children_user - before.children_system
    return torch, run_command(models, [file], folder).cpu


def main() -> None:
    """Prints rates, ratios and memory per repetition, then start-up."""
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=5000, help="number of files (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of image files to use instead of drawn ones")
    parser.add_argument("--models", nargs="+", help="recipes of params.yaml (default: its panel)")
    parser.add_argument("--side", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--broken", type=float, default=0.0, help="share of broken files (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    broken = round(options.broken * options.files)
    if broken and options.data:
        parser.error("--broken: is for drawn files, not for --data")
    params = load_params(ROOT / "params.yaml")
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = options.data or folder / "images"
        if options.data is None:
            images.mkdir()
            draw_files(images, options.files, broken)
        files = list_new_files([images])[: options.files]
        models = save_models(params, options.models or params.models, options.side, folder)
        ratios, tables = [], set()
        for _ in range(options.repetitions):
            decoding, inference, cpu = measure_rates(params, models, files)
            run = run_command(models, files, folder, broken)
            tables.add(run.table)
            rate = len(files) / run.seconds
            ratios.append(rate / min(decoding, inference))
            print(
                f"{len(files)} files, {broken} broken: decoding {decoding:.0f}/s, inference {inference:.0f}/s, "
                f"command {rate:.0f}/s, {ratios[-1]:.2f} of the slower; "
                f"CPU {run.cpu:.1f} s, of inference alone {cpu:.1f} s; "
                f"PSS {run.memory:.0f} MiB, sum of RSS {run.largest:.0f} MiB",
                flush=True,
            )
        print(f"command : slower of decoding and inference: {summary(ratios)}; tables equal: {len(tables) == 1}")
        starts = [measure_start(models, files[1], folder) for _ in range(options.repetitions)]
        print(f"one file : import torch: {summary([one / torch for torch, one in starts])}")
        print("CPU seconds: import torch {:.2f}, one file {:.2f}".format(*map(median, zip(*starts, strict=True))))


if __name__ == "__main__":
    main()
