"""A JPEG is surely grey where its header proves it, and never where a colored picture could follow that header."""

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tumorboard.jpeg import is_surely_grey

GREY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
BRAIN = Path(__file__).resolve().parents[2] / "shared/data/brain_mri_small"


def save(pixels: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).convert(mode or "RGB").save(buffer, "JPEG", **({"optimize": True} | options))
    return buffer.getvalue()


def test_a_grey_picture_saved_in_color_with_optimised_tables_is() -> None:
    assert is_surely_grey(save(GREY))
    assert is_surely_grey(
        save(GREY, quality=30, subsampling=0, restart_marker_rows=1, exif=b"Exif\0\0" + b"\xff\xda" * 9)
    )


def test_what_has_color_or_might_have_is_not() -> None:
    spot = np.repeat(GREY[..., None], 3, axis=2)
    spot[-8:, -8:, 0] = 255
    assert not is_surely_grey(save(spot))  # the last block has color
    assert not is_surely_grey(save(np.full((40, 56, 3), (90, 80, 70), np.uint8)))  # one value, but not the neutral one
    assert not is_surely_grey(save(GREY, optimize=False))
    assert not is_surely_grey(save(GREY, progressive=True))
    assert not is_surely_grey(save(GREY, "L"))
    assert not is_surely_grey(save(GREY, "CMYK"))


def test_a_picture_whose_channels_are_red_green_and_blue_is_not() -> None:
    content = save(GREY)
    length = 4 + content[5]  # of the mark of a JPEG file and its JFIF segment
    adobe = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # the last byte: the channels are what they are
    red = adobe + content[length:]
    pixels = cv2.imdecode(np.frombuffer(red, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels[..., 0].std() > 50
    assert (pixels[..., 1:] == 128).all()
    assert not is_surely_grey(red)
    assert not is_surely_grey(content[:2] + content[length:])  # nothing says what its channels are


def test_it_takes_both_tables_of_both_channels_of_the_only_scan() -> None:
    content = save(GREY)
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda\0\x0c\3")
    assert content[scan + 5 : scan + 11] == bytes([1, 0x00, 2, 0x11, 3, 0x11])  # which DC and AC table a channel has
    for position, tables in ((8, 0x01), (8, 0x10), (10, 0x01), (10, 0x10), (10, 0x22)):
        changed = bytearray(content)
        changed[scan + position] = tables
        assert not is_surely_grey(bytes(changed)), (position, tables)
    changed = bytearray(content)
    changed[frame + 1] = 0xC2  # progressive: further scans refine this one
    assert not is_surely_grey(bytes(changed))
    first = content[:scan] + b"\xff\xda\0\x08\1" + content[scan + 5 : scan + 7] + content[scan + 11 :]
    assert not is_surely_grey(first)  # tables might be defined anew before the next scan


def test_whatever_is_changed_in_a_header_it_says_yes_only_of_what_decodes_to_grey() -> None:
    content = save(GREY)
    header = content.index(b"\xff\xda\0\x0c\3") + 14
    decoded = 0
    for position in range(header):
        for value in {0, 1, 0x11, 0xC2, 0xDA, 0xFF, content[position] ^ 1, content[position] ^ 0x80}:
            changed = np.frombuffer(content, np.uint8).copy()
            changed[position] = value
            if is_surely_grey(changed.tobytes()):
                color = cv2.imdecode(changed, cv2.IMREAD_COLOR_RGB)
                if color is not None:
                    decoded += 1
                    grey = cv2.imdecode(changed, cv2.IMREAD_GRAYSCALE)
                    np.testing.assert_array_equal(color, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), str((position, value)))
    assert decoded > 100


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_cut_and_mangled_is_no_error(data: st.DataObject) -> None:
    content = bytearray(save(GREY)[: data.draw(st.integers(0, 1000))])
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert is_surely_grey(bytes(content)) in (True, False)


@pytest.mark.skipif(not BRAIN.is_dir(), reason="needs ../shared/data/brain_mri_small")
def test_real_pictures_that_are_surely_grey_decode_to_the_same_in_color() -> None:
    contents = [np.fromfile(path, np.uint8) for path in sorted(BRAIN.rglob("*.jpg"))]
    sure = [content for content in contents if is_surely_grey(content.tobytes())]
    assert len(contents) / 2 < len(sure) < len(contents)
    for content in sure:
        for reduced in (0, cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_GRAYSCALE_8):
            color = cv2.imdecode(content, reduced | cv2.IMREAD_COLOR_RGB)
            grey = cv2.imdecode(content, reduced | cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(color, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
