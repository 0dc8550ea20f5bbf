"""Checks that a command can make a new folder, before it computes anything."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tumorboard.base.errors import InputError, printable


def check_empty(folder: Path) -> None:
    """Raises InputError unless a folder is empty or is not there."""
    name = printable(str(folder))
    try:
        if folder.is_symlink() and not folder.exists():
            raise InputError(f"{name}: is a link to a place that is not there: name a new folder")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{name}: is a file: name a new folder")
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{name}: is not empty: name a new folder, nothing was written")
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}: name another folder") from None


def check_can_be_made(folder: Path) -> None:
    """Raises InputError unless a folder and a file inside it can be made.

    Permissions do not show it, for example below /proc. So the missing folders are created and removed again.
    """
    made: list[Path] = []
    try:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            if not place.exists():  # a/.. exists as soon as a does
                place.mkdir()
                made.append(place)
        with TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{printable(str(folder))}: cannot be made: {error.strerror}: name another folder") from None
    finally:
        for place in reversed(made):
            with suppress(OSError):  # another process has put a file there
                place.rmdir()
