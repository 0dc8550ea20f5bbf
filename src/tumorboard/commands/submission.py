"""Turns the table of `predict` into a competition's file, with the columns, names and order that it asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.schema import nearest
from tumorboard.data.table_text import read_table_text
from tumorboard.panel.predict import Decisions
from tumorboard.panel.votes import PROBABILISTIC

NAMES = ("id", "file", "path")  # a row's name: the file's name without extension, with it, or the path as given
CLASSES = "classes"  # stands for one column per class in a template
FRACTIONS = ("probability", "threshold", "unlike")  # columns with six digits, like p_<class>
SHOWN = 3  # names that a message lists at most


@dataclass(frozen=True)
class Column:
    """A column of a competition's file."""

    header: str
    content: str  # one of NAMES, 'label', or a column p_<class> of the table


@dataclass(frozen=True)
class Sample:
    """A competition's sample file, whose columns and order of rows are to be kept."""

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the cells in the order of the header


class Form(NamedTuple):
    """The form of a competition's file."""

    columns: list[Column]
    sample: Sample | None


def parse_template(template: str, classes: Sequence[str], positive: str | None) -> list[Column]:
    """Returns the columns that a template asks for.

    Args:
        template: columns with commas between them. Each is what the column holds, or HEADER=WHAT: `id`, `file` or
            `path` (what the row is called), `label`, `probability` (of the positive class), `classes` (one column per
            class), p_<class>, or the name of a class, whose probability it holds.
        classes: classes of the panel.
        positive: the class that is to be detected; None: there is none.

    Raises:
        InputError: a column is unknown, is given twice, or no column names the rows.

    >>> [(column.header, column.content) for column in parse_template("image=id,MEL,nv=NV", ["MEL", "NV"], None)]
    [('image', 'id'), ('MEL', 'p_MEL'), ('nv', 'p_NV')]
    >>> [column.header for column in parse_template("id,label,target=probability,classes", ["a", "b"], "b")]
    ['id', 'label', 'target', 'a', 'b']
    """
    columns: list[Column] = []
    for entry in template.split(","):
        header, _, what = (entry if "=" in entry else f"{entry}={entry}").partition("=")
        header, what = header.strip(), what.strip()
        if not header:
            raise InputError(f"--submission: '{template}' has a column without a name: write NAME=WHAT")
        if what == CLASSES:
            columns += [Column(name, f"p_{name}") for name in classes]
        else:
            columns.append(Column(header, _content_of(what, classes, positive)))
    headers = [column.header for column in columns]
    if twice := [header for header in headers if headers.count(header) > 1]:
        raise InputError(f"--submission: has two columns '{twice[0]}': give one of them another name, NAME=WHAT")
    if not any(column.content in NAMES for column in columns):
        raise InputError(f"--submission: '{template}' has no column that names the rows: add id, file or path")
    return columns


def _content_of(what: str, classes: Sequence[str], positive: str | None) -> str:
    if what in (*NAMES, "label"):
        return what
    if what == "probability":
        if positive is None:
            raise InputError(
                "--submission: probability is that of the positive class, which this panel does not name: name the "
                f"class itself, as in probability={classes[-1]}"
            )
        return f"p_{positive}"
    if what in classes:
        return f"p_{what}"
    if what.removeprefix("p_") in classes:
        return what
    known = [*NAMES, "label", "probability", CLASSES, *classes]
    raise InputError(f"--submission: there is no '{clip(what)}'{nearest(what, known)}; a header of its own: NAME=WHAT")


def read_sample(file: Path) -> Sample:
    """Reads a competition's sample file.

    Raises:
        InputError: it cannot be read, has no rows, or has a column twice.
    """
    text = read_table_text(file)
    if len(set(text.header)) < len(text.header):
        twice = next(name for name in text.header if text.header.count(name) > 1)
        raise InputError(f"{file}: has two columns '{printable(clip(twice))}'")
    rows = tuple(tuple(row.values()) for _, row in text.rows)
    if not rows:
        raise InputError(f"{file}: has no rows, so that it names no images")
    return Sample(file, tuple(text.header), rows)


