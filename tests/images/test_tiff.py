"""Kinds of TIFF that Pillow would read as other values; expected levels by hand."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.images.samples import decode_rgb, encode, ramps, reason_for, tiff
from tumorboard.base.errors import ImageError

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


def by_tifffile(values: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


GREY = np.arange(24 * 32).reshape(24, 32)
LIKE_GREY = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("values", "options", "kind", "cure"),
    [
        (GREY / 9, {}, "1 channel of 64 bits (floating-point numbers)", "grey of uint8 or uint16, or as float32 with"),
        (GREY / 9, {"bigtiff": True}, "1 channel of 64 bits (floating-point", "grey of uint8 or uint16, or as float32"),
        (GREY / 9, {"byteorder": ">"}, "1 channel of 64 bits (floating-point", "grey of uint8 or uint16, or as"),
        ((GREY / 9).astype(np.float16), {}, "1 channel of 16 bits (floating-point", "grey of uint8 or uint16, or as"),
        (GREY.astype(np.uint64), {}, "1 channel of 64 bits (whole numbers)", "grey of uint8 or uint16"),
        (
            np.stack([GREY / 9] * 3, -1).astype(np.float32),
            {"photometric": "rgb"},
            "3 channels of 32 bits (floating-point numbers)",
            "RGB of uint8 or uint16, or one channel of it as grey",
        ),
        (
            np.stack([GREY] * 5, -1).astype(np.uint16),
            LIKE_GREY,
            "5 channels of 16 bits",
            "three of the channels as RGB",
        ),
        (
            np.stack([GREY] * 5).astype(np.uint8),
            {"photometric": "minisblack", "planarconfig": "separate"},
            "5 channels of 8 bits (whole numbers)",
            "three of the channels as RGB of uint8",
        ),
        (
            np.stack([GREY] * 2, -1).astype(np.uint16),
            LIKE_GREY | {"extrasamples": ["unassalpha"]},
            "2 channels of 16 bits (whole numbers)",
            "grey of uint8 or uint16 without the second channel, or as a PNG with alpha",
        ),
        (GREY.astype(np.uint16), {"photometric": "cfa"}, "interpretation 32803", "RGB or grey of uint8 or uint16"),
    ],
)
def test_a_kind_that_is_not_read_is_named_with_one_that_is(
    values: np.ndarray, options: dict[str, Any], kind: str, cure: str
) -> None:
    with pytest.raises(ImageError) as caught:
        decode_rgb(by_tifffile(values, **options))
    assert caught.value.reason == "unsupported"
    named, _, proposed = caught.value.detail.partition(": save it as ")
    named, proposed = (named, proposed) if proposed else named.partition(": save ")[::2]
    assert kind in named
    assert cure in proposed


def test_the_proposed_kinds_are_read() -> None:
    assert decode_rgb(by_tifffile((GREY / 9).astype(np.float32)), window=(0, 255 / 9))[0, :3, 0].tolist() == [0, 1, 2]
    for kind in (np.uint8, np.uint16):
        assert decode_rgb(by_tifffile((GREY % 256).astype(kind)))[0, :3, 0].tolist() == [0, 1, 2]
        colors = np.stack([GREY % 256] * 3, -1).astype(kind)
        assert decode_rgb(by_tifffile(colors, photometric="rgb"))[0, :3, 0].tolist() == [0, 1, 2]


def test_values_that_are_no_numbers_are_named_with_a_cure() -> None:
    values = np.where(GREY < 9, np.nan, GREY).astype(np.float32)
    with pytest.raises(ImageError, match="NaN or infinite: save it with numbers in their place"):
        decode_rgb(by_tifffile(values), window=(0, 1))


@pytest.mark.parametrize("factor", [1, 257])
def test_a_palette_of_8_bits_may_stand_in_16(factor: int) -> None:
    palette = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)])
    indices = (GREY % 256).astype(np.uint8)
    content = by_tifffile(indices, photometric="palette", colormap=(palette * factor).astype(np.uint16))
    np.testing.assert_array_equal(decode_rgb(content), np.moveaxis(palette[:, indices], 0, 2))
    theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)  # by libtiff
    np.testing.assert_array_equal(decode_rgb(content), theirs[..., ::-1])
