"""Captures a network's passes as CUDA graphs, so that a step launches two graphs instead of hundreds of kernels."""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module

from tumorboard.base.params import Recipe
from tumorboard.models.device import autocast
from tumorboard.models.registry import Classifier
from tumorboard.training.distributed import Group

STEPS_BEFORE_CAPTURE = 10  # a capture takes about as long as these steps, so that a short training never pays for one
Capture: TypeAlias = Callable[..., Any]  # takes a module and its arguments, like torch.cuda.make_graphed_callables


def graphed_passes(
    model: Classifier, recipe: Recipe, group: Group, say: Callable[[str], None]
) -> "GraphedPasses | None":
    """Returns the network with passes that will be captured; None, and a line that says why, where they cannot be.

    Args:
        model: the network on its device.
        recipe: its precision and `accumulate` are used.
        group: the processes of the training.
        say: prints a line.
    """
    reason = ""
    if group.device.type != "cuda":
        reason = f"they need a CUDA device, and the training runs on the {group.device.type.upper()}"
    elif group.size > 1:
        reason = f"{group.size} processes average their gradients within the backward pass"
    elif recipe.accumulate > 1:
        reason = f"accumulate is {recipe.accumulate}, and a graph replaces the gradients of the pass before it"
    if reason:
        say(f"runtime.cuda_graphs has no effect: {reason}")
        return None
    return GraphedPasses(model, recipe.precision, group.device, say)


class GraphedPasses(Module):
    """A network in training whose forward and backward passes are replayed from CUDA graphs, with equal results.

    A graph is captured for each shape of the images that has come STEPS_BEFORE_CAPTURE times. It is captured anew when
    other parameters learn or the backbone changes its mode. A network that cannot be captured is run kernel by kernel.
    """

    def __init__(
        self,
        model: Classifier,
        precision: str,
        device: torch.device,
        say: Callable[[str], None],
        capture: Capture = torch.cuda.make_graphed_callables,
    ) -> None:
        """Captures nothing yet.

        Args:
            model: the network on its device.
            precision: as in the recipe.
            device: the CUDA device.
            say: prints a line that says why the network cannot be captured.
            capture: captures the passes of a module; another one in tests.
        """
        super().__init__()
        self.model = model
        self._precision, self._device, self._say, self._make = precision, device, say, capture
        self._graphs: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._seen: Counter[torch.Size] = Counter()
        self._learning: tuple[bool, ...] = ()
        self._failed = False

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images [N, 3, S, S]."""
        learning = (self.model.backbone.training, *(parameter.requires_grad for parameter in self.model.parameters()))
        if learning != self._learning:
            self._graphs, self._seen, self._learning = {}, Counter(), learning
        shape = images.shape
        if shape not in self._graphs and not self._failed:
            self._seen[shape] += 1
            if self._seen[shape] > STEPS_BEFORE_CAPTURE:
                self._capture(images)
        logits: Tensor = self._graphs.get(shape, self.model)(images)
        return logits

    def _capture(self, images: Tensor) -> None:
        """Captures the passes for images of this shape; running statistics and random numbers stay as they were."""
        if images.shape[2:] not in {shape[2:] for shape in self._graphs}:
            self._graphs = {}  # images grow from epoch to epoch (`progressive`): graphs of the smaller ones hold memory
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        random = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else torch.get_rng_state()
        try:
            # A cache of weights in lower precision would be captured instead of their conversion in each step.
            with torch.autocast(self._device.type, enabled=False, cache_enabled=False):
                passes = _Passes(self.model, self._precision, self._device)
                self._graphs[images.shape] = self._make(passes, (images.clone(),), allow_unused_input=True)
        except RuntimeError as error:
            self._failed, self._graphs = True, {}
            cause = str(error).strip().partition("\n")[0]
            self._say(f"its passes cannot be captured as CUDA graphs, and are launched kernel by kernel: {cause}")
        finally:
            with torch.no_grad():
                for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                    buffer.copy_(value)
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(random, self._device)
            else:
                torch.set_rng_state(random)


class _Passes(Module):
    """The network within its autocast; torch replaces the `forward` of a module that it captures."""

    def __init__(self, model: Classifier, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model, self._precision, self._device = model, precision, device

    def forward(self, images: Tensor) -> Tensor:
        with autocast(self._precision, self._device):
            logits: Tensor = self.model(images)
        return logits
