"""Trainings on a GPU: repeated, with CUDA graphs, and images altered there. `pytest -m cuda` runs these tests alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tumorboard.augment.alterations import augment_images
from tumorboard.base.params import Params, Runtime
from tumorboard.base.randomness import keys_of
from tumorboard.training.graphs import STEPS_BEFORE_CAPTURE, GraphedPasses
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


@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["cnn", "resnet18"])
def test_trainings_are_equal_to_the_byte_with_and_without_cuda_graphs(
    make_job: MakeJob,
    gpu: Runtime,
    params: Params,
    architecture: str,
    precision: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = CHANGES | {"architecture": architecture, "precision": precision, "head": "mlp"}
    runs = {"one": False, "two": False, "graphs": True}
    files = []
    for out, cuda_graphs in runs.items():
        job = make_job(train=62, out=out, augment=params.train.augment, **changes)
        files.append(trained(job, gpu.model_copy(update={"cuda_graphs": cuda_graphs})))
    assert files[0] == files[1]
    assert files[0] == files[2]
    assert "kernel by kernel" not in capsys.readouterr().out


def without_and_with_graphs(
    network: type[nn.Module], lines: list[str]
) -> Iterator[tuple[nn.Module, nn.Module, Tensor, Callable[[], None]]]:
    """Yields twice an equal network, its passes, images, and what begins an epoch; the second passes are captured."""
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).cuda()
    for graphs in (False, True):
        torch.manual_seed(7)
        model = network().cuda()
        passes = GraphedPasses(model, "off", torch.device("cuda", 0), lines.append)  # type: ignore[arg-type]
        passes.start_epoch()
        yield model, passes if graphs else model, images, passes.start_epoch


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


def test_a_network_that_cannot_be_captured_goes_on_as_it_was() -> None:
    lines: list[str] = []
    results = []
    for _, passes, images, _ in without_and_with_graphs(Waiting, lines):
        logits = []
        for step in range(2 * STEPS_BEFORE_CAPTURE):
            torch.manual_seed(step)
            result = passes(images)
            result.sum().backward()
            logits.append(result.detach())
        results.append(torch.stack(logits))
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert len(lines) == 1
    assert torch.equal(*results)


class Recurrent(nn.Module):
    """A network whose weights cuDNN moves in memory whenever `to` is called, as each validation does."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images.flatten(2).transpose(1, 2))[0][:, -1])
        return logits


def test_graphs_follow_weights_that_have_moved() -> None:
    lines: list[str] = []
    results = []
    for model, passes, images, start_epoch in without_and_with_graphs(Recurrent, lines):
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for step in range(4 * STEPS_BEFORE_CAPTURE):
            if step == 2 * STEPS_BEFORE_CAPTURE:
                model.to(memory_format=torch.channels_last)
                start_epoch()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(passes(images), torch.arange(6).cuda() % 2)
            loss.backward()
            optimizer.step()
        results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert lines == []
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-2)


def test_images_are_altered_as_on_the_cpu(params: Params) -> None:
    augment = params.train.augment.model_copy(update={"blur": 0.5, "noise": 2.0, "saturation": 0.2, "crop": 0.8})
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"seed": 1, "keys": keys_of([str(number) for number in range(9)]), "counter": 2}
    result = augment_images(images.cuda(), augment, **settings)
    assert result.is_cuda
    difference = (result.cpu() - augment_images(images, augment, **settings)).abs()
    assert difference.mean() < 0.01
    assert difference.quantile(0.999) < 0.5
