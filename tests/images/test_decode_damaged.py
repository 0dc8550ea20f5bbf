"""Damaged and unsupported files: each is an ImageError with the right reason, wherever it is cut or changed."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.images.samples import (
    COLOR,
    FILES,
    decode_rgb,
    encode,
    insert_chunk,
    large,
    npy,
    npy_header,
    png,
    ramps,
    reason_for,
    tiff,
)
from tumorboard.base.errors import ImageError


def test_an_empty_file_is_quarantined_as_empty():
    assert reason_for(b"") == "empty"


@pytest.mark.parametrize("content", [b"name,label\na.jpg,cat\n", b"\0" * 1000, b"%PDF-1.7", b"GI", b"<svg></svg>"])
def test_other_contents_are_not_an_image(content):
    assert reason_for(content) == "not an image"


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_an_error(name):
    content = FILES[name]
    decode_rgb(content)
    cuts = [*range(1, len(content), max(1, len(content) // 60)), *range(len(content) - 16, len(content))]
    assert {reason_for(content[:cut]) for cut in cuts} <= {"truncated", "corrupt", "not an image"}


@pytest.mark.parametrize(
    "name",
    [
        "png",
        "palette png",
        "alpha png",
        "jpeg",
        "progressive jpeg",
        "bmp",
        "tiff",
        "lzw tiff",
        "webp",
        "gif",
    ],
)
def test_a_file_cut_within_its_pixels_is_truncated(name):
    for cut in (1, 20, len(FILES[name]) // 3):
        assert reason_for(FILES[name][:-cut]) == "truncated"


def test_a_tiff_cut_within_the_values_of_a_tag_is_truncated():
    pixels = bytes(range(12))  # 2 x 2 in RGB
    tags = {256: 2, 257: 2, 258: 0, 259: 1, 262: 2, 273: 8, 277: 3, 278: 2, 279: 12}
    end = 8 + len(pixels) + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries[2] = struct.pack("<HHII", 258, 3, 3, end)  # bits per sample: three values, which lie at the file's end
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    content = b"II" + struct.pack("<HI", 42, 8 + len(pixels)) + pixels + directory + struct.pack("<HHH", 8, 8, 8)
    assert decode_rgb(content).tobytes() == pixels
    for cut in range(1, 7):
        assert reason_for(content[:-cut]) == "truncated"


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "png"])
def test_a_file_whose_end_was_never_filled_in_is_an_error(name):
    assert reason_for(FILES[name][:-40] + bytes(40)) in {"truncated", "corrupt"}


def test_a_jpeg_is_truncated_even_if_its_thumbnail_ends_properly():
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"
    content = encode(COLOR, "JPEG", quality=95, exif=exif.tobytes() + FILES["jpeg"])
    assert np.abs(decode_rgb(content).astype(int) - ramps()).mean() < 6
    assert reason_for(content[:-30]) == "truncated"


@pytest.mark.parametrize("name", ["png", "palette png"])
def test_a_flipped_bit_of_a_png_is_detected(name):
    for position in range(16, len(FILES[name]), 5):
        flipped = bytearray(FILES[name])
        flipped[position] ^= 4
        assert reason_for(bytes(flipped)) in {"corrupt", "truncated", "not an image", "too many pixels"}


def test_a_damaged_header_is_corrupt():
    assert reason_for(FILES["jpeg"][:3] + bytes(40)) == "corrupt"


@pytest.mark.parametrize(
    "text",
    ["{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2)", "{", "(" * 5000, "[]", "{'descr': '|u1'}", ""],
)
def test_a_damaged_header_of_an_array_is_corrupt(text):
    assert reason_for(npy_header(text) + bytes(4)) == "corrupt"


def test_a_png_with_too_few_rows_is_truncated():
    row = b"\0" + bytes([9] * 5)
    assert decode_rgb(png(5, 4, 8, 0, row * 4)).shape == (4, 5, 3)
    assert reason_for(png(5, 4, 8, 0, row * 2)) == "truncated"
    assert reason_for(png(5, 4, 8, 3, row * 2)) == "truncated"


def test_a_gif_may_be_followed_by_a_line_break():
    np.testing.assert_array_equal(decode_rgb(FILES["gif"] + b"\r\n"), decode_rgb(FILES["gif"]))
    assert reason_for(FILES["gif"][:-1] + b"\n") == "truncated"


def test_a_tiff_of_a_kind_that_pillow_cannot_open_is_unsupported():
    assert reason_for(tiff(np.array([[0, 16384, 65535]], np.uint16), 0, ">")) == "unsupported"
    assert reason_for(tiff(np.array([[0, 1]], np.uint64), 1)) == "unsupported"


@pytest.mark.parametrize("kind", [complex, "U1", "S1", "datetime64[s]", bool, object, [("a", "u1")]])
def test_arrays_of_other_things_than_numbers_are_unsupported(kind):
    assert reason_for(npy(np.zeros((2, 2), kind)), window=(0.0, 1.0)) == "unsupported"


def test_a_transparent_color_of_16_bits_per_channel_is_unsupported():
    whole = png(20, 20, 16, 2, bytes(1 + 20 * 6) * 20)
    assert reason_for(insert_chunk(whole, b"tRNS", bytes(6))) == "unsupported"
    assert decode_rgb(whole).shape == (20, 20, 3)


@settings(max_examples=150)
@given(st.data())
def test_mangled_files_raise_only_image_errors(data):
    content = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        assert decode_rgb(bytes(content)).ndim == 3


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [125, 62, 31])
def test_a_jpeg_cut_anywhere_is_an_error_when_reduced(progressive, side):
    content = large("JPEG", quality=95, progressive=progressive)
    decode_rgb(content, least_side=side)
    for cut in [*range(1, len(content), len(content) // 50), *range(len(content) - 16, len(content))]:
        with pytest.raises(ImageError) as caught:
            decode_rgb(content[:cut], least_side=side)
        assert caught.value.reason in {"truncated", "corrupt", "not an image"}
