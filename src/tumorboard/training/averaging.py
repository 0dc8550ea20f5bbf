"""A running average of a model's weights beside the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module


def start_average(model: Module) -> dict[str, Tensor]:
    """The average of no step yet: a copy of the model's parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def average_decay(decay: float, step: int) -> float:
    """The decay at a step (from 0): min(decay, (1 + step) / (10 + step)), so that the start is soon forgotten.

    The rule is that of TensorFlow's ExponentialMovingAverage.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: Module, decay: float) -> None:
    """Move the average towards the model: average = decay * average + (1 - decay) * value (Polyak & Juditsky 1992).

    Batch norm's running statistics are averaged as the parameters are; whole numbers, such as its count of batches,
    are copied.
    """
    values = model.state_dict()
    floats = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floats], [values[name] for name in floats], 1 - decay)
    for name in values.keys() - set(floats):
        average[name].copy_(values[name])


@contextmanager
def exchanged(model: Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within, the model has these tensors and they hold the model's; after, each has its own again, as then changed."""
    _exchange(model, tensors)
    try:
        yield
    finally:
        _exchange(model, tensors)


@torch.no_grad()
def _exchange(model: Module, tensors: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        held = value.clone()
        value.copy_(tensors[name])
        tensors[name].copy_(held)
