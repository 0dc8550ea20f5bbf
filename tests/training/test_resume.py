"""Tests that a killed training resumes and ends with the result it would have had."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.trainings import CPU, MakeJob, output_files, train, train_in_plain_torch
from tests.warm_python import spawn_warm_children
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Runtime
from tumorboard.models.model_file import load_model
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.job import Epoch, State
from tumorboard.training.loop import train_model


class KilledError(Exception):
    pass


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """kill(n) ends the training after its n-th step from now, when its checkpoint is written; kill(0) ends none."""
    after_step, left = Checkpoints.after_step, [0]

    def killing(checkpoints: Checkpoints, state: State) -> None:
        after_step(checkpoints, state)
        if checkpoints._writing is not None:
            checkpoints._writing.result()
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    monkeypatch.setattr(Checkpoints, "after_step", killing)
    return lambda steps: left.__setitem__(0, steps)


@pytest.mark.parametrize(
    "tricks",
    [
        {},
        {"ema_decay": 0.9, "mixup": 0.4, "cutmix": 1.0, "nonfinite": "skip", "clip_norm": 1.0},
        {"progressive": 0.5, "average_last": 2, "cutmix": 1.0, "tta": ("vflip",)},
    ],
)
def test_a_training_killed_after_every_step_ends_with_the_result_of_one_that_was_not(
    tricks: dict[str, Any],
    make_job: MakeJob,
    alone: Runtime,
    params: Params,
    tmp_path: Path,
    kill: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three epochs of three steps, the backbone frozen in the first; the best epoch is not the last."""
    changes = {"architecture": "cnn", "head": "mlp", "precision": "bf16", "augment": params.train.augment}
    changes |= {
        "epochs": 3,
        "accumulate": 2,
        "optimizer": "adam",
        "lr": 0.02,
        "schedule": "plateau",
        "freeze_epochs": 1,
    }
    changes |= {"plateau_patience": 0, "step_factor": 0.5, "select": "auc", "class_weights": "balanced"}
    changes |= tricks
    job = make_job(out="uninterrupted", **changes)
    _, expected = train(job, alone)
    assert tricks or [epoch.best for epoch in expected][-1] is False
    assert capsys.readouterr().err == ""

    killed, folder = make_job(out="killed", **changes), tmp_path / "checkpoints"
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    for _ in range(9):
        kill(1)
        with pytest.raises(KilledError):
            train_model(killed, each_step, lambda _: None, folder)
    epochs: list[Epoch] = []
    kill(0)
    train_model(killed, each_step, epochs.append, folder)
    resumed = [line.split("resumed from ")[1] for line in capsys.readouterr().out.splitlines() if "resumed" in line]
    assert resumed == [f"epoch {epoch} step {step}" for epoch in (1, 2, 3) for step in (1, 2, 3)]
    assert output_files(killed) == output_files(job)
    assert caplog.messages == []
    for resumed_epoch, epoch in zip(epochs, expected, strict=True):
        untimed = {"seconds": 0.0, "images_per_second": 0.0}
        # Compared as text, because an undefined score is nan, which does not equal itself.
        assert str(dataclasses.replace(resumed_epoch, **untimed)) == str(dataclasses.replace(epoch, **untimed))
    assert list(folder.iterdir()) == []


def test_checkpoints_change_no_result_and_a_changed_job_does_not_resume(
    make_job: MakeJob,
    alone: Runtime,
    tmp_path: Path,
    kill: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    kill(4)
    with pytest.raises(KilledError):
        train_model(make_job(epochs=2), each_step, lambda _: None, tmp_path / "checkpoints")
    plain, other = make_job(epochs=2, lr=0.021, out="plain"), make_job(epochs=2, lr=0.021, out="other")
    train(plain, alone)
    train_model(other, each_step, lambda _: None, tmp_path / "checkpoints")
    assert "resumed" not in capsys.readouterr().out
    assert output_files(plain) == output_files(other)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1  # the first job's, which may resume later


def test_one_or_four_processes_resume_what_two_began(
    make_job: MakeJob,
    alone: Runtime,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two are killed in the second epoch; batches have 14 or 15 images, which four cannot share evenly."""
    folder, copy = tmp_path / "checkpoints", tmp_path / "copy"
    # By seed 5 a pooling of two nearly equal values chooses the other one in two processes: a jump of 3e-4.
    job = make_job(101, 31, epochs=2, weight_decay=0.0, class_weights="balanced", seed=1)
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})

    def end(_: Epoch) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train_model(job, each_step.model_copy(update={"processes": 2}), end, folder)
    shutil.copytree(folder, copy)
    spawn_warm_children(monkeypatch)
    expected, loss = train_in_plain_torch(job)
    for processes in (1, 4):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        capsys.readouterr()
        epochs: list[Epoch] = []
        train_model(job, each_step.model_copy(update={"processes": processes}), epochs.append, folder)
        if processes == 1:  # four processes print to another standard output
            assert "resumed from epoch " in capsys.readouterr().out
        trained = load_model(job.weights, CPU)[0].state_dict()
        torch.testing.assert_close(trained, expected, atol=2e-6, rtol=1e-4)
        assert epochs[-1].train["loss"] == pytest.approx(loss, abs=1e-5)


def test_a_state_that_ended_a_training_is_not_resumed(make_job: MakeJob, alone: Runtime, tmp_path: Path) -> None:
    """The second step ruins the weights, which is detected a step later; after the first they are only large."""
    often = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    for _ in range(2):
        with pytest.raises(InputError, match=r"the loss of epoch 1, step 2 of 3 \(.*\) is not finite"):
            train_model(make_job(lr=1e30, epochs=3), often, lambda _: None, tmp_path / "checkpoints")
    assert [path.name for path in (tmp_path / "checkpoints").rglob("*.ckpt*")] == ["000001-000000001.ckpt"]
