"""Measures `tumorboard check` and the stage crop on many small JPEGs: speed beside decoding alone, and peak memory.

Draws JPEGs of 96 pixels, 3 to 5 kB, in a temporary folder and takes a quarter of them first, then all. Memory is the
proportional set size (PSS) of all processes, read ten times per second. Files were written just before, so that disks
are not measured.

Example:
    python -m benchmarks.many_files --files 20000 --workers 2
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import psutil
import yaml

from benchmarks import ROOT, argument_parser, machine, stage_environment
from tumorboard.base.schema import read_yaml

CLASSES = "abcd"
IMAGE_SIDE = 96  # pixels; side of the drawn images
GRID_SIDE = 16  # random colors per side that an image is interpolated from
QUALITY = 90  # quality of the JPEGs
SAMPLE_SECONDS = 0.1  # between two readings of the memory
MIB = 2**20


class Cost(NamedTuple):
    """What a command took."""

    wall: float  # seconds
    cpu: float  # seconds of all its processes
    memory: float  # MiB; highest PSS of all its processes together


def draw_images(raw: Path, count: int) -> list[Path]:
    """Writes smooth color images to <raw>/<class>/<number>.jpg and returns the files."""
    files = []
    for number in range(count):
        colors = np.random.default_rng((1, number)).integers(0, 256, (GRID_SIDE, GRID_SIDE, 3), dtype=np.uint8)
        image = cv2.resize(colors, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_CUBIC)
        files.append(raw / CLASSES[number % len(CLASSES)] / f"{number:06d}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return files


def decode(files: Sequence[Path]) -> Cost:
    """Reads and decodes files in color in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    for file in files:
        cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, psutil.Process().memory_full_info().pss / MIB)


def run_command(command: Sequence[str], folder: Path) -> Cost:
    """Runs a command in a folder; exits with its messages if it fails."""
    start, memory = time.perf_counter(), 0.0
    with (folder / "messages.txt").open("w+") as messages:
        process = subprocess.Popen(command, cwd=folder, env=stage_environment(), stdout=messages, stderr=messages)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            memory = max(memory, tree_memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        messages.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{messages.read()}")
    return Cost(wall, ended[2].ru_utime + ended[2].ru_stime, memory)


def tree_memory(pid: int) -> float:
    """Returns the PSS of a process and its children in MiB; those that end meanwhile count nothing."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:
        pass
    return total / MIB


def measure(count: int, workers: int, side: int) -> None:
    """Prints the cost of decoding, crop and check for a number of files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = draw_images(folder / "raw", count)
        params = read_yaml(ROOT / "params.yaml")
        params["data"] |= {"raw": "raw", "positive": None}
        params["crop"]["side"] = side
        params["runtime"]["workers"] = workers
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        kilobytes = sum(file.stat().st_size for file in files) / count / 1000
        print(f"\n{count} files of {kilobytes:.1f} kB, crops of {side} pixels, processes: {workers}")
        crop = [sys.executable, "-m", "stages.crop", "--out", "crop", "--metrics", "crop.json"]
        check = [sys.executable, "-m", "tumorboard.commands.app", "check", "raw"]
        before = decode(files)
        costs = {"crop": run_command(crop, folder), "check": run_command(check, folder)}
        after = decode(files)
        decoding = Cost(*((one + other) / 2 for one, other in zip(before, after, strict=True)))
        for title, cost in {"decoding alone": decoding, **costs}.items():
            print(
                f"  {title}: {count / cost.wall:.0f} files/s ({decoding.wall / cost.wall:.2f} of decoding alone), "
                f"{cost.cpu / count * 1e6:.0f} us of CPU time per file ({decoding.cpu / cost.cpu:.2f}), "
                f"{cost.memory:.0f} MiB",
                flush=True,
            )


def main() -> None:
    """Prints one block for a quarter of the files and one for all."""
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="number of files (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(machine())
    for count in (options.files // 4, options.files):
        measure(count, options.workers, options.side)


if __name__ == "__main__":
    main()
