"""How large the parts of a split came out and how the classes share them; and why, where that is not as wanted."""

import sys
from typing import Any

import numpy as np
import pandas as pd

from tumorboard.params import Split

COLUMNS = ("part", "label", "wanted", "got", "why")


def class_shares(manifest: pd.DataFrame, before: pd.DataFrame, split: Split) -> pd.DataFrame:
    """The share of every class among the images of each part of a split Manifest: part, label, wanted, got, why.

    `before` is the Manifest as it was before the split: what it gives was not drawn. Wanted is a class's share of all
    images, of a fold that of the training images. In a row with the label '', which no class has, the shares are the
    part's own: of all images, of a fold of the training images; wanted only where the part was drawn, else missing.
    `why` explains a share that is more than `split.tolerance` from the one wanted, and is '' for others.
    """
    train, test = (manifest[manifest["split"] == part] for part in ("train", "test"))
    given_test = bool((before["split"] == "test").any())
    given_folds = bool((before["split"] == "val").any() or before["fold"].notna().any())
    parts = [("train", train, manifest, 1 - split.test, given_test), ("test", test, manifest, split.test, given_test)]
    for fold in sorted(train["fold"].dropna().unique()):
        own = train[train["fold"].eq(fold).fillna(False)]
        parts.append((f"fold_{fold}", own, train, 1 / split.folds, given_folds))
    shares = []
    for part, rows, whole, size, given in parts:
        wanted = {"": np.nan if given else size} | _shares(whole)
        got = {"": len(rows) / len(whole)} | dict.fromkeys(_shares(whole), 0.0) | _shares(rows)
        for label, aim in wanted.items():
            off = abs(got[label] - aim) > split.tolerance + 1e-9
            why = "" if not off else "given with the data" if given else _explain(rows, whole, label, split.tolerance)
            shares.append((part, label, aim, got[label], why))
    return pd.DataFrame(shares, columns=list(COLUMNS))


def summarize_shares(shares: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    """The shares as a tree for the metrics; the farthest from what was wanted is named on standard error.

    `shares` by part and label; `outside_tolerance`: how many are explained; `explanations`: these, a dict each.
    """
    explained = shares[shares["why"] != ""]
    if len(explained):
        worst = explained.iloc[int((explained["got"] - explained["wanted"]).abs().to_numpy().argmax())]
        what = f"class {worst['label']!r} has" if worst["label"] else "the part has"
        print(
            f"split: {len(explained)} shares are more than {tolerance:g} (split.tolerance) from those wanted; the "
            f"farthest: in {worst['part']}, {what} {worst['got']:.1%} of the images instead of {worst['wanted']:.1%}: "
            f"{worst['why']}",
            file=sys.stderr,
        )
    classes = shares[shares["label"] != ""]
    return {
        "shares": {
            part: dict(zip(rows["label"], rows["got"].round(4).tolist(), strict=True))
            for part, rows in classes.groupby("part", sort=False)
        },
        "outside_tolerance": len(explained),
        "explanations": explained.to_dict("records"),
    }


def _shares(rows: pd.DataFrame) -> dict[str, float]:
    names, counts = np.unique(rows["label"].to_numpy(object), return_counts=True)
    return dict(zip(names.tolist(), (counts / max(len(rows), 1)).tolist(), strict=True))


def _explain(rows: pd.DataFrame, whole: pd.DataFrame, label: str, tolerance: float) -> str:
    """Why a draw of whole groups did not come closer: groups too large for the part, or chance."""
    own = [(f"class {label!r}", whole[whole["label"] == label])] if label else []
    for what, images in [*own, ("all classes", whole)]:
        names, counts = np.unique(images["group"].to_numpy(object), return_counts=True)
        largest = int(counts.argmax())
        if counts[largest] > tolerance * len(rows):
            return (
                f"groups stay whole, and of the {len(images)} images of {what} in {len(names)} groups, the largest, "
                f"{names[largest]!r}, has {counts[largest]}, in a part of {len(rows)}"
            )
    return "no draw that was tried came closer; another seed may"
