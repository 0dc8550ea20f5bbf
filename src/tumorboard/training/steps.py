"""Carries out the steps of one epoch; the number of processes changes their result by rounding only."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from math import nan
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.base.randomness import keys_of
from tumorboard.models.device import seed_torch
from tumorboard.models.registry import Classifier
from tumorboard.training.batch_norm import average_batch_norm
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.ema import average_decay, update_average
from tumorboard.training.job import Job, Setup, State
from tumorboard.training.journal import MinuteLines
from tumorboard.training.loader import Draws, RowNumbers, epoch_batches
from tumorboard.training.one_step import (
    StepPlan,
    alters_in_graph,
    backward,
    mixed_batches,
    numbers_of_steps,
    optimizer_step,
    plan_step,
)
from tumorboard.training.optim import scheduled_lr, set_lr

T = TypeVar("T")


class HostCopy:
    """A copy of a tensor in the CPU's memory, begun at once, so that its reader does not wait for later steps."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)
        self._done = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._done:
            self._done.record()

    def numpy(self) -> NDArray[np.float64]:
        """Waits for the copy and returns it."""
        if self._done:
            self._done.synchronize()
        return self._copy.numpy()


class StepResult(NamedTuple):
    """The outcome of a step for one process's images; empty if the step was skipped."""

    rows: RowNumbers
    outcomes: Tensor  # float32[2, n] on the device: loss per image; 1 for a correct prediction and 0 for a wrong one
    weight: float  # summed class weights of these images


def train_epoch(setup: Setup, state: State, epoch: int, checkpoints: Checkpoints) -> dict[str, float]:
    """Trains for the rest of an epoch.

    Args:
        setup: what stays the same in this process.
        state: the state, which is updated; its `step` is the number of steps of the epoch that are already done.
        epoch: counted from 0.
        checkpoints: the checkpoints, called after each step.

    Returns:
        `loss` and `accuracy` over the epoch's images, each at its own step; nan if all steps were skipped. A mixed
        image counts for its labels by their shares.

    Raises:
        InputError: a loss or a gradient is not finite, and the recipe or its budget does not allow to skip the step.
    """
    job, recipe = setup.job, setup.job.recipe
    set_train_mode(state.model, recipe, epoch)
    batches = epoch_batches(
        setup.loader.keys, setup.loader.strata, seed=recipe.seed, epoch=epoch, batch_size=recipe.batch_size
    )
    title = f"{job.name} fold {job.fold} epoch {epoch + 1}/{recipe.epochs}"
    disable = None if setup.group.rank == 0 else True
    with tqdm(total=len(batches), initial=state.step, desc=title, unit="step", leave=False, disable=disable) as bar:
        results = _one_behind(_counted(_steps(setup, state, epoch, batches), state, checkpoints))
        minutes = MinuteLines(f"fold {job.fold}  {job.name}  epoch {epoch + 1}/{recipe.epochs}", len(batches))
        for step, (result, copy, counts) in enumerate(results, state.step + 1):
            table = copy.numpy()
            sums, (losses, correct) = table[:, 0], table[:, 1:]
            if not (np.isfinite(losses).all() and np.isfinite(correct).all()):
                where = f"epoch {epoch + 1}, step {step} of {len(batches)}"
                raise not_finite(job, _describe_fault(setup, state, where=where, rows=result.rows, losses=losses))
            if counts[1]:
                loss, accuracy = sums / counts
                bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.4f}", refresh=False)
                if bar.disable and setup.group.rank == 0:
                    minutes.after_step(step, loss, accuracy)
            bar.update()
    # The scaler halves its scale at every gradient that is not finite, without end.
    if state.scaler.is_enabled() and state.scaler.get_scale() < 1:
        scale = state.scaler.get_scale()
        raise not_finite(job, f"the gradient of step after step in epoch {epoch + 1} (fp16's scale fell to {scale:g})")
    average_batch_norm(state.model, setup.group)
    loss, correct, weight, images = setup.group.sum([*state.sums.tolist(), *state.counts])
    state.step, state.sums, state.counts = 0, torch.zeros_like(state.sums), np.zeros(2)
    return {"loss": loss / weight, "accuracy": correct / images} if images else {"loss": nan, "accuracy": nan}


def _counted(
    results: Iterator[StepResult], state: State, checkpoints: Checkpoints
) -> Iterator[tuple[StepResult, HostCopy, NDArray[np.float64]]]:
    """Yields each result, the epoch's sums after it and its outcomes (float64[2, 1 + n]), and the epoch's counts.

    It updates the state and the checkpoints.
    """
    for result in results:
        # New objects, not updates in place: the reader still uses those of the step before.
        outcomes = result.outcomes.double()
        state.sums = state.sums + outcomes.sum(1)
        state.counts = state.counts + np.array([result.weight, len(result.rows)])
        state.step += 1
        checkpoints.after_step(state)
        yield result, HostCopy(torch.cat([state.sums[:, None], outcomes], dim=1)), state.counts


def set_train_mode(model: Classifier, recipe: Recipe, epoch: int) -> None:
    """Sets the model to training mode for an epoch (from 0); a frozen backbone keeps its weights and statistics."""
    frozen = recipe.backbone_lr_scale == 0 or epoch < recipe.freeze_epochs
    model.train()
    model.backbone.requires_grad_(not frozen)
    if frozen:
        model.backbone.eval()  # in training mode its batch norm would update its running statistics


