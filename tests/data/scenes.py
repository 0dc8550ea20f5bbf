"""Pictures to make copies of, and what joins them, for the tests of near duplicates and of the audit."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.data.audit import picture_names

Pixels = NDArray[np.uint8]
Crops = Callable[[Sequence[str]], Pixels]


def scene(seed: int, side: int = 96) -> Pixels:
    """A picture of blobs of many sizes, unlike that of any other seed."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    layers = [cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4, 9)]
    grey = np.sum(layers, axis=0).mean(2, keepdims=True) + 0.1 * layers[1]
    return np.clip(120 + 45 * grey / grey.std(), 0, 255).astype(np.uint8)


def small(pixels: Pixels, side: int = 64) -> Pixels:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def saved(pixels: Pixels, quality: int) -> Pixels:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)  # type: ignore[return-value]


def store(pictures: dict[str, Pixels]) -> Crops:
    return lambda ids: np.stack([pictures[name] for name in ids])


def sets_of(ids: Sequence[str], pairs: pd.DataFrame) -> set[frozenset[str]]:
    names = picture_names(ids, pairs)
    return {frozenset(names.index[names == name]) for name in set(names) if (names == name).sum() > 1}
