"""A trained network over stored images: the one way to logits, for validation, testing and new images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn
from tqdm import tqdm

from tumorboard.data.store import CropStore
from tumorboard.errors import InputError
from tumorboard.params import Runtime

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def choose_device(runtime: Runtime) -> str:
    """'cuda' or 'cpu'; InputError where CUDA is asked for and absent."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device is cuda, but torch finds no CUDA device: set it to auto or cpu")
    return "cuda" if runtime.device != "cpu" and torch.cuda.is_available() else "cpu"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of mixed precision 'bf16' or 'fp16' (CUDA only, else InputError), or of none with 'off'."""
    if precision == "fp16" and device.type != "cuda":
        raise InputError(f"precision: fp16 needs CUDA, the device is {device.type}: use bf16 or off")
    dtype = _PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def to_images(crops: NDArray[np.uint8], device: torch.device, channels_last: bool) -> Tensor:
    """Crops uint8[N, S, S, 3] as a tensor [N, 3, S, S] on the device; channels-last ones are not copied there."""
    images = torch.from_numpy(crops).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def crop_logits(
    model: nn.Module, crops: NDArray[np.uint8], precision: str, channels_last: bool, device: torch.device
) -> NDArray[np.float32]:
    """Logits float32[N, K] of crops uint8[N, S, S, 3]; the model must be on the device, and is set to eval mode."""
    # Not in inference mode: on CUDA a recurrent layer moves its weights here, which could never learn again then.
    model.eval().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    with torch.inference_mode(), autocast(precision, device):
        logits: NDArray[np.float32] = model(to_images(crops, device, channels_last)).float().cpu().numpy()
    return logits


def predict_logits(
    model: nn.Module,
    store: CropStore,
    ids: Sequence[str],
    precision: str,
    channels_last: bool,
    device: torch.device,
    batch_size: int,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Logits float32[N, K] of stored images, in their order, as `crop_logits` gives them batch by batch."""
    starts = range(0, max(1, len(ids)), batch_size)  # an empty batch gives logits [0, K]
    logits = [
        crop_logits(model, store[ids[start : start + batch_size]], precision, channels_last, device)
        for start in tqdm(starts, desc="predict", unit="batch", leave=False, disable=None if progress else True)
    ]
    return np.concatenate(logits)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities float64[N, K] of logits [N, K]."""
    probabilities: NDArray[np.float64] = special.softmax(logits.astype(np.float64), axis=1)
    return probabilities
