"""Reads a table of boxes around lesions, and finds where the boxes lie in the crops that models see."""

import math
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.data_params import Data
from tumorboard.base.errors import ImageError, InputError, clip, printable
from tumorboard.base.files import read_table
from tumorboard.base.params import Crop
from tumorboard.base.progress import tracked
from tumorboard.base.tables import Images
from tumorboard.data.sources import read_content
from tumorboard.data.table_text import describe_title, read_table_text
from tumorboard.images.crop import decode_for_crop, locate_square

Boxes: TypeAlias = pd.DataFrame  # one row per box: path; x, y, width, height float64, pixels of the upright image

BOX_COLUMNS = ("path", "x", "y", "width", "height")
ROUNDING = 1.0  # pixels that a box may reach beyond the edge of its image


class CropBox(NamedTuple):
    """A box in pixels of a crop; its edges are within the crop."""

    left: float
    top: float
    right: float
    bottom: float


def read_placed_boxes(data: Data, tables: Path, crop: Crop) -> dict[str, list[CropBox]]:
    """Reads the boxes that `data.boxes` names and returns those of each image in pixels of its crop.

    Args:
        data: `boxes` names the table inside `raw`, None: there is none; the rest defines how images are read.
        tables: folder with images.csv and quarantined.csv, as the stage crop writes them.
        crop: how the images were cropped, as `place_boxes` takes it.

    Raises:
        InputError: there is no such table, or a row of it cannot be used.
    """
    boxes = read_listed_boxes(data, tables)
    return {} if boxes is None else place_boxes(boxes, data, crop)


def read_listed_boxes(data: Data, tables: Path) -> Boxes | None:
    """Reads and checks the table that `data.boxes` names; None where it names none.

    Args:
        data: `boxes` names the table inside `raw`.
        tables: folder with images.csv and quarantined.csv, as the stage crop writes them.

    Raises:
        InputError: there is no such table, or a row of it cannot be used.
    """
    if data.boxes is None:
        return None
    raw = Path(data.raw)
    if not raw.is_dir():
        raise InputError(f"data.boxes: {raw} is no folder, so that no table lies in it: leave data.boxes empty")
    file = raw / data.boxes
    if not file.is_file():
        raise InputError(f"data.boxes: there is no {file}: name a CSV file inside {raw}")
    return read_boxes(file, read_table(tables / "images.csv"), read_table(tables / "quarantined.csv"))


def read_boxes(file: Path, images: Images, quarantined: pd.DataFrame) -> Boxes:
    """Reads and checks a table of boxes.

    Args:
        file: table with BOX_COLUMNS and perhaps others; several rows may have one path.
        images: the usable images: id, width, height, as images.csv has them.
        quarantined: files that cannot be used, in the column path; their boxes are left out.

    Raises:
        InputError: a column is missing; or a path is unknown, a cell is no number, or a box is empty or reaches beyond
            its image by more than a pixel, and the message names the line.
    """
    text = read_table_text(file)
    if missing := [name for name in BOX_COLUMNS if name not in text.header]:
        title = describe_title(file, BOX_COLUMNS)
        raise InputError(f"{file}: {title or f'has no column {missing[0]}, expected ' + ', '.join(BOX_COLUMNS)}")
    numbers = images[["width", "height"]].to_numpy(np.float64)
    sizes = {name: (width, height) for name, (width, height) in zip(images["id"], numbers.tolist(), strict=True)}
    unusable = set(quarantined["path"])
    rows = []
    for line, cells in text.rows:
        where = f"{file}: line {line}"
        path, *texts = (cells[name] for name in BOX_COLUMNS)
        if path in unusable:
            continue
        if path not in sizes:
            example = next(iter(sizes), "")
            raise InputError(
                f"{where}: there is no image {printable(clip(path))!r}: name paths inside the data, such as {example!r}"
            )
        values = [_number(text, name, where) for text, name in zip(texts, BOX_COLUMNS[1:], strict=True)]
        _check_box(values, sizes[path], where)
        rows.append((path, *values))
    return pd.DataFrame(rows, columns=list(BOX_COLUMNS)).astype(dict.fromkeys(BOX_COLUMNS[1:], np.float64))


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {name} is {printable(clip(text))!r}, expected a number of pixels")
    return value


def _check_box(values: list[float], size: tuple[float, float], where: str) -> None:
    x, y, width, height = values
    for name, length in (("width", width), ("height", height)):
        if length <= 0:
            raise InputError(f"{where}: {name} is {length:g}, expected more than 0 pixels")
    inside = min(x, y) >= -ROUNDING and x + width <= size[0] + ROUNDING and y + height <= size[1] + ROUNDING
    if not inside:
        raise InputError(
            f"{where}: the box from ({x:g}, {y:g}) to ({x + width:g}, {y + height:g}) is not inside its image of "
            f"{size[0]:g} x {size[1]:g} pixels: x and y are its upper left corner, in pixels of the original image"
        )


def place_boxes(boxes: Boxes, data: Data, crop: Crop) -> dict[str, list[CropBox]]:
    """Returns the boxes of each image in pixels of its crop; decodes each image.

    Args:
        boxes: the boxes, as `read_boxes` returns them.
        data: where the images are, which frame counts, and where links may lead.
        crop: how they were cropped, from a model's card, which has the range of grey that `window` became.

    Returns:
        Boxes by path; parts outside the square that models see are cut off, and boxes wholly outside are left out.

    Raises:
        InputError: an image cannot be read any more.
    """
    placed: dict[str, list[CropBox]] = {}
    paths = boxes["path"].unique().tolist()
    by_path = dict(tuple(boxes.groupby("path", sort=False)))
    for path in tracked(paths, "boxes", "image"):
        try:
            content = read_content(Path(data.raw), path, crop.max_bytes, data.links)
            square = locate_square(*decode_for_crop(content, crop, data.frames), crop)
        except ImageError as error:
            raise InputError(f"{printable(path)}: changed since it was cropped: {error}: run `dvc repro`") from None
        across, down, rows = crop.side / square.width, crop.side / square.height, by_path[path]
        corners = {
            "left": (rows["x"] - square.left) * across,
            "top": (rows["y"] - square.top) * down,
            "right": (rows["x"] + rows["width"] - square.left) * across,
            "bottom": (rows["y"] + rows["height"] - square.top) * down,
        }
        clipped = pd.DataFrame(corners).clip(0, crop.side)
        kept = clipped[(clipped["right"] > clipped["left"]) & (clipped["bottom"] > clipped["top"])]
        placed[path] = [CropBox(*map(float, row)) for row in kept.to_numpy()]
    return placed
