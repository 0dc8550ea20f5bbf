"""Keeps the columns of a label table that the pipeline itself does not use, such as sex, site and age, as text."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias

import pandas as pd

from tumorboard.base.errors import InputError
from tumorboard.base.schema import nearest

MAX_ATTRIBUTES = 100  # columns that are kept; a table of measurements may have thousands
PREFIX = "attribute "  # prefix of their names in the listed images, so that none has the name of another column
SHOWN = 4  # names in a message

Attributes: TypeAlias = pd.DataFrame  # one row per image: id, then one text column per attribute, '' where unknown


class KeptColumns(NamedTuple):
    """Which columns of a table are kept as attributes."""

    names: dict[str, str]  # name of the column in the listed images, with PREFIX, by its name in the table
    twice: list[str]  # names that several columns have, so that none of them is kept
    beyond: list[str]  # names of the columns beyond MAX_ATTRIBUTES, which are not kept


def choose_columns(header: Sequence[str], used: Collection[str]) -> KeptColumns:
    """Chooses the columns of a table that are kept: those that are not used otherwise and have a name of their own.

    Args:
        header: names of all columns.
        used: names of the columns that give path, label, group, split and fold.

    >>> choose_columns(["path", "sex", "", "age (years)", "id"], ["path"]).names
    {'sex': 'attribute sex', 'age (years)': 'attribute age (years)', 'id': 'attribute id of the table'}
    """
    plain = {name: plain_text(name) for name in header if name not in used}
    # `id` is the first column of the table that is written.
    plain = {name: "id of the table" if text == "id" else text for name, text in plain.items() if text}
    texts = Counter(plain[name] for name in header if name in plain)
    own = [name for name in plain if texts[plain[name]] == 1]
    return KeptColumns(
        names={name: PREFIX + plain[name] for name in own[:MAX_ATTRIBUTES]},
        twice=sorted(text for text, count in texts.items() if count > 1),
        beyond=[plain[name] for name in own[MAX_ATTRIBUTES:]],
    )


def plain_text(text: str) -> str:
    """Returns a cell's text in one line of valid Unicode, without white space around it.

    >>> plain_text("  left\\n upper lobe ")
    'left upper lobe'
    >>> plain_text("M" + "\\udce4" + "nner")  # a byte that is not UTF-8
    'M�nner'
    """
    joined = " ".join(text.split())
    if joined.isprintable():
        return joined
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in joined)


def attribute_table(images: pd.DataFrame) -> Attributes:
    """Returns the attributes of listed images under their own names; the path is the id."""
    kept = {name: name.removeprefix(PREFIX) for name in images.columns if name.startswith(PREFIX)}
    return images[["path", *kept]].rename(columns={"path": "id", **kept})


def check_names(attributes: Attributes, names: Sequence[str], where: str) -> None:
    """Raises InputError for a name that is no column of the attributes.

    Args:
        attributes: the attributes of the images.
        names: the names that a key of params.yaml lists.
        where: file and key, for the message.

    >>> check_names(pd.DataFrame(columns=["id", "age", "sex"]), ["agee"], "params.yaml: ensemble.stacking_columns")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: params.yaml: ensemble.stacking_columns: the data has no column 'agee'; \
did you mean age?
    """
    columns = [column for column in attributes.columns if column != "id"]
    for name in names:
        if name not in columns:
            known = nearest(name, columns) or " beside path, label, group, split and fold: delete the name"
            raise InputError(f"{where}: the data has no column {name!r}{known}")


def unkept_warnings(kept: KeptColumns) -> list[str]:
    """Returns sentences about the columns of a table that are not kept."""
    warnings = []
    if kept.twice:
        warnings.append(
            f"several columns of the table have the same name, {_listed(kept.twice)}: none of them is kept for scores "
            "by subgroup; give each a name of its own"
        )
    if kept.beyond:
        warnings.append(
            f"the table has {MAX_ATTRIBUTES + len(kept.beyond)} columns beside path, label, group, split and fold; "
            f"the first {MAX_ATTRIBUTES} are kept for scores by subgroup, but not {_listed(kept.beyond)}: move the "
            "columns that are needed to the front"
        )
    return warnings


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
