"""Finds the picture that another one resembles most, turned and mirrored ones included."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.data.alignment import Thumbnails, correlate
from tumorboard.data.chains import Floats
from tumorboard.data.near_duplicates import ReadCrops, read_thumbnails

Nearest: TypeAlias = pd.DataFrame  # one row per picture: id, nearest, turns, mirrored, correlation, detail

_BLOCK = 1024  # pictures compared with all others at a time


def nearest_pictures(ids: Sequence[str], others: Sequence[str], read_crops: ReadCrops) -> Nearest:
    """Returns the nearest of other pictures for each picture.

    Every other picture is compared in eight positions: as it is and turned by one to three right angles, each mirrored
    or not. The nearest one has the largest Pearson correlation of grey thumbnails.

    Args:
        ids: N ids.
        others: M ids, one or more.
        read_crops: returns the crops uint8[., S, S, 3] of ids of either kind.

    Returns:
        One row per id, in their order: id; nearest, an id of `others`, the first of equal ones; mirrored (bool) and
        turns (0 to 3, by 90 degrees counterclockwise, of the mirror image if it is mirrored), its position;
        correlation, float64; detail, float64, the correlation of the details after an alignment, by which the audit
        calls two pictures copies.
    """
    thumbs, sought = (read_thumbnails(names, read_crops)[0] for names in (ids, others))
    best, row, place = np.full(len(ids), -2.0), np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    own = _standardized(thumbs)
    for position in range(8):
        standardized = _standardized(_turned(sought, position))
        for start in range(0, len(ids), _BLOCK):
            part = slice(start, start + _BLOCK)
            correlations = own[part] @ standardized.T
            first = correlations.argmax(1)
            value = correlations[np.arange(len(first)), first].astype(np.float64)
            better = value > best[part] + 1e-6  # the first position of equal ones
            for kept, new in ((best, value), (row, first), (place, position)):
                kept[part] = np.where(better, new, kept[part])
    aligned = np.stack([_turned(sought[[one]], int(position))[0] for one, position in zip(row, place, strict=True)])
    pairs = np.arange(len(ids))
    detail = correlate(np.concatenate([aligned, thumbs]), pairs, len(ids) + pairs, np.zeros(len(ids), bool))
    return pd.DataFrame(
        {
            "id": list(ids),
            "nearest": np.array(others, dtype=object)[row],
            "turns": place % 4,
            "mirrored": place >= 4,
            "correlation": best,
            "detail": detail.astype(np.float64),
        }
    )


def _turned(thumbs: Thumbnails, position: int) -> Thumbnails:
    """Returns thumbnails [N, SIDE, SIDE] in one of eight positions; from 4 on they are mirrored before they turn."""
    mirrored = thumbs[:, :, ::-1] if position >= 4 else thumbs
    return np.rot90(mirrored, position % 4, (1, 2))


def _standardized(thumbs: Thumbnails) -> Floats:
    """Returns thumbnails as float32[N, SIDE**2] of mean 0 and length 1, so that products are correlations."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))
