"""Carries out one step of a training: its plan, its gradients and the optimizer's move, as a CUDA graph where asked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from tumorboard.augment.mixing import Mixture, draw_mixture, mix_batch, needed_positions, select_images
from tumorboard.base.params import Recipe
from tumorboard.models.device import autocast
from tumorboard.training.convolutions import faster_convolutions
from tumorboard.training.graphs import GraphedSteps, moves_on_device, takes_graphs
from tumorboard.training.job import Setup, State
from tumorboard.training.loader import Draws, RowNumbers, micro_batches


class StepPlan(NamedTuple):
    """One process's part of a step."""

    batch: RowNumbers  # rows of the whole batch, over all processes
    rows: RowNumbers  # rows of this process's share
    micro_batches: list[Draws]  # draws of this process; where images are mixed, the partners follow the images
    mixtures: list[Mixture]  # how each micro-batch is mixed; empty without mixup and cutmix
    weight: float  # summed class weights of this process's images
    total: float  # summed class weights of the whole batch


def plan_step(setup: Setup, batch: Draws, side: int | None = None) -> StepPlan:
    """Returns this process's part of a batch; which images are mixed depends on the whole batch alone.

    Args:
        setup: what stays the same in this process.
        batch: draws of the whole batch, over all processes.
        side: side of the images in pixels; None: the full side.
    """
    recipe, rows = setup.job.recipe, batch[:, 0]
    shares = micro_batches(np.arange(len(batch)), setup.group.rank, setup.group.size, recipe.accumulate)
    own, parts, mixtures = np.concatenate(shares), [batch[share] for share in shares], []
    weight = setup.weight_of_row[rows]
    if recipe.mixup or recipe.cutmix:
        mixture = draw_mixture(recipe, setup.loader.keys[rows], batch[:, 1], side or setup.job.store.size)
        weight = mixture.lam * weight + (1 - mixture.lam) * weight[mixture.partners]
        mixtures = [select_images(mixture, share) for share in shares]
        parts = [batch[needed_positions(part)] for part in mixtures]
    return StepPlan(rows, rows[own], parts, mixtures, float(weight[own].sum()), float(weight.sum()))


def backward(
    setup: Setup, state: State, *, model: Module, plan: StepPlan, batches: Iterator[tuple[Tensor, Tensor]]
) -> Tensor:
    """Computes the gradients of a step: those of the weighted mean loss over the whole batch.

    Under fp16 the gradients are multiplied by the scaler's scale.

    Args:
        setup: what stays the same in this process.
        state: its optimizer's gradients are replaced.
        model: `state.model`, as wrapped by the group (`Group.wrap`).
        plan: this process's part of the step.
        batches: images and labels of each of the plan's micro-batches, from the loader.

    Returns:
        float32[2, n]: losses and correct predictions of this process's images.
    """
    mixed, scale = mixed_batches(plan, batches), setup.group.size / plan.total
    return _backward(setup, state, model, scale, mixed, len(plan.micro_batches))


def mixed_batches(plan: StepPlan, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, ...]]:
    """Yields images and labels of each micro-batch; where images are mixed, also their partners' labels and lam."""
    for number, (images, labels) in enumerate(batches):
        yield mix_batch(images, labels, plan.mixtures[number]) if plan.mixtures else (images, labels)


def _backward(
    setup: Setup,
    state: State,
    model: Module,
    scale: float | Tensor,
    batches: Iterable[Sequence[Tensor]],
    count: int,
) -> Tensor:
    """Computes gradients like `backward`.

    Args:
        setup: what stays the same in this process.
        state: its optimizer's gradients are replaced.
        model: as in `backward`.
        scale: factor of the summed losses. The group averages gradients over its processes: each one's sum times
            their number, divided by the batch's summed class weights, gives the mean over the whole batch.
        batches: micro-batches, as from `mixed_batches`.
        count: their number.
    """
    recipe, group = setup.job.recipe, setup.group
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    state.optimizer.zero_grad()
    parts = []
    for number, (images, labels, *mixture) in enumerate(batches):
        with group.gradient_averaging(model, number == count - 1):
            with autocast(recipe.precision, group.device), faster_convolutions(group.device):
                logits = model(images.to(memory_format=layout))
            losses, correct = setup.loss(logits.float(), labels), (logits.argmax(1) == labels).float()
            if mixture:
                partner_labels, lam = mixture
                losses = lam * losses + (1 - lam) * setup.loss(logits.float(), partner_labels)
                correct = lam * correct + (1 - lam) * (logits.argmax(1) == partner_labels)
            state.scaler.scale(losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        parts.append(torch.stack([losses.detach(), correct]))
    return torch.cat(parts, dim=1)


def graphed_steps(setup: Setup, state: State, say: Callable[[str], None]) -> GraphedSteps | None:
    """Returns what captures the steps of a training as CUDA graphs; None where it cannot (`takes_graphs`).

    Args:
        setup: what stays the same in this process.
        state: what the steps change.
        say: prints a line.
    """
    recipe, loader = setup.job.recipe, setup.loader
    if not takes_graphs(setup.group, say):
        return None
    altered, moves = alters_in_graph(setup), moves_on_device(recipe)
    width = 3 if altered else 4 if recipe.mixup or recipe.cutmix else 2  # number of tensors per micro-batch

    def compute(inputs: Sequence[Tensor], side: int) -> Tensor:
        numbers, *flat = inputs
        batches: Iterable[Sequence[Tensor]] = [flat[place : place + width] for place in range(0, len(flat), width)]
        if altered:
            batches = ((loader.alter(images, own, side), labels) for images, labels, own in batches)
        outcomes = _backward(setup, state, state.model, numbers[0], batches, len(flat) // width)
        if moves:
            optimizer_step(recipe, state)
        return outcomes

    def start_anew() -> None:
        """Forgets a scaler that stopped in the middle of a step."""
        scaler = torch.amp.GradScaler(setup.group.device.type, enabled=state.scaler.is_enabled())
        scaler.load_state_dict(state.scaler.state_dict())
        state.scaler = scaler

    return GraphedSteps(state.model, state.optimizer, compute, moves=moves, say=say, on_failure=start_anew)


def alters_in_graph(setup: Setup) -> bool:
    """Returns whether a graph can alter the images, since neither their noise nor their mixture needs the CPU."""
    recipe = setup.job.recipe
    return not (setup.loader.needs_keys or recipe.mixup or recipe.cutmix)


def numbers_of_steps(setup: Setup, state: State, plans: Sequence[StepPlan], rates: Sequence[float]) -> Tensor:
    """Returns float32[steps, 1 + G] on the device: the scale of each step's loss, and the rate of each of G groups."""
    scales = [group["lr_scale"] for group in state.optimizer.param_groups]
    rows = [
        [setup.group.size / plan.total, *(rate * scale for scale in scales)]
        for plan, rate in zip(plans, rates, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32).to(setup.group.device)


def optimizer_step(recipe: Recipe, state: State) -> None:
    """Moves the parameters along their gradients, clipped to the total norm `clip_norm` (Pascanu et al. 2013)."""
    if recipe.clip_norm:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
