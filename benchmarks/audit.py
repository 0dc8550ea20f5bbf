"""How well the audit tells copies from other pictures, and how its cost grows: --data FOLDER [--sheet PNG] [--growth].

Recall: copies of real images, made by re-saving, resizing, shifting, cropping, brightening and mirroring the file, go
the whole way (decode, crop, candidates, judge). Precision: pairs found between images of different classes, and a sheet
of the pairs nearest to the threshold, for the eye. Growth: synthetic pictures, CPU seconds and peak memory by number.
"""

import argparse
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard import images
from tumorboard.data.audit import picture_names
from tumorboard.data.near import near_duplicates
from tumorboard.data.sources import list_images
from tumorboard.evaluation.plots import contact_sheet, png
from tumorboard.params import load_params

Pixels = NDArray[np.uint8]
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")


def saved(image: Pixels, quality: int) -> Pixels:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def resized(image: Pixels, factor: float) -> Pixels:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def shifted(image: Pixels, share: float, draw: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    x, y = draw.uniform(-share, share, 2) * (width, height)
    return cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), (width, height), borderMode=cv2.BORDER_REPLICATE)


def cropped(image: Pixels, share: float, draw: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    top, bottom, left, right = draw.uniform(0, share, 4)
    return image[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]


def brightened(image: Pixels, gain: float, levels: float, draw: np.random.Generator) -> Pixels:
    shifted_levels = image * draw.uniform(1 - gain, 1 + gain) + draw.uniform(-levels, levels)
    return np.clip(shifted_levels, 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "JPEG, quality 90": lambda image, _: saved(image, 90),
    "JPEG, quality 70": lambda image, _: saved(image, 70),
    "JPEG, quality 50": lambda image, _: saved(image, 50),
    "half size": lambda image, _: resized(image, 0.5),
    "1.7 times the size": lambda image, _: resized(image, 1.7),
    "half size, JPEG 50": lambda image, _: saved(resized(image, 0.5), 50),
    "shifted by up to 2 %": lambda image, draw: shifted(image, 0.02, draw),
    "shifted by up to 5 %": lambda image, draw: shifted(image, 0.05, draw),
    "up to 3 % cut off at each side": lambda image, draw: cropped(image, 0.03, draw),
    "up to 5 % cut off at each side": lambda image, draw: cropped(image, 0.05, draw),
    "gain 10 %, 10 levels": lambda image, draw: brightened(image, 0.1, 10, draw),
    "gain 20 %, 20 levels": lambda image, draw: brightened(image, 0.2, 20, draw),
    "mirrored, JPEG 80": lambda image, _: saved(np.ascontiguousarray(image[:, ::-1]), 80),
}


def measure_recall(folder: Path, crops: dict[str, Pixels], count: int) -> None:
    """Add copies of `count` images to all images of the folder, one kind at a time, and look for them."""
    draw = np.random.default_rng(0)
    chosen = sorted(draw.choice(sorted(crops), min(count, len(crops)), replace=False).tolist())
    print(f"{'copies':32s} {'n':>4s} {'found':>6s} {'recall':>7s}")
    for kind, alter in COPIES.items():
        made = {f"{path}//copy": crop_of(alter(read(folder / path), draw)) for path in chosen}
        both = crops | made
        pairs, _ = near_duplicates(list(both), lambda ids, both=both: np.stack([both[i] for i in ids]), PARAMS.audit)
        names = picture_names(list(both), pairs)
        found = sum(names[path] == names[f"{path}//copy"] for path in chosen)
        print(f"{kind:32s} {len(chosen):4d} {found:6d} {found / len(chosen):7.1%}", flush=True)


def read(path: Path) -> Pixels:
    return images.decode(path.read_bytes(), PARAMS.crop, None)[0]


def crop_of(image: Pixels) -> Pixels:
    return images.crop_image(np.ascontiguousarray(image), PARAMS.crop)


def measure_precision(label_of: dict[str, str], crops: dict[str, Pixels], sheet: Path | None) -> None:
    """Pairs that the audit finds in the folder itself, by class, and those nearest to the threshold on a sheet."""
    lower = PARAMS.audit.model_copy(update={"near": PARAMS.audit.near - 0.1})
    start = time.process_time()
    pairs, _ = near_duplicates(list(crops), lambda ids: np.stack([crops[i] for i in ids]), lower)
    print(f"\n{len(crops)} images, {time.process_time() - start:.1f} s of CPU; joining pairs by correlation:")
    across = pairs["first"].map(label_of) != pairs["second"].map(label_of)
    steps = np.round(np.arange(lower.near, 1.001, 0.01), 2)
    for low, high in pairwise(steps):
        here = (pairs["correlation"] >= low) & (pairs["correlation"] < high + (high == 1))
        print(
            f"{low:.2f} to {high:.2f}: {int(here.sum()):5d}, of them under two labels {int((here & across).sum()):3d}"
        )
    if sheet:
        nearest = (pairs["correlation"] - PARAMS.audit.near).abs().sort_values().index[:40]
        shown = pairs.loc[nearest].sort_values("correlation")
        captions = [text for value in shown["correlation"] for text in (f"{value:.3f}", "")]
        ids = shown[["first", "second"]].to_numpy().ravel()
        sheet.write_bytes(png(contact_sheet(np.stack([crops[i] for i in ids]), captions, 12)))


def measure_growth(numbers: list[int]) -> None:
    """Synthetic pictures of blobs, 2 % of them re-saved copies; CPU seconds of one core and peak memory by number."""
    print(f"\n{'images':>7s} {'CPU s':>7s} {'growth':>7s} {'copies':>7s} {'found':>7s} {'peak MB':>8s}")
    last = None
    for number in numbers:
        draw = np.random.default_rng(number)
        copies = number // 50
        crops = np.empty((number, 64, 64, 3), np.uint8)
        for row in range(number - copies):
            noise = draw.normal(size=(16, 16)).astype(np.float32)
            crops[row] = np.clip(128 + 40 * cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC), 0, 255)[
                ..., None
            ]
        for row in range(copies):
            crops[number - copies + row] = saved(crops[row], 60)
        ids = [f"{row:06d}" for row in range(number)]
        start = time.process_time()
        pairs = near_duplicates(ids, lambda wanted, crops=crops: crops[np.array(wanted, int)], PARAMS.audit)[0]
        spent = time.process_time() - start
        found = int(pd.Series(picture_names(ids, pairs)).duplicated().sum())
        exponent = "" if last is None else f"N^{np.log(spent / last[1]) / np.log(number / last[0]):.2f}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - crops.nbytes / 2**20
        print(f"{number:7d} {spent:7.1f} {exponent:>7s} {copies:7d} {found:7d} {peak:8.0f}", flush=True)
        last = number, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of real images")
    parser.add_argument("--count", type=int, default=200, help="images that are copied")
    parser.add_argument("--sheet", type=Path, help="write the pairs nearest to the threshold there")
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="numbers of synthetic pictures")
    arguments = parser.parse_args()
    if arguments.data:
        data = PARAMS.data.model_copy(update={"raw": str(arguments.data), "group_pattern": None, "table": None})
        rows = list_images(arguments.data, data)[0]
        crops = {path: crop_of(read(arguments.data / path)) for path in rows["path"]}
        measure_recall(arguments.data, crops, arguments.count)
        measure_precision(dict(zip(rows["path"], rows["label"], strict=True)), crops, arguments.sheet)
    if arguments.growth:
        measure_growth(arguments.growth)


if __name__ == "__main__":
    main()
