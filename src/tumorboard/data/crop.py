"""From raw files to the crop store: every image is decoded once, cropped, and remembered."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as cached
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import PIL.Image
from tqdm import tqdm
from xxhash import xxh3_128

from tumorboard import dicom, images, jpeg, png
from tumorboard.data import sidecache, sources
from tumorboard.data.executor import Run, open_run
from tumorboard.data.quarantine import check_usable
from tumorboard.data.sidecache import Place, SideCache, read_crops
from tumorboard.data.store import writing_store_by_shards
from tumorboard.errors import ImageError, InputError
from tumorboard.images import Pixels
from tumorboard.params import Crop, Frames
from tumorboard.tables import MANIFEST, check_manifest, write_table

WORTH_A_PROCESS = 32  # files
CHUNK_FILES, CHUNK_BYTES = 128, 1 << 22  # that a process takes at a time, at most
LAST_FILES = 8  # that it takes at a time towards the end
PACK_BYTES = 1 << 23  # of new crops that a process holds before it writes them


class Facts(NamedTuple):
    """What is known of a cropped file."""

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


class Cropped(NamedTuple):
    """A file whose crop lies in the side cache, and whether it had to be decoded for that."""

    sha256: str
    facts: Facts
    decoded: bool
    place: Place


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
    `cache`, so that a file seen before is not decoded again. The group of a row without one is the DICOM file's
    patient, else its path. The work is done by `workers` local processes or by the Dask cluster at `scheduler`, whose
    machines must all see `raw`, `folder` and `cache` under the same names. Raises InputError where they do not and,
    with nothing written to `folder`, where `check_usable` does; not if `max_quarantined` is None.
    """
    rows = rows.sort_values("path", ignore_index=True)
    # Workers on a cluster have another current folder.
    raw, folder, cache = raw.absolute(), folder.absolute(), _cache_of(cache.absolute(), crop, frames)
    workers = min(workers, -(-len(rows) // WORTH_A_PROCESS))
    with open_run(workers, scheduler) as run:
        return _crop_images(rows, ignored, raw, crop, frames, folder, cache, workers, max_quarantined, run)


def _crop_images(
    rows: pd.DataFrame,
    ignored: pd.DataFrame,
    raw: Path,
    crop: Crop,
    frames: Frames,
    folder: Path,
    cache: Path,
    workers: int,
    max_quarantined: int | None,
    run: Run,
) -> dict[str, Any]:
    results = _crop_files(rows["path"].tolist(), raw, crop, frames, cache, workers, run)
    usable = np.array([isinstance(result, Cropped) for result in results], dtype=bool)
    reasons = [result for result in results if isinstance(result, Quarantined)]
    quarantined = pd.DataFrame(reasons, columns=list(Quarantined._fields), dtype=object)
    quarantined.insert(0, "path", rows["path"][~usable].reset_index(drop=True))
    if max_quarantined is not None:
        check_usable(quarantined, rows, max_quarantined)
    cropped = [result for result in results if isinstance(result, Cropped)]
    decoded = sum(file.decoded for file in cropped)
    print(f"crop: {len(rows)} files, {decoded} decoded, {len(cropped) - decoded} from the side cache", file=sys.stderr)

    manifest = rows[usable].reset_index(drop=True)
    places = [file.place for file in cropped]
    crops_of = partial(read_crops, cache, size=crop.side)
    with writing_store_by_shards(folder / "store", manifest["path"].tolist(), places, crops_of, crop.shards, run):
        found = pd.DataFrame([file.facts for file in cropped], columns=list(Facts._fields)).astype({"patient": object})
        digests = pd.Series([file.sha256 for file in cropped], dtype=object)
        manifest = manifest.assign(id=manifest["path"], source_id=manifest["path"], sha256=digests)[list(MANIFEST)]
        own = found["patient"].mask(found["patient"] == "", manifest["path"])
        manifest["group"] = manifest["group"].mask(manifest["group"] == "", own)
        check_manifest(manifest, "the listed images")
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
        "equal_files": len(digests) - digests.nunique(),
        "equal_pixels": len(found) - found["pixels"].nunique(),
    }


def _crop_files(
    paths: Sequence[str], raw: Path, crop: Crop, frames: Frames, cache: Path, workers: int, run: Run
) -> list[Cropped | Quarantined]:
    """Crop files into the cache; results in the order of paths."""
    chunks = _cut_chunks(paths, raw, workers)
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


def _cut_chunks(paths: Sequence[str], raw: Path, workers: int) -> list[Sequence[str]]:
    """Cut paths into chunks: large ones, since each costs the processes a wait, and small ones at the end.

    So no process works alone for long (guided self-scheduling: Polychronopoulos and Kuck 1987). Of large files there
    are fewer in a chunk, by the mean size of a hundred.
    """
    some = paths[:: len(paths) // 100 + 1] if raw.is_dir() else []
    sizes = [os.lstat(raw / path).st_size for path in some if os.path.lexists(raw / path)]
    largest = min(CHUNK_FILES, max(1, CHUNK_BYTES * len(sizes) // max(1, sum(sizes)))) if sizes else CHUNK_FILES
    chunks: list[Sequence[str]] = []
    start = 0
    while left := len(paths) - start:
        count = min(left, largest, max(LAST_FILES, left // (4 * workers)))
        chunks.append(paths[start : start + count])
        start += count
    return chunks


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
    known = _open_cache(cache, crop.side, marker)
    results: list[tuple[str, Facts, bool] | Quarantined] = []
    new: dict[str, tuple[dict[str, Any], Pixels]] = {}
    for path in paths:
        results.append(_crop_file(path, raw, crop, frames, known, new))
        if len(new) * 3 * crop.side**2 >= PACK_BYTES:
            known.write(new)
            new = {}
    known.write(new)
    return [
        result if isinstance(result, Quarantined) else Cropped(*result, known.place(result[0])) for result in results
    ]


@lru_cache(maxsize=1)
def _open_cache(cache: Path, size: int, _: Path) -> SideCache:
    """The side cache as this process sees it, read once a run, which the marker names."""
    return SideCache(cache, size)


def _crop_file(
    path: str, raw: Path, crop: Crop, frames: Frames, known: SideCache, new: dict[str, tuple[dict[str, Any], Pixels]]
) -> tuple[str, Facts, bool] | Quarantined:
    """A file's digest, facts, and whether it was decoded (its crop then is among the new); or why it cannot be used."""
    try:
        content = sources.read_content(raw, path)
        digest = sha256(content).hexdigest()
        if remembered := new[digest][0] if digest in new else known.find(digest):
            return digest, Facts(**remembered), False
        image, header = images.decode_for_crop(content, crop, frames)
    except ImageError as error:
        return Quarantined(error.reason, error.detail)
    pixels = xxh3_128(str(image.shape).encode())
    pixels.update(np.ascontiguousarray(image).data)
    patient = dicom.open_dicom(content).patient if header.format == "DICOM" else ""
    levels = [round(level, 2) for level in cv2.mean(image)]
    framed = images.remove_border(image, crop.border_threshold, crop.border_tolerance)
    facts = Facts(
        pixels=pixels.hexdigest(),
        width=header.width,
        height=header.height,
        bytes=len(content),
        format=header.format,
        patient=patient,
        red=levels[0],
        green=levels[1] if image.ndim == 3 else levels[0],
        blue=levels[2] if image.ndim == 3 else levels[0],
        border=round(1 - framed.size / image.size, 4),
    )
    new[digest] = facts._asdict(), images.center_square(framed if crop.border else image, crop.side)
    return digest, facts, True


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
    modules = (images.__file__, dicom.__file__, jpeg.__file__, png.__file__, sidecache.__file__, __file__)
    made_by += [Path(str(module)).read_text(encoding="utf-8") for module in modules]
    return sha256(json.dumps(made_by).encode()).hexdigest()[:16]
