"""Trainings on a GPU: repeated, with CUDA graphs, and images altered there. `pytest -m cuda` runs these tests alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tumorboard.augment.alterations import augment_images
from tumorboard.base.params import Params, Runtime
from tumorboard.base.randomness import keys_of
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


def test_images_are_altered_as_on_the_cpu(params: Params) -> None:
    augment = params.train.augment.model_copy(update={"blur": 0.5, "noise": 2.0, "saturation": 0.2, "crop": 0.8})
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"seed": 1, "keys": keys_of([str(number) for number in range(9)]), "counter": 2}
    result = augment_images(images.cuda(), augment, **settings)
    assert result.is_cuda
    difference = (result.cpu() - augment_images(images, augment, **settings)).abs()
    assert difference.mean() < 0.01
    assert difference.quantile(0.999) < 0.5
