"""Reads and downloads MedMNIST sets: small images with their given split in one .npz file.

Source: Yang et al., MedMNIST v2, Scientific Data 2023.
"""

import importlib.util
import math
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.files import replacing
from tumorboard.base.tables import SPLITS

PREFIX = "medmnist:"  # start of the name of a downloaded set, such as medmnist:bloodmnist_224

MAX_PART_IMAGES = 10_000_000  # images of a part; the largest MedMNIST set has 236,386

CHUNK_BYTES = 1 << 20  # bytes read at a time while a checksum is compared

EXPECTED_ARRAYS = (
    "expected MedMNIST's arrays: train_images uint8[N, H, W] or uint8[N, H, W, 3], train_labels [N] or [N, 1] of whole "
    "numbers, and the same for val and test if there are such parts"
)


def list_npz_images(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yields the path, label and split of each image in an .npz file.

    The arrays are read to their end, because only there the archive compares their checksums. A checksum covers a whole
    array, so that one wrong byte makes all images of the file suspect.

    Args:
        file: the .npz file, with the arrays train_images and train_labels, and optionally those of val and test.

    Yields:
        Path, such as 'train/00012'; label; split. Labels are the class names of the medmnist package if it is installed
        and lists a set of the file's name, else the numbers in the file.

    Raises:
        InputError: the file is damaged or has other arrays.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = {}
            for split in SPLITS:
                if f"{split}_images.npy" in archive.namelist():
                    count = _count_images(archive, f"{split}_images")
                    parts[split] = count, _read_labels(archive, f"{split}_labels", count)
    except Exception as error:  # damaged bytes raise many kinds of exceptions
        raise InputError(f"data.raw: {file}: {error}; {EXPECTED_ARRAYS}") from error
    if "train" not in parts:
        raise InputError(f"data.raw: {file}: no train_images; {EXPECTED_ARRAYS}")
    names = _class_names(file)
    numbers_used = {number for _, numbers in parts.values() for number in numbers}
    if not numbers_used <= set(names):
        names = {number: str(number) for number in numbers_used}
    for split, (count, numbers) in parts.items():
        # As many digits as the last number has, so that sorted paths are in the order of the file.
        width = max(5, len(str(count - 1)))
        yield from ((f"{split}/{row:0{width}d}", names[number], split) for row, number in enumerate(numbers))


def read_npz_image(file: Path, path: str) -> bytes:
    """Returns one image of an .npz file as the content of a .npy file.

    Args:
        file: the .npz file.
        path: path of the image, as `list_npz_images` yields it.

    Raises:
        ImageError: the file is damaged or has changed since it was listed.
    """
    split, _, row = path.partition("/")
    try:
        status = file.stat()
        version = (status.st_ino, status.st_size, status.st_mtime_ns)
        stream, start, shape = _open_images(str(file), f"{split}_images", version)
        size = math.prod(shape)
        stream.seek(start + int(row) * size)  # moves forward as long as rows are read in order
        pixels = stream.read(size)
    except Exception as error:  # a file that has changed raises many kinds of exceptions
        raise ImageError("corrupt", f"{file}: {split}_images: {error}") from error
    if len(pixels) < size:
        raise ImageError("truncated", f"{file}: the {split}_images end within it")
    buffer = BytesIO()
    npy.write_array(buffer, np.frombuffer(pixels, np.uint8).reshape(shape))
    return buffer.getvalue()


def download(name: str, target: Path) -> None:
    """Downloads a set with the medmnist package.

    The package keeps a copy in ~/.medmnist, checks it by MD5, and does not download a set again that is there.

    Args:
        name: name of the set, with the side of its images in pixels unless that is 28: 'bloodmnist', 'bloodmnist_224'.
        target: the .npz file to write.

    Raises:
        InputError: the package is missing, knows no such set or size, or the download fails.
    """
    flag, _, side = name.partition("_")
    entry = _sets().get(flag)
    if entry is None:
        known = ", ".join(_sets()) or "none, because the package is missing: pip install 'tumorboard[medmnist]'"
        raise InputError(f"{PREFIX}{name}: medmnist has no set {flag!r}; known: {known}")
    if f"MD5_{side}" not in entry and side:
        sizes = [key.removeprefix("MD5") for key in entry if key.startswith("MD5")]
        raise InputError(f"{PREFIX}{name}: no such size; there are {', '.join(flag + size for size in sizes)}")
    import medmnist

    try:
        dataset = getattr(medmnist, entry["python_class"])(split="val", download=True, size=int(side or 28))
    except (RuntimeError, OSError) as error:
        url = entry[f"url_{side}" if side else "url"]
        raise InputError(
            f"{PREFIX}{name}: the download failed. Without internet, get {url} elsewhere and put it at "
            f"~/.medmnist/{name}.npz, or set data.raw to the file"
        ) from error
    with replacing(target) as temporary:
        shutil.copyfile(Path(dataset.root) / f"{name}.npz", temporary)


class _RefusedError(ValueError):
    """An array is refused by its header, so that it need not be read to its end."""


@contextmanager
def _open_checked(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Opens an array and reads it to its end on exit, where its checksum is compared; raises ValueError."""
    try:
        with archive.open(f"{name}.npy") as stream:
            yield stream
            while stream.read(CHUNK_BYTES):
                pass
    except _RefusedError:
        raise
    except Exception as error:  # damaged, encrypted or oddly compressed bytes raise many kinds of exceptions
        raise ValueError(f"{name}: {error}") from error


def _read_array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns the shape, whether the order is Fortran's, and the dtype of an array."""
    return npy.read_array_header_1_0(stream) if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0(stream)


def _count_images(archive: zipfile.ZipFile, name: str) -> int:
    """Returns the number of images in an array; raises ValueError if it holds no images or too few bytes."""
    with _open_checked(archive, name) as stream:
        shape, fortran, dtype = _read_array_header(stream)
        start = stream.tell()
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise _RefusedError(f"{name} is {dtype}{list(shape)}")
        size = archive.getinfo(f"{name}.npy").file_size - start
        if size < math.prod(shape):
            raise _RefusedError(f"{name} ends before its {shape[0]} images do")
        if size > math.prod(shape):
            raise _RefusedError(f"{name} holds {size} bytes, more than its {shape[0]} images have")
        if shape[0] > MAX_PART_IMAGES:
            raise _RefusedError(f"{name} holds {shape[0]} images, more than {MAX_PART_IMAGES}")
    return shape[0]


def _read_labels(archive: zipfile.ZipFile, name: str, count: int) -> list[int]:
    """Returns the labels of a part, and reads them only if their header states one whole number per image.

    Raises:
        ValueError: they are of another kind, or not as many as the `count` images.
    """
    with _open_checked(archive, name) as stream:
        shape, _, dtype = _read_array_header(stream)
        if len(shape) == 2 and shape[1] > 1:
            raise _RefusedError(f"{name} is {list(shape)}, several labels per image, but only one is supported")
        if dtype.kind not in "ui":
            raise _RefusedError(f"{name} is {dtype}")
        if math.prod(shape) != count:
            raise _RefusedError(f"{count} {name.removesuffix('_labels')}_images, but {math.prod(shape)} {name}")
        data = stream.read(count * dtype.itemsize)
    return [int(number) for number in np.frombuffer(data, dtype, count)]


@lru_cache(maxsize=3)
def _open_images(file: str, name: str, _version: tuple[int, ...]) -> tuple[IO[bytes], int, tuple[int, ...]]:
    """Opens an array of images and keeps it open, so that reading a row costs one seek.

    Args:
        file: the .npz file.
        name: name of the array.
        _version: inode, size and time of the file. A worker of a cluster outlives a run and may see another file of
            the same name.

    Returns:
        The stream, the offset of the first value, and the shape of one image.
    """
    stream = zipfile.ZipFile(file).open(f"{name}.npy")  # noqa: SIM115 - closed when the cache drops it
    shape, _, _ = _read_array_header(stream)
    return stream, stream.tell(), shape[1:]


def _class_names(file: Path) -> dict[int, str]:
    """Returns the class names of a set by their numbers, {} for a file of another name."""
    flag = re.sub(r"_\d+$", "", file.stem.removeprefix(PREFIX))
    entry = _sets().get(flag)
    return {} if entry is None else {int(number): name for number, name in entry["label"].items()}


@lru_cache(maxsize=1)
def _sets() -> dict[str, dict[str, Any]]:
    """Returns the medmnist package's table of sets by name, {} if the package is not installed.

    Only the package's module `info` is loaded, because the package itself imports torch and prints warnings.
    """
    package = importlib.util.find_spec("medmnist")
    if package is None or not package.submodule_search_locations:
        return {}
    module_file = Path(next(iter(package.submodule_search_locations))) / "info.py"
    spec = importlib.util.spec_from_file_location("_medmnist_info", module_file)
    if spec is None or spec.loader is None:
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: dict[str, dict[str, Any]] = module.INFO
    return table
