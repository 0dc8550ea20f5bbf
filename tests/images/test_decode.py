"""Decoding of each format at full and at reduced size; expected pixels by hand, by Pillow or by OpenCV."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.images.samples import (
    COLOR,
    CROP,
    FILES,
    decode_rgb,
    encode,
    header_of,
    large,
    npy,
    ramps,
    reason_for,
    tiff,
)
from tumorboard.images.header import Header


@pytest.mark.parametrize("name", ["png", "alpha png", "bmp", "tiff", "lzw tiff", "lossless webp", "ppm"])
def test_lossless_files_decode_to_their_pixels_in_rgb_order(name):
    pixels = decode_rgb(FILES[name])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, ramps())


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "webp", "palette png", "gif"])
def test_lossy_files_decode_close_to_their_pixels(name):
    few_colors = name in ("palette png", "gif")
    assert np.abs(decode_rgb(FILES[name]).astype(int) - ramps()).mean() < (25 if few_colors else 6)


def test_a_jpeg_decodes_to_pillows_pixels():
    np.testing.assert_allclose(
        decode_rgb(FILES["jpeg"]).astype(int), np.asarray(Image.open(BytesIO(FILES["jpeg"]))), atol=1
    )


def test_black_and_white_become_0_and_255():
    bits = Image.fromarray(ramps()[..., 0] > 100)
    np.testing.assert_array_equal(decode_rgb(encode(bits, "PNG"))[..., 1], np.where(ramps()[..., 0] > 100, 255, 0))


def test_white_is_zero_in_a_tiff_of_any_depth():
    assert decode_rgb(tiff(np.array([[0, 64, 255]], np.uint8), 0))[0, :, 0].tolist() == [255, 191, 0]
    deep = np.array([[0, 16384, 65535]], np.uint16)  # 16384 / 65535 * 255 = 63.75
    assert decode_rgb(tiff(deep, 1))[0, :, 0].tolist() == [0, 64, 255]
    assert decode_rgb(tiff(deep, 0))[0, :, 0].tolist() == [255, 191, 0]
    assert decode_rgb(tiff(deep, 0), window=(0.0, 32768.0))[0, :, 0].tolist() == [255, 127, 0]  # 127.5, to the even 128
    broken = np.array([[0.0, 0.25, 2.0]], np.float32)
    assert decode_rgb(tiff(broken, 0, floats=True), window=(0.0, 1.0))[0, :, 0].tolist() == [255, 191, 0]


def test_a_16_bit_tiff_is_scaled_from_what_opencv_reads():
    deep = (np.arange(24 * 32, dtype=np.uint16) * 85).reshape(24, 32)  # up to 65195: 16 bits
    content = cv2.imencode(".tiff", deep)[1].tobytes()
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decode_rgb(content)[..., 0], np.rint(read * (255 / 65535)))
    assert len(np.unique(decode_rgb(content))) > 250


def test_cmyk_is_ink_that_darkens_white():
    inks = [
        [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 51), (51, 0, 0, 51)]
    ]
    pixels = decode_rgb(encode(Image.fromarray(np.array(inks, np.uint8), "CMYK"), "TIFF"))
    # (1 - ink) * (1 - black) * 255: 0.8 * 255 = 204, 0.8 * 0.8 * 255 = 163.2
    expected = [[255] * 3, [0, 255, 255], [255, 0, 255], [255, 255, 0], [0] * 3, [204] * 3, [163, 204, 204]]
    np.testing.assert_array_equal(pixels[0], expected)


def test_a_palette_becomes_its_colors():
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([9, 8, 7, 200, 100, 0, 1, 2, 255])
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        expected = [[(9, 8, 7), (200, 100, 0)], [(1, 2, 255), (200, 100, 0)]]
        np.testing.assert_array_equal(decode_rgb(encode(picture, form)), expected, form)


def test_npy_arrays_are_decoded():
    np.testing.assert_array_equal(decode_rgb(npy(ramps())), ramps())
    np.testing.assert_array_equal(decode_rgb(npy(ramps()[..., 0]), window=(50.0, 60.0))[..., 2], ramps()[..., 0])
    np.testing.assert_array_equal(decode_rgb(npy(np.array([[0, 4095]], np.uint16)))[0, :, 0], [0, 255])
    np.testing.assert_array_equal(decode_rgb(npy(np.asfortranarray(ramps()))), ramps())
    for values in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3)), np.zeros(3, np.uint8), np.zeros((2, 2))):
        assert reason_for(npy(values)) == "unsupported"
    assert reason_for(npy(ramps())[:-1]) == "truncated"


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_the_background(form):
    alpha = np.zeros((1, 3, 4), np.uint8)
    alpha[0] = (200, 100, 50, 255), (200, 100, 50, 102), (255, 255, 255, 0)  # 102 / 255 = 0.4
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode_rgb(encode(Image.fromarray(alpha), form, **options), background=(10, 20, 250))
    # 0.4 * 200 + 0.6 * 10 = 86, 0.4 * 100 + 0.6 * 20 = 52, 0.4 * 50 + 0.6 * 250 = 170
    np.testing.assert_array_equal(pixels[0], [(200, 100, 50), (86, 52, 170), (10, 20, 250)])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_black(form):
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[:, :4] = (200, 100, 50, 255)
    alpha[:, 4:6] = (200, 100, 50, 128)
    alpha[:, 6:] = (255, 255, 255, 0)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode_rgb(encode(Image.fromarray(alpha), form, **options))
    np.testing.assert_array_equal(pixels[0, 0], (200, 100, 50))
    np.testing.assert_allclose(pixels[0, 4].astype(int), (100, 50, 25), atol=1)
    np.testing.assert_array_equal(pixels[0, 7], (0, 0, 0))


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_a_transparent_palette_color_becomes_black(form):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 255, 255, 10, 200, 30])
    picture.putpixel((0, 0), 0)
    pixels = decode_rgb(encode(picture, form, transparency=0))
    np.testing.assert_array_equal(pixels[0, 0], (0, 0, 0))
    np.testing.assert_array_equal(pixels[3, 3], (10, 200, 30))


def test_a_transparent_color_of_an_rgb_png_becomes_black():
    picture = Image.new("RGB", (4, 4), (9, 8, 7))
    picture.putpixel((1, 2), (255, 255, 255))
    pixels = decode_rgb(encode(picture, "PNG", transparency=(255, 255, 255)))
    np.testing.assert_array_equal(pixels[2, 1], (0, 0, 0))
    np.testing.assert_array_equal(pixels[0, 0], (9, 8, 7))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(form, orientation):
    # What must be done to stored pixels for each value, after the EXIF standard (CIPA DC-008, tag 274).
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(COLOR, form, exif=exif, **({"quality": 100} if form in ("JPEG", "WEBP") else {}))
    pixels, expected = decode_rgb(content).astype(int), upright(ramps())
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 6


@pytest.mark.parametrize(
    ("side", "shape"),
    [
        (250.5, (250, 330)),
        (126, (250, 330)),
        (125, (125, 165)),
        (62.5, (63, 83)),
        (31.25, (32, 42)),
        (1, (32, 42)),
        (None, (250, 330)),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_reduced_while_its_shorter_side_has_the_pixels(side, shape, progressive):
    content = large("JPEG", quality=95, progressive=progressive)
    reduced = decode_rgb(content, least_side=side)
    assert reduced.shape == (*shape, 3)
    averaged = cv2.resize(decode_rgb(content), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - averaged).mean() < 3
    assert header_of(content, least_side=side) == Header("JPEG", 330, 250)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_other_formats_are_not_reduced(form):
    content = large(form)
    np.testing.assert_array_equal(decode_rgb(content, least_side=16), decode_rgb(content))
    assert header_of(content, least_side=16) == Header(form, 330, 250)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright_and_its_header_has_the_full_size(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    content = large("JPEG", quality=95, exif=exif)
    reduced, whole = decode_rgb(content, least_side=60), decode_rgb(content)
    averaged = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - averaged).mean() < 1.5
    assert header_of(content, least_side=60) == Header("JPEG", whole.shape[1], whole.shape[0])


def test_a_reduction_never_makes_unequal_sides_equal():
    limits = {"max_pixels": 2 * CROP.max_pixels}
    content = encode(Image.new("RGB", (1001, 1008)), "JPEG")  # an eighth is 126 by 126, a quarter 251 by 252
    assert decode_rgb(content, least_side=100, **limits).shape == (252, 251, 3)
    assert decode_rgb(encode(Image.new("RGB", (1008, 1008)), "JPEG"), least_side=100, **limits).shape == (126, 126, 3)


def test_grey_jpegs_are_reduced_and_cmyk_jpegs_are_not():
    grey = encode(COLOR.convert("L").resize((320, 240)), "JPEG", quality=95)
    reduced = decode_rgb(grey, least_side=30)
    assert reduced.shape == (30, 40, 3)
    assert (reduced[..., 0] == reduced[..., 1]).all()
    cmyk = encode(COLOR.convert("CMYK").resize((320, 240)), "JPEG", quality=95)
    np.testing.assert_array_equal(decode_rgb(cmyk, least_side=30), decode_rgb(cmyk))  # Pillow's work, at full size
