"""Reads a label table (CSV): keeps every value as it is written and reports errors with their line number."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tumorboard.base.data_params import Columns, Data
from tumorboard.base.errors import InputError
from tumorboard.data.attributes import choose_columns, plain_text
from tumorboard.data.links import LinkRule, link_rule
from tumorboard.data.look_alikes import describe_twin, look_of, name_character
from tumorboard.data.several_findings import refuse_several_findings
from tumorboard.data.spreadsheet_values import refuse_changed_groups, refuse_formula_error
from tumorboard.data.table_paths import Places, has_invalid_utf8
from tumorboard.data.table_text import TableText, describe_title, read_table_text

LABEL_COLUMNS = ("path", "label", "group", "split", "fold")
# Cells of one-hot columns, beside the numbers 1 and 0.
_YES = ("true", "yes", "y", "x")
_NO = ("false", "no", "n", "")

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


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """How a table names the images and their classes; the default is this project's own form."""

    columns: Columns = field(default_factory=Columns)
    prefix: str = ""  # as `data.prefix`
    extension: str = ""  # as `data.extension`
    values: Collection[str] | None = None  # labels to use, as the table has them; None: all

    @property
    def is_own(self) -> bool:
        """Whether the columns have this project's own names, so that a line that occurs twice is a mistake."""
        return not self.columns.model_fields_set


def table_form(data: Data) -> TableForm:
    """Returns the form of tables that the section `data` of params.yaml describes."""
    return TableForm(
        columns=data.columns or Columns(),
        prefix=data.prefix or "",
        extension=data.extension or "",
        values=None if data.classes is None else data.classes.keys(),
    )


class ColumnsError(InputError):
    """A table lacks a column that is needed."""


def read_label_table(
    table: Path, raw: Path, *, form: TableForm = TableForm(), rule: LinkRule | None = None, files: Sequence[str] = ()
) -> list[Row]:
    r"""Reads a label table in UTF-8 or UTF-16, with columns separated by commas, semicolons, tabs or |.

    Args:
        table: the CSV file; path and label are required columns, group, split and fold optional ones.
        raw: the folder that the paths are relative to. Every path must name a file in it.
        form: the names of the columns, and how paths and labels are written.
        rule: where links may lead; None: only inside `raw` and to DVC's cache.
        files: the POSIX paths of all files in `raw`; needed for a prefix with `*`.

    Returns:
        One row per image with the columns LABEL_COLUMNS: path in its shortest POSIX form; split as 'train', 'val' or
        'test'; the other values as they are written; '' where a column is missing. A label is not checked if
        `form.values` lacks it. The attributes follow, see `attributes.choose_columns`; '' where several lines of one
        image differ.

    Raises:
        ColumnsError: a column is missing.
        InputError: the table cannot be read, a line is wrong, or labels are several findings while `form.values` is
            None; the message names the line.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     raw = Path(folder)
    ...     (raw / "1.png").touch()
    ...     _ = (raw / "labels.csv").write_text("path;label;split\n./1.png;001;Training\n")
    ...     read_label_table(raw / "labels.csv", raw)
    [{'path': '1.png', 'label': '001', 'group': '', 'split': 'train', 'fold': ''}]
    """
    text = read_table_text(table)
    columns = _columns_of(table, text, form.columns)
    kept = choose_columns(text.header, {name for names in columns.values() for name in names}).names
    places = Places(form.prefix, form.extension, rule=rule or link_rule(raw), files=files)
    seen: dict[str, tuple[int, Row]] = {}
    for line, cells in text.rows:
        where = f"{table}: line {line}"
        row = _read_row(cells, columns, places, where)
        _check_values(row, columns, form, where)
        attributes = {kept[name]: plain_text(cells[name]) for name in kept}
        if row["path"] in seen:
            first, known = seen[row["path"]]
            if form.is_own or any(known[key] != row[key] for key in LABEL_COLUMNS):
                raise _repeated_path(table, {first: known, line: row})
            known |= {key: "" for key in attributes if known[key] != attributes[key]}  # for example, one line per box
            continue
        if seen and bool(row["split"]) != bool(next(iter(seen.values()))[1]["split"]):
            raise InputError(f"{where}: split is filled in some lines and empty in others: fill all or none")
        seen[row["path"]] = line, row | attributes
    refuse_changed_groups(table, [(line, row["group"]) for line, row in seen.values()])
    if form.values is None:
        refuse_several_findings(table, [(line, row["label"]) for line, row in seen.values()])
    return [row for _, row in seen.values()]


