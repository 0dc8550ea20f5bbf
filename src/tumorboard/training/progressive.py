"""The side of the training images in each epoch: the full one, or one that grows up to it."""

import torch
from torch import Tensor

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.models.recipes import check_progressive
from tumorboard.models.registry import Classifier

# Pixels by which the side grows per step. The larger number is for networks that refuse sides of the smaller one.
STEPS = (16, 32)


def sides_by_epoch(model: Classifier, recipe: Recipe, side: int) -> tuple[int, ...]:
    """Returns the side of the training images in each epoch, in pixels.

    With `progressive` below 1 it rises linearly from that share of the full side, in multiples of 16, and is full from
    two thirds of the epochs on. For a network that does not take all of these sides, it rises in multiples of 32.

    Args:
        model: the recipe's network; it runs over one blank image per side, and is left in evaluation mode.
        recipe: its `progressive` and `epochs` are used.
        side: the full side, which the crops have, in pixels.

    Raises:
        InputError: the network takes images of one side only, or none as small as these.

    Source:
        Touvron et al. 2019 (larger images at the end), Tan & Le 2021 (sides that rise in steps).
    """
    if recipe.progressive == 1:
        return (side,) * recipe.epochs
    check_progressive(recipe, side)
    faults = []
    for step in STEPS:
        sides = rising_sides(recipe.progressive, recipe.epochs, side=side, step=step)
        if not (fault := _fault_of(model, sides)):
            return sides
        faults.append(fault)
    raise InputError(
        f"architecture {recipe.architecture} does not take the smaller images of progressive "
        f"{recipe.progressive:g} ({faults[0]}): raise it, or set it to 1"
    )


def rising_sides(share: float, epochs: int, *, side: int, step: int) -> tuple[int, ...]:
    """Returns a side per epoch: from `share * side` up to the full side, in multiples of `step` until then.

    >>> rising_sides(0.5, 9, side=128, step=16)
    (64, 80, 80, 96, 112, 112, 128, 128, 128)
    >>> rising_sides(0.5, 3, side=100, step=16), rising_sides(0.5, 1, side=100, step=16)
    ((48, 80, 100), (100,))
    """
    rise = 2 * epochs // 3  # the first epoch of the full side, counted from 0
    exact = [side * (share + (1 - share) * epoch / rise) for epoch in range(rise)]
    rounded = [max(step, step * int(pixels / step + 0.5)) for pixels in exact]
    return (*(min(side, pixels) for pixels in rounded), *(side for _ in range(epochs - rise)))


def resize_images(images: Tensor, side: int) -> Tensor:
    """Returns images [N, 3, S, S], uint8 or float, scaled to a side in pixels; unchanged where they have that side.

    Scaled images are float32, by antialiased bilinear interpolation; each depends on its own image alone, to the bit.
    """
    if images.shape[-1] == side:
        return images
    images = images.to(torch.float32, memory_format=torch.contiguous_format)
    return torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def _fault_of(model: Classifier, sides: tuple[int, ...]) -> str:
    """Returns why a model does not take images of all of these sides; empty where it does."""
    device = next(model.parameters()).device
    model.eval()
    for side in sorted(set(sides)):
        try:
            model(torch.zeros(1, 3, side, side, device=device))
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            return f"{side} pixels: {error}".partition("\n")[0]
    return ""
