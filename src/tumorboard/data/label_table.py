"""Reads a label table (CSV): keeps every value as it is written and reports errors with their line number."""

import codecs
import csv
import difflib
import io
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from tumorboard.base.errors import InputError

LABEL_COLUMNS = ("path", "label", "group", "split", "fold")

# Accepted names of a part, in a table's column `split` or as a folder's name, and the split that each one means.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

Row: TypeAlias = dict[str, str]  # one row of a table: the text of each column


def read_label_table(table: Path, raw: Path) -> list[Row]:
    r"""Reads a label table in UTF-8 or UTF-16, with columns separated by commas, semicolons or tabs.

    Args:
        table: the CSV file; path and label are required columns, group, split and fold optional ones.
        raw: the folder that the paths are relative to. Every path must name a file in it.

    Returns:
        One row per image with the columns LABEL_COLUMNS: path in its shortest POSIX form; split as 'train', 'val' or
        'test'; the other values as they are written; '' where a column is missing.

    Raises:
        InputError: the table cannot be read, or a line is wrong; the message names the line.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     raw = Path(folder)
    ...     (raw / "1.png").touch()
    ...     _ = (raw / "labels.csv").write_text("path;label;split\n./1.png;001;Training\n")
    ...     read_label_table(raw / "labels.csv", raw)
    [{'path': '1.png', 'label': '001', 'group': '', 'split': 'train', 'fold': ''}]
    """
    root = raw.resolve()
    rows: list[Row] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, values in _read_lines(table):
        row = {column: values.get(column, "") for column in LABEL_COLUMNS}
        where = f"{table}: line {line}"
        row["path"] = check_path(row["path"], root, where)
        check_text("label", row["label"], where)
        if "group" in values:
            check_text("group", row["group"], where)
        if row["path"] in seen:
            first, label = seen[row["path"]]
            raise InputError(
                f"{table}: lines {first} and {line} have the same path {row['path']!r}, "
                f"labelled '{label}' and '{row['label']}': keep one of them"
            )
        seen[row["path"]] = line, row["label"]
        if row["split"] and row["split"].lower() not in SPLIT_NAMES:
            raise InputError(
                f"{where}: split is {row['split']!r}, expected {', '.join(SPLIT_NAMES)}, or an empty value in all lines"
            )
        row["split"] = SPLIT_NAMES[row["split"].lower()] if row["split"] else ""
        if rows and bool(row["split"]) != bool(rows[0]["split"]):
            raise InputError(f"{where}: split is filled in some lines and empty in others: fill all or none")
        if row["fold"] and (not re.fullmatch("[0-9]+", row["fold"]) or row["split"] in ("val", "test")):
            raise InputError(
                f"{where}: fold is '{row['fold']}' and split '{row['split']}', expected a whole number from 0 in "
                "training rows, and an empty value in the others"
            )
        rows.append(row)
    return rows


def _read_lines(table: Path) -> Iterator[tuple[int, Row]]:
    """Yields the line number and the values of each row that is not empty."""
    text = _decode(table)
    start, named = _find_header(text)
    before = len(re.findall(r"\r\n|\r|\n", text[:start]))
    delimiter = named or _guess_delimiter(re.split(r"[\r\n]", text[start:], maxsplit=1)[0])
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_header(header, f"{table}: line {before + 1}")
        line = before + reader.line_num + 1
        for values in reader:
            empty = not any(value.strip() for value in values)
            if not empty and len(values) != len(header):
                raise InputError(f"{table}: line {line}: {len(values)} values for {len(header)} columns")
            if not empty:
                yield line, dict(zip(header, values, strict=True))
            line = before + reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{table}: line {before + reader.line_num}: not readable as CSV: {error}") from None


