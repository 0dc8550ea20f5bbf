"""Damage and depths of PNGs that Pillow misses; interlaced files by the specification."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import COLOR, decode_rgb, encode, insert_chunk, png, ramps
from tumorboard.base.errors import ImageError
from tumorboard.images.png import check_chunks, check_rows, is_deep_grey_alpha, read_deep_grey_alpha


def too_short(content: bytes) -> bool:
    try:
        check_rows(content, check_chunks(content))
    except ImageError as error:
        return error.reason == "truncated"
    return False


@pytest.mark.parametrize(
    ("bits", "color", "length"), [(8, 0, 5), (8, 2, 15), (8, 3, 5), (4, 3, 3), (1, 0, 1), (16, 0, 10), (8, 6, 20)]
)
def test_rows_are_counted_to_the_last_byte(bits: int, color: int, length: int) -> None:
    row = bytes([0, *[9] * length])  # of 5 pixels
    assert not too_short(png(5, 4, bits, color, row * 4))
    assert too_short(png(5, 4, bits, color, row * 2))
    assert too_short(png(5, 4, bits, color, (row * 4)[:-1]))
    assert not too_short(png(5, 4, bits, color, row * 5))  # more than enough


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8, 9])
def test_interlaced_rows_are_counted_over_the_seven_passes(width: int, height: int) -> None:
    values = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    # The PNG specification, 8.2: pixels of the passes in blocks of eight by eight.
    passes = [
        values[0::8, 0::8],
        values[0::8, 4::8],
        values[4::8, 0::4],
        values[0::4, 2::4],
        values[2::4, 0::2],
        values[0::2, 1::2],
        values[1::2, 0::1],
    ]
    rows = b"".join(b"\0" + bytes(row) for part in passes if part.size for row in part)
    assert not too_short(png(width, height, 8, 3, rows, interlaced=True))
    assert too_short(png(width, height, 8, 3, rows[:-1], interlaced=True))


def test_check_chunks_returns_the_pixels_and_names_damage() -> None:
    content = png(1, 1, 8, 0, b"\0\7")
    assert zlib.decompress(b"".join(check_chunks(content))) == b"\0\7"
    for broken, reason in ((content[:-12], "truncated"), (content[:40], "truncated")):
        with pytest.raises(ImageError) as raised:
            check_chunks(broken)
        assert raised.value.reason == reason
    flipped = bytearray(content)
    flipped[20] ^= 1
    with pytest.raises(ImageError, match="wrong checksum of a chunk b'IHDR'"):
        check_chunks(bytes(flipped))


def test_grey_and_alpha_of_16_bits_keep_all_their_bits() -> None:
    content = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 4095, 65535, 1, 13107))
    assert is_deep_grey_alpha(content)
    assert not is_deep_grey_alpha(png(1, 1, 8, 4, b"\0\1\2"))
    np.testing.assert_array_equal(read_deep_grey_alpha(content), [[[4095, 65535], [1, 13107]]])


@pytest.mark.parametrize(("bits", "levels"), [(1, [0, 255]), (2, [0, 85]), (4, [0, 17]), (8, [0, 1])])
def test_a_transparent_grey_of_few_bits_becomes_the_background(bits: int, levels: list[int]) -> None:
    row = b"\0" + (bytes([0, 1]) if bits == 8 else bytes([1 << (8 - 2 * bits)]))  # the values 0 and 1
    content = png(2, 1, bits, 0, row)
    assert decode_rgb(content)[0, :, 0].tolist() == levels
    transparent = insert_chunk(content, b"tRNS", struct.pack(">H", 1))
    np.testing.assert_array_equal(decode_rgb(transparent, background=(9, 8, 7))[0], [(0, 0, 0), (9, 8, 7)])


def test_an_orientation_in_a_text_is_undone() -> None:
    exif = Image.Exif()
    exif[274] = 3
    text = f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n".encode()
    content = insert_chunk(encode(COLOR, "PNG"), b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    np.testing.assert_array_equal(decode_rgb(content), ramps()[::-1, ::-1])
