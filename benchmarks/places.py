"""Measures whether heat maps find cells whose places are known: fields composed of BCCD's single cells.

Each image is a field of 160 pixels with a plain ground, one white cell or one platelet at a random place, which is the
class, and three red cells of the same smear. The box of the class's cell is known. A study of the fields is made by
`tumorboard new`, trained by `dvc repro`, and its scores of the maps are printed beside those of the center.

    python -m benchmarks.places --data ../shared/data/bccd_cells
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from benchmarks import argument_parser, machine
from tumorboard.base.randomness import keys_of

SIDE = 160  # side of a field in pixels
CLASSES = ("WBC", "Platelets")
OTHERS = "RBC"
COUNT = 3  # other cells per field
MARGIN = 0.15  # share of a cell's box that BCCD's crops have more at each side
TRIES = 200  # random places per cell


class Place(NamedTuple):
    """A square in pixels of a field."""

    left: int
    top: int
    side: int

    def overlaps(self, other: "Place") -> bool:
        """Returns whether two squares have a pixel in common.

        >>> Place(0, 0, 10).overlaps(Place(9, 9, 5)), Place(0, 0, 10).overlaps(Place(10, 0, 5))
        (True, False)
        """
        beside = self.left + self.side <= other.left or other.left + other.side <= self.left
        above = self.top + self.side <= other.top or other.top + other.side <= self.top
        return not (beside or above)

    def without_margin(self) -> tuple[float, float, float, float]:
        """Returns x, y, width and height of the cell in its square.

        >>> Place(10, 20, 130).without_margin()
        (25.0, 35.0, 100.0, 100.0)
        """
        edge = self.side * MARGIN / (1 + 2 * MARGIN)
        return self.left + edge, self.top + edge, self.side - 2 * edge, self.side - 2 * edge


def draw_place(side: int, taken: list[Place], generator: np.random.Generator) -> Place | None:
    """Returns a random square that overlaps none of the others; None where none is found."""
    for _ in range(TRIES):
        left, top = generator.integers(0, SIDE - side + 1, 2).tolist()
        place = Place(left, top, side)
        if not any(place.overlaps(other) for other in taken):
            return place
    return None


def paste(field: NDArray[np.uint8], cell: NDArray[np.uint8], place: Place) -> None:
    """Blends a cell into a field within a circle of soft edge, so that its square leaves no line."""
    rows, columns = np.mgrid[0 : place.side, 0 : place.side] - (place.side - 1) / 2
    radius = np.hypot(rows, columns) / (place.side / 2)
    weight = np.clip((1 - radius) / 0.15, 0, 1)[..., None]
    part = field[place.top : place.top + place.side, place.left : place.left + place.side]
    part[:] = np.rint(weight * cell + (1 - weight) * part).astype(np.uint8)


def compose(
    cell: NDArray[np.uint8], others: list[NDArray[np.uint8]], generator: np.random.Generator
) -> tuple[NDArray[np.uint8], Place]:
    """Returns a field uint8[SIDE, SIDE, 3] and the square of the cell of its class.

    Args:
        cell: uint8[S, S, 3], of the class.
        others: cells that all classes have, each uint8[S, S, 3].
        generator: draws the places.
    """
    edges = np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]])
    field = np.empty((SIDE, SIDE, 3), np.uint8)
    field[:] = np.quantile(edges, 0.75, axis=0).round().astype(np.uint8)
    field = cv2.add(field, generator.integers(0, 4, field.shape, dtype=np.uint8))  # type: ignore[assignment]
    place = draw_place(len(cell), [], generator)
    assert place is not None, f"a cell of {len(cell)} pixels is larger than a field"
    paste(field, cell, place)
    taken = [place]
    for other in others:
        if spot := draw_place(len(other), taken, generator):
            taken.append(spot)
            paste(field, other, spot)
    return field, place


def read_cell(file: Path, largest: int) -> NDArray[np.uint8]:
    """Reads a square image in OpenCV's order of channels, shrunk to at most `largest` pixels."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert image is not None, f"{file} is no image"
    side = min(len(image), largest)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def write_fields(data: Path, out: Path) -> int:
    """Writes fields by class, labels.csv and boxes.csv; returns the number of fields."""
    labels, boxes = [], []
    for name in CLASSES:
        (out / name).mkdir(parents=True)
        for file in sorted((data / name).glob("*.png")):
            smear = "_".join(file.stem.split("_")[:2])
            generator = np.random.default_rng(int(keys_of([file.name])[0]))
            cells = [read_cell(other, 48) for other in sorted((data / OTHERS).glob(f"{smear}_*.png"))[:COUNT]]
            field, place = compose(read_cell(file, 64), cells, generator)
            path = f"{name}/{file.name}"
            cv2.imwrite(str(out / path), field)
            labels.append((path, name, smear))
            boxes.append((path, *place.without_margin()))
    pd.DataFrame(labels, columns=["path", "label", "group"]).to_csv(out / "labels.csv", index=False)
    pd.DataFrame(boxes, columns=["path", "x", "y", "width", "height"]).to_csv(out / "boxes.csv", index=False)
    return len(labels)


