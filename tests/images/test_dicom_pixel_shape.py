"""Pixels of DICOM files that are not square: which attribute counts, resampling, limits; values by hand."""

from typing import Any

import numpy as np
import pytest

from tests.images.samples import CROP, decode_rgb, header_of, reason_for
from tumorboard.base.errors import ImageError
from tumorboard.images.crop import crop_file, decode_for_crop, locate_square
from tumorboard.images.dicom_pixel_shape import square_stretch
from tumorboard.images.header import Header

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
from pydicom.dataset import Dataset  # noqa: E402

from tests.images.test_dicom import dicom  # noqa: E402

TALL = np.array([[0, 200], [100, 200]], np.uint8)


def shape(**tags: Any) -> tuple[int, int]:
    """Returns height and width of a decoded picture of 4 x 6 pixels."""
    return decode_rgb(dicom(np.zeros((4, 6), np.uint8), **tags)).shape[:2]


def detail(**tags: Any) -> str:
    with pytest.raises(ImageError) as caught:
        shape(**tags)
    assert caught.value.reason == "corrupt"
    return caught.value.detail


def test_rows_that_lie_twice_as_far_apart_are_interpolated() -> None:
    # Four rows at -0.25, 0.25, 0.75 and 1.25 of the two stored ones; beyond the edge the edge counts.
    pixels = decode_rgb(dicom(TALL, PixelSpacing=[1, 0.5]))[..., 0]
    assert pixels.tolist() == [[0, 200], [25, 200], [75, 200], [100, 200]]


def test_wide_pixels_enlarge_the_columns_of_a_color_picture() -> None:
    color = np.stack([TALL.T, TALL.T, 255 - TALL.T], -1)
    pixels = decode_rgb(dicom(color, PixelAspectRatio=[1, 2]))
    assert pixels.shape == (2, 4, 3)
    assert pixels[0].tolist() == [[0, 0, 255], [25, 25, 230], [75, 75, 180], [100, 100, 155]]


@pytest.mark.parametrize(
    ("tags", "size"),
    [
        ({"PixelAspectRatio": [3, 2]}, (6, 6)),  # vertical size before horizontal size
        ({"PixelAspectRatio": [2, 3]}, (4, 9)),
        ({"PixelSpacing": [0.3, 0.2]}, (6, 6)),  # spacing of rows before that of columns
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (4, 9)),
        ({"NominalScannedPixelSpacing": [0.4, 0.2]}, (8, 6)),
        # The patient's spacing precedes the detector's, the detector's that of a scanner, and each the ratio.
        ({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [2, 1]}, (4, 6)),
        ({"ImagerPixelSpacing": [2, 1], "NominalScannedPixelSpacing": [1, 1]}, (8, 6)),
        ({"NominalScannedPixelSpacing": [1, 1], "PixelAspectRatio": [2, 1]}, (4, 6)),
        ({"PixelSpacing": "", "PixelAspectRatio": [2, 1]}, (8, 6)),  # no value: the next one counts
        ({"PixelAspectRatio": [10, 1]}, (40, 6)),
        ({}, (4, 6)),
    ],
)
def test_the_attribute_that_counts(tags: dict[str, Any], size: tuple[int, int]) -> None:
    assert shape(**tags) == size


def test_nearly_square_pixels_stay_as_they_are() -> None:
    wide = np.zeros((4, 300), np.uint8)
    assert decode_rgb(dicom(wide, PixelSpacing=["0.5", "0.505"])).shape[:2] == (4, 300)
    assert decode_rgb(dicom(wide, PixelSpacing=["0.5", "0.506"])).shape[:2] == (4, 304)  # 300 * 1.012 = 303.6


def measures(spacing: list[float]) -> Dataset:
    group, item = Dataset(), Dataset()
    item.PixelSpacing = spacing
    group.PixelMeasuresSequence = [item]
    return group


