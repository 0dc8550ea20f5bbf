"""All bits of colors of 16 bits; expected levels by hand, values by OpenCV and tifffile, which write the files."""

import struct
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.images.samples import CROP, FILES, decode_rgb, header_of, insert_chunk, png, ramps, reason_for
from tumorboard.images.decode import decode
from tumorboard.images.deep_color import is_deep_color, read_deep_color

DEEP = np.random.default_rng(0).integers(0, 4000, (24, 32, 3)).astype(np.uint16)  # 12 bits
LEVELS = np.rint(DEEP * (255 / 4095))


def tif(values: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", **options)
    return buffer.getvalue()


FORMS = {
    "png": lambda values: cv2.imencode(".png", values[..., ::-1])[1].tobytes(),
    "ppm": lambda values: b"P6\n# 16 bits\n%d %d\n65535\n" % values.shape[1::-1] + values.astype(">u2").tobytes(),
    "tiff": tif,
    "big-endian tiff": lambda values: tif(values, byteorder=">"),
    "tiled tiff": lambda values: tif(values, tile=(16, 16)),
    "deflated tiff": lambda values: tif(values, compression="zlib", predictor=True),
    "big-endian deflated tiff": lambda values: tif(values, byteorder=">", compression="zlib"),
    "tiff with a fourth channel": lambda values: tif(
        np.dstack([values, values[..., :1]]), extrasamples=["unspecified"]
    ),
    "second page of a tiff": lambda values: tif(np.stack([values // 9, values])),
}


@pytest.mark.parametrize("form", FORMS)
def test_colors_of_12_bits_in_16_are_scaled_over_12(form: str) -> None:
    content = FORMS[form](DEEP)
    pixels, header = decode(content, CROP, "middle")  # the second of two
    np.testing.assert_array_equal(pixels, LEVELS)
    assert header.grey is not None
    assert header.grey[:3] == ("depth", 0, 4095)
    picture = Image.open(BytesIO(content))
    picture.seek(getattr(picture, "n_frames", 1) - 1)
    assert is_deep_color(picture)
    colors, alpha = read_deep_color(picture, content)
    np.testing.assert_array_equal(colors, DEEP)
    assert alpha is None


@pytest.mark.parametrize("form", ["png", "ppm", "tiff"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 16384, 32768], [0, 64, 128]),  # 16 bits: 16384 / 65535 * 255 = 63.75
        ([0, 500, 1000], [0, 125, 249]),  # 10 bits: 500 / 1023 * 255 = 124.6
        ([0, 100, 255], [0, 100, 255]),  # 8 bits
    ],
)
def test_colors_are_scaled_over_the_least_depth(form: str, values: list[int], expected: list[int]) -> None:
    colors = np.array([[values, values[::-1]]], np.uint16)
    assert decode_rgb(FORMS[form](colors)).tolist() == [[expected, expected[::-1]]]


@pytest.mark.parametrize("form", ["png", "ppm", "tiff"])
def test_the_window_of_params_is_that_of_all_channels(form: str) -> None:
    colors = np.array([[[0, 1000, 4000], [500, 1500, 2000]]], np.uint16)
    # 500 / 2000 * 255 = 63.75, 1000 / 2000 * 255 = 127.5, to the even one
    assert decode_rgb(FORMS[form](colors), window=(0, 2000)).tolist() == [[[0, 128, 255], [64, 191, 255]]]


def test_equal_channels_are_the_grey_of_their_values() -> None:
    grey = DEEP[..., 0]
    content = cv2.imencode(".png", grey)[1].tobytes()
    for form in ("png", "ppm", "tiff"):
        color = FORMS[form](np.stack([grey] * 3, -1))
        np.testing.assert_array_equal(decode_rgb(color), decode_rgb(content))
        assert decode(color, CROP, None)[0].ndim == 2


def test_the_levels_are_those_of_all_channels() -> None:
    colors = np.zeros((300, 700, 3), np.uint16)  # 630000 values: every ninth would be one channel
    colors[..., 1], colors[..., 2] = 1000, 4000
    grey = header_of(FORMS["png"](colors)).grey
    assert grey is not None
    assert [grey.levels[place] for place in (10, 50, 90)] == [0, 1000, 4000]


ALPHA = [(4000, 0, 2000, 65535), (65535, 65535, 65535, 0), (4000, 4000, 4000, 13107)]


def alpha_png() -> bytes:
    return png(3, 1, 16, 6, b"\0" + struct.pack(">12H", *sum(ALPHA, ())))


def test_alpha_is_composited_and_what_it_hides_chooses_no_depth() -> None:
    # 4000 / 4095 * 255 = 249.1, 2000 / 4095 * 255 = 124.5; 13107 / 65535 = 0.2: 0.2 * 249 + 0.8 * (10, 20, 30)
    expected = [[[249, 0, 125], [10, 20, 30], [58, 66, 74]]]
    tags = np.array([ALPHA], np.uint16)
    for content in (alpha_png(), tif(tags, extrasamples=["unassalpha"])):
        assert decode_rgb(content, background=(10, 20, 30)).tolist() == expected
        grey = header_of(content).grey
        assert grey is not None
        assert grey[:3] == ("depth", 0, 4095)


def test_the_orientation_is_undone() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    turned = np.rot90(LEVELS, -1)
    content = insert_chunk(FORMS["png"](DEEP), b"eXIf", exif.tobytes()[6:])
    np.testing.assert_array_equal(decode_rgb(content), turned)
    np.testing.assert_array_equal(decode_rgb(tif(DEEP, extratags=[(274, "H", 1, 6, True)])), turned)
    opaque = np.full((24, 32), 65535, np.uint16)
    content = cv2.imencode(".png", np.dstack([DEEP[..., ::-1], opaque]))[1].tobytes()
    np.testing.assert_array_equal(decode_rgb(insert_chunk(content, b"eXIf", exif.tobytes()[6:])), turned)


def test_planes_of_16_bits_are_read_by_their_upper_bytes_and_dark_ones_refused() -> None:
    bright = np.moveaxis(ramps(), 2, 0).astype(np.uint16) * 257
    planes = {"planarconfig": "separate", "compression": "zlib"}
    np.testing.assert_array_equal(decode_rgb(tif(bright, **planes)), ramps())
    assert reason_for(tif(bright // 16, **planes)) == "unsupported"


def test_a_cut_ppm_is_truncated() -> None:
    content = FORMS["ppm"](DEEP)
    assert {reason_for(content[:-cut]) for cut in (1, 2, 700)} == {"truncated"}


@pytest.mark.parametrize("name", FILES)
def test_files_of_8_bits_have_no_deep_colors(name: str) -> None:
    assert not is_deep_color(Image.open(BytesIO(FILES[name])))
