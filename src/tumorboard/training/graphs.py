"""Captures a network's passes as CUDA graphs, so that a step launches two graphs instead of hundreds of kernels."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module

from tumorboard.base.params import Recipe
from tumorboard.models.device import autocast
from tumorboard.models.registry import Classifier
from tumorboard.training.distributed import Group
from tumorboard.training.loader import PINNING

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
    # A graph keeps autograd's nodes of the weights, which belong to the capture's stream: torch would warn of that.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    return GraphedPasses(model, recipe.precision, group.device, say)


class GraphedPasses(Module):
    """A network in training whose forward and backward passes are replayed from CUDA graphs, with equal results.

    A graph is captured for each shape of the images that has come STEPS_BEFORE_CAPTURE times. It is captured anew from
    an epoch on in which other parameters learn, a parameter or buffer has another place in memory, or the backbone has
    another mode. A network that cannot be captured is run kernel by kernel.
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
        self._captured: tuple[object, ...] = ()  # what a graph takes for granted
        self._failed = False

    def start_epoch(self) -> None:
        """Drops the graphs if something has changed that they take for granted; the mode of the model is set before."""
        # A validation moves some tensors: those of cuDNN's recurrent layers, and weights [N, 1, 1, 1], which fit
        # either memory layout.
        parameters, buffers = list(self.model.parameters()), self.model.buffers()
        places = (tensor.data_ptr() for tensor in (*parameters, *buffers))
        captured = (self.model.backbone.training, *(parameter.requires_grad for parameter in parameters), *places)
        if captured != self._captured:
            self._graphs, self._seen, self._captured = {}, Counter(), captured

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images [N, 3, S, S]."""
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
            gc.collect()  # torch's graphs are part of reference cycles
        try:
            # A cache of weights in lower precision would be captured instead of their conversion in each step.
            with (
                PINNING,
                _restored(self.model, self._device),
                torch.autocast(self._device.type, enabled=False, cache_enabled=False),
            ):
                passes = _Passes(self.model, self._precision, self._device)
                self._graphs[images.shape] = self._make(passes, (images.clone(),), allow_unused_input=True)
        except RuntimeError as error:
            self._failed, self._graphs = True, {}
            cause = str(error).strip().partition("\n")[0]
            self._say(f"its passes cannot be captured as CUDA graphs, and are launched kernel by kernel: {cause}")


@contextmanager
def _restored(model: Module, device: torch.device) -> Iterator[None]:
    """Puts back a model's buffers and torch's random state at the end, and what a failed capture leaves behind.

    torch 2.11 stays in the stream of a failed capture, and takes CUDA's generator for captured: dropout would raise.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    is_cuda = device.type == "cuda"
    random = torch.cuda.get_rng_state(device) if is_cuda else torch.get_rng_state()
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device) if is_cuda else None):
            yield
    except RuntimeError:
        if is_cuda:
            torch.cuda.synchronize(device)  # the passes that failed may still change the buffers
            index = torch.cuda.current_device() if device.index is None else device.index
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())
        raise
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        if is_cuda:
            torch.cuda.set_rng_state(random, device)
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
