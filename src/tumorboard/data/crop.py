"""Crops all listed images into the crop store: decodes each file once and keeps its crop for later runs."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cached
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import PIL.Image
from tqdm import tqdm
from xxhash import xxh3_128

from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Crop, Frames
from tumorboard.base.tables import MANIFEST, Images, Manifest, check_manifest
from tumorboard.data import crop_cache, sources
from tumorboard.data.crop_cache import CachedCrop, CropCache, CropLocation, read_crops
from tumorboard.data.quarantine import QuarantinedFiles, check_usable_images
from tumorboard.data.sources import IgnoredFiles, ListedImages
from tumorboard.data.store import writing_store_in_parallel
from tumorboard.data.workers import ParallelMap, open_workers
from tumorboard.images.crop import crop_file
from tumorboard.images.dicom import open_dicom

MIN_WORKER_FILES = 32  # files per process; with fewer a process costs more to start than it saves
MAX_CHUNK_FILES = 128  # files that a process takes at a time
MAX_CHUNK_BYTES = 1 << 22  # bytes of image files that a process takes at a time
MIN_CHUNK_FILES = 8  # files that a process takes at a time towards the end
PACK_BYTES = 1 << 23  # bytes of new crops that a process holds before it writes them

IMAGE_COLUMNS = ("id", "pixels", "width", "height", "bytes", "format", "red", "green", "blue", "border")


@dataclass(frozen=True)
class CropJob:
    """Which files to crop, how, where to, and by which workers."""

    raw: Path  # folder of the images, or a MedMNIST .npz file
    out: Path  # folder to write the tables and the store to
    cache: Path  # folder of crops from earlier runs; deleting it costs time and changes no result
    crop: Crop  # section `crop` of params.yaml
    frames: Frames  # frame to take of a file with several; None quarantines such files
    max_quarantined: int | None  # more unusable files are an error; None: any number is accepted
    workers: int = 1  # local processes; with a scheduler they only decide how many files a worker takes at a time
    scheduler: str | None = None  # address of a Dask scheduler, whose workers all see the three paths under these names


class CropSummary(NamedTuple):
    """What `crop_images` has done."""

    counts: dict[str, Any]  # metrics: images, classes, groups, quarantined, ignored, equal_files, equal_pixels
    listed: int  # files, usable or not
    decoded: int  # files decoded in this run
    cached: int  # files whose crop was in the cache


class ImageFacts(NamedTuple):
    """What is known of an image file after it was decoded."""

    pixels: str  # XXH3-128 of the shape and values of the decoded picture; a large picture is reduced before
    width: int  # of the upright picture at full size, pixels
    height: int  # of the upright picture at full size, pixels
    bytes: int  # size of the file
    format: str  # such as 'JPEG', see images.header.Header
    patient: str  # PatientID of a DICOM file, else ''
    red: float  # mean level of the channel, 0 to 255
    green: float  # the same of green
    blue: float  # the same of blue
    border: float  # share of the pixels in the dark border, 0 to 1, whether or not crop.border cuts it off


class CachedFile(NamedTuple):
    """A file whose crop lies in the cache."""

    sha256: str
    facts: ImageFacts
    decoded: bool  # in this run
    location: CropLocation


class QuarantinedFile(NamedTuple):
    """Why a file cannot be used."""

    reason: str  # one of errors.Reason
    detail: str


def crop_images(images: ListedImages, ignored: IgnoredFiles, job: CropJob) -> CropSummary:
    """Crops the listed images and writes the tables and the crop store of the stage crop.

    Writes into `job.out`:
        manifest.csv: a Manifest. An image without a group gets the DICOM file's patient, else its path.
        images.csv: one row per usable image, columns IMAGE_COLUMNS, which ImageFacts explains.
        quarantined.csv: path, reason and detail of each unusable file.
        ignored.csv: the ignored files.
        store/: a CropStore.

    Args:
        images: as `list_images` returns them.
        ignored: as `list_images` returns them.
        job: the folders, parameters and workers.

    Raises:
        InputError: too many files are quarantined, or all of a class, unless `max_quarantined` is None (nothing is
            written to `out` then); or a worker of the cluster does not see the folders.
    """
    images = images.sort_values("path", ignore_index=True)
    job = replace(
        job,
        # Workers on a cluster have another working directory.
        raw=job.raw.absolute(),
        out=job.out.absolute(),
        cache=job.cache.absolute() / _cache_key(job.crop, job.frames),
        workers=min(job.workers, -(-len(images) // MIN_WORKER_FILES)),
    )
    with open_workers(job.workers, job.scheduler) as parallel_map:
        results = _crop_files(images["path"].tolist(), job, parallel_map)
        usable = np.array([isinstance(result, CachedFile) for result in results], dtype=bool)
        quarantined = _quarantined_table(images["path"][~usable], results)
        if job.max_quarantined is not None:
            check_usable_images(quarantined, images, job.max_quarantined)
        files = [result for result in results if isinstance(result, CachedFile)]
        images = images[usable].reset_index(drop=True)
        with writing_store_in_parallel(
            job.out / "store",
            images["path"].tolist(),
            keys=[file.location for file in files],
            load_crops=partial(read_crops, job.cache, size=job.crop.side),
            shards=job.crop.shards,
            parallel_map=parallel_map,
        ):
            manifest, facts = _manifest_and_facts(images, files)
            write_table(facts, job.out / "images.csv")
            write_table(quarantined, job.out / "quarantined.csv")
            write_table(ignored, job.out / "ignored.csv")
            write_table(manifest, job.out / "manifest.csv")
    decoded = sum(file.decoded for file in files)
    counts = _count(manifest, facts, len(quarantined), len(ignored))
    return CropSummary(counts, listed=len(results), decoded=decoded, cached=len(files) - decoded)


def _quarantined_table(paths: "pd.Series[str]", results: Sequence[CachedFile | QuarantinedFile]) -> QuarantinedFiles:
    rows = [result for result in results if isinstance(result, QuarantinedFile)]
    quarantined = pd.DataFrame(rows, columns=list(QuarantinedFile._fields), dtype=object)
    quarantined.insert(0, "path", paths.reset_index(drop=True))
    return quarantined


def _manifest_and_facts(images: ListedImages, files: Sequence[CachedFile]) -> tuple[Manifest, Images]:
    """Returns the tables manifest.csv and images.csv; `images` and `files` have the same order."""
    facts = pd.DataFrame([file.facts for file in files], columns=list(ImageFacts._fields)).astype({"patient": object})
    digests = pd.Series([file.sha256 for file in files], dtype=object)
    manifest = images.assign(id=images["path"], source_id=images["path"], sha256=digests)[list(MANIFEST)]
    own_group = facts["patient"].mask(facts["patient"] == "", manifest["path"])
    manifest["group"] = manifest["group"].mask(manifest["group"] == "", own_group)
    check_manifest(manifest, "the listed images")
    facts.insert(0, "id", manifest["id"])
    return manifest, facts[list(IMAGE_COLUMNS)]


def _count(manifest: Manifest, facts: Images, quarantined: int, ignored: int) -> dict[str, Any]:
    return {
        "images": len(manifest),
        "classes": dict(sorted(Counter(manifest["label"]).items())),
        "groups": len(set(manifest["group"])),
        "quarantined": quarantined,
        "ignored": ignored,
        # Images beyond the first one with the same bytes, and with the same pixels, which equal files are among.
        "equal_files": len(manifest) - manifest["sha256"].nunique(),
        "equal_pixels": len(facts) - facts["pixels"].nunique(),
    }


def _crop_files(paths: Sequence[str], job: CropJob, parallel_map: ParallelMap) -> list[CachedFile | QuarantinedFile]:
    """Crops files into the cache and returns one result per path, in their order."""
    chunks = _cut_chunks(paths, job.raw, job.workers)
    results: list[CachedFile | QuarantinedFile] = []
    with (
        _marker_file(job.cache) as marker,
        tqdm(desc="crop", total=len(paths), unit="image", disable=None) as bar,
    ):
        for cropped in parallel_map(partial(_crop_chunk, job=job, marker=marker), chunks):
            results += cropped
            bar.update(len(cropped))
    for path, result in zip(paths, results, strict=True):
        # A machine that sees another folder under the name of `raw` must not have the user's files quarantined.
        if isinstance(result, QuarantinedFile) and result.reason == "unreadable" and _is_readable(job.raw, path):
            raise InputError(f"{path}: can be read here, but not by the worker that tried ({result.detail})")
    return results


def _cut_chunks(paths: Sequence[str], raw: Path, workers: int) -> list[Sequence[str]]:
    """Cuts paths into chunks that become smaller towards the end, so that no process works alone for long.

    Large chunks save waiting, small ones at the end balance the load. The mean size of about a hundred files decides
    how many files fit into MAX_CHUNK_BYTES.

    Source: guided self-scheduling (Polychronopoulos & Kuck 1987).
    """
    sample = paths[:: len(paths) // 100 + 1] if raw.is_dir() else []
    sizes = [os.lstat(raw / path).st_size for path in sample if os.path.lexists(raw / path)]
    largest = MAX_CHUNK_FILES
    if sizes:
        largest = min(largest, max(1, MAX_CHUNK_BYTES * len(sizes) // max(1, sum(sizes))))
    chunks: list[Sequence[str]] = []
    start = 0
    while left := len(paths) - start:
        count = min(left, largest, max(MIN_CHUNK_FILES, left // (4 * workers)))
        chunks.append(paths[start : start + count])
        start += count
    return chunks


@contextmanager
def _marker_file(cache: Path) -> Iterator[Path]:
    """Creates a file of a unique name, by which a worker checks that it sees the cache; deletes it at the end."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor, name = mkstemp(prefix=".run-", dir=cache)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink()


