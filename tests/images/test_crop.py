"""The crop and its steps: reduction, border, center square, scaling; values by hand, Pillow and torchvision."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from tests.images.samples import COLOR, encode, ramps
from tumorboard.base.errors import ImageError
from tumorboard.base.params import Params
from tumorboard.images.crop import center_square, crop_file, crop_image, decode_for_crop, remove_border
from tumorboard.images.grey import Pixels, three_channels
from tumorboard.images.header import Header


def framed(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Returns a bright picture of 20 x 30 pixels in a dark border of these widths."""
    return np.pad(np.full((20, 30, 3), 90, np.uint8), ((top, bottom), (left, right), (0, 0)), constant_values=5)


@pytest.mark.parametrize("border", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_cropped_file_has_the_picture_the_header_the_border_share_and_the_square(params, border, channels):
    crop = params.crop.model_copy(update={"side": 16, "border": border, "scaled_decoding": None, "min_side": 1})
    image = framed(5, 5, 15, 5)  # 30 x 50 pixels, of which the picture has 20 x 30
    if channels == 1:
        image = image[..., 0]
    else:
        image[5:25, 15:45] = (90, 80, 70)
    cropped = crop_file(encode(Image.fromarray(image), "PNG"), crop, None)
    np.testing.assert_array_equal(cropped.picture, image)
    assert cropped.header == Header("PNG", 50, 30)
    assert cropped.border == 0.6  # whether or not it is cut off
    assert cropped.square.shape == ((16, 16) if channels == 1 else (16, 16, 3))
    np.testing.assert_array_equal(three_channels(cropped.square), crop_image(image, crop))
    assert (cropped.square.min() == 5) == (not border)  # rows 0 to 4 of the whole are dark


def test_a_file_that_is_no_image_is_not_cropped(params: Params):
    with pytest.raises(ImageError, match="not an image"):
        crop_file(b"name,label\n", params.crop, None)
    content = encode(COLOR, "TIFF", save_all=True, append_images=[COLOR])
    crop = params.crop.model_copy(update={"min_side": 1})
    with pytest.raises(ImageError, match="multi-frame without a rule"):
        crop_file(content, crop, None)
    assert crop_file(content, crop, "first").header == Header("TIFF", 32, 24)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_large_picture_is_reduced_while_enough_pixels_are_left(params: Params, form: str):
    crop = params.crop.model_copy(update={"side": 32, "border": False, "scaled_decoding": 2.0})
    content = encode(COLOR.resize((323, 320)), form, quality=95)
    for changes, side in (({}, 80), ({"border": True}, 160), ({"scaled_decoding": None}, 320), ({"side": 64}, 160)):
        image, header = decode_for_crop(content, crop.model_copy(update=changes), None)
        assert image.shape[0] == side
        assert header == Header(form, 323, 320)


def test_a_reduction_averages_blocks(params: Params):
    noise = np.random.default_rng(0).integers(0, 256, (131, 258, 3), dtype=np.uint8)
    crop = params.crop.model_copy(update={"side": 16, "border": False, "scaled_decoding": 2.0})
    image, _ = decode_for_crop(encode(Image.fromarray(noise), "PNG"), crop, None)
    expected = noise[:128, :256].reshape(32, 4, 64, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image, expected, atol=0.51)


@pytest.mark.parametrize("widths", [(3, 5, 7, 1), (0, 0, 4, 0), (0, 0, 0, 0), (60, 0, 0, 90)])
def test_a_border_is_removed_at_each_side(widths):
    image = framed(*widths)
    cut = remove_border(image, 24, 0.02)
    np.testing.assert_array_equal(cut, np.full((20, 30, 3), 90))
    assert np.shares_memory(cut, image)


def test_a_pixel_is_bright_if_any_channel_exceeds_the_threshold():
    image = framed(2, 2, 2, 2)
    image[0, 10:20, 2] = 25
    assert remove_border(image, 24, 0.0).shape == (22, 30, 3)
    assert remove_border(image, 25, 0.0).shape == (20, 30, 3)


def test_tolerance_is_the_share_of_bright_pixels_that_a_border_row_may_have():
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
def test_a_dark_image_stays_whole(image):
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
def test_shrinking_is_close_to_antialiased_resizing_of_pillow_and_torchvision(side: int):
    """It is closer than averaging over areas, or the difference is very small."""
    noise = np.random.default_rng(side).normal(size=(side, side, 3))
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    image = np.clip(128 + blurred * (40 / blurred.std()), 0, 255).astype(np.uint8)
    areas = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    pillow = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    tensor = transforms.resize(torch.from_numpy(image).permute(2, 0, 1), [32, 32], antialias=True).permute(1, 2, 0)
    for theirs in (pillow, tensor.numpy()):
        error, area_error = (
            np.square(square - theirs.astype(float)).mean() for square in (center_square(image, 32), areas)
        )
        assert error <= max(area_error, 255**2 / 10**4.5), side  # a PSNR of 45 dB


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


@pytest.mark.parametrize("size", [16, 32, 200])
def test_one_channel_is_cropped_to_the_same_square_as_three(params: Params, size: int):
    grey = np.random.default_rng(size).integers(0, 256, (90, 131), dtype=np.uint8)
    grey[:7], grey[:, -9:] = 3, 3
    picture = three_channels(grey)
    crop = params.crop.model_copy(update={"side": size, "border": True})
    framed = remove_border(picture, crop.border_threshold, crop.border_tolerance)
    assert framed.shape == (83, 122, 3)
    np.testing.assert_array_equal(crop_image(grey, crop), center_square(framed, size))


def vertical_line(size: int, column: int) -> Pixels:
    """Returns a black square with one bright column."""
    image = np.zeros((size, size), np.uint8)
    image[:, column] = 252
    return image


def test_shrinking_to_a_third_weights_pixels_as_pillows_triangle_does():
    """The variance of the weights is (3^2 - 1) / 6, that of a triangle from -3 to 3 on the integers."""
    # Output pixel 10 of 31 lies at column 10 * 3 + 1 exactly, so that its levels are the weights of the blur alone.
    distances = np.arange(-4, 5)
    levels, pillows = [], []
    for distance in distances:
        line = vertical_line(93, 31 + int(distance))
        levels.append(int(center_square(line, 31)[15, 10]))
        small = Image.fromarray(line).resize((31, 31), Image.Resampling.BILINEAR)
        pillows.append(int(np.asarray(small)[15, 10]))
    assert pillows == [0, 0, 28, 56, 84, 56, 28, 0, 0]  # 252 * (1, 2, 3, 2, 1) / 9
    # A Gaussian of variance 8 / 6 and its 7 samples: 252 * (0.0118, 0.0772, 0.2379, 0.3461, ...); with a variance of
    # 8 / 8 the middle would be 100.5, and with 8 / 5 it would be 80.
    np.testing.assert_allclose(levels, [0, 3, 19.5, 60, 87.2, 60, 19.5, 3, 0], atol=1)
    np.testing.assert_allclose(levels, pillows, atol=10)  # with a variance of 8 / 8 the middle is 16 off
    variance = (distances**2 * np.array(levels)).sum() / sum(levels)
    assert abs(variance - 8 / 6) < 0.07  # the Gaussian is cut off at -3 and 3, and levels are rounded


def test_shrinking_by_less_than_two_blurs_with_three_weights_of_the_exact_variance():
    # Output pixel 13 of 27 lies at column (13 + 0.5) * 5 / 3 - 0.5 = 22 exactly.
    levels = [int(center_square(vertical_line(45, 22 + distance), 27)[13, 13]) for distance in range(-2, 3)]
    # The variance is ((5 / 3)^2 - 1) / 6 = 8 / 27: weights 4 / 27, 19 / 27, 4 / 27 of 252; with / 8: 28, 196, 28.
    np.testing.assert_allclose(levels, [0, 37.3, 177.3, 37.3, 0], atol=1.5)


@pytest.mark.parametrize(("side", "is_averaged"), [(123, False), (125, True)])
def test_four_pixels_and_more_per_pixel_are_averaged_over_areas(side, is_averaged):
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    areas = cv2.resize(noise, (31, 31), interpolation=cv2.INTER_AREA)
    assert (center_square(noise, 31) == areas).all() == is_averaged
