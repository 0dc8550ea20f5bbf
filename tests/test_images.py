"""Decoding of every kind of file, good and bad, and the way from there to a crop."""

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from tests.test_png import chunk, png
from tumorboard import jpeg
from tumorboard.errors import ImageError
from tumorboard.images import Header, Pixels, center_square, crop_image, remove_border, three_channels
from tumorboard.images import decode as decode_with
from tumorboard.images import decode_for_crop as decode_for_crop_with
from tumorboard.params import Crop, Frames, Params, load_params

FREE = load_params(Path(__file__).parents[1] / "params.yaml").crop.model_copy(
    update={"min_side": 1, "max_aspect": 1e9, "max_pixels": 10**6}
)
MANY = FREE.max_pixels


def decode(
    content: bytes, max_pixels: int = MANY, side: float | None = None, frames: Frames = None, **changes: Any
) -> Pixels:
    """By the committed params, but for the limits of size and shape, and changes; always three channels."""
    crop = FREE.model_copy(update={"max_pixels": max_pixels, **changes})
    return three_channels(decode_with(content, crop, frames, side)[0])


def header(content: bytes, side: float | None = None) -> Header:
    """What decoding tells of a file beside its pixels."""
    return decode_with(content, FREE, None, side)[1]


def decode_for_crop(content: bytes, crop: Crop) -> tuple[Pixels, Header]:
    return decode_for_crop_with(content, crop, None)


def npy(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def ramps(height: int = 24, width: int = 32) -> np.ndarray:
    """Red rises to the right, green downwards, blue along the diagonal."""
    y, x = np.mgrid[:height, :width]
    channels = x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)
    return np.stack(channels, -1).astype(np.uint8)


COLOR = Image.fromarray(ramps())
FILES = {
    "png": encode(COLOR, "PNG"),
    "palette png": encode(COLOR.quantize(16), "PNG"),
    "alpha png": encode(COLOR.convert("RGBA"), "PNG"),
    "jpeg": encode(COLOR, "JPEG", quality=95),
    "progressive jpeg": encode(COLOR, "JPEG", quality=95, progressive=True),
    "grey jpeg": encode(COLOR.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": encode(COLOR.convert("CMYK"), "JPEG", quality=95),
    "gif": encode(COLOR, "GIF"),
    "bmp": encode(COLOR, "BMP"),
    "tiff": encode(COLOR, "TIFF"),
    "lzw tiff": encode(COLOR, "TIFF", compression="tiff_lzw"),
    "webp": encode(COLOR, "WEBP", quality=95),
    "lossless webp": encode(COLOR, "WEBP", lossless=True),
    "ppm": encode(COLOR, "PPM"),
}


def reason(content: bytes, max_pixels: int = MANY, **changes: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(content, max_pixels, **changes)
    assert str(caught.value) == f"{caught.value.reason}: {caught.value.detail}"
    return caught.value.reason


@pytest.mark.parametrize("name", ["png", "alpha png", "bmp", "tiff", "lzw tiff", "lossless webp", "ppm"])
def test_lossless_files_give_their_pixels_in_rgb_order(name):
    pixels = decode(FILES[name], MANY)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, ramps())


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "webp", "palette png", "gif"])
def test_lossy_files_come_close_to_their_pixels(name):
    few_colors = name in ("palette png", "gif")
    assert np.abs(decode(FILES[name], MANY).astype(int) - ramps()).mean() < (25 if few_colors else 6)


