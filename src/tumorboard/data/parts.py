"""Counts the images of each class in each part of a split, and explains shares that are not as wanted."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.params import Split
from tumorboard.base.tables import Manifest

FEWEST_VALIDATION = 30  # images of a validation fold; with fewer, an accuracy is uncertain by 9 points or more
FEWEST_VALIDATION_PER_CLASS = 5  # images of each class in a validation fold

SHARE_COLUMNS = ("part", "label", "wanted", "got", "why")

PartCounts: TypeAlias = pd.DataFrame  # one row per part and class: part, label, images, groups
Shares: TypeAlias = pd.DataFrame  # one row per part and class: SHARE_COLUMNS; label '' is the size of the part


def rows_by_part(manifest: Manifest) -> dict[str, Manifest]:
    """Returns the rows of each part of a split Manifest: 'train', 'test', and 'fold_<n>', whose rows train also has."""
    parts = {part: manifest[manifest["split"] == part] for part in ("train", "test")}
    folds = sorted(manifest["fold"].dropna().unique())
    return parts | {f"fold_{fold}": manifest[manifest["fold"].eq(fold).fillna(False)] for fold in folds}


def count_table(manifest: Manifest) -> PartCounts:
    """Counts the images and groups of each class in each part: columns part, label, images, groups."""
    labels = sorted(set(manifest["label"]))
    counts = []
    for part, rows in rows_by_part(manifest).items():
        for label in labels:
            own = rows[rows["label"] == label]
            counts.append((part, label, len(own), len(set(own["group"]))))
    return pd.DataFrame(counts, columns=["part", "label", "images", "groups"])


def count_tree(manifest: Manifest) -> dict[str, Any]:
    """Counts a split Manifest for the metrics: images by part and class, groups by part."""
    table = count_table(manifest)
    return {
        "images": {
            part: dict(zip(rows["label"], rows["images"].tolist(), strict=True))
            for part, rows in table.groupby("part", sort=False)
        },
        "groups": {part: len(set(rows["group"])) for part, rows in rows_by_part(manifest).items()},
    }


def few_validation_warning(manifest: Manifest, folds: Sequence[int], leave_out: str | None = None) -> str:
    """Returns a sentence about the worst fold that has too few validation images to choose by, else ''.

    Too few means fewer than FEWEST_VALIDATION in all, or fewer than FEWEST_VALIDATION_PER_CLASS of a class, whether
    the fold was given with the data or drawn. `check`, the stage split and the report use this one rule. The worst
    fold has the fewest images of a class, and of such folds the fewest in all.

    Args:
        manifest: the Manifest after the split; without rows where the split failed, for which '' is returned.
        folds: the folds that are trained.
        leave_out: the column whose values are the folds (`split.leave_out`); None: the folds were drawn or given.
    """
    train = manifest[manifest["split"] == "train"]
    small_folds = []
    for fold in folds if len(train) else ():
        rows = train[train["fold"].eq(fold).fillna(False)]
        counts = {label: int((rows["label"] == label).sum()) for label in sorted(set(train["label"]))}
        rarest = min(counts, key=lambda label: counts[label], default="")
        if len(rows) < FEWEST_VALIDATION or counts[rarest] < FEWEST_VALIDATION_PER_CLASS:
            small_folds.append((counts[rarest], len(rows), fold, rarest))
    if not small_folds:
        return ""
    least, images, fold, rarest = min(small_folds)
    return (
        f"the validation set of fold {fold} has {images} images, {least} of them of class {rarest!r}: it chooses the "
        f"epoch and the vote's weights, and fewer than {FEWEST_VALIDATION} images, or {FEWEST_VALIDATION_PER_CLASS} of "
        f"a class, choose by chance; {_more_validation(train, leave_out)}"
    )


def _more_validation(train: Manifest, leave_out: str | None) -> str:
    """Returns what gives a fold more validation images."""
    if leave_out is not None:  # split.folds has no effect
        return (
            f"the folds are the values of the column {leave_out!r} (split.leave_out): give small ones a common value, "
            "take their folds out of `folds`, or add images"
        )
    # Rows without a fold exist only where the validation set was given: drawn folds share out all of train.
    if train["fold"].isna().any():
        return (
            "to merge the given validation set into training, write train instead of val in the table's column "
            "split, or move its files into the training folder; split.folds folds are then drawn"
        )
    return "lower split.folds, or add images"


def class_shares(manifest: Manifest, before: Manifest, split: Split) -> Shares:
    """Computes the share of each class among the images of each part, and the share that was wanted.

    A class is wanted in each part with its share of all images, in a fold with its share of the training images. A row
    with the label '' holds the part's own share of all images (of a fold: of the training images); it is wanted only
    where the part was drawn, else missing.

    Args:
        manifest: the Manifest after the split.
        before: the Manifest before the split; the parts and folds in it are given and not drawn.
        split: the wanted sizes, and the tolerance.

    Returns:
        Columns part, label, wanted, got, why. `why` explains a share that is more than `split.tolerance` from the
        wanted one; it is '' for the others.
    """
    parts = rows_by_part(manifest)
    given_test = bool((before["split"] == "test").any())
    given_folds = bool((before["split"] == "val").any() or before["fold"].notna().any())
    entries = []
    for part, rows in parts.items():
        is_fold = part.startswith("fold_")
        whole, given = (parts["train"], given_folds) if is_fold else (manifest, given_test)
        size = 1 / split.folds if is_fold else split.test if part == "test" else 1 - split.test
        wanted = {"": np.nan if given else size} | label_shares(whole)
        got = {"": len(rows) / len(whole)} | dict.fromkeys(label_shares(whole), 0.0) | label_shares(rows)
        for label, aim in wanted.items():
            why = ""
            if abs(got[label] - aim) > split.tolerance + 1e-9:
                why = _given_by(is_fold, split) if given else _explain_share(rows, whole, label, split.tolerance)
            entries.append((part, label, aim, got[label], why))
    return pd.DataFrame(entries, columns=list(SHARE_COLUMNS))


def _given_by(is_fold: bool, split: Split) -> str:
    """Returns why a part was not drawn."""
    if is_fold and split.leave_out is not None:
        return f"the fold is one value of {split.leave_out!r} (split.leave_out)"
    return "given with the data"


def label_shares(rows: Manifest) -> dict[str, float]:
    """Returns the share of each class among rows, by label.

    >>> label_shares(pd.DataFrame({"label": ["b", "a", "b", "b"]}))
    {'a': 0.25, 'b': 0.75}
    """
    names, counts = np.unique(rows["label"].to_numpy(object), return_counts=True)
    return dict(zip(names.tolist(), (counts / max(len(rows), 1)).tolist(), strict=True))


def count_merged(groups: pd.Series, manifest: Manifest) -> int:
    """Returns how many groups as given were merged into others, because they share a picture or a field.

    Args:
        groups: the group of each image before the audit, by id.
        manifest: the Manifest after the split; groups of images that it lacks do not count.
    """
    return groups.reindex(manifest["id"]).nunique() - manifest["group"].nunique()


def merged_warning(groups: pd.Series, manifest: Manifest, unit: str | None) -> str:
    """Returns a sentence about merged groups (`count_merged`), or '' where there are none or groups are unknown.

    Args:
        groups: as in `count_merged`; unknown where each image is a group of its own.
        manifest: as in `count_merged`.
        unit: what a group is (`data.unit`); None: not said.
    """
    merged, left = count_merged(groups, manifest), manifest["group"].nunique()
    if not merged or left + merged == len(manifest):
        return ""
    unit = unit or "group"
    return (
        f"{left + merged:,} {unit}s count as {left:,}, as some share a picture: those that do are on one side of the "
        "split, and the intervals take them for one"
    )


def summarize_shares(shares: Shares) -> dict[str, Any]:
    """Summarizes the shares for the metrics.

    Returns:
        `shares` by part and class, rounded to 4 digits; `outside_tolerance`, the number of shares that are explained;
        `explanations`, one dict per explained share.
    """
    explained = shares[shares["why"] != ""]
    return {
        "shares": {
            part: dict(zip(rows["label"], rows["got"].round(4).tolist(), strict=True))
            for part, rows in shares[shares["label"] != ""].groupby("part", sort=False)
        },
        "outside_tolerance": len(explained),
        "explanations": explained.to_dict("records"),
    }


def shares_warning(shares: Shares, tolerance: float) -> str:
    """Returns a sentence that names the share farthest from the wanted one, or '' where all are within tolerance."""
    explained = shares[shares["why"] != ""]
    if explained.empty:
        return ""
    worst = explained.iloc[int((explained["got"] - explained["wanted"]).abs().to_numpy().argmax())]
    subject = f"class {worst['label']!r} has" if worst["label"] else "the part has"
    return (
        f"{len(explained)} shares are more than {tolerance:g} (split.tolerance) from those wanted; the farthest: in "
        f"{worst['part']}, {subject} {worst['got']:.1%} of the images instead of {worst['wanted']:.1%}: {worst['why']}"
    )


def _explain_share(rows: Manifest, whole: Manifest, label: str, tolerance: float) -> str:
    """Explains why a draw of whole groups did not come closer: groups too large for the part, or chance."""
    own = [(f"class {label!r}", whole[whole["label"] == label])] if label else []
    for subject, images in [*own, ("all classes", whole)]:
        names, counts = np.unique(images["group"].to_numpy(object), return_counts=True)
        largest = int(counts.argmax())
        if counts[largest] > tolerance * len(rows):
            return (
                f"groups stay whole, and of the {len(images)} images of {subject} in {len(names)} groups, the largest, "
                f"{names[largest]!r}, has {counts[largest]}, in a part of {len(rows)}"
            )
    return "no draw that was tried came closer; another seed may"
