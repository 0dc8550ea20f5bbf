"""Tests when a step is captured, that a capture changes nothing, and what happens where it fails."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tumorboard.base.params import Runtime
from tumorboard.training import graphs, one_step, optim, steps
from tumorboard.training.distributed import Group
from tumorboard.training.graphs import STEPS_BEFORE_CAPTURE, GraphedSteps, takes_graphs
from tumorboard.training.job import Job
from tumorboard.training.loader import PINNING
from tumorboard.training.loop import train_model

CPU = torch.device("cpu")
MakeJob = Callable[..., Job]


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yields the tensors in arguments or results of an operation."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)


class Recorder(TorchDispatchMode):
    """Records operations as a CUDA graph does: it repeats them on the tensors that they had, and nothing else.

    CUDA does not compute anything while it captures: `undo` puts back the memory of all tensors that were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        kwargs = kwargs or {}
        for tensor in tensors_in([*args, *kwargs.values()]):
            storage = tensor.untyped_storage()
            self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        read = {tensor.untyped_storage().data_ptr() for tensor in tensors_in([*args, *kwargs.values()])}
        made = [tensor for tensor in tensors_in(result) if tensor.untyped_storage().data_ptr() not in read]
        self._operations.append((func, args, kwargs, made))
        return result

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._operations:
            anew = func(*args, **kwargs)
            if made:
                for old, new in zip(tensors_in(made), tensors_in(anew), strict=True):
                    old.copy_(new)


def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Captures a function on the CPU."""
    assert PINNING.locked()  # CUDA refuses to pin memory during a capture
    recorder = Recorder()
    try:
        with recorder:
            result = compute()
    finally:
        recorder.undo()
    return recorder.replay, result


def rounded_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets rates as they are set on CUDA, where graphs read them in float32."""
    optim.set_lr(optimizer, lr)
    for group in optimizer.param_groups:
        group["lr"] = float(np.float32(group["lr"]))


def trained(job: Job, runtime: Runtime) -> bytes:
    """Returns the bytes of the trained model's file."""
    job.out.mkdir(parents=True, exist_ok=True)
    train_model(job, runtime, lambda _: None)
    return job.weights.read_bytes()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets trainings on the CPU record their steps; the list has the number of operations of each record."""
    counts: list[int] = []

    def capture(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        replay, result = record(compute)
        counts.append(len(replay.__self__._operations))  # type: ignore[attr-defined]
        return replay, result

    monkeypatch.setattr(one_step, "takes_graphs", lambda *_: True)
    monkeypatch.setattr(graphs, "cuda_capture", lambda: capture)
    monkeypatch.setattr(steps, "set_lr", rounded_lr)
    return counts


CHANGES: dict[str, Any] = {"architecture": "cnn", "epochs": 3, "batch_size": 3, "lr": 0.01, "head": "mlp"}


@pytest.mark.parametrize(
    ("changes", "captures"),
    [
        ({}, 1),
        ({"precision": "bf16", "optimizer": "adamw", "schedule": "cosine"}, 1),
        ({"optimizer": "adam", "backbone_lr_scale": 0.1, "clip_norm": 0.5, "class_weights": "balanced"}, 1),
        ({"ema_decay": 0.9, "loss": "focal", "warmup_epochs": 2}, 1),
        ({"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}, 1),
        ({"accumulate": 2, "batch_size": 5}, 1),
        ({"nonfinite": "skip"}, 1),  # the optimizer's step waits for the CPU: it is not part of the graph
        ({"freeze_epochs": 1}, 2),  # captured anew when the backbone learns as well
        ({"batch_size": 4, "epochs": 5}, 2),  # 45 images: nine batches of 4 and three of 3
        ({"average_last": 2}, 1),
        ({"augment": {"noise": 2.0, "blur": 0.5}}, 1),  # noise is drawn on the CPU: images are altered before the graph
        ({"augment": {"rotate": 20.0, "contrast": 0.2, "saturation": 0.2, "brightness": 0.2}}, 1),
        ({"augment": {"hflip": 0.5, "vflip": 0.5}, "progressive": 0.5, "epochs": 4}, 2),  # of 16 and of 32 pixels
    ],
)
def test_trainings_with_captured_steps_are_equal_to_the_byte(
    make_job: MakeJob, alone: Runtime, recorded: list[int], changes: dict[str, Any], captures: int
) -> None:
    rows = 45 if changes.get("batch_size") == 4 else 60
    files = []
    for out, cuda_graphs in {"plain": False, "graphs": True}.items():
        augment = make_job().recipe.augment.model_copy(update=changes.get("augment", {}))
        job = make_job(train=rows, out=out, **CHANGES | changes | {"augment": augment})
        files.append(trained(job, alone.model_copy(update={"cuda_graphs": cuda_graphs})))
    assert files[0] == files[1]
    assert len(recorded) == captures
    assert min(recorded) > 50


def test_a_training_resumed_within_an_epoch_is_captured_anew_and_equal(
    make_job: MakeJob, alone: Runtime, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = CHANGES | {"optimizer": "adamw", "schedule": "cosine"}
    whole = trained(make_job(train=60, out="whole", **changes), alone.model_copy(update={"cuda_graphs": False}))
    runtime = alone.model_copy(update={"cuda_graphs": True, "checkpoint_seconds": 1e-9})
    job = make_job(train=60, out="resumed", **changes)
    job.out.mkdir()
    update, calls = GraphedSteps.__call__, 0

    def killed(self: GraphedSteps, inputs: Sequence[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 28:  # in the second epoch, after the capture
            raise KeyboardInterrupt
        return update(self, inputs)

    monkeypatch.setattr(GraphedSteps, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        train_model(job, runtime, lambda _: None, checkpoints=job.out / "checkpoints")
    train_model(job, runtime, lambda _: None, checkpoints=job.out / "checkpoints")
    assert job.weights.read_bytes() == whole
    assert len(recorded) == 2


class Network(nn.Module):
    """A network that may wait for its result, which cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.waits = nn.Linear(2, 3), nn.Linear(3, 2), False

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images.mean((1, 2))))
        return logits * float(logits.isfinite().all()) if self.waits else logits


