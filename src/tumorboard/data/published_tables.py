"""Recognizes the tables of published sets beside their images, and proposes the lines for params.yaml to use them.

The columns are recognized by what they contain (the names of files, 0 and 1, the names of parts) and by what they are
called in HAM10000, ISIC, CheXpert, C-NMC, NIH ChestX-ray14, RSNA, PAD-UFES and the like.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from tumorboard.base.data_params import Data
from tumorboard.base.errors import printable
from tumorboard.data.label_table import SPLIT_NAMES, misspelled_columns, one_hot_value
from tumorboard.data.several_findings import MAX_CLASSES
from tumorboard.data.table_text import SAVE_AS_CSV, WORKBOOKS, read_table_text
from tumorboard.data.tables_beside import MAX_DEPTH, TABLE_ENDINGS, Table, find_tables

FILL_BLANK = "give each of them, in a copy of the table, its patient or a value of its own such as the path"
FEWEST_PATIENTS = 3  # distinct values of a patient column; with fewer it may be the side of an eye, or case and control


def _ranked(patterns: str) -> tuple[str, ...]:
    return tuple(patterns.split())


# Patterns of columns' names without case, spaces and signs; the first one that a column has is taken.
_LABELS = _ranked(
    """
    labels? class dx benignmalignant diagnos(is|tic) finding(labels|s)? target class(name|label) category pathology
    disease level grade severity outcome result cancer malignant status type
    """
)
_LABEL_WORDS = re.compile("label|class|diagn|target|finding|categor|pathol|grade|disease|malignan|cancer|tumou?r")
_SPLITS = ("split", "set", "subset", "partition", "datasettype", "phase", "part")
_UNCERTAIN = ("-1", "-1.0", "u")  # cells for "uncertain" in CheXpert's tables
_NO_FINDING = ("nofinding", "normal", "none", "healthy")
_PATIENTS = _ranked(
    """
    (id|anon|hashed|unique|nume?ro)?(patients?|patienten|pat|pa[cz]iente|subj(ect)?|participant|person|individual)(id|uid|num(ber|mer)?|nr|no|name|code|hash|key)?
    mrn|pid|ptid|rid|anonid|anonymi[sz]edid|pseudonym(id)? case(id|number|no|nr)? lesion(id)?
    (slide|specimen|donor|animal|eye)(id|name)? (study|exam)(id|instanceuid|uid)?
    """
)
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
    if table.prefix is None:
        cells = zip(table.columns[table.path], table.paths, strict=True)
        cell, path = next((cell, path) for cell, path in cells if path)
        reason = f"by other names or folders than there are: {cell!r} is {path!r} here; correct them in a copy of it"
        return "", [reason]
    label, classes, notes = _propose_label(table)
    if not label:
        return "", ["has no column with classes"]
    columns: dict[str, object] = {"path": table.path, "label": label}
    if group := find_patient_column(table.columns, {table.path}):
        columns["group"] = group
    if split := _named_column(
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
        "group": lambda cells: all(cells) and _is_shared(cells),
        "split": lambda cells: {cell.lower() for cell in cells} <= set(SPLIT_NAMES),
        "fold": lambda cells: all(re.fullmatch("[0-9]+", cell) for cell in cells),
    }
    named: dict[str, str | None] = {}
    for key, is_fitting in fits.items():
        near = misspelled_columns(key, [name for name in table.columns if name not in used.values()])
        if key not in used and near and key not in table.columns:
            named[key] = near[0] if is_fitting(table.columns[near[0]]) else None
    return named


def has_classes(table: Table) -> bool:
    """Returns whether a table has a column, or one-hot columns, of classes."""
    return bool(_propose_label(table)[0])


def _propose_label(table: Table) -> tuple[str | list[str], dict[str, str], list[str]]:
    """Returns the column or one-hot columns of the classes, the classes of its values if needed, and sentences."""
    others = {name: cells for name, cells in table.columns.items() if name != table.path and len(set(cells)) > 1}
    others.pop(find_patient_column(table.columns, {table.path}), None)
    label = _named_column(others, _LABELS, lambda cells: len(set(cells)) < max(len(cells), 3))
    if not label and len(marks := _mark_columns(others)) > 1:
        return _propose_marks({name: others[name] for name in marks})
    few = {name: cells for name, cells in others.items() if len(set(cells)) <= max(2, len(cells) // 2)}
    label = label or next((name for name in few if _LABEL_WORDS.search(_plain(name))), "")
    label = label or (next(iter(few)) if len(table.columns) == 2 and len(few) == 1 else "")
    if not label:
        return "", {}, []
    combined = [value for value in set(others[label]) if "|" in value]
    if not combined:
        return label, {}, []
    counts = Counter(value for value in others[label] if value and "|" not in value)
    classes = {value: value for value, _ in sorted(counts.most_common(MAX_CLASSES))}
    note = (
        f"Rows with several findings, such as {min(combined)!r}, are left out: images with several labels are not "
        "supported."
    )
    return label, classes, [note]


def _propose_marks(marks: Mapping[str, Sequence[str]]) -> tuple[str | list[str], dict[str, str], list[str]]:
    """Returns the one-hot columns if each row has one 1, else the column with most of them as two classes."""
    values = [[one_hot_value(cell) for cell in cells] for cells in marks.values()]
    if all(row.count(True) == 1 and None not in row for row in zip(*values, strict=True)):
        return list(marks), {}, []
    ones = {
        name: sum(mark is True for mark in column)
        for (name, cells), column in zip(marks.items(), values, strict=True)
        if _plain(name) not in _NO_FINDING and False in [one_hot_value(cell) for cell in set(cells) - {""}]
    }
    if not ones:
        return "", {}, []
    label = max(ones, key=ones.__getitem__)
    seen = sorted({cell for cell in marks[label] if cell and one_hot_value(cell) is not None})
    classes = {cell: label if one_hot_value(cell) else f"no {label}" for cell in seen}
    note = (
        f"Its {len(marks)} columns {', '.join(marks)} mark several findings, or none, per image; images with several "
        "labels are not supported, so that one column is proposed. Rows with another value in it are left out."
    )
    return label, classes, [note]


def _mark_columns(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the columns of 0 and 1 (or empty, or uncertain) with at least one 1."""
    return [
        name
        for name, cells in columns.items()
        if all(one_hot_value(cell) is not None or cell.lower() in _UNCERTAIN for cell in set(cells))
        and any(one_hot_value(cell) for cell in set(cells))
    ]


def find_patient_column(columns: Mapping[str, Sequence[str]], used: Collection[str]) -> str:
    """Returns the column that names patients, by its name and because rows share its values; '' if there is none.

    Some of its cells may be empty, where the patient is not known (`count_blank`).
    """
    return _named_column({name: cells for name, cells in columns.items() if name not in used}, _PATIENTS, _is_shared)


def _is_shared(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell]
    return 2 * len(known) > len(cells) and FEWEST_PATIENTS <= len(set(known)) < len(known)


def count_blank(cells: Sequence[str]) -> int:
    """Returns how many cells are empty; a table with such cells in the column of patients is refused."""
    return sum(not cell for cell in cells)


def _named_column(
    columns: Mapping[str, Sequence[str]], patterns: Iterable[str], fits: Callable[[Sequence[str]], bool]
) -> str:
    """Returns the first column whose plain name matches a pattern and whose cells fit, '' if there is none."""
    for wanted in patterns:
        for name, cells in columns.items():
            if re.fullmatch(wanted, _plain(name)) and fits(cells):
                return name
    return ""


def _plain(name: str) -> str:
    """Returns a column's name without case, spaces and signs: 'Patient ID' becomes 'patientid'."""
    return re.sub(r"[\W_]", "", name.lower())
