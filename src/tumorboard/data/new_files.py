"""Reads and crops image files that belong to no data set: those that a panel is to classify."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.errors import ImageError, InputError, printable
from tumorboard.base.faults import is_shortage
from tumorboard.base.params import Crop, Frames
from tumorboard.data import sources
from tumorboard.data.crop_key import check_crop_key, crop_key
from tumorboard.data.workers import LARGE_MEMORY, ParallelMap, limit_workers, open_workers
from tumorboard.images.crop import crop_file
from tumorboard.images.grey import Pixels, three_channels

CHUNK = 32  # files that a worker takes at a time


class NewFile(NamedTuple):
    """The result of reading and cropping one image file."""

    sha256: str  # empty where the file cannot be read
    crop: Pixels | None  # uint8[S, S, 3], or None where there is a problem
    problem: str  # empty where there is none


@dataclass(frozen=True)
class Decoders:
    """Where files are decoded: in this process, in local processes or on a cluster."""

    parallel_map: ParallelMap = map
    elsewhere: bool = False  # whether on other machines, which may have another version and see other files


@contextmanager
def open_decoders(files: int, workers: int, scheduler: str | None) -> Iterator[Decoders]:
    """Opens Decoders, see `open_workers`. Call it before torch is imported, so that forked processes lack torch.

    Args:
        files: number of files; no process is started that would have none.
        workers: number of local processes at most.
        scheduler: address of a Dask scheduler, whose cluster is used instead of local processes.

    Raises:
        InputError: the scheduler cannot be used, or a process cannot be started.
    """
    processes = limit_workers(min(workers, -(-files // CHUNK)), LARGE_MEMORY)
    with open_workers(processes, scheduler) as parallel_map:
        yield Decoders(parallel_map, elsewhere=scheduler is not None)


def list_new_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the given files and all files below the given folders, each once.

    Raises:
        InputError: where a path does not exist, or there is no file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [path / name for name in sources.list_files(path)]
        elif path.exists() or path.is_symlink():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        raise InputError(f"no files in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(files))


def crop_new_files(
    files: Sequence[Path], crop: Crop, frames: Frames, decoders: Decoders
) -> Iterator[tuple[Sequence[Path], list[NewFile]]]:
    """Yields the next CHUNK files or fewer, and the result of each, in the order of `files`.

    Args:
        files: the image files.
        crop: how they are cropped, and its limits.
        frames: the frame to use of an image with several, as `data.frames` in params.yaml.
        decoders: where the work is done.

    Raises:
        InputError: a machine of the cluster has another version, or cannot read a file that can be read here.
    """
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    task, sent = partial(_crop_chunk, crop=crop, frames=frames), chunks
    if decoders.elsewhere:
        task = partial(_crop_elsewhere, crop=crop, frames=frames, key=crop_key(crop, frames))
        sent = [[file.absolute() for file in chunk] for chunk in chunks]
    for chunk, cropped in zip(chunks, decoders.parallel_map(task, sent), strict=True):
        if decoders.elsewhere:
            _check_seen(chunk, cropped, crop, frames)
        yield chunk, cropped


def _crop_chunk(files: Sequence[Path], crop: Crop, frames: Frames) -> list[NewFile]:
    return [read_and_crop(file, crop, frames) for file in files]


def _crop_elsewhere(files: Sequence[Path], crop: Crop, frames: Frames, key: str) -> list[NewFile]:
    """Crops files on another machine, if its code would crop them as the machine that asks for it."""
    check_crop_key(key, crop, frames)
    return _crop_chunk(files, crop, frames)


def _check_seen(files: Sequence[Path], cropped: Sequence[NewFile], crop: Crop, frames: Frames) -> None:
    """Raises InputError where another machine could not read a file that this one can."""
    for file, new in zip(files, cropped, strict=True):
        if new.problem and not new.sha256 and read_and_crop(file, crop, frames).sha256:
            raise InputError(
                f"{printable(str(file))}: can be read here, but not by the worker of the cluster that tried "
                f"({new.problem}): all workers must see the files under the same names"
            )


def read_and_crop(file: Path, crop: Crop, frames: Frames) -> NewFile:
    """Reads and crops one file; a problem with it is part of the result."""
    if not file.is_file():
        return NewFile("", None, "unreadable: not a regular file" if file.exists() else "broken or outward link")
    digest = ""
    try:
        content = sources.read_image_bytes(file, crop.max_bytes)
        digest = sha256(content).hexdigest()
        return NewFile(digest, three_channels(crop_file(content, crop, frames).square), "")
    except ImageError as error:
        return NewFile(digest, None, str(error))
    except OSError as error:
        if is_shortage(error):
            raise
        return NewFile(digest, None, f"unreadable: {error.strerror}")