def test_jpeg_pixels_are_pillows():
    np.testing.assert_allclose(
        decode(FILES["jpeg"], MANY).astype(int), np.asarray(Image.open(BytesIO(FILES["jpeg"]))), atol=1
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_grey_is_repeated_over_the_channels(form):
    pixels = decode(encode(COLOR.convert("L"), form, **({"quality": 100} if form == "JPEG" else {})), MANY)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    np.testing.assert_allclose(pixels[..., 0].astype(int), np.asarray(COLOR.convert("L")), atol=2)


def test_black_and_white_become_0_and_255():
    bits = Image.fromarray(ramps()[..., 0] > 100)
    np.testing.assert_array_equal(decode(encode(bits, "PNG"), MANY)[..., 1], np.where(ramps()[..., 0] > 100, 255, 0))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),  # 16 bits: 32768 / 65535 * 255 = 127.502
        ([0, 1024, 2048, 4095], [0, 64, 128, 255]),  # 12 bits in a 16-bit file: 1024 / 4095 * 255 = 63.77
        ([0, 1, 100, 255], [0, 1, 100, 255]),  # 8 bits in one
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_over_its_range(form, values, expected):
    grey = np.array(values, dtype=np.uint16).reshape(2, 2)
    pixels = decode(encode(Image.fromarray(grey), form), MANY)
    np.testing.assert_array_equal(pixels[..., 2].ravel(), expected)


def test_16_bit_color_png_keeps_its_high_bytes():
    deep = (ramps().astype(np.uint16) << 8) | 99
    content = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    np.testing.assert_allclose(decode(content, MANY).astype(int), ramps(), atol=1)


@pytest.mark.parametrize("values", [[[-1, 5]], [[0, 65536]]])
def test_grey_below_0_or_above_65535_is_unsupported(values):
    assert reason(encode(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF")) == "unsupported"


def test_signed_and_32_bit_grey_from_0_to_65535_is_grey_of_16_bits():
    values = np.array([[0, 32768, 65535]])  # 32768 / 65535 * 255 = 127.502
    assert decode(encode(Image.fromarray(values.astype(np.int32)), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    for kind in (np.int32, np.uint32, np.int64):
        assert decode(npy(values.astype(kind)))[0, :, 0].tolist() == [0, 128, 255]


def tiff(values: np.ndarray, photometric: int, order: str = "<", floats: bool = False) -> bytes:
    """A TIFF of one strip; photometric 0 is WhiteIsZero."""
    values = values.astype(values.dtype.newbyteorder(order))
    (height, width), size = values.shape, values.nbytes
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: size, 339: 3 if floats else 1}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack(f"{order}HI", 42, 8 + size)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (b"II" if order == "<" else b"MM") + start + values.tobytes() + directory


def test_white_is_zero_in_a_tiff_of_any_depth():
    assert decode(tiff(np.array([[0, 64, 255]], np.uint8), 0))[0, :, 0].tolist() == [255, 191, 0]
    deep = np.array([[0, 16384, 65535]], np.uint16)  # 16384 / 65535 * 255 = 63.75
    assert decode(tiff(deep, 1))[0, :, 0].tolist() == [0, 64, 255]
    assert decode(tiff(deep, 0))[0, :, 0].tolist() == [255, 191, 0]
    assert decode(tiff(deep, 0), window=(0.0, 32768.0))[0, :, 0].tolist() == [255, 127, 0]  # 127.5, to the even 128
    broken = np.array([[0.0, 0.25, 2.0]], np.float32)
    assert decode(tiff(broken, 0, floats=True), window=(0.0, 1.0))[0, :, 0].tolist() == [255, 191, 0]


def test_a_tiff_of_a_kind_that_pillow_cannot_open_is_unsupported():
    assert reason(tiff(np.array([[0, 16384, 65535]], np.uint16), 0, ">")) == "unsupported"
    assert reason(tiff(np.array([[0, 1]], np.uint64), 1)) == "unsupported"


@pytest.mark.parametrize("orientation", [1, 3])
def test_a_png_of_grey_and_alpha_of_16_bits_is_scaled_over_its_visible_range(orientation):
    values = [(4095, 65535), (2048, 65535), (1024, 13107), (60000, 0)]  # 13107 / 65535 = 0.2
    content = png(4, 1, 16, 4, b"\0" + struct.pack(">8H", *sum(values, ())))
    exif = Image.Exif()
    exif[274] = orientation
    content = content[:33] + chunk(b"eXIf", exif.tobytes()) + content[33:]
    pixels = decode(content, background=(100, 0, 50))
    # Over 12 bits: 255; 2048 / 4095 * 255 = 127.53; 1024 / 4095 * 255 = 63.77, 64 * 0.2 + 0.8 * (100, 0, 50)
    expected = [(255, 255, 255), (128, 128, 128), (93, 13, 53), (100, 0, 50)]
    np.testing.assert_array_equal(pixels[0], expected if orientation == 1 else expected[::-1])


def test_a_transparent_value_of_a_16_bit_grey_png_becomes_the_background():
    content = png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 4095, 65535, 2048))
    content = content[:33] + chunk(b"tRNS", struct.pack(">H", 65535)) + content[33:]
    pixels = decode(content, background=(100, 0, 50))
    np.testing.assert_array_equal(pixels[0], [(255, 255, 255), (100, 0, 50), (128, 128, 128)])


def test_floating_point_grey_is_unsupported():
    assert reason(encode(Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)), "TIFF")) == "unsupported"


