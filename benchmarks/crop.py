"""Measures how fast the stage crop is, relative to decoding alone and to PIL with torchvision, and how crops differ.

Each repetition times all methods on the same files, in a random order. Ratios are taken within a repetition, because
other work on the machine then slows both sides. All files were read before, so that disks are not measured.

- decode: OpenCV at full size in color
- own: the decoding of the stage crop
- crop: decoding, border removal and scaling, in memory
- stage: the whole stage, into an empty folder with an empty crop cache
- student: Image.open, convert("RGB"), Resize, CenterCrop

Example:
    python -m benchmarks.crop --data ../shared/data/brain_mri --side 64 224 --files 600 --repetitions 7
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from benchmarks import ROOT, argument_parser, machine, summary
from tumorboard.base.params import Crop, load_params
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.sources import list_images
from tumorboard.images.crop import center_square, crop_file, crop_image, decode_for_crop
from tumorboard.images.decode import decode
from tumorboard.images.grey import Pixels


def for_each(function: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Calls a function for each item and drops the results, since keeping them would cost time for fresh memory."""
    for item in items:
        function(item)


def run_stage(raw: Path, rows: pd.DataFrame, *, crop: Crop, workers: int, scratch: Path) -> None:
    """Crops the files of `rows` into the folder <scratch>/stage, without a crop cache from before."""
    folder = scratch / "stage"
    job = CropJob(
        raw=raw,
        out=folder / "out",
        cache=folder / "cache",
        crop=crop,
        frames=None,
        max_quarantined=len(rows),
        workers=workers,
    )
    crop_images(rows, rows.iloc[:0], job)


