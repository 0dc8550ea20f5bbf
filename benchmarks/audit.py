"""Measures how well the audit tells copies of an image from other images, and how its cost grows.

Recall (with --data): copies of real images, made by re-saving, resizing, shifting, cropping, brightening and mirroring
the file, go through the whole audit: decode, crop, select candidates, verify. Precision (with --data): the pairs found
in the folder itself, by correlation and by whether their labels differ; --sheet draws the pairs nearest to the
threshold, to be judged by eye. Known copies (with --data and --known): recall and precision of the pairs in the folder
itself against a list of its near duplicates, inside the parts (first folders) and across them. Growth (with --growth):
CPU seconds and peak memory by number of synthetic images.

Example:
    python -m benchmarks.audit --data ../shared/data/brain_mri --count 200 --sheet near.png
    python -m benchmarks.audit --data ../shared/data/brain_mri --count 0 --known benchmarks/brain_mri_copies.csv
    python -m benchmarks.audit --growth 20000 100000
"""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import ROOT, argument_parser, machine
from tumorboard.base.params import Audit, Crop, Params, load_params
from tumorboard.data.audit import picture_names
from tumorboard.data.near_duplicates import find_near_duplicates
from tumorboard.data.sources import list_images
from tumorboard.images.crop import crop_image
from tumorboard.images.decode import decode
from tumorboard.images.grey import Pixels
from tumorboard.report.contact_sheet import contact_sheet
from tumorboard.report.plots import to_png

# How far below `audit.near` the precision table begins.
BELOW_NEAR = 0.1
# Pairs on the sheet, and pictures in each of its rows.
SHEET_PAIRS, SHEET_COLUMNS = 40, 12
# Synthetic images per copied one.
SYNTHETIC_PER_COPY = 50
# Pixels; side of the synthetic images.
SYNTHETIC_SIDE = 64
MIB = 2**20


def re_save(image: Pixels, quality: int) -> Pixels:
    """Returns the image after JPEG compression of the given quality, 0 to 100."""
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def resize(image: Pixels, factor: float) -> Pixels:
    """Returns the image with both sides multiplied by a factor."""
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation)


def shift(image: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    """Returns the image shifted at random in x and y, by up to a share of its width and height."""
    height, width = image.shape[:2]
    x, y = generator.uniform(-share, share, 2) * (width, height)
    return cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), (width, height), borderMode=cv2.BORDER_REPLICATE)


