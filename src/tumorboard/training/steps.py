"""One epoch of training steps, which comes to the same on any number of processes."""

import itertools
from collections import deque
from collections.abc import Iterator
from math import nan
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from tumorboard.errors import InputError
from tumorboard.models.inference import autocast
from tumorboard.models.registry import Classifier
from tumorboard.params import Recipe
from tumorboard.randomness import keys_of
from tumorboard.training.averaging import average_decay, update_average
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.loader import Draws, Rows, epoch_batches, micro_batches
from tumorboard.training.mixing import Mixture, draw_mixture, mix_batch, part_of, with_partners
from tumorboard.training.optim import scheduled_lr, set_lr
from tumorboard.training.state import Job, Run, State

T = TypeVar("T")


class Outcome(NamedTuple):
    """What a step came to for this process's images: their rows, losses and right answers [2, n], and weight."""

    rows: Rows
    found: Tensor
    weight: float


def train_epoch(run: Run, state: State, epoch: int, checkpoints: Checkpoints) -> dict[str, float]:
    """Train for what is left of an epoch (counted from 0); the loss and accuracy its images had when their steps came.

    Mixed images count by the shares of their labels; steps that were skipped do not count. Every step is counted to
    `checkpoints`, which may copy the state then.
    """
    job, recipe = run.job, run.job.recipe
    set_modes(state.model, recipe, epoch)
    batches = epoch_batches(run.loader.keys, run.loader.strata, recipe.seed, epoch, recipe.batch_size)
    title = f"{job.name} fold {job.fold} epoch {epoch + 1}/{recipe.epochs}"
    disable = None if run.group.rank == 0 else True
    with tqdm(total=len(batches), initial=state.step, desc=title, unit="step", leave=False, disable=disable) as bar:
        late = _one_late(_counted(_steps(run, state, epoch, batches), state, checkpoints))
        for step, (outcome, sums, counts) in enumerate(late, state.step + 1):
            losses, right = outcome.found.double().cpu().numpy()
            if not (np.isfinite(losses).all() and np.isfinite(right).all()):
                where = f"epoch {epoch + 1}, step {step} of {len(batches)}"
                raise not_finite(job, _what_is_not_finite(run, state, where, outcome.rows, losses))
            if counts[1]:
                loss, accuracy = sums.cpu().numpy() / counts
                bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.4f}", refresh=False)
            bar.update()
    # The scaler halves its scale wherever a gradient is not finite, and would do so for ever.
    if state.scaler.is_enabled() and state.scaler.get_scale() < 1:
        scale = state.scaler.get_scale()
        raise not_finite(job, f"the gradient of step after step in epoch {epoch + 1} (fp16's scale fell to {scale:g})")
    run.group.average_batch_norm(state.model)
    loss, correct, weight, images = run.group.sum([*state.sums.tolist(), *state.counts])
    state.step, state.sums, state.counts = 0, torch.zeros_like(state.sums), np.zeros(2)
    return {"loss": loss / weight, "accuracy": correct / images} if images else {"loss": nan, "accuracy": nan}


def _counted(
    outcomes: Iterator[Outcome], state: State, checkpoints: Checkpoints
) -> Iterator[tuple[Outcome, Tensor, NDArray[np.float64]]]:
    """The outcomes with the epoch's sums and counts after each, the state and its checkpoints kept up with them."""
    for outcome in outcomes:
        # New ones each time: the reader is late.
        state.sums = state.sums + outcome.found.double().sum(1)
        state.counts = state.counts + np.array([outcome.weight, len(outcome.rows)])
        state.step += 1
        checkpoints.tick(state)
        yield outcome, state.sums, state.counts


def set_modes(model: Classifier, recipe: Recipe, epoch: int) -> None:
    """Ready the model for training steps of an epoch: in one that freezes the backbone it keeps all it holds."""
    frozen = recipe.backbone_lr_scale == 0 or epoch < recipe.freeze_epochs
    model.train()
    model.backbone.requires_grad_(not frozen)
    if frozen:
        model.backbone.eval()  # holds the statistics of its batch norm too


def _steps(run: Run, state: State, epoch: int, batches: list[Draws]) -> Iterator[Outcome]:
    """Carry out the steps of an epoch that are left."""
    recipe = run.job.recipe
    val_losses = [past.val["loss"] for past in state.history]
    start = state.step
    plans = [plan_step(run, batch) for batch in batches[start:]]
    loaded = run.loader.load([draws for plan in plans for draws in plan.loaded])
    parallel = run.group.wrap(state.model)  # anew each epoch: which parameters learn may have changed
    for step, plan in enumerate(plans, start):
        # In-model randomness such as dropout's follows from the step, not from what was drawn before it.
        torch.manual_seed(int(keys_of([f"{recipe.seed}/{epoch}/{step}/{run.group.rank}"])[0]))
        number = epoch * len(batches) + step
        set_lr(state.optimizer, scheduled_lr(recipe, number, len(batches), val_losses))
        held = [buffer.clone() for buffer in state.model.buffers()] if recipe.nonfinite == "skip" else []
        found = backward(run, state, parallel, plan, itertools.islice(loaded, len(plan.loaded)))
        if recipe.nonfinite == "skip" and not _all_finite(run, state, found):
            for buffer, value in zip(state.model.buffers(), held, strict=True):
                buffer.copy_(value)
            _skip(run, state, f"epoch {epoch + 1}, step {step + 1} of {len(batches)}", plan, found[0])
            yield Outcome(plan.rows[:0], found[:, :0], 0.0)
            continue
        update(recipe, state)
        if state.average is not None:
            update_average(state.average, state.model, average_decay(recipe.ema_decay, number))
        yield Outcome(plan.rows, found, plan.weight)


