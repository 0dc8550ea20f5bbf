"""Makes one validation fold per value of a column, such as the site, for leave-one-site-out cross-validation."""

from collections.abc import Sequence

import pandas as pd

from tumorboard.base.errors import InputError, counted
from tumorboard.base.tables import Manifest
from tumorboard.data.attributes import Attributes, check_names
from tumorboard.data.audit import Pictures
from tumorboard.data.split import merge_groups

SHOWN = 10  # values in a message


def fold_by_value(
    manifest: Manifest, pictures: Pictures, attributes: Attributes, *, column: str, folds: Sequence[int]
) -> tuple[Manifest, list[str]]:
    """Gives each row the fold of its value in a column; rows of a given test set get none.

    Args:
        manifest: the Manifest before the split.
        pictures: name of each image's picture, by id.
        attributes: the attributes of all images.
        column: one of the attributes, as `split.leave_out`.
        folds: the folds that will be validated on.

    Returns:
        The Manifest with its folds, and the value of each fold: the sorted values of the rows outside the test set.

    Raises:
        InputError: there is no such column; the data gives folds or a validation set itself; a value is missing; there
            are fewer than two values; a group, or the copies of a picture, have two values; or `folds` lists a number
            without a value.
    """
    texts = _texts_of(manifest, attributes, column)
    if manifest["fold"].notna().any() or (manifest["split"] == "val").any():
        raise InputError(
            f"split.leave_out is {column!r}, but the data gives its own folds or validation set: leave one of them "
            "empty"
        )
    texts = texts[manifest["split"] != "test"]
    if (empty := texts == "").any():
        images = counted(int(empty.sum()), "image has", "images have")
        raise InputError(
            f"split.leave_out: {images} no value in the column {column!r}, the first "
            f"{manifest['id'][texts.index[empty]].iloc[0]!r}: fill it in, or take them out of the table"
        )
    values = sorted(set(texts))
    if len(values) < 2:
        raise InputError(
            f"split.leave_out: the column {column!r} has only {counted(len(values), 'value')}"
            f"{''.join(f', {value!r}' for value in values)}, but two are needed"
        )
    for fold in folds:
        if fold >= len(values):
            named = ", ".join(f"{number} ({value})" for number, value in enumerate(values[:SHOWN]))
            more = f" and so on to {len(values) - 1}" if len(values) > SHOWN else ""
            raise InputError(f"folds lists {fold}, but the values of split.leave_out {column!r} make {named}{more}")
    _check_one_value(manifest.loc[texts.index], texts, pictures, column)
    numbers = texts.map({value: fold for fold, value in enumerate(values)})
    divided = manifest.assign(fold=numbers.reindex(manifest.index).astype("Int64"))
    return divided, values


def _texts_of(manifest: Manifest, attributes: Attributes, column: str) -> "pd.Series[str]":
    """Returns the text of each row of a Manifest in a column of the attributes; raises InputError if there is none."""
    check_names(attributes, [column], "params.yaml: split.leave_out")
    texts = attributes.set_index("id")[column].reindex(manifest["id"])
    return pd.Series(texts.fillna("").to_numpy(object), index=manifest.index, dtype=object)


def _check_one_value(rows: Manifest, texts: "pd.Series[str]", pictures: Pictures, column: str) -> None:
    """Raises InputError where a group, after groups that share a picture were merged, has two values."""
    table = pd.DataFrame(
        {"id": rows["id"], "own": rows["group"], "group": rows["group"], "value": texts}, index=rows.index
    )
    table["picture"] = pictures.reindex(rows["id"]).to_numpy(object)
    table["merged"] = merge_groups(table, ["picture"])
    table = table.sort_values("id")
    first = table.groupby("merged")["value"].transform("first")
    astray = table[table["value"] != first]
    if astray.empty:
        return
    row = astray.iloc[0]
    twin = table[(table["merged"] == row["merged"]) & (table["value"] != row["value"])].iloc[0]
    same = table[(table["own"] == row["own"]) & (table["value"] != row["value"])]
    if same.empty:
        why = "are joined as copies of one picture"
    else:
        twin, why = same.iloc[0], f"are of one group, {row['own']!r}"
    raise InputError(
        f"split.leave_out: {twin['id']!r} and {row['id']!r} {why}, but their values in the column {column!r} are "
        f"{twin['value']!r} and {row['value']!r}: they would be on two sides; give them one value, or leave them out"
    )