def _crop_chunk(paths: Sequence[str], job: CropJob, marker: Path) -> list[CachedFile | QuarantinedFile]:
    """Crops files in a worker, and first checks that it has the same code and folders, as it may be another machine."""
    if job.cache.name != _cache_key(job.crop, job.frames):
        raise InputError("has other versions of tumorboard, OpenCV or Pillow than this machine: install the same ones")
    for needed, name in ((marker, f"the crop cache {job.cache}"), (job.raw, f"the raw folder {job.raw}")):
        if not needed.exists():
            raise InputError(f"does not see {name}: all workers must see it under this name")
    cache = _open_cache(job.cache, job.crop.side, marker)
    results: list[tuple[str, ImageFacts, bool] | QuarantinedFile] = []
    new: dict[str, CachedCrop] = {}
    for path in paths:
        results.append(_crop_file(path, job, cache, new))
        if len(new) * 3 * job.crop.side**2 >= PACK_BYTES:
            cache.write_pack(new)
            new = {}
    cache.write_pack(new)
    return [
        result if isinstance(result, QuarantinedFile) else CachedFile(*result, cache.location(result[0]))
        for result in results
    ]


@lru_cache(maxsize=1)
def _open_cache(folder: Path, size: int, _marker: Path) -> CropCache:
    """Reads the crop cache once per process and run; the marker is another one in each run."""
    return CropCache(folder, size)


