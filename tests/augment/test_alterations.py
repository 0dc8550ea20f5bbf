"""Alterations: close to torchvision's, and the same to the bit whatever else is in the batch."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, kstest, uniform
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from tumorboard.augment.alterations import (
    Alterations,
    _mean_grey,
    _resample,
    _source_matrices,
    augment_images,
    draw_alterations,
    draw_numbers,
)
from tumorboard.base.params import Augment
from tumorboard.base.randomness import keys_of, order

KEYS = keys_of([f"image {number}" for number in range(2000)])
NEUTRAL = {"hflip": 0.0, "vflip": 0.0, "rotate": 0.0, "zoom": (1.0, 1.0), "crop": 1.0, "shift": 0.0, "brightness": 0.0}
NEUTRAL |= {"contrast": 0.0, "saturation": 0.0, "blur": 0.0, "blur_sigma": (0.5, 2.0), "noise": 0.0, "fill": "black"}
NEUTRAL |= {"interpolation": "bilinear"}
EVERYTHING = {"hflip": 0.5, "vflip": 0.5, "rotate": 45.0, "zoom": (0.8, 1.3), "crop": 0.7, "shift": 0.1, "blur": 0.5}
EVERYTHING |= {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "noise": 5.0, "fill": "reflect"}


def augment(**changes: object) -> Augment:
    """Settings that change nothing except by `changes`."""
    return Augment.model_validate(NEUTRAL | changes)


def pictures(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def matrix(drawn: Alterations) -> Tensor:
    return torch.from_numpy(_source_matrices(drawn).astype(np.float32))


def test_neutral_settings_leave_the_pixels() -> None:
    images = pictures(3, 17)
    result = augment_images(images, augment(), seed=0, keys=KEYS[:3], counter=0)
    assert result.dtype == torch.float32
    assert torch.equal(result, images.float())


@pytest.mark.parametrize(("name", "axis"), [("hflip", 3), ("vflip", 2)])
def test_flips_alone_are_exact(name: str, axis: int) -> None:
    images = pictures(40, 16)
    assert torch.equal(
        augment_images(images, augment(**{name: 1.0}), seed=0, keys=KEYS[:40], counter=0), images.flip(axis).float()
    )
    some = augment(**{name: 0.5})
    chosen = getattr(draw_alterations(some, 0, KEYS[:40], 0), name)
    assert 0 < chosen.sum() < 40
    results = augment_images(images, some, seed=0, keys=KEYS[:40], counter=0)
    for image, result, flipped in zip(images.float(), results, chosen, strict=True):
        assert torch.equal(result, image.flip(axis - 1) if flipped else image)


def test_rotation_zoom_shift_and_flips_are_torchvisions_affine() -> None:
    settings = augment(hflip=0.5, vflip=0.5, rotate=180.0, zoom=(0.7, 1.4), shift=0.2)
    images = pictures(8, 48)
    drawn = draw_alterations(settings, 3, KEYS[:8], 5)
    results = augment_images(images, settings, seed=3, keys=KEYS[:8], counter=5)
    for row, image in enumerate(images.float()):
        expected = reference.affine(
            image,
            angle=float(drawn.angle[row]),
            translate=(48 * drawn.shift[row]).tolist(),
            scale=float(drawn.zoom[row]),
            shear=[0.0, 0.0],
            interpolation=reference.InterpolationMode.BILINEAR,
        )
        expected = expected.flip(2) if drawn.hflip[row] else expected
        expected = expected.flip(1) if drawn.vflip[row] else expected
        torch.testing.assert_close(results[row], expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(("fill", "padding"), [("black", "constant"), ("border", "edge"), ("reflect", "symmetric")])
def test_rotation_and_what_lies_beyond_the_edge_are_torchvisions(fill: str, padding: str) -> None:
    settings = augment(rotate=180.0, fill=fill)
    images = pictures(6, 40)
    angles = draw_alterations(settings, 1, KEYS[:6], 0).angle
    results = augment_images(images, settings, seed=1, keys=KEYS[:6], counter=0)
    for image, result, angle in zip(images.float(), results, angles, strict=True):
        wide = reference.pad(image, [20, 20], padding_mode=padding)
        # torchvision rotates counterclockwise.
        turned = reference.rotate(wide, -float(angle), reference.InterpolationMode.BILINEAR)
        torch.testing.assert_close(result, reference.center_crop(turned, [40, 40]), atol=0.05, rtol=0)


@pytest.mark.parametrize("setting", [{"zoom": (0.6, 1.5)}, {"shift": 0.3}])
def test_zoom_and_shift_alone_are_torchvisions(setting: dict[str, object]) -> None:
    settings = augment(**setting)
    images = pictures(6, 40)
    drawn = draw_alterations(settings, 1, KEYS[:6], 0)
    results = augment_images(images, settings, seed=1, keys=KEYS[:6], counter=0)
    for row, image in enumerate(images.float()):
        scale, shift = float(drawn.zoom[row]), (40 * drawn.shift[row]).tolist()
        assert (scale != 1) == ("zoom" in setting)
        expected = reference.affine(image, 0.0, shift, scale, [0.0, 0.0], reference.InterpolationMode.BILINEAR)
        torch.testing.assert_close(results[row], expected, atol=0.05, rtol=0)


def test_a_shift_of_half_a_pixel_weighs_four_neighbors() -> None:
    """Keys' kernel with a = -0.75 at distances 0.5 and 1.5: 19/32 and -3/32; bilinear's weights are halves."""
    ones, nothing = np.ones(1), np.zeros(1)
    drawn = Alterations(
        *(nothing.astype(bool), nothing.astype(bool), nothing, ones, ones, np.zeros((1, 2))),
        *(np.array([[0.5 / 8, 0.0]]), ones, ones, ones, nothing),
    )
    row = torch.tensor([0.0, 10, 20, 200, 255, 90, 30, 0])
    image = row.expand(1, 3, 8, 8).contiguous()
    halves = _resample(image, matrix(drawn), "border", "bilinear")[0, 0, 0]
    assert halves[1:].tolist() == pytest.approx(((row[:-1] + row[1:]) / 2).tolist(), abs=1e-3)
    cubic = _resample(image, matrix(drawn), "border", "bicubic")[0, 0, 0]
    inner = (19 * (row[1:-2] + row[2:-1]) - 3 * (row[:-3] + row[3:])) / 32
    assert inner.min() < 0 or inner.max() > 255  # the kernel overshoots the range, which is clipped
    assert cubic[2:-1].tolist() == pytest.approx(inner.clamp(0, 255).tolist(), abs=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_is_torchvisions_resized_crop(interpolation: str) -> None:
    ones, nothing = np.ones(1), np.zeros(1)
    drawn = Alterations(
        *(nothing.astype(bool), nothing.astype(bool), nothing, ones),
        *(np.array([0.5]), np.array([[0.125, -0.25]]), np.zeros((1, 2)), ones, ones, ones, nothing),
    )
    image = pictures(1, 64).float()
    # Half of 64 pixels, its center 8 pixels right of the middle and 16 above it.
    mode = reference.InterpolationMode(interpolation)
    expected = reference.resized_crop(image, 0, 24, 32, 32, [64, 64], mode, antialias=False).clamp(0, 255)
    result = _resample(image, matrix(drawn), "zeros", interpolation)
    torch.testing.assert_close(result[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=0.01, rtol=0)


def test_colors_and_blur_are_applied_in_order_as_torchvisions() -> None:
    settings = augment(brightness=0.4, contrast=0.4, saturation=0.4, blur=1.0, blur_sigma=(0.5, 1.0))
    images = pictures(5, 24)
    drawn = draw_alterations(settings, 0, KEYS[:5], 1)
    results = augment_images(images, settings, seed=0, keys=KEYS[:5], counter=1)
    for row, image in enumerate(images.float() / 255):
        expected = reference.adjust_brightness(image, float(drawn.brightness[row]))
        expected = reference.adjust_contrast(expected, float(drawn.contrast[row]))
        expected = reference.adjust_saturation(expected, float(drawn.saturation[row]))
        sigma = float(drawn.sigma[row])
        expected = 255 * reference.gaussian_blur(expected, [7, 7], [sigma, sigma])
        torch.testing.assert_close(results[row], expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colors_are_torchvisions(name: str) -> None:
    settings = augment(**{name: 0.6})
    images = pictures(6, 20)
    images[0] //= 3
    factors = getattr(draw_alterations(settings, 0, KEYS[:6], 1), name)
    results = augment_images(images, settings, seed=0, keys=KEYS[:6], counter=1)
    for image, result, factor in zip(images.float(), results, factors, strict=True):
        expected = 255 * getattr(reference, f"adjust_{name}")(image / 255, float(factor))
        torch.testing.assert_close(result, expected, atol=0.01, rtol=0)


def test_blur_is_torchvisions_for_the_images_that_are_blurred() -> None:
    settings = augment(blur=0.5, blur_sigma=(0.5, 2.0))
    images = pictures(12, 32)
    sigmas = draw_alterations(settings, 0, KEYS[:12], 0).sigma
    assert 0 < (sigmas == 0).sum() < 12
    results = augment_images(images, settings, seed=0, keys=KEYS[:12], counter=0)
    for image, result, sigma in zip(images.float(), results, sigmas, strict=True):
        expected = reference.gaussian_blur(image, [13, 13], [sigma, sigma]) if sigma else image
        torch.testing.assert_close(result, expected, atol=0.01, rtol=0)


def test_blur_wider_than_the_image_keeps_its_mean_level() -> None:
    images = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    result = augment_images(images, augment(blur=1.0, blur_sigma=(20.0, 20.0)), seed=0, keys=KEYS[:2], counter=0)
    torch.testing.assert_close(result, images.float(), atol=1e-3, rtol=0)


def test_noise_has_its_standard_deviation_and_stays_in_range() -> None:
    grey = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    result = augment_images(grey, augment(noise=8.0), seed=0, keys=KEYS[:4], counter=0)
    assert abs(result.mean() - 128) < 0.2
    assert abs(result.std() - 8) < 0.1
    assert not torch.equal(result[0], result[1])
    white = augment_images(grey * 0 + 255, augment(noise=50.0), seed=0, keys=KEYS[:4], counter=0)
    assert white.max() == 255
    assert white.min() >= 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [33, 224])
def test_an_image_is_altered_the_same_alone_and_in_any_batch(side: int, interpolation: str) -> None:
    settings = augment(**EVERYTHING | {"interpolation": interpolation})
    images, keys = pictures(7, side), KEYS[:7]
    counters = np.array([4, 0, 7, 7, 1, 2**40, 3])
    together = augment_images(images, settings, seed=11, keys=keys, counter=counters)
    mixed = np.array([3, 6, 0, 5, 1, 4, 2])
    assert torch.equal(
        augment_images(images[mixed], settings, seed=11, keys=keys[mixed], counter=counters[mixed]), together[mixed]
    )
    for row in range(7):
        alone = augment_images(
            images[row : row + 1], settings, seed=11, keys=keys[row : row + 1], counter=int(counters[row])
        )
        assert torch.equal(alone[0], together[row])


def test_seed_key_and_counter_each_change_the_result() -> None:
    settings = augment(**EVERYTHING)
    image = pictures(1, 32)
    results = [
        augment_images(image, settings, seed=seed, keys=KEYS[key : key + 1], counter=counter)
        for seed, key, counter in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(not torch.equal(results[0], other) for other in results[1:])
    # Noise has random numbers of its own; on a grey image the noise is the whole difference.
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    noises = [
        augment_images(grey, augment(noise=5.0), seed=seed, keys=KEYS[key : key + 1], counter=counter)
        for seed, key, counter in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(not torch.equal(noises[0], other) for other in noises[1:])


def test_input_is_unchanged_and_its_dtype_and_layout_have_no_effect() -> None:
    settings = augment(**EVERYTHING)
    images = pictures(5, 24)
    floats = images.float().to(memory_format=torch.channels_last)
    before = floats.clone()
    result = augment_images(floats, settings, seed=0, keys=KEYS[:5], counter=0)
    assert torch.equal(floats, before)
    assert result.is_contiguous()
    assert torch.equal(result, augment_images(images, settings, seed=0, keys=KEYS[:5], counter=0))
    assert 0 <= result.min() <= result.max() <= 255


def test_fill_decides_what_lies_beyond_the_edge() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    corner = {
        fill: augment_images(white, augment(zoom=(0.5, 0.5), fill=fill), seed=0, keys=KEYS[:1], counter=0)[
            0, 0, 0, 0
        ].item()
        for fill in ("black", "border", "reflect")
    }
    assert corner == {"black": 0, "border": 255, "reflect": 255}
    striped = white.clone()
    striped[..., 0] = 0  # only the left edge is dark, which border repeats and reflect mirrors
    shrunk = {
        fill: augment_images(striped, augment(zoom=(0.5, 0.5), fill=fill), seed=0, keys=KEYS[:1], counter=0)[
            0, 0, 16, 2
        ].item()
        for fill in ("border", "reflect")
    }
    assert shrunk == {"border": 0, "reflect": 255}


def test_draws_are_uniform_over_their_ranges() -> None:
    """Over 2000 images: a Kolmogorov-Smirnov test of each continuous draw, a binomial test of each event."""
    settings = augment(**EVERYTHING | {"hflip": 0.25, "blur": 0.3})
    drawn = draw_alterations(settings, 0, KEYS, 2)
    for happened, probability in ((drawn.hflip, 0.25), (drawn.vflip, 0.5), (drawn.sigma > 0, 0.3)):
        assert binomtest(int(happened.sum()), 2000, probability).pvalue > 0.01
    room = (1 - drawn.side) / 2
    for name, values, low, high in (
        ("angle", drawn.angle, -45, 45),
        ("zoom", drawn.zoom, 0.8, 1.3),
        ("side", drawn.side, 0.7, 1),
        ("center x", drawn.center[:, 0] / room, -1, 1),
        ("center y", drawn.center[:, 1] / room, -1, 1),
        ("shift x", drawn.shift[:, 0], -0.1, 0.1),
        ("shift y", drawn.shift[:, 1], -0.1, 0.1),
        ("brightness", drawn.brightness, 0.7, 1.3),
        ("contrast", drawn.contrast, 0.7, 1.3),
        ("saturation", drawn.saturation, 0.7, 1.3),
        ("sigma", drawn.sigma[drawn.sigma > 0], 0.5, 2),
    ):
        assert low <= values.min() < values.max() <= high, name
        assert kstest(values, uniform(low, high - low).cdf).pvalue > 0.01, name


def test_mean_grey_is_rounded_so_that_its_sum_is_exact() -> None:
    """Grey of red 1 is 0.2989, which is rounded to 77/256; without rounding the sum depends on the order of pixels."""
    reddish = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 6, 6)
    assert _mean_grey(reddish).item() == 77 / 256


def test_noise_of_successive_counters_does_not_overlap() -> None:
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    first, second = (
        augment_images(grey, augment(noise=8.0), seed=0, keys=KEYS[:1], counter=counter).flatten() for counter in (0, 1)
    )
    for shift in range(1, 9):
        assert abs(np.corrcoef(first[shift:], second[:-shift])[0, 1]) < 0.08  # more than 4 / sqrt(3 * 32 * 32)


def test_noise_is_normal() -> None:
    grey = torch.full((2, 3, 48, 48), 128, dtype=torch.uint8)
    noise = (augment_images(grey, augment(noise=8.0), seed=0, keys=KEYS[:2], counter=0) - 128) / 8
    assert kstest(noise.flatten().double().numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.reshape(2, -1).numpy())[0, 1]) < 0.04


def test_draws_of_similar_ids_epochs_and_seeds_are_uncorrelated() -> None:
    """For ids that differ in one digit and successive epochs and seeds, correlations are below 4 / sqrt(2000)."""

    def angles(seed: int, epoch: int) -> NDArray[np.float64]:
        return draw_alterations(augment(**EVERYTHING), seed, KEYS, epoch).angle

    first = angles(0, 2)
    for other in (np.roll(first, 1), np.roll(first, 10), angles(0, 3), angles(0, 4), angles(1, 2), angles(2, 0)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.09


def test_draws_are_uncorrelated_with_one_another_and_with_the_order() -> None:
    drawn = draw_alterations(augment(**EVERYTHING), 0, KEYS, 2)
    place = np.empty(len(KEYS))
    place[order(0, KEYS, 2)] = np.arange(len(KEYS))
    columns = [place, *drawn[:5], *drawn.shift.T, drawn.brightness, drawn.contrast, drawn.saturation, drawn.sigma > 0]
    related = np.corrcoef([np.asarray(column, dtype=float) for column in columns]) - np.eye(len(columns))
    assert np.abs(related).max() < 0.09


def test_alterations_drawn_before_are_those_drawn_by_the_images_themselves() -> None:
    images, settings = pictures(7, 24), augment(**EVERYTHING)
    drawn = draw_numbers(settings, 5, KEYS[:7], 3, 24)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn[2:4], draw_numbers(settings, 5, KEYS[2:4], 3, 24))
    given = augment_images(images, settings, seed=5, keys=KEYS[:7], counter=3, numbers=drawn)
    assert torch.equal(given, augment_images(images, settings, seed=5, keys=KEYS[:7], counter=3))
    other = draw_numbers(settings, 6, KEYS[:7], 3, 24)
    assert not torch.equal(given, augment_images(images, settings, seed=5, keys=KEYS[:7], counter=3, numbers=other))
