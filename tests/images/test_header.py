"""Limits of size and shape, and the choice of a frame: applied by the header, in every format."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import (
    COLOR,
    CROP,
    FILES,
    chunk,
    decode_rgb,
    encode,
    header_of,
    npy,
    npy_header,
    ramps,
    reason_for,
)
from tumorboard.base.errors import ImageError
from tumorboard.images.header import check_size, choose_frame

LIMITS = CROP.model_copy(update={"max_pixels": 1200, "min_side": 10, "max_aspect": 3.0})


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (10, 10), (30, 10), (10, 30)])
def test_a_size_at_the_limits_is_allowed(size):
    check_size(*size, LIMITS)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((30, 41), "too many pixels"),
        ((9, 10), "too small"),
        ((10, 9), "too small"),
        ((31, 10), "aspect ratio"),
        ((10, 31), "aspect ratio"),
        ((9, 200), "too many pixels"),  # 1800 pixels: this limit is checked first
        ((9, 100), "too small"),  # before the aspect ratio
    ],
)
def test_a_size_beyond_a_limit_is_quarantined_with_the_limits_name(size, reason):
    key = {"too many pixels": "max_pixels", "too small": "min_side", "aspect ratio": "max_aspect"}[reason]
    with pytest.raises(ImageError, match=rf"{reason}: {size[0]} x {size[1]}, .*\(crop\.{key}\)"):
        check_size(*size, LIMITS)


@pytest.mark.parametrize(("count", "middle"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_the_middle_frame_is_the_count_halved(count, middle):
    assert choose_frame(count, "middle") == middle
    assert choose_frame(count, "first") == 0


def test_several_frames_without_a_rule_are_an_error_that_names_the_key():
    assert choose_frame(1, None) == 0
    with pytest.raises(ImageError, match=r"multi-frame without a rule: 2 frames; set data\.frames"):
        choose_frame(2, None)


@pytest.mark.parametrize(
    ("content", "name"),
    [(FILES["png"], "PNG"), (FILES["jpeg"], "JPEG"), (npy(np.zeros((20, 30), np.uint8)), "NPY")],
)
def test_the_content_decides_the_format(content, name):
    assert header_of(content).format == name


@pytest.mark.parametrize("name", FILES)
def test_max_pixels_is_the_largest_size_allowed(name):
    assert decode_rgb(FILES[name], max_pixels=24 * 32).shape == (24, 32, 3)
    assert reason_for(FILES[name], max_pixels=24 * 32 - 1) == "too many pixels"


@pytest.mark.parametrize("name", FILES)
def test_min_side_and_max_aspect_are_allowed_themselves(name):
    assert decode_rgb(FILES[name], min_side=24, max_aspect=32 / 24).shape == (24, 32, 3)
    assert reason_for(FILES[name], min_side=25) == "too small"
    assert reason_for(FILES[name], max_aspect=1.33) == "aspect ratio"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("(1000000, 1000000)", "too many pixels"),
        ("(100000, 100000, 3)", "too many pixels"),
        ("(-2, -2)", "too small"),
        ("(0, 9)", "too small"),
        ("(2, 3)", "truncated"),
    ],
)
def test_an_arrays_size_is_checked_by_its_header(shape, expected):
    content = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n") + bytes(5)
    assert reason_for(content) == expected


def test_a_pixel_bomb_is_quarantined_by_its_header():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    # A picture this size would fill 7.5 GB; nothing but its header is there.
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason_for(bomb, max_pixels=100_000_000) == "too many pixels"


def test_a_limit_above_pillows_own_applies():
    wide = encode(Image.new("1", (200_000, 1000)), "PNG")  # Pillow refuses more than 179 million by itself
    assert reason_for(wide, max_pixels=199_999_999) == "too many pixels"
    assert Image.open(BytesIO(wide)).size == (200_000, 1000)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_frames_without_a_rule_are_quarantined(form):
    second = Image.fromarray(255 - ramps())
    assert reason_for(encode(COLOR, form, save_all=True, append_images=[second])) == "multi-frame without a rule"


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_a_rule_takes_one_of_several_frames(form):
    levels = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 60, 110, 160)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encode(levels[0], form, save_all=True, append_images=levels[1:], **options)
    assert (decode_rgb(content, frames="first") == 10).all()
    assert (decode_rgb(content, frames="middle") == 110).all()  # of 4 the third


def test_the_chosen_page_is_checked_and_scaled_itself():
    pages = [Image.fromarray(np.full((4, 4 + page), 1000 * page, np.uint16)) for page in range(4)]
    content = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    middle = decode_rgb(content, frames="middle")
    assert middle.shape == (4, 6, 3)
    assert (middle == 125).all()  # 2000 needs 12 bits: 2000 / 4095 * 255 = 124.54
    assert (
        reason_for(content, max_pixels=20, frames="middle") == "too many pixels"
    )  # its 24 pixels, not the first page's 16


def test_a_multi_picture_jpeg_gives_its_first_picture():
    content = encode(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(255 - ramps())], quality=95)
    assert np.abs(decode_rgb(content).astype(int) - ramps()).mean() < 6
