"""Random alterations of whole batches on their device, in which every image has a random stream of its own."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tumorboard.params import Augment
from tumorboard.randomness import uniforms

_PADDING = {"reflect": "reflection", "border": "border", "black": "zeros"}
_GREY = (0.2989, 0.587, 0.114)
_CACHED_PIXELS = 200_000  # of a part of a batch that stays in a core's cache


class Alterations(NamedTuple):
    """What is done to each of N images, every field an array [N] unless it says otherwise."""

    hflip: NDArray[np.bool_]
    vflip: NDArray[np.bool_]
    angle: NDArray[np.float64]  # degrees, clockwise
    zoom: NDArray[np.float64]
    side: NDArray[np.float64]  # of the crop, as a share of the image's
    center: NDArray[np.float64]  # [N, 2]: x and y of the crop's center, in shares of the side from the image's center
    shift: NDArray[np.float64]  # [N, 2]: x and y, in shares of the side
    brightness: NDArray[np.float64]  # factors
    contrast: NDArray[np.float64]
    saturation: NDArray[np.float64]
    sigma: NDArray[np.float64]  # of the blur, in pixels; 0 where there is none


def draw_parameters(
    augment: Augment, seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64]
) -> Alterations:
    """Draw the alterations of the images with these uint64[N] keys; image i's depend on seed, key and counter alone."""
    # The first number of a stream is the one that randomness.order sorts by; flips must not follow from the order.
    draws = uniforms(seed, keys, counter, 15)[:, 1:].T
    hflip, vflip, angle, zoom, side = draws[:5]
    side = 1 - side * (1 - augment.crop)
    brightness, contrast, saturation, blur, sigma = draws[9:]
    return Alterations(
        hflip=hflip < augment.hflip,
        vflip=vflip < augment.vflip,
        angle=augment.rotate * (2 * angle - 1),
        zoom=_between(augment.zoom, zoom),
        side=side,
        center=((draws[5:7] - 0.5) * (1 - side)).T,
        shift=(augment.shift * (2 * draws[7:9] - 1)).T,
        brightness=1 + augment.brightness * (2 * brightness - 1),
        contrast=1 + augment.contrast * (2 * contrast - 1),
        saturation=1 + augment.saturation * (2 * saturation - 1),
        sigma=np.where(blur < augment.blur, _between(augment.blur_sigma, sigma), 0.0),
    )