def _columns_of(table: Path, text: TableText, columns: Columns) -> dict[str, tuple[str, ...]]:
    """Returns what `_resolve_columns` does; raises InputError if a title or a comment stands above the header."""
    try:
        return _resolve_columns(text.header, columns, f"{table}: line {text.header_line}")
    except ColumnsError:
        needed = [columns.path or "path", columns.label or "label"]
        if title := describe_title(table, [name for names in needed for name in _as_names(names)]):
            raise InputError(f"{table}: {title}") from None
        raise


def _repeated_path(table: Path, rows: Mapping[int, Row]) -> InputError:
    """Returns the error for two lines, by their numbers, that have the same path."""
    (first, known), (line, row) = rows.items()
    return InputError(
        f"{table}: lines {first} and {line} have the same path {row['path']!r}, "
        f"labeled '{known['label']}' and '{row['label']}': keep one of them"
    )


def _read_row(cells: Mapping[str, str], columns: Mapping[str, Sequence[str]], places: Places, where: str) -> Row:
    """Returns the columns LABEL_COLUMNS of one line, with the path that `places` knows and a one-hot label by name."""
    row = {key: "/".join(cells[name] for name in columns.get(key, ())) for key in LABEL_COLUMNS}
    row["path"] = places.find(row["path"], where)
    if len(columns["label"]) > 1:
        row["label"] = _one_hot_label({name: cells[name] for name in columns["label"]}, row["path"], where)
    return row


def own_columns(header: list[str], form: TableForm) -> set[str]:
    """Returns the names of the columns that give path, label, group, split and fold; raises ColumnsError."""
    return {name for names in _resolve_columns(header, form.columns, "the table").values() for name in names}


def _check_values(row: Row, columns: Mapping[str, Sequence[str]], form: TableForm, where: str) -> None:
    """Checks label, group, split and fold of a row, and replaces the split's name by its own one; raises InputError."""
    if form.values is None or row["label"] in form.values:
        if not row["label"]:
            raise InputError(
                f"{where}: label is empty: fill it or remove the line, or list the labels to use in data.classes"
            )
        check_text("label", row["label"], where)
        refuse_formula_error("label", row["label"], where)
    if "group" in columns:
        if not row["group"]:
            raise InputError(f"{where}: group is empty: write the patient, or a value of its own such as the path")
        check_text("group", row["group"], where)
        refuse_formula_error("group", row["group"], where)
    if row["split"] and row["split"].lower() not in SPLIT_NAMES:
        raise InputError(
            f"{where}: split is {row['split']!r}, expected {', '.join(SPLIT_NAMES)}, or an empty value in all lines"
            f"{describe_twin(row['split'].lower(), SPLIT_NAMES)}"
        )
    row["split"] = SPLIT_NAMES[row["split"].lower()] if row["split"] else ""
    if row["fold"] and (not re.fullmatch("[0-9]+", row["fold"]) or row["split"] in ("val", "test")):
        raise InputError(
            f"{where}: fold is '{row['fold']}' and split '{row['split']}', expected a whole number from 0 in "
            "training rows, and an empty value in the others"
        )


def _one_hot_label(cells: Mapping[str, str], path: str, where: str) -> str:
    """Returns the column with the 1; raises InputError unless exactly one column has it and the others 0 or nothing.

    >>> _one_hot_label({"MEL": "0.0", "NV": "1.0"}, "1.jpg", "")
    'NV'
    """
    for name, cell in cells.items():
        if one_hot_value(cell) is None:
            raise InputError(
                f"{where}: column {name!r} is {cell!r}, expected 1 or 0 (true or false, yes or no): with uncertain "
                "values, take one column as data.columns.label and list the values to use in data.classes"
            )
    ones = [name for name, cell in cells.items() if one_hot_value(cell)]
    if len(ones) > 1:
        raise InputError(
            f"{where}: {path!r} has several classes, {', '.join(map(repr, ones))}: images with several labels "
            "(multi-label) are not supported; take one column as data.columns.label and list its values in data.classes"
        )
    if not ones:
        raise InputError(f"{where}: {path!r} has none of the classes {', '.join(cells)}: add its column, or remove it")
    return ones[0]


