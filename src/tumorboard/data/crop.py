"""From raw files to the crop store: every image is decoded once, cropped, and remembered."""

import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as cached
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray
from tqdm import tqdm
from xxhash import xxh3_128

from tumorboard import dicom, images
from tumorboard.data import sources
from tumorboard.data.executor import Run, open_run
from tumorboard.data.store import write_store_by_shards
from tumorboard.errors import ImageError, InputError
from tumorboard.params import Crop, Frames
from tumorboard.tables import MANIFEST, check_manifest, replacing, write_table

CHUNK = 32  # files that a process takes at a time


class Cropped(NamedTuple):
    """What is known of a cropped file; the crop itself lies in the side cache."""

    sha256: str
    pixels: str
    width: int
    height: int
    bytes: int
    format: str
    patient: str
    red: float
    green: float
    blue: float
    border: float
    decoded: bool


class Quarantined(NamedTuple):
    """Why a file cannot be used."""

    reason: str
    detail: str


def worker_count(workers: Literal["auto"] | int) -> int:
    """The number of processes that `runtime.workers` asks for: 'auto' is one a core that this process may use."""
    if workers != "auto":
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crop_images(
    rows: pd.DataFrame,
    ignored: pd.DataFrame,
    raw: Path,
    crop: Crop,
    frames: Frames,
    folder: Path,
    cache: Path,
    workers: int,
    max_quarantined: int | None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Crop the images that `list_images` found into `folder` and return the counts.

    Writes manifest.csv (a Manifest), images.csv (id; pixels: XXH3-128 over the shape and the values of the decoded
    image, which for a large JPEG is a reduced one; width, height of the upright image; bytes, format of the file; red,
    green, blue: mean levels of the image; border: the share of it that `crop.border` cuts off, or would),
    quarantined.csv (path, reason, detail), ignored.csv (path, reason) and store/ (a CropStore). Crops are remembered in
    `cache`, so that a file seen before is not decoded again. A DICOM file's patient is its group where it has no other.
    The work is done by `workers` local processes or by the Dask cluster at `scheduler`, whose machines must all see
    `raw`, `folder` and `cache` under the same names. Raises InputError where they do not and, with nothing written to
    `folder`, where `check_quarantined` does; not if `max_quarantined` is None.
    """
    rows = rows.sort_values("path", ignore_index=True)
    # Workers on a cluster have another current folder.
    raw, folder, cache = raw.absolute(), folder.absolute(), _cache_of(cache.absolute(), crop, frames)
    with open_run(min(workers, -(-len(rows) // CHUNK)), scheduler) as run:
        return _crop_images(rows, ignored, raw, crop, frames, folder, cache, max_quarantined, run)


def _crop_images(
    rows: pd.DataFrame,
    ignored: pd.DataFrame,
    raw: Path,
    crop: Crop,
    frames: Frames,
    folder: Path,
    cache: Path,
    max_quarantined: int | None,
    run: Run,
) -> dict[str, Any]:
    results = _crop_files(rows["path"].tolist(), raw, crop, frames, cache, run)
    usable = np.array([isinstance(result, Cropped) for result in results], dtype=bool)
    reasons = [result for result in results if isinstance(result, Quarantined)]
    quarantined = pd.DataFrame(reasons, columns=list(Quarantined._fields), dtype=object)
    quarantined.insert(0, "path", rows["path"][~usable].reset_index(drop=True))
    if max_quarantined is not None:
        check_quarantined(quarantined, rows, max_quarantined)
    facts = [result for result in results if isinstance(result, Cropped)]
    found = pd.DataFrame(facts, columns=list(Cropped._fields)).astype({"sha256": object, "patient": object})
    decoded = int(found["decoded"].sum())
    print(f"crop: {len(rows)} files, {decoded} decoded, {len(found) - decoded} from the side cache", file=sys.stderr)

    manifest = rows[usable].reset_index(drop=True)
    manifest = manifest.assign(id=manifest["path"], source_id=manifest["path"], sha256=found["sha256"])[list(MANIFEST)]
    ungrouped = (manifest["group"] == manifest["path"]) & (found["patient"] != "")
    manifest["group"] = manifest["group"].mask(ungrouped, found["patient"])
    check_manifest(manifest, "the listed images")
    crops_of = partial(_read_crops, size=crop.size, cache=cache)
    write_store_by_shards(
        folder / "store", manifest["id"].tolist(), manifest["sha256"].tolist(), crops_of, crop.shards, run
    )
    found.insert(0, "id", manifest["id"])
    columns = ["id", "pixels", "width", "height", "bytes", "format", "red", "green", "blue", "border"]
    write_table(found[columns], folder / "images.csv")
    write_table(quarantined, folder / "quarantined.csv")
    write_table(ignored, folder / "ignored.csv")
    write_table(manifest, folder / "manifest.csv")
    return {
        "images": len(manifest),
        "classes": dict(sorted(Counter(manifest["label"]).items())),
        "groups": len(set(manifest["group"])),
        "quarantined": len(quarantined),
        "ignored": len(ignored),
        # Images beyond the first with the same bytes, and with the same pixels (those among them).
        "equal_files": len(found) - found["sha256"].nunique(),
        "equal_pixels": len(found) - found["pixels"].nunique(),
    }


def _crop_files(
    paths: Sequence[str], raw: Path, crop: Crop, frames: Frames, cache: Path, run: Run
) -> list[Cropped | Quarantined]:
    """Crop files into the cache; results in the order of paths."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    results: list[Cropped | Quarantined] = []
    with (
        _marker(cache) as marker,
        tqdm(desc="crop", total=len(paths), unit="image", disable=None) as bar,
    ):
        for found in run(partial(_crop_chunk, raw=raw, crop=crop, frames=frames, cache=cache, marker=marker), chunks):
            results += found
            bar.update(len(found))
    for path, result in zip(paths, results, strict=True):
        # A machine that sees another folder under this name must not have the user's files quarantined.
        if isinstance(result, Quarantined) and result.reason == "unreadable" and _is_readable(raw, path):
            raise InputError(f"{path}: can be read here, but not by the worker that tried ({result.detail})")
    return results


@contextmanager
def _marker(cache: Path) -> Iterator[Path]:
    """A file that shows who looks whether it sees this folder; it is gone afterwards."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor, name = mkstemp(prefix=".run-", dir=cache)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink()


def _crop_chunk(
    paths: Sequence[str], raw: Path, crop: Crop, frames: Frames, cache: Path, marker: Path
) -> list[Cropped | Quarantined]:
    """Crop files, after a look whether this process, maybe on another machine, works on the same things."""
    if cache.name != _made_by(crop, frames):
        raise InputError("other versions of tumorboard, OpenCV or Pillow than here: install the same")
    for needed, what in ((marker, f"the side cache {cache}"), (raw, f"the raw folder {raw}")):
        if not needed.exists():
            raise InputError(f"does not see {what}: all workers must, under this name")
    return [_crop_file(path, raw, crop, frames, cache) for path in paths]


def _crop_file(path: str, raw: Path, crop: Crop, frames: Frames, cache: Path) -> Cropped | Quarantined:
    try:
        content = sources.read_content(raw, path)
        digest = sha256(content).hexdigest()
        entry = _entry_path(cache, digest)
        if remembered := _read_entry(entry, crop.size):
            return remembered
        image, header = images.decode_for_crop(content, crop, frames)
    except ImageError as error:
        return Quarantined(error.reason, error.detail)
    pixels = xxh3_128(str(image.shape).encode())
    pixels.update(np.ascontiguousarray(image).data)
    patient = dicom.open_dicom(content).patient if header.format == "DICOM" else ""
    red, green, blue = (round(level, 2) for level in cv2.mean(image)[:3])
    framed = images.remove_border(image, crop.border_threshold, crop.border_tolerance)
    border = round(1 - framed.size / image.size, 4)
    facts = (header.width, header.height, len(content), header.format, patient, red, green, blue, border)
    cropped = Cropped(digest, pixels.hexdigest(), *facts, decoded=False)
    _write_entry(entry, cropped, images.center_square(framed if crop.border else image, crop.size))
    return cropped._replace(decoded=True)


def _is_readable(raw: Path, path: str) -> bool:
    try:
        sources.read_content(raw, path)
    except ImageError:
        return False
    return True


def _cache_of(cache: Path, crop: Crop, frames: Frames) -> Path:
    """The folder of the crops made by these parameters, this code and these libraries."""
    return cache / _made_by(crop, frames)


@cached
def _made_by(crop: Crop, frames: Frames) -> str:
    made_by = [crop.model_dump_json(exclude={"shards"}), str(frames), cv2.__version__, PIL.__version__]
    modules = (str(images.__file__), str(dicom.__file__), __file__)
    made_by += [Path(module).read_text(encoding="utf-8") for module in modules]
    return sha256(json.dumps(made_by).encode()).hexdigest()[:16]


def _entry_path(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest[2:]


def _write_entry(entry: Path, cropped: Cropped, crop: NDArray[np.uint8]) -> None:
    """Write a CRC-32, a line of JSON and the crop's bytes."""
    facts = json.dumps(cropped._asdict()).encode() + b"\n"
    with replacing(entry) as temporary, temporary.open("wb") as file:
        file.write(b"%08x\n" % zlib.crc32(crop.data, zlib.crc32(facts)))
        file.write(facts)
        file.write(crop.data)


def _read_entry(entry: Path, size: int) -> Cropped | None:
    """The facts that `_write_entry` wrote; None where there is no entry, or a damaged one."""
    try:
        content = entry.read_bytes()
    except FileNotFoundError:
        return None
    facts, _, crop = content[9:].partition(b"\n")
    if content[:9] != b"%08x\n" % zlib.crc32(memoryview(content)[9:]) or len(crop) != 3 * size**2:
        return None
    return Cropped(**json.loads(facts))


def _read_crops(digests: Sequence[str], size: int, cache: Path) -> Iterator[NDArray[np.uint8]]:
    """The crops of files by their digests, from entries that this run wrote or checked."""
    for digest in digests:
        entry = _entry_path(cache, digest)
        try:
            crop = np.fromfile(entry, np.uint8, offset=entry.stat().st_size - 3 * size**2)
        except OSError as error:
            raise InputError(
                f"{entry}: gone since it was written a moment ago ({error}): run the stage again"
            ) from None
        yield crop.reshape(size, size, 3)


def check_quarantined(quarantined: pd.DataFrame, rows: pd.DataFrame, max_quarantined: int) -> None:
    """Raise InputError where too many of the listed files (`rows`) are quarantined, or all those of a class."""
    lines = [f"  {row.path!r}: {row.reason} ({row.detail})" for row in quarantined.itertuples()]
    first = "\n".join([*lines[:10], *(["  ..."] if len(lines) > 10 else [])])
    if len(quarantined) > max_quarantined:
        raise InputError(
            f"{len(quarantined)} of {len(rows)} files cannot be used, but data.max_quarantined in params.yaml allows "
            f"{max_quarantined}; mend or remove them, or raise that number:\n{first}"
        )
    bad = set(quarantined["path"])
    left = {label for path, label in zip(rows["path"], rows["label"], strict=True) if path not in bad}
    if lost := sorted(set(rows["label"]) - left):
        raise InputError(f"class {lost[0]!r} has no image that can be used; quarantined were:\n{first}")
