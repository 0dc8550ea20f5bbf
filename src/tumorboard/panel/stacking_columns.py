"""The cells that the vote `stacking` uses with the members' probabilities: from the data's table, or for new images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.schema import nearest
from tumorboard.data.attributes import plain_text
from tumorboard.data.table_text import read_table_text
from tumorboard.evaluation.attribute_values import MAX_VALUES
from tumorboard.panel.stacking import MISSING, Cells, Column, number_of

CellsByFile: TypeAlias = Mapping[Path, Sequence[str]]  # the text in each column, by absolute path


def cells_of(attributes: pd.DataFrame, columns: Sequence[str], ids: Sequence[str]) -> Cells:
    """Returns the cells of images.

    Args:
        attributes: one row per image: id, then one text column per attribute.
        columns: J names, `ensemble.stacking_columns` in params.yaml.
        ids: ids of the N images.

    Returns:
        object[N, J].

    Raises:
        InputError: there is no such column, an image is not in the table, or a column has more than MAX_VALUES texts.

    >>> cells_of(pd.DataFrame({"id": ["a", "b"], "sex": ["f", "m"], "age": ["40", ""]}), ["age", "sex"], ["b"]).tolist()
    [['', 'm']]
    """
    available = [name for name in attributes.columns if name != "id"]
    for column in columns:
        if column not in available:
            listed = ", ".join(available) or "no columns beyond path, label, group, split and fold"
            raise InputError(
                f"ensemble.stacking_columns names '{column}', which the data's table does not have"
                f"{nearest(column, available)}: it has {listed}"
            )
        known = {str(cell).strip() for cell in attributes[column]} - MISSING
        if len(known) > MAX_VALUES and (words := sorted(text for text in known if np.isnan(number_of(text)))):
            raise InputError(
                f"ensemble.stacking_columns: column '{column}' has {len(known)} values, such as "
                f"{printable(clip(words[0]))}: name fewer than {MAX_VALUES + 1} in the table, or leave the column out"
            )
    rows = attributes.set_index("id")[list(columns)]
    if missing := sorted(set(ids) - set(rows.index)):
        raise InputError(f"image '{missing[0]}' is not in the table of attributes: run `dvc repro`")
    texts = rows.loc[list(ids)].map(lambda cell: str(cell).strip())
    return texts.to_numpy(object)


def read_cells(table: Path, columns: Sequence[Column], files: Sequence[Path]) -> CellsByFile:
    """Reads the cells of new images from the user's table.

    Args:
        table: CSV with a column `path`, relative to the current folder or to the table's, and the needed columns.
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
            raise InputError(f"{table}: has no column '{name}': it has {', '.join(names)}")
    wanted = {file.absolute() for file in files}
    cells: dict[Path, list[str]] = {}
    for line, raw in text.rows:
        row = dict(zip(names, raw.values(), strict=True))
        path = row["path"].strip()
        file = next((one for one in (Path(path).absolute(), table.parent.absolute() / path) if one in wanted), None)
        if file is None:
            continue
        if file in cells:
            raise InputError(f"{table}: line {line}: a second row for {printable(clip(path))}")
        cells[file] = [_check_cell(plain_text(row[one.name]), one, f"{table}: line {line}") for one in columns]
    if missing := [file for file in files if file.absolute() not in cells]:
        others = f" and {len(missing) - 1} more images" if len(missing) > 1 else ""
        raise InputError(f"{table}: has no row for {printable(str(missing[0]))}{others}: add it; a cell may be empty")
    return cells


def _check_cell(cell: str, column: Column, where: str) -> str:
    if column.mean is not None and cell not in MISSING and np.isnan(number_of(cell)):
        raise InputError(f"{where}: {column.name} is {printable(clip(cell))}, expected a number or nothing")
    return cell