def test_a_frames_own_spacing_precedes_the_shared_one_and_the_data_sets() -> None:
    frames = np.zeros((2, 4, 6), np.uint8)
    tags = {"NumberOfFrames": 2, "SharedFunctionalGroupsSequence": [measures([1, 1])], "PixelSpacing": [3, 1]}
    assert decode_rgb(dicom(frames, **tags), frames="middle").shape[:2] == (4, 6)
    own = [measures([1, 1]), measures([2, 1])]
    content = dicom(frames, PerFrameFunctionalGroupsSequence=own, **tags)
    assert decode_rgb(content, frames="first").shape[:2] == (4, 6)
    assert decode_rgb(content, frames="middle").shape[:2] == (8, 6)
    bare = Dataset()
    bare.PixelMeasuresSequence = [Dataset()]  # states a thickness at most: the data set's spacing counts
    content = dicom(frames, PerFrameFunctionalGroupsSequence=[bare, bare], NumberOfFrames=2, PixelSpacing=[3, 1])
    assert decode_rgb(content, frames="first").shape[:2] == (12, 6)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelSpacing": [0, 0]}, r"PixelSpacing is '0.0\0.0', expected two numbers above 0"),
        ({"PixelSpacing": [-1, 1]}, "PixelSpacing is '-1"),
        ({"PixelSpacing": "0.5"}, "PixelSpacing is '0.5', expected two numbers"),
        ({"ImagerPixelSpacing": ["1", "1", "1"]}, "expected two numbers"),
        ({"PixelAspectRatio": [0, 1]}, "PixelAspectRatio is '0"),
        ({"PixelAspectRatio": [11, 1]}, "pixels of 11 to 1, expected at most 10 to 1"),
        ({"PixelSpacing": ["0.1", "1.5"]}, "pixels of 15 to 1"),
        ({"PixelSpacing": ["1e-300", "1e300"]}, "expected at most 10 to 1"),
    ],
)
def test_shapes_that_cannot_be_are_named(tags: dict[str, Any], words: str) -> None:
    assert words in detail(**tags)


@pytest.mark.parametrize("text", [b"ab", b"na", b"0,"])
def test_a_shape_of_text_is_named(text: bytes) -> None:
    content = dicom(np.zeros((4, 6), np.uint8), PixelSpacing=["12", "12"]).replace(b"12\\12", text + b"\\12")
    with pytest.raises(ImageError, match="corrupt: PixelSpacing is '"):
        decode_rgb(content)
    ratio = dicom(np.zeros((4, 6), np.uint8), PixelAspectRatio=["12", "12"]).replace(b"12\\12", text + b"\\12")
    with pytest.raises(ImageError, match="corrupt: "):
        decode_rgb(ratio)


def test_limits_count_square_pixels() -> None:
    content = dicom(np.zeros((40, 60), np.uint8), PixelSpacing=[3, 1])  # 60 x 120 pixels
    assert reason_for(content, max_pixels=7199) == "too many pixels"
    assert decode_rgb(content, max_pixels=7200).shape[:2] == (120, 60)
    assert reason_for(content, max_aspect=1.9) == "aspect ratio"
    flat = dicom(np.zeros((10, 60), np.uint8), PixelSpacing=[5, 1])  # stored 6 : 1, shown 60 x 50
    assert decode_rgb(flat, max_aspect=1.5).shape[:2] == (50, 60)
    with pytest.raises(ImageError, match=r"60 x 120, expected .*; stored as 60 x 40 pixels that are not square"):
        decode_rgb(content, max_pixels=7000)


@pytest.mark.parametrize(("rows", "columns"), [(0, 6), (4, 0)])
def test_no_pixels_are_too_small(rows: int, columns: int) -> None:
    content = dicom(np.zeros((4, 6), np.uint8), Rows=rows, Columns=columns, PixelSpacing=[3, 1])
    assert reason_for(content) in ("too small", "corrupt")


def test_the_header_has_the_stored_size() -> None:
    header = header_of(dicom(np.zeros((4, 6), np.uint8), PixelSpacing=[2, 1]))
    assert header[:3] == ("DICOM", 6, 4)
    assert header.stretch == (1, 2)
    assert square_stretch(6, 4, 0.75) == (8 / 6, 1)


@pytest.mark.parametrize("scaled", [None, 1.0])
def test_the_square_is_located_in_stored_pixels(scaled: float | None) -> None:
    # Stored 60 x 40 with rows twice as far apart: 60 x 80 with square pixels; the square begins 10 rows below the top.
    content = dicom(np.full((40, 60), 90, np.uint8), PixelSpacing=[2, 1])
    crop = CROP.model_copy(update={"side": 15, "border": False, "scaled_decoding": scaled})
    picture, header = decode_for_crop(content, crop, None)
    assert picture.shape == ((80, 60) if scaled is None else (20, 15))
    square = locate_square(picture, header, crop)
    # Reduced by 4, two and a half rows are cut to two: 8 rows of the enlarged picture.
    top = 5.0 if scaled is None else 4.0
    assert square == (0, top, 60, 30)
    assert crop_file(content, crop, None).square.shape == (15, 15)


def test_a_square_of_square_pixels_is_as_before() -> None:
    picture = np.full((80, 60), 90, np.uint8)
    crop = CROP.model_copy(update={"border": False})
    assert locate_square(picture, Header("PNG", 120, 160), crop) == (0, 20, 120, 120)
