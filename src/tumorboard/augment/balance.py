"""Adds altered copies of training images, or generated images, until the classes are as large as wanted."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError
from tumorboard.base.params import Augment, Balance
from tumorboard.base.progress import Progress
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import GENERATED, Manifest, copy_id, generated_id, is_generated
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
    """Appends rows of copies and of generated images to training rows, class by class.

    With the strategies "augment" and "generate" each class grows to `target` images, or without a target to the size
    of the largest class; a larger one stays as it is. "augment" adds altered copies, "generate" generated images. Then,
    with any strategy, each class grows `multiply`-fold by altered copies. Copies are made of real images alone, and
    within a class the numbers of copies per image differ by one at most.

    Which copies are made does not depend on the order of the rows. An additional image adds copies of itself alone and
    changes no other copy, with one exception: without a target, an additional image of the largest class raises the
    size of every class by `multiply`. The number of a class's generated images alone depends on the rows.

    Args:
        rows: training rows without copies.
        balance: `strategy`, `target` and `multiply`.
        seed: chooses which images are copied first.

    Returns:
        The rows, then by class the generated images, as `check_manifest` states them, and the copies: their `id` is
        `copy_id` of the parent and a number from 1, all else is the parent's.

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
        if balance.strategy in ("augment", "generate"):
            wanted = max(count, balance.target or counts.max())
        generated = wanted - count if balance.strategy == "generate" else 0
        parts.append(_generated_rows(str(label), generated, rows))
        copies = range(wanted * balance.multiply - count - generated)
        parents = rows[rows["label"] == label]
        parents = parents.iloc[order(seed, keys_of(parents["id"].tolist()), 0)]
        part = parents.iloc[[copy % count for copy in copies]].copy()
        part["id"] = [copy_id(parent, copy // count + 1) for parent, copy in zip(part["id"], copies, strict=True)]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _generated_rows(label: str, count: int, like: Manifest) -> Manifest:
    """Returns the rows of a class's generated images, with the columns and types of another Manifest."""
    values = dict.fromkeys(("path", "group", "source_id", "sha256"), GENERATED)
    ids = [generated_id(label, number) for number in range(1, count + 1)]
    return pd.DataFrame({"id": ids, "label": label, "split": "train", "fold": pd.NA, **values})[
        list(like.columns)
    ].astype(like.dtypes.to_dict())


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
    copies = manifest[_is_copy(manifest) & ~is_generated(manifest)]
    return copies["id"].tolist(), iter(()) if copies.empty else _draw_crops(copies, store, augment, seed)


def count_by_class(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Returns the number of originals ("before"), of "copies", of "generated" images and of all ("after") per class."""
    drawn, copied = is_generated(manifest), _is_copy(manifest)
    kinds = {"before": ~copied, "copies": copied & ~drawn, "generated": drawn}
    counts = {kind: Counter(manifest["label"][rows]) for kind, rows in kinds.items()}
    counts["after"] = Counter(manifest["label"])
    return {label: {kind: count[label] for kind, count in counts.items()} for label in sorted(counts["before"])}


def _is_copy(manifest: Manifest) -> "pd.Series[bool]":
    return manifest["id"] != manifest["source_id"]


def _draw_crops(copies: Manifest, store: CropStore, augment: Augment, seed: int) -> Iterator[CropArray]:
    import torch  # here, because many studies make no copies, and torch is slow to import

    from tumorboard.augment.alterations import augment_images

    keys = keys_of(copies["sha256"].tolist())
    numbers = np.array([int(name.rpartition("//")[2]) for name in copies["id"]], dtype=np.int64)
    with Progress("copies", len(copies), "image") as bar:
        for start in range(0, len(copies), _BATCH):
            batch = slice(start, start + _BATCH)
            crops = torch.from_numpy(store[copies["source_id"].iloc[batch].tolist()]).permute(0, 3, 1, 2)
            altered = augment_images(crops, augment, seed=seed, keys=keys[batch], counter=numbers[batch])
            yield from altered.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            bar.update(len(crops))