def compare_speed(raw: Path, rows: pd.DataFrame, *, crop: Crop, repetitions: int, scratch: Path) -> None:
    """Prints the CPU time per file of each method on one core, and the ratios of their speed."""
    from torchvision import transforms  # not at the top: the processes of `compare_processes` import this module

    contents = [(raw / path).read_bytes() for path in rows["path"]]
    student = transforms.Compose([transforms.Resize(crop.side), transforms.CenterCrop(crop.side)])
    methods: dict[str, Callable[[], object]] = {
        "decode": lambda: for_each(lambda c: cv2.imdecode(np.frombuffer(c, np.uint8), cv2.IMREAD_COLOR_RGB), contents),
        "own": lambda: for_each(lambda c: decode_for_crop(c, crop, None), contents),
        "crop": lambda: for_each(lambda c: crop_file(c, crop, None), contents),
        "stage": lambda: run_stage(raw, rows, crop=crop, workers=1, scratch=scratch),
        "student": lambda: for_each(lambda path: student(Image.open(raw / path).convert("RGB")), rows["path"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions):
        for name in random.sample(list(methods), len(methods)):
            start = time.process_time()
            methods[name]()
            seconds[name].append(time.process_time() - start)
            # The system would write files that stay to the disk while the next method is timed.
            shutil.rmtree(scratch / "stage", ignore_errors=True)
    print(
        f"\ncrops of {crop.side} pixels, border {crop.border}, scaled_decoding {crop.scaled_decoding}, "
        f"{len(rows)} files; CPU time, one core"
    )
    for name, values in seconds.items():
        print(f"  {name}: {np.median(values) / len(rows) * 1e6:.0f} us per file")
    for ours, other in product(("stage", "crop"), ("decode", "own", "student")):
        print(f"  speed of {ours} relative to {other}: {summary(ratios(seconds[other], seconds[ours]))}")


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Returns the ratio of each repetition."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def decode_files(files: Sequence[Path]) -> int:
    """Reads and decodes files at full size; returns the number of their values."""
    return sum(cv2.imread(str(file)).size for file in files)


def compare_processes(raw: Path, rows: pd.DataFrame, *, crop: Crop, repetitions: int, scratch: Path) -> None:
    """Prints how much faster two local processes are than one, by wall time that includes their start.

    The same ratio for two running processes that only decode is the limit of the machine.
    """
    files = [raw / path for path in rows["path"]]
    decoding: dict[int, list[float]] = {1: [], 2: []}
    cropping: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(1 + repetitions):
        # The pool is closed before the stage runs, because beside the pool's threads the stage would not fork.
        with ProcessPoolExecutor(2, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            list(pool.map(decode_files, [files[:1], files[:1]]))
            for count, times in decoding.items():
                start = time.perf_counter()
                list(pool.map(decode_files, [files[part::count] for part in range(count)]))
                times.append(time.perf_counter() - start)
        for count, times in cropping.items():
            start = time.perf_counter()
            run_stage(raw, rows, crop=crop, workers=count, scratch=scratch)
            times.append(time.perf_counter() - start)
            shutil.rmtree(scratch / "stage")
    # The first repetition warms up.
    print(f"  speed of two processes relative to one, {len(rows)} files, wall time:")
    print(f"    stage: {summary(ratios(cropping[1], cropping[2])[1:])}")
    print(f"    decoding alone: {summary(ratios(decoding[1], decoding[2])[1:])}")


def copy_files(raw: Path, rows: pd.DataFrame, times: int, folder: Path) -> pd.DataFrame:
    """Copies each file `times` times into a folder and returns the rows of the copies.

    The n-th copy, counted from 0, ends with n zero bytes, so that no two files are equal.
    """
    tables = []
    for number in range(times):
        copies = rows.assign(path=[f"{number}/{path}" for path in rows["path"]])
        for path, copy in zip(rows["path"], copies["path"], strict=True):
            (folder / copy).parent.mkdir(parents=True, exist_ok=True)
            (folder / copy).write_bytes((raw / path).read_bytes() + bytes(number))
        tables.append(copies)
    return pd.concat(tables, ignore_index=True)


def compare_pixels(raw: Path, rows: pd.DataFrame, crop: Crop) -> None:
    """Prints the PSNR of scaled squares against Pillow's, and of crops of reduced images against full-size ones."""
    psnr_against: dict[str, list[float]] = {
        "Pillow's resize of the same square": [],
        "the full-size image, averaged to the reduced size": [],
        "the full-size image": [],
    }
    against_pillow, against_averaged, against_full = psnr_against.values()
    for path in rows["path"]:
        content = (raw / path).read_bytes()
        full, reduced = (read(content, crop, None)[0] for read in (decode, decode_for_crop))
        side = min(full.shape[:2])
        top, left = ((length - side) // 2 for length in full.shape[:2])
        square = np.ascontiguousarray(full[top : top + side, left : left + side])
        if side > crop.side:
            pillow = Image.fromarray(square).resize((crop.side, crop.side), Image.Resampling.BILINEAR)
            against_pillow.append(psnr(center_square(square, crop.side), np.asarray(pillow)))
        if full.shape[:2] != reduced.shape[:2]:
            ours = crop_image(reduced, crop)
            averaged = cv2.resize(full, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
            against_averaged.append(psnr(ours, crop_image(averaged, crop)))
            against_full.append(psnr(ours, crop_image(full, crop)))
    print(f"\ncrops of {crop.side} pixels, border {crop.border}: PSNR")
    for name, values in psnr_against.items():
        if values:
            least, first, fifth, median = np.percentile(values, [0, 1, 5, 50])
            print(
                f"  against {name}: {len(values)} of {len(rows)} files, median {median:.1f} dB, "
                f"5 % below {fifth:.1f}, 1 % below {first:.1f}, minimum {least:.1f}"
            )


def psnr(one: Pixels, other: Pixels) -> float:
    """Returns the peak signal-to-noise ratio of two images in dB; 138 for equal ones."""
    return float(10 * np.log10(255**2 / max(np.square(one - other.astype(float)).mean(), 1e-9)))


def main() -> None:
    """Prints one block per size."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--side", type=int, nargs="+", default=[64, 224], help="sides of the crops in pixels (default: 64 224)"
    )
    parser.add_argument("--files", type=int, default=600, help="random files to take (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=7, help="repetitions that count (default: %(default)s)")
    parser.add_argument(
        "--times", type=int, default=1, help="copies of each file that scale takes (default: %(default)s)"
    )
    parser.add_argument("--scaled-decoding", type=float, help="replaces crop.scaled_decoding of params.yaml; 0: never")
    parser.add_argument("--no-border", action="store_true", help="remove no border: crop.border false")
    parser.add_argument(
        "--only",
        choices=["compare", "scale", "differ"],
        help="compare: speed of the methods; scale: two processes; differ: pixels (default: all three)",
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    tqdm.monitor_interval = 0  # no monitor thread, beside which the stage would not fork
    params = load_params(ROOT / "params.yaml")
    data = params.data.model_copy(update={"raw": str(options.data), "group_pattern": None, "table": None})
    rows, _ = list_images(options.data, data)
    rows = rows.sample(min(options.files, len(rows)), random_state=0)
    print(machine())
    for side in options.side:
        crop = params.crop.model_copy(update={"side": side, "border": not options.no_border})
        if options.scaled_decoding is not None:
            crop = crop.model_copy(update={"scaled_decoding": options.scaled_decoding or None})
        with tempfile.TemporaryDirectory() as name:
            scratch, repetitions = Path(name), options.repetitions
            if options.only in (None, "compare"):
                compare_speed(options.data, rows, crop=crop, repetitions=repetitions, scratch=scratch)
            if options.only in (None, "scale"):
                copies = copy_files(options.data, rows, options.times, scratch / "raw")
                compare_processes(scratch / "raw", copies, crop=crop, repetitions=repetitions, scratch=scratch)
        if options.only in (None, "differ"):
            compare_pixels(options.data, rows, crop)


if __name__ == "__main__":
    main()
