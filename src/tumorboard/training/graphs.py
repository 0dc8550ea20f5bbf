"""Captures a training's steps as CUDA graphs, so that a step launches one graph instead of hundreds of kernels."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from tumorboard.base.params import Recipe
from tumorboard.models.registry import Classifier
from tumorboard.training.distributed import Group
from tumorboard.training.loader import PINNING
from tumorboard.training.step_watch import StepWatch, held_tensors

STEPS_BEFORE_CAPTURE = 10  # a capture takes about as long as these steps, so that a short training never pays for one
Compute: TypeAlias = Callable[[Sequence[Tensor], int], Tensor]  # from the inputs of a step and the side of its images
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class Captured(NamedTuple):
    """A step that can be repeated."""

    inputs: list[Tensor]  # the memory that the graph reads
    replay: Callable[[], None]  # launches the graph
    result: Tensor  # the memory to which the graph writes the step's result
    gradients: list[Tensor | None]  # those of the model's parameters, which the graph overwrites; empty if not needed
    held: list[Tensor]  # those of the model, caches included, so that the memory that the graph reads is not given away


def takes_graphs(group: Group, say: Callable[[str], None]) -> bool:
    """Returns whether the steps of a training can be captured; says why where they cannot on CUDA devices."""
    if group.device.type != "cuda":
        return False
    if group.size > 1:
        say(f"no CUDA graphs: {group.size} processes average their gradients within the backward pass")
    return group.size == 1


def moves_on_device(recipe: Recipe) -> bool:
    """Returns whether the optimizer's step never waits for the CPU, so that it can be a part of the graph."""
    scaled_on_cpu = recipe.precision == "fp16" and recipe.optimizer == "sgd"  # not fused: see OPTIMIZERS
    return recipe.nonfinite != "skip" and not scaled_on_cpu


class GraphedSteps:
    """The steps of a training on one GPU: launched kernel by kernel at first, then replayed from CUDA graphs.

    A graph is captured for the shapes of a step's inputs once these have come STEPS_BEFORE_CAPTURE times. It is
    captured anew from an epoch on in which other parameters learn, a parameter or buffer has another place in memory,
    images have another side, or the backbone has another mode. A network that cannot be captured, or whose steps a
    graph would not repeat rightly (`StepWatch`), is named, and launched kernel by kernel.
    """

    def __init__(
        self,
        model: Classifier,
        optimizer: Optimizer,
        compute: Compute,
        *,
        moves: bool,
        say: Callable[[str], None],
        on_failure: Callable[[], None],
        capture: Capture | None = None,
    ) -> None:
        """Captures nothing yet.

        Args:
            model: the network, whose parameters get gradients.
            optimizer: its learning rates are read from the first input while a step is captured.
            compute: carries out a step. The first of its inputs is float32[1 + G] on the device: a number of its own,
                then the learning rates of the optimizer's G groups; the others are any tensors.
            moves: whether a step moves the parameters; else the caller does, by their gradients.
            say: prints a line that says why the network cannot be captured.
            on_failure: called after a failed capture, before the step is carried out without it.
            capture: calls a function once, and returns what repeats it and its result; None: by CUDA.
        """
        self._model, self._optimizer, self._compute, self.moves = model, optimizer, compute, moves
        self._side = 0
        self._say, self._on_failure, self._make = say, on_failure, capture or cuda_capture()
        self._graphs: dict[tuple[torch.Size, ...], Captured] = {}
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._assumed: tuple[object, ...] = ()  # what the graphs take for granted
        self._failed = False

    def start_epoch(self, side: int) -> None:
        """Drops the graphs if something has changed that they take for granted; the mode of the model is set before.

        Args:
            side: side in pixels to which the epoch's images are scaled.
        """
        # A validation moves some tensors: those of cuDNN's recurrent layers, and weights [N, 1, 1, 1], which fit
        # either memory layout.
        parameters, buffers = list(self._model.parameters()), self._model.buffers()
        places = (tensor.data_ptr() for tensor in (*parameters, *buffers))
        learns = (parameter.requires_grad for parameter in parameters)
        assumed = (side, self._model.backbone.training, *learns, *places)
        if assumed != self._assumed:
            self._graphs, self._seen, self._assumed, self._side = {}, Counter(), assumed, side
            gc.collect()  # graphs hold memory, also those that are part of reference cycles

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Carries out a step and returns its result; the gradients are those of this step."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs and not self._failed:
            self._seen[shapes] += 1
            if self._seen[shapes] > STEPS_BEFORE_CAPTURE:
                self._capture(inputs, shapes)
        graph = self._graphs.get(shapes)
        if graph is None:
            return self._launch(inputs, is_last=not self._failed and self._seen[shapes] == STEPS_BEFORE_CAPTURE)
        for place, value in zip(graph.inputs, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        if graph.gradients:
            for parameter, gradient in zip(self._model.parameters(), graph.gradients, strict=True):
                parameter.grad = gradient
        return graph.result.clone()

    def _launch(self, inputs: Sequence[Tensor], *, is_last: bool) -> Tensor:
        """Carries out a step kernel by kernel; the last one before a capture is watched."""
        watch = StepWatch(self._model, inputs[0].device) if is_last else None
        result = self._compute(inputs, self._side)
        if watch and (fault := watch.fault()):
            self._give_up(fault)
        return result

    def _give_up(self, cause: str) -> None:
        self._failed, self._graphs = True, {}
        self._say(f"its steps cannot be captured as CUDA graphs, and are launched kernel by kernel: {cause}")

    def _capture(self, inputs: Sequence[Tensor], shapes: tuple[torch.Size, ...]) -> None:
        """Captures a step of these shapes; nothing is computed."""
        own = [value.to(inputs[0].device, copy=True) for value in inputs]
        held = held_tensors(self._model)
        try:
            with PINNING, _random_state_kept(own[0].device), _rates_on_device(self._optimizer, own[0][1:]):
                replay, result = self._make(lambda: self._compute(own, self._side))
        except Exception as error:
            self._give_up(str(error).strip().partition("\n")[0] or type(error).__name__)
            self._on_failure()
        else:
            gradients = [] if self.moves else [parameter.grad for parameter in self._model.parameters()]
            self._graphs[shapes] = Captured(own, replay, result, gradients, held)


def cuda_capture() -> Capture:
    """Returns what captures a function as a CUDA graph; all its graphs share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = compute()
        return graph.replay, result

    return capture


@contextmanager
def _rates_on_device(optimizer: Optimizer, rates: Tensor) -> Iterator[None]:
    """Lets an optimizer read its learning rates from a tensor, one per group, and puts its own back at the end."""
    before = [dict(group) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = True
    try:
        yield
    finally:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update(old)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Puts back torch's random state and stream after a failed capture.

    torch 2.11 stays in the stream of a failed capture, and takes CUDA's generator for captured: dropout would raise.
    """
    is_cuda = device.type == "cuda"
    random = torch.cuda.get_rng_state(device) if is_cuda else torch.get_rng_state()
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device) if is_cuda else None):
            yield
    except BaseException:  # also KeyboardInterrupt, which an error of the generator would replace
        if is_cuda:
            torch.cuda.synchronize(device)
            index = torch.cuda.current_device() if device.index is None else device.index
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())
        raise
    finally:
        if is_cuda:
            torch.cuda.set_rng_state(random, device)
        else:
            torch.set_rng_state(random)
