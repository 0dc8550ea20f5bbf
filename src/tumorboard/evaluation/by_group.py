"""Reduces predictions of images to predictions of groups, such as patients: one row per group."""

from typing import Literal

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.tables import Predictions, check_predictions, classes_of

ByGroup = Literal["mean", "worst"]


def groups_with_several_labels(predictions: Predictions) -> list[str]:
    """Returns the names of the groups whose images have several labels, sorted; an image without a label has none."""
    labeled = predictions[predictions["label"] != ""]
    counts = labeled.groupby("group")["label"].nunique()
    return sorted(counts.index[counts > 1].tolist())


def group_predictions(
    predictions: Predictions, how: ByGroup = "mean", *, positive: str | None = None, unit: str | None = None
) -> Predictions:
    """Reduces Predictions to one row per group and split.

    The label of a group is the label that its images share. Where they do not agree: with a positive class, a group is
    positive if one of its images is (a patient with one malignant lesion has a malignant lesion); without one the group
    has no label that a decision about it could be compared with, and the table is refused.

    Args:
        predictions: rows of images.
        how: 'mean': the mean of the probabilities of the group's images. 'worst': the probabilities of the image with
            the highest probability of the positive class.
        positive: the positive one of two classes; 'worst' needs it.
        unit: the noun for a group, for the messages; None: 'group'.

    Returns:
        Predictions with the group's name as id and as group, sorted by it. A group with an image without a label has no
        label, unless it has a positive image.

    Raises:
        InputError: 'worst' without a positive class of two; images of a group disagree and there is no positive class;
            `positive` is no class.

    >>> from tumorboard.base.tables import make_predictions
    >>> rows = pd.DataFrame({"id": list("123"), "group": list("ppq"), "split": "test", "label": ["no", "ill", "no"]})
    >>> ill = np.array([0.2, 0.6, 0.3])
    >>> three = make_predictions(rows, np.stack([ill, 1 - ill], 1), ["ill", "no"], "digest")
    >>> for how in ("mean", "worst"):
    ...     by_patient = group_predictions(three, how, positive="ill")
    ...     print(by_patient["label"].tolist(), by_patient["p_ill"].tolist())
    ['ill', 'no'] [0.4, 0.3]
    ['ill', 'no'] [0.6, 0.3]
    """
    unit = unit or "group"
    classes = classes_of(predictions)
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(f"data.positive is '{positive}', expected one of two classes; there are {', '.join(classes)}")
    if how == "worst" and positive is None:
        raise InputError("evaluate.by_patient worst needs data.positive, one of two classes: set it, or choose mean")
    if positive is None and (mixed := groups_with_several_labels(predictions)):
        raise InputError(
            f"{len(mixed):,} of {predictions['group'].nunique():,} {unit}s have images of several classes, such as "
            f"{printable(clip(mixed[0]))}: no {unit} has a label of its own, so they are scored by image only; with "
            "two classes, set data.positive"
        )
    return _reduce(predictions.sort_values("id", kind="stable"), how, positive)


def _reduce(rows: Predictions, how: ByGroup, positive: str | None) -> Predictions:
    keys = ["group", "split"]
    columns = [f"p_{name}" for name in classes_of(rows)]
    if how == "worst":
        worst = rows.sort_values(f"p_{positive}", ascending=False, kind="stable").drop_duplicates(keys)
        table = worst.set_index(keys)[columns].sort_index()
    else:
        table = rows.groupby(keys, sort=True)[columns].mean()
    # The positive class outranks a missing label, which outranks the rest.
    rank = np.where(rows["label"] == positive, 2, np.where(rows["label"] == "", 1, 0))
    first = rows.assign(rank=rank).sort_values("rank", ascending=False, kind="stable").drop_duplicates(keys)
    labels = first.set_index(keys)["label"].loc[table.index]
    reduced = table.assign(label=labels).reset_index()
    reduced = reduced.assign(id=reduced["group"], manifest=rows["manifest"].iloc[0] if len(rows) else "")
    ordered: pd.DataFrame = reduced[["id", "group", "split", "label", *columns, "manifest"]]
    return check_predictions(ordered, "predictions by group")
