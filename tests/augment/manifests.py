"""Small Manifests of training images, and crops of noise."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import MANIFEST, Manifest


def training_manifest(**counts: int) -> Manifest:
    """Returns a Manifest of training rows with so many images per class, in folds 0, 1, 2, 0, 1, 2, ... of each."""
    rows = [
        (f"{label}/{n}.png", f"{label}/{n}.png", label, f"p{n}", "train", n % 3, f"{label}/{n}.png", f"{label}{n:02d}")
        for label, count in counts.items()
        for n in range(count)
    ]
    return pd.DataFrame(rows, columns=list(MANIFEST), dtype=object).astype({"fold": "Int64"})


def random_crops(count: int, side: int = 8) -> NDArray[np.uint8]:
    """Returns crops uint8[count, side, side, 3] of uniform noise."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
