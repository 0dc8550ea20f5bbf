"""Chooses the device and the precision of a computation."""

import torch

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


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Returns the context in which a network runs in mixed precision.

    Args:
        precision: "bf16", "fp16" (CUDA only), or "off" for a context that changes nothing.
        device: where the network is.

    Raises:
        InputError: fp16 on a device other than CUDA.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError(f"precision: fp16 needs CUDA, the device is {device.type}: use bf16 or off")
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
