"""How fast the stage crop is beside decoding alone and beside PIL with torchvision, and what scaled decoding changes.

    python -m benchmarks.crop --data ../shared/data/brain_mri --size 64 224 --files 600 --repetitions 7

Each repetition times all ways on the same files, in a random order; ratios are taken within a repetition, so that a
busy machine slows both sides. Every file has been read before: disks are not measured.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from benchmarks import machine
from tumorboard import images
from tumorboard.data.crop import crop_images
from tumorboard.data.sources import list_images
from tumorboard.params import Crop, Data, load_params

ROOT = Path(__file__).resolve().parents[1]


def seconds(way: Callable[[], object], processes: int = 1) -> float:
    """CPU seconds of this process, which other loads disturb least; wall seconds where others work for it."""
    clock = time.process_time if processes == 1 else time.perf_counter
    start = clock()
    way()
    return clock() - start


def each(way: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Do it to each item, keeping nothing: pictures that all stay would need fresh memory each, which costs time."""
    for item in items:
        way(item)


def summary(values: list[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n = {len(values)})"


def stage(rows: pd.DataFrame, raw: Path, crop: Crop, workers: int, scratch: Path) -> None:
    """The whole stage into an empty folder with an empty side cache."""
    folder = scratch / "stage"
    crop_images(rows, rows.iloc[:0], raw, crop, None, folder / "out", folder / "cache", workers, len(rows))


def compare(raw: Path, rows: pd.DataFrame, crop: Crop, repetitions: int, scratch: Path) -> None:
    """Ratios of throughput on one core."""
    from torchvision import transforms  # the processes that `scale` starts import this module, and need none of it

    contents = [(raw / path).read_bytes() for path in rows["path"]]
    student = transforms.Compose([transforms.Resize(crop.side), transforms.CenterCrop(crop.side)])
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: each(lambda c: cv2.imdecode(np.frombuffer(c, np.uint8), cv2.IMREAD_COLOR_RGB), contents),
        "own": lambda: each(lambda c: images.decode_for_crop(c, crop, None), contents),
        "crop": lambda: each(lambda c: images.crop_image(images.decode_for_crop(c, crop, None)[0], crop), contents),
        "stage": lambda: stage(rows, raw, crop, 1, scratch),
        "student": lambda: each(lambda path: student(Image.open(raw / path).convert("RGB")), rows["path"]),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name in random.sample(list(ways), len(ways)):
            taken[name].append(seconds(ways[name]))
            # What stays would be written to the disk while the next one works.
            shutil.rmtree(scratch / "stage", ignore_errors=True)
    print(
        f"\ncrops of {crop.side} pixels, border {crop.border}, scaled_decoding {crop.scaled_decoding}, "
        f"{len(rows)} files; CPU time, one core"
    )
    for name, values in taken.items():
        print(f"  {name}: {np.median(values) / len(rows) * 1e6:.0f} us a file")
    for name, against in (
        ("stage", "decode"),
        ("stage", "own"),
        ("stage", "student"),
        ("crop", "decode"),
        ("crop", "own"),
        ("crop", "student"),
    ):
        ratios = [other / own for own, other in zip(taken[name], taken[against], strict=True)]
        print(f"  {name} is as fast as {against} times {summary(ratios)}")


def decode_all(files: list[Path]) -> int:
    """Read and decode files, and no more."""
    return sum(cv2.imread(str(file)).size for file in files)


def scale(raw: Path, rows: pd.DataFrame, crop: Crop, repetitions: int, scratch: Path) -> None:
    """One local process against two, wall time, their start included; beside it what the machine gives two at all."""
    files = [raw / path for path in rows["path"]]
    ratios, limits = [], []
    for _ in range(repetitions + 1):
        # Closed before the stage runs: beside its threads the stage would not fork.
        with ProcessPoolExecutor(2, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            list(pool.map(decode_all, [files[:1], files[:1]]))
            taken = []
            for parts in (1, 2):
                start = time.perf_counter()
                list(pool.map(decode_all, [files[part::parts] for part in range(parts)]))
                taken.append(time.perf_counter() - start)
        limits.append(taken[0] / taken[1])
        taken = []
        for workers in (1, 2):
            taken.append(seconds(partial(stage, rows, raw, crop, workers, scratch), 2))
            shutil.rmtree(scratch / "stage")
        ratios.append(taken[0] / taken[1])
    print(f"  two processes are as fast as one times {summary(ratios[1:])}; {len(rows)} files, wall time")
    print(f"  two waiting processes that only decode: {summary(limits[1:])}")


def lengthen(raw: Path, rows: pd.DataFrame, times: int, folder: Path) -> pd.DataFrame:
    """More files of the same kind: each one so often, followed by as many zero bytes, so that no two are equal."""
    longer = []
    for number in range(times):
        copies = rows.assign(path=[f"{number}/{path}" for path in rows["path"]])
        for path, copy in zip(rows["path"], copies["path"], strict=True):
            (folder / copy).parent.mkdir(parents=True, exist_ok=True)
            (folder / copy).write_bytes((raw / path).read_bytes() + bytes(number))
        longer.append(copies)
    return pd.concat(longer, ignore_index=True)


def differ(raw: Path, rows: pd.DataFrame, crop: Crop) -> None:
    """PSNR of crops beside Pillow's resize of the same square, and of a reduced picture's beside those of the whole."""
    found: dict[str, list[float]] = {"Pillow's resize": [], "the whole picture, averaged": [], "the whole picture": []}
    for path in rows["path"]:
        content = (raw / path).read_bytes()
        whole, reduced = (read(content, crop, None)[0] for read in (images.decode, images.decode_for_crop))
        side = min(whole.shape[:2])
        top, left = ((length - side) // 2 for length in whole.shape[:2])
        square = np.ascontiguousarray(whole[top : top + side, left : left + side])
        if side > crop.side:
            theirs = Image.fromarray(square).resize((crop.side, crop.side), Image.Resampling.BILINEAR)
            found["Pillow's resize"].append(psnr(images.center_square(square, crop.side), np.asarray(theirs)))
        if whole.shape != reduced.shape:
            own = images.crop_image(reduced, crop)
            averaged = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
            found["the whole picture, averaged"].append(psnr(own, images.crop_image(averaged, crop)))
            found["the whole picture"].append(psnr(own, images.crop_image(whole, crop)))
    print(f"\ncrops of {crop.side}, border {crop.border}: PSNR")
    for name, values in found.items():
        if values:
            least, low, few, median = np.percentile(values, [0, 1, 5, 50])
            print(
                f"  beside {name}: {len(values)} of {len(rows)} files, median {median:.1f} dB, 5 % below {few:.1f}, "
                f"1 % below {low:.1f}, least {least:.1f}"
            )


def psnr(one: images.Pixels, other: images.Pixels) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / max(np.square(one - other.astype(float)).mean(), 1e-9)))


def main() -> None:
    """Print a block a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--times", type=int, default=1, help="let scale have every file so many times")
    parser.add_argument("--scaled", type=float, help="instead of crop.scaled_decoding of params.yaml; 0: never")
    parser.add_argument("--no-border", action="store_true", help="crop.border false")
    parser.add_argument("--only", choices=["compare", "scale", "differ"])
    options = parser.parse_args()
    cv2.setNumThreads(1)
    tqdm.monitor_interval = 0  # a thread that the stage, which has its first bar later, does not have when it forks
    rows, _ = list_images(options.data, Data(raw="", table=None, group_pattern=None, frames=None, max_quarantined=0))
    rows = rows.sample(min(options.files, len(rows)), random_state=0)
    print(machine())
    for size in options.size:
        crop = load_params(ROOT / "params.yaml").crop.model_copy(update={"side": size, "border": not options.no_border})
        if options.scaled is not None:
            crop = crop.model_copy(update={"scaled_decoding": options.scaled or None})
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            if options.only in (None, "compare"):
                compare(options.data, rows, crop, options.repetitions, scratch)
            if options.only in (None, "scale"):
                longer = lengthen(options.data, rows, options.times, scratch / "raw")
                scale(scratch / "raw", longer, crop, options.repetitions, scratch)
        if options.only in (None, "differ"):
            differ(options.data, rows, crop)


if __name__ == "__main__":
    main()
