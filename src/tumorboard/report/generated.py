"""Reads and draws generated training images beside the training images that they resemble most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.files import read_table
from tumorboard.data.store import CropStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NearestImages: TypeAlias = pd.DataFrame  # one row per generated image: id, label, nearest, nearest_label, turns, ...
ReadCrops: TypeAlias = Callable[[Sequence[str]], NDArray[np.uint8]]  # N ids to their crops, uint8[N, S, S, 3]

_PAIRS = 6  # pairs per row of the figure


@dataclass(frozen=True)
class Generated:
    """The generated training images of one fold."""

    fold: int
    table: NearestImages
    load_crops: ReadCrops  # reads the crops of generated and of training images


def read_generated(balance: Path, store: Path, folds: Sequence[int]) -> Generated | None:
    """Reads the generated images of the first of some folds; None where none were generated.

    Args:
        balance: output folder of the balance stage, with a folder per fold.
        store: folder of the crops.
        folds: numbers of one or more folds.
    """
    folder = balance / str(folds[0])
    if not (folder / "generated.csv").is_file():
        return None
    table = read_table(folder / "generated.csv")
    table = table.astype({"turns": np.int64, "correlation": np.float64, "detail": np.float64})
    table["mirrored"] = table["mirrored"] == "True"
    return Generated(folds[0], table, CropStore(store, folder / "store").__getitem__)


def count_alike(generated: Generated, near: float | None) -> int:
    """Returns how many generated images nearly equal a training image; `near` is `audit.near`, None for never."""
    return 0 if near is None else int((generated.table["detail"] >= near).sum())


def draw_generated(generated: Generated, texts: Mapping[str, str]) -> "Figure":
    """Draws two rows per class: six generated images as they come, then the six most alike to a training image.

    The training image is right of each, turned and mirrored as it fits best, below the correlation of the details and,
    if it differs, its class.

    Args:
        generated: one generated image or more.
        texts: the text that stands for each class in pictures, by class.
    """
    from tumorboard.report.contact_sheet import contact_sheet  # here, because matplotlib is slow to import
    from tumorboard.report.lettering import shorten

    crops, captions = [], []
    for label, rows in generated.table.groupby("label", sort=True):
        alike = rows.sort_values(["detail", "id"], ascending=[False, True])
        for heading, chosen in (("generated", rows), ("most alike", alike)):
            pairs = chosen.head(_PAIRS)
            crops.append(_pair_crops(pairs, generated.load_crops))
            for number, row in enumerate(pairs.to_dict("records")):
                other = "" if row["nearest_label"] == label else f"\n{shorten(texts[row['nearest_label']], 10)}"
                first = f"{shorten(texts[str(label)], 10)}\n{heading}" if number == 0 else ""
                captions += [first, f"{row['detail']:.2f}{other}"]
            captions += [""] * 2 * (_PAIRS - len(pairs))
    return contact_sheet(np.concatenate(crops), captions, 2 * _PAIRS)


def _pair_crops(pairs: NearestImages, load_crops: ReadCrops) -> NDArray[np.uint8]:
    """Returns the crops uint8[12, S, S, 3] of generated and nearest images by turns; missing ones are white."""
    drawn, nearest = (load_crops(pairs[column].tolist()) for column in ("id", "nearest"))
    row = np.full((2 * _PAIRS, *drawn.shape[1:]), 255, dtype=np.uint8)
    row[0 : 2 * len(pairs) : 2] = drawn
    for position, (crop, turns, mirrored) in enumerate(zip(nearest, pairs["turns"], pairs["mirrored"], strict=True)):
        row[2 * position + 1] = np.rot90(crop[:, ::-1] if mirrored else crop, turns)
    return row
