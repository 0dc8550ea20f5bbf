"""Warns of labels and patients that are probably not what the user means; every sentence has its cure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import pandas as pd
import yaml

from tumorboard.base.data_params import Data
from tumorboard.base.errors import counted, printable
from tumorboard.base.tables import Manifest
from tumorboard.data.attributes import choose_columns, unkept_warnings
from tumorboard.data.companions import ALTERED, count_companions, find_companions, find_paired_names
from tumorboard.data.folder_words import are_views
from tumorboard.data.label_columns import count_blank, find_divided_patients, find_patient_column
from tumorboard.data.label_table import Row, own_columns, table_form
from tumorboard.data.published_tables import FILL_BLANK, describe_table
from tumorboard.data.several_findings import MAX_CLASSES, combined_labels, leave_out_lines
from tumorboard.data.sources import find_table
from tumorboard.data.spreadsheet_values import describe_changed_values
from tumorboard.data.table_text import SAVE_AS_CSV, WORKBOOKS, read_table_text
from tumorboard.data.tables_beside import Table, find_tables

SHOWN = 5  # values in a message
EMBEDDED = ("Synthetic white blood cells, normal or blast", "data/phantom")  # study and data.raw of the embedded set
FREQUENT = 3  # times the median number of files per patient, beyond which a number such as 0 is a placeholder

# Values without case, spaces and signs that stand for "not known".
_PLACEHOLDERS = re.compile(
    "|(un|not)(known|available|applicable|specified|defined|determined|assigned|identified|labell?ed|annotated|graded)|"
    "unk|na|nan|nil|none|null|nolabels?|todo|missing|empty|blank|anon(ym(ous|i[sz]ed)?)?(patient)?|deidentified|redacted|removed|noid|noname|nopatient|dummy|"
    "default|tbd|tba|x+|unbekannt|inconnu|desconocido|sconosciuto|onbekend"
)
_MAY_BE_CLASS = re.compile(r"none|nil|default|[^\w?]+|\W*x+\W*", re.IGNORECASE)  # those that may also be classes


def describe_leftovers(study: str | None, raw: str, preset: str) -> str:
    """Returns a warning where other images have the study name of the embedded ones, else ''.

    Args:
        study: `study` of params.yaml.
        raw: `data.raw`.
        preset: `preset` of params.yaml.

    >>> describe_leftovers("Synthetic white blood cells, normal or blast", "datasets/xray", "cells")[:65]
    'study is still that of the embedded data set, and preset is cells'
    >>> describe_leftovers("Chest X-rays", "datasets/xray", "cells")
    ''
    """
    if study != EMBEDDED[0] or raw == EMBEDDED[1]:
        return ""
    return (
        f"study is still that of the embedded data set, and preset is {preset}: name your own study, and the preset "
        "that fits these images (`tumorboard preset` lists them)"
    )


def describe_listing(images: pd.DataFrame, raw: Path, data: Data, labels: Path | None = None) -> list[str]:
    """Returns warnings about the labels and patients of listed images, and about tables that are not used.

    Args:
        images: as `list_images` returns them.
        raw: the folder that was listed, or an .npz file.
        data: the section `data` of params.yaml.
        labels: a label table that replaces `data.table`.
    """
    counts = Counter(images["label"])
    patients = [group for group in images["group"] if group]
    warnings = [
        *(_several_findings(counts) if data.classes is None else []),
        *_alike("labels", counts, _as_classes),
        *(_unknown(counts) if data.classes is None else []),
        *describe_alike_patients(patients, "give each patient one name"),
        *_no_given_test(images),
        *describe_changed_values(zip(images["path"], images["label"], images["group"], strict=True)),
    ]
    if not patients and (altered := find_companions(images["path"].tolist(), ALTERED)):
        warnings.append(
            f"{count_companions(altered)}, as an altered copy: copies of one picture may be on two sides of the split. "
            "Leave them out, since training alters images by itself, or give each picture and its copies one group "
            "(data.group_pattern)"
        )
    if paired := find_paired_names(images["path"].tolist()):
        warnings.append(
            f"{count_companions(paired)}, with another ending: a mask would count as a picture of its class, a copy "
            "would count twice. Move masks and copies out of data.raw"
        )
    if raw.is_dir():
        rows: list[Row] = [
            {"path": path, "label": label} for path, label in zip(images["path"], images["label"], strict=True)
        ]
        table = labels or find_table(raw, data)
        warnings += _views(sorted(counts), data) if table is None else _unkept_columns(table, data)
        files = [file.relative_to(raw).as_posix() for file in raw.iterdir() if file.is_file()]
        if not patients:
            warnings += _unused_patients(raw, files, rows, data=data, table=table)
        elif table is not None:
            warnings += _divided_patients(table, data)
        warnings += [
            f"{printable(file)} is a spreadsheet's workbook, which is not read: {SAVE_AS_CSV}"
            for file in sorted(files)
            if file.lower().endswith(WORKBOOKS)
        ]
    return warnings


def _views(labels: Sequence[str], data: Data) -> list[str]:
    """Returns a warning about class folders that are named as sides or views, unless params say that they are meant."""
    if data.layout == "folders" or data.classes is not None or not are_views(labels):
        return []
    return [
        f"the classes {', '.join(map(repr, labels[:SHOWN]))} are sides or views of a body part, by their names: if "
        "something else is to be learned, list it in a table labels.csv, or set data.raw to folders of it; if not, "
        f"{_lines({'layout': 'folders'})}"
    ]


def _no_given_test(images: pd.DataFrame) -> list[str]:
    """Returns a sentence about given parts without a test part, which may lie elsewhere; folds need none."""
    given = sorted(set(images["split"]) - {""})
    if not given or "test" in given or images["fold"].notna().any():
        return []
    return [
        f"the data gives {' and '.join(given)} images and no test images: a share of the train images (split.test) "
        "becomes the test part. Where the data has test images of its own, their rows or folder are missing here"
    ]


def _unkept_columns(table: Path, data: Data) -> list[str]:
    """Returns sentences about the columns of the label table that are not kept as attributes."""
    header = read_table_text(table).header
    return unkept_warnings(choose_columns(header, own_columns(header, table_form(data))))


def describe_alike_patients(patients: Iterable[str], cure: str) -> list[str]:
    """Returns a warning about patients whose names differ only in their form, as 'P1' and 'p 01' do, with its cure."""
    return _alike("patients", Counter(patients), lambda _: cure)


def describe_placeholders(manifest: Manifest) -> str:
    """Returns a sentence about a patient's name that stands for "not known" and is shared by several images, or ''.

    As one group these images would stay together in the split, though they belong to many patients.
    """
    counts = Counter(manifest["group"])
    named = {group: count for group, count in counts.items() if count > 1 and _is_placeholder(group, counts)}
    if not named:
        return ""
    group = max(named, key=named.__getitem__)
    return (
        f"{named[group]} of {len(manifest)} images have the patient {group!r}, which looks like a placeholder for 'not "
        "known': as one group they all stay on one side of the split. Give each its patient, or a value of its own "
        "such as its path"
    )


def _is_placeholder(group: str, counts: Mapping[str, int]) -> bool:
    if re.fullmatch(r"-?(0+|9+|1)(\.0*)?", group):
        others = [count for name, count in counts.items() if name != group]
        return bool(others) and counts[group] > FREQUENT * max(median(others), 1)
    return _stands_for_unknown(group)


def _stands_for_unknown(value: str) -> bool:
    return _PLACEHOLDERS.fullmatch(re.sub(r"[\W_]", "", value.lower())) is not None


def _several_findings(counts: Mapping[str, int]) -> list[str]:
    """Returns a warning about class folders that look like several findings; a table with such labels is refused."""
    combined = combined_labels(counts)
    if not combined:
        return []
    images = counted(sum(counts[label] for label in combined), "image has", "images have")
    return [
        f"{images} a label that looks like several findings, such as {combined[0]!r}: each combination is a "
        f"class of its own. {leave_out_lines(counts, combined)}"
    ]


def _unknown(counts: Mapping[str, int]) -> list[str]:
    """Returns a warning about labels that stand for "not known", with the lines that leave their images out."""
    unknown = [label for label in sorted(counts) if _stands_for_unknown(label) and not _MAY_BE_CLASS.fullmatch(label)]
    if not unknown:
        return []
    classes = {label: label for label in sorted(counts) if label not in unknown}
    cure = _lines({"classes": classes}) if 1 < len(classes) <= MAX_CLASSES else "remove them"
    images = sum(counts[label] for label in unknown)
    return [
        f"{counted(images, 'image has', 'images have')} a label that looks like a placeholder for 'not known', such as "
        f"{unknown[0]!r}, which is then a class of its own. To leave {'it' if images == 1 else 'them'} out, {cure}"
    ]


def _alike(kind: str, counts: Mapping[str, int], cure: Callable[[Mapping[str, int]], str]) -> list[str]:
    """Returns a warning about values that differ only in the form of a number, case, spaces or signs between words."""
    sets: dict[str, list[str]] = {}
    for value in sorted(counts):
        sets.setdefault(_bare(value), []).append(value)
    alike = [values for values in sets.values() if len(values) > 1]
    if not alike:
        return []
    named = ", ".join(f"{value!r} ({counts[value]} images)" for value in alike[0][:SHOWN])
    more = f", and so do {len(alike) - 1} more sets" if len(alike) > 1 else ""
    return [f"the {kind} {named} differ only in the form of a number, case, spaces or signs{more}: {cure(counts)}"]


def _as_classes(counts: Mapping[str, int]) -> str:
    first: dict[str, str] = {}
    classes = {label: first.setdefault(_bare(label), label) for label in sorted(counts)}
    return _lines({"classes": classes}) if len(classes) <= MAX_CLASSES else "give them one name"


def _bare(value: str) -> str:
    """Returns a value without case, signs between words, and the forms of numbers.

    >>> _bare("Grade_01"), _bare("grade 1.0"), _bare("-1"), _bare("1-2"), _bare("12")
    ('grade1', 'grade1', '-1', '1 2', '12')
    """
    text = unicodedata.normalize("NFKC", value).casefold()
    text = re.sub(r"(?<=\d)[\s_\u2010-\u2015-]+(?=\d)", " ", text)
    text = re.sub(r"(?<=[^\W\d_])[\s_\u2010-\u2015-]+(?=\w)|(?<=\w)[\s_\u2010-\u2015-]+(?=[^\W\d_])", "", text)
    return re.sub(r"(?<![\d.])0*(\d+)(\.0*)?(?![\d.])", r"\1", text)


def _divided_patients(table: Path, data: Data) -> list[str]:
    """Returns a warning about a column of patients whose images are in several groups of the column that is used."""
    columns, own = _read_columns(table), _own_columns(data)
    group = str(own.get("group", "group"))
    if data.columns is not None and "group" in data.columns.model_fields_set and data.columns.group is None:
        return []  # the column is passed over
    if group not in columns or not (column := find_divided_patients(columns, group)):
        return []
    return [
        f"the column {column!r} of {printable(table.name)} names patients, but is not used, and images of one patient "
        f"are in several groups of its column {group!r}, so that they may be on two sides of the split. To use it, "
        f"{_lines({'columns': own | {'group': column}})}"
    ]


def _read_columns(table: Path) -> dict[str, list[str]]:
    text = read_table_text(table)
    cells = [values for _, values in text.rows]
    return {name: [values[name] for values in cells] for name in dict.fromkeys(text.header)}


def _own_columns(data: Data) -> dict[str, object]:
    """Returns `data.columns` as params.yaml has it."""
    own = {} if data.columns is None else data.columns.model_dump(exclude_none=True)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}


def _unused_patients(
    raw: Path, files: Sequence[str], rows: Sequence[Row], *, data: Data, table: Path | None
) -> list[str]:
    """Returns a warning about a column of patients that is passed over, in the table that is used or lies beside."""
    if table is not None:
        columns, own = _read_columns(table), _own_columns(data)
        if not (column := find_patient_column(columns, {str(own.get("path", "path"))})):
            return _patients_beside(table, find_tables(raw, [*files, *(row["path"] for row in rows)]))
        blank = count_blank(columns[column])
        fill = f" {blank} of its {len(columns[column])} cells are empty: {FILL_BLANK}." if blank else ""
        return [
            f"the column {column!r} of {printable(table.name)} names patients, but is not used, so that images of one "
            f"patient may be on two sides of the split.{fill} To use it, "
            f"{_lines({'columns': own | {'group': column}})}"
        ]
    for beside in find_tables(raw, [*files, *(row["path"] for row in rows)]):
        if column := find_patient_column(beside.columns, {beside.path}):
            return [
                f"{printable(beside.file.name)} beside the folders has a column {column!r} that names patients, but is "
                f"not used. {describe_table(raw, beside)}"
            ]
    return []


def _patients_beside(table: Path, tables: Iterable[Table]) -> list[str]:
    """Returns a warning about a column of patients in a table other than the one that is used."""
    for beside in tables:
        if beside.file != table and (column := find_patient_column(beside.columns, {beside.path})):
            return [
                f"{printable(beside.file.name)} beside {printable(table.name)} has a column {column!r} that names "
                f"patients, but is not used: add it to {printable(table.name)} as the column group, so that no patient "
                "is on two sides of the split"
            ]
    return []


def _lines(section: Mapping[str, object]) -> str:
    """Returns lines for params.yaml."""
    text = yaml.safe_dump({"data": dict(section)}, sort_keys=False, allow_unicode=True, width=1000)
    return f"write in params.yaml:\n{text.rstrip()}"
