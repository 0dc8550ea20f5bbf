"""Measures how the stages crop and split grow with an archive: seconds, peak memory, files, and what 1 % more changes.

Draws JPEGs of 32 pixels, ten per patient, in a temporary folder and runs the stages there.

Example:
    python -m benchmarks.growth --images 10000 100000
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from benchmarks import ROOT, argument_parser, machine, stage_environment
from tumorboard.base.schema import read_yaml

# Pixels; side of the drawn images.
IMAGE_SIDE = 32
IMAGES_PER_PATIENT = 10
CLASSES = "abcd"
MIB = 2**20
# Unit of ru_maxrss in bytes.
MAXRSS_UNIT = 2**10 if sys.platform == "linux" else 1


class StageRun(NamedTuple):
    """The cost and the messages of a stage that ended."""

    seconds: float  # wall time
    memory: float  # MiB; peak of the largest process
    messages: str  # standard error


def draw_images(raw: Path, numbers: range) -> None:
    """Writes blurred noise to one file per number: <raw>/<class>/P<patient>_<number>.jpg."""
    for number in numbers:
        noise = np.random.default_rng((0, number)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        content = cv2.imencode(".jpg", cv2.resize(noise, (IMAGE_SIDE, IMAGE_SIDE)))[1].tobytes()
        patient = number // IMAGES_PER_PATIENT
        file = raw / CLASSES[patient % len(CLASSES)] / f"P{patient}_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def run_stage(folder: Path, name: str, *options: str) -> StageRun:
    """Runs `python -m stages.<name> <options>` in a folder; exits with its messages if it fails."""
    command = [sys.executable, "-m", f"stages.{name}", *options]
    start = time.perf_counter()
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(command, cwd=folder, env=stage_environment(), stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        messages = errors.read()
    if process.returncode:
        raise SystemExit(messages)
    return StageRun(time.perf_counter() - start, usage.ru_maxrss * MAXRSS_UNIT / MIB, messages)


def run_crop(folder: Path, title: str) -> dict[str, str]:
    """Runs the stage crop into an empty folder, as DVC does; prints its cost and returns the digests of its files."""
    shutil.rmtree(folder / "crop", ignore_errors=True)
    crop = run_stage(folder, "crop", "--out", "crop", "--metrics", "crop.json")
    counts = next(line for line in crop.messages.splitlines() if line.startswith("crop: "))
    print(f"{title}: {crop.seconds:.1f} s, {crop.memory:.0f} MiB; {counts}", flush=True)
    return file_digests(folder / "crop")


def file_digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below a folder by its relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def measure(images: int, workers: int, side: int) -> None:
    """Prints what one archive costs: a first crop, a crop with 1 % more images, the split, and a crop from scratch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = read_yaml(ROOT / "params.yaml")
        params["data"] |= {"raw": "raw", "positive": None, "group_pattern": r"P(\d+)_"}
        params["crop"]["side"] = side
        params["runtime"]["workers"] = workers
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        draw_images(folder / "raw", range(images))
        print(f"\n{images} images of {IMAGE_SIDE} pixels, crops of {side} pixels, processes: {workers}")
        before = run_crop(folder, "first crop")
        cached = [path for path in (folder / ".cache").rglob("*") if path.is_file()]
        print(f"tracked files: {len(before)}; files of the crop cache: {len(cached)}")
        draw_images(folder / "raw", range(images, images + images // 100))
        after = run_crop(folder, "1 % added")
        shards = [path for path in after if path.endswith(".npy")]
        changed = [path for path in shards if after[path] != before.get(path)]
        print(f"shards changed: {len(changed)} of {len(shards)}")
        split = run_stage(
            folder,
            "split",
            *("--crop", "crop", "--out", "split", "--metrics", "split.json"),
            *("--audit-metrics", "audit.json", "--test-metrics", "test.json"),
        )
        print(f"split: {split.seconds:.1f} s, {split.memory:.0f} MiB")
        (folder / ".cache").rename(folder / "unused")
        clean = run_crop(folder, "clean build")
        print(f"every file equal to the clean build's: {'yes' if clean == after else 'no'}")


def main() -> None:
    """Prints one block per archive."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[10_000], help="sizes of the archives, at least 240 (default: 10000)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of the stage crop (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="side of the crops in pixels (default: %(default)s)")
    options = parser.parse_args()
    print(machine())
    for images in options.images:
        measure(images, options.workers, options.side)


if __name__ == "__main__":
    main()
