"""MedMNIST (Yang et al., Scientific Data 2023): sets of small images as one .npz file with its given split."""

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

from tumorboard.errors import ImageError, InputError
from tumorboard.tables import replacing

PREFIX = "medmnist:"
SPLITS = ("train", "val", "test")
CHUNK = 1 << 20
FORM = (
    "expected MedMNIST's form: train_images uint8[N, H, W] or uint8[N, H, W, 3], train_labels [N] or [N, 1] of whole "
    "numbers, and the same for val and test where there are such parts"
)


def list_rows(file: Path) -> Iterator[tuple[str, str, str]]:
    """The path (such as 'train/00012'), label and split of each image in an .npz file; raises InputError.

    Labels are the class names of the medmnist package where it is installed and knows the file by its name, else the
    numbers as they stand in the file. Images and labels are read through, as only the end of an array tells whether its
    checksum is right: one wrong byte, and no image of the file can be told good from bad.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = {
                part: (_shape(archive, f"{part}_images"), _labels(archive, f"{part}_labels"))
                for part in SPLITS
                if f"{part}_images.npy" in archive.namelist()
            }
    except Exception as error:  # of many kinds, on damaged bytes: all of them are told
        raise InputError(f"data.raw: {file}: {error}; {FORM}") from error
    if "train" not in parts:
        raise InputError(f"data.raw: {file}: no train_images; {FORM}")
    names = _class_names(file)
    known = {number for _, numbers in parts.values() for number in numbers}
    if not known <= set(names):
        names = {number: str(number) for number in known}
    for part, (count, numbers) in parts.items():
        if count != len(numbers):
            raise InputError(f"data.raw: {file}: {count} {part}_images, but {len(numbers)} {part}_labels")
        # As wide as the last number, so that the order of the names is that of the file.
        width = max(5, len(str(count - 1)))
        yield from ((f"{part}/{row:0{width}d}", names[number], part) for row, number in enumerate(numbers))


def read_row(file: Path, path: str) -> bytes:
    """One image of an .npz file as the bytes of an .npy file of its own; raises ImageError."""
    part, _, row = path.partition("/")
    try:
        marks = file.stat()
        stream, start, shape = _open_images(
            str(file), f"{part}_images", (marks.st_ino, marks.st_size, marks.st_mtime_ns)
        )
        size = math.prod(shape)
        stream.seek(start + int(row) * size)  # forward only, as long as rows are asked for in order
        pixels = stream.read(size)
    except Exception as error:  # of many kinds, should the file have changed since it was listed
        raise ImageError("corrupt", f"{file}: {part}_images: {error}") from error
    if len(pixels) < size:
        raise ImageError("truncated", f"{file}: the {part}_images end within it")
    buffer = BytesIO()
    npy.write_array(buffer, np.frombuffer(pixels, np.uint8).reshape(shape))
    return buffer.getvalue()


def fetch(name: str, target: Path) -> None:
    """Download a set such as 'bloodmnist_224' to `target` by the medmnist package; raises InputError.

    The package keeps its own copy, checked by MD5, in ~/.medmnist; one that lies there is not downloaded again.
    """
    flag, _, size = name.partition("_")
    entry = _info().get(flag)
    if entry is None:
        known = ", ".join(_info()) or "none, as the package is missing: pip install 'tumorboard[medmnist]'"
        raise InputError(f"{PREFIX}{name}: medmnist knows no set {flag!r}; known: {known}")
    if f"MD5_{size}" not in entry and size:
        sizes = [key.removeprefix("MD5") for key in entry if key.startswith("MD5")]
        raise InputError(f"{PREFIX}{name}: no such size; there are {', '.join(flag + size for size in sizes)}")
    import medmnist

    try:
        part = getattr(medmnist, entry["python_class"])(split="val", download=True, size=int(size or 28))
    except (RuntimeError, OSError) as error:
        url = entry[f"url_{size}" if size else "url"]
        raise InputError(
            f"{PREFIX}{name}: the download failed. Without internet, get {url} elsewhere and put it at "
            f"~/.medmnist/{name}.npz, or set data.raw to the file"
        ) from error
    with replacing(target) as temporary:
        shutil.copyfile(Path(part.root) / f"{name}.npz", temporary)


@contextmanager
def _reading(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A stream over an array, read to its end, where its checksum is compared; raises ValueError, which names it."""
    try:
        with archive.open(f"{name}.npy") as stream:
            yield stream
            while stream.read(CHUNK):
                pass
    except Exception as error:  # as in list_rows; also where it is encrypted or oddly compressed
        raise ValueError(f"{name}: {error}") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return npy.read_array_header_1_0(stream) if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0(stream)


def _shape(archive: zipfile.ZipFile, name: str) -> int:
    with _reading(archive, name) as stream:
        shape, fortran, dtype = _header(stream)
        start = stream.tell()
    if dtype != np.uint8 or fortran or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise ValueError(f"{name} is {dtype}{list(shape)}")
    if archive.getinfo(f"{name}.npy").file_size - start < math.prod(shape):
        raise ValueError(f"{name} ends before its {shape[0]} images do")
    return shape[0]


def _labels(archive: zipfile.ZipFile, name: str) -> list[int]:
    with _reading(archive, name) as stream:
        labels = npy.read_array(stream, allow_pickle=False)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(f"{name} is {list(labels.shape)}, several labels an image: one is needed")
    if labels.dtype.kind not in "ui":
        raise ValueError(f"{name} is {labels.dtype}")
    return [int(number) for number in labels.ravel()]


@lru_cache(maxsize=3)
def _open_images(file: str, name: str, _marks: tuple[int, ...]) -> tuple[IO[bytes], int, tuple[int, ...]]:
    """A stream over an array, where its values begin, and one image's shape; kept open, as a row costs a seek then.

    Under the file's marks: a worker of a cluster outlives the run, and may see another file of that name.
    """
    stream = zipfile.ZipFile(file).open(f"{name}.npy")  # noqa: SIM115 - closed when forgotten
    shape, _, _ = _header(stream)
    return stream, stream.tell(), shape[1:]


def _class_names(file: Path) -> dict[int, str]:
    flag = re.sub(r"_\d+$", "", file.stem.removeprefix(PREFIX))
    entry = _info().get(flag)
    return {} if entry is None else {int(number): name for number, name in entry["label"].items()}


@lru_cache(maxsize=1)
def _info() -> dict[str, dict[str, Any]]:
    """The medmnist package's table of its sets, {} where it is not installed.

    Its module alone: the package itself imports torch, and prints where something else is missing.
    """
    package = importlib.util.find_spec("medmnist")
    if package is None or not package.submodule_search_locations:
        return {}
    place = Path(next(iter(package.submodule_search_locations))) / "info.py"
    spec = importlib.util.spec_from_file_location("_medmnist_info", place)
    if spec is None or spec.loader is None:
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: dict[str, dict[str, Any]] = module.INFO
    return table