@pytest.mark.parametrize(
    ("dtype", "form"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]
)
def test_a_window_of_grey_becomes_black_to_white(dtype, form):
    grey = np.array([[0, 1000, 1500], [1750, 2000, 65535]]).astype(dtype)
    pixels = decode(encode(Image.fromarray(grey), form), window=(1000.0, 2000.0))
    # (1500 - 1000) / 1000 * 255 = 127.5, to the even 128; 0.75 * 255 = 191.25
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 128], [191, 255, 255]])


def test_a_window_below_zero():
    grey = np.array([[-2000.0, -1000.0, 0.0, 1000.0, 3000.0]], dtype=np.float32)
    pixels = decode(encode(Image.fromarray(grey), "TIFF"), window=(-1000.0, 1000.0))
    np.testing.assert_array_equal(pixels[0, :, 1], [0, 0, 128, 255, 255])


def test_a_window_leaves_grey_of_8_bits_alone():
    content = encode(COLOR.convert("L"), "PNG")
    np.testing.assert_array_equal(decode(content, window=(100.0, 120.0)), decode(content))


def test_grey_that_is_no_number_is_unsupported():
    assert reason(encode(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), window=(0.0, 1.0)) == (
        "unsupported"
    )


def test_16_bit_tiff_is_what_opencv_reads_scaled():
    deep = (np.arange(24 * 32, dtype=np.uint16) * 85).reshape(24, 32)  # up to 65195: 16 bits
    content = cv2.imencode(".tiff", deep)[1].tobytes()
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decode(content)[..., 0], np.rint(read * (255 / 65535)))
    assert len(np.unique(decode(content))) > 250


def test_16_bit_color_tiff_keeps_its_high_bytes():
    deep = (ramps().astype(np.uint16) << 8) | 99
    content = cv2.imencode(".tiff", deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(content), ramps())


def test_cmyk_is_ink_that_darkens_white():
    inks = [
        [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 51), (51, 0, 0, 51)]
    ]
    pixels = decode(encode(Image.fromarray(np.array(inks, np.uint8), "CMYK"), "TIFF"))
    # (1 - ink) * (1 - black) * 255: 0.8 * 255 = 204, 0.8 * 0.8 * 255 = 163.2
    expected = [[255] * 3, [0, 255, 255], [255, 0, 255], [255, 255, 0], [0] * 3, [204] * 3, [163, 204, 204]]
    np.testing.assert_array_equal(pixels[0], expected)


def test_a_palette_gives_its_colors():
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([9, 8, 7, 200, 100, 0, 1, 2, 255])
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        expected = [[(9, 8, 7), (200, 100, 0)], [(1, 2, 255), (200, 100, 0)]]
        np.testing.assert_array_equal(decode(encode(picture, form)), expected, form)


def test_arrays_of_npy_files():
    np.testing.assert_array_equal(decode(npy(ramps())), ramps())
    np.testing.assert_array_equal(decode(npy(ramps()[..., 0]), window=(50.0, 60.0))[..., 2], ramps()[..., 0])
    np.testing.assert_array_equal(decode(npy(np.array([[0, 4095]], np.uint16)))[0, :, 0], [0, 255])
    np.testing.assert_array_equal(decode(npy(np.asfortranarray(ramps()))), ramps())
    for values in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3)), np.zeros(3, np.uint8), np.zeros((2, 2))):
        assert reason(npy(values)) == "unsupported"
    assert reason(npy(ramps())[:-1]) == "truncated"


