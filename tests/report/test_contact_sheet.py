import io

import numpy as np
import pytest
from PIL import Image

from tests.report.sheets import pictures_of, show
from tumorboard.report.contact_sheet import contact_sheet, fit_picture
from tumorboard.report.plots import to_png


def test_captions_end_before_the_next_picture():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    figure = contact_sheet(images, ["W" * 60, "", "W" * 60, "short"], 4)
    to_png(figure)
    first, _, third, last = (text.get_window_extent() for text in figure.texts)
    assert first.x1 <= third.x0
    assert third.x1 <= last.x0
    assert figure.texts[3].get_fontsize() == 8


def test_contact_sheet_shows_each_picture_in_its_place():
    pure = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    images = np.broadcast_to(pure[:, None, None], (3, 8, 8, 3))
    sheet = np.asarray(Image.open(io.BytesIO(to_png(contact_sheet(images, ["$r", "", "<b>\ntwo"], 2)))))
    height, width = sheet.shape[:2]
    for (row, column), color in zip([(0, 0), (0, 1), (1, 0)], pure, strict=True):
        at = sheet[int(height * (row / 2 + 0.35)), int(width * (column / 2 + 0.25)), :3]
        assert at.tolist() == color.tolist()
    assert sheet[int(height * 0.85), int(width * 0.75), :3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("count", "columns", "lines"), [(1, 1, 1), (7, 3, 2), (13, 12, 5), (40, 6, 11)])
def test_a_sheet_is_drawn_pixel_by_pixel(count, columns, lines):
    """Pictures of noise stand in the file as they were enlarged, whatever the numbers; captions are above them."""
    images = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)
    figure = contact_sheet(images, [""] * count, columns, lines=lines)
    drawn = pictures_of(figure, columns, lines)
    assert all(show(image, one) for image, one in zip(images, drawn, strict=True))
    saved = np.asarray(Image.open(io.BytesIO(to_png(figure))))
    np.testing.assert_array_equal(saved, np.asarray(figure.images[0].get_array()))


def test_a_picture_keeps_its_brightness_when_it_is_enlarged_or_reduced():
    image = np.full((50, 50, 3), (10, 128, 250), np.uint8)
    for side in (20, 50, 111):
        assert (fit_picture(image, side) == (10, 128, 250)).all()
    checkered = np.indices((50, 50)).sum(0) % 2 * np.uint8(255)
    reduced = fit_picture(np.repeat(checkered[..., None], 3, axis=2).astype(np.uint8), 25)
    assert np.abs(reduced.astype(int) - 127).max() <= 1, "reduction averages, it does not pick pixels"
