"""The device and the precision that a run asks for."""

import os
import sys
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Runtime
from tumorboard.models import device
from tumorboard.models.device import autocast, choose_device, exact_convolutions, set_deterministic, threads_of

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


@pytest.mark.parametrize(
    ("threads", "set_by_user", "cores", "processes", "expected"),
    [
        ("auto", False, 8, 1, 6),  # as many as torch has
        ("auto", False, 4, 1, 4),  # no more than the process may use
        ("auto", False, 4, 3, 1),
        ("auto", True, 4, 1, 6),  # OMP_NUM_THREADS, which torch has read
        ("auto", True, 4, 2, 3),
        ("auto", True, 4, 9, 1),
        (5, False, 4, 2, 5),
    ],
)
def test_threads_are_those_of_torch_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
    threads: Literal["auto"] | int,
    set_by_user: bool,
    cores: int,
    processes: int,
    expected: int,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(device, "available_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads_of(threads, processes) == expected


def test_convolutions_are_exact_within_the_context_alone() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("compiler", [False, True])
def test_deterministic_kernels_are_asked_for_as_by_torch(monkeypatch: pytest.MonkeyPatch, compiler: bool) -> None:
    """Torch's compiler is told too: by its settings where it is imported, else by the variable that it reads then."""
    before, settings = torch.get_deterministic_debug_mode(), SimpleNamespace(deterministic=None)
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "")
    for name in ("torch._inductor", "torch._inductor.config"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if compiler:
        monkeypatch.setitem(sys.modules, "torch._inductor", SimpleNamespace(config=settings))
        monkeypatch.setitem(sys.modules, "torch._inductor.config", settings)
        monkeypatch.setattr(torch, "_inductor", SimpleNamespace(config=settings), raising=False)
    try:
        for wanted in (True, False):
            set_deterministic(wanted)
            assert torch.are_deterministic_algorithms_enabled() == wanted
            assert torch.is_deterministic_algorithms_warn_only_enabled() == wanted or not wanted
            assert ("torch._inductor.config" in sys.modules) == compiler
            assert settings.deterministic == (wanted if compiler else None)
            assert os.environ["TORCHINDUCTOR_DETERMINISTIC"] == ("" if compiler else str(int(wanted)))
    finally:
        torch.set_deterministic_debug_mode(before)
