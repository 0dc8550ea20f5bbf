"""Recognizes the tables of published sets beside their images, and proposes the lines for params.yaml to use them."""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from tumorboard.base.data_params import Data
from tumorboard.base.errors import printable
from tumorboard.data.label_columns import (
    cells_of,
    count_blank,
    find_patient_column,
    is_shared,
    named_column,
    propose_label,
)
from tumorboard.data.label_table import SPLIT_NAMES, misspelled_columns
from tumorboard.data.table_text import SAVE_AS_CSV, WORKBOOKS, read_table_text
from tumorboard.data.tables_beside import MAX_DEPTH, TABLE_ENDINGS, Table, find_tables

FILL_BLANK = "give each of them, in a copy of the table, its patient or a value of its own such as the path"
_SPLITS = ("split", "set", "subset", "partition", "datasettype", "phase", "part")
_PATIENT_IN_PATH = re.compile(r"(?<![a-z])((?:patient|subject|participant|case)[ _-]?\d+)", re.IGNORECASE)


def propose_table(raw: Path, files: Sequence[str], table: Path | None = None) -> str:
    """Returns the lines for params.yaml by which a table that names the files can be used, or ''.

    Args:
        raw: the folder of the images.
        files: the POSIX paths of its files.
        table: the table to use; None: one that lies in the folder.
    """
    if table is not None and (first := _header_file(table, files)):
        return f"\nIts first line names the file {first!r}: write a line with the names of the columns above it"
    tables = list(find_tables(raw, files, table))
    if tables:
        best = max(tables, key=lambda each: (bool(propose_lines(raw, each)[0]), len(set(each.paths))))
        others = [note for each in tables if each is not best for note in _describe_other(raw, each, best)]
        return "\n" + "\n".join([describe_table(raw, best), *others])
    return "".join(f"\n{sentence}" for sentence in describe_workbooks(files))


def _header_file(table: Path, files: Sequence[str]) -> str:
    """Returns the cell of a table's first line that names a file, so that it is no header; '' if none does."""
    names = {posixpath.basename(file) for file in files}
    return next((cell for cell in read_table_text(table).header if posixpath.basename(cell) in names), "")


def describe_missing(raw: Path, files: Sequence[str], table: Path, data: Data) -> str:
    """Returns how a table's paths become those of the files, or how many of its rows name none; '' if unknown.

    Args:
        raw: the folder of the images.
        files: the POSIX paths of its files.
        table: the table that is used.
        data: the section `data` of params.yaml.
    """
    matched = next(find_tables(raw, files, table), None)
    if matched is None:
        return ""
    if (matched.prefix, matched.extension) != (data.prefix or "", data.extension or ""):
        return f"\n{describe_table(raw, matched)}"
    rows, missing = len(matched.paths), sum(not path for path in matched.paths)
    return f"\n{missing} of the table's {rows} rows name no file here: correct or remove them in a copy of it"


def propose_table_above(raw: Path, files: Sequence[str]) -> str:
    """Returns the lines for params.yaml by which a table that lies beside the raw folder can be used, or ''."""
    raw = raw.absolute()
    try:
        beside = sorted(file.name for file in raw.parent.iterdir() if file.suffix.lower() in TABLE_ENDINGS)
    except OSError:
        return ""
    inside = [f"{raw.name}/{file}" for file in files]
    tables = find_tables(raw.parent, [*beside, *inside])
    above = next(
        (table for table in tables if "/" not in table.file.name and propose_lines(raw.parent, table)[0]), None
    )
    return "" if above is None else f"\n{describe_table(raw.parent, above)}"


def describe_workbooks(files: Iterable[str]) -> list[str]:
    """Returns a sentence about the first spreadsheet's workbook among files, [] if there is none."""
    workbooks = (file for file in files if file.lower().endswith(WORKBOOKS) and file.count("/") <= MAX_DEPTH)
    first = next(workbooks, None)
    return (
        [] if first is None else [f"{printable(first)} is a spreadsheet's workbook, which is not read: {SAVE_AS_CSV}"]
    )


def describe_table(raw: Path, table: Table) -> str:
    """Returns what a table is, and the lines for params.yaml to use it."""
    lines, notes = propose_lines(raw, table)
    name = printable(table.file.name)
    if not lines:
        return f"{name} names the files, but {notes[0]}"
    return "\n".join([f"{name} names the files. To use it, write in params.yaml:", lines.rstrip(), *notes])


