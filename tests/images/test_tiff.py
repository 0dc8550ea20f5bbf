"""Kinds of TIFF that Pillow would read as other values; expected levels by hand."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import decode_rgb, encode, ramps, reason_for, tiff

SEPARATE, INTERLEAVED = 2, 1  # planar configurations


def planes(values: np.ndarray) -> bytes:
    """Returns an uncompressed TIFF with one strip per channel; values [3, H, W]."""
    _, height, width = values.shape
    content = bytearray(encode(Image.new("RGB", (width, height)), "TIFF"))
    picture = Image.open(BytesIO(content))
    tags = dict(picture.tag_v2)  # type: ignore[attr-defined]
    size = values[0].nbytes
    tags |= {258: (values.itemsize * 8,) * 3, 273: (8, 8 + size, 8 + 2 * size), 279: (size,) * 3, 284: SEPARATE}
    lists = 8 + values.nbytes
    body, entries = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = np.array(numbers, "<u4").tobytes()
        place = packed if len(numbers) == 1 else np.uint32(lists + len(body)).tobytes()
        body += packed if len(numbers) > 1 else b""
        entries += np.array([tag, 4], "<u2").tobytes() + np.uint32(len(numbers)).tobytes() + place
    count = np.uint16(len(tags)).tobytes()
    start = b"II*\0" + np.uint32(lists + len(body)).tobytes()
    return start + values.tobytes() + body + count + entries + bytes(4)


def test_uncompressed_planes_of_16_bits_are_refused_and_those_of_8_bits_read() -> None:
    colors = np.moveaxis(ramps(), 2, 0)
    np.testing.assert_array_equal(decode_rgb(planes(np.ascontiguousarray(colors))), ramps())
    assert reason_for(planes(colors.astype("<u2") * 257)) == "unsupported"


def test_compressed_planes_of_16_bits_keep_their_high_bytes() -> None:
    tifffile = pytest.importorskip("tifffile")
    buffer = BytesIO()
    deep = np.moveaxis(ramps(), 2, 0).astype(np.uint16) << 8
    tifffile.imwrite(buffer, deep, photometric="rgb", planarconfig="separate", compression="zlib")
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue()), ramps())


def signed(values: np.ndarray) -> bytes:
    """Returns a TIFF of values with a sign."""
    content = tiff(values, 1)
    entry = np.array([339, 4], "<u2").tobytes() + np.array([1, 1], "<u4").tobytes()
    assert entry in content
    return content.replace(entry, entry[:-4] + np.uint32(2).tobytes())


def test_bytes_with_a_sign_are_read_with_it() -> None:
    content = signed(np.array([[-128, -1, 0, 127]], np.int8))
    assert reason_for(content) == "unsupported"  # values below 0 without crop.window
    assert decode_rgb(content, window=(-128, 127))[0, :, 0].tolist() == [0, 127, 128, 255]


def test_32_bits_without_a_sign_stay_above_0() -> None:
    content = tiff(np.array([[0, 2**31, 2**32 - 1]], np.uint32), 1)
    assert decode_rgb(content, window=(0, 2**32 - 1))[0, :, 0].tolist() == [0, 128, 255]
