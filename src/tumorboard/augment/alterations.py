"""Alters whole batches of images at random on their device, each image by random numbers of its own."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tumorboard.base.params import Augment
from tumorboard.base.randomness import uniforms

_PADDING = {"reflect": "reflection", "border": "border", "black": "zeros"}  # grid_sample's names for `fill`
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # weights of red, green and blue, as torchvision has them
_CACHED_PIXELS = 200_000  # pixels of a slice of a batch that fits into a CPU core's cache


class Alterations(NamedTuple):
    """How each of N images is altered; arrays [N] unless noted."""

    hflip: NDArray[np.bool_]  # left and right swapped
    vflip: NDArray[np.bool_]  # top and bottom swapped
    angle: NDArray[np.float64]  # degrees, clockwise
    zoom: NDArray[np.float64]  # factor; above 1 enlarges
    side: NDArray[np.float64]  # side of the random crop, as a share of the image's side
    center: NDArray[np.float64]  # [N, 2]: x and y from the image's center to the crop's, as shares of the side
    shift: NDArray[np.float64]  # [N, 2]: x and y, as shares of the side
    brightness: NDArray[np.float64]  # factor
    contrast: NDArray[np.float64]  # factor
    saturation: NDArray[np.float64]  # factor
    sigma: NDArray[np.float64]  # standard deviation of the blur in pixels; 0 for none


def draw_numbers(
    augment: Augment, seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64], side: int
) -> Tensor:
    """Draws alterations like `draw_alterations`, and returns the numbers by which they are carried out.

    Args:
        augment, seed, keys, counter: as in `draw_alterations`.
        side: side of the images in pixels.

    Returns:
        float32[N, 9 + W] in the CPU's memory: the matrix [2, 3] of the resampling, row by row; factors of brightness,
        contrast and saturation; with blur, the W weights of its kernel.
    """
    drawn = draw_alterations(augment, seed, keys, counter)
    factors = np.stack([drawn.brightness, drawn.contrast, drawn.saturation], axis=1)
    numbers = [_source_matrices(drawn).reshape(-1, 6), factors]
    if augment.blur:
        numbers.append(_blur_kernels(drawn.sigma, min(int(np.ceil(3 * augment.blur_sigma[1])), side - 1)))
    return torch.from_numpy(np.concatenate(numbers, axis=1).astype(np.float32))


def draw_alterations(
    augment: Augment, seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64]
) -> Alterations:
    """Draws how each image is altered, as a function of (seed, its key, its counter).

    Args:
        augment: ranges of the alterations.
        seed: the seed of the whole run.
        keys: uint64[N], one per image.
        counter: epoch or copy number, one for all images or int64[N].
    """
    # `randomness.order` sorts by a stream's first number. It is skipped here, so that flips do not follow the order.
    draws = uniforms(seed, keys, counter, 15)[:, 1:].T
    hflip, vflip, angle, zoom, side = draws[:5]
    side = 1 - side * (1 - augment.crop)
    brightness, contrast, saturation, blur, sigma = draws[9:]
    return Alterations(
        hflip=hflip < augment.hflip,
        vflip=vflip < augment.vflip,
        angle=augment.rotate * (2 * angle - 1),
        zoom=_interpolate(augment.zoom, zoom),
        side=side,
        center=((draws[5:7] - 0.5) * (1 - side)).T,
        shift=(augment.shift * (2 * draws[7:9] - 1)).T,
        brightness=1 + augment.brightness * (2 * brightness - 1),
        contrast=1 + augment.contrast * (2 * contrast - 1),
        saturation=1 + augment.saturation * (2 * saturation - 1),
        sigma=np.where(blur < augment.blur, _interpolate(augment.blur_sigma, sigma), 0.0),
    )


@torch.no_grad()
def augment_images(
    images: Tensor,
    augment: Augment,
    *,
    seed: int,
    keys: NDArray[np.uint64],
    counter: int | NDArray[np.int64],
    numbers: Tensor | None = None,
) -> Tensor:
    """Returns randomly altered images; the input stays as it is.

    Each result is, to the bit, a function of its image, the seed, its key and its counter: the rest of the batch does
    not change it.

    Args:
        images: [N, 3, S, S] with pixel values from 0 to 255, uint8 or float.
        augment: ranges of the alterations.
        seed: the seed of the whole run.
        keys: uint64[N], one per image.
        counter: epoch or copy number, one for all images or int64[N].
        numbers: what `draw_numbers` returned for the same arguments and S, on any device; None: drawn here.

    Returns:
        float32[N, 3, S, S] from 0 to 255, contiguous, on the device of the images.
    """
    counters = np.broadcast_to(np.asarray(counter, dtype=np.int64), keys.shape)
    if numbers is None:
        numbers = draw_numbers(augment, seed, keys, counters, images.shape[-1])
    numbers = numbers.to(images.device, non_blocking=True)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    count = max(1, len(images) if images.is_cuda else _CACHED_PIXELS // images.shape[-1] ** 2)
    for start in range(0, len(images), count):
        part = slice(start, start + count)
        noise = partial(_noise, seed=seed, keys=keys[part], counters=counters[part])
        result[part] = alter_images(images[part], augment, numbers[part], noise)
    return result


@torch.no_grad()
def alter_images(
    images: Tensor, augment: Augment, numbers: Tensor, noise: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Returns altered images; on CUDA nothing waits for the CPU, so that a CUDA graph can hold it.

    In order: crop, rotation and zoom about the center, shift, flips (one resampling for all of these), then
    brightness, contrast, saturation, Gaussian blur, noise.

    Args:
        images: [N, 3, S, S] with pixel values from 0 to 255, uint8 or float.
        augment: ranges of the alterations.
        numbers: from `draw_numbers`, on the device of the images.
        noise: returns standard normal numbers for images; needed where `augment.noise` is above 0.

    Returns:
        float32[N, 3, S, S] from 0 to 255, contiguous.

    Source:
        brightness, contrast, saturation: torchvision's adjust_*. Bicubic resampling: Keys 1981 with a = -0.75.
    """
    images = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if augment.rotate or augment.shift or augment.crop < 1 or augment.zoom != (1, 1):
        matrices = numbers[:, :6].reshape(-1, 2, 3)
        images = _resample(images, matrices, _PADDING[augment.fill], augment.interpolation)
    else:
        for share, column, axis in ((augment.hflip, 0, -1), (augment.vflip, 4, -2)):
            if share:  # the matrix has 1 or -1 on its diagonal
                images = torch.where(_column(numbers, column) < 0, images.flip(axis), images)
    if augment.brightness:
        images.mul_(_column(numbers, 6)).clamp_(0, 255)
    if augment.contrast:
        _blend(images, _mean_grey(images), _column(numbers, 7))
    if augment.saturation:
        _blend(images, _grey(images), _column(numbers, 8))
    if augment.blur:
        images = _gaussian_blur(images, numbers[:, 9:])
    if augment.noise:
        assert noise is not None
        images.add_(noise(images), alpha=augment.noise).clamp_(0, 255)
    return images


