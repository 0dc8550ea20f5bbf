"""Optimizers with a learning rate per part of the model, and learning rate schedules as pure functions."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar

import numpy as np
import torch
from torch.nn import Module, Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from tumorboard.base.params import Recipe
from tumorboard.training.layers_by_depth import layers_of

Kind = TypeVar("Kind", bound=Optimizer)


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """Returns a subclass of an optimizer that does not import torch's compiler, which takes about a second.

    Torch's own methods import it (torch._dynamo) when they are first called, only to tell it what not to compile. The
    steps are the same. An optimizer with `differentiable=True` must not be made of the subclass.

    Args:
        kind: the optimizer's class.
    """
    step = inspect.unwrap(kind.step)

    @wraps(step)
    def plain_step(self: Kind, closure: Callable[[], float] | None = None) -> float | None:
        with torch.no_grad():
            loss: float | None = step(self, closure)
        return loss

    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = inspect.unwrap(getattr(kind, name))
        method.__dynamo_disable = method  # torch calls what is stored here, and imports the compiler to fill it
    return type(kind.__name__, (kind,), {"step": plain_step})


_SGD, _ADAM, _ADAMW = without_compiler(SGD), without_compiler(Adam), without_compiler(AdamW)
OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], Recipe], Optimizer]] = {
    # Not fused under fp16: if the scaler skips the very first step, the fused kernel leaves momentum uninitialized.
    "sgd": lambda groups, recipe: _SGD(groups, recipe.lr, momentum=recipe.momentum, fused=recipe.precision != "fp16"),
    "adam": lambda groups, recipe: _ADAM(groups, recipe.lr, fused=True),
    "adamw": lambda groups, recipe: _ADAMW(groups, recipe.lr, fused=True),
}


def make_optimizer(backbone: Module, head: Module, recipe: Recipe) -> Optimizer:
    """Returns the recipe's optimizer over the parameters of backbone and head.

    The head learns at `lr`, the backbone at `lr * backbone_lr_scale`. With a `layer_decay` below 1, the last of the
    backbone's layers (`layers_of`) learns at `layer_decay` times the backbone's rate, and each layer before it at
    `layer_decay` times the rate of the next one. Weight decay acts on parameters with two or more dimensions only:
    not on biases, not on the scales of normalization layers.

    Source:
        Layer decay: Clark et al. 2020, counted as in BEiT and timm.
    """
    parts = [(list(backbone.parameters()), recipe.backbone_lr_scale)]
    if recipe.layer_decay < 1:
        layers = layers_of(backbone)
        parts = [
            (layer, recipe.backbone_lr_scale * recipe.layer_decay ** (len(layers) - depth))
            for depth, layer in enumerate(layers)
        ]
    groups = [
        {"params": parameters, "lr_scale": lr_scale, "weight_decay": decay}
        for part, lr_scale in (*parts, (list(head.parameters()), 1.0))
        for parameters, decay in zip(_matrices_and_rest(part), (recipe.weight_decay, 0.0), strict=True)
        if parameters
    ]
    return OPTIMIZERS[recipe.optimizer](groups, recipe)


def _matrices_and_rest(parameters: list[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of a step; each parameter group takes `lr` times its own `lr_scale`.

    On CUDA it is rounded to float32, as a CUDA graph reads it, so that a step is the same with and without graphs.
    """
    for group in optimizer.param_groups:
        rate = lr * group["lr_scale"]
        group["lr"] = float(np.float32(rate)) if group["params"][0].is_cuda else rate


def scheduled_lr(recipe: Recipe, step: int, steps_per_epoch: int, val_losses: Sequence[float]) -> float:
    """Returns the learning rate of a step: the schedule's factor times the linear warm-up's, times `lr`.

    The schedule "onecycle" has a warm-up of its own, and `warmup_epochs` is ignored.

    Args:
        recipe: names the schedule and its settings.
        step: number of the step, counted from 0 over all epochs.
        steps_per_epoch: number of steps in every epoch.
        val_losses: validation losses of the past epochs, which the schedule "plateau" follows.

    Source:
        "cosine": Loshchilov & Hutter 2017, without restarts.
    """
    steps = recipe.epochs * steps_per_epoch
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "step":
            factor = recipe.step_factor ** (step // steps_per_epoch // recipe.step_epochs)
        case "cosine":
            factor = _cosine(1.0, 0.0, step / steps)
        case "onecycle":
            factor = _onecycle(step, steps)
        case "plateau":
            factor = recipe.step_factor ** _plateaus(val_losses, recipe.plateau_patience)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule != "onecycle" and step + 1 < warmup_steps:
        factor *= (step + 1) / warmup_steps
    return recipe.lr * factor


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def _onecycle(step: int, steps: int) -> float:
    """Returns the factor of one cycle (Smith & Topin 2018), as in torch's OneCycleLR with constant momentum.

    It rises from 1/25 to 1 over the first 30 % of the steps, then falls to 1/250,000.
    """
    peak = 0.3 * steps - 1
    if step <= peak:
        return _cosine(1 / 25, 1.0, step / peak)
    return _cosine(1.0, 1 / 25e4, (step - peak) / (steps - 1 - peak))


def _plateaus(val_losses: Sequence[float], patience: int) -> int:
    """Counts the reductions of torch's ReduceLROnPlateau: after `patience` + 1 epochs not 0.01 % below the best."""
    best, waited, plateaus = math.inf, 0, 0
    for loss in val_losses:
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            waited, plateaus = 0, plateaus + 1
    return plateaus
