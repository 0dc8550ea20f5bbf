"""Shows where the members and the vote see the evidence, and the first layers before and after training."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tumorboard.base.tables import Predictions, classes_of, probabilities_of
from tumorboard.panel.examples import MISTAKE, TYPICAL, UNCERTAIN, Examples
from tumorboard.panel.filters import FirstLayer
from tumorboard.panel.heat_maps import VOTE, draw_maps
from tumorboard.report.contact_sheet import contact_sheet
from tumorboard.report.lettering import drawable_names, font_families, shorten
from tumorboard.report.plots import draw_pixels
from tumorboard.report.results import Part, Results

TITLES = {
    MISTAKE: "The most confident mistakes",
    UNCERTAIN: "The least certain images",
    TYPICAL: "Typical right ones of each class",
}

_MOST_COLUMNS = 13  # pictures per row, at most
_LETTERS = 20  # letters per line of a caption, which is drawn smaller where it would reach the next one
_FILTER_SIDE = 200  # pixels of an enlarged filter, at least, so that its cells stay sharp
_WEBP_METHOD = 2  # effort from 0 to 6; the highest one takes four times as long for 4 % fewer bytes
_WEBP_QUALITY = 82  # quality from 0 to 100; a PNG of the same sheet has ten times as many bytes


@dataclass(frozen=True)
class Sheet:
    """Images of one part and kind with their maps."""

    part: str  # 'validation' or 'test'
    title: str
    picture: bytes  # WebP
    examples: Examples  # the sheet's images


@dataclass(frozen=True)
class Explained:
    """The report's sheets of maps, scores of places, and filters."""

    sheets: Sequence[Sheet]
    with_map: Sequence[str]  # models with a map
    without_map: Sequence[str]
    places: Mapping[str, Mapping[str, Any]]  # `panel.lesions.score_lesions` of each part with boxes
    filters: Sequence[tuple[str, float, bytes]]  # model, change of its first layer (nan: unknown), WebP


def draw_explained(results: Results) -> Explained:
    """Draws the sheets of each part, mistakes first, and the filters of each model."""
    parts = [part for part in (results.test, results.validation) if part is not None]
    texts = drawable_names(classes_of(results.validation.heading))
    mapped = results.explained[results.validation.name].members
    with mpl.rc_context({"font.family": font_families(list(texts))}):
        return Explained(
            sheets=[sheet for part in parts for sheet in _draw_sheets(results, part, texts)],
            with_map=[name for name in results.recipes if name in mapped],
            without_map=[name for name in results.recipes if name not in mapped],
            places={part.name: results.places[part.name] for part in parts if results.places[part.name]},
            filters=[
                (name, float(layer.change[0]), to_webp(draw_filters(layer))) for name, layer in results.filters.items()
            ],
        )


def _draw_sheets(results: Results, part: Part, texts: Mapping[str, str]) -> Iterator[Sheet]:
    """Yields a sheet per kind of images that occurs, if a model has a map."""
    explained = results.explained[part.name]
    if not explained.members:
        return
    maps = {name: explained.members[name] for name in part.members if name in explained.members}
    maps |= {} if explained.vote is None else {VOTE: explained.vote}
    tables = {name: part.heading if name == VOTE else part.members[name] for name in maps}
    for kind, title in TITLES.items():
        rows = np.flatnonzero(explained.examples["kind"] == kind)
        if rows.size:
            examples = explained.examples.iloc[rows]
            crops = results.load_crops(examples["id"].tolist())
            pictures = [crops, *(draw_maps(crops, one[rows]) for one in maps.values())]
            figure = _draw_cases(np.stack(pictures, axis=1), _captions(examples, tables, texts))
            yield Sheet(part.name, title, to_webp(figure), examples)


def _captions(examples: Examples, tables: Mapping[str, Predictions], texts: Mapping[str, str]) -> list[list[str]]:
    """Returns per image the label, then the class and probability that each model and the vote decide for."""
    decisions = [decide_rows(table, examples["id"].tolist()) for table in tables.values()]
    captions = []
    for position, label in enumerate(examples["label"]):
        lines = [f"label\n{shorten(texts[label], _LETTERS)}"]
        for name, (decided, probabilities) in zip(tables, decisions, strict=True):
            mark = "" if decided[position] == label else "✗ "
            # The number comes first: behind a name that is read from right to left it would be moved.
            decision = f"{mark}{probabilities[position]:.2f} {texts[decided[position]]}"
            lines.append(f"{shorten(name, _LETTERS)}\n{shorten(decision, _LETTERS)}")
        captions.append(lines)
    return captions


def decide_rows(table: Predictions, ids: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Returns the most probable class of images and its probability float64[N].

    >>> import pandas as pd
    >>> table = pd.DataFrame({"id": ["x", "y"], "p_a": [0.4, 0.9], "p_b": [0.6, 0.1]})
    >>> decide_rows(table, ["y", "x"])
    (['a', 'b'], array([0.9, 0.6]))
    """
    rows = table[table["id"].isin(ids)].set_index("id").loc[list(ids)]
    probabilities = probabilities_of(rows)
    classes = classes_of(rows)
    return [classes[index] for index in probabilities.argmax(1)], probabilities.max(1)


def _draw_cases(pictures: NDArray[np.uint8], captions: Sequence[Sequence[str]]) -> Figure:
    """Draws cases beside and below each other.

    Args:
        pictures: uint8[N, P, S, S, 3], P pictures per case.
        captions: N times P texts.
    """
    count, width = pictures.shape[:2]
    beside = max(1, min(count, (_MOST_COLUMNS + 1) // (width + 1)))
    columns = beside * (width + 1) - 1
    white = np.full_like(pictures[0, :1], 255)
    cells: list[NDArray[np.uint8]] = []
    texts: list[str] = []
    for number in range(count):
        cells.append(pictures[number])
        texts += captions[number]
        if number % beside < beside - 1:  # a gap between two cases
            cells.append(white)
            texts.append("")
    return contact_sheet(np.concatenate(cells), texts, columns)


def draw_filters(layer: FirstLayer) -> Figure:
    """Draws filters before training, the same filters after it, and their change.

    Grey is 0. One scale holds before and after; the change has its own, since it is often too small to be seen.
    """
    rows: dict[str, NDArray[np.float32]] = {"after training": layer.after / _largest(layer.after)}
    if len(layer.before):
        scale = _largest(np.concatenate([layer.before, layer.after]))
        change = layer.after - layer.before
        rows = {
            "before training": layer.before / scale,
            "after training": layer.after / scale,
            f"change, {scale / _largest(change):.1f} times as strong": change / _largest(change),
        }
    count, height, width = layer.after.shape[:3]
    side = max(height, width)
    squares = np.full((len(rows) * count, side, side, 3), 255, np.uint8)
    squares[:, :height, :width] = np.rint(255 * (0.5 + 0.5 * np.concatenate(list(rows.values()))))
    times = -(-_FILTER_SIDE // side)
    captions = [name if number == 0 else "" for name in rows for number in range(count)]
    return contact_sheet(squares.repeat(times, 1).repeat(times, 2), captions, count)


def _largest(filters: NDArray[np.float32]) -> float:
    return float(np.abs(filters).max()) or 1.0


def to_webp(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a WebP file, the same on each call."""
    buffer = io.BytesIO()
    draw_pixels(figure).save(buffer, format="webp", quality=_WEBP_QUALITY, method=_WEBP_METHOD)
    return buffer.getvalue()