def _decode(table: Path) -> str:
    """Returns the text of a table in UTF-8, or in UTF-16 with a byte-order mark.

    Bytes that are not UTF-8 become surrogates, because a file's name may contain them; `check_text` refuses them in
    labels and groups.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError as error:
            line = content[: error.start].decode("utf-16", "ignore").count("\n") + 1
            raise InputError(
                f"{table}: line {line}: not readable as UTF-16: {error.reason}; save it as UTF-8"
            ) from None
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(
            f"{table}: line {line}: a zero byte, as in UTF-16 or UTF-32 without a byte-order mark: save it as UTF-8"
        )
    return text


def _find_header(text: str) -> tuple[int, str]:
    """Returns the offset of the header line, and the delimiter if Excel's line `sep=` names one before it, else ''."""
    content = len(text) - len(text.lstrip(' \t\r\n,;"'))
    start = max(text.rfind(end, 0, content) for end in "\r\n") + 1
    named = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE).match(text, start)
    return (named.end(), named[1]) if named else (start, "")


def _guess_delimiter(header: str) -> str:
    """Returns the delimiter, comma, semicolon or tab, that splits the header line into the most columns."""
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _check_header(header: list[str], where: str) -> None:
    """Raises InputError if a required column is missing, a column is misspelled, or one is there twice."""
    for column in LABEL_COLUMNS:
        near = difflib.get_close_matches(column, [name.strip().lower() for name in header], n=1, cutoff=0.85)
        misspelled = [name for name in header if name.strip().lower() in near]
        same = [name for name in header if name.strip().casefold() == column]
        if len(same) > 1:
            raise InputError(f"{where}: the column '{column}' is there twice: {', '.join(map(repr, same))}")
        if column not in header and (misspelled or column in ("path", "label")):
            nearest = misspelled or difflib.get_close_matches(column, header, n=1, cutoff=0)
            raise InputError(
                f"{where}: no column '{column}'; path and label are required, group, split and fold are optional; "
                + (f"nearest: {nearest[0]!r}" if nearest else "the file is empty")
            )


def check_path(path: str, root: Path, where: str) -> str:
    """Returns the shortest POSIX form of a path to a file in `root`.

    Args:
        path: relative to `root`.
        root: a resolved folder.
        where: the file and line or the parameter that gives the path; begins the error message.

    Raises:
        InputError: `path` is empty, absolute, no file, or outside `root`.
    """
    if not path:
        raise InputError(f"{where}: path is empty")
    if posixpath.isabs(path):
        raise InputError(f"{where}: path {path!r} is absolute; write it relative to data.raw")
    try:
        target = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        hint = ""
        if "\\" in path:
            hint = "; separate folders by '/'"
        elif _has_invalid_utf8(path):
            hint = "; its bytes are not UTF-8"
        raise InputError(f"{where}: there is no file {path!r} in data.raw{hint}") from None
    if not target.is_relative_to(root):
        raise InputError(f"{where}: path {path!r} leads out of data.raw (by '..' or a link)")
    if target.is_dir():
        raise InputError(f"{where}: path {path!r} is a folder, not a file")
    shortest = posixpath.normpath(path)
    if shortest != path and (root / shortest).resolve() != target:
        raise InputError(f"{where}: path {path!r} goes through a link and back by '..': write it without '..'")
    return shortest


def check_text(name: str, text: str, where: str) -> None:
    """Checks a label or a group.

    Args:
        name: of the value, such as 'label', for the message.
        text: the value.
        where: the file and line, or the folder, that gives the value; begins the error message.

    Raises:
        InputError: `text` is empty, starts or ends with white space, is not UTF-8 or has control characters.
    """
    if not text:
        raise InputError(f"{where}: {name} is empty")
    if text != text.strip():
        raise InputError(f"{where}: {name} {text!r} starts or ends with white space: remove it")
    if _has_invalid_utf8(text):
        raise InputError(f"{where}: {name} {text!r} has bytes that are not UTF-8: save the table (or name) as UTF-8")
    if not text.isprintable():
        raise InputError(f"{where}: {name} {text!r} has a line break or another control character: remove it")


def _has_invalid_utf8(text: str) -> bool:
    """Returns whether a text has bytes that are not UTF-8, which Python keeps as surrogates."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)
