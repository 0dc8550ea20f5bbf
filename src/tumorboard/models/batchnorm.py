"""Batch norm: how few images it bears in a training step, and statistics over all processes."""

from typing import cast

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

from tumorboard.models.registry import Classifier


def fewest_images(model: Classifier, side: int) -> int:
    """The fewest images of side `side` that a training step can see at once, 1 or 2, found by showing it one.

    Batch norm cannot do with one value a channel: with one image, where the picture has shrunk to one pixel. The model
    is left as it was, in the modes it has.
    """
    device = next(model.parameters()).device
    held = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model(torch.zeros(1, 3, side, side, device=device))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return 2
        finally:
            for buffer, value in zip(model.buffers(), held, strict=True):
                buffer.copy_(value)
    return 1


def synchronise(model: Classifier) -> Classifier:
    """The model with statistics of all processes' micro-batches together.

    By timm, whose batch norm may hold an activation that torch's own conversion would leave out.
    """
    return cast(Classifier, convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
