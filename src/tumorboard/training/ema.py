"""Exponential moving average of a model's weights, kept beside the model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module


def start_average(model: Module) -> dict[str, Tensor]:
    """Returns the average before the first step: a copy of the model's state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def average_decay(decay: float, step: int) -> float:
    """Returns the decay at a step (from 0): min(decay, (1 + step) / (10 + step)), so that early weights fade quickly.

    Source: the `num_updates` rule of TensorFlow's ExponentialMovingAverage.

    >>> [average_decay(0.999, step) for step in (0, 8, 90, 100_000)]
    [0.1, 0.5, 0.91, 0.999]
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: dict[str, Tensor], values: Mapping[str, Tensor], decay: float) -> None:
    """Updates the average in place, by a model's state dict: average = decay * average + (1 - decay) * value.

    Batch norm's running statistics are averaged like parameters. Integer tensors, such as its count of batches, are
    copied.

    Source: Polyak & Juditsky 1992.
    """
    floats = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floats], [values[name] for name in floats], 1 - decay)
    for name in values.keys() - set(floats):
        average[name].copy_(values[name])


@contextmanager
def swapped_tensors(model: Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Swaps the model's tensors with those of a state dict, and swaps them back at the end of the context.

    Within the context the model holds `tensors`, and `tensors` holds the model's. A change made within it stays with
    the tensors that it was made to.
    """
    _swap(model, tensors)
    try:
        yield
    finally:
        _swap(model, tensors)


@torch.no_grad()
def _swap(model: Module, tensors: dict[str, Tensor]) -> None:
    swapped = set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in swapped:  # a tensor that the model has under two names is swapped once
            swapped.add(value.data_ptr())
            own = value.clone()
            value.copy_(tensors[name])
            tensors[name].copy_(own)
