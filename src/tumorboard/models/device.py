"""Chooses the device and the precision of a computation."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from tumorboard.base.cores import available_cores
from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def choose_device(runtime: Runtime) -> str:
    """Returns "cuda" or "cpu" as `runtime.device` asks; "auto" is CUDA where torch finds it.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device is cuda, but torch finds no CUDA device: set it to auto or cpu")
    return "cuda" if runtime.device != "cpu" and torch.cuda.is_available() else "cpu"


def threads_of(threads: Literal["auto"] | int, processes: int = 1) -> int:
    """Returns the number of threads among which torch divides an operation on the CPU, in each of several processes.

    Args:
        threads: `runtime.threads`. "auto" is what torch has, divided by the processes: OMP_NUM_THREADS where that is
            set, else one per core, but no more than this process may use (`available_cores`).
        processes: number of processes that share the cores.
    """
    if threads != "auto":
        return threads
    own = torch.get_num_threads()
    return max(1, (own if "OMP_NUM_THREADS" in os.environ else min(own, available_cores())) // processes)


def use_threads(runtime: Runtime) -> None:
    """Sets the number of torch's threads in this process, which computes alone."""
    if (number := threads_of(runtime.threads)) != torch.get_num_threads():
        torch.set_num_threads(number)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the generator of the CPU and of a CUDA device, like `torch.manual_seed`, which takes longer for all."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def set_deterministic(wanted: bool) -> None:
    """Makes torch choose deterministic kernels, or no longer; an operation that has none warns.

    As `torch.use_deterministic_algorithms`, which imports torch's compiler to pass the wish on: that takes a second,
    and only a study's own network may be compiled. The compiler reads the environment variable when it is imported.
    """
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(wanted, warn_only=True)
    else:
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = str(int(wanted))
        torch.set_deterministic_debug_mode("warn" if wanted else "default")


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Turns TF32 off for cuDNN, which by default rounds float32 to 10 bits on a GPU; nothing changes on a CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Returns the context in which a network runs in mixed precision.

    Args:
        precision: "bf16", "fp16" (CUDA only), or "off" for a context that changes nothing.
        device: the device of the network.

    Raises:
        InputError: fp16 on a device other than CUDA.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError(f"precision: fp16 needs CUDA, the device is {device.type}: use bf16 or off")
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
