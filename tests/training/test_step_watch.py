"""Tests what is found in a step that a CUDA graph could not repeat."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tumorboard.training.step_watch import StepWatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30
REPLACES = "its module '0' replaces values of its own at each step"


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].count, model[0].cache, model[0].center = 1.0, [torch.ones(1)], torch.ones(2)
    return model


def replace(layer: nn.Module, name: str, value: object) -> None:
    setattr(layer, name, value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda _: None, ""),
        (lambda layer: layer.center.mul_(2), ""),
        (lambda layer: replace(layer, "count", 1.0), ""),
        (lambda layer: replace(layer, "center", layer.weight.sum(0)), ""),  # computed anew within the step
        (lambda layer: replace(layer, "center", layer.center * 2), REPLACES),
        (lambda layer: replace(layer, "count", layer.count + 1), REPLACES),
        (lambda layer: layer.cache.append(torch.ones(1)), REPLACES),
    ],
)
def test_values_that_a_module_replaces_are_a_fault(change: Callable[[nn.Module], object], fault: str) -> None:
    model = network()
    watch = StepWatch(model, CPU)
    model(torch.ones(3, 2)).sum().backward()
    change(model[0])  # type: ignore[index]
    assert watch.fault() == fault


@pytest.mark.parametrize(
    ("draw", "held", "fault"),
    [
        (lambda: None, 40, ""),
        (lambda: None, 60, "the GPU's memory does not hold a step twice"),
        (lambda: torch.rand(1), 1, "it draws random numbers on the CPU"),
        (random.random, 1, "it draws random numbers on the CPU"),
        (np.random.random, 1, "it draws random numbers on the CPU"),
    ],
)
def test_draws_on_the_cpu_and_little_memory_are_faults_on_cuda(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object], held: int, fault: str
) -> None:
    """A GPU of 100 GiB, 10 of which hold weights, moments and static inputs; `held` are those of a step at its peak."""
    numbers = {"memory_allocated": 10, "max_memory_allocated": 10 + held, "memory_reserved": 15 + held}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, number=number: number * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((85 - held) * GIB, 100 * GIB))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    watch = StepWatch(network(), CUDA)
    draw()
    assert watch.fault() == fault