def _describe_other(raw: Path, other: Table, best: Table) -> list[str]:
    """Returns what a further table has that the proposed one lacks: other files, patients, other classes."""
    name, used = printable(other.file.name), printable(best.file.name)
    further = len(set(other.paths) - set(best.paths) - {""})
    if further and list(other.columns) == list(best.columns):
        return [f"{name} has the same columns and names {further} other files: join both to one table to use all."]
    patients = find_patient_column(other.columns, {other.path})
    if patients and not find_patient_column(best.columns, {best.path}):
        return [
            f"{name} names patients in its column {patients!r}: add that column to {used} (and `group: {patients}` to "
            "data.columns), so that no patient is on two sides of the split."
        ]
    if propose_lines(raw, other)[0]:
        return [f"{name} names the files and has classes too: choose one of the tables."]
    return []


def propose_lines(raw: Path, table: Table) -> tuple[str, list[str]]:
    """Returns the lines for params.yaml by which a table can be used, and sentences about them.

    The lines are '' if there are none; the first sentence then has the reason.
    """
    if table.hindrance:
        return "", [table.hindrance]
    if table.prefix is None:
        cells = zip(table.columns[table.path], table.paths, strict=True)
        cell, path = next((cell, path) for cell, path in cells if path)
        reason = f"by other names or folders than there are: {cell!r} is {path!r} here; correct them in a copy of it"
        return "", [reason]
    label, classes, notes = propose_label(table)
    if not label:
        return "", ["has no column with classes"]
    if table.ambiguous and _have_several(table.paths, cells_of(table, label)):
        one, other = map(printable, table.ambiguous)
        return "", [
            f"by names that several files have, such as {one} and {other}: write the folder in front, in a copy"
        ]
    columns: dict[str, object] = {"path": table.path, "label": label}
    if group := find_patient_column(table.columns, {table.path}):
        columns["group"] = group
    if split := named_column(
        table.columns, _SPLITS, lambda cells: {cell.lower() for cell in cells} <= set(SPLIT_NAMES)
    ):
        columns["split"] = split
    columns |= _misspelled(table, columns)
    table_name = table.file.relative_to(raw).as_posix() if table.file.is_relative_to(raw) else str(table.file)
    data: dict[str, object] = {"raw": str(raw), "table": table_name}
    if own := {key: name for key, name in columns.items() if key != name}:
        data["columns"] = own
    data |= {key: value for key, value in (("prefix", table.prefix), ("extension", table.extension)) if value}
    if classes:
        data["classes"] = classes
    if "group" not in columns:
        in_path = all(_PATIENT_IN_PATH.search(path) for path in table.paths if path)
        data["group_pattern"] = _PATIENT_IN_PATH.pattern.replace("(?<![a-z])", "(?i)", 1) if in_path else None
    if blank := count_blank(table.columns.get(group, ())):
        notes.append(f"{group!r} is empty in {blank} of its {len(table.paths)} rows: {FILL_BLANK}.")
    missing = sum(not path for path in table.paths)
    if missing:
        notes.append(
            f"{missing} of its {len(table.paths)} rows name no file here: remove these rows from a copy of it."
        )
    text = yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=1000)
    return text.replace(": null\n", ":\n"), notes


def _misspelled(table: Table, used: Mapping[str, object]) -> dict[str, str | None]:
    """Returns how to name the columns that are nearly called group, split or fold, so that reading does not stop there.

    None, "there is no such column", stands where its values do not fit.
    """
    fits: dict[str, Callable[[Sequence[str]], bool]] = {
        "group": lambda cells: all(cells) and is_shared(cells),
        "split": lambda cells: {cell.lower() for cell in cells} <= set(SPLIT_NAMES),
        "fold": lambda cells: all(re.fullmatch("[0-9]+", cell) for cell in cells),
    }
    named: dict[str, str | None] = {}
    for key, is_fitting in fits.items():
        near = misspelled_columns(key, [name for name in table.columns if name not in used.values()])
        if key not in used and near and key not in table.columns:
            named[key] = near[0] if is_fitting(table.columns[near[0]]) else None
    return named


def _have_several(keys: Sequence[str], values: Sequence[object]) -> bool:
    """Returns whether a key that is not empty has several values."""
    pairs = {(key, value) for key, value in zip(keys, values, strict=True) if key}
    return len(pairs) > len({key for key, _ in pairs})