class Plan(NamedTuple):
    """One process's part of a step.

    batch: the rows of all processes; rows: this one's, of which `loaded` holds one micro-batch after the other, with
    partners behind them where `mixtures` is not empty. weight: of its images; total: of the whole batch.
    """

    batch: Rows
    rows: Rows
    loaded: list[Draws]
    mixtures: list[Mixture]
    weight: float
    total: float


def plan_step(run: Run, batch: Draws) -> Plan:
    """This process's part of a batch; which images are mixed with which is the batch's alone."""
    recipe, rows = run.job.recipe, batch[:, 0]
    shares = micro_batches(np.arange(len(batch)), run.group.rank, run.group.size, recipe.accumulate)
    mine, loaded, mixtures = np.concatenate(shares), [batch[share] for share in shares], []
    weight = run.weight_of_row[rows]
    if recipe.mixup or recipe.cutmix:
        mixture = draw_mixture(recipe, run.loader.keys[rows], batch[:, 1], run.job.store.size)
        weight = mixture.share * weight + (1 - mixture.share) * weight[mixture.partners]
        mixtures = [part_of(mixture, share) for share in shares]
        loaded = [batch[with_partners(part)] for part in mixtures]
    return Plan(rows, rows[mine], loaded, mixtures, float(weight[mine].sum()), float(weight.sum()))


def backward(run: Run, state: State, parallel: Module, plan: Plan, loaded: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Set the gradients of a step, the mean over the whole batch's images, and return the losses and right answers of
    this process's, float32[2, n]; under fp16 the gradients are multiplied by the scaler's scale."""
    recipe, group = run.job.recipe, run.group
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    state.optimizer.zero_grad()
    # The processes' gradients are averaged: each one's sum times their number gives the mean over the whole batch.
    scale = group.size / plan.total
    found = []
    for number, (images, labels) in enumerate(loaded):
        mixture = plan.mixtures[number] if plan.mixtures else None
        if mixture:
            images, labels, partners, share = mix_batch(images, labels, mixture)
        with group.synchronised(parallel, number == len(plan.loaded) - 1):
            with autocast(recipe.precision, group.device):
                logits = parallel(images.to(memory_format=layout))
            losses, right = run.loss(logits.float(), labels), (logits.argmax(1) == labels).float()
            if mixture:
                losses = share * losses + (1 - share) * run.loss(logits.float(), partners)
                right = share * right + (1 - share) * (logits.argmax(1) == partners)
            state.scaler.scale(losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        found.append(torch.stack([losses.detach(), right]))
    return torch.cat(found, dim=1)


def update(recipe: Recipe, state: State) -> None:
    """Move the parameters along their gradients, shortened to `clip_norm` together (Pascanu et al. 2013)."""
    if recipe.clip_norm:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()


def _all_finite(run: Run, state: State, found: Tensor) -> bool:
    """Whether a step's losses are finite in all processes, and its gradients, which they share.

    Under fp16 the losses alone: its scaler looks at the gradients, and leaves out steps in which its scale was too
    large. The answer has to be waited for, since the optimizer's step hangs on it: a device then idles for the time
    that it takes to queue the next work, and the processes wait for one another once more.
    """
    finite = found.isfinite().all()
    if not state.scaler.is_enabled():
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        finite &= torch.nn.utils.get_total_norm(gradients).isfinite()
    return run.group.sum([float(not finite)])[0] == 0


def _skip(run: Run, state: State, where: str, plan: Plan, losses: Tensor) -> None:
    """Count a skipped step and say so; raises InputError where that exceeds the budget."""
    job, budget = run.job, run.job.recipe.nonfinite_budget
    state.skipped += 1
    whole = run.group.gather(losses.double().cpu().numpy(), len(plan.batch))  # dealt as the rows are
    what = _what_is_not_finite(run, state, where, plan.batch, whole) if run.group.rank == 0 else ""
    what = run.group.broadcast(what)
    if state.skipped > budget:
        raise not_finite(job, f"after {budget} skipped steps (nonfinite_budget) {what}")
    if run.group.rank == 0:
        tqdm.write(
            f"fold {job.fold}  {job.name}  {what} is not finite: skipped, {state.skipped} of nonfinite_budget {budget}"
        )


def _what_is_not_finite(run: Run, state: State, where: str, rows: Rows, losses: NDArray[np.float64]) -> str:
    """The step, its first images without a finite loss (none, if only the gradient is not finite), fp16's scale."""
    wrong = rows[~np.isfinite(losses)]
    ids = run.job.rows["id"].to_numpy()
    scale = f", fp16's scale {state.scaler.get_scale():g}" if state.scaler.is_enabled() else ""
    if not len(wrong):
        return f"the gradient of {where} (images {', '.join(ids[rows[:3]])} …{scale})"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"the loss of {where} ({len(wrong)} of {len(rows)} images: {', '.join(ids[wrong[:3]])}{more}{scale})"


def _one_late(results: Iterator[T]) -> Iterator[T]:
    """Yield each result after the next was asked for: a reader then never keeps the device waiting for work."""
    pending: deque[T] = deque()
    for result in results:
        pending.append(result)
        if len(pending) > 1:
            yield pending.popleft()
    yield from pending


def not_finite(job: Job, what: str) -> InputError:
    """The error that a number which is not finite ends a training with."""
    recipe = job.recipe
    return InputError(
        f"model '{job.name}', fold {job.fold}: {what} is not finite; "
        f"lower its lr ({recipe.lr}), lengthen warmup_epochs, or set its precision ({recipe.precision}) to off"
    )
