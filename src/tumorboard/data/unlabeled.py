"""Explains a folder of images without labels, which is for `tumorboard predict`, or of archives in place of images."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tumorboard.base.errors import printable
from tumorboard.data.class_folders import parse_part
from tumorboard.images.formats import HEAD_BYTES, is_readable

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")
CONTAINERS = (".h5", ".hdf5", ".parquet", ".arrow", ".tfrecord", ".tfrecords", ".lmdb", ".mat", ".pkl")
_NOT_UNPACKED = (".nii.gz", ".csv.gz", ".tsv.gz")  # a volume or a table of one file
ABOUT_CONTAINERS = "which is not read: write its images as files into one folder per class"
SHOWN = 4  # files in a message


def explain_unlabeled(raw: Path) -> str:
    """Returns what to do with a folder whose images lie in it without class folders.

    Args:
        raw: the folder, or the table whose rows are missing.

    Returns:
        One sentence; '' if the folder itself has no images.
    """
    if not raw.is_dir():
        return ""
    parts = [folder for folder in raw.iterdir() if parse_part(folder.name) and folder.is_dir()]
    images = sum(begins_as_image(file) for folder in (raw, *parts) for file in folder.iterdir())
    if not images:
        return ""
    within = f", in {', '.join(sorted(folder.name for folder in parts))}," if parts else ","
    lie = "1 image lies" if images == 1 else f"{images} images lie"
    predict = f"`tumorboard predict {shlex.quote(str(raw))}`"
    return (
        f"{lie} directly in '{raw}'{within} without a class: sort them into one folder per class, or list them in "
        f"a table labels.csv; a trained panel classifies them without labels: {predict}"
    )


def describe_containers(raw: Path, files: Sequence[str]) -> list[str]:
    """Returns what to do with the archives, MedMNIST files and other containers of images in a folder.

    Args:
        raw: the folder.
        files: the POSIX paths of its files.

    >>> describe_containers(Path("raw"), ["tumor.zip", "v.nii.gz", "set/bloodmnist.npz"])
    ['Unpack tumor.zip', 'For the images in set/bloodmnist.npz, write data.raw: raw/set/bloodmnist.npz']
    """
    lower = {file: file.lower() for file in files}
    archives = [file for file in files if lower[file].endswith(ARCHIVES) and not lower[file].endswith(_NOT_UNPACKED)]
    more = f" and {len(archives) - SHOWN} more" if len(archives) > SHOWN else ""
    sentences = [f"Unpack {', '.join(map(printable, archives[:SHOWN]))}{more}"] if archives else []
    npz = [file for file in files if lower[file].endswith(".npz")]
    if 0 < len(npz) <= SHOWN:  # more are no files of MedMNIST's form, which hold all images
        sentences.append(f"For the images in {printable(npz[0])}, write data.raw: {printable(str(raw / npz[0]))}")
    if container := next((file for file in files if lower[file].endswith(CONTAINERS)), None):
        sentences.append(f"{printable(container)} is a container of data, {ABOUT_CONTAINERS}")
    return sentences


def begins_as_image(file: Path) -> bool:
    """Returns whether a file begins as an image of a format that is read; hidden files do not count."""
    try:
        if file.name.startswith(".") or not file.is_file():
            return False
        with file.open("rb") as stream:
            return is_readable(stream.read(HEAD_BYTES))
    except OSError:
        return False
