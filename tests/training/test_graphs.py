"""Tests when a network's passes are captured, that a capture changes nothing, and what happens where it fails."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.device import autocast
from tumorboard.training.distributed import Group
from tumorboard.training.graphs import STEPS_BEFORE_CAPTURE, GraphedPasses, graphed_passes
from tumorboard.training.loader import PINNING

CPU = torch.device("cpu")


class Network(nn.Module):
    """A network with running statistics, dropout, and a weight that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def network() -> Network:
    torch.manual_seed(7)
    return Network().train()


def recorded(passes: nn.Module, arguments: tuple[Tensor], *, allow_unused_input: bool) -> Callable[[Tensor], Tensor]:
    """Captures a module on the CPU: runs it three times, as torch does, then records the operations of a fourth run.

    Like a CUDA graph, the record repeats its operations on the tensors that they had, and nothing else.
    """
    assert allow_unused_input
    assert not torch.is_autocast_cache_enabled()  # torch's capture would keep weights of one step; make_fx does not
    for _ in range(3):
        passes(*arguments).sum().backward()
    for parameter in passes.parameters():
        parameter.grad = None
    graph: Callable[[Tensor], Tensor] = make_fx(lambda images: passes(images))(*arguments)  # type: ignore[no-untyped-call]
    return graph


def train(model: Network, passes: nn.Module, *, precision: str, steps: int, sizes: tuple[int, ...]) -> list[Tensor]:
    """Carries out steps as a training does; returns the logits of each."""
    optimizer, results = torch.optim.SGD(model.parameters(), 0.05), []
    images = torch.rand(max(sizes), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        with autocast(precision, CPU):
            logits = passes(images[: sizes[step % len(sizes)]])
        logits.float().square().sum().backward()
        optimizer.step()
        results.append(logits.detach().clone())
        assert results[-1].isfinite().all()
    return results


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_captured_steps_give_what_steps_without_capture_give(precision: str) -> None:
    plain, graphed, lines = network(), network(), list[str]()
    passes = begun(graphed, precision, CPU, lines.append, recorded)
    steps = {"precision": precision, "steps": 3 * STEPS_BEFORE_CAPTURE, "sizes": (6, 5)}
    expected, results = train(plain, plain, **steps), train(graphed, passes, **steps)  # type: ignore[arg-type]
    assert sorted(shape[0] for shape in passes._graphs) == [5, 6]
    assert all(torch.equal(one, other) for one, other in zip(expected, results, strict=True))
    assert not torch.equal(results[-1], results[-3])  # the same images, later weights
    for name, value in plain.state_dict().items():
        assert torch.equal(value, graphed.state_dict()[name]), name  # running statistics and their counter too
    assert lines == []


class Counted:
    """A capture that counts its calls and gives the module itself."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, passes: nn.Module, arguments: tuple[Tensor], **_: Any) -> nn.Module:
        assert PINNING.locked()  # CUDA refuses to pin memory during a capture
        self.shapes.append(tuple(arguments[0].shape))
        return passes


def begun(*arguments: Any) -> GraphedPasses:
    """Returns passes in their first epoch."""
    passes = GraphedPasses(*arguments)
    passes.start_epoch()
    return passes


def repeat(passes: GraphedPasses, images: Tensor, times: int) -> None:
    for _ in range(times):
        passes(images)


def test_a_shape_is_captured_once_and_not_before_it_has_come_often() -> None:
    capture, model = Counted(), network()
    passes = begun(model, "off", CPU, print, capture)
    small, large = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 12, 12)
    repeat(passes, small, STEPS_BEFORE_CAPTURE)
    assert capture.shapes == []
    repeat(passes, small, 5)
    assert capture.shapes == [(4, 3, 8, 8)]
    repeat(passes, large, STEPS_BEFORE_CAPTURE + 1)  # graphs of another side are given up
    assert [tuple(shape) for shape in passes._graphs] == [(4, 3, 12, 12)]
    passes.start_epoch()
    assert len(passes._graphs) == 1
    model.backbone.requires_grad_(False)  # the backbone is frozen: what the graph does is no longer right
    passes.start_epoch()
    assert len(passes._graphs) == 0
    repeat(passes, large, STEPS_BEFORE_CAPTURE + 1)
    assert capture.shapes[1:] == [(4, 3, 12, 12)] * 2
    model.backbone.eval()
    passes.start_epoch()
    assert len(passes._graphs) == 0


@pytest.mark.parametrize("moved", ["parameters", "buffers"])
def test_a_network_whose_tensors_have_moved_is_captured_anew(moved: str) -> None:
    """A graph repeats its operations on memory; each validation gives cuDNN's recurrent layers other memory."""
    capture, model = Counted(), network()
    passes = begun(model, "off", CPU, print, capture)
    images = torch.rand(4, 3, 8, 8)
    repeat(passes, images, STEPS_BEFORE_CAPTURE + 1)
    passes.start_epoch()
    repeat(passes, images, 1)
    assert len(capture.shapes) == len(passes._graphs) == 1
    last = list(getattr(model, moved)())[-1]
    last.data = last.detach().clone()
    passes.start_epoch()
    assert len(passes._graphs) == 0
    repeat(passes, images, STEPS_BEFORE_CAPTURE + 1)
    assert len(capture.shapes) == 2


def test_the_memory_of_graphs_of_another_side_is_free_before_the_next_capture() -> None:
    kept: list[weakref.ref[nn.Module]] = []

    def capture(passes: nn.Module, _: tuple[Tensor], **__: Any) -> nn.Module:
        assert not any(reference() for reference in kept)
        passes.itself = passes.forward  # like torch's graphs, it is part of a reference cycle
        kept.append(weakref.ref(passes))
        return passes

    passes = begun(network(), "off", CPU, print, capture)
    for side in (8, 12):
        repeat(passes, torch.rand(4, 3, side, side), STEPS_BEFORE_CAPTURE + 1)
    assert len(kept) == 2


def test_a_failed_capture_leaves_no_trace_in_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 stays in the capture's stream, and its generator refuses draws, since it takes itself for captured."""

    streams: list[object] = []
    states: list[object] = []

    class Generator:
        def clone_state(self) -> str:
            return "not captured"

        def graphsafe_set_state(self, state: object) -> None:
            states.append(state)

    def broken(*_: Any, **__: Any) -> nn.Module:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "before")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: streams.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: "random")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: states.append(state))
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator(),))
    passes = begun(network(), "off", torch.device("cuda", 0), print, broken)
    repeat(passes, torch.rand(4, 3, 8, 8), STEPS_BEFORE_CAPTURE + 1)
    assert streams == ["before"]
    assert states == ["not captured", "random"]


