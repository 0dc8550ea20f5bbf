"""Computes losses per image, and class weights."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (logits float32[N, K], labels int64[N]) -> float32[N]


def class_weights(recipe: Recipe, labels: NDArray[np.int64], classes: Sequence[str]) -> Tensor:
    """Returns the weight of each class in the loss, float32[K].

    Args:
        recipe: its `class_weights` are "none" (ones), one number per class, or "balanced": n / (K * n_c).
        labels: int64[N], the classes of all training rows, altered copies and generated images included.
        classes: the K class names.

    Raises:
        InputError: a wrong number of weights, or a class without a training row under "balanced".

    Source:
        "balanced" is scikit-learn's rule (King & Zeng 2001).

    >>> from types import SimpleNamespace
    >>> recipe = SimpleNamespace(class_weights="balanced")
    >>> class_weights(recipe, np.array([0, 0, 0, 1]), ("healthy", "sick"))
    tensor([0.6667, 2.0000])
    """
    if recipe.class_weights == "none":
        return torch.ones(len(classes))
    if recipe.class_weights != "balanced":
        return _one_per_class("class_weights", recipe.class_weights, len(classes))
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise InputError(f"class_weights: balanced: class '{classes[int(np.argmin(counts))]}' has no training image")
    return torch.tensor(len(labels) / (len(classes) * counts), dtype=torch.float32)


def make_loss(recipe: Recipe, weights: Tensor) -> Loss:
    """Returns the recipe's loss per image, without reduction.

    The mean over a batch, as torch defines it for weighted classes, is the sum of these losses divided by the sum of
    `weights[labels]`. A caller that sees part of a batch divides by the whole batch's sum.

    Args:
        recipe: names the loss, and its label smoothing, gamma and alpha.
        weights: float32[K], the weight of each class.

    Returns:
        loss(logits float32[N, K], labels int64[N]) -> float32[N].

    Raises:
        InputError: `focal_alpha` has a wrong number of entries.
    """
    return LOSSES[recipe.loss](recipe, weights)


def _cross_entropy(recipe: Recipe, weights: Tensor) -> Loss:
    """Returns the cross-entropy with label smoothing (Szegedy et al. 2016)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=recipe.label_smoothing)

    return loss


def _focal(recipe: Recipe, weights: Tensor) -> Loss:
    """Returns the focal loss for K classes, -alpha_y (1 - p_y)^gamma log p_y (Lin et al. 2017), with p by softmax."""
    if recipe.focal_alpha is not None:
        weights = weights * _one_per_class("focal_alpha", recipe.focal_alpha, len(weights)).to(weights.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
        # -expm1(log p) is 1 - p without cancellation near p = 1; the clamp keeps the power's gradient finite at p = 1.
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -weights[labels] * rest.pow(recipe.focal_gamma) * log_p

    return loss


def _one_per_class(key: str, values: Sequence[float], classes: int) -> Tensor:
    if len(values) != classes:
        raise InputError(f"{key} has {len(values)} numbers, but there are {classes} classes: write one per class")
    return torch.tensor(values, dtype=torch.float32)


LOSSES: dict[str, Callable[[Recipe, Tensor], Loss]] = {"cross_entropy": _cross_entropy, "focal": _focal}
