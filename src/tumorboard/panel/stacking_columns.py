"""The cells that the vote `stacking` uses with the members' probabilities: from the data's table, or for new images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, clip, counted, printable
from tumorboard.base.files import plain_path
from tumorboard.data.attributes import check_names, plain_text
from tumorboard.data.table_text import describe_title, read_table_text
from tumorboard.evaluation.attribute_values import check_texts
from tumorboard.panel.stacking import MISSING, Cells, Column, Stacking, number_of
from tumorboard.panel.votes import STACKING

CellsByFile: TypeAlias = Mapping[Path, Sequence[str]]  # the text in each column, by `plain_path`

FAR = 6  # standard deviations from the mean of the fit's rows beyond which a number is unusual


def columns_of_vote(vote: str, stacking: Stacking | None) -> tuple[Column, ...]:
    """Returns the columns of the data's table that a vote uses; () for a vote that uses the images alone.

    Args:
        vote: a name in VOTES.
        stacking: the regression of the vote 'stacking', if it was fitted.
    """
    return stacking.columns if vote == STACKING and stacking is not None else ()


def cells_of(attributes: pd.DataFrame, columns: Sequence[str], ids: Sequence[str]) -> Cells:
    """Returns the cells of images.

    Args:
        attributes: one row per image: id, then one text column per attribute.
        columns: J names, `ensemble.stacking_columns` in params.yaml.
        ids: ids of the N images.

    Returns:
        object[N, J].

    Raises:
        InputError: there is no such column, an image is not in the table, or a column has many values that are not
            all numbers.

    >>> cells_of(pd.DataFrame({"id": ["a", "b"], "sex": ["f", "m"], "age": ["40", ""]}), ["age", "sex"], ["b"]).tolist()
    [['', 'm']]
    """
    check_names(attributes, columns, "params.yaml: ensemble.stacking_columns")
    for column in columns:
        known = {str(cell).strip() for cell in attributes[column]} - MISSING
        check_texts(sorted(known), column, "ensemble.stacking_columns")
    rows = attributes.set_index("id")[list(columns)]
    if missing := sorted(set(ids) - set(rows.index)):
        raise InputError(f"image '{missing[0]}' is not in the table of attributes: run `dvc repro`")
    texts = rows.loc[list(ids)].map(lambda cell: str(cell).strip())
    return texts.to_numpy(object)


def read_cells(table: Path, columns: Sequence[Column], files: Sequence[Path]) -> CellsByFile:
    """Reads the cells of new images from the user's table.

    Args:
        table: CSV with the needed columns and `path`: absolute, or relative to the current folder or to the table's.
        columns: the columns that the vote needs.
        files: the images; each must have one row. Other rows are left out.

    Raises:
        InputError: the table cannot be read, lacks a column or an image, or has two rows for one image or a text in a
            column of numbers; the message names the line.
    """
    text = read_table_text(table)
    names = [plain_text(name) for name in text.header]
    for name in ("path", *(column.name for column in columns)):
        if name not in names:
            title = describe_title(table, ("path", *(column.name for column in columns)))
            raise InputError(f"{table}: {title or f'has no column {name!r}: it has ' + ', '.join(names)}")
        if names.count(name) > 1:
            raise InputError(f"{table}: has two columns '{name}'")
    wanted = {plain_path(file) for file in files}
    cells: dict[Path, list[str]] = {}
    for line, raw in text.rows:
        row = {plain_text(name): cell for name, cell in raw.items()}
        path = row["path"].strip()
        file = next((one for one in map(plain_path, (Path(path), table.parent / path)) if one in wanted), None)
        if file is None:
            continue
        if file in cells:
            raise InputError(f"{table}: line {line}: a second row for {printable(clip(path))}")
        cells[file] = [_check_cell(plain_text(row[one.name]), one, f"{table}: line {line}") for one in columns]
    if missing := [file for file in files if plain_path(file) not in cells]:
        others = f" and {counted(len(missing) - 1, 'other image')}" if len(missing) > 1 else ""
        raise InputError(
            f"{table}: has no row for {printable(str(missing[0]))}{others}: add it, with a path relative to the "
            "current folder or to the table's; other cells may be empty"
        )
    return cells


def unusual_cells(columns: Sequence[Column], cells: CellsByFile, files: Sequence[Path]) -> list[str]:
    """Returns a sentence per column in which new images have values unlike those that the vote was fitted on.

    These are texts that the fit's rows lack, and numbers more than FAR standard deviations from their mean.

    Args:
        columns: the J columns that the vote uses.
        cells: the J cells of each image.
        files: the images, in the order of the table.

    >>> sex = Column("sex", ("F", "M"), None, None)
    >>> unusual_cells([sex], {Path("/1.png"): ["F"], Path("/2.png"): ["female"]}, [Path("/1.png"), Path("/2.png")])[0]
    "sex of 1 image, the first /2.png: 'female' is none of F, M, the values of the training table that the vote was \
fitted on; it counts as none of them"
    """
    sentences = []
    for place, column in enumerate(columns):
        by_file = {file: cells[plain_path(file)][place] for file in files}
        unusual = [(file, cell) for file, cell in by_file.items() if _is_unusual(cell, column)]
        if unusual:
            file, cell = unusual[0]
            sentences.append(
                f"{printable(column.name)} of {counted(len(unusual), 'image')}, the first {printable(str(file))}: "
                + _why_unusual(cell, column)
            )
    return sentences


def _is_unusual(cell: str, column: Column) -> bool:
    if cell in MISSING:
        return False
    if column.mean is not None and column.scale is not None:
        return abs(number_of(cell) - column.mean) > FAR * column.scale
    return cell not in column.values


def _why_unusual(cell: str, column: Column) -> str:
    if column.mean is not None:
        return (
            f"{printable(clip(cell))} is more than {FAR} standard deviations from the mean of the training table's "
            f"numbers that the vote was fitted on (mean {column.mean:.6g}, standard deviation {column.scale:.6g}); it "
            "is used as it is"
        )
    if not column.values:
        return f"'{printable(clip(cell))}' has no effect, since no image that the vote was fitted on had a value"
    known = printable(clip(", ".join(column.values), 300))
    return (
        f"'{printable(clip(cell))}' is none of {known}, the values of the training table that the vote was fitted on; "
        "it counts as none of them"
    )


def _check_cell(cell: str, column: Column, where: str) -> str:
    if column.mean is not None and cell not in MISSING and np.isnan(number_of(cell)):
        raise InputError(f"{where}: {column.name} is {printable(clip(cell))}, expected a number or nothing")
    return cell
