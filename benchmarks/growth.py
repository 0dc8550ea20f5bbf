"""What the stages crop and split cost as an archive grows: seconds, peak memory, files, and what 1 % more changes.

    python -m benchmarks.growth --images 10000 100000

Draws JPEGs of 32 pixels, ten a patient, in a temporary folder, and runs the stages there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import yaml

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]


def draw(raw: Path, numbers: range, seed: int = 0) -> None:
    """Blurred noise, a file a number: <class>/P<patient>_<number>.jpg."""
    for number in numbers:
        noise = np.random.default_rng((seed, number)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        content = cv2.imencode(".jpg", cv2.resize(noise, (32, 32)))[1].tobytes()
        file = raw / "abcd"[number // 10 % 4] / f"P{number // 10}_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def run_stage(folder: Path, *words: str) -> tuple[float, float, str]:
    """Seconds, peak memory of the largest process in MB, and standard error of `python -m stages.<words>`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    start = time.perf_counter()
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        text = errors.read()
    if process.returncode:
        raise SystemExit(text)
    unit = 2**10 if sys.platform == "linux" else 1
    return time.perf_counter() - start, usage.ru_maxrss * unit / 2**20, text


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def measure(images: int, workers: int, size: int) -> None:
    """One archive: a first crop, a second one with 1 % more, a clean one beside it, and the split."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["data"] |= {"raw": "raw"}
        params["crop"] |= {"side": size}
        params["runtime"] |= {"workers": workers}
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        draw(folder / "raw", range(images))
        print(f"\n{images} images of 32 pixels, crops of {size} pixels, {workers} processes")

        def crop(what: str) -> dict[str, str]:
            shutil.rmtree(folder / "crop", ignore_errors=True)  # as DVC does before a stage
            seconds, memory, errors = run_stage(folder, "stages.crop", "crop", "crop.json")
            said = next(line for line in errors.splitlines() if line.startswith("crop: "))
            print(f"{what}: {seconds:.1f} s, {memory:.0f} MB; {said}")
            return digests(folder / "crop")

        before = crop("first crop")
        entries = [path for path in (folder / ".cache").rglob("*") if path.is_file()]
        print(f"tracked files: {len(before)}; files of the side cache: {len(entries)}")
        draw(folder / "raw", range(images, images + images // 100))
        after = crop("1 % added")
        shards = [path for path in after if path.endswith(".npy")]
        changed = [path for path in shards if after[path] != before.get(path)]
        print(f"shards changed: {len(changed)} of {len(shards)}")
        seconds, memory, _ = run_stage(folder, "stages.split", "crop", "split", "split.json", "audit.json")
        print(f"split: {seconds:.1f} s, {memory:.0f} MB")
        (folder / ".cache").rename(folder / "unused")
        print(f"equal to a clean build: {crop('clean build') == after}")


def main() -> None:
    """Print a block an archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    print(machine())
    for images in options.images:
        measure(images, options.workers, options.size)


if __name__ == "__main__":
    main()
