"""Finds the files that the paths of a label table name, or suggests the nearest one."""

import posixpath
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.data.links import ALLOWED_BY, LinkRule
from tumorboard.data.look_alikes import describe_difference, look_of
from tumorboard.data.spreadsheet_values import explain_missing_name


class MissingFileError(InputError):
    """A path of a table names no file."""


class Places:
    """Finds the files that a table names.

    Args:
        prefix: as `data.prefix`, '' for none.
        extension: as `data.extension`, '' for none.
        rule: where the raw folder's links may lead.
        files: all files of the raw folder; used for a prefix with `*`.
    """

    def __init__(self, prefix: str, extension: str, *, rule: LinkRule, files: Sequence[str]) -> None:
        self.rule = rule
        self.extension = extension
        self.prefix = prefix
        if self.prefix and not self.prefix.endswith("/") and (rule.root / self.prefix).is_dir():
            self.prefix += "/"
        self.pattern = re.compile(".*".join(map(re.escape, self.prefix.split("*"))), re.DOTALL)
        self.files_by_name: dict[str, list[str]] = {}
        for file in files if "*" in self.prefix else ():
            self.files_by_name.setdefault(posixpath.basename(file), []).append(file)

    def find(self, cell: str, where: str) -> str:
        """Returns the POSIX path of the file that a cell names; raises InputError if there is none, or several."""
        if not cell:
            raise InputError(f"{where}: path is empty")
        name = cell + self.extension
        if "*" in self.prefix:
            return self._find_by_pattern(name, where)
        path = self.prefix + name
        if self.prefix and name.startswith(self.prefix) and not (self.rule.root / path).exists():
            path = name.removeprefix(self.prefix)
        return check_path(path, self.rule.root, where, self.rule)

    def _find_by_pattern(self, name: str, where: str) -> str:
        matching = [
            file
            for file in self.files_by_name.get(posixpath.basename(name), [])
            if file.endswith(name) and self.pattern.fullmatch(file.removesuffix(name))
        ]
        if len(matching) != 1:
            several = f": {matching[0]!r} and {matching[1]!r}" if matching else ""
            raise InputError(
                f"{where}: {len(matching) or 'no'} files in data.raw are {self.prefix + name!r} (with data.prefix and "
                f"data.extension){several}; exactly one is expected"
            )
        return check_path(matching[0], self.rule.root, where, self.rule)


def check_path(path: str, root: Path, where: str, rule: LinkRule | None = None) -> str:
    """Returns the shortest POSIX form of a path to a file in `root`.

    Args:
        path: relative to `root`.
        root: a resolved folder.
        where: the file and line or the parameter that gives the path; begins the error message.
        rule: where links may lead; None: only inside `root`.

    Raises:
        InputError: `path` is empty, absolute, no file, or outside `root`.
    """
    if not path:
        raise InputError(f"{where}: path is empty")
    if posixpath.isabs(path) or re.match(r"[A-Za-z]:[\\/]|\\\\", path):  # C:\, and \\server of Windows
        raise MissingFileError(f"{where}: path {path!r} is absolute; write it relative to data.raw")
    try:
        target = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        hint = ""
        if "\\" in path:
            hint = "; separate folders by '/'"
        elif has_invalid_utf8(path):
            hint = "; its bytes are not UTF-8"
        elif path != path.strip(" '\""):
            hint = "; remove the spaces or quotes at its ends"
        else:
            hint = _explain_missing(root / path)
        raise MissingFileError(f"{where}: there is no file {path!r} in data.raw{hint}") from None
    shortest = posixpath.normpath(path)
    if shortest.startswith("../"):
        raise InputError(f"{where}: path {path!r} leads out of data.raw by '..'")
    if not target.is_relative_to(root) and not (rule and rule.allows(target)):
        raise InputError(f"{where}: path {path!r} leads out of data.raw by a link; {ALLOWED_BY}")
    if target.is_dir():
        raise InputError(f"{where}: path {path!r} is a folder, not a file")
    if shortest != path and (root / shortest).resolve() != target:
        raise InputError(f"{where}: path {path!r} goes through a link and back by '..': write it without '..'")
    return shortest


def _explain_missing(path: Path) -> str:
    """Returns a clause about a missing file: the one beside it with nearly its name, or what changed it; or ''."""

    def bare(name: str) -> str:
        return posixpath.splitext(look_of(name).casefold())[0]

    names: list[str] = []
    with suppress(OSError, ValueError):
        names = sorted(file.name for file in path.parent.iterdir())
    near = next((name for name in names if bare(name) == bare(path.name)), "")
    if not near:
        return explain_missing_name(path.name, names)
    difference = describe_difference(posixpath.splitext(path.name)[0], posixpath.splitext(near)[0])
    is_same = unicodedata.normalize("NFC", near) in path.name  # then only escapes show the difference
    return f"; nearest: {ascii(near) if is_same else repr(near)}" + (
        f", which looks the same, but the table has {difference}" if difference else ""
    )


def has_invalid_utf8(text: str) -> bool:
    """Returns whether a text has bytes that are not UTF-8, which Python keeps as surrogates."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)