class Counted:
    """A capture that counts its calls and captures nothing."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.calls += 1
        return lambda: None, torch.zeros(1)


def begun(capture: Any = None, *, waits: bool = False, lines: list[str] | None = None) -> GraphedSteps:
    """Returns the steps of a small network in their first epoch."""
    model = Network()
    model.waits = waits
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def compute(inputs: Sequence[Tensor], _: int) -> Tensor:
        optimizer.zero_grad()
        losses = model(inputs[1]).square().sum(1)
        (losses.sum() * inputs[0][0]).backward()
        optimizer.step()
        return losses.detach()

    say = [].append if lines is None else lines.append
    given: dict[str, Any] = {"moves": True, "say": say, "on_failure": lambda: None, "capture": capture or record}
    made = GraphedSteps(model, optimizer, compute, **given)  # type: ignore[arg-type]
    made.start_epoch(8)
    return made


def repeat(made: GraphedSteps, times: int, *, count: int = 4) -> None:
    for _ in range(times):
        made([torch.ones(2), torch.ones(count, 8, 8, 2)])


def test_shapes_are_captured_once_and_not_before_they_have_come_often() -> None:
    capture = Counted()
    made = begun(capture)
    repeat(made, STEPS_BEFORE_CAPTURE)
    assert capture.calls == 0
    repeat(made, 5)
    assert capture.calls == 1
    repeat(made, STEPS_BEFORE_CAPTURE + 1, count=3)
    assert (capture.calls, len(made._graphs)) == (2, 2)
    made.start_epoch(8)
    assert len(made._graphs) == 2
    made.start_epoch(12)  # images of another side
    assert len(made._graphs) == 0
    repeat(made, STEPS_BEFORE_CAPTURE + 1)
    assert len(made._graphs) == 1
    made._model.backbone.requires_grad_(False)  # the backbone is frozen: what the graph does is no longer right
    made.start_epoch(12)
    assert len(made._graphs) == 0
    repeat(made, STEPS_BEFORE_CAPTURE + 1)
    assert len(made._graphs) == 1
    made._model.backbone.eval()
    made.start_epoch(12)
    assert len(made._graphs) == 0


def test_a_graph_keeps_the_memory_of_caches_that_the_network_gives_up() -> None:
    """A frozen LeViT of timm, in evaluation mode, caches biases, and drops them when an epoch begins."""
    made = begun(Counted())
    cache = {"cpu": torch.ones(3)}
    made._model.backbone.cache = cache  # type: ignore[assignment]
    kept = weakref.ref(cache["cpu"])
    repeat(made, STEPS_BEFORE_CAPTURE + 1)
    cache.clear()
    assert kept() is not None
    made.start_epoch(12)
    assert kept() is None


def test_a_network_that_replaces_its_tensors_is_not_captured() -> None:
    """A graph would read the buffer's old memory at each step, and write to other memory."""
    lines = list[str]()
    made = begun(capture := Counted(), lines=lines)
    backbone = made._model.backbone
    backbone.register_buffer("center", torch.zeros(3))

    def move(*_: object) -> None:
        backbone.center = 0.9 * backbone.center + 1  # type: ignore[operator]

    backbone.register_forward_hook(move)
    repeat(made, 3 * STEPS_BEFORE_CAPTURE)
    assert capture.calls == 0
    assert lines == [
        "its steps cannot be captured as CUDA graphs, and are launched kernel by kernel: "
        "its module 'backbone' replaces values of its own at each step"
    ]