def _steps(setup: Setup, state: State, epoch: int, batches: list[Draws]) -> Iterator[StepResult]:
    """Carries out the remaining steps of an epoch and yields their results."""
    recipe = setup.job.recipe
    val_losses = [past.val["loss"] for past in state.history]
    start = state.step
    side = setup.sides[epoch]
    plans = [plan_step(setup, batch, side) for batch in batches[start:]]
    first, steps = epoch * len(batches), range(start, len(batches))
    rates = [scheduled_lr(recipe, first + step, len(batches), val_losses) for step in steps]
    # Dropout and other randomness in the model follows from the step's number, so that a resumed run repeats it.
    seeds = keys_of([f"{recipe.seed}/{epoch}/{step}/{setup.group.rank}" for step in steps]).tolist()
    computed = _gradients(setup, state, plans, rates, side)
    for step, plan, rate, seed in zip(steps, plans, rates, seeds, strict=True):
        seed_torch(seed, setup.group.device)
        set_lr(state.optimizer, rate)
        buffers = [buffer.clone() for buffer in state.model.buffers()] if recipe.nonfinite == "skip" else []
        outcomes = next(computed)
        if recipe.nonfinite == "skip" and not _all_finite(setup, state, outcomes):
            for buffer, value in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            where = f"epoch {epoch + 1}, step {step + 1} of {len(batches)}"
            _skip(setup, state, where=where, plan=plan, losses=outcomes[0])
            yield StepResult(plan.rows[:0], outcomes[:, :0], 0.0)
            continue
        if not (setup.graphs and setup.graphs.moves):
            optimizer_step(recipe, state)
        if state.average is not None and recipe.ema_decay:
            update_average(state.average, state.model.state_dict(), average_decay(recipe.ema_decay, first + step))
        yield StepResult(plan.rows, outcomes, plan.weight)


def _gradients(
    setup: Setup, state: State, plans: Sequence[StepPlan], rates: Sequence[float], side: int
) -> Iterator[Tensor]:
    """Computes the gradients of one step after the other; yields losses and correct predictions, as `backward` does.

    A step of CUDA graphs moves the parameters too, if it can (`GraphedSteps.moves`).
    """
    draws = [part for plan in plans for part in plan.micro_batches]
    if setup.graphs is None:
        loaded = setup.loader.load(draws, side)
        # Wrapped again in each epoch, because other parameters may be frozen now.
        wrapped = setup.group.wrap(state.model)
        for plan in plans:
            parts = itertools.islice(loaded, len(plan.micro_batches))
            yield backward(setup, state, model=wrapped, plan=plan, batches=parts)
        return
    setup.graphs.start_epoch(side)
    altered = alters_in_graph(setup)
    read, loaded = setup.loader.read(draws, side), setup.loader.load(draws, side)
    for plan, numbers in zip(plans, numbers_of_steps(setup, state, plans, rates), strict=True):
        count = len(plan.micro_batches)
        inputs = itertools.islice(read, count) if altered else mixed_batches(plan, itertools.islice(loaded, count))
        yield setup.graphs([numbers, *itertools.chain.from_iterable(inputs)])


def _all_finite(setup: Setup, state: State, outcomes: Tensor) -> bool:
    """Returns whether a step's losses are finite in all processes, and so are the gradients, which they share.

    Under fp16 only the losses are checked: the scaler checks the gradients itself and skips steps whose scale was too
    large. The optimizer's step has to wait for the answer, so a CUDA device idles for a moment at every step.
    """
    finite = outcomes.isfinite().all()
    if not state.scaler.is_enabled():
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        finite &= torch.nn.utils.get_total_norm(gradients).isfinite()
    return setup.group.sum([float(not finite)])[0] == 0


def _skip(setup: Setup, state: State, *, where: str, plan: StepPlan, losses: Tensor) -> None:
    """Counts a skipped step and prints a line on it; raises InputError if the budget is exceeded."""
    job, budget = setup.job, setup.job.recipe.nonfinite_budget
    state.skipped += 1
    all_losses = setup.group.gather(losses.double().cpu().numpy(), len(plan.batch))
    fault = ""
    if setup.group.rank == 0:
        fault = _describe_fault(setup, state, where=where, rows=plan.batch, losses=all_losses)
    fault = setup.group.broadcast(fault)
    if state.skipped > budget:
        raise not_finite(job, f"after {budget} skipped steps (nonfinite_budget) {fault}")
    if setup.group.rank == 0:
        tqdm.write(
            f"fold {job.fold}  {job.name}  {fault} is not finite: skipped, {state.skipped} of nonfinite_budget {budget}"
        )


def _describe_fault(setup: Setup, state: State, *, where: str, rows: RowNumbers, losses: NDArray[np.float64]) -> str:
    """Names the step, up to three images whose loss is not finite (if none: the gradient is not), and fp16's scale."""
    wrong = rows[~np.isfinite(losses)]
    ids = setup.job.rows["id"].to_numpy()
    scale = f", fp16's scale {state.scaler.get_scale():g}" if state.scaler.is_enabled() else ""
    if not len(wrong):
        return f"the gradient of {where} (images {', '.join(ids[rows[:3]])} …{scale})"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"the loss of {where} ({len(wrong)} of {len(rows)} images: {', '.join(ids[wrong[:3]])}{more}{scale})"


def _one_behind(items: Iterator[T]) -> Iterator[T]:
    """Yields each item after the next one was requested, so that a reader never keeps the device waiting for work."""
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) > 1:
            yield pending.popleft()
    yield from pending


def not_finite(job: Job, subject: str) -> InputError:
    """Returns the error for a training that ends because `subject` is not finite."""
    recipe = job.recipe
    return InputError(
        f"model '{job.name}', fold {job.fold}: {subject} is not finite; "
        f"lower its lr ({recipe.lr}), lengthen warmup_epochs, or set its precision ({recipe.precision}) to off"
    )
