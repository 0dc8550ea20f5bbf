"""Finds the fewest images that batch norm needs, and averages its statistics over all processes."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from tumorboard.base.errors import InputError
from tumorboard.models.registry import Classifier
from tumorboard.training.distributed import Group


def fewest_images(model: Classifier, side: int) -> int:
    """Returns the fewest images that a forward pass in the model's present modes accepts: 1 or 2.

    In training mode batch norm needs more than one value per channel. A single image has one value per channel where
    the feature map has shrunk to one pixel. A pass over one blank image decides; the model's buffers and torch's
    random state are restored after it.

    Args:
        side: side of the square images in pixels.
    """
    device = next(model.parameters()).device
    buffers = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model(torch.zeros(1, 3, side, side, device=device))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return 2
        finally:
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
    return 1


def synchronize_batch_norm(model: Classifier, group: Group) -> Classifier:
    """Returns the model with batch norm layers that normalize by the micro-batches of all processes together.

    timm's conversion is used because timm's batch norm may hold an activation, which torch's own conversion drops.

    Raises:
        InputError: the processes train on the CPU.
    """
    if group.device.type == "cpu":
        raise InputError(
            f"sync_batchnorm is true, but torch has it on CUDA only, and {group.size} processes train on the CPU: "
            "set it to false, or runtime.processes to 1, where it changes nothing"
        )
    from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]  # here, because timm is slow to import

    return cast(Classifier, convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]


def batch_norm_means(model: Module, group: Group, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Returns the running statistics of batch norm, averaged over the processes.

    Args:
        model: its layers determine which tensors are running statistics.
        group: the processes; all of them must call this function.
        tensors: source of the statistics, by name in the model's state dict; None: the model itself.

    Returns:
        New tensors by name in the state dict: `running_mean` and `running_var` of each layer that tracks them.
    """
    source = model.state_dict() if tensors is None else tensors
    names = [
        f"{name}.{statistic}".removeprefix(".")
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
        for statistic in ("running_mean", "running_var")
    ]
    means = {name: source[name].clone() for name in names}
    group.average_(means.values())
    return means


def average_batch_norm(model: Module, group: Group) -> None:
    """Sets the running statistics of batch norm to their means over the processes; all of them must call this."""
    if group.size > 1:
        model.load_state_dict(batch_norm_means(model, group), strict=False)