def run_study(fields: Path, study: Path, changes: Mapping[str, Any]) -> None:
    """Makes a study of the fields and runs it."""
    programs = Path(sys.executable).parent
    new = ["new", str(study), "--data", str(fields), "--unit", "smear", "--preset", "cells"]
    subprocess.run([programs / "tumorboard", *new], check=True)
    file = study / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    for section, values in changes.items():
        params[section] = {**params.get(section, {}), **values} if isinstance(values, dict) else values
    file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run([programs / "dvc", "repro"], cwd=study, check=True)


def table_of(scores: Mapping[str, Any]) -> list[str]:
    """Returns a table of places.json: pointing and overlap of each map with their intervals."""
    lines = [
        f"{scores['images']} images of {scores['groups']} smears with {scores['boxes']} boxes",
        "",
        "| map | pointing | overlap |",
        "|---|---|---|",
    ]
    for name, row in scores["maps"].items():
        cells = [interval_of(row, score) for score in ("pointing", "iou")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def interval_of(row: Mapping[str, Any], score: str) -> str:
    """Returns a score with its interval, where it has one.

    >>> interval_of({"iou": 0.5, "iou_low": 0.4, "iou_high": 0.6}, "iou")
    '0.50 (0.40 to 0.60)'
    """
    low, high = row.get(f"{score}_low"), row.get(f"{score}_high")
    return f"{row[score]:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def main() -> None:
    """Composes the fields, trains, and prints the table of the test images."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of BCCD's cells")
    parser.add_argument("--models", default="cnn,resnet18", help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=96, help="of the crops in pixels (default: %(default)s)")
    parser.add_argument("--sample", type=Path, help="write a few fields, with their boxes drawn, to this PNG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fields = Path(temporary) / "fields"
        print(f"{write_fields(options.data, fields)} fields")
        if options.sample:
            write_sample(fields, options.sample)
        changes = {
            "models": options.models.split(","),
            "data": {"boxes": "boxes.csv"},
            "crop": {"side": options.side, "border": False},
        }
        run_study(fields, Path(temporary) / "study", changes)
        scores = json.loads((Path(temporary) / "study/metrics/test/places.json").read_text(encoding="utf-8"))
        if options.sample:
            shutil.copy(Path(temporary) / "study/report/index.html", options.sample.with_suffix(".html"))
    print(*table_of(scores), "", f"{machine()}", sep="\n")


def write_sample(fields: Path, file: Path) -> None:
    """Draws the first four fields of each class beside each other, with their boxes."""
    boxes = pd.read_csv(fields / "boxes.csv")
    rows = []
    for name in CLASSES:
        pictures = []
        for row in boxes[boxes["path"].str.startswith(name)].head(4).itertuples(index=False):
            picture = cv2.imread(str(fields / str(row.path)))
            corner = (round(row.x), round(row.y))
            cv2.rectangle(picture, corner, (round(row.x + row.width), round(row.y + row.height)), (0, 200, 0), 1)
            pictures.append(picture)
        rows.append(np.hstack(pictures))
    cv2.imwrite(str(file), np.vstack(rows))


if __name__ == "__main__":
    main()
