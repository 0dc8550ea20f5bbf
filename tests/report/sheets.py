"""Finds the pictures of a contact sheet."""

import numpy as np
from matplotlib.figure import Figure

from tumorboard.report.contact_sheet import fit_picture, sheet_places


def pictures_of(figure: Figure, columns: int, lines: int = 2) -> list[np.ndarray]:
    """Returns the pictures of a sheet as they are drawn, one per caption, empty captions included."""
    (sheet,) = figure.images
    pixels = np.asarray(sheet.get_array())
    places = sheet_places(len(figure.texts), columns, lines, dpi=figure.dpi)
    assert pixels.shape == (places.height, places.width, 3)
    return [
        pixels[top : top + places.side, left : left + places.side]
        for left, top in zip(places.lefts, places.tops, strict=True)
    ]


def show(picture: np.ndarray, drawn: np.ndarray) -> bool:
    """Returns whether a drawn picture is this one, enlarged."""
    return bool((fit_picture(picture, len(drawn)) == drawn).all())