@torch.no_grad()
def augment_images(
    images: Tensor, augment: Augment, seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64]
) -> Tensor:
    """Alter images [N, 3, S, S] of grey values 0 to 255 (uint8 or float) and return them as contiguous float32.

    Image i's result is a function of its pixels, seed, keys[i] and counter (or counter[i]), to the bit, whatever else
    is in the batch. In order: crop, rotation and zoom about the center, shift, flips (one resampling of all, bilinear
    or bicubic: Keys 1981 with a = -0.75), brightness, contrast, saturation (each as torchvision's adjust_*), Gaussian
    blur, noise.
    """
    counters = np.broadcast_to(np.asarray(counter, dtype=np.int64), keys.shape)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    count = max(1, len(images) if images.is_cuda else _CACHED_PIXELS // images.shape[-1] ** 2)
    for start in range(0, len(images), count):
        part = slice(start, start + count)
        result[part] = _alter(images[part], augment, seed, keys[part], counters[part])
    return result


def _alter(
    images: Tensor, augment: Augment, seed: int, keys: NDArray[np.uint64], counters: NDArray[np.int64]
) -> Tensor:
    drawn = draw_parameters(augment, seed, keys, counters)
    images = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if augment.rotate or augment.shift or augment.crop < 1 or augment.zoom != (1, 1):
        images = _resample(images, drawn, _PADDING[augment.fill], augment.interpolation)
    else:
        images = _flip(_flip(images, drawn.hflip, -1), drawn.vflip, -2)
    if augment.brightness:
        images.mul_(_column(drawn.brightness, images)).clamp_(0, 255)
    if augment.contrast:
        _blend(images, _mean_grey(images), drawn.contrast)
    if augment.saturation:
        _blend(images, _grey(images), drawn.saturation)
    if augment.blur:
        images = _blur(images, drawn.sigma, augment.blur_sigma[1])
    if augment.noise:
        images.add_(_noise(images, seed, keys, counters), alpha=augment.noise).clamp_(0, 255)
    return images


def _between(ends: tuple[float, float], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return ends[0] + share * (ends[1] - ends[0])


def _column(values: NDArray[Any], like: Tensor) -> Tensor:
    """Values [N] as a tensor [N, 1, 1, 1] beside a batch."""
    return torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1, 1)


def _resample(images: Tensor, drawn: Alterations, padding: str, interpolation: str) -> Tensor:
    matrix = torch.from_numpy(_matrices(drawn).astype(np.float32)).to(images.device)
    side = images.shape[-1]
    places = (torch.arange(side, device=images.device, dtype=torch.float32) * 2 + 1) / side - 1
    # Sums of a row's and a column's part: F.affine_grid's batched matrix product may round differently by batch size.
    along_x = matrix[:, :, 0, None] * places
    along_y = matrix[:, :, 1, None] * places + matrix[:, :, 2, None]
    grid = (along_y[:, :, :, None] + along_x[:, :, None, :]).permute(0, 2, 3, 1)
    result = functional.grid_sample(images, grid, mode=interpolation, padding_mode=padding, align_corners=False)
    return result.clamp_(0, 255) if interpolation == "bicubic" else result  # bicubic swings beyond the values it joins


def _matrices(drawn: Alterations) -> NDArray[np.float64]:
    """Matrices [N, 2, 3] from a place in the result to its source, both in -1 to 1 from edge to edge."""
    angle = np.deg2rad(drawn.angle)
    scale = drawn.side / drawn.zoom
    back = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    back *= scale[:, None, None]
    offset = 2 * drawn.center - np.einsum("nij,nj->ni", back, 2 * drawn.shift)
    signs = np.where(np.stack([drawn.hflip, drawn.vflip], axis=1), -1.0, 1.0)
    return np.concatenate([back * signs[:, None, :], offset[:, :, None]], axis=2)


def _flip(images: Tensor, chosen: NDArray[np.bool_], axis: int) -> Tensor:
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
    images[rows] = images[rows].flip(axis)
    return images


def _grey(images: Tensor) -> Tensor:
    red, green, blue = _GREY
    return (images[:, 0:1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:3], alpha=blue)


def _mean_grey(images: Tensor) -> Tensor:
    """Mean grey value [N, 1, 1, 1]; grey is rounded to 1/256, so that the sum is exact and its order without effect."""
    grey = _grey(images).mul_(256).round_()
    return grey.sum((1, 2, 3), keepdim=True, dtype=torch.float64).div_(256 * grey[0].numel()).float()


def _blend(images: Tensor, other: Tensor, factor: NDArray[np.float64]) -> None:
    share = _column(factor, images)
    images.mul_(share).add_(other * (1 - share)).clamp_(0, 255)


def _blur(images: Tensor, sigma: NDArray[np.float64], largest: float) -> Tensor:
    """Blur the images that have a sigma; the kernel reaches three of the largest sigma, the edges are reflected."""
    rows = np.flatnonzero(sigma)
    radius = min(int(np.ceil(3 * largest)), images.shape[-1] - 1)
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma[rows, None]) ** 2) / 2)
    weights /= weights.sum(1, keepdims=True)
    chosen = torch.from_numpy(rows).to(images.device)
    images[chosen] = _weigh(_weigh(images[chosen], weights, -1), weights, -2)
    return images


def _weigh(images: Tensor, weights: NDArray[np.float64], axis: int) -> Tensor:
    """Weighted sums along one axis; sums of whole images, since a convolution may round differently by batch size."""
    radius, side = weights.shape[1] // 2, images.shape[axis]
    padded = functional.pad(images, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
    result = torch.zeros_like(images)
    for place in range(weights.shape[1]):
        result.addcmul_(padded.narrow(axis, place, side), _column(weights[:, place], images))
    return result


def _noise(images: Tensor, seed: int, keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> Tensor:
    """Standard normal numbers shaped as the images; Philox (Salmon et al. 2011), a stream a (seed, key, counter)."""
    noise = np.empty(images.shape, dtype=np.float32)
    for row, (key, number) in enumerate(zip(keys, counters, strict=True)):
        stream = np.random.Philox(key=[seed % 2**64, int(key)], counter=[0, 0, 0, int(number) % 2**64])
        np.random.Generator(stream).standard_normal(dtype=np.float32, out=noise[row])
    return torch.from_numpy(noise).to(images.device)
