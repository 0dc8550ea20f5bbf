"""Which images there are: a folder a class, or a table of paths and labels."""

import csv
import difflib
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pandas as pd

from tumorboard.errors import InputError
from tumorboard.params import Data

COLUMNS = ("path", "label", "group", "split", "fold")
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
LAYOUT = (
    "data.raw must hold a folder per class with its images, if need be below Training and Testing (or train, val and "
    "test), or a table labels.csv with the columns path and label"
)

Row = dict[str, str]


def list_images(raw: Path, data: Data) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the files that are to be images, sorted by path, and those that are left out.

    The first table has the columns path (relative to `raw`, POSIX), label, group, split ('' where none is given,
    'train', 'val' or 'test') and fold (Int64, missing where none is given); the second has path and reason. Nothing is
    opened but the table: whether a file is an image shows when it is decoded. Raises InputError.
    """
    if not raw.is_dir():
        raise InputError(f"data.raw: there is no folder '{raw}'; {LAYOUT}")
    table = raw / ("labels.csv" if data.table is None else _check_path(data.table, raw.resolve(), "data.table"))
    files, ignored = _walk(raw)
    if table.is_file():
        rows = _from_table(table, raw)
        listed = {row["path"] for row in rows} | {table.relative_to(raw).as_posix()}
        ignored = {path: reason for path, reason in ignored.items() if path not in listed}
        ignored |= dict.fromkeys(set(files) - listed, "not in the table")
    else:
        rows = _from_folders(files, raw)
        ignored |= dict.fromkeys(set(files) - {row["path"] for row in rows}, "outside the class folders")
    _check_classes(rows, table if table.is_file() else raw)
    pattern = _compile(data.group_pattern)
    for row in rows:
        row["group"] = row["group"] or _find_group(row["path"], pattern)
    rows.sort(key=lambda row: row["path"])
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    frame["fold"] = pd.array([int(text) if text else None for text in frame["fold"]], dtype="Int64")
    return frame, pd.DataFrame(sorted(ignored.items()), columns=["path", "reason"], dtype=object)


def _walk(raw: Path) -> tuple[list[str], dict[str, str]]:
    """All files below a folder, links followed, as POSIX paths, and beside them the ignored ones with the reason."""

    def fail(error: OSError) -> NoReturn:
        raise InputError(f"data.raw: folder {error.filename!r} cannot be read: {error.strerror}")

    files: list[str] = []
    ignored: dict[str, str] = {}
    seen: dict[Path, str] = {}
    for folder, folders, names in os.walk(raw, onerror=fail, followlinks=True):
        first = seen.setdefault(Path(folder).resolve(), folder)
        if first != folder:
            raise InputError(f"data.raw: {first!r} and {folder!r} are the same folder, by a link: remove one of them")
        below = Path(folder).relative_to(raw)
        for name in [*folders, *names]:
            path = (below / name).as_posix()
            if "\r" in name:
                raise InputError(
                    f"data.raw: {path!r} has a carriage return in its name; tables can't keep it: rename it"
                )
            if name.startswith("."):
                ignored[path] = "hidden"
            elif name.lower() in SYSTEM_FILES:
                ignored[path] = "system file"
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [path for name in names if (path := (below / name).as_posix()) not in ignored]
    return sorted(files), ignored


def _from_folders(files: list[str], raw: Path) -> list[Row]:
    """Rows of the files that lie in a class folder; part folders are recognised by their names."""
    tops = {path.split("/")[0] for path in files if "/" in path}
    parts = {top for top in tops if top.lower() in PARTS}
    if parts and parts != tops:
        raise InputError(
            f"data.raw: '{raw}' holds part folders ({_quote(parts)}) beside others ({_quote(tops - parts)}): "
            "either all its folders are parts, named Training and Testing or train, val and test, or none is"
        )
    rows = []
    for path in files:
        part, steps = (PARTS[path.split("/")[0].lower()], path.split("/")[1:]) if parts else ("", path.split("/"))
        if len(steps) > 1:
            _check_text("label", steps[0], f"data.raw: folder of {path!r}")
            rows.append({"path": path, "label": steps[0], "group": "", "split": part, "fold": ""})
    return rows


def _from_table(table: Path, raw: Path) -> list[Row]:
    """Rows as the table gives them, every value as it is written; raises InputError with the line."""
    root = raw.resolve()
    rows: list[Row] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, values in _read_table(table):
        row = {column: values.get(column, "") for column in COLUMNS}
        where = f"{table}: line {line}"
        row["path"] = _check_path(row["path"], root, where)
        _check_text("label", row["label"], where)
        if "group" in values:
            _check_text("group", row["group"], where)
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
    """The rows of a CSV file, each with its line number; the delimiter is a comma or a semicolon."""
    text = table.read_bytes().decode("utf-8-sig", "surrogateescape")
    head = text.split("\n", 1)[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_header(header, table)
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise InputError(f"{table}: line {line}: {len(values)} values for {len(header)} columns")
            if values:
                yield line, dict(zip(header, values, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{table}: line {reader.line_num}: not readable as CSV: {error}") from None


def _check_header(header: list[str], table: Path) -> None:
    for column in COLUMNS:
        near = difflib.get_close_matches(column, [name.strip().lower() for name in header], n=1, cutoff=0.85)
        meant = [name for name in header if name.strip().lower() in near]
        if header.count(column) > 1:
            raise InputError(f"{table}: line 1: the column '{column}' is there twice")
        if column not in header and (meant or column in ("path", "label")):
            loose = meant or difflib.get_close_matches(column, header, n=1, cutoff=0)
            raise InputError(
                f"{table}: line 1: no column '{column}'; path and label are needed, group, split and fold may follow; "
                + (f"nearest: {loose[0]!r}" if loose else "the file is empty")
            )


def _check_path(path: str, root: Path, where: str) -> str:
    """The path in its shortest form, if it names a file below `root`."""
    if not path:
        raise InputError(f"{where}: path is empty")
    if posixpath.isabs(path):
        raise InputError(f"{where}: path {path!r} is absolute; give it relative to data.raw")
    try:
        target = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        hint = "; separate folders by '/'" if "\\" in path else ""
        raise InputError(f"{where}: there is no file {path!r} below data.raw{hint}") from None
    if not target.is_relative_to(root):
        raise InputError(f"{where}: path {path!r} leads out of data.raw (by '..' or a link)")
    if target.is_dir():
        raise InputError(f"{where}: path {path!r} is a folder, not a file")
    return posixpath.normpath(path)


def _check_text(column: str, text: str, where: str) -> None:
    if not text:
        raise InputError(f"{where}: {column} is empty")
    if text != text.strip():
        raise InputError(f"{where}: {column} {text!r} has white space at an end: remove it")


def _check_classes(rows: list[Row], where: Path) -> None:
    labels = {row["label"] for row in rows}
    if not rows:
        raise InputError(f"data.raw: no images found in '{where}'; {LAYOUT}")
    if len(labels) < 2:
        raise InputError(f"data.raw: only one class, {_quote(labels)}, found in '{where}', two are needed; {LAYOUT}")


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.group_pattern: '{pattern}' is no regular expression: {error}") from None
    if compiled.groups == 0:
        raise InputError(f"data.group_pattern: '{pattern}' has no group: put the patient's part in parentheses")
    return compiled


def _find_group(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return path
    found = pattern.search(path)
    if found is None or not found[1]:
        raise InputError(
            f"data.group_pattern: '{pattern.pattern}' finds no group in the path {path!r}; "
            "mend the pattern, or set it to null where every image is its own group"
        )
    return found[1]


def _quote(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
