"""Finds whether a CUDA graph could repeat a step, by what one step does that a graph would not see."""

import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module


class StepWatch:
    """Watches one step that is launched kernel by kernel.

    A graph repeats kernels on the same memory, and no Python. It would leave out draws of the CPU's random numbers,
    numbers that a module counts, and tensors that a module replaces by new ones instead of changing them in place.
    """

    def __init__(self, model: Module, device: torch.device) -> None:
        """Notes what there is before the step."""
        self._model, self._device = model, device
        self._held, self._draws = _held_by(model), _random_states()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            # The step begins by giving up the gradients of the one before.
            gradients = sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)
            self._allocated = torch.cuda.memory_allocated(device) - gradients

    def fault(self) -> str:
        """Returns after the step why a graph cannot repeat it; empty where it can."""
        for name, new in _held_by(self._model).items():
            old = self._held.get(name, [])
            if len(old) != len(new) or not all(map(_is_same, old, new)):
                return f"its module '{name}' replaces values of its own at each step"
        if self._device.type != "cuda":  # the network draws its numbers on the CPU, too
            return ""
        if self._draws != _random_states():
            return "it draws random numbers on the CPU"
        return "" if self._memory_suffices() else "the GPU's memory does not hold a step twice"

    def _memory_suffices(self) -> bool:
        """Returns whether a graph, which keeps a step's memory, leaves as much for steps that are not captured."""
        needed = torch.cuda.max_memory_allocated(self._device) - self._allocated
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return 2 * needed <= torch.cuda.mem_get_info(self._device)[0] + unused


def held_tensors(model: Module) -> list[Tensor]:
    """Returns the tensors that a network's modules hold: parameters, buffers and any others, such as caches."""
    return [value for values in _held_by(model).values() for value in values if isinstance(value, Tensor)]


def _held_by(model: Module) -> dict[str, list[Tensor | float]]:
    """Returns the tensors and numbers among the attributes of each module, by the module's name."""
    return {name: list(_values_in(vars(module))) for name, module in model.named_modules()}


def _values_in(value: object) -> Iterator[Tensor | float]:
    if isinstance(value, (Tensor, int, float)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _values_in(part)


def _is_same(old: Tensor | float, new: Tensor | float) -> bool:
    if isinstance(old, Tensor) or isinstance(new, Tensor):
        # One with a gradient function is computed anew within each step, as by `torch.nn.utils.weight_norm`.
        return old is new or (isinstance(new, Tensor) and new.grad_fn is not None)
    return old == new


def _random_states() -> bytes:
    """Returns the states of the CPU's random generators: torch's, NumPy's and Python's."""
    old_numpy = np.random.get_state()  # noqa: NPY002  # a network of the study's own may draw from it
    return pickle.dumps([torch.get_rng_state().numpy().tobytes(), old_numpy, random.getstate()])