def test_a_network_that_cannot_be_captured_is_named_once_and_trains_as_it_would() -> None:
    def broken(passes: nn.Module, arguments: tuple[Tensor], **_: Any) -> nn.Module:
        passes(*arguments)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    plain, graphed, lines = network(), network(), list[str]()
    passes = begun(graphed, "off", CPU, lines.append, broken)
    steps = {"precision": "off", "steps": 3 * STEPS_BEFORE_CAPTURE, "sizes": (6, 5)}
    expected, results = train(plain, plain, **steps), train(graphed, passes, **steps)  # type: ignore[arg-type]
    assert all(torch.equal(one, other) for one, other in zip(expected, results, strict=True))
    assert lines == [
        "its passes cannot be captured as CUDA graphs, and are launched kernel by kernel: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize(
    ("group", "accumulate", "reason"),
    [
        (Group(0, 1, CPU), 1, "they need a CUDA device, and the training runs on the CPU"),
        (Group(0, 2, torch.device("cuda", 0)), 1, "2 processes average their gradients within the backward pass"),
        (Group(0, 1, torch.device("cuda", 0)), 2, "accumulate is 2, and a graph replaces the gradients of the pass"),
    ],
)
def test_a_training_that_cannot_use_graphs_says_why(group: Group, accumulate: int, reason: str, params: Params) -> None:
    lines: list[str] = []
    recipe = resolve_recipe(params, "cnn").model_copy(update={"accumulate": accumulate})
    assert graphed_passes(network(), recipe, group, lines.append) is None  # type: ignore[arg-type]
    assert len(lines) == 1
    assert lines[0].startswith(f"runtime.cuda_graphs has no effect: {reason}")


def test_a_training_on_one_gpu_has_graphs(params: Params) -> None:
    recipe, group = resolve_recipe(params, "cnn"), Group(0, 1, torch.device("cuda", 0))
    passes = graphed_passes(network(), recipe, group, print)  # type: ignore[arg-type]
    assert isinstance(passes, GraphedPasses)