def one_hot_value(cell: str) -> bool | None:
    """Returns whether a cell is 1, true, yes or x (True), 0, false, no or empty (False), or anything else (None).

    >>> [one_hot_value(cell) for cell in ("1.0", "0", "", "True", "No", "x", "-1.0", "U", "0,0")]
    [True, False, False, True, False, True, None, None, False]
    """
    text = cell.strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    try:
        return {0.0: False, 1.0: True}.get(float(text.replace(",", ".")))
    except ValueError:
        return None


def _resolve_columns(header: list[str], columns: Columns, where: str) -> dict[str, tuple[str, ...]]:
    """Returns the names of the table's columns for each of LABEL_COLUMNS that it has; raises ColumnsError."""
    resolved: dict[str, tuple[str, ...]] = {}
    given = [getattr(columns, key) for key in columns.model_fields_set]
    used = {name for names in given for name in _as_names(names)}
    for key in LABEL_COLUMNS:
        named = getattr(columns, key)
        if key not in columns.model_fields_set or (named is None and key in ("path", "label")):
            _check_own_name(key, [name for name in header if name not in used or name == key], where)
            names: tuple[str, ...] = (key,) if key in header else ()
        else:
            names = _as_names(named)
        for name in names:
            if name not in header:
                nearest = difflib.get_close_matches(name, header, n=1, cutoff=0)
                raise ColumnsError(
                    f"{where}: no column {name!r}, which data.columns.{key} names; nearest: {nearest[0]!r}"
                    f"{describe_twin(nearest[0], [name])}"
                    if nearest
                    else f"{where}: no column {name!r}, which data.columns.{key} names; the file is empty"
                )
            if header.count(name) > 1:
                raise InputError(f"{where}: the column {name!r} is there twice")
        if names:
            resolved[key] = names
    return resolved


def _as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def misspelled_columns(column: str, header: Sequence[str]) -> list[str]:
    """Returns the columns of a header whose name is nearly that of one of LABEL_COLUMNS, or looks like it in some case.

    >>> misspelled_columns("group", ["path", "Group", "site"])
    ['Group']
    """
    near = difflib.get_close_matches(column, [name.strip().lower() for name in header], n=1, cutoff=0.85)
    return [name for name in header if name.strip().lower() in near or _looks_like(name, column)]


def _looks_like(name: str, column: str) -> bool:
    return look_of(name).strip().casefold() == column


def _check_own_name(column: str, header: list[str], where: str) -> None:
    """Raises InputError if a required column is missing, the column is misspelled, or there twice."""
    misspelled = misspelled_columns(column, header)
    same = [name for name in header if _looks_like(name, column)]
    if len(same) > 1:
        twin = "".join(describe_twin(name, [column]) for name in same)
        raise InputError(f"{where}: the column '{column}' is there twice: {', '.join(map(repr, same))}{twin}")
    if column not in header and (misspelled or column in ("path", "label")):
        nearest = misspelled or difflib.get_close_matches(column, header, n=1, cutoff=0)
        twin = describe_twin(nearest[0], [column]) if nearest else ""
        raise (InputError if twin else ColumnsError)(
            f"{where}: no column '{column}'; path and label are required, group, split and fold are optional; "
            + (f"nearest: {nearest[0]!r}{twin}" if nearest else "the file is empty")
            + (": correct the column's name" if twin else "")
        )


def check_text(name: str, text: str, where: str) -> None:
    """Checks a label or a group.

    Args:
        name: name of the value, such as 'label', for the message.
        text: the value.
        where: the file and line, or the folder, that gives the value; begins the error message.

    Raises:
        InputError: `text` is empty, starts or ends with white space, is not UTF-8 or has control characters.
    """
    if not text:
        raise InputError(f"{where}: {name} is empty")
    if text != text.strip():
        raise InputError(f"{where}: {name} {text!r} starts or ends with white space: remove it")
    if has_invalid_utf8(text):
        raise InputError(f"{where}: {name} {text!r} has bytes that are not UTF-8: save the table (or name) as UTF-8")
    if not text.isprintable():
        sign = next(sign for sign in text if not sign.isprintable())
        what = "a line break or another control character" if sign < "\xa0" else "an invisible or unusual space or sign"
        raise InputError(f"{where}: {name} {text!r} has {what}, {name_character(sign)}: remove it")
