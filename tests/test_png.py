"""PNGs whole by their checksums and yet too short, interlaced ones by the specification, deep grey and alpha."""

import struct
import zlib

import numpy as np
import pytest

from tumorboard.errors import ImageError
from tumorboard.png import check_chunks, check_rows, is_deep_grey_alpha, read_deep_grey_alpha


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """A PNG of rows that each begin with a filter's number; of color 3 with a palette of greys."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(np.repeat(np.arange(2**bits, dtype=np.uint8), 3))) if color == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


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
def test_interlaced_rows_are_those_of_the_seven_passes(width: int, height: int) -> None:
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


def test_chunks_are_those_of_the_pixels_and_faults_are_named() -> None:
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


def test_deep_grey_and_alpha_come_with_all_their_bits() -> None:
    content = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 4095, 65535, 1, 13107))
    assert is_deep_grey_alpha(content)
    assert not is_deep_grey_alpha(png(1, 1, 8, 4, b"\0\1\2"))
    np.testing.assert_array_equal(read_deep_grey_alpha(content), [[[4095, 65535], [1, 13107]]])
