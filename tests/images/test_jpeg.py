"""A JPEG's header proves that it is grey only where no colored picture could follow that header."""

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.images.samples import COLOR, CROP, encode, ramps, reason_for
from tumorboard.images.decode import decode
from tumorboard.images.grey import three_channels
from tumorboard.images.jpeg import header_proves_grey

GREY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
BRAIN = Path(__file__).resolve().parents[3] / "shared/data/brain_mri_small"


def save(pixels: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).convert(mode or "RGB").save(buffer, "JPEG", **({"optimize": True} | options))
    return buffer.getvalue()


def test_a_header_proves_grey_if_a_grey_picture_was_saved_in_color_with_optimized_tables() -> None:
    assert header_proves_grey(save(GREY))
    assert header_proves_grey(
        save(GREY, quality=30, subsampling=0, restart_marker_rows=1, exif=b"Exif\0\0" + b"\xff\xda" * 9)
    )


def test_a_header_does_not_prove_grey_if_the_picture_has_or_might_have_color() -> None:
    spot = np.repeat(GREY[..., None], 3, axis=2)
    spot[-8:, -8:, 0] = 255
    assert not header_proves_grey(save(spot))  # the last block has color
    assert not header_proves_grey(save(np.full((40, 56, 3), (90, 80, 70), np.uint8)))  # one color
    assert not header_proves_grey(save(GREY, optimize=False))
    assert not header_proves_grey(save(GREY, progressive=True))
    assert not header_proves_grey(save(GREY, "L"))
    assert not header_proves_grey(save(GREY, "CMYK"))


def test_a_header_does_not_prove_grey_if_the_channels_are_red_green_and_blue() -> None:
    content = save(GREY)
    length = 4 + content[5]  # of the mark of a JPEG file and its JFIF segment
    adobe = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # the last byte: the channels are what they are
    red = adobe + content[length:]
    pixels = cv2.imdecode(np.frombuffer(red, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels[..., 0].std() > 50
    assert (pixels[..., 1:] == 128).all()
    assert not header_proves_grey(red)
    assert not header_proves_grey(content[:2] + content[length:])  # nothing says what its channels are


def test_a_proof_needs_both_tables_of_both_channels_of_the_only_scan() -> None:
    content = save(GREY)
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda\0\x0c\3")
    assert content[scan + 5 : scan + 11] == bytes([1, 0x00, 2, 0x11, 3, 0x11])  # which DC and AC table a channel has
    for position, tables in ((8, 0x01), (8, 0x10), (10, 0x01), (10, 0x10), (10, 0x22)):
        changed = bytearray(content)
        changed[scan + position] = tables
        assert not header_proves_grey(bytes(changed)), (position, tables)
    changed = bytearray(content)
    changed[frame + 1] = 0xC2  # progressive: further scans refine this one
    assert not header_proves_grey(bytes(changed))
    first = content[:scan] + b"\xff\xda\0\x08\1" + content[scan + 5 : scan + 7] + content[scan + 11 :]
    assert not header_proves_grey(first)  # tables might be defined anew before the next scan


def test_a_changed_header_proves_grey_only_if_the_file_decodes_to_grey() -> None:
    content = save(GREY)
    header = content.index(b"\xff\xda\0\x0c\3") + 14
    decoded = 0
    for position in range(header):
        for value in {0, 1, 0x11, 0xC2, 0xDA, 0xFF, content[position] ^ 1, content[position] ^ 0x80}:
            changed = np.frombuffer(content, np.uint8).copy()
            changed[position] = value
            if header_proves_grey(changed.tobytes()):
                color = cv2.imdecode(changed, cv2.IMREAD_COLOR_RGB)
                if color is not None:
                    decoded += 1
                    grey = cv2.imdecode(changed, cv2.IMREAD_GRAYSCALE)
                    np.testing.assert_array_equal(color, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), str((position, value)))
    assert decoded > 100


@given(st.data())
@settings(max_examples=200)
def test_damaged_files_raise_no_error(data: st.DataObject) -> None:
    content = bytearray(save(GREY)[: data.draw(st.integers(0, 1000))])
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert header_proves_grey(bytes(content)) in (True, False)


@pytest.mark.skipif(not BRAIN.is_dir(), reason="needs ../shared/data/brain_mri_small")
def test_real_pictures_that_are_proved_grey_decode_to_the_same_in_color() -> None:
    contents = [np.fromfile(path, np.uint8) for path in sorted(BRAIN.rglob("*.jpg"))]
    proved = [content for content in contents if header_proves_grey(content.tobytes())]
    assert len(contents) / 2 < len(proved) < len(contents)
    for content in proved:
        for reduced in (0, cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_GRAYSCALE_8):
            color = cv2.imdecode(content, reduced | cv2.IMREAD_COLOR_RGB)
            grey = cv2.imdecode(content, reduced | cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(color, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


@pytest.mark.parametrize("side", [None, 125, 62, 31])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_provably_grey_jpeg_decodes_to_the_same_brightness_as_in_color(side, subsampling):
    picture = COLOR.convert("L").resize((330, 250), Image.Resampling.BICUBIC).convert("RGB")
    contents = [encode(picture, "JPEG", quality=90, subsampling=subsampling, optimize=o) for o in (True, False)]
    assert [header_proves_grey(content) for content in contents] == [True, False]
    brightness, from_color = (decode(content, CROP, None, side)[0] for content in contents)
    assert brightness.ndim == 2
    np.testing.assert_array_equal(brightness, from_color)
    pillows = np.asarray(Image.open(BytesIO(contents[0])))
    if side is None:
        np.testing.assert_allclose(three_channels(brightness).astype(int), pillows, atol=1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_provably_grey_jpeg_is_upright_and_an_error_where_it_is_cut(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(Image.fromarray(three_channels(ramps()[..., 0])), "JPEG", quality=100, optimize=True, exif=exif)
    assert header_proves_grey(content)
    expected = ramps()[..., 0] if orientation == 1 else np.rot90(ramps()[..., 0], -1)
    np.testing.assert_allclose(decode(content, CROP, None)[0].astype(int), expected, atol=2)
    for cut in range(1, len(content)):
        assert reason_for(content[:cut]) in {"truncated", "corrupt", "not an image"}
