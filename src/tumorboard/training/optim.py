"""Optimizers with a learning rate a part of the model, and schedules as pure functions."""

import math
from collections.abc import Callable, Sequence

from torch.nn import Module, Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from tumorboard.models.layers import layers_of
from tumorboard.params import Recipe

OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], Recipe], Optimizer]] = {
    # Its fused kernel leaves the momentum of a first step that the scaler of fp16 leaves out without a value.
    "sgd": lambda groups, recipe: SGD(groups, recipe.lr, momentum=recipe.momentum, fused=recipe.precision != "fp16"),
    "adam": lambda groups, recipe: Adam(groups, recipe.lr, fused=True),
    "adamw": lambda groups, recipe: AdamW(groups, recipe.lr, fused=True),
}


def make_optimizer(backbone: Module, head: Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer: the head learns at `lr`, the backbone at `lr * backbone_lr_scale`.

    Below a `layer_decay` of 1 each layer of the backbone (`layers_of`) learns at that share of the next one's rate, its
    last at that share of the whole backbone's (Clark et al. 2020; as BEiT's and timm's). Weight decay acts on
    parameters of two or more dimensions: not on biases, nor on the scales of normalisations.
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
        for parameters, decay in zip(_by_dimensions(part), (recipe.weight_decay, 0.0), strict=True)
        if parameters
    ]
    return OPTIMIZERS[recipe.optimizer](groups, recipe)


def _by_dimensions(parameters: list[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of a step; each part of the model takes its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def scheduled_lr(recipe: Recipe, step: int, steps_per_epoch: int, val_losses: Sequence[float]) -> float:
    """The learning rate of the step number `step` (from 0, over all epochs), given the past epochs' validation losses.

    The schedule's factor times the linear warm-up; onecycle has a warm-up of its own.
    """
    steps = recipe.epochs * steps_per_epoch
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "step":
            factor = recipe.step_factor ** (step // steps_per_epoch // recipe.step_epochs)
        case "cosine":  # to zero: Loshchilov & Hutter 2017, without restarts
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
    """One cycle (Smith & Topin 2018) as torch's OneCycleLR draws it: from 1/25 to 1 at 30 % of the steps, to 1/250,000.

    The momentum is left as it is.
    """
    peak = 0.3 * steps - 1
    if step <= peak:
        return _cosine(1 / 25, 1.0, step / peak)
    return _cosine(1.0, 1 / 25e4, (step - peak) / (steps - 1 - peak))


def _plateaus(val_losses: Sequence[float], patience: int) -> int:
    """How often torch's ReduceLROnPlateau reduces: after each `patience` + 1 epochs not 0.01 % below the best."""
    best, waited, plateaus = math.inf, 0, 0
    for loss in val_losses:
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            waited, plateaus = 0, plateaus + 1
    return plateaus
