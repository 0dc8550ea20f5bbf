"""Crops all listed images into the crop store: decodes each file once and keeps its crop for later runs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tumorboard.base.data_params import Links
from tumorboard.base.errors import ImageError, InputError, printable
from tumorboard.base.files import write_table
from tumorboard.base.params import SET, Crop, Frames
from tumorboard.base.progress import Progress
from tumorboard.base.tables import MANIFEST, Images, Manifest, check_manifest
from tumorboard.data import grey_ranges, sources
from tumorboard.data.attributes import attribute_table
from tumorboard.data.crop_cache import CachedCrop, CropCache, CropLocation, read_crops
from tumorboard.data.crop_key import check_crop_key, crop_key
from tumorboard.data.crop_record import write_record
from tumorboard.data.image_facts import IMAGE_COLUMNS, ImageFacts, count_images, facts_of
from tumorboard.data.label_warnings import describe_alike_patients
from tumorboard.data.quarantine import QuarantinedFiles, check_usable_images
from tumorboard.data.sources import IgnoredFiles, ListedImages
from tumorboard.data.store import writing_store_in_parallel
from tumorboard.data.workers import LARGE_MEMORY, SMALL_MEMORY, ParallelMap, limit_workers, open_workers
from tumorboard.images.crop import crop_file

MIN_WORKER_FILES = 32  # files per process; with fewer a process costs more to start than it saves
MAX_CHUNK_FILES = 128  # files that a process takes at a time
MAX_CHUNK_BYTES = 1 << 22  # bytes of image files that a process takes at a time
MIN_CHUNK_FILES = 8  # files that a process takes at a time towards the end
PACK_BYTES = 1 << 23  # bytes of new crops that a process holds before it writes them

# A file beyond either limit is decoded after the others, by as many processes as the memory allows.
LARGE_PIXELS = 1 << 25
LARGE_BYTES = 1 << 26
ROUND_FILES = 4  # large files that a process takes at a time

ONE_NAME = "give each patient one name, in a table's column group where the files stay as they are"


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
    links: Links = "inside"  # as `data.links`


class CropSummary(NamedTuple):
    """The result of `crop_images`."""

    counts: dict[str, Any]  # metrics, see `image_facts.count_images`
    listed: int  # files, usable or not
    decoded: int  # files decoded in this run
    cached: int  # files whose crop was in the cache
    warnings: tuple[str, ...] = ()  # about ranges of grey that differ, and about what decoders reported


class CachedFile(NamedTuple):
    """A file whose crop lies in the cache."""

    sha256: str
    facts: ImageFacts
    decoded: bool  # whether it was decoded in this run
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
        attributes.csv: one row per usable image: id, then each further column of the label table as text.
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
    job = _absolute(job, len(images))
    with open_workers(job.workers, job.scheduler) as parallel_map:
        window = job.crop.window
        if window == SET:
            job = _with_common_range(images["path"].tolist(), job, parallel_map)
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
            load_crops=partial(read_crops, _cache_folder(job), size=job.crop.side),
            shards=job.crop.shards,
            parallel_map=parallel_map,
        ):
            manifest, facts = _manifest_and_facts(images, files)
            tables = {"images": facts[list(IMAGE_COLUMNS)], "attributes": attribute_table(images), "manifest": manifest}
            for name, table in (tables | {"quarantined": quarantined, "ignored": ignored}).items():
                write_table(table, job.out / f"{name}.csv")
        asked_crop = job.crop.model_copy(update={"window": window})
        write_record(job.out / "store", asked_crop, job.frames, job.crop.fixed_window)
    warnings = (*grey_ranges.describe_facts(facts), *_describe_patients(facts[images["group"] == ""]))
    decoded = sum(file.decoded for file in files)
    counts = count_images(manifest, facts, len(quarantined), len(ignored))
    return CropSummary(counts, listed=len(results), decoded=decoded, cached=len(files) - decoded, warnings=warnings)


def _describe_patients(facts: Images) -> list[str]:
    """Returns warnings about the patients of DICOM files: names that differ in their form, and files without one.

    Args:
        facts: the images that neither a pattern nor a table groups.
    """
    known = facts["patient"] != ""
    warnings = describe_alike_patients(facts["patient"][known], ONE_NAME)
    if known.any() and not known.all():
        warnings.append(
            f"{(~known).sum()} of {len(known)} images name no patient (PatientID), such as "
            f"{printable(facts['id'][~known].iloc[0])}, while the others do: each counts as a patient of its own, and "
            "images of one patient may be on two sides of the split. Name the patients in a table's column group"
        )
    return warnings


def _absolute(job: CropJob, images: int) -> CropJob:
    """Returns the job with absolute folders, for a cluster's workers elsewhere, and with few workers for few images."""
    return replace(
        job,
        raw=job.raw.absolute(),
        out=job.out.absolute(),
        cache=job.cache.absolute(),
        workers=limit_workers(min(job.workers, -(-images // MIN_WORKER_FILES)), SMALL_MEMORY),
    )


def _with_common_range(paths: Sequence[str], job: CropJob, parallel_map: ParallelMap) -> CropJob:
    """Returns the job with `crop.window` as the range of all files' grey values, which are decoded once to find it."""
    results = _crop_files(paths, replace(job, crop=grey_ranges.measuring(job.crop)), parallel_map, "measure")
    levels = [result.facts.levels for result in results if isinstance(result, CachedFile)]
    return replace(job, crop=job.crop.model_copy(update={"window": grey_ranges.common_range(levels)}))


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
    return manifest, facts


def _crop_files(
    paths: Sequence[str], job: CropJob, parallel_map: ParallelMap, heading: str = "crop"
) -> list[CachedFile | QuarantinedFile]:
    """Crops files into the cache and returns one result per path, in their order."""
    job = replace(job, cache=_cache_folder(job))
    cropped: dict[str, CachedFile | QuarantinedFile] = {}
    with (
        _marker_file(job.cache) as marker,
        Progress(heading, len(paths), "image") as bar,
    ):
        large: list[str] = []
        for chunk in parallel_map(
            partial(_crop_chunk, job=job, marker=marker, crop=_without_large(job.crop)),
            _cut_chunks(paths, job.raw, job.workers),
        ):
            cropped |= {path: result for path, result in chunk.items() if result is not None}
            large += [path for path, result in chunk.items() if result is None]
            bar.update(len(chunk) - sum(result is None for result in chunk.values()))
        lanes = job.workers if job.scheduler else limit_workers(job.workers, LARGE_MEMORY)
        for start in range(0, len(large), ROUND_FILES * lanes):
            files = large[start : start + ROUND_FILES * lanes]
            task = partial(_crop_chunk, job=job, marker=marker, crop=job.crop)
            for chunk in parallel_map(task, [files[lane::lanes] for lane in range(min(lanes, len(files)))]):
                cropped |= chunk
                bar.update(len(chunk))
    for path, result in cropped.items():
        # A machine that sees another folder under the name of `raw` must not cause the user's files to be quarantined.
        if isinstance(result, QuarantinedFile) and result.reason == "unreadable" and _is_readable(job, path):
            raise InputError(f"{path}: can be read here, but not by the worker that tried ({result.detail})")
    return [cropped[path] for path in paths]


def _cache_folder(job: CropJob) -> Path:
    return job.cache / crop_key(job.crop, job.frames)


def _without_large(crop: Crop) -> Crop:
    """Returns `crop` with limits that leave large files for later."""
    limits = {"max_pixels": min(crop.max_pixels, LARGE_PIXELS), "max_bytes": min(crop.max_bytes, LARGE_BYTES)}
    return crop.model_copy(update=limits)


def _cut_chunks(paths: Sequence[str], raw: Path, workers: int) -> list[Sequence[str]]:
    """Cuts paths into chunks that become smaller towards the end, so that no process works alone for long.

    Large chunks save waiting, small ones at the end balance the load. The mean size of about a hundred files decides
    how many files fit into MAX_CHUNK_BYTES.

    Source: guided self-scheduling (Polychronopoulos & Kuck 1987).
    """
    sample = paths[:: len(paths) // 100 + 1] if raw.is_dir() else []
    sizes = [(raw / path).stat().st_size for path in sample if (raw / path).exists()]
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


def _crop_chunk(
    paths: Sequence[str], job: CropJob, marker: Path, crop: Crop
) -> dict[str, CachedFile | QuarantinedFile | None]:
    """Crops files in a worker, and first checks that it has the same code and folders, since it may be another machine.

    Returns:
        The result of each path; None if the file is within the limits of `job.crop`, but not within those of `crop`.
    """
    check_crop_key(job.cache.name, job.crop, job.frames)
    for needed, name in ((marker, f"the crop cache {job.cache}"), (job.raw, f"the raw folder {job.raw}")):
        if not needed.exists():
            raise InputError(f"does not see {name}: all workers must see it under this name")
    cache = _open_cache(job.cache, job.crop.side, marker)
    results: dict[str, tuple[str, ImageFacts, bool] | QuarantinedFile | None] = {}
    new: dict[str, CachedCrop] = {}
    for path in paths:
        results[path] = _crop_file(path, job, crop, cache, new)
        if len(new) * 3 * job.crop.side**2 >= PACK_BYTES:
            cache.write_pack(new)
            new = {}
    cache.write_pack(new)
    return {
        path: result
        if result is None or isinstance(result, QuarantinedFile)
        else CachedFile(*result, cache.location(result[0]))
        for path, result in results.items()
    }


@lru_cache(maxsize=1)
def _open_cache(folder: Path, size: int, _marker: Path) -> CropCache:
    """Reads the crop cache once per process and run; the marker is another one in each run."""
    return CropCache(folder, size)


def _crop_file(
    path: str, job: CropJob, crop: Crop, cache: CropCache, new: dict[str, CachedCrop]
) -> tuple[str, ImageFacts, bool] | QuarantinedFile | None:
    """Crops one file, unless its crop is in the cache or among the new ones.

    Returns:
        The file's SHA-256, its facts, and whether it was decoded, in which case its crop is added to `new`. None if
        the file exceeds limits of `crop` that are lower than those of `job.crop`.
    """
    try:
        content = sources.read_content(job.raw, path, crop.max_bytes, job.links)
        digest = sha256(content).hexdigest()
        if known_facts := new[digest].facts if digest in new else cache.facts(digest):
            return digest, ImageFacts(**known_facts), False
        cropped = crop_file(content, crop, job.frames)
        facts = facts_of(content, cropped)
    except ImageError as error:
        is_large = (error.reason == "too many pixels" and crop.max_pixels < job.crop.max_pixels) or (
            error.reason == "too many bytes" and crop.max_bytes < job.crop.max_bytes
        )
        return None if is_large else QuarantinedFile(error.reason, error.detail)
    except MemoryError:
        return QuarantinedFile("not enough memory", "memory ran out while it was read: lower crop.max_pixels")
    new[digest] = CachedCrop(facts._asdict(), cropped.square)
    return digest, facts, True


def _is_readable(job: CropJob, path: str) -> bool:
    try:
        sources.read_content(job.raw, path, links=job.links)
    except ImageError:
        return False
    return True