def _column(numbers: Tensor, column: int) -> Tensor:
    """Returns one column of numbers per image, [N, C], as [N, 1, 1, 1]."""
    return numbers[:, column].view(-1, 1, 1, 1)


def _interpolate(ends: tuple[float, float], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return ends[0] + share * (ends[1] - ends[0])


def _resample(images: Tensor, matrix: Tensor, padding: str, interpolation: str) -> Tensor:
    """Returns the images cropped, rotated, zoomed, shifted and flipped, by one interpolation per pixel.

    Args:
        images: float32[N, 3, S, S].
        matrix: float32[N, 2, 3] of `_source_matrices`.
        padding: what lies beyond the edge, as grid_sample names it.
        interpolation: as grid_sample names it.
    """
    side = images.shape[-1]
    places = (torch.arange(side, device=images.device, dtype=torch.float32) * 2 + 1) / side - 1
    # A sum of one part per column and one per row: F.affine_grid's batched matrix product may round differently for
    # batches of different sizes.
    along_x = matrix[:, :, 0, None] * places
    along_y = matrix[:, :, 1, None] * places + matrix[:, :, 2, None]
    grid = (along_y[:, :, :, None] + along_x[:, :, None, :]).permute(0, 2, 3, 1)
    result = functional.grid_sample(images, grid, mode=interpolation, padding_mode=padding, align_corners=False)
    return result.clamp_(0, 255) if interpolation == "bicubic" else result  # bicubic overshoots the values it joins


def _source_matrices(drawn: Alterations) -> NDArray[np.float64]:
    """Returns matrices [N, 2, 3] from a place in the result to its source, both from -1 to 1 between the edges."""
    angle = np.deg2rad(drawn.angle)
    scale = drawn.side / drawn.zoom
    back = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    back *= scale[:, None, None]
    offset = 2 * drawn.center - np.einsum("nij,nj->ni", back, 2 * drawn.shift)
    signs = np.where(np.stack([drawn.hflip, drawn.vflip], axis=1), -1.0, 1.0)
    return np.concatenate([back * signs[:, None, :], offset[:, :, None]], axis=2)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = _GREY_WEIGHTS
    return (images[:, 0:1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:3], alpha=blue)


def _mean_grey(images: Tensor) -> Tensor:
    """Returns the mean grey value of each image, [N, 1, 1, 1].

    Grey values are rounded to 1/256, so that their sum is exact and does not depend on the order of addition.
    """
    grey = _grey(images).mul_(256).round_()
    return grey.sum((1, 2, 3), keepdim=True, dtype=torch.float64).div_(256 * grey[0].numel()).float()


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> None:
    """Replaces the images by factor * images + (1 - factor) * other, in place; `factor` is [N, 1, 1, 1]."""
    images.mul_(factor).add_(other * (1 - factor)).clamp_(0, 255)


def _blur_kernels(sigma: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Returns a Gaussian's weights per image, [N, 2 * radius + 1]; with a sigma of 0 all weight is in the middle."""
    places = np.arange(-radius, radius + 1)
    kernels: NDArray[np.float64] = np.exp(-((places / np.where(sigma > 0, sigma, 1.0)[:, None]) ** 2) / 2)
    kernels[sigma == 0] = places == 0
    kernels /= kernels.sum(1, keepdims=True)
    return kernels


def _gaussian_blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Returns the images blurred by kernels [N, 2 * radius + 1]; edges are reflected."""
    if images.is_cuda:  # choosing images would wait for the CPU; the others stay the same to the bit
        return _convolve(_convolve(images, kernels, -1), kernels, -2)
    chosen = kernels[:, kernels.shape[1] // 2] < 1
    images[chosen] = _convolve(_convolve(images[chosen], kernels[chosen], -1), kernels[chosen], -2)
    return images


def _convolve(images: Tensor, kernels: Tensor, axis: int) -> Tensor:
    """Returns the images convolved along one axis, each with its own kernel of `kernels` [N, 2 * radius + 1].

    It adds up shifted whole images, since torch's convolution may round differently for batches of different sizes.
    """
    radius, side = kernels.shape[1] // 2, images.shape[axis]
    padded = functional.pad(images, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
    result = torch.zeros_like(images)
    for offset in range(kernels.shape[1]):
        result.addcmul_(padded.narrow(axis, offset, side), _column(kernels, offset))
    return result


def _noise(images: Tensor, *, seed: int, keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> Tensor:
    """Returns standard normal numbers in the shape of the images.

    Each image has a stream of Philox (Salmon et al. 2011) for its (seed, key, counter).
    """
    noise = np.empty(images.shape, dtype=np.float32)
    for row, (key, number) in enumerate(zip(keys, counters, strict=True)):
        stream = np.random.Philox(key=[seed % 2**64, int(key)], counter=[0, 0, 0, int(number) % 2**64])
        np.random.Generator(stream).standard_normal(dtype=np.float32, out=noise[row])
    return torch.from_numpy(noise).to(images.device, non_blocking=True)
