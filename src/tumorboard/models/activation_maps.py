"""Where in an image the evidence for a class lies: Grad-CAM maps of any network of the registry.

Source:
    Selvaraju et al. 2017, Grad-CAM. For transformers the tokens of the last block before its attention are the map.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tumorboard.base.errors import InputError
from tumorboard.data.store import CropBatch
from tumorboard.models.inference import crops_to_tensor
from tumorboard.models.registry import Classifier

SMALLEST_GRID = 2  # cells per side; a map of one cell shows no position
WANTED_GRID = 4  # cells per side; a coarser map is taken only where the network has no finer one
BLOCK_DEPTH = 1  # dots in the name of a module that is a stage or a block
PROBES = 2  # images in the probing batch; an output with another number of rows, such as position embeddings, is no map


@dataclass(frozen=True)
class MapLayer:
    """The layer whose output is the map."""

    name: str  # the module's name within the backbone
    order: Literal["channels first", "channels last", "tokens"]  # [N, C, H, W], [N, H, W, C] or [N, T, C]
    grid: int  # cells per side
    prefix: int = 0  # number of tokens in front of the image's, such as a class token


def choose_layer(model: Classifier, side: int, architecture: str) -> MapLayer:
    """Returns the deepest layer whose output is a map of at least WANTED_GRID cells per side, else the finest map.

    Args:
        model: a network of the registry; its mode and its weights stay as they are.
        side: side of the square images in pixels.
        architecture: its name, for the error message.

    Raises:
        InputError: no layer keeps the places of the image, as in the flattened `linear`.
    """
    layers: list[MapLayer] = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or len(output) != PROBES or _is_enlarged(inputs, output):
                return
            if layer := _as_map(name, output, model.backbone):
                layers.append(layer)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.backbone.named_modules() if name]
    training = model.training
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(PROBES, 3, side, side, dtype=torch.uint8, device=device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    if not layers:
        raise InputError(
            f"architecture {architecture} has no layer that keeps the places of the image, so it has no activation map"
        )
    fine = [layer for layer in layers if layer.grid >= WANTED_GRID]
    last = fine[-1] if fine else max(layers, key=lambda layer: layer.grid)
    # The end of a whole stage or block is a better map than a layer inside the next one.
    blocks = [layer for layer in layers if layer.grid == last.grid and layer.name.count(".") <= BLOCK_DEPTH]
    return last if last.order == "tokens" or not blocks else blocks[-1]


def _is_enlarged(inputs: tuple[Any, ...], output: Tensor) -> bool:
    """Whether a layer repeats cells, as the pooling of VGG does for small images, and so is less exact about places."""
    first = inputs[0] if inputs else None
    return isinstance(first, Tensor) and first.ndim == output.ndim == 4 and output.shape[2] > first.shape[2]


def _as_map(name: str, output: Tensor, backbone: nn.Module) -> MapLayer | None:
    """Returns an output as a map; None if it is too small, not square, or tokens that form no square."""
    if output.ndim == 4:
        _, first, second, third = output.shape
        if second == third >= SMALLEST_GRID:
            return MapLayer(name, "channels first", second)
        if first == second >= SMALLEST_GRID and third > second:
            return MapLayer(name, "channels last", first)
        return None
    # After the last attention only the class token counts, so the norm before that attention is taken.
    if output.ndim == 3 and name.endswith(("norm1", "ln_1")):
        prefix = getattr(backbone, "num_prefix_tokens", None)
        prefix = prefix if isinstance(prefix, int) else int(hasattr(backbone, "class_token"))
        count = output.shape[1] - prefix
        grid = math.isqrt(count)
        if grid * grid == count and grid >= SMALLEST_GRID:
            return MapLayer(name, "tokens", grid, prefix)
    return None


def activation_maps(model: Classifier, layer: MapLayer, images: Tensor, targets: Sequence[int]) -> NDArray[np.float32]:
    """Returns the Grad-CAM maps of images.

    The gradient of the class's logit with respect to the layer's output, averaged over places, weights the channels.
    Negative sums are 0. Each map is divided by its maximum.

    Args:
        model: its mode is evaluation during the call, and its former mode after it.
        layer: the layer that `choose_layer` returned.
        images: uint8[N, 3, S, S] on the model's device.
        targets: class index per image.

    Returns:
        float32[N, S, S], 0 to 1; all 0 where no evidence for the class is found.
    """
    training = model.training
    model.eval()
    try:
        with torch.enable_grad(), _kept_output(model.backbone.get_submodule(layer.name)) as kept:
            logits = model(images.float().requires_grad_())
            chosen = logits[torch.arange(len(images)), torch.as_tensor(targets, device=logits.device)].sum()
            output = kept[0]
            (gradient,) = torch.autograd.grad(chosen, output)
    finally:
        model.train(training)
    output, gradient = (_channels_first(values, layer) for values in (output, gradient))
    weights = gradient.mean((2, 3), keepdim=True)
    maps = functional.relu((weights * output).sum(1, keepdim=True)).detach().float()
    maps = functional.interpolate(maps, size=tuple(images.shape[2:]), mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    result: NDArray[np.float32] = torch.where(largest > 0, maps / largest.clamp(min=1e-30), maps).cpu().numpy()
    return result


def map_crops(
    model: Classifier, crops: CropBatch, targets: Sequence[int], architecture: str, *, batch_size: int = 16
) -> NDArray[np.float32]:
    """Returns the maps float32[N, S, S] of crops uint8[N, S, S, 3] for one class per crop, batch by batch."""
    device = next(model.parameters()).device
    layer = choose_layer(model, crops.shape[1], architecture)
    maps = [np.empty((0, *crops.shape[1:3]), np.float32)]
    for start in range(0, len(crops), batch_size):
        batch = crops_to_tensor(crops[start : start + batch_size], device, channels_last=False)
        maps.append(activation_maps(model, layer, batch, targets[start : start + batch_size]))
    return np.concatenate(maps)


@contextmanager
def _kept_output(module: nn.Module) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        # The next layer gets a copy, because one that works in place (ReLU) would change the kept output.
        kept.append(output)
        return output.clone()

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def _channels_first(values: Tensor, layer: MapLayer) -> Tensor:
    if layer.order == "channels first":
        return values
    if layer.order == "channels last":
        return values.permute(0, 3, 1, 2)
    places = values[:, layer.prefix :].transpose(1, 2)
    return places.reshape(len(values), -1, layer.grid, layer.grid)