def test_a_capture_may_fail_by_any_exception_but_an_interruption_ends_the_training() -> None:
    def fail(_: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        raise error

    for error in (AssertionError(), KeyboardInterrupt()):
        lines = list[str]()
        made = begun(fail, lines=lines)
        repeat(made, STEPS_BEFORE_CAPTURE)
        if isinstance(error, AssertionError):
            repeat(made, STEPS_BEFORE_CAPTURE)
            assert [line.rpartition(": ")[2] for line in lines] == ["AssertionError"]
        else:
            with pytest.raises(KeyboardInterrupt):
                repeat(made, 1)
        assert not PINNING.locked()


def test_a_network_whose_tensors_have_moved_is_captured_anew() -> None:
    """A graph repeats its operations on memory; each validation gives cuDNN's recurrent layers other memory."""
    made = begun(Counted())
    repeat(made, STEPS_BEFORE_CAPTURE + 1)
    made.start_epoch(8)
    assert len(made._graphs) == 1
    weight = made._model.head.weight
    weight.data = weight.detach().clone()  # type: ignore[union-attr, operator]
    made.start_epoch(8)
    assert len(made._graphs) == 0


def test_the_memory_of_graphs_of_another_side_is_free_before_the_next_capture() -> None:
    kept: list[weakref.ref[Any]] = []

    class Graph:
        def __init__(self) -> None:
            self.itself = self.replay  # part of a reference cycle

        def replay(self) -> None:
            pass

    def capture(_: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        assert not any(reference() for reference in kept)
        graph = Graph()
        kept.append(weakref.ref(graph))
        return graph.replay, torch.zeros(1)

    made = begun(capture)
    for side in (8, 12):
        made.start_epoch(side)
        repeat(made, STEPS_BEFORE_CAPTURE + 1)
    assert len(kept) == 2


def test_a_network_that_cannot_be_captured_is_named_once_and_trains_as_it_would() -> None:
    weights, lines = [], list[str]()
    for capture in (Counted(), record):
        torch.manual_seed(7)
        made = begun(capture, waits=True, lines=lines)
        if isinstance(capture, Counted):
            made._failed = True  # never tries
        repeat(made, 3 * STEPS_BEFORE_CAPTURE)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in made._model.parameters()]))
    assert torch.equal(*weights)
    assert lines == [
        "its steps cannot be captured as CUDA graphs, and are launched kernel by kernel: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.usefixtures("recorded")
def test_a_failed_capture_leaves_rates_and_the_scaler_as_they_were(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler stands in for fp16's, which the CPU has not: it refuses a second `unscale_` in one step."""
    scaler = torch.amp.GradScaler

    def always(device: str, **_: bool) -> torch.amp.GradScaler:
        return scaler(device, enabled=True, init_scale=1.0)

    def interrupted(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(scaler, "step", broken)
            return record(compute)

    def broken(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.amp, "GradScaler", always)
    monkeypatch.setattr(graphs, "cuda_capture", lambda: interrupted)
    files = []
    for out, cuda_graphs in {"plain": False, "graphs": True}.items():
        job = make_job(train=60, out=out, **CHANGES | {"optimizer": "adamw", "clip_norm": 0.5})
        files.append(trained(job, alone.model_copy(update={"cuda_graphs": cuda_graphs})))
    assert files[0] == files[1]


@pytest.mark.parametrize("error", [RuntimeError("operation failed due to a previous error"), KeyboardInterrupt()])
def test_a_failed_capture_leaves_no_trace_in_cuda(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """torch 2.11 stays in the capture's stream, and its generator refuses draws, since it takes itself for captured."""
    streams: list[object] = []
    states: list[object] = []

    class Generator:
        def clone_state(self) -> str:
            return "not captured"

        def graphsafe_set_state(self, state: object) -> None:
            states.append(state)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "before")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: streams.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: "random")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: states.append(state))
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator(),))
    with pytest.raises(type(error)), graphs._random_state_kept(torch.device("cuda", 0)):
        raise error
    assert streams == ["before"]
    assert states == ["not captured", "random"]


@pytest.mark.parametrize(
    ("group", "takes", "lines"),
    [
        (Group(0, 1, CPU), False, []),
        (Group(0, 2, CPU), False, []),
        (Group(0, 1, torch.device("cuda", 0)), True, []),
        (
            Group(0, 2, torch.device("cuda", 0)),
            False,
            ["no CUDA graphs: 2 processes average their gradients within the backward pass"],
        ),
    ],
)
def test_one_process_on_a_gpu_takes_graphs(group: Group, takes: bool, lines: list[str]) -> None:
    said: list[str] = []
    assert takes_graphs(group, said.append) == takes
    assert said == lines
