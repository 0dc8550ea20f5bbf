"""Tests an epoch's steps that are not finite, and the lines that an epoch prints."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime
from tumorboard.models.normalization import normalization
from tumorboard.training import journal, loop, steps
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.ema import average_decay
from tumorboard.training.job import Epoch, Job, Setup, State
from tumorboard.training.loop import train_model
from tumorboard.training.steps import set_train_mode

CPU = torch.device("cpu")
MakeJob = Callable[..., Job]


def _prepare(job: Job, rank: int = 0, size: int = 1) -> tuple[Setup, State]:
    setup, state = loop.set_up(Group(rank, size, CPU), job, normalization(job.recipe))
    set_train_mode(state.model, job.recipe, 0)
    return setup, state


def _train_epoch(setup: Setup, state: State, epoch: int) -> dict[str, float]:
    return steps.train_epoch(setup, state, epoch, Checkpoints(setup.group, None, "", 0.0))


def _with_nan_losses(setup: Setup, ids: set[str]) -> Setup:
    """The setup with a loss that is nan for some images."""
    wrong = torch.tensor([name in ids for name in setup.job.rows["id"]])
    load, seen = setup.loader.load, []

    def loads(batches: Any, side: int | None) -> Any:
        for draws, batch in zip(batches, load(batches, side), strict=True):
            seen.append(draws[:, 0])
            yield batch

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return setup.loss(logits, labels).masked_fill(wrong[seen[-1]], torch.nan)

    setup.loader.load = loads  # type: ignore[method-assign]
    return dataclasses.replace(setup, loss=loss)


def _everything(state: State) -> list[Tensor]:
    moments = [value for entry in state.optimizer.state.values() for value in entry.values() if value is not None]
    tensors = [*state.model.state_dict().values(), *moments, *(state.average or {}).values()]
    return [torch.as_tensor(value).clone() for value in tensors]


def test_a_skipped_step_is_named_and_training_goes_on(make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(48, epochs=2, nonfinite="skip", nonfinite_budget=1)
    setup, state = _prepare(job)
    before = _everything(state)
    outcome = _train_epoch(_with_nan_losses(setup, {"7.jpg"}), state, 0)
    assert state.skipped == 1
    assert outcome["loss"] < 10
    assert 0 < outcome["accuracy"] <= 1
    assert not all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))
    batches = steps.epoch_batches(setup.loader.keys, setup.loader.strata, seed=5, epoch=0, batch_size=16)
    step = next(number for number, batch in enumerate(batches) if 7 in batch[:, 0])
    printed = capsys.readouterr().out
    assert f"fold 0  m  the loss of epoch 1, step {step + 1} of 3 (1 of 16 images: 7.jpg) is not finite" in printed
    assert "skipped, 1 of nonfinite_budget 1" in printed
    message = r"after 1 skipped steps \(nonfinite_budget\) the loss of epoch 2, step \d of 3 \(1 of 16 images: 7"
    with pytest.raises(InputError, match=message):
        _train_epoch(_with_nan_losses(_prepare(job)[0], {"7.jpg"}), state, 1)


def test_the_average_follows_a_buffer_that_the_network_replaces(make_job: MakeJob) -> None:
    setup, state = _prepare(make_job(48, architecture="linear", ema_decay=0.9))
    head = state.model.head
    head.register_buffer("count", torch.zeros(1))
    assert state.average is not None
    state.average["head.count"] = torch.zeros(1)

    def count(*_: object) -> None:
        head.count = head.count + 1  # type: ignore[operator]

    head.register_forward_hook(count)
    _train_epoch(setup, state, 0)
    expected = 0.0
    for step in range(3):
        decay = average_decay(0.9, step)
        expected = decay * expected + (1 - decay) * (step + 1)
    assert state.average["head.count"].item() == pytest.approx(expected)


def test_a_skipped_step_leaves_no_trace(make_job: MakeJob) -> None:
    """In an epoch of one skipped step, weights, moments, running statistics and the average stay as they are."""
    changes = {"architecture": "cnn", "optimizer": "adam", "lr": 0.001, "nonfinite": "skip", "ema_decay": 0.9}
    job = make_job(16, epochs=2, nonfinite_budget=9, **changes)  # one step per epoch
    setup, state = _prepare(job)
    _train_epoch(setup, state, 0)
    before = _everything(state)
    outcome = _train_epoch(_with_nan_losses(setup, {"7.jpg"}), state, 1)
    assert np.isnan(outcome["loss"])
    assert all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))


def test_a_gradient_that_is_not_finite_is_skipped_too(make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    setup, state = _prepare(make_job(16, nonfinite="skip", nonfinite_budget=9))
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = _everything(state)
    _train_epoch(setup, state, 0)
    assert state.skipped == 1
    assert "the gradient of epoch 1, step 1 of 1 (images " in capsys.readouterr().out
    assert all(torch.equal(one, other) for one, other in zip(before, _everything(state), strict=True))


def test_nonfinite_skip_changes_no_finite_step(make_job: MakeJob) -> None:
    ends = []
    for policy in ("stop", "skip"):
        setup, state = _prepare(make_job(48, architecture="cnn", nonfinite=policy))
        _train_epoch(setup, state, 0)
        ends.append(_everything(state))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_nonfinite_stop_names_the_images(make_job: MakeJob) -> None:
    setup, state = _prepare(make_job(48))
    with pytest.raises(
        InputError, match=r"m', fold 0: the loss of epoch 1, step \d of 3 \(1 of 16 images: 7.jpg\) is not"
    ):
        _train_epoch(_with_nan_losses(setup, {"7.jpg"}), state, 0)


def test_a_scale_that_keeps_falling_ends_the_training(make_job: MakeJob) -> None:
    setup, state = _prepare(make_job(48))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        InputError, match=r"the gradient of step after step in epoch 1 \(fp16's scale fell to 0\.25\) is not finite"
    ):
        _train_epoch(setup, dataclasses.replace(state, scaler=scaler), 0)


@pytest.mark.usefixtures("warm_children")
def test_processes_skip_together(make_job: MakeJob, alone: Runtime) -> None:
    """At a learning rate that ruins the weights the second step is skipped, and the third ends both processes."""
    job = make_job(48, lr=1e30, nonfinite="skip", nonfinite_budget=1)
    epochs: list[Epoch] = []
    message = r"after 1 skipped steps \(nonfinite_budget\) the loss of epoch 1, step 3 of 3 \(16 of 16 images: \d+"
    with pytest.raises(InputError, match=message):
        train_model(job, alone.model_copy(update={"processes": 2}), epochs.append)


def test_without_a_terminal_an_epoch_prints_a_line_per_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    lines = journal.MinuteLines("fold 0  m  epoch 1/2", 9)
    for step in range(1, 10):
        now = 25.0 * step
        lines.after_step(step, 0.5, 0.75)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"fold 0  m  epoch 1/2  step {step}/9  train loss 0.5000 accuracy 0.7500" for step in (3, 6)]


def test_the_lines_within_an_epoch_have_its_steps(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "MINUTE", 0.0)
    _train_epoch(*_prepare(make_job(48)), 0)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[2:4] for line in printed] == [["epoch 1/1", "step 1/3"], ["epoch 1/1", "step 2/3"]]
