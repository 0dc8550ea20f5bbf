"""Pictures to make copies of, and tables of their images, for the tests of near duplicates, audit and split."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import MANIFEST, Images, Manifest
from tumorboard.data.audit import picture_names
from tumorboard.data.near_duplicates import Pairs, ReadCrops

Pixels = NDArray[np.uint8]


def scene(seed: int, side: int = 96) -> Pixels:
    """Returns a picture of blobs of many sizes, unlike that of any other seed."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    layers = [cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4, 9)]
    grey = np.sum(layers, axis=0).mean(2, keepdims=True) + 0.1 * layers[1]
    return np.clip(120 + 45 * grey / grey.std(), 0, 255).astype(np.uint8)


def resized(pixels: Pixels, side: int = 64) -> Pixels:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def resaved(pixels: Pixels, quality: int) -> Pixels:
    """Returns the pixels after they were saved as JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)  # type: ignore[return-value]


def reader_of(pictures: dict[str, Pixels]) -> ReadCrops:
    """Returns a function that reads pictures by their ids, as a CropStore does."""
    return lambda ids: np.stack([pictures[name] for name in ids])


def sets_of(ids: Sequence[str], pairs: Pairs) -> set[frozenset[str]]:
    """Returns the sets of two or more ids that pairs connect."""
    names = picture_names(ids, pairs)
    return {frozenset(names.index[names == name]) for name in set(names) if (names == name).sum() > 1}


def images_of_scenes(
    labels: list[str],
    pictures: list[int],
    near: dict[int, int] | None = None,
    files: list[str] | None = None,
    splits: list[str] | None = None,
    ids: list[str] | None = None,
) -> tuple[Manifest, Images, ReadCrops]:
    """Returns a Manifest, the table of images, and the reader of the crops.

    Args:
        labels: one per image.
        pictures: the scene of each image; equal ones have equal pixels.
        near: rows whose image is another row's picture, saved again.
        files: digest of each file; default: all differ.
        splits: the given part of each image; default: none is given.
        ids: default: 000, 001, ...
    """
    near = near or {}
    ids = ids or [f"{n:03d}" for n in range(len(labels))]
    columns = {"id": ids, "path": ids, "label": labels, "group": [f"g{n}" for n in range(len(ids))]}
    columns |= {"split": splits or [""] * len(ids), "fold": [None] * len(ids), "source_id": ids}
    manifest = pd.DataFrame(columns | {"sha256": files or [f"s{n}" for n in range(len(ids))]}, dtype=object)
    manifest = manifest[list(MANIFEST)]
    manifest["fold"] = pd.array([None] * len(ids), dtype="Int64")
    pixels = [f"{pictures[n]}" if n not in near else f"{pictures[near[n]]} again {n}" for n in range(len(ids))]
    made = {
        name: resized(resaved(scene(pictures[near[n]]), 85)) if n in near else resized(scene(pictures[n]))
        for n, name in enumerate(ids)
    }
    return manifest, pd.DataFrame({"id": ids, "pixels": pixels}, dtype=object), reader_of(made)