def _crop_file(
    path: str, job: CropJob, cache: CropCache, new: dict[str, CachedCrop]
) -> tuple[str, ImageFacts, bool] | QuarantinedFile:
    """Crops one file, unless its crop is in the cache or among the new ones.

    Returns:
        The file's SHA-256, its facts, and whether it was decoded, in which case its crop is added to `new`.
    """
    try:
        content = sources.read_content(job.raw, path)
        digest = sha256(content).hexdigest()
        if known_facts := new[digest].facts if digest in new else cache.facts(digest):
            return digest, ImageFacts(**known_facts), False
        picture, header, border, square = crop_file(content, job.crop, job.frames)
    except ImageError as error:
        return QuarantinedFile(error.reason, error.detail)
    pixels = xxh3_128(str(picture.shape).encode())
    pixels.update(np.ascontiguousarray(picture).data)
    levels = [round(level, 2) for level in cv2.mean(picture)]
    facts = ImageFacts(
        pixels=pixels.hexdigest(),
        width=header.width,
        height=header.height,
        bytes=len(content),
        format=header.format,
        patient=open_dicom(content).patient if header.format == "DICOM" else "",
        red=levels[0],
        green=levels[1] if picture.ndim == 3 else levels[0],
        blue=levels[2] if picture.ndim == 3 else levels[0],
        border=round(border, 4),
    )
    new[digest] = CachedCrop(facts._asdict(), square)
    return digest, facts, True


def _is_readable(raw: Path, path: str) -> bool:
    try:
        sources.read_content(raw, path)
    except ImageError:
        return False
    return True


@cached
def _cache_key(crop: Crop, frames: Frames) -> str:
    """Returns 16 hexadecimal digits that name the parameters, the code and the libraries that crops are made by."""
    made_by = [crop.model_dump_json(exclude={"shards"}), str(frames), cv2.__version__, PIL.__version__]
    package = Path(__file__).parents[1]
    modules = [*sorted((package / "images").glob("*.py")), Path(crop_cache.__file__), Path(__file__)]
    made_by += [module.read_text(encoding="utf-8") for module in modules]
    return sha256(json.dumps(made_by).encode()).hexdigest()[:16]
