"""Mixup and cutmix: mixes each image of a batch with a partner, the same one on any number of processes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.base.params import Recipe
from tumorboard.base.randomness import uniforms

# Makes these random numbers independent of those that alter the same image in the same epoch.
_STREAM = np.uint64(0x6D697865736F7274)


class Mixture(NamedTuple):
    """How N images of a batch are mixed; arrays [N] unless noted."""

    positions: NDArray[np.int64]  # positions of the images in the whole batch, over all processes
    partners: NDArray[np.int64]  # positions of their partners in the whole batch
    lam: NDArray[np.float64]  # weight of the image and its label, the partner's is 1 - lam; 1 for an unmixed image
    cut: NDArray[np.bool_]  # whether the partner fills a box (cutmix) or is blended in (mixup)
    box: NDArray[np.int64]  # [N, 4]: left, top, right, bottom in pixels; right and bottom are exclusive


def draw_mixture(recipe: Recipe, keys: NDArray[np.uint64], counters: NDArray[np.int64], side: int) -> Mixture:
    """Draws how the images of a whole batch are mixed.

    The partner of an image is the one before it in the batch, and the partner of the first is the last, as in
    torchvision's MixUp and CutMix. Unlike there, lambda is drawn per image, by (seed, its key, its counter).

    Args:
        recipe: its `seed`, `mixup`, `cutmix` and `mix_probability` count.
        keys: uint64[N], one per image.
        counters: int64[N], epoch or number of the draw, one per image.
        side: side of the images in pixels.

    Source:
        mixup: Zhang et al. 2018. cutmix: Yun et al. 2019; its lambda is the share that the box leaves of the image.
    """
    from scipy.special import betaincinv  # here, because it is slow to import, and few recipes mix images

    mixed, kind, share, x, y = uniforms(recipe.seed, keys ^ _STREAM, counters, 5).T
    cut = kind < 0.5 if recipe.mixup and recipe.cutmix else np.full(len(keys), recipe.cutmix > 0)
    # Beta(alpha, alpha) by the inverse of its distribution function: one uniform number gives one lambda.
    lam = np.where(cut, *(betaincinv(alpha or 1.0, alpha or 1.0, share) for alpha in (recipe.cutmix, recipe.mixup)))
    box = _boxes(lam, np.stack([x, y]), side)
    lam = np.where(cut, 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / side**2, lam)
    unmixed = (mixed >= recipe.mix_probability) | (len(keys) == 1)
    box[unmixed | ~cut] = 0
    positions = np.arange(len(keys))
    return Mixture(positions, np.roll(positions, 1), np.where(unmixed, 1.0, lam), cut, box)


def _boxes(lam: NDArray[np.float64], center: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    """Returns boxes [N, 4] in whole pixels that cover 1 - lam of the image, clipped at its edges.

    Args:
        lam: [N], from 0 to 1.
        center: [2, N], x and y from 0 to 1.
        side: side of the image in pixels.
    """
    half = (0.5 * np.sqrt(1 - lam) * side).astype(np.int64)
    middle = (center * side).astype(np.int64)
    return np.concatenate([np.maximum(middle - half, 0), np.minimum(middle + half, side)]).T


def select_images(mixture: Mixture, rows: NDArray[np.int64]) -> Mixture:
    """Returns the mixture of the images at these rows of a mixture."""
    positions, partners, lam, cut, box = mixture
    return Mixture(positions[rows], partners[rows], lam[rows], cut[rows], box[rows])


def needed_positions(mixture: Mixture) -> NDArray[np.int64]:
    """Returns the batch positions that a mixture needs, each once: those of its images, then of all other partners.

    >>> box = np.zeros((3, 4), dtype=np.int64)
    >>> lam, cut = np.array([0.5, 1.0, 0.5]), np.zeros(3, dtype=bool)
    >>> needed_positions(Mixture(np.array([4, 2, 5]), np.array([3, 1, 4]), lam, cut, box)).tolist()
    [4, 2, 5, 3]
    """
    others = mixture.partners[(mixture.lam < 1) & ~np.isin(mixture.partners, mixture.positions)]
    return np.concatenate([mixture.positions, others])


def mix_batch(images: Tensor, labels: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mixes the N images of a mixture and returns what their loss needs.

    The loss of a mixed image is lam * loss(label) + (1 - lam) * loss(partner's label).

    Args:
        images: [M, 3, S, S] at `needed_positions(mixture)`, the N images first.
        labels: [M], the labels of these images.
        mixture: the mixture of the N images.

    Returns:
        Mixed images [N, 3, S, S], their labels [N], their partners' labels [N], and lam float32[N].

    Source:
        Zhang et al. 2018.
    """
    count = len(mixture.positions)
    row_of = {int(position): row for row, position in enumerate(needed_positions(mixture))}
    # An unmixed image whose partner was not loaded is its own partner.
    partner = torch.tensor([row_of.get(int(position), row) for row, position in enumerate(mixture.partners)]).to(
        images.device, non_blocking=True
    )
    mixed = mix_images(images[:count], images[partner], mixture)
    lam = torch.from_numpy(mixture.lam.astype(np.float32)).to(images.device, non_blocking=True)
    return mixed, labels[:count], labels[partner], lam


def mix_images(images: Tensor, partners: Tensor, mixture: Mixture) -> Tensor:
    """Returns the mixed images; each is a function of its own image and partner, to the bit.

    Args:
        images: [N, 3, S, S].
        partners: [N, 3, S, S].
        mixture: the mixture of the N images.
    """
    left, top, right, bottom = (_per_image(values, images) for values in mixture.box.T)
    place = torch.arange(images.shape[-1], device=images.device)
    inside = (place >= left) & (place < right) & (place[:, None] >= top) & (place[:, None] < bottom)
    weight = _per_image(np.where(mixture.cut, 1.0, mixture.lam).astype(np.float32), images)
    return torch.where(inside, partners, images * weight + partners * (1 - weight))


def _per_image(values: NDArray[Any], like: Tensor) -> Tensor:
    """Returns one number per image, [N], as a tensor [N, 1, 1, 1] on the device of `like`, to combine with a batch."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, non_blocking=True).view(-1, 1, 1, 1)
