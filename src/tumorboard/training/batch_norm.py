"""Batch norm's statistics for judging, measured on unaltered training images."""

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tumorboard.models.inference import autocast, to_images
from tumorboard.models.registry import Classifier
from tumorboard.randomness import keys_of, order
from tumorboard.training.state import Run


@torch.no_grad()
def measure_batch_norm(run: Run, model: Classifier) -> None:
    """Set the running statistics of batch norm to their means over `batch_norm_images` originals, none augmented.

    Augmentation resamples and so blurs: the statistics that gather while training misfit the sharp images that are
    judged (Touvron et al. 2019), so they are measured anew for these (precise batch norm, Wu & Johnson 2021). Training
    is not touched, it normalises by each batch; a layer that is frozen, that is in eval mode, keeps its own.
    """
    job, group, recipe = run.job, run.group, run.job.recipe
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]
    originals = job.rows["id"][job.rows["id"] == job.rows["source_id"]].to_numpy(object)
    chosen = originals[order(recipe.seed, keys_of(originals.tolist()), 0)][: recipe.batch_norm_images]
    mine = chosen[group.rank :: group.size]
    if not norms or len(mine) < 2:
        return
    momenta = [layer.momentum for layer in norms]
    model.eval()
    for layer in norms:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # torch's way to say: the mean over all batches
    for ids in np.array_split(mine, -(-len(mine) // recipe.batch_size)):
        images = to_images(job.store[ids.tolist()], group.device, recipe.channels_last)
        with autocast(recipe.precision, group.device):
            model(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    group.average_batch_norm(model)
