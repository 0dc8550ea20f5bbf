"""From raw files to the crop store: every image is decoded once, cropped, and remembered."""

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray
from tqdm import tqdm

from tumorboard import images
from tumorboard.data.store import write_store
from tumorboard.errors import InputError
from tumorboard.params import Crop
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
    decoded: bool


class Rejected(NamedTuple):
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
    folder: Path,
    cache: Path,
    workers: int,
    max_rejected: int,
) -> dict[str, Any]:
    """Crop the images that `list_images` found into `folder` and return the counts.

    Writes manifest.csv (a Manifest), images.csv (id; pixels: SHA-256 over the shape and the values of the decoded
    image; width, height of the upright image; bytes, format of the file), rejected.csv (path, reason, detail),
    ignored.csv (path, reason) and store/ (a CropStore). Crops are remembered in `cache`, so that a file seen before is
    not decoded again. Raises InputError, with nothing written to `folder`, where more than `max_rejected` files cannot
    be used or a class loses all its images.
    """
    rows = rows.sort_values("path", ignore_index=True)
    cache = _cache_of(cache, crop)
    results = _crop_files(rows["path"].tolist(), raw, crop, cache, workers)
    usable = np.array([isinstance(result, Cropped) for result in results])
    reasons = [result for result in results if isinstance(result, Rejected)]
    rejected = pd.DataFrame(reasons, columns=list(Rejected._fields), dtype=object)
    rejected.insert(0, "path", rows["path"][~usable].reset_index(drop=True))
    _check_rejected(rejected, rows, usable, max_rejected)
    found = pd.DataFrame([r for r in results if isinstance(r, Cropped)]).astype({"sha256": object})
    decoded = int(found["decoded"].sum())
    print(f"crop: {len(rows)} files, {decoded} decoded, {len(found) - decoded} from the side cache", file=sys.stderr)

    manifest = rows[usable].reset_index(drop=True)
    manifest = manifest.assign(id=manifest["path"], source_id=manifest["path"], sha256=found["sha256"])[list(MANIFEST)]
    check_manifest(manifest, "the listed images")
    write_store(folder / "store", manifest["id"].tolist(), _stored(manifest, crop.size, cache), crop.shards)
    found.insert(0, "id", manifest["id"])
    write_table(found[["id", "pixels", "width", "height", "bytes", "format"]], folder / "images.csv")
    write_table(rejected, folder / "rejected.csv")
    write_table(ignored, folder / "ignored.csv")
    write_table(manifest, folder / "manifest.csv")
    return {
        "images": len(manifest),
        "classes": dict(sorted(Counter(manifest["label"]).items())),
        "groups": len(set(manifest["group"])),
        "rejected": len(rejected),
        "ignored": len(ignored),
        # Images beyond the first with the same bytes, and with the same pixels (those among them).
        "equal_files": len(found) - found["sha256"].nunique(),
        "equal_pixels": len(found) - found["pixels"].nunique(),
    }


def _crop_files(paths: Sequence[str], raw: Path, crop: Crop, cache: Path, workers: int) -> list[Cropped | Rejected]:
    """Crop files into the cache, in several processes where there are enough of them; results in the order of paths."""
    task = partial(_crop_file, raw=raw, crop=crop, cache=cache)
    bar = partial(tqdm, desc="crop", total=len(paths), unit="image", disable=None)
    workers = min(workers, -(-len(paths) // CHUNK))
    if workers == 1:
        return list(bar(map(task, paths)))
    spawn = multiprocessing.get_context("spawn")
    # One thread a process: OpenCV would otherwise start one a core in each of them.
    with ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool:
        try:
            return list(bar(pool.map(task, paths, chunksize=CHUNK)))
        except BrokenProcessPool:
            raise InputError(
                "a process that decodes images was killed, most likely for want of memory: "
                "lower runtime.workers or crop.max_pixels"
            ) from None


def _crop_file(path: str, raw: Path, crop: Crop, cache: Path) -> Cropped | Rejected:
    file = raw / path
    try:
        if file.exists() and not file.is_file():
            return Rejected("unreadable", "not a regular file")
        content = file.read_bytes()
    except OSError as error:
        return Rejected("unreadable", error.strerror or str(error))
    digest = sha256(content).hexdigest()
    entry = _entry_path(cache, digest)
    if remembered := _read_entry(entry, crop.size):
        return remembered[0]
    try:
        image = images.decode(content, crop.max_pixels)
    except images.ImageError as error:
        return Rejected(error.reason, error.detail)
    height, width = image.shape[:2]
    pixels = sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
    kind = PIL.Image.open(BytesIO(content), formats=images.FORMATS).format or ""
    cropped = Cropped(digest, pixels, width, height, len(content), kind, decoded=False)
    _write_entry(entry, cropped, images.crop_image(image, crop))
    return cropped._replace(decoded=True)


def _cache_of(cache: Path, crop: Crop) -> Path:
    """The folder of the crops made by these parameters, this code and these libraries."""
    made_by = [crop.model_dump_json(exclude={"shards"}), cv2.__version__, PIL.__version__]
    made_by += [Path(module).read_text(encoding="utf-8") for module in (str(images.__file__), __file__)]
    return cache / sha256(json.dumps(made_by).encode()).hexdigest()[:16]


def _entry_path(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest[2:]


def _write_entry(entry: Path, cropped: Cropped, crop: NDArray[np.uint8]) -> None:
    """Write a checksum, a line of JSON and the crop's bytes."""
    content = json.dumps(cropped._asdict()).encode() + b"\n" + crop.tobytes()
    with replacing(entry) as temporary:
        temporary.write_bytes(sha256(content).hexdigest().encode() + b"\n" + content)


def _read_entry(entry: Path, size: int) -> tuple[Cropped, NDArray[np.uint8]] | None:
    """What `_write_entry` wrote; None where there is no entry, or a damaged one."""
    if not entry.is_file():
        return None
    check, _, content = entry.read_bytes().partition(b"\n")
    if check != sha256(content).hexdigest().encode():
        return None
    facts, _, crop = content.partition(b"\n")
    return Cropped(**json.loads(facts)), np.frombuffer(crop, np.uint8).reshape(size, size, 3)


def _stored(manifest: pd.DataFrame, size: int, cache: Path) -> Iterator[NDArray[np.uint8]]:
    """The crops of a Manifest's rows, from the cache."""
    for digest in tqdm(manifest["sha256"], "store", unit="image", disable=None):
        entry = _entry_path(cache, digest)
        if (remembered := _read_entry(entry, size)) is None:
            raise InputError(f"{entry}: gone or damaged since it was written a moment ago; run the stage again")
        yield remembered[1]


def _check_rejected(rejected: pd.DataFrame, rows: pd.DataFrame, usable: NDArray[np.bool_], max_rejected: int) -> None:
    lines = [f"  {row.path!r}: {row.reason} ({row.detail})" for row in rejected.itertuples()]
    first = "\n".join([*lines[:10], *(["  ..."] if len(lines) > 10 else [])])
    if len(rejected) > max_rejected:
        raise InputError(
            f"{len(rejected)} of {len(rows)} files cannot be used, but data.max_rejected in params.yaml allows "
            f"{max_rejected}; mend or remove them, or raise that number:\n{first}"
        )
    if lost := sorted(set(rows["label"]) - set(rows["label"][usable])):
        raise InputError(f"class {lost[0]!r} has no image that can be used; rejected were:\n{first}")
