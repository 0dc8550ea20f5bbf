"""The device and the precision that a run asks for."""

import pytest
import torch

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Runtime
from tumorboard.models.device import autocast, choose_device

CPU = torch.device("cpu")


@pytest.fixture
def runtime(params: Params) -> Runtime:
    return params.runtime


@pytest.mark.parametrize(
    ("wanted", "available", "chosen"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_is_the_one_wanted_or_the_best_there_is(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, wanted: str, available: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(runtime.model_copy(update={"device": wanted})) == chosen


def test_cuda_without_a_device_is_refused(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"runtime\.device is cuda, .* no CUDA device: set it to auto or cpu"):
        choose_device(runtime.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("off", torch.float32)])
def test_products_have_the_precision(precision: str, dtype: torch.dtype) -> None:
    ones = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (ones @ ones).dtype == dtype


def test_fp16_without_cuda_is_refused() -> None:
    with pytest.raises(InputError, match="fp16 needs CUDA, the device is cpu"):
        autocast("fp16", CPU)
