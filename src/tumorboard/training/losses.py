"""Losses image by image, and what their weighted mean divides by."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.errors import InputError
from tumorboard.params import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def class_weights(recipe: Recipe, labels: NDArray[np.int64], classes: Sequence[str]) -> Tensor:
    """The weight of each class, float32[K]: ones, those of the recipe, or for 'balanced' n / (K * n_c) over `labels`.

    `labels` int64[N]: the classes of all training rows, copies among them. Raises InputError for a wrong number of
    weights and for a class that 'balanced' has no row of. 'balanced' is scikit-learn's rule (King & Zeng 2001).
    """
    if recipe.class_weights == "none":
        return torch.ones(len(classes))
    if recipe.class_weights != "balanced":
        return _one_a_class("class_weights", recipe.class_weights, len(classes))
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise InputError(f"class_weights: balanced: class '{classes[int(np.argmin(counts))]}' has no training image")
    return torch.tensor(len(labels) / (len(classes) * counts), dtype=torch.float32)


def make_loss(recipe: Recipe, weights: Tensor) -> Loss:
    """The recipe's loss(logits float32[N, K], labels int64[N]) -> float32[N], weighted by class.

    The weighted mean, as torch defines it, is their sum over the sum of `weights[labels]`; a caller that sees a part of
    a batch divides by the whole batch's. Raises InputError for a recipe that the loss cannot follow.
    """
    return LOSSES[recipe.loss](recipe, weights)


def _cross_entropy(recipe: Recipe, weights: Tensor) -> Loss:
    """Cross-entropy with label smoothing (Szegedy et al. 2016)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=recipe.label_smoothing)

    return loss


def _focal(recipe: Recipe, weights: Tensor) -> Loss:
    """Focal loss of several classes: -alpha_y (1 - p_y)^gamma log p_y (Lin et al. 2017), p by softmax."""
    if recipe.focal_alpha is not None:
        weights = weights * _one_a_class("focal_alpha", recipe.focal_alpha, len(weights)).to(weights.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
        # -expm1(log p) is 1 - p without cancellation near p = 1; the clamp keeps the power's gradient finite at p = 1.
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -weights[labels] * rest.pow(recipe.focal_gamma) * log_p

    return loss


def _one_a_class(key: str, values: Sequence[float], classes: int) -> Tensor:
    if len(values) != classes:
        raise InputError(f"{key} has {len(values)} numbers, but there are {classes} classes")
    return torch.tensor(values, dtype=torch.float32)


LOSSES: dict[str, Callable[[Recipe, Tensor], Loss]] = {"cross_entropy": _cross_entropy, "focal": _focal}