def infer_columns(sample: Sample, names: Sequence[str], classes: Sequence[str], positive: str | None) -> list[Column]:
    """Returns the columns of a sample file, whose contents follow from their headers and cells.

    The first column names the rows. A column named as a class has the probability of the class. At most one other
    column is allowed: its cells are names of classes (label), or numbers (the probability of the positive class).

    Args:
        sample: a competition's sample file.
        names: paths of the predicted files, or patients.
        classes: classes of the panel.
        positive: the class that is to be detected; None: there is none.

    Raises:
        InputError: a column is unknown; the message names it.
    """
    columns = [Column(sample.header[0], name_of_rows(sample, names))]
    for number, header in enumerate(sample.header[1:], 1):
        cells = {row[number].strip() for row in sample.rows} - {""}
        if header.strip() in classes or header.strip().removeprefix("p_") in classes:
            content = f"p_{header.strip().removeprefix('p_') if header.strip() not in classes else header.strip()}"
        elif cells and cells <= set(classes):
            content = "label"
        elif len(sample.header) == 2 and all(map(_is_number, cells)) and positive is not None:
            content = f"p_{positive}"
        else:
            raise InputError(
                f"{sample.file}: what is to be in column '{printable(clip(header))}' is not clear: it is no class of "
                f"the panel ({', '.join(classes)}), and the first column names the rows; state what each column "
                f"holds, --submission '{_proposal(sample, classes)}', where WHAT is label, probability or a class"
            )
        columns.append(Column(header, content))
    return columns


def _proposal(sample: Sample, classes: Sequence[str]) -> str:
    """Returns a template for the columns of a sample, with WHAT for columns that are not clear."""
    words = [f"{printable(clip(sample.header[0]))}=id"]
    for number, header in enumerate(sample.header[1:], 1):
        cells = {row[number].strip() for row in sample.rows} - {""}
        what = header if header in classes else "label" if cells and cells <= set(classes) else "WHAT"
        words.append(f"{printable(clip(header))}={what}")
    return ",".join(words)


def open_form(
    template: str | None,
    like: Path | None,
    *,
    names: Sequence[str],
    patients: bool,
    classes: Sequence[str],
    positive: str | None,
) -> Form | None:
    """Returns the form of a competition's file; None where the user asks for none.

    Args:
        template: see `parse_template`; None: it follows from the sample.
        like: the competition's sample file, if there is one.
        names: names of the rows to be predicted: paths of files, or patients.
        patients: whether the rows are patients, whose names are no paths with an extension.
        classes: classes of the panel.
        positive: the class that is to be detected; None: there is none.

    Raises:
        InputError: the template or the sample cannot be used for these names.
    """
    sample = read_sample(like) if like else None
    if template is not None:
        columns = parse_template(template, classes, positive)
    elif sample is not None:
        columns = infer_columns(sample, names, classes, positive)
    else:
        return None
    if patients:
        columns = [replace(column, content="path") if column.content in NAMES else column for column in columns]
    empty = pd.DataFrame({"path": list(names), "decided": ""} | {f"p_{name}": np.nan for name in classes})
    fill_columns(empty, columns, sample)  # reports a mistake before any image is classified
    return Form(columns, sample)


def check_probabilities(columns: Sequence[Column], vote: str) -> None:
    """Checks that a vote has the probabilities that columns are to hold.

    Args:
        columns: the columns of a competition's file.
        vote: a name in VOTES.

    Raises:
        InputError: a column is to hold probabilities, and the vote has none.
    """
    asked = [column.header for column in columns if column.content.startswith("p_")]
    if asked and vote not in PROBABILISTIC:
        others = f"{', '.join(PROBABILISTIC[:-1])} or {PROBABILISTIC[-1]}"
        raise InputError(
            f"the competition's column '{printable(clip(asked[0]))}' is to hold probabilities, but the {vote} vote has "
            f"shares of votes and no probabilities: choose a vote that has them, --vote {others}; or ask for labels "
            "alone, --submission 'id,label'"
        )


