"""Single steps: gradients against plain torch on any number of processes, and what is done when one is not finite."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorboard.errors import InputError
from tumorboard.models.pretrained import normalization
from tumorboard.params import Runtime
from tumorboard.training import loop, steps
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.loop import train_model
from tumorboard.training.mixing import draw_mixture, mix_images
from tumorboard.training.state import Epoch, Job, Run, State
from tumorboard.training.steps import backward, plan_step, set_modes, update

CPU = torch.device("cpu")
MakeJob = Callable[..., Job]
MIXED = {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}
ROWS = np.random.default_rng(1).permutation(101)[:15]
BATCH = np.stack([ROWS, np.full(15, 3)], axis=1)  # each drawn for the fourth time


class Alone(nn.Module):
    """Stands for a DistributedDataParallel whose processes are asked one after another."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def no_sync(self) -> nullcontext[None]:
        return nullcontext()


def _prepare(job: Job, rank: int = 0, size: int = 1) -> tuple[Run, State]:
    run, state = loop.prepare(Group(rank, size, CPU), job, normalization(job.recipe))
    set_modes(state.model, job.recipe, 0)
    return run, state


def _train_epoch(run: Run, state: State, epoch: int) -> dict[str, float]:
    return steps.train_epoch(run, state, epoch, Checkpoints(run.group, None, "", 0.0))


def _gradients(job: Job, rank: int, size: int) -> tuple[dict[str, Tensor], Tensor]:
    run, state = _prepare(job, rank, size)
    plan = plan_step(run, BATCH)
    found = backward(run, state, Alone(state.model), plan, run.loader.load(plan.loaded))
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}, found


def _expected(job: Job) -> dict[str, Tensor]:
    """Gradients of torch's cross-entropy for soft labels over the whole batch."""
    run, state = _prepare(job)
    labels = run.loader._labels[ROWS]
    weights = torch.tensor(101 / (2 * np.bincount(run.loader._labels)), dtype=torch.float32)
    images = torch.from_numpy(job.store[job.rows["id"].iloc[ROWS].tolist()]).permute(0, 3, 1, 2).float()
    target = F.one_hot(labels, 2).float()
    if job.recipe.mixup:
        mixture = draw_mixture(job.recipe, run.loader.keys[ROWS], BATCH[:, 1], 32)
        images = mix_images(images, images.roll(1, 0), mixture)
        share = torch.from_numpy(mixture.share).float()[:, None]
        target = share * target + (1 - share) * target.roll(1, 0)
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
    """15 images over 4 processes or 4 micro-batches: unequal parts, unequal class weights in each."""
    job = make_job(101, class_weights="balanced", label_smoothing=0.1, accumulate=accumulate, **mixing)
    expected = _expected(job)
    parts = [_gradients(job, rank, size)[0] for rank in range(size)]
    for name, gradient in expected.items():
        mean = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_mixed_images_loss_and_answer_count_by_share(make_job: MakeJob, loss: str) -> None:
    job = make_job(101, loss=loss, **MIXED)
    run, state = _prepare(job)
    mixture = draw_mixture(job.recipe, run.loader.keys[ROWS], BATCH[:, 1], 32)
    share = torch.from_numpy(mixture.share).float()
    plan = plan_step(run, BATCH)
    images = torch.from_numpy(job.store[job.rows["id"].iloc[ROWS].tolist()]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = state.model(mix_images(images, images.roll(1, 0), mixture))
    labels = run.loader._labels[ROWS]
    found = backward(run, state, state.model, plan, run.loader.load(plan.loaded))
    one, other = run.loss(logits, labels), run.loss(logits, labels.roll(1))
    torch.testing.assert_close(found[0], share * one + (1 - share) * other)
    answers = logits.argmax(1)
    torch.testing.assert_close(found[1], share * (answers == labels) + (1 - share) * (answers == labels.roll(1)))


def test_a_long_gradient_is_shortened_and_a_short_one_left(make_job: MakeJob) -> None:
    """SGD at rate 1 without momentum moves the weights by the gradient itself."""
    lengths = {}
    for clip_norm in (0.0, 1e-3, 1e3):
        job = make_job(101, clip_norm=clip_norm, momentum=0.0, weight_decay=0.0, lr=1.0)
        run, state = _prepare(job)
        before = torch.cat([p.detach().flatten().clone() for p in state.model.parameters()])
        plan = plan_step(run, BATCH)
        backward(run, state, state.model, plan, run.loader.load(plan.loaded))
        update(job.recipe, state)
        after = torch.cat([p.detach().flatten() for p in state.model.parameters()])
        lengths[clip_norm] = float((after - before).norm())
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[1e3] == pytest.approx(lengths[0.0]) != pytest.approx(1e-3)


def _poisoned(run: Run, ids: set[str]) -> Run:
    """A run in which the loss of some images is not a number, wherever they are met."""
    wrong = torch.tensor([name in ids for name in run.job.rows["id"]])
    load, seen = run.loader.load, []

    def loads(batches: Any) -> Any:
        for draws, batch in zip(batches, load(batches), strict=True):
            seen.append(draws[:, 0])
            yield batch

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return run.loss(logits, labels).masked_fill(wrong[seen[-1]], torch.nan)

    run.loader.load = loads  # type: ignore[method-assign]
    return dataclasses.replace(run, loss=loss)


def _everything(state: State) -> list[Tensor]:
    moments = [value for entry in state.optimizer.state.values() for value in entry.values() if value is not None]
    tensors = [*state.model.state_dict().values(), *moments, *(state.average or {}).values()]
    return [torch.as_tensor(value).clone() for value in tensors]


def test_a_skipped_step_is_named_and_the_others_go_on(make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(48, nonfinite="skip", nonfinite_budget=1)
    run, state = _prepare(job)
    before = _everything(state)
    found = _train_epoch(_poisoned(run, {"7.jpg"}), state, 0)
    assert state.skipped == 1
    assert found["loss"] < 10
    assert 0 < found["accuracy"] <= 1
    assert not all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))
    batches = steps.epoch_batches(run.loader.keys, run.loader.strata, 5, 0, 16)
    step = next(number for number, batch in enumerate(batches) if 7 in batch[:, 0])
    printed = capsys.readouterr().out
    assert f"fold 0  m  the loss of epoch 1, step {step + 1} of 3 (1 of 16 images: 7.jpg) is not finite" in printed
    assert "skipped, 1 of nonfinite_budget 1" in printed
    message = r"after 1 skipped steps \(nonfinite_budget\) the loss of epoch 2, step \d of 3 \(1 of 16 images: 7"
    with pytest.raises(InputError, match=message):
        _train_epoch(_poisoned(_prepare(job)[0], {"7.jpg"}), state, 1)