def cut_sides(image: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    """Returns the image with a random part, up to a share of the side, cut off at each of the four sides."""
    height, width = image.shape[:2]
    top, bottom, left, right = generator.uniform(0, share, 4)
    return image[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]


def brighten(image: Pixels, gain: float, levels: float, generator: np.random.Generator) -> Pixels:
    """Returns the image multiplied by 1 +- `gain` at most, plus +- `levels` of 255 at most, at random."""
    changed = image * generator.uniform(1 - gain, 1 + gain) + generator.uniform(-levels, levels)
    return np.clip(changed, 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "JPEG, quality 90": lambda image, _: re_save(image, 90),
    "JPEG, quality 70": lambda image, _: re_save(image, 70),
    "JPEG, quality 50": lambda image, _: re_save(image, 50),
    "half size": lambda image, _: resize(image, 0.5),
    "1.7 times the size": lambda image, _: resize(image, 1.7),
    "half size, JPEG 50": lambda image, _: re_save(resize(image, 0.5), 50),
    "shifted by up to 2 %": lambda image, generator: shift(image, 0.02, generator),
    "shifted by up to 5 %": lambda image, generator: shift(image, 0.05, generator),
    "up to 3 % cut off at each side": lambda image, generator: cut_sides(image, 0.03, generator),
    "up to 5 % cut off at each side": lambda image, generator: cut_sides(image, 0.05, generator),
    "gain 10 %, 10 levels": lambda image, generator: brighten(image, 0.1, 10, generator),
    "gain 20 %, 20 levels": lambda image, generator: brighten(image, 0.2, 20, generator),
    "mirrored, JPEG 80": lambda image, _: re_save(np.ascontiguousarray(image[:, ::-1]), 80),
}


def read_image(path: Path, crop: Crop) -> Pixels:
    """Returns the decoded pixels of a file at full size."""
    return decode(path.read_bytes(), crop, None)[0]


def find_pairs(crops: Mapping[str, Pixels], audit: Audit) -> pd.DataFrame:
    """Returns the pairs of near duplicates among crops, which are named by their ids."""
    return find_near_duplicates(list(crops), lambda ids: np.stack([crops[i] for i in ids]), audit).pairs


def measure_recall(folder: Path, crops: Mapping[str, Pixels], count: int, params: Params) -> None:
    """Prints per kind of copy how many copies of `count` random images are found among them and all images.

    Args:
        folder: folder of the images.
        crops: all images' crops by their path below the folder.
        count: number of images to copy.
        params: sections crop and audit.
    """
    generator = np.random.default_rng(0)
    originals = sorted(generator.choice(sorted(crops), min(count, len(crops)), replace=False).tolist())
    print(f"{'copies':32s} {'n':>4s} {'found':>6s} {'recall':>7s}")
    for kind, alter in COPIES.items():
        copies = {}
        for path in originals:
            altered = alter(read_image(folder / path, params.crop), generator)
            copies[f"{path}//copy"] = crop_image(np.ascontiguousarray(altered), params.crop)
        images = {**crops, **copies}
        pictures = picture_names(list(images), find_pairs(images, params.audit))
        recalled = sum(pictures[path] == pictures[f"{path}//copy"] for path in originals)
        print(f"{kind:32s} {len(originals):4d} {recalled:6d} {recalled / len(originals):7.1%}", flush=True)


def measure_known(digests: Mapping[str, str], crops: Mapping[str, Pixels], audit: Audit, known: Path) -> None:
    """Prints how many pairs of copies the audit finds of those that are known, and how many others it finds.

    A pair is any two images of one set: those with equal pixels, and those that pairs of near duplicates connect.

    Args:
        digests: digests of the decoded pixels, by path.
        crops: all images' crops by path.
        audit: `near`, `candidates` and `mirror`.
        known: CSV file of all near duplicates, with the columns first and second.
    """
    first_path: dict[str, str] = {}
    originals = {path: first_path.setdefault(digest, path) for path, digest in sorted(digests.items())}
    exact = pd.DataFrame({"first": list(originals.values()), "second": list(originals)})
    near = find_pairs({path: crops[path] for path in sorted(set(originals.values()))}, audit)
    sets = []
    for pairs in (pd.read_csv(known, dtype=str), near):
        pictures = picture_names(list(digests), pd.concat([exact, pairs[["first", "second"]]]))
        sets.append(
            {pair for ids in pictures.groupby(pictures).groups.values() for pair in combinations(sorted(ids), 2)}
        )
    print(f"\n{'pairs':>14s} {'known':>6s} {'found':>6s} {'recall':>7s} {'precision':>9s}")
    for name, across in (("inside parts", False), ("across parts", True)):
        known_pairs, reported = (
            {pair for pair in pairs if (len({path.split("/")[0] for path in pair}) == 2) == across} for pairs in sets
        )
        right = len(known_pairs & reported)
        recall, precision = right / max(len(known_pairs), 1), right / max(len(reported), 1)
        print(f"{name:>14s} {len(known_pairs):6d} {len(reported):6d} {recall:7.4f} {precision:9.4f}")


def measure_precision(
    label_of: Mapping[str, str], crops: Mapping[str, Pixels], audit: Audit, sheet: Path | None
) -> None:
    """Prints how many pairs the audit finds in the folder itself, per 0.01 of correlation.

    Args:
        label_of: class of each image.
        crops: all images' crops by id.
        audit: `near` is lowered by BELOW_NEAR.
        sheet: PNG file to write the pairs nearest to the threshold to.
    """
    assert audit.near is not None
    lowered = audit.model_copy(update={"near": audit.near - BELOW_NEAR})
    start = time.process_time()
    pairs = find_pairs(crops, lowered)
    print(f"\n{len(crops)} images, {time.process_time() - start:.1f} s of CPU time; pairs by correlation:")
    labels_differ = pairs["first"].map(label_of) != pairs["second"].map(label_of)
    for low, high in pairwise(np.round(np.arange(lowered.near, 1.001, 0.01), 2)):
        in_bin = (pairs["correlation"] >= low) & (pairs["correlation"] < high + (high == 1))
        print(
            f"{low:.2f} to {high:.2f}: {int(in_bin.sum()):5d} pairs, "
            f"{int((in_bin & labels_differ).sum()):3d} of them with two labels"
        )
    if sheet:
        write_sheet(pairs, crops, audit.near, sheet)


def write_sheet(pairs: pd.DataFrame, crops: Mapping[str, Pixels], near: float, sheet: Path) -> None:
    """Draws the pairs nearest to the threshold side by side, in order of their correlation."""
    nearest = (pairs["correlation"] - near).abs().sort_values().index[:SHEET_PAIRS]
    drawn = pairs.loc[nearest].sort_values("correlation")
    captions = [text for value in drawn["correlation"] for text in (f"{value:.3f}", "")]
    ids = drawn[["first", "second"]].to_numpy().ravel()
    sheet.write_bytes(to_png(contact_sheet(np.stack([crops[i] for i in ids]), captions, SHEET_COLUMNS)))


def draw_synthetic(number: int, copies: int) -> NDArray[np.uint8]:
    """Draws blobs, uint8[number, S, S, 3]; the last `copies` images are re-saved copies of the first ones."""
    generator = np.random.default_rng(number)
    size = (SYNTHETIC_SIDE, SYNTHETIC_SIDE)
    crops = np.empty((number, *size, 3), np.uint8)
    for row in range(number - copies):
        noise = generator.normal(size=(16, 16)).astype(np.float32)
        blobs = 128 + 40 * cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
        crops[row] = np.clip(blobs, 0, 255)[..., None]
    for row in range(copies):
        crops[number - copies + row] = re_save(crops[row], 60)
    return crops


def measure_growth(numbers: Sequence[int], audit: Audit) -> None:
    """Prints CPU seconds, found copies and peak memory (without the crops) per number of synthetic images."""
    print(f"\n{'images':>7s} {'CPU s':>7s} {'growth':>7s} {'copies':>7s} {'found':>7s} {'peak MiB':>8s}")
    previous = None
    for number in numbers:
        copies = number // SYNTHETIC_PER_COPY
        crops = draw_synthetic(number, copies)
        ids = [f"{row:06d}" for row in range(number)]
        start = time.process_time()
        pairs = find_near_duplicates(ids, lambda wanted, crops=crops: crops[np.array(wanted, int)], audit).pairs
        seconds = time.process_time() - start
        duplicated = int(pd.Series(picture_names(ids, pairs)).duplicated().sum())
        growth = ""
        if previous is not None:
            growth = f"N^{np.log(seconds / previous[1]) / np.log(number / previous[0]):.2f}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - crops.nbytes / MIB
        print(f"{number:7d} {seconds:7.1f} {growth:>7s} {copies:7d} {duplicated:7d} {peak:8.0f}", flush=True)
        previous = number, seconds


def main() -> None:
    """Reads the options and measures what they ask for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of real images, for recall and precision")
    parser.add_argument("--count", type=int, default=200, help="images that are copied (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, help="PNG file to draw the pairs nearest to the threshold in")
    parser.add_argument("--known", type=Path, help="CSV file of the folder's near duplicates, for recall and precision")
    parser.add_argument("--growth", type=int, nargs="+", default=[], help="numbers of synthetic images")
    options = parser.parse_args()
    if not (options.data or options.growth):
        parser.error("give --data, --growth or both")
    params = load_params(ROOT / "params.yaml")
    print(machine())
    if options.data:
        data = params.data.model_copy(update={"raw": str(options.data), "group_pattern": None, "table": None})
        rows = list_images(options.data, data)[0]
        crops, digests = {}, {}
        for path in rows["path"]:
            image = read_image(options.data / path, params.crop)
            crops[path] = crop_image(image, params.crop)
            digests[path] = sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
        if options.count:
            measure_recall(options.data, crops, options.count, params)
        if options.known:
            measure_known(digests, crops, params.audit, options.known)
        measure_precision(dict(zip(rows["path"], rows["label"], strict=True)), crops, params.audit, options.sheet)
    if options.growth:
        measure_growth(options.growth, params.audit)


if __name__ == "__main__":
    main()
