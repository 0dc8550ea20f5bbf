"""Finds the columns of a table that give classes and patients, by their names and values.

The columns are recognized by what they contain (0 and 1, few values, shared values) and by what they are called in
HAM10000, ISIC, CheXpert, C-NMC, NIH ChestX-ray14, RSNA, PAD-UFES and the like, and in some other languages.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from tumorboard.data.label_table import Row, one_hot_value
from tumorboard.data.several_findings import MAX_CLASSES
from tumorboard.data.tables_beside import Table, loose_name

FEWEST_PATIENTS = 3  # distinct values of a patient column; with fewer it may be the side of an eye, or case and control


def _ranked(patterns: str) -> tuple[str, ...]:
    return tuple(patterns.split())


# Patterns of columns' names without case, accents, spaces and signs; the first one that a column has is taken.
_LABELS = _ranked(
    """
    labels? class dx benignmalignant diagnos(is|tic|e|i|ticos?|tique)? finding(labels|s)? befunde? target
    class(name|label) klassen? clases? classes? etiqueta 标签 类别 诊断 category kategorien? categoria pathology disease
    krankheit enfermedad maladie malattia level grade severity outcome result(ado|at)? ergebnis cancer malignant status
    type
    """
)
_LABEL_WORDS = re.compile(
    "label|class|diagn|target|finding|[ck]ategor|pathol|patolog|grade|disease|malign|cancer|tumou?r|befund|klasse|"
    "birads|hallazgo|etiquet"
)
_GROUPS = _ranked("(dx|diagnos(is|tic)|research|study|clinical)?group")  # of cases and controls, or of patients
_MOST_GROUPS = 6  # values of such a column, in four rows each and more, that may be classes
_NO_LABELS = re.compile("(?<!po)site|cent(er|re)|hospital|clinic(?!al)|klinik|institut|scanner")  # cancer center
_TIMES = re.compile(
    r"(?<![a-z])(age|date|year)(?![a-z])", re.IGNORECASE
)  # age_at_diagnosis, and neither stage nor image
_OF_THE_PICTURE = re.compile(
    "view|position|side|lateral|sex|gender|split|subset|date|source|origin|countr|city|device|camera|manufacturer|vendor|"
    "batch|patient|subject"
)
_UNCERTAIN = ("-1", "-1.0", "u")  # cells for "uncertain" in CheXpert's tables
_NO_FINDING = ("nofinding", "normal", "none", "healthy")
_PATIENTS = _ranked(
    """
    (id|anon|hashed|unique|nume?ro)?(patients?|patienten|pat|pa[cz]iente|subj(ect)?|participant|person|individual)(id|uid|num(ber|mer)?|nr|no|name|code|hash|key)?
    mrn|pid|ptid|rid|anonid|anonymi[sz]edid|pseudonym(id)?
    """
)
_PARTS_OF_PATIENTS = _ranked(
    "case(id|number|no|nr)? lesion(id)? (slide|specimen|donor|animal|eye)(id|name)? (study|exam)(id|instanceuid|uid)?"
)


def has_classes(table: Table) -> bool:
    """Returns whether a table has a column, or one-hot columns, of classes, or no header that would show it."""
    others = (cells for name, cells in table.columns.items() if table.hindrance and name != table.path)
    return bool(propose_label(table)[0]) or any(_are_few(cells) for cells in others)


def cells_of(table: Table, label: str | list[str]) -> list[tuple[str, ...]]:
    """Returns each row's cells in the columns of the label."""
    return list(zip(*(table.columns[name] for name in ([label] if isinstance(label, str) else label)), strict=True))


def lists_classes(table: Table, labels: Collection[str]) -> bool:
    """Returns whether a table names each class once, as a list of the classes with their numbers does."""
    names = {label.casefold() for label in labels}
    return len(table.paths) <= len(names) + 1 and any(
        {cell.casefold() for cell in cells} <= names and len(set(cells)) == len(cells)
        for name, cells in table.columns.items()
        if name != table.path
    )


def agrees_with_folders(table: Table, rows: Sequence[Row]) -> bool:
    """Returns whether a column that may be the label gives the same classes as the folders, perhaps by other names.

    Columns of patients and sites do not count: folders of hospitals agree with them.
    """
    label_of = {row["path"]: row["label"] for row in rows}
    here = [(index, label_of[path]) for index, path in enumerate(table.paths) if path in label_of]
    folders = {label for _, label in here}
    for cells in _possible_labels(table, {label.casefold() for label in label_of.values()}):
        if table.ambiguous:
            if _have_same_names(zip(cells, table.columns[table.path], strict=True), rows):
                return True
            continue
        pairs = {(label, cells[index]) for index, label in here}
        if len(pairs) == len(folders) == len({cell for _, cell in pairs}) > 1:
            return True
    return False