def test_a_skipped_step_leaves_no_trace(make_job: MakeJob) -> None:
    """Neither weights nor moments, statistics nor the average move in an epoch of one skipped step."""
    own = {"architecture": "cnn", "optimizer": "adam", "lr": 0.001, "nonfinite": "skip", "ema_decay": 0.9}
    job = make_job(16, nonfinite_budget=9, **own)  # one step an epoch
    run, state = _prepare(job)
    _train_epoch(run, state, 0)
    before = _everything(state)
    found = _train_epoch(_poisoned(run, {"7.jpg"}), state, 1)
    assert np.isnan(found["loss"])
    assert all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))


def test_a_gradient_that_is_not_finite_is_skipped_too(make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    run, state = _prepare(make_job(16, nonfinite="skip", nonfinite_budget=9))
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = _everything(state)
    _train_epoch(run, state, 0)
    assert state.skipped == 1
    assert "the gradient of epoch 1, step 1 of 1 (images " in capsys.readouterr().out
    assert all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))


def test_the_policy_skip_changes_no_step_that_is_finite(make_job: MakeJob) -> None:
    ends = []
    for policy in ("stop", "skip"):
        run, state = _prepare(make_job(48, architecture="cnn", nonfinite=policy))
        _train_epoch(run, state, 0)
        ends.append(_everything(state))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_stop_names_the_images(make_job: MakeJob) -> None:
    run, state = _prepare(make_job(48))
    with pytest.raises(
        InputError, match=r"m', fold 0: the loss of epoch 1, step \d of 3 \(1 of 16 images: 7.jpg\) is not"
    ):
        _train_epoch(_poisoned(run, {"7.jpg"}), state, 0)


def test_a_scale_that_falls_for_ever_ends_the_training(make_job: MakeJob) -> None:
    run, state = _prepare(make_job(48))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        InputError, match=r"the gradient of step after step in epoch 1 \(fp16's scale fell to 0\.25\) is not finite"
    ):
        _train_epoch(run, dataclasses.replace(state, scaler=scaler), 0)


def test_processes_skip_together(make_job: MakeJob, alone: Runtime) -> None:
    """Two processes at a rate that ruins the weights: the second step is skipped, the third ends both."""
    job = make_job(48, lr=1e30, nonfinite="skip", nonfinite_budget=1)
    epochs: list[Epoch] = []
    message = r"after 1 skipped steps \(nonfinite_budget\) the loss of epoch 1, step 3 of 3 \(16 of 16 images: \d+"
    with pytest.raises(InputError, match=message):
        train_model(job, alone.model_copy(update={"processes": 2}), epochs.append)
