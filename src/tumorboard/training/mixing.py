"""Mixup and cutmix: each image of a batch with a partner, the same one on any number of processes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from tumorboard.params import Recipe
from tumorboard.randomness import uniforms

_STREAM = np.uint64(0x6D697865736F7274)  # sets these draws apart from those that alter the same image in this epoch


class Mixture(NamedTuple):
    """How N images are mixed, every field an array with N rows."""

    places: NDArray[np.int64]  # of the images in the batch of all processes
    partners: NDArray[np.int64]  # their places there
    share: NDArray[np.float64]  # of the image itself and of its label in the mixed one; 1 where it stays as it is
    cut: NDArray[np.bool_]  # whether the partner fills a box, or is blended in
    box: NDArray[np.int64]  # [N, 4]: left, top, right, bottom in pixels, the last two beyond it


def draw_mixture(recipe: Recipe, keys: NDArray[np.uint64], counters: NDArray[np.int64], side: int) -> Mixture:
    """Draw how the images of a whole batch are mixed, given their keys uint64[N], counters int64[N] and side.

    The partner is the image before it in the epoch's order, the batch's last for its first, as in torchvision's MixUp
    and CutMix. Shares are drawn for each image, from Beta(alpha, alpha), as functions of (seed, key, counter). Mixup:
    Zhang et al. 2018. Cutmix: Yun et al. 2019; its share is what the box inside the image leaves.
    """
    mixed, kind, share, x, y = uniforms(recipe.seed, keys ^ _STREAM, counters, 5).T
    cut = kind < 0.5 if recipe.mixup and recipe.cutmix else np.full(len(keys), recipe.cutmix > 0)
    # The inverse of the distribution function: one uniform number makes one share.
    share = np.where(cut, *(betaincinv(alpha or 1.0, alpha or 1.0, share) for alpha in (recipe.cutmix, recipe.mixup)))
    box = _boxes(share, np.stack([x, y]), side)
    share = np.where(cut, 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / side**2, share)
    alone = (mixed >= recipe.mix_probability) | (len(keys) == 1)
    box[alone | ~cut] = 0
    places = np.arange(len(keys))
    return Mixture(places, np.roll(places, 1), np.where(alone, 1.0, share), cut, box)


def _boxes(share: NDArray[np.float64], center: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    """Boxes of 1 - share of the image around a center in 0 to 1, in whole pixels, cut off at the edges."""
    half = (0.5 * np.sqrt(1 - share) * side).astype(np.int64)
    middle = (center * side).astype(np.int64)
    return np.concatenate([np.maximum(middle - half, 0), np.minimum(middle + half, side)]).T


def part_of(mixture: Mixture, positions: NDArray[np.int64]) -> Mixture:
    """The mixture of the images at these positions."""
    places, partners, share, cut, box = mixture
    return Mixture(places[positions], partners[positions], share[positions], cut[positions], box[positions])


def with_partners(mixture: Mixture) -> NDArray[np.int64]:
    """The places that a mixture needs, each once: its own first, then the partners that are not among them."""
    others = mixture.partners[(mixture.share < 1) & ~np.isin(mixture.partners, mixture.places)]
    return np.concatenate([mixture.places, others])


def mix_batch(images: Tensor, labels: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mix the images of `with_partners(mixture)`; returns images, labels, the partners' labels, and shares float32[N].

    An image's loss is its share of the loss by its own label, the rest of that by its partner's (as Zhang et al.).
    """
    count = len(mixture.places)
    position_of = {int(place): position for position, place in enumerate(with_partners(mixture))}
    # One without a partner is its own.
    partner = torch.tensor([position_of.get(int(place), own) for own, place in enumerate(mixture.partners)]).to(
        images.device
    )
    mixed = mix_images(images[:count], images[partner], mixture)
    share = torch.from_numpy(mixture.share.astype(np.float32)).to(images.device)
    return mixed, labels[:count], labels[partner], share


def mix_images(images: Tensor, partners: Tensor, mixture: Mixture) -> Tensor:
    """Images and their partners, both [N, 3, S, S], as the mixture says; each image's result is its own to the bit."""
    left, top, right, bottom = (_column(values, images) for values in mixture.box.T)
    place = torch.arange(images.shape[-1], device=images.device)
    inside = (place >= left) & (place < right) & (place[:, None] >= top) & (place[:, None] < bottom)
    blend = _column(np.where(mixture.cut, 1.0, mixture.share).astype(np.float32), images)
    return torch.where(inside, partners, images * blend + partners * (1 - blend))


def _column(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, non_blocking=True).view(-1, 1, 1, 1)
