"""The option --add of `tumorboard new`: a copy of the images inside the study, for DVC to keep."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.disk import GIB, existing_folder
from tumorboard.base.errors import InputError, printable
from tumorboard.base.progress import tracked

DATASETS = "datasets"  # folder inside the study
OTHERWISE = "or leave --add out, which names the images where they are"
# Names that DVC or git interpret in any folder.
_TAKEN = re.compile(r"\.(git|hg|dvc|gitignore|dvcignore)|dvc\.(yaml|lock)|.*\.dvc")


class Copy(NamedTuple):
    """The files that are to be copied into a study."""

    source: Path  # absolute; a folder or a file
    target: Path  # destination relative to the study
    files: list[Path]  # relative to the folder that has `source`

    @property
    def note(self) -> str:
        """A note for the user about the copy."""
        return (
            f"{printable(self.target.as_posix())} is a copy, {len(self.files)} files, which DVC keeps. `dvc push` "
            "would upload them; `dvc push train evaluate ensemble` does not."
        )


def plan_copy(data: Path, folder: Path, table: str | None) -> Copy:
    """Lists the files that are to be copied, before anything is written.

    Args:
        data: folder of the images, or MedMNIST's .npz file.
        folder: folder of the new study.
        table: label table relative to `data`.

    Raises:
        InputError: DVC could not keep a file, the table lies outside of `data`, or the disk lacks the space.
    """
    source = data.resolve()
    if table and not (source / table).resolve().is_relative_to(source):
        raise InputError(f"--add: the table {printable(table)} lies outside {printable(str(data))}: put it there")
    files = [Path(source.name), *(_paths_below(source) if source.is_dir() else [])]
    size, kept = 0, []
    for file in files:
        _check_name(file, source)
        if (source.parent / file).is_file():
            size += (source.parent / file).stat().st_size
            kept.append(file)
    free = shutil.disk_usage(existing_folder(folder.absolute())).free
    if size > free:
        raise InputError(
            f"--add: {printable(str(data))} has {size / GIB:.2f} GiB, and {free / GIB:.2f} are free on the disk of "
            f"{printable(str(folder))}: free some space, {OTHERWISE}"
        )
    return Copy(source, Path(DATASETS, source.name), kept)


def _paths_below(source: Path) -> Iterator[Path]:
    """Yields files and folders below a folder, relative to that folder's parent."""

    def refuse(error: OSError) -> None:
        raise InputError(f"--add: {printable(str(error.filename))}: cannot be read: {error.strerror}, {OTHERWISE}")

    for place, folders, names in os.walk(source, onerror=refuse):
        for name in sorted([*folders, *names]):
            yield Path(place, name).relative_to(source.parent)


def _check_name(file: Path, source: Path) -> None:
    """Raises InputError where DVC would not keep a file or folder unchanged."""
    name, path = printable(file.as_posix()), source.parent / file
    if _TAKEN.fullmatch(file.name):
        raise InputError(f"--add: {name}: the name has a meaning to DVC or git: rename it, {OTHERWISE}")
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise InputError(f"--add: {name}: is a link or no ordinary file: put the file itself there, {OTHERWISE}")


def copy_data(copy: Copy, folder: Path) -> None:
    """Copies the files into the folder of a study; removes them again after a failure.

    Raises:
        InputError: a file cannot be read or written.
    """
    try:
        for file in tracked(copy.files, "copy", "file"):
            target = folder / DATASETS / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy.source.parent / file, target)
    except BaseException as error:
        shutil.rmtree(folder / DATASETS, ignore_errors=True)
        if isinstance(error, OSError):
            place = printable(str(error.filename or copy.source))
            raise InputError(f"--add: {place}: {error.strerror}; nothing was kept: mend it, {OTHERWISE}") from None
        raise
