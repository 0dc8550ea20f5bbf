"""Trainings on a GPU: repeated, with CUDA graphs, and images altered there. `pytest -m cuda` runs these tests alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tumorboard.augment.alterations import augment_images
from tumorboard.base.params import Params, Runtime
from tumorboard.base.randomness import keys_of
from tumorboard.training import steps
from tumorboard.training.graphs import STEPS_BEFORE_CAPTURE, GraphedSteps
from tumorboard.training.job import Job
from tumorboard.training.loop import train_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
MakeJob = Callable[..., Job]


@pytest.fixture
def gpu(params: Params) -> Runtime:
    """Settings for one process on the GPU."""
    return params.runtime.model_copy(update={"device": "cuda", "processes": 1})


def trained(job: Job, runtime: Runtime) -> bytes:
    """Returns the bytes of the trained model's file."""
    job.out.mkdir(parents=True, exist_ok=True)
    train_model(job, runtime, lambda _: None)
    return job.weights.read_bytes()


CHANGES: dict[str, Any] = {"deterministic": True, "epochs": 3, "batch_size": 4, "optimizer": "adam", "lr": 0.001}


OPTIONS: list[dict[str, Any]] = [
    *[{"architecture": name, "precision": one} for name in ("cnn", "resnet18") for one in ("off", "bf16", "fp16")],
    {"optimizer": "adamw", "schedule": "cosine", "ema_decay": 0.9},
    {"optimizer": "sgd", "precision": "fp16", "clip_norm": 0.5},  # its optimizer's step is not captured
    {"precision": "fp16", "clip_norm": 0.5, "accumulate": 2, "batch_size": 6},
    {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8, "loss": "focal", "class_weights": "balanced"},
    {"nonfinite": "skip"},
    {"freeze_epochs": 1, "average_last": 2},
    {"augment": {"blur": 0.5, "saturation": 0.2, "crop": 0.8}},
    {"augment": {"noise": 2.0}},
    {"progressive": 0.5, "epochs": 4},
]


@pytest.mark.parametrize("changes", OPTIONS)
def test_trainings_are_equal_to_the_byte_with_and_without_cuda_graphs(
    make_job: MakeJob, gpu: Runtime, params: Params, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = CHANGES | {"architecture": "cnn", "precision": "off", "head": "mlp"} | changes
    runs = {"one": False, "two": False, "graphs": True}
    files = []
    for out, cuda_graphs in runs.items():
        augment = params.train.augment.model_copy(update=changes.get("augment", {}))
        job = make_job(train=62, out=out, **recipe | {"augment": augment})
        files.append(trained(job, gpu.model_copy(update={"cuda_graphs": cuda_graphs})))
    assert files[0] == files[1]
    assert files[0] == files[2]
    assert "kernel by kernel" not in capsys.readouterr().out


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_training_resumed_within_an_epoch_is_equal_to_the_byte(
    make_job: MakeJob, gpu: Runtime, monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool
) -> None:
    changes = CHANGES | {"architecture": "cnn", "precision": "fp16", "ema_decay": 0.9, "schedule": "cosine"}
    runtime = gpu.model_copy(update={"cuda_graphs": cuda_graphs, "checkpoint_seconds": 1e-9})
    whole = trained(make_job(train=62, out="whole", **changes), runtime)
    job = make_job(train=62, out="resumed", **changes)
    job.out.mkdir()
    set_lr, calls = steps.set_lr, 0

    def killed(optimizer: torch.optim.Optimizer, lr: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 28:  # in the second epoch, after a capture
            raise KeyboardInterrupt
        set_lr(optimizer, lr)

    monkeypatch.setattr(steps, "set_lr", killed)
    with pytest.raises(KeyboardInterrupt):
        train_model(job, runtime, lambda _: None, checkpoints=job.out / "checkpoints")
    train_model(job, runtime, lambda _: None, checkpoints=job.out / "checkpoints")
    assert job.weights.read_bytes() == whole


class Waiting(nn.Module):
    """A network that waits for the GPU within its pass, which cannot be captured, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten())
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        logits: Tensor = self.head(features * float(features.isfinite().all()))
        return logits


class Recurrent(nn.Module):
    """A network whose weights cuDNN moves in memory whenever `to` is called, as each validation does."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images.flatten(2).transpose(1, 2))[0][:, -1])
        return logits


def train_small(network: type[nn.Module], *, graphs: bool, lines: list[str]) -> Tensor:
    """Returns the weights of a small network after two epochs, between which it is moved as by a validation."""
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).cuda()
    torch.manual_seed(7)
    model = network().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, fused=True)

    def compute(inputs: Sequence[Tensor], _: int) -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(inputs[1]), inputs[2], reduction="none")
        (losses.sum() * inputs[0][0]).backward()
        optimizer.step()
        return losses.detach()

    given: dict[str, Any] = {"moves": True, "say": lines.append, "on_failure": lambda: None}
    made = GraphedSteps(model, optimizer, compute, **given)  # type: ignore[arg-type]
    inputs = [torch.tensor([0.2, 0.5]).cuda(), images, torch.arange(6).cuda() % 2]
    for epoch in range(2):
        model.to(memory_format=torch.channels_last)
        made.start_epoch(8)
        for step in range(2 * STEPS_BEFORE_CAPTURE):
            torch.manual_seed(100 * epoch + step)
            if graphs:
                made(inputs)
            else:
                compute(inputs, 8)
            assert torch.cuda.current_stream() == torch.cuda.default_stream()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_network_that_cannot_be_captured_goes_on_as_it_was() -> None:
    lines: list[str] = []
    weights = [train_small(Waiting, graphs=graphs, lines=lines) for graphs in (False, True)]
    assert len(lines) == 1
    assert torch.equal(*weights)


def test_graphs_follow_weights_that_have_moved() -> None:
    lines: list[str] = []
    weights = [train_small(Recurrent, graphs=graphs, lines=lines) for graphs in (False, True)]
    assert lines == []
    torch.testing.assert_close(*weights, atol=1e-3, rtol=1e-2)


def test_images_are_altered_as_on_the_cpu(params: Params) -> None:
    augment = params.train.augment.model_copy(update={"blur": 0.5, "noise": 2.0, "saturation": 0.2, "crop": 0.8})
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"seed": 1, "keys": keys_of([str(number) for number in range(9)]), "counter": 2}
    result = augment_images(images.cuda(), augment, **settings)
    assert result.is_cuda
    difference = (result.cpu() - augment_images(images, augment, **settings)).abs()
    assert difference.mean() < 0.01
    assert difference.quantile(0.999) < 0.5
