"""Draws pictures in rows, each below its caption."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import FigureImage
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from tumorboard.report.style import STYLE, WIDTH

_CAPTION_SIZE = 8.0  # points; size of the text above a picture
_GAP = 0.06  # space between two pictures, as a share of their side
_HEAD = 0.17  # height of a line of a caption, as a share of the side


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def contact_sheet(images: NDArray[np.uint8], captions: Sequence[str], columns: int, *, lines: int = 2) -> Figure:
    """Draws pictures in rows.

    Args:
        images: uint8[N, S, S, 3], RGB.
        captions: N texts, drawn above the pictures.
        columns: pictures per row.
        lines: the most lines of a caption.
    """
    figure = Figure((WIDTH, 1))
    places = sheet_places(len(images), columns, lines, dpi=figure.dpi)
    sheet = np.full((places.height, places.width, 3), 255, np.uint8)
    for image, left, top in zip(images, places.lefts, places.tops, strict=True):
        sheet[top : top + places.side, left : left + places.side] = fit_picture(image, places.side)
    figure.set_size_inches(WIDTH, (places.height + 0.5) / figure.dpi)  # matplotlib cuts off fractions of a pixel
    figure.images.append(_Pixels(figure, sheet))
    for caption, left, top in zip(captions, places.lefts, places.tops, strict=True):
        at = left / places.width, 1 - (top - places.side * 0.04) / places.height
        figure.text(*at, caption, fontsize=_CAPTION_SIZE, va="bottom", ha="left", linespacing=1.1)
    _fit_captions(figure, columns)
    return figure


class _Pixels(FigureImage):
    """A picture as large as its figure, which is drawn as it is; matplotlib would resample it."""

    def __init__(self, figure: Figure, pixels: NDArray[np.uint8]) -> None:
        super().__init__(figure)
        self._A = pixels  # `set_data` would copy them twice
        self._rgba = np.dstack([pixels[::-1], np.full(pixels.shape[:2], 255, np.uint8)])

    def make_image(
        self,
        renderer: RendererBase,  # noqa: ARG002
        magnification: float = 1.0,  # noqa: ARG002
        unsampled: bool = False,  # noqa: ARG002
    ) -> tuple[NDArray[np.uint8], float, float, Affine2D]:
        """Returns the pixels, the lowest row first, and where they begin."""
        return self._rgba, 0, 0, Affine2D()


class SheetPlaces(NamedTuple):
    """Where the pictures of a contact sheet are, in pixels from its upper left."""

    width: int  # width of the sheet
    height: int  # height of the sheet
    side: int  # side of a picture
    lefts: list[int]
    tops: list[int]


def sheet_places(count: int, columns: int, lines: int, *, dpi: float) -> SheetPlaces:
    """Computes the places of the pictures of a sheet, each below its caption.

    Args:
        count: number of pictures.
        columns: pictures per row.
        lines: lines of text per caption.
        dpi: pixels of the sheet per inch.

    >>> sheet_places(3, 2, 1, dpi=100)
    SheetPlaces(width=1100, height=1215, side=518, lefts=[0, 550, 0], tops=[88, 88, 695])
    """
    cell = WIDTH * dpi / columns
    side = cell / (1 + _GAP)
    row = side * (1 + _HEAD * lines)
    rows = -(-count // columns)
    return SheetPlaces(
        width=round(WIDTH * dpi),
        height=math.ceil(rows * row),
        side=math.floor(side),
        lefts=[round(number % columns * cell) for number in range(count)],
        tops=[round(number // columns * row + row - side) for number in range(count)],
    )


def fit_picture(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns a square picture enlarged or reduced to a side in pixels."""
    kind = cv2.INTER_AREA if side < len(image) else cv2.INTER_LANCZOS4
    fitted: NDArray[np.uint8] = cv2.resize(image, (side, side), interpolation=kind).astype(np.uint8)
    return fitted


def _fit_captions(figure: Figure, columns: int) -> None:
    """Reduces the font size of a caption that would reach the next one in its row."""
    captions = figure.texts
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    cell = figure.bbox.width / columns
    for index, caption in enumerate(captions):
        if not caption.get_text():
            continue
        later = captions[index + 1 : index - index % columns + columns]
        empty = next((count for count, text in enumerate(later) if text.get_text()), len(later))
        room, width = cell * (empty + 1) * 0.98, caption.get_window_extent(renderer).width
        if width > room:
            caption.set_fontsize(_CAPTION_SIZE * room / width)
