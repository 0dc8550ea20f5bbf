"""One epoch of training steps, which comes to the same on any number of processes."""

import itertools
import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tumorboard.errors import InputError
from tumorboard.models.inference import autocast
from tumorboard.randomness import keys_of
from tumorboard.training.loader import Rows, epoch_batches, micro_batches
from tumorboard.training.optim import scheduled_lr, set_lr
from tumorboard.training.state import Job, Run, State

T = TypeVar("T")


def train_epoch(run: Run, state: State, epoch: int) -> dict[str, float]:
    """Train for an epoch (counted from 0); the loss and accuracy that its images had when their steps came."""
    job, recipe = run.job, run.job.recipe
    frozen = recipe.backbone_lr_scale == 0 or epoch < recipe.freeze_epochs
    state.model.train()
    state.model.backbone.requires_grad_(not frozen)
    if frozen:
        state.model.backbone.eval()  # holds the statistics of its batch norm too
    batches = epoch_batches(run.loader.keys, recipe.seed, epoch, recipe.batch_size)
    totals = np.zeros(4)
    title = f"{job.name} fold {job.fold} epoch {epoch + 1}/{recipe.epochs}"
    disable = None if run.group.rank == 0 else True
    with tqdm(total=len(batches), desc=title, unit="step", leave=False, disable=disable) as bar:
        for step, (sums, weight, seen) in enumerate(_one_late(_steps(run, state, epoch, batches)), 1):
            totals += [*sums.tolist(), weight, seen]
            if not math.isfinite(totals[0]):
                raise not_finite(job, f"the loss of epoch {epoch + 1}, step {step} of {len(batches)}")
            bar.set_postfix(loss=f"{totals[0] / totals[2]:.4f}", accuracy=f"{totals[1] / totals[3]:.4f}", refresh=False)
            bar.update()
    run.group.average_batch_norm(state.model)
    loss, correct, weight, images = run.group.sum(totals.tolist())
    return {"loss": loss / weight, "accuracy": correct / images}


def _steps(run: Run, state: State, epoch: int, batches: list[Rows]) -> Iterator[tuple[Tensor, float, int]]:
    """Carry out the steps of an epoch; yields for each, over this process's images, their summed losses and right
    answers float64[2], their summed weights and their number."""
    recipe, group = run.job.recipe, run.group
    val_losses = [past.val["loss"] for past in state.history]
    shares = [micro_batches(batch, group.rank, group.size, recipe.accumulate) for batch in batches]
    loaded = run.loader.load([rows for share in shares for rows in share], epoch)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    parallel = group.wrap(state.model)  # anew each epoch: which parameters learn may have changed
    for step, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        # In-model randomness such as dropout's follows from the step, not from what was drawn before it.
        torch.manual_seed(int(keys_of([f"{recipe.seed}/{epoch}/{step}/{group.rank}"])[0]))
        set_lr(state.optimizer, scheduled_lr(recipe, epoch * len(batches) + step, len(batches), val_losses))
        state.optimizer.zero_grad()
        # The processes' gradients are averaged: each one's sum times their number gives the mean over the whole batch.
        scale = group.size / run.weight_of_row[batch].sum()
        sums = torch.zeros(2, dtype=torch.float64, device=group.device)
        for number, (images, labels) in enumerate(itertools.islice(loaded, len(share)), 1):
            with group.synchronised(parallel, number == len(share)):
                with autocast(recipe.precision, group.device):
                    logits = parallel(images.to(memory_format=layout))
                loss = run.loss(logits.float(), labels)
                state.scaler.scale(loss * scale).backward()
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])
        state.scaler.step(state.optimizer)
        state.scaler.update()
        rows = np.concatenate(share)
        yield sums, run.weight_of_row[rows].sum(), len(rows)


def _one_late(results: Iterator[T]) -> Iterator[T]:
    """Yield each result after the next was asked for: a reader then never keeps the device waiting for work."""
    previous = next(results)
    for result in results:
        yield previous
        previous = result
    yield previous


def not_finite(job: Job, what: str) -> InputError:
    """The error that a number which is not finite ends a training with."""
    recipe = job.recipe
    return InputError(
        f"model '{job.name}', fold {job.fold}: {what} is not finite; "
        f"lower its lr ({recipe.lr}), lengthen warmup_epochs, or set its precision ({recipe.precision}) to off"
    )
