"""Divides images by the values of a column of the user's table, such as sex, site or age."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.schema import nearest

MAX_VALUES = 20  # the most values of one column that are scored one by one
PARTS = 4  # ranges that a column of more different numbers is divided into
DIGITS = (6, 9, 17)  # digits of the ends of a range: the fewest that tell the ranges apart
UNKNOWN = "unknown"  # value of an empty cell


def values_of_column(
    attributes: pd.DataFrame, column: str, ids: Sequence[str]
) -> tuple[NDArray[np.object_], list[str]]:
    """Returns the value that each image has in a column.

    Args:
        attributes: one row per image: id, then one text column per attribute, '' where unknown.
        column: name of an attribute. More than MAX_VALUES different numbers are divided into PARTS ranges with about
            equally many of the table's images each, so that a range does not depend on which images are scored.
        ids: ids of the N images.

    Returns:
        object[N], the value or range of each image, UNKNOWN where the cell is empty; and all values that occur in it:
        numbers and ranges by size, other texts by name, UNKNOWN last.

    Raises:
        InputError: there is no such column, an image is not in the table or in several of its rows, or the column has
            more than MAX_VALUES texts.

    >>> table = pd.DataFrame({"id": list("abcd"), "grade": ["10", "9", "", "9"]})
    >>> values_of_column(table, "grade", ["d", "c", "a"])
    (array(['9', 'unknown', '10'], dtype=object), ['9', '10', 'unknown'])
    """
    available = [name for name in attributes.columns if name != "id"]
    if column not in available:
        listed = ", ".join(available) or "no columns beyond path, label, group, split and fold"
        raise InputError(
            f"evaluate.subgroups names '{column}', which the data's table does not have{nearest(column, available)}: "
            f"it has {listed}"
        )
    if (twice := attributes["id"][attributes["id"].duplicated()]).size:
        raise InputError(f"the table of attributes has image '{twice.iloc[0]}' in more than one row")
    texts = pd.Series(
        _divide([str(text).strip() for text in attributes[column]], column), attributes["id"], dtype=object
    )
    if missing := sorted(set(ids) - set(texts.index)):
        raise InputError(f"image '{missing[0]}' is not in the table of attributes: run `dvc repro`")
    values = texts.loc[list(ids)].to_numpy(object)
    return values, [value for value in dict.fromkeys(_sorted_values(texts.tolist())) if value in set(values)]


def _number(text: str) -> float:
    """Returns a text as a number; nan where it is no number or not finite."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def check_texts(cells: Sequence[str], column: str, where: str) -> None:
    """Raises InputError for a column of more than MAX_VALUES different values that are not all numbers.

    Args:
        cells: the texts of the cells that have a value.
        column: name of the column.
        where: key of params.yaml that names the column.

    >>> check_texts([*map(str, range(20, 50)), "NA"], "age", "evaluate.subgroups")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: evaluate.subgroups: column 'age' has 30 different numbers, but also NA, which \
is no number: leave a cell without a value empty, and write numbers with a decimal point and without a unit
    """
    values = set(cells)
    words = sorted(text for text in values if math.isnan(_number(text)))
    if len(values) <= MAX_VALUES or not words:
        return
    word, numbers = printable(clip(words[0])), len(values) - len(words)
    if numbers > len(words):
        raise InputError(
            f"{where}: column '{column}' has {numbers} different numbers, but also {word}, which is no number: leave a "
            "cell without a value empty, and write numbers with a decimal point and without a unit"
        )
    raise InputError(
        f"{where}: column '{column}' has {len(values)} values, such as {word}: name fewer than {MAX_VALUES + 1} in the "
        "table, or leave the column out; numbers need a decimal point and no unit"
    )


def _divide(texts: list[str], column: str) -> list[str]:
    """Returns each text, or the range of its number where the column has more than MAX_VALUES values."""
    known = [text for text in texts if text not in ("", UNKNOWN)]
    if len(set(known)) <= MAX_VALUES:
        return [text or UNKNOWN for text in texts]
    check_texts(known, column, "evaluate.subgroups")
    numbers = np.array([_number(text) for text in texts])
    inner = numbers[np.isfinite(numbers)]
    edges = np.unique(np.quantile(inner, np.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    part = np.searchsorted(edges, numbers, side="left")
    parts = np.unique(part[np.isfinite(numbers)])
    inside = [inner[np.searchsorted(edges, inner, side="left") == number] for number in parts]
    for digits in DIGITS:  # two ranges with one name would be one value
        names = [f"{values.min():.{digits}g} to {values.max():.{digits}g}" for values in inside]
        if len(set(names)) == len(names):
            break
    ranges = dict(zip(parts, names, strict=True))
    return [ranges[p] if math.isfinite(n) else UNKNOWN for p, n in zip(part, numbers, strict=True)]


def _sorted_values(texts: list[str]) -> list[str]:
    """Returns the distinct texts: by their first number if all begin with one, else by name; UNKNOWN last."""
    distinct = sorted(set(texts) - {UNKNOWN})
    first = {text: _number(text.split(" to ")[0]) for text in distinct}
    if not any(math.isnan(number) for number in first.values()):
        distinct.sort(key=first.__getitem__)
    return [*distinct, UNKNOWN] if UNKNOWN in texts else distinct
