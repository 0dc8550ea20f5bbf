"""Mean of the weights after the last epochs of a training, with batch norm's statistics estimated for this mean."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tumorboard.base.params import Recipe
from tumorboard.models.device import autocast
from tumorboard.training.ema import update_average
from tumorboard.training.job import Setup, State
from tumorboard.training.loader import epoch_batches, micro_batches


def is_averaged(recipe: Recipe, epoch: int) -> bool:
    """Returns whether the weights that are validated after an epoch (from 0) are averages.

    With `ema_decay` they always are; with `average_last` after that many last epochs.
    """
    return recipe.ema_decay > 0 or epoch >= recipe.epochs - recipe.average_last


def add_epoch(state: State, recipe: Recipe, epoch: int) -> None:
    """Adds the weights after an epoch (from 0) to `state.average`, the mean over the last epochs.

    Source:
        Izmailov et al. 2018 (stochastic weight averaging), one model per epoch.
    """
    assert state.average is not None
    count = epoch - (recipe.epochs - recipe.average_last)  # number of epochs in the mean so far
    update_average(state.average, state.model.state_dict(), count / (count + 1))


@torch.no_grad()
def estimate_batch_norm(setup: Setup, state: State, epoch: int) -> None:
    """Sets batch norm's running statistics to their means over this process's micro-batches of an epoch (from 0).

    The images have the full side, are altered, not mixed, and dropout is off. Layers that the epoch trained in
    evaluation mode, such as a frozen backbone's, keep their statistics. The processes' results still have to be
    averaged (`average_batch_norm`).

    Args:
        setup: what stays the same in this process.
        state: its model is in the modes of the epoch (`set_train_mode`) and is left in evaluation mode.
        epoch: the epoch whose batches are taken, from 0.

    Source:
        torch.optim.swa_utils.update_bn.
    """
    recipe, group, loader = setup.job.recipe, setup.group, setup.loader
    layers = [
        layer
        for layer in state.model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.training
    ]
    state.model.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches, each with the same weight
    batches = epoch_batches(loader.keys, loader.strata, seed=recipe.seed, epoch=epoch, batch_size=recipe.batch_size)
    shares = [part for batch in batches for part in micro_batches(batch, group.rank, group.size, recipe.accumulate)]
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    with autocast(recipe.precision, group.device):
        for images, _ in loader.load(shares):
            state.model(images.to(memory_format=layout))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    state.model.eval()