def name_of_rows(sample: Sample, names: Sequence[str]) -> str:
    """Returns which of NAMES the first column of a sample has: the one by which most of its rows are found."""
    wanted = {row[0].strip() for row in sample.rows}
    return max(NAMES, key=lambda kind: len(wanted & {name_of(name, kind) for name in names}))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def name_of(path: str, kind: str) -> str:
    """Returns a file's name in a competition's file.

    Args:
        path: the path as given to `predict`.
        kind: one of NAMES.

    >>> name_of("new/ISIC_1.b.jpg", "id"), name_of("new/ISIC_1.b.jpg", "file"), name_of("new/ISIC_1.b.jpg", "path")
    ('ISIC_1.b', 'ISIC_1.b.jpg', 'new/ISIC_1.b.jpg')
    """
    return {"id": PurePath(path).stem, "file": PurePath(path).name, "path": path}[kind]


def fill_columns(decisions: Decisions, columns: Sequence[Column], sample: Sample | None = None) -> pd.DataFrame:
    """Returns a competition's file.

    Args:
        decisions: one row per image file, as `predict_images` returns them. A file without a prediction has its name
            and empty cells.
        columns: the columns of the file.
        sample: gives the columns and rows in their order; the rows are matched by the column that names them.

    Raises:
        InputError: two files have one name, or the sample's columns or rows are not those of the files.

    >>> table = pd.DataFrame({"path": ["x/b.png", "x/a.png"], "decided": ["no", "yes"], "p_yes": [0.25, 2 / 3]})
    >>> fill_columns(table, [Column("id", "id"), Column("label", "label"), Column("yes", "p_yes")])
      id label       yes
    0  b    no  0.250000
    1  a   yes  0.666667
    """
    paths = [str(path) for path in decisions["path"]]
    naming = next(column for column in columns if column.content in NAMES)
    rows = [name_of(path, naming.content) for path in paths]
    _check_distinct(rows, paths)
    digits = six_digits(decisions)
    cells = {
        column.header: [name_of(path, column.content) for path in paths]
        if column.content in NAMES
        else digits["decided" if column.content == "label" else column.content].fillna("").tolist()
        for column in columns
    }
    table = pd.DataFrame(cells, index=pd.Index(rows, dtype=object), dtype=object)
    if sample is not None:
        table = _as_in(sample, table, naming.header)
    return table.reset_index(drop=True)


def _check_distinct(rows: Sequence[str], paths: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for row, path in zip(rows, paths, strict=True):
        if row in first:
            raise InputError(
                f"--submission: {printable(first[row])} and {printable(path)} are both called '{printable(row)}': "
                "predict one of them, or name the rows by file or path, as in --submission id=file,label"
            )
        first[row] = path


def _as_in(sample: Sample, table: pd.DataFrame, naming: str) -> pd.DataFrame:
    """Returns a table with the columns and the rows of a sample, in its order."""
    if missing := [header for header in sample.header if header not in table]:
        raise InputError(f"{sample.file}: has the column '{printable(missing[0])}', which --submission lacks: add it")
    if further := [str(header) for header in table if header not in sample.header]:
        raise InputError(f"{sample.file}: lacks the column '{printable(further[0])}' of --submission: leave it out")
    place = sample.header.index(naming)
    wanted = [row[place].strip() for row in sample.rows]
    known = set[str]()
    for name in wanted:
        if name in known:
            raise InputError(f"{sample.file}: has two rows '{printable(clip(name))}'")
        known.add(name)
    if missing := [name for name in wanted if name not in table.index]:
        raise InputError(f"{sample.file}: {_some(missing)}: not among the predicted files; predict all of its images")
    if further := [str(name) for name in table.index if name not in known]:
        raise InputError(f"{sample.file}: lacks {_some(further)}: predict the sample's images alone")
    return table.loc[wanted, list(sample.header)]


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{printable(clip(name))}'" for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{listed}{more}"


def six_digits(decisions: Decisions) -> Decisions:
    """Returns the table with its fractions as text of six digits after the point; a missing one stays missing.

    >>> six_digits(pd.DataFrame({"path": ["a"], "probability": [2 / 3], "p_yes": [1.0]})).to_numpy().tolist()
    [['a', '0.666667', '1.000000']]
    """
    names = [name for name in map(str, decisions.columns) if name in FRACTIONS or name.startswith("p_")]
    columns: dict[str, pd.Series] = {}
    for name in names:
        texts = [
            None if pd.isna(value) else f"{value:.6f}" if isinstance(value, float) else str(value)
            for value in decisions[name]
        ]
        columns[name] = pd.Series(texts, decisions.index, dtype=object)
    return decisions.assign(**columns)
