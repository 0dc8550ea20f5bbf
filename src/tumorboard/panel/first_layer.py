"""The filters that look at the pixels: networks' first layers before and after training."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tumorboard.base.errors import InputError
from tumorboard.models.registry import Classifier, build_model
from tumorboard.panel.filters import FirstLayer
from tumorboard.panel.panel import Panel
from tumorboard.panel.trained_model import TrainedModel

SHOWN = 16  # filters per model


def first_layers(panel: Panel) -> dict[str, FirstLayer]:
    """Returns the first layer of each model's first fold; a model whose first layer sees no color is left out."""
    first = {name: folds[0] for name, folds in panel.models.items()}
    layers = {name: first_layer(one) for name, one in first.items() if isinstance(one, TrainedModel)}
    return {name: layer for name, layer in layers.items() if layer is not None}


def first_layer(trained: TrainedModel) -> FirstLayer | None:
    """Returns the filters of a trained network's first layer, and what they were before.

    The initial weights are built again as the training built them, from the recipe's seed or from its pre-trained file.

    Returns:
        At most SHOWN filters. None where the first layer does not look at the pixels in red, green and blue.
    """
    card = trained.card
    after = _filters(trained.network, card.crop.side)
    if after is None:
        return None
    try:
        initial = build_model(card.recipe, len(card.classes), card.crop.side, (card.mean, card.std))
    except InputError:  # such as pre-trained weights that are not on this machine
        initial = None
    before = None if initial is None else _filters(initial, card.crop.side)
    if before is None:
        return FirstLayer(_as_pictures(after[:SHOWN]), _as_pictures(after[:0]), np.full(1, np.nan, np.float32))
    changes = (after - before).flatten(1).norm(dim=1)
    order = torch.argsort(changes, descending=True, stable=True)[:SHOWN]
    change = float((after - before).norm() / before.norm())
    return FirstLayer(_as_pictures(after[order]), _as_pictures(before[order]), np.array([change], np.float32))


def _filters(model: Classifier, side: int) -> Tensor | None:
    """Returns the weights [C, 3, h, w] of the first layer with weights, on the CPU; None where it sees no color."""
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module.weight.detach().float().cpu()
        if isinstance(module, nn.Linear) and module.in_features == 3 * side * side:
            return module.weight.detach().float().cpu().view(-1, 3, side, side)
        if any(True for _ in module.parameters(recurse=False)):
            return None
    return None


def _as_pictures(filters: Tensor) -> NDArray[np.float32]:
    pictures: NDArray[np.float32] = filters.permute(0, 2, 3, 1).contiguous().numpy()
    return pictures