@pytest.mark.parametrize("kind", [complex, "U1", "S1", "datetime64[s]", bool, object, [("a", "u1")]])
def test_arrays_of_no_numbers_are_unsupported(kind):
    assert reason(npy(np.zeros((2, 2), kind)), window=(0.0, 1.0)) == "unsupported"


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "text",
    ["{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2)", "{", "(" * 5000, "[]", "{'descr': '|u1'}", ""],
)
def test_a_damaged_header_of_an_array_is_corrupt(text):
    assert reason(npy_header(text) + bytes(4)) == "corrupt"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("(1000000, 1000000)", "too many pixels"),
        ("(100000, 100000, 3)", "too many pixels"),
        ("(-2, -2)", "too small"),
        ("(0, 9)", "too small"),
        ("(2, 3)", "truncated"),
    ],
)
def test_the_size_of_an_array_is_told_by_its_header(shape, expected):
    content = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n") + bytes(5)
    assert reason(content) == expected


@pytest.mark.parametrize(
    ("content", "name"),
    [(FILES["png"], "PNG"), (FILES["jpeg"], "JPEG"), (npy(np.zeros((20, 30), np.uint8)), "NPY")],
)
def test_a_format_is_told_by_the_content(content, name):
    assert header(content).format == name


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_the_background(form):
    alpha = np.zeros((1, 3, 4), np.uint8)
    alpha[0] = (200, 100, 50, 255), (200, 100, 50, 102), (255, 255, 255, 0)  # 102 / 255 = 0.4
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(alpha), form, **options), background=(10, 20, 250))
    # 0.4 * 200 + 0.6 * 10 = 86, 0.4 * 100 + 0.6 * 20 = 52, 0.4 * 50 + 0.6 * 250 = 170
    np.testing.assert_array_equal(pixels[0], [(200, 100, 50), (86, 52, 170), (10, 20, 250)])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_black(form):
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[:, :4] = (200, 100, 50, 255)
    alpha[:, 4:6] = (200, 100, 50, 128)
    alpha[:, 6:] = (255, 255, 255, 0)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(alpha), form, **options), MANY)
    np.testing.assert_array_equal(pixels[0, 0], (200, 100, 50))
    np.testing.assert_allclose(pixels[0, 4].astype(int), (100, 50, 25), atol=1)
    np.testing.assert_array_equal(pixels[0, 7], (0, 0, 0))


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_a_transparent_palette_color_becomes_black(form):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 255, 255, 10, 200, 30])
    picture.putpixel((0, 0), 0)
    pixels = decode(encode(picture, form, transparency=0), MANY)
    np.testing.assert_array_equal(pixels[0, 0], (0, 0, 0))
    np.testing.assert_array_equal(pixels[3, 3], (10, 200, 30))


def test_a_transparent_color_of_an_rgb_png_becomes_black():
    picture = Image.new("RGB", (4, 4), (9, 8, 7))
    picture.putpixel((1, 2), (255, 255, 255))
    pixels = decode(encode(picture, "PNG", transparency=(255, 255, 255)), MANY)
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
    pixels, expected = decode(content, MANY).astype(int), upright(ramps())
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 6


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_frames_are_quarantined(form):
    second = Image.fromarray(255 - ramps())
    assert reason(encode(COLOR, form, save_all=True, append_images=[second])) == "multi-frame without a rule"


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_a_rule_takes_one_of_several_frames(form):
    levels = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 60, 110, 160)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encode(levels[0], form, save_all=True, append_images=levels[1:], **options)
    assert (decode(content, frames="first") == 10).all()
    assert (decode(content, frames="middle") == 110).all()  # of 4 the third


