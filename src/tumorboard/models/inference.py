"""Computes the logits and probabilities of images, the same way in validation, testing and prediction."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tumorboard.base.params import View
from tumorboard.base.progress import tracked
from tumorboard.data.store import CropBatch, CropStore
from tumorboard.models.device import autocast, exact_convolutions
from tumorboard.models.views import views_of


def crops_to_tensor(crops: CropBatch, device: torch.device, channels_last: bool) -> Tensor:
    """Returns crops uint8[N, S, S, 3] as a tensor uint8[N, 3, S, S] on the device.

    The channels-last tensor has the memory layout of the crops, so that it is a view and not a second copy.
    """
    images = torch.from_numpy(crops).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def crop_logits(
    model: nn.Module,
    crops: CropBatch,
    *,
    precision: str,
    channels_last: bool,
    device: torch.device,
    tta: Collection[View] = (),
) -> NDArray[np.float32]:
    """Returns the logits of one batch of crops; sets the model to evaluation mode.

    With test-time augmentation they are the mean of the logits of all views of a crop (`views_of`). The views of the
    batch are computed one after the other, the unaltered crops first, so that they need no more memory than one.

    Args:
        model: the network, already on the device.
        crops: uint8[N, S, S, 3].
        precision: "bf16", "fp16" or "off".
        channels_last: whether weights and images have the memory layout of channels last.
        device: the device that computes.
        tta: the recipe's; empty: the crops alone.

    Returns:
        float32[N, K].
    """
    # Not in inference mode: on CUDA a recurrent layer moves its weights here, and they could not be trained afterwards.
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.eval().to(memory_format=layout)
    images, views = crops_to_tensor(crops, device, channels_last), views_of(tta)
    total = torch.zeros((), dtype=torch.float64, device=device)  # in float64 the mean of equal logits is exact
    with torch.inference_mode(), autocast(precision, device), exact_convolutions():
        for view in views:
            total = total + model(view(images).contiguous(memory_format=layout)).double()
    mean: NDArray[np.float32] = (total / len(views)).float().cpu().numpy()
    return mean


def predict_logits(
    model: nn.Module,
    store: CropStore,
    ids: Sequence[str],
    *,
    precision: str,
    channels_last: bool,
    device: torch.device,
    batch_size: int,
    tta: Collection[View] = (),
    progress: bool = False,
) -> NDArray[np.float32]:
    """Returns the logits of stored images, computed batch by batch with `crop_logits`.

    Args:
        model: the network, already on the device; it is set to evaluation mode.
        store: holds the images.
        ids: ids of the N images, in the order of the result; N may be 0.
        precision: "bf16", "fp16" or "off".
        channels_last: whether weights and images have the memory layout of channels last.
        device: the device that computes.
        batch_size: images per batch.
        tta: the recipe's; empty: the images alone.
        progress: whether to show a progress bar on a terminal, and to print a line per minute elsewhere.

    Returns:
        float32[N, K].
    """
    starts = range(0, max(1, len(ids)), batch_size)  # one empty batch for no images, which gives logits [0, K]
    logits = [
        crop_logits(
            model,
            store[ids[start : start + batch_size]],
            precision=precision,
            channels_last=channels_last,
            device=device,
            tta=tta,
        )
        for start in (tracked(starts, "predict", "batch") if progress else starts)
    ]
    return np.concatenate(logits)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the class probabilities float64[N, K] of logits [N, K], each row with the sum 1.

    >>> softmax(np.array([[0, 0], [1000, 0]], dtype=np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    values = logits.astype(np.float64)  # these are scipy's steps, without its import, which takes a third of a second
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
