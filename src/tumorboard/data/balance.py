"""Altered copies of training images, until the classes are as large as wanted."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tumorboard.augment import augment_images
from tumorboard.data.store import CropStore
from tumorboard.errors import InputError
from tumorboard.params import Augment, Balance
from tumorboard.randomness import keys_of, order
from tumorboard.tables import copy_id

_BATCH = 64


def training_rows(manifest: pd.DataFrame, fold: int) -> pd.DataFrame:
    """The rows of a Manifest that a fold trains on: 'train' and not this fold's own; raises InputError."""
    train = manifest[manifest["split"] == "train"]
    own = train["fold"].eq(fold).fillna(False).astype(bool)
    if not own.any():
        there = sorted(train["fold"].dropna().unique().tolist())
        raise InputError(f"folds lists {fold}, but no image is in that validation fold; there are {there}")
    return train[~own].reset_index(drop=True)


def balance_manifest(rows: pd.DataFrame, balance: Balance, seed: int) -> pd.DataFrame:
    """The training rows of a Manifest, then rows of copies, class by class.

    With strategy 'augment' a class grows to `target` images or, without one, to as many as the largest class has; one
    that has more stays as it is. Then every class grows `multiply`-fold, whatever the strategy. Copies are spread
    evenly: no image has two more than another of its class. The result is independent of the order of the rows, but
    for the order of the originals. An added image adds copies of itself alone and changes none, with one exception:
    where there is no `target`, one of the largest class raises what all classes grow to, by `multiply` copies each.
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
    manifest: pd.DataFrame, store: CropStore, augment: Augment, seed: int
) -> tuple[list[str], Iterator[NDArray[np.uint8]]]:
    """The ids of a Manifest's copies and their crops uint8[S, S, 3] one by one, drawn from the store's originals.

    A copy is a function of (seed, its parent's sha256, its number).
    """
    copies = manifest[manifest["id"] != manifest["source_id"]]
    return copies["id"].tolist(), _draw(copies, store, augment, seed)


def count_images(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Images a class: of them originals, and copies."""
    copied = manifest["id"] != manifest["source_id"]
    originals, copies = Counter(manifest["label"][~copied]), Counter(manifest["label"][copied])
    return {
        label: {"before": originals[label], "copies": copies[label], "after": originals[label] + copies[label]}
        for label in sorted(originals)
    }


def _draw(copies: pd.DataFrame, store: CropStore, augment: Augment, seed: int) -> Iterator[NDArray[np.uint8]]:
    keys = keys_of(copies["sha256"].tolist())
    numbers = np.array([int(name.rpartition("//")[2]) for name in copies["id"]], dtype=np.int64)
    with tqdm(total=len(copies), desc="copies", unit="image", disable=None) as bar:
        for start in range(0, len(copies), _BATCH):
            batch = slice(start, start + _BATCH)
            crops = torch.from_numpy(store[copies["source_id"].iloc[batch].tolist()]).permute(0, 3, 1, 2)
            altered = augment_images(crops, augment, seed, keys[batch], numbers[batch])
            yield from altered.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            bar.update(len(crops))
