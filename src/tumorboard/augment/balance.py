"""Adds altered copies of training images until the classes are as large as wanted."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from tumorboard.augment.alterations import augment_images
from tumorboard.base.errors import InputError
from tumorboard.base.params import Augment, Balance
from tumorboard.base.progress import Progress
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Manifest, copy_id
from tumorboard.data.store import CropArray, CropStore

_BATCH = 64  # copies drawn at once


def training_rows(manifest: Manifest, fold: int) -> Manifest:
    """Returns the rows that a fold trains on: those with the split "train" that are not the fold's validation rows.

    Raises:
        InputError: the fold has no validation rows.
    """
    train = manifest[manifest["split"] == "train"]
    validation = train["fold"].eq(fold).fillna(False).astype(bool)
    if not validation.any():
        folds = sorted(train["fold"].dropna().unique().tolist())
        raise InputError(f"folds lists {fold}, but no image is in that validation fold; the Manifest has folds {folds}")
    return train[~validation].reset_index(drop=True)


def balance_manifest(rows: Manifest, balance: Balance, seed: int) -> Manifest:
    """Appends rows of copies to training rows, class by class.

    With the strategy "augment" each class grows to `target` images, or without a target to the size of the largest
    class; a larger one stays as it is. Then, with any strategy, each class grows `multiply`-fold. Within a class the
    numbers of copies per image differ by one at most.

    Which copies are made does not depend on the order of the rows. An additional image adds copies of itself alone and
    changes no other copy, with one exception: without a target, an additional image of the largest class raises the
    size of every class by `multiply`.

    Args:
        rows: training rows without copies.
        balance: `strategy`, `target` and `multiply`.
        seed: chooses which images are copied first.

    Returns:
        The rows, then the copies: their `id` is `copy_id` of the parent and a number from 1, all else is the parent's.

    >>> from tumorboard.base.tables import MANIFEST
    >>> rows = pd.DataFrame("", index=range(4), columns=list(MANIFEST))
    >>> rows["id"] = rows["source_id"] = ["a.png", "b.png", "c.png", "d.png"]
    >>> rows["label"] = ["tumor", "normal", "normal", "normal"]
    >>> balance = Balance.model_construct(strategy="augment", target=None, multiply=1)
    >>> balance_manifest(rows, balance, seed=0)[["id", "label", "source_id"]]
             id   label source_id
    0     a.png   tumor     a.png
    1     b.png  normal     b.png
    2     c.png  normal     c.png
    3     d.png  normal     d.png
    4  a.png//1   tumor     a.png
    5  a.png//2   tumor     a.png
    """
    counts = rows["label"].value_counts().sort_index()
    parts = [rows]
    for label, count in counts.items():
        wanted = count
        if balance.strategy == "augment":
            wanted = max(count, balance.target or counts.max())
        copies = range(wanted * balance.multiply - count)
        parents = rows[rows["label"] == label]
        parents = parents.iloc[order(seed, keys_of(parents["id"].tolist()), 0)]
        part = parents.iloc[[copy % count for copy in copies]].copy()
        part["id"] = [copy_id(parent, copy // count + 1) for parent, copy in zip(part["id"], copies, strict=True)]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def draw_copies(
    manifest: Manifest, store: CropStore, augment: Augment, seed: int
) -> tuple[list[str], Iterator[CropArray]]:
    """Returns the copies of a balanced Manifest, to be drawn one by one.

    Args:
        manifest: as `balance_manifest` returns it.
        store: holds the originals.
        augment: ranges of the alterations.
        seed: together with the original's `sha256` and the copy's number it determines the copy.

    Returns:
        The ids of the copies, and an iterator over their crops uint8[S, S, 3] in the same order.
    """
    copies = manifest[_is_copy(manifest)]
    return copies["id"].tolist(), _draw_crops(copies, store, augment, seed)


def count_by_class(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Returns the number of originals ("before"), of "copies" and of both ("after") per class name."""
    copied = _is_copy(manifest)
    originals, copies = Counter(manifest["label"][~copied]), Counter(manifest["label"][copied])
    return {
        label: {"before": originals[label], "copies": copies[label], "after": originals[label] + copies[label]}
        for label in sorted(originals)
    }


def _is_copy(manifest: Manifest) -> "pd.Series[bool]":
    return manifest["id"] != manifest["source_id"]


def _draw_crops(copies: Manifest, store: CropStore, augment: Augment, seed: int) -> Iterator[CropArray]:
    keys = keys_of(copies["sha256"].tolist())
    numbers = np.array([int(name.rpartition("//")[2]) for name in copies["id"]], dtype=np.int64)
    with Progress("copies", len(copies), "image") as bar:
        for start in range(0, len(copies), _BATCH):
            batch = slice(start, start + _BATCH)
            crops = torch.from_numpy(store[copies["source_id"].iloc[batch].tolist()]).permute(0, 3, 1, 2)
            altered = augment_images(crops, augment, seed=seed, keys=keys[batch], counter=numbers[batch])
            yield from altered.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            bar.update(len(crops))