def test_a_page_of_16_bits_and_of_another_size():
    pages = [Image.fromarray(np.full((4, 4 + page), 1000 * page, np.uint16)) for page in range(4)]
    content = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    middle = decode(content, frames="middle")
    assert middle.shape == (4, 6, 3)
    assert (middle == 125).all()  # 2000 needs 12 bits: 2000 / 4095 * 255 = 124.54
    assert reason(content, 20, frames="middle") == "too many pixels"  # its 24 pixels, not the first page's 16


def test_a_multi_picture_jpeg_gives_its_first_picture():
    content = encode(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(255 - ramps())], quality=95)
    assert np.abs(decode(content, MANY).astype(int) - ramps()).mean() < 6


def test_an_empty_file():
    assert reason(b"") == "empty"


@pytest.mark.parametrize("content", [b"name,label\na.jpg,cat\n", b"\0" * 1000, b"%PDF-1.7", b"GI", b"<svg></svg>"])
def test_what_is_not_an_image(content):
    assert reason(content) == "not an image"


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_an_error(name):
    content = FILES[name]
    decode(content, MANY)
    cuts = [*range(1, len(content), max(1, len(content) // 60)), *range(len(content) - 16, len(content))]
    assert {reason(content[:cut]) for cut in cuts} <= {"truncated", "corrupt", "not an image"}


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
    for cut in (20, len(FILES[name]) // 3):
        assert reason(FILES[name][:-cut]) == "truncated"


def test_a_transparent_colour_of_16_bits_a_channel_is_not_taken_for_one_of_8():
    whole = png(20, 20, 16, 2, bytes(1 + 20 * 6) * 20)
    content = whole[:33] + chunk(b"tRNS", bytes(6)) + whole[33:]  # after the header
    assert reason(content) == "unsupported"
    assert decode(whole, MANY).shape == (20, 20, 3)


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "png"])
def test_a_file_whose_end_was_never_filled_in_is_an_error(name):
    assert reason(FILES[name][:-40] + bytes(40)) in {"truncated", "corrupt"}


def test_a_jpeg_with_a_thumbnail_is_truncated_though_the_thumbnail_ends_properly():
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"
    content = encode(COLOR, "JPEG", quality=95, exif=exif.tobytes() + FILES["jpeg"])
    assert np.abs(decode(content, MANY).astype(int) - ramps()).mean() < 6
    assert reason(content[:-30]) == "truncated"


@pytest.mark.parametrize("name", ["png", "palette png"])
def test_any_flipped_bit_of_a_png_is_found(name):
    for position in range(16, len(FILES[name]), 5):
        flipped = bytearray(FILES[name])
        flipped[position] ^= 4
        assert reason(bytes(flipped)) in {"corrupt", "truncated", "not an image", "too many pixels"}


def test_a_damaged_header_is_corrupt():
    assert reason(FILES["jpeg"][:3] + bytes(40)) == "corrupt"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mangled_files_raise_nothing_but_an_image_error(data):
    content = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        assert decode(bytes(content), MANY).ndim == 3


def test_a_png_whose_whole_data_has_too_few_rows_is_truncated():
    row = b"\0" + bytes([9] * 5)
    assert decode(png(5, 4, 8, 0, row * 4)).shape == (4, 5, 3)
    assert reason(png(5, 4, 8, 0, row * 2)) == "truncated"
    assert reason(png(5, 4, 8, 3, row * 2)) == "truncated"


def test_a_gif_may_be_followed_by_a_line_break():
    np.testing.assert_array_equal(decode(FILES["gif"] + b"\r\n"), decode(FILES["gif"]))
    assert reason(FILES["gif"][:-1] + b"\n") == "truncated"


def test_a_pixel_bomb_is_quarantined_by_its_header():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    # A picture this size would fill 7.5 GB; nothing but its header is there.
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason(bomb, 100_000_000) == "too many pixels"


@pytest.mark.parametrize("name", FILES)
def test_the_limit_of_pixels_is_the_largest_size_allowed(name):
    assert decode(FILES[name], 24 * 32).shape == (24, 32, 3)
    assert reason(FILES[name], 24 * 32 - 1) == "too many pixels"


@pytest.mark.parametrize("name", FILES)
def test_files_too_small_or_too_long_are_told_by_their_header(name):
    assert decode(FILES[name], min_side=24, max_aspect=32 / 24).shape == (24, 32, 3)
    assert reason(FILES[name], min_side=25) == "too small"
    assert reason(FILES[name], max_aspect=1.33) == "aspect ratio"


def test_a_limit_above_pillows_own_holds():
    wide = encode(Image.new("1", (200_000, 1000)), "PNG")  # Pillow refuses more than 179 million by itself
    assert reason(wide, 199_999_999) == "too many pixels"
    assert Image.open(BytesIO(wide)).size == (200_000, 1000)


def large(form: str, **options: Any) -> bytes:
    return encode(COLOR.resize((330, 250), Image.Resampling.BICUBIC), form, **options)


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
    reduced = decode(content, MANY, side)
    assert reduced.shape == (*shape, 3)
    averaged = cv2.resize(decode(content, MANY), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - averaged).mean() < 3
    assert header(content, side) == Header("JPEG", 330, 250)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_other_formats_are_not_reduced(form):
    content = large(form)
    np.testing.assert_array_equal(decode(content, MANY, 16), decode(content, MANY))
    assert header(content, 16) == Header(form, 330, 250)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_large_picture_is_halved_for_a_crop_while_enough_is_left_also_without_a_border(params: Params, form: str):
    crop = params.crop.model_copy(update={"side": 32, "border": False, "scaled_decoding": 2.0})
    content = encode(COLOR.resize((323, 320)), form, quality=95)
    for changes, side in (({}, 80), ({"border": True}, 160), ({"scaled_decoding": None}, 320), ({"side": 64}, 160)):
        image, found = decode_for_crop(content, crop.model_copy(update=changes))
        assert image.shape[0] == side
        assert found == Header(form, 323, 320)


def test_halving_averages_blocks(params: Params):
    noise = np.random.default_rng(0).integers(0, 256, (131, 258, 3), dtype=np.uint8)
    crop = params.crop.model_copy(update={"side": 16, "border": False, "scaled_decoding": 2.0})
    image, _ = decode_for_crop(encode(Image.fromarray(noise), "PNG"), crop)
    expected = noise[:128, :256].reshape(32, 4, 64, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image, expected, atol=0.51)


@pytest.mark.parametrize("size", [16, 32, 200])
def test_a_grey_picture_is_cropped_by_one_channel_to_what_three_would_give(params: Params, size: int):
    grey = np.random.default_rng(size).integers(0, 256, (90, 131), dtype=np.uint8)
    grey[:7], grey[:, -9:] = 3, 3
    picture = three_channels(grey)
    crop = params.crop.model_copy(update={"side": size, "border": True})
    framed = remove_border(picture, crop.border_threshold, crop.border_tolerance)
    assert framed.shape == (83, 122, 3)
    np.testing.assert_array_equal(crop_image(grey, crop), center_square(framed, size))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_grey_picture_has_one_channel_whatever_the_file_calls_it(form: str, mode: str):
    if form == "PPM" and mode == "RGBA":
        return
    grey = ramps()[..., 0]
    content = encode(Image.fromarray(grey).convert(mode), form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode_with(content, FREE, None)[0], grey)
    np.testing.assert_array_equal(decode_with(npy(three_channels(grey)), FREE, None)[0], grey)


@pytest.mark.parametrize("pixel", [(45, 0, 1), (0, 0, 0), (89, 130, 2)])
def test_a_single_coloured_pixel_makes_a_picture_coloured(pixel):
    picture = np.full((90, 131, 3), 70, np.uint8)
    picture[pixel] += 1
    np.testing.assert_array_equal(decode_with(encode(Image.fromarray(picture), "PNG"), FREE, None)[0], picture)


@pytest.mark.parametrize("row", [0, 300, 699])
def test_a_large_picture_is_looked_at_to_its_last_row(row):
    picture = three_channels(np.random.default_rng(0).integers(0, 255, (700, 500), dtype=np.uint8))
    np.testing.assert_array_equal(decode_with(encode(Image.fromarray(picture), "PNG"), FREE, None)[0], picture[..., 0])
    picture[row, 7, 2] += 1
    np.testing.assert_array_equal(decode_with(encode(Image.fromarray(picture), "PNG"), FREE, None)[0], picture)


@pytest.mark.parametrize("side", [None, 125, 62, 31])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_that_is_surely_grey_gives_the_brightness_that_decoding_in_color_gives(side, subsampling):
    picture = COLOR.convert("L").resize((330, 250), Image.Resampling.BICUBIC).convert("RGB")
    contents = [encode(picture, "JPEG", quality=90, subsampling=subsampling, optimize=o) for o in (True, False)]
    assert [jpeg.is_surely_grey(content) for content in contents] == [True, False]
    sure, found = (decode_with(content, FREE, None, side)[0] for content in contents)
    assert sure.ndim == 2
    np.testing.assert_array_equal(sure, found)
    pillows = np.asarray(Image.open(BytesIO(contents[0])))
    if side is None:
        np.testing.assert_allclose(three_channels(sure).astype(int), pillows, atol=1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_surely_grey_is_turned_upright_and_refused_where_it_is_cut(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(Image.fromarray(three_channels(ramps()[..., 0])), "JPEG", quality=100, optimize=True, exif=exif)
    assert jpeg.is_surely_grey(content)
    expected = ramps()[..., 0] if orientation == 1 else np.rot90(ramps()[..., 0], -1)
    np.testing.assert_allclose(decode_with(content, FREE, None)[0].astype(int), expected, atol=2)
    for cut in range(1, len(content)):
        assert reason(content[:cut]) in {"truncated", "corrupt", "not an image"}


def test_a_grey_and_a_cmyk_jpeg_under_reduction():
    grey = encode(COLOR.convert("L").resize((320, 240)), "JPEG", quality=95)
    reduced = decode(grey, MANY, 30)
    assert reduced.shape == (30, 40, 3)
    assert (reduced[..., 0] == reduced[..., 1]).all()
    cmyk = encode(COLOR.convert("CMYK").resize((320, 240)), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(cmyk, MANY, 30), decode(cmyk, MANY))  # Pillow's work, at full size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright_and_its_header_says_how_large_it_was(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    content = large("JPEG", quality=95, exif=exif)
    reduced, whole = decode(content, MANY, 60), decode(content, MANY)
    averaged = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - averaged).mean() < 1.5
    assert header(content, 60) == Header("JPEG", whole.shape[1], whole.shape[0])


def test_unequal_sides_that_a_reduction_would_make_equal_are_not_reduced_so_far():
    content = encode(Image.new("RGB", (1001, 1008)), "JPEG")  # an eighth is 126 by 126, a quarter 251 by 252
    assert decode(content, 2 * MANY, 100).shape == (252, 251, 3)
    assert decode(encode(Image.new("RGB", (1008, 1008)), "JPEG"), 2 * MANY, 100).shape == (126, 126, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [125, 62, 31])
def test_a_jpeg_cut_anywhere_is_an_error_under_reduction_too(progressive, side):
    content = large("JPEG", quality=95, progressive=progressive)
    decode(content, MANY, side)
    for cut in [*range(1, len(content), len(content) // 50), *range(len(content) - 16, len(content))]:
        with pytest.raises(ImageError) as caught:
            decode(content[:cut], MANY, side)
        assert caught.value.reason in {"truncated", "corrupt", "not an image"}


def framed(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    return np.pad(np.full((20, 30, 3), 90, np.uint8), ((top, bottom), (left, right), (0, 0)), constant_values=5)


@pytest.mark.parametrize("widths", [(3, 5, 7, 1), (0, 0, 4, 0), (0, 0, 0, 0), (60, 0, 0, 90)])
def test_a_border_is_removed_at_each_side(widths):
    image = framed(*widths)
    cut = remove_border(image, 24, 0.02)
    np.testing.assert_array_equal(cut, np.full((20, 30, 3), 90))
    assert np.shares_memory(cut, image)


def test_a_border_pixel_is_bright_when_any_channel_exceeds_the_threshold():
    image = framed(2, 2, 2, 2)
    image[0, 10:20, 2] = 25
    assert remove_border(image, 24, 0.0).shape == (22, 30, 3)
    assert remove_border(image, 25, 0.0).shape == (20, 30, 3)


def test_tolerance_is_the_share_of_bright_pixels_that_a_border_row_may_hold():
    image = framed(2, 2, 10, 10)  # 24 rows, 50 columns
    image[0, 10:15] = 255  # 5 of 50 pixels
    assert remove_border(image, 24, 0.10).shape == (20, 30, 3)
    assert remove_border(image, 24, 0.09).shape == (22, 30, 3)


def test_dark_lines_inside_the_picture_stay():
    image = framed(2, 2, 2, 2)
    image[10:14] = 0
    image[:, 15] = 0
    assert remove_border(image, 24, 0.02).shape == (20, 30, 3)


@pytest.mark.parametrize("image", [np.zeros((5, 9, 3), np.uint8), np.full((1, 1, 3), 24, np.uint8)])
def test_an_image_dark_throughout_stays_whole(image):
    assert remove_border(image, 24, 0.02).shape == image.shape


def test_a_single_bright_line_is_no_picture():
    image = np.zeros((400, 10, 3), np.uint8)
    image[200] = 255
    assert remove_border(image, 24, 0.02).shape == image.shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (31, 33), (32, 32), (64, 2000), (7, 5)])
def test_every_shape_becomes_a_square_of_its_color(params: Params, shape):
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    crop = crop_image(image, params.crop)
    assert crop.shape == (params.crop.side, params.crop.side, 3)
    assert crop.dtype == np.uint8
    assert (crop == (200, 100, 50)).all()


def test_the_center_is_cut_out(params: Params):
    image = np.full((32, 96, 3), 40, np.uint8)
    image[:, 32:64] = ramps(32, 32) // 2 + 60
    plain = params.crop.model_copy(update={"border": False})
    np.testing.assert_array_equal(crop_image(image, plain), image[:, 32:64])
    np.testing.assert_array_equal(crop_image(image.transpose(1, 0, 2), plain), image[:, 32:64].transpose(1, 0, 2))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_by_a_power_of_two_averages_blocks(factor: int):
    noise = np.random.default_rng(0).integers(0, 256, (32 * factor, 32 * factor, 3), dtype=np.uint8)
    expected = noise.reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
    # Each halving rounds.
    np.testing.assert_allclose(center_square(noise, 32), expected, atol=0.51 * np.log2(factor))


@pytest.mark.parametrize("side", [33, 36, 41, 48, 63, 64, 65, 80, 95, 96, 97, 127, 129, 190, 255, 257, 700])
def test_shrinking_comes_close_to_antialiased_resizing_elsewhere(side: int):
    """To Pillow's and torchvision's, and nearer than averaging over areas does unless both are very near."""
    noise = np.random.default_rng(side).normal(size=(side, side, 3))
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    image = np.clip(128 + blurred * (40 / blurred.std()), 0, 255).astype(np.uint8)
    areas = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    pillow = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    tensor = transforms.resize(torch.from_numpy(image).permute(2, 0, 1), [32, 32], antialias=True).permute(1, 2, 0)
    for theirs in (pillow, tensor.numpy()):
        ours, coarse = (np.square(made - theirs.astype(float)).mean() for made in (center_square(image, 32), areas))
        assert ours <= max(coarse, 255**2 / 10**4.5), side  # 45 dB


def test_enlarging_adds_no_halo(params: Params):
    edge = np.full((8, 8, 3), 100, np.uint8)
    edge[:, 4:] = 180
    crop = crop_image(edge, params.crop)
    assert crop.min() == 100
    assert crop.max() == 180


def test_the_border_is_removed_before_cropping_only_if_asked(params: Params):
    image = framed(0, 0, 0, 40)  # the picture, 20 by 30, stands at the left
    assert crop_image(image, params.crop).min() == 90
    assert crop_image(image, params.crop.model_copy(update={"border": False})).min() == 5