def _possible_labels(table: Table, folders: Collection[str]) -> Iterator[Sequence[object]]:
    """Yields the cells of each column that may be the label, and each row's cells of all columns of 0 and 1 together.

    Args:
        table: the table.
        folders: the names of the class folders, without case; a column with these values may be the label.
    """
    others = _other_columns(table)
    for name, cells in others.items():
        plain = _plain(name)
        named = any(re.fullmatch(pattern, plain) for pattern in (*_LABELS, *_GROUPS)) or _LABEL_WORDS.search(plain)
        same = {cell.casefold() for cell in cells} == folders and not _OF_THE_PICTURE.search(plain)
        if len(table.columns) == 2 or table.hindrance or named or same:
            yield cells
    marks = _mark_columns(others)
    yield from (others[name] for name in marks)
    for names in (marks, [name for name in marks if name.casefold() in folders]):
        if names:
            yield cells_of(table, names)


def _other_columns(table: Table) -> dict[str, Sequence[str]]:
    """Returns the columns with several values that are no names of files, patients or sites, and no ages or dates."""
    used = (table.path, find_patient_column(table.columns, {table.path}))
    return {
        name: cells
        for name, cells in table.columns.items()
        if name not in used and len(set(cells)) > 1 and not _NO_LABELS.search(_plain(name)) and not _TIMES.search(name)
    }


def _have_same_names(cells: Iterable[tuple[object, str]], rows: Sequence[Row]) -> bool:
    """Returns whether each label has the names of the files of one folder; the names themselves may recur.

    Args:
        cells: label and name of each row of the table.
        rows: the images of the class folders.
    """
    by_label: dict[object, set[str]] = {}
    by_folder: dict[object, set[str]] = {}
    for label, name in cells:
        by_label.setdefault(label, set()).add(loose_name(posixpath.basename(name)))
    for row in rows:
        by_folder.setdefault(row["label"], set()).add(loose_name(posixpath.basename(row["path"])))
    known = set().union(*by_label.values())
    of_labels, of_folders = (
        Counter(frozenset(names & known) for names in each.values()) for each in (by_label, by_folder)
    )
    return of_labels == of_folders


def propose_label(table: Table) -> tuple[str | list[str], dict[str, str], list[str]]:
    """Returns the column or one-hot columns of the classes, the classes of its values if needed, and sentences."""
    others = _other_columns(table)
    label = named_column(others, _LABELS, lambda cells: len(set(cells)) < max(len(cells), 3))
    if not label and len(marks := _mark_columns(others)) > 1:
        return _propose_marks({name: others[name] for name in marks})
    few = {name: cells for name, cells in others.items() if len(set(cells)) <= max(2, len(cells) // 2)}
    label = label or next((name for name in few if _LABEL_WORDS.search(_plain(name))), "")
    label = label or named_column(few, _GROUPS, _are_few)
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


def _are_few(cells: Sequence[str]) -> bool:
    return 4 * len(set(cells)) <= len(cells) and 1 < len(set(cells)) <= _MOST_GROUPS


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
    others = {name: cells for name, cells in columns.items() if name not in used}
    return named_column(others, (*_PATIENTS, *_PARTS_OF_PATIENTS), is_shared)


def find_divided_patients(columns: Mapping[str, Sequence[str]], group: str) -> str:
    """Returns the column that names patients of whom some have several groups; '' if there is none.

    Args:
        columns: the cells of each column.
        group: the column of the groups.
    """
    others = {name: cells for name, cells in columns.items() if name != group}
    column = named_column(others, _PATIENTS, is_shared)
    pairs = {(one, other) for one, other in zip(columns.get(column, ()), columns[group], strict=False) if one}
    return column if len(pairs) > len({patient for patient, _ in pairs}) else ""


def is_shared(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell]
    return 2 * len(known) > len(cells) and FEWEST_PATIENTS <= len(set(known)) < len(known)


def count_blank(cells: Sequence[str]) -> int:
    """Returns how many cells are empty; a table with such cells in the column of patients is refused."""
    return sum(not cell for cell in cells)


def named_column(
    columns: Mapping[str, Sequence[str]], patterns: Iterable[str], fits: Callable[[Sequence[str]], bool]
) -> str:
    """Returns the first column whose plain name matches a pattern and whose cells fit, '' if there is none."""
    for wanted in patterns:
        for name, cells in columns.items():
            if re.fullmatch(wanted, _plain(name)) and fits(cells):
                return name
    return ""


def _plain(name: str) -> str:
    """Returns a column's name without case, accents, spaces and signs: 'Patient ID' becomes 'patientid'."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", name.lower()))
