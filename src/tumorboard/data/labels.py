"""A table of labels: every value as it is written, or an error that names the line."""

import codecs
import csv
import difflib
import io
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from tumorboard.errors import InputError

COLUMNS = ("path", "label", "group", "split", "fold")
# What parts are called, and which of the three each is.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

Row = dict[str, str]


def read_labels(table: Path, raw: Path) -> list[Row]:
    """Rows as the table gives them, every value as it is written; raises InputError with the line."""
    root = raw.resolve()
    rows: list[Row] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, values in _read_table(table):
        row = {column: values.get(column, "") for column in COLUMNS}
        where = f"{table}: line {line}"
        row["path"] = check_path(row["path"], root, where)
        check_text("label", row["label"], where)
        if "group" in values:
            check_text("group", row["group"], where)
        if row["path"] in seen:
            first, label = seen[row["path"]]
            raise InputError(
                f"{table}: lines {first} and {line}: the same path {row['path']!r} twice, "
                f"labelled '{label}' and '{row['label']}': keep one of them"
            )
        seen[row["path"]] = line, row["label"]
        if row["split"] and row["split"].lower() not in PARTS:
            raise InputError(
                f"{where}: split is {row['split']!r}, expected {', '.join(PARTS)}, or nothing in all lines"
            )
        row["split"] = PARTS[row["split"].lower()] if row["split"] else ""
        if rows and bool(row["split"]) != bool(rows[0]["split"]):
            raise InputError(f"{where}: split is given in some lines and empty in others: fill all or none")
        if row["fold"] and (not re.fullmatch("[0-9]+", row["fold"]) or row["split"] in ("val", "test")):
            raise InputError(
                f"{where}: fold is '{row['fold']}' of split '{row['split']}', expected a whole number from 0, "
                "only in training rows, or nothing"
            )
        rows.append(row)
    return rows


def _read_table(table: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a CSV file, each with its line number; commas, semicolons or tabs part the columns."""
    text = _decode(table)
    start, named = _find_header(text)
    before = len(re.findall(r"\r\n|\r|\n", text[:start]))
    delimiter = named or _find_delimiter(re.split(r"[\r\n]", text[start:], maxsplit=1)[0])
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
    """The text of a table in UTF-8, or in UTF-16 with its byte-order mark; raises InputError.

    Bytes that are no UTF-8 stay as surrogates: a file's name may hold such; labels and groups are refused later.
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
        raise InputError(f"{table}: line {line}: a zero byte, as in UTF-16 or UTF-32 without a mark: save it as UTF-8")
    return text


def _find_header(text: str) -> tuple[int, str]:
    """Where the first row that is not empty begins; and the delimiter, where Excel's line sep= before it names one."""
    content = len(text) - len(text.lstrip(' \t\r\n,;"'))
    start = max(text.rfind(end, 0, content) for end in "\r\n") + 1
    named = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE).match(text, start)
    return (named.end(), named[1]) if named else (start, "")


def _find_delimiter(head: str) -> str:
    """The one of comma, semicolon and tab that cuts the header into the most columns."""
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([head], delimiter=delimiter), [])))


def _check_header(header: list[str], where: str) -> None:
    for column in COLUMNS:
        near = difflib.get_close_matches(column, [name.strip().lower() for name in header], n=1, cutoff=0.85)
        meant = [name for name in header if name.strip().lower() in near]
        same = [name for name in header if name.strip().casefold() == column]
        if len(same) > 1:
            raise InputError(f"{where}: the column '{column}' is there twice: {', '.join(map(repr, same))}")
        if column not in header and (meant or column in ("path", "label")):
            loose = meant or difflib.get_close_matches(column, header, n=1, cutoff=0)
            raise InputError(
                f"{where}: no column '{column}'; path and label are needed, group, split and fold may follow; "
                + (f"nearest: {loose[0]!r}" if loose else "the file is empty")
            )


def check_path(path: str, root: Path, where: str) -> str:
    """The path in its shortest form, if it names a file below `root`."""
    if not path:
        raise InputError(f"{where}: path is empty")
    if posixpath.isabs(path):
        raise InputError(f"{where}: path {path!r} is absolute; give it relative to data.raw")
    try:
        target = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        hint = "; separate folders by '/'" if "\\" in path else "; its bytes are no UTF-8" if _is_odd(path) else ""
        raise InputError(f"{where}: there is no file {path!r} below data.raw{hint}") from None
    if not target.is_relative_to(root):
        raise InputError(f"{where}: path {path!r} leads out of data.raw (by '..' or a link)")
    if target.is_dir():
        raise InputError(f"{where}: path {path!r} is a folder, not a file")
    shortest = posixpath.normpath(path)
    if shortest != path and (root / shortest).resolve() != target:
        raise InputError(f"{where}: path {path!r} goes through a link and back by '..': write it without")
    return shortest


def check_text(column: str, text: str, where: str) -> None:
    if not text:
        raise InputError(f"{where}: {column} is empty")
    if text != text.strip():
        raise InputError(f"{where}: {column} {text!r} has white space at an end: remove it")
    if _is_odd(text):
        raise InputError(f"{where}: {column} {text!r} has bytes that are no UTF-8: save the table (or name) as UTF-8")
    if not text.isprintable():
        raise InputError(f"{where}: {column} {text!r} has a line break or another control character: remove it")


def _is_odd(text: str) -> bool:
    """Whether a text has bytes that are no UTF-8, which Python keeps as surrogates."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)
