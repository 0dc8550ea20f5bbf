"""Grey of every depth becomes 8 bits, and equal channels become one; expected levels by hand."""

import struct

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import COLOR, CROP, decode_rgb, encode, insert_chunk, npy, png, ramps, reason_for
from tumorboard.images.decode import decode
from tumorboard.images.grey import GREY_DEPTHS, scale_grey, scale_visible, three_channels


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),  # 16 bits: 32768 / 65535 * 255 = 127.502
        ([0, 1024, 2048, 4095], [0, 64, 128, 255]),  # 12 bits in a 16-bit file: 1024 / 4095 * 255 = 63.77
        ([0, 1, 100, 255], [0, 1, 100, 255]),  # 8 bits in a 16-bit file
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_over_its_depth(form, values, expected):
    grey = np.array(values, dtype=np.uint16).reshape(2, 2)
    pixels = decode_rgb(encode(Image.fromarray(grey), form))
    np.testing.assert_array_equal(pixels[..., 2].ravel(), expected)


def test_the_grey_depths_are_those_of_cameras_and_scanners():
    assert GREY_DEPTHS == (8, 10, 12, 14, 16)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100, 255], [100, 255]),  # 8 bits
        ([100, 256], [25, 64]),  # 10 bits: 100 / 1023 * 255 = 24.93, 256 / 1023 * 255 = 63.81
        ([500, 1000], [125, 249]),  # 10 bits: 500 / 1023 * 255 = 124.63, 1000 / 1023 * 255 = 249.27
        ([500, 1023], [125, 255]),
        ([500, 1024], [31, 64]),  # 12 bits: 500 / 4095 * 255 = 31.14, 1024 / 4095 * 255 = 63.77
        ([2000, 4095], [125, 255]),  # 2000 / 4095 * 255 = 124.54
        ([2000, 4096], [31, 64]),  # 14 bits: 2000 / 16383 * 255 = 31.13, 4096 / 16383 * 255 = 63.75
        ([6000, 12000], [93, 187]),  # 14 bits: 6000 / 16383 * 255 = 93.39, 12000 / 16383 * 255 = 186.78
        ([6000, 16383], [93, 255]),
        ([6000, 16384], [23, 64]),  # 16 bits: 6000 / 65535 * 255 = 23.35, 16384 / 65535 * 255 = 63.75
    ],
)
def test_white_is_the_largest_value_of_the_smallest_depth_that_holds_the_brightest(values, expected):
    grey = np.array([values], np.uint16)
    assert scale_grey(grey, None)[0].tolist() == [expected]
    assert decode_rgb(npy(grey))[0, :, 0].tolist() == expected
    assert decode_rgb(encode(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == expected


def test_a_window_without_a_width_separates_black_and_white():
    values = np.array([[4.0, 4.5, 5.0]])
    assert scale_grey(values, (4.5, 4.5))[0].tolist() == [[0, 0, 255]]


def test_visible_grey_is_composited_on_the_background():
    grey, alpha = np.array([[10, 200, 60000]]), np.array([[1.0, 0.25, 0.0]])
    pixels, _ = scale_visible(grey, alpha, CROP.model_copy(update={"background": (100, 0, 50)}))
    # The invisible value does not count, so that the depth is 8 bits; 200 * 0.25 + 0.75 * (100, 0, 50)
    assert pixels.tolist() == [[[10, 10, 10], [125, 50, 88], [100, 0, 50]]]


def test_three_channels_repeats_grey_and_leaves_color():
    assert three_channels(np.array([[7, 9]], np.uint8)).tolist() == [[[7, 7, 7], [9, 9, 9]]]
    np.testing.assert_array_equal(three_channels(ramps()), ramps())


@pytest.mark.parametrize("values", [[[-1, 5]], [[0, 65536]]])
def test_grey_below_0_or_above_65535_is_unsupported(values):
    assert reason_for(encode(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF")) == "unsupported"


def test_signed_and_32_bit_grey_within_16_bits_is_scaled_over_16_bits():
    values = np.array([[0, 32768, 65535]])  # 32768 / 65535 * 255 = 127.502
    assert decode_rgb(encode(Image.fromarray(values.astype(np.int32)), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    for kind in (np.int32, np.uint32, np.int64):
        assert decode_rgb(npy(values.astype(kind)))[0, :, 0].tolist() == [0, 128, 255]


def test_floating_point_grey_without_a_window_is_unsupported():
    assert reason_for(encode(Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)), "TIFF")) == "unsupported"


def test_grey_that_is_not_a_number_is_unsupported():
    assert reason_for(encode(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), window=(0.0, 1.0)) == (
        "unsupported"
    )


@pytest.mark.parametrize(
    ("dtype", "form"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]
)
def test_a_window_maps_to_black_and_white(dtype, form):
    grey = np.array([[0, 1000, 1500], [1750, 2000, 65535]]).astype(dtype)
    pixels = decode_rgb(encode(Image.fromarray(grey), form), window=(1000.0, 2000.0))
    # (1500 - 1000) / 1000 * 255 = 127.5, to the even 128; 0.75 * 255 = 191.25
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 128], [191, 255, 255]])


def test_a_window_may_begin_below_zero():
    grey = np.array([[-2000.0, -1000.0, 0.0, 1000.0, 3000.0]], dtype=np.float32)
    pixels = decode_rgb(encode(Image.fromarray(grey), "TIFF"), window=(-1000.0, 1000.0))
    np.testing.assert_array_equal(pixels[0, :, 1], [0, 0, 128, 255, 255])


def test_a_window_does_not_apply_to_8_bits():
    content = encode(COLOR.convert("L"), "PNG")
    np.testing.assert_array_equal(decode_rgb(content, window=(100.0, 120.0)), decode_rgb(content))


@pytest.mark.parametrize("orientation", [1, 3])
def test_16_bit_grey_and_alpha_is_scaled_over_its_visible_depth(orientation):
    values = [(4095, 65535), (2048, 65535), (1024, 13107), (60000, 0)]  # 13107 / 65535 = 0.2
    content = png(4, 1, 16, 4, b"\0" + struct.pack(">8H", *sum(values, ())))
    exif = Image.Exif()
    exif[274] = orientation
    pixels = decode_rgb(insert_chunk(content, b"eXIf", exif.tobytes()), background=(100, 0, 50))
    # Over 12 bits: 255; 2048 / 4095 * 255 = 127.53; 1024 / 4095 * 255 = 63.77, 64 * 0.2 + 0.8 * (100, 0, 50)
    expected = [(255, 255, 255), (128, 128, 128), (93, 13, 53), (100, 0, 50)]
    np.testing.assert_array_equal(pixels[0], expected if orientation == 1 else expected[::-1])


def test_a_transparent_value_of_a_16_bit_grey_png_becomes_the_background():
    content = png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 4095, 65535, 2048))
    pixels = decode_rgb(insert_chunk(content, b"tRNS", struct.pack(">H", 65535)), background=(100, 0, 50))
    np.testing.assert_array_equal(pixels[0], [(255, 255, 255), (100, 0, 50), (128, 128, 128)])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_grey_is_repeated_over_the_channels(form):
    pixels = decode_rgb(encode(COLOR.convert("L"), form, **({"quality": 100} if form == "JPEG" else {})))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    np.testing.assert_allclose(pixels[..., 0].astype(int), np.asarray(COLOR.convert("L")), atol=2)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_grey_picture_has_one_channel_whatever_the_color_type(form: str, mode: str):
    if form == "PPM" and mode == "RGBA":
        return
    grey = ramps()[..., 0]
    content = encode(Image.fromarray(grey).convert(mode), form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode(content, CROP, None)[0], grey)
    np.testing.assert_array_equal(decode(npy(three_channels(grey)), CROP, None)[0], grey)


@pytest.mark.parametrize("pixel", [(45, 0, 1), (0, 0, 0), (89, 130, 2)])
def test_one_colored_pixel_keeps_three_channels(pixel):
    picture = np.full((90, 131, 3), 70, np.uint8)
    picture[pixel] += 1
    np.testing.assert_array_equal(decode(encode(Image.fromarray(picture), "PNG"), CROP, None)[0], picture)


@pytest.mark.parametrize("row", [0, 300, 699])
def test_a_large_picture_is_compared_down_to_its_last_row(row):
    picture = three_channels(np.random.default_rng(0).integers(0, 255, (700, 500), dtype=np.uint8))
    np.testing.assert_array_equal(decode(encode(Image.fromarray(picture), "PNG"), CROP, None)[0], picture[..., 0])
    picture[row, 7, 2] += 1
    np.testing.assert_array_equal(decode(encode(Image.fromarray(picture), "PNG"), CROP, None)[0], picture)
