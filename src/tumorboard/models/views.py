"""The views of an image that test-time augmentation predicts, and whose logits are averaged."""

import itertools
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from tumorboard.base.params import View

AlterImages: TypeAlias = Callable[[Tensor], Tensor]  # images [N, C, S, S], altered alike

# A shift moves an image by its side divided by this number.
SHIFT_SHARE = 16


def views_of(tta: Collection[View]) -> list[AlterImages]:
    """Returns the alterations that give the views of an image; the first one leaves it as it is.

    Flips and quarter turns are combined, and no view is given twice: one flip gives 2 views, both give 4, quarter turns
    alone 4, with any flip 8. The shifts add 4: right, left, down and up by a sixteenth of the side (at least a pixel),
    with the image reflected about its edge pixels.

    Args:
        tta: names of the alterations, as in a recipe.

    >>> {names: len(views_of(names)) for names in [(), ("hflip",), ("hflip", "vflip"), ("vflip", "quarter_turns")]}
    {(): 1, ('hflip',): 2, ('hflip', 'vflip'): 4, ('vflip', 'quarter_turns'): 8}
    >>> image = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    >>> [view(image).flatten().tolist() for view in views_of(("quarter_turns",))]
    [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    """
    turns = (0, 1, 2, 3) if "quarter_turns" in tta else (0,)
    flips = [axis for name, axis in (("hflip", -1), ("vflip", -2)) if name in tta]
    if len(turns) > 1:
        flips = flips[:1]  # the other flip is this one and half a turn
    chosen = itertools.product(*([(), (axis,)] for axis in flips))
    views = [partial(_flip_and_turn, axes=sum(axes, ()), turns=count) for axes in chosen for count in turns]
    shifts = [(1, -1), (-1, -1), (1, -2), (-1, -2)] if "shift" in tta else []
    return [*views, *(partial(_shift, sign=sign, axis=axis) for sign, axis in shifts)]


def _flip_and_turn(images: Tensor, axes: Sequence[int], turns: int) -> Tensor:
    return torch.rot90(images.flip(list(axes)), turns, (-2, -1))


def _shift(images: Tensor, sign: int, axis: int) -> Tensor:
    """Returns the images moved along an axis, right or down for a positive sign."""
    last = images.shape[axis] - 1
    places = torch.arange(last + 1, device=images.device) - sign * max(1, (last + 1) // SHIFT_SHARE)
    return images.index_select(axis, last - (last - places.abs()).abs())
