"""Compares single steps with plain torch for any number of processes."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorboard.augment.mixing import draw_mixture, mix_images
from tumorboard.models.normalization import normalization
from tumorboard.training import loop
from tumorboard.training.distributed import Group
from tumorboard.training.job import Job, Setup, State
from tumorboard.training.one_step import alters_in_graph, backward, numbers_of_steps, optimizer_step, plan_step
from tumorboard.training.steps import set_train_mode

CPU = torch.device("cpu")
MakeJob = Callable[..., Job]
MIXED = {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}
ROWS = np.random.default_rng(1).permutation(101)[:15]
BATCH = np.stack([ROWS, np.full(15, 3)], axis=1)  # each row is drawn for the fourth time


class Unaveraged(nn.Module):
    """Stands in for DistributedDataParallel; the test itself averages the gradients of the processes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def no_sync(self) -> nullcontext[None]:
        return nullcontext()


def _prepare(job: Job, rank: int = 0, size: int = 1) -> tuple[Setup, State]:
    setup, state = loop.set_up(Group(rank, size, CPU), job, normalization(job.recipe))
    set_train_mode(state.model, job.recipe, 0)
    return setup, state


def _gradients(job: Job, rank: int, size: int) -> dict[str, Tensor]:
    setup, state = _prepare(job, rank, size)
    plan = plan_step(setup, BATCH)
    model, batches = Unaveraged(state.model), setup.loader.load(plan.micro_batches)
    backward(setup, state, model=model, plan=plan, batches=batches)
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


def _expected(job: Job) -> dict[str, Tensor]:
    """The gradients of torch's cross-entropy with soft labels over the whole batch."""
    setup, state = _prepare(job)
    labels = setup.loader._labels[ROWS]
    weights = torch.tensor(101 / (2 * np.bincount(setup.loader._labels)), dtype=torch.float32)
    images = torch.from_numpy(job.store[job.rows["id"].iloc[ROWS].tolist()]).permute(0, 3, 1, 2).float()
    target = F.one_hot(labels, 2).float()
    if job.recipe.mixup:
        mixture = draw_mixture(job.recipe, setup.loader.keys[ROWS], BATCH[:, 1], 32)
        images = mix_images(images, images.roll(1, 0), mixture)
        lam = torch.from_numpy(mixture.lam).float()[:, None]
        target = lam * target + (1 - lam) * target.roll(1, 0)
    loss = F.cross_entropy(
        state.model(images), target, weights, label_smoothing=job.recipe.label_smoothing, reduction="sum"
    )
    (loss / (target * weights).sum()).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mixing", [{}, MIXED])
@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 3), (4, 1)])
def test_gradients_are_those_of_the_whole_batch(
    make_job: MakeJob, size: int, accumulate: int, mixing: dict[str, float]
) -> None:
    """15 images over 4 processes or 4 micro-batches: parts of unequal size and unequal class weights."""
    job = make_job(101, class_weights="balanced", label_smoothing=0.1, accumulate=accumulate, **mixing)
    expected = _expected(job)
    parts = [_gradients(job, rank, size) for rank in range(size)]
    for name, gradient in expected.items():
        mean = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_mixed_image_counts_for_both_labels_by_lambda(make_job: MakeJob, loss: str) -> None:
    job = make_job(101, loss=loss, **MIXED)
    setup, state = _prepare(job)
    mixture = draw_mixture(job.recipe, setup.loader.keys[ROWS], BATCH[:, 1], 32)
    lam = torch.from_numpy(mixture.lam).float()
    plan = plan_step(setup, BATCH)
    images = torch.from_numpy(job.store[job.rows["id"].iloc[ROWS].tolist()]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = state.model(mix_images(images, images.roll(1, 0), mixture))
    labels = setup.loader._labels[ROWS]
    batches = setup.loader.load(plan.micro_batches)
    losses, correct = backward(setup, state, model=state.model, plan=plan, batches=batches)
    one, other = setup.loss(logits, labels), setup.loss(logits, labels.roll(1))
    torch.testing.assert_close(losses, lam * one + (1 - lam) * other)
    predicted = logits.argmax(1)
    torch.testing.assert_close(correct, lam * (predicted == labels) + (1 - lam) * (predicted == labels.roll(1)))


def test_a_long_gradient_is_clipped_and_a_short_one_is_not(make_job: MakeJob) -> None:
    """SGD with learning rate 1 and no momentum moves the weights by the gradient itself."""
    lengths = {}
    for clip_norm in (0.0, 1e-3, 1e3):
        job = make_job(101, clip_norm=clip_norm, momentum=0.0, weight_decay=0.0, lr=1.0)
        setup, state = _prepare(job)
        before = torch.cat([p.detach().flatten().clone() for p in state.model.parameters()])
        plan = plan_step(setup, BATCH)
        backward(setup, state, model=state.model, plan=plan, batches=setup.loader.load(plan.micro_batches))
        optimizer_step(job.recipe, state)
        after = torch.cat([p.detach().flatten() for p in state.model.parameters()])
        lengths[clip_norm] = float((after - before).norm())
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[1e3] == pytest.approx(lengths[0.0]) != pytest.approx(1e-3)


@pytest.mark.parametrize(("changes", "inside"), [({}, True), ({"mixup": 0.4}, False), ({"cutmix": 1.0}, False)])
def test_images_whose_numbers_suffice_are_altered_in_the_graph(
    make_job: MakeJob, changes: dict[str, float], inside: bool
) -> None:
    job = make_job(101, **changes)
    assert alters_in_graph(_prepare(job)[0]) == inside
    noisy = job.recipe.model_copy(update={"augment": job.recipe.augment.model_copy(update={"noise": 1.0})})
    assert not alters_in_graph(_prepare(dataclasses.replace(job, recipe=noisy))[0])


def test_the_numbers_of_a_step_are_its_scale_and_the_rate_of_each_group(make_job: MakeJob) -> None:
    """Without class weights the summed loss is divided by the number of images: 15."""
    setup, state = _prepare(make_job(101, backbone_lr_scale=0.5, layer_decay=1.0))
    numbers = numbers_of_steps(setup, state, [plan_step(setup, BATCH)] * 2, [0.5, 0.25])
    scales = [group["lr_scale"] for group in state.optimizer.param_groups]
    assert set(scales) == {0.5, 1.0}
    expected = [[1 / 15, *(rate * scale for scale in scales)] for rate in (0.5, 0.25)]
    torch.testing.assert_close(numbers, torch.tensor(expected))
