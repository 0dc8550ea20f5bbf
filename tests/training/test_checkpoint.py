"""Tests that a job resumes from its own whole checkpoints only, and that no fault with them ends a training."""

import fcntl
import os
import resource
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.warm_python import executable
from tumorboard.base.params import Params, Runtime
from tumorboard.evaluation.held_out import HeldOut
from tumorboard.models.registry import Classifier
from tumorboard.training import checkpoint
from tumorboard.training.checkpoint import Checkpoints, open_checkpoints
from tumorboard.training.checkpoint_file import write_checkpoint
from tumorboard.training.distributed import Group
from tumorboard.training.job import Epoch, State

ALONE = Group(0, 1, torch.device("cpu"))
ROOT = Path(__file__).resolve().parents[2]
DAY = 24 * 3600  # seconds


@pytest.fixture
def runtime(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"checkpoint_seconds": 1e-9})


@pytest.fixture
def state() -> State:
    """A state in its second epoch, after a step of Adam."""
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 50)), nn.Linear(50, 2), (0.5,) * 3, (0.25,) * 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 3, 2, 2)).sum().backward()
    optimizer.step()
    past = Epoch(1, 0.1, {"loss": np.float64(0.5)}, {"auc": float("nan")}, True, 2.0, 30.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    sums = torch.tensor([1.5, 2.0], dtype=torch.float64)
    state = State(model, optimizer, scaler, sums, np.array([3.0, 4.0]), 7, time.perf_counter() - 100, [past], best)
    state.held_out = HeldOut(
        parts=np.array([0, 1, 1]),
        logits=np.random.default_rng(0).normal(size=(3, 3, 2)).astype(np.float32),
        epochs=np.array([1, 0, 1]),
        scores=np.array([0.5, np.nan, 0.25]),
    )
    return state


def _write_after_step(checkpoints: Checkpoints, state: State) -> None:
    """Counts a step after which a checkpoint is due, and waits until it is written."""
    checkpoints.after_step(state)
    assert checkpoints._writing is not None
    checkpoints._writing.result()


def test_a_resumed_state_equals_the_saved_one(state: State, tmp_path: Path, runtime: Runtime) -> None:
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        checkpoints.after_step(state)
        with torch.no_grad():
            state.model.head.weight += 1  # a later step must not change the copy
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(12, 50)), nn.Linear(50, 2)
    model = Classifier(*fresh, (0.5,) * 3, (0.25,) * 3)
    adam = torch.optim.Adam(model.parameters(), lr=9.0)
    resumed = State(model, adam, state.scaler, torch.zeros(2, dtype=torch.float64))
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        assert checkpoints.resume(resumed)
    with torch.no_grad():
        state.model.head.weight -= 1
    torch.testing.assert_close(model.state_dict(), state.model.state_dict(), rtol=0, atol=1e-7)
    assert torch.equal(model.backbone[1].weight, state.model.backbone[1].weight)
    torch.testing.assert_close(adam.state_dict(), state.optimizer.state_dict(), rtol=0, atol=0)
    assert resumed.best_weights is not None
    assert state.best_weights is not None
    torch.testing.assert_close(resumed.best_weights, state.best_weights, rtol=0, atol=0)
    assert (resumed.sums.tolist(), resumed.counts.tolist(), resumed.step) == ([1.5, 2.0], [3.0, 4.0], 7)
    assert state.held_out is not None
    assert resumed.held_out is not None
    for name, value in vars(state.held_out).items():
        restored = getattr(resumed.held_out, name)
        assert (restored.dtype, restored.tobytes()) == (value.dtype, value.tobytes()), name
    assert time.perf_counter() - resumed.began == pytest.approx(100, abs=50)
    (past,) = resumed.history
    assert (past.number, past.lr, past.train, past.best, past.seconds) == (1, 0.1, {"loss": 0.5}, True, 2.0)
    assert np.isnan(past.val["auc"])


def test_a_state_of_the_first_epoch_has_no_outputs_yet(state: State, tmp_path: Path, runtime: Runtime) -> None:
    held_out, state.held_out = state.held_out, None
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        _write_after_step(checkpoints, state)
        state.held_out = held_out  # chosen after the checkpoint
        assert checkpoints.resume(state)
    assert state.held_out is None


def test_the_newest_whole_checkpoint_of_the_job_is_used(
    state: State, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three, the oldest is deleted and the newest is cut short; a still newer file belongs to another job."""
    mine = tmp_path / "key"
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        for state.step in (8, 9, 10):
            _write_after_step(checkpoints, state)
    assert sorted(path.name for path in mine.glob("*.ckpt")) == ["000002-000000009.ckpt", "000002-000000010.ckpt"]
    whole = (mine / "000002-000000009.ckpt").read_bytes()
    (mine / "000002-000000010.ckpt").write_bytes(whole[:-100])
    write_checkpoint(mine / "000002-000000011.ckpt", "other", {})
    (mine / ".000002-000000012.ckpt.123.tmp").write_bytes(
        whole[:100]
    )  # left by a process that was killed while it wrote
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        assert checkpoints.resume(state)
        assert state.step == 9
    names = ["000002-000000009.ckpt", "000002-000000010.ckpt.damaged", "000002-000000011.ckpt.damaged", "lock"]
    assert sorted(path.name for path in mine.iterdir()) == names
    first, second = caplog.messages
    assert first == (
        f"checkpoint {mine / '000002-000000011.ckpt'}: belongs to another job (other); "
        "it is renamed to 000002-000000011.ckpt.damaged"
    )
    assert "000002-000000010.ckpt: is damaged: its content does not match its digest" in second


def test_a_damaged_checkpoint_that_cannot_be_renamed_does_not_end_the_training(
    state: State, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        (tmp_path / "key/000002-000000009.ckpt").write_bytes(b"torn")
        monkeypatch.setattr(Path, "replace", refuse)
        assert not checkpoints.resume(state)
    assert caplog.messages[-1].endswith("it is not used, and cannot be renamed (Operation not permitted)")


def test_a_full_disk_is_reported_once_and_training_goes_on(
    state: State, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """The system refuses to let a file grow beyond 4 kB, and later allows it."""
    mine, limits = tmp_path / "key", resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            for state.step in (8, 9):
                _write_after_step(checkpoints, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [path.name for path in mine.iterdir()] == ["lock"]
        (message,) = caplog.messages
        caplog.clear()
        assert message == (
            f"checkpoint {mine / '000002-000000008.ckpt'}: cannot be written ([Errno 27] File too large); "
            "training goes on, but could not be resumed from here"
        )
        state.step = 10
        _write_after_step(checkpoints, state)
        assert (mine / "000002-000000010.ckpt").exists()
    assert caplog.messages == []


def test_a_folder_that_cannot_be_used_is_reported(
    state: State, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with open_checkpoints(ALONE, tmp_path / "file", runtime, lambda: "key") as checkpoints:
        assert not checkpoints.resume(state)
        checkpoints.after_step(state)
        checkpoints.delete()
    (message,) = caplog.messages
    assert message.startswith(f"checkpoint {tmp_path / 'file' / 'key'}: cannot be used ([Errno 20] Not a directory")
    assert message.endswith("training goes on without checkpoints")


WARNED = """
import sys
from pathlib import Path
import torch
from tumorboard.base.params import load_params
from tumorboard.training.checkpoint import open_checkpoints
from tumorboard.training.distributed import Group

runtime = load_params(sys.argv[1]).runtime
with open_checkpoints(Group(0, 1, torch.device("cpu")), Path(sys.argv[2]), runtime, lambda: "key"):
    pass
"""


def test_a_warning_is_printed_to_standard_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [executable(), "-c", WARNED, str(ROOT / "params.yaml"), str(tmp_path / "file")]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    assert done.stdout == ""
    assert done.stderr.startswith(f"checkpoint {tmp_path / 'file' / 'key'}: cannot be used ([Errno 20] Not a directory")
    assert done.stderr.endswith("training goes on without checkpoints\n")


@pytest.mark.parametrize("seconds", [0.0, None])
def test_without_a_folder_or_with_zero_seconds_nothing_is_written(
    state: State, tmp_path: Path, runtime: Runtime, seconds: float | None
) -> None:
    settings = runtime if seconds is None else runtime.model_copy(update={"checkpoint_seconds": seconds})
    folder = None if seconds is None else tmp_path
    with open_checkpoints(ALONE, folder, settings, lambda: pytest.fail("no key is needed")) as checkpoints:
        assert not checkpoints.resume(state)
        checkpoints.after_step(state)
        checkpoints.delete()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_job_do_not_share_checkpoints(
    state: State, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as first:
        _write_after_step(first, state)
        with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as second:
            assert not second.resume(state)
            second.after_step(state)
            second.delete()
        with open_checkpoints(ALONE, tmp_path, runtime, lambda: "another") as third:
            _write_after_step(third, state)
        assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1
        message = f"checkpoint {tmp_path / 'key'}: in use by another run of the same job; this one trains without"
        assert caplog.messages == [f"{message} checkpoints"]
        first.delete()
        assert [path.name for path in tmp_path.iterdir()] == ["another"]
        # The lock that the first run holds was deleted with its folder: a new run makes its own.
        with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as fourth:
            _write_after_step(fourth, state)
            assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1


def test_folders_of_other_jobs_are_deleted_after_some_days(tmp_path: Path, runtime: Runtime) -> None:
    for name, days in (("old", 31), ("young", 29), ("old_but_in_use", 31)):
        folder = tmp_path / name
        folder.mkdir()
        for file in (folder / "000001-000000001.ckpt", folder / "lock"):
            file.write_bytes(b"1")
            os.utime(file, times=(time.time() - days * DAY,) * 2)
        os.utime(folder, times=(time.time() - days * DAY,) * 2)
    with (tmp_path / "old_but_in_use" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "old_but_in_use", "young"]


def test_a_folder_of_another_job_that_cannot_be_read_is_skipped(
    state: State, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another user's, or be deleted by another process in this moment."""
    (tmp_path / "other").mkdir()

    def fails(_: Path) -> float:
        raise FileNotFoundError("deleted in the meantime")

    monkeypatch.setattr(checkpoint, "_last_written", fails)
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        _write_after_step(checkpoints, state)
    assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1
    assert (tmp_path / "other").is_dir()


@pytest.mark.parametrize("ruined", ["weight", "loss"])
def test_a_state_that_is_not_finite_is_not_written(state: State, tmp_path: Path, runtime: Runtime, ruined: str) -> None:
    with open_checkpoints(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        if ruined == "weight":
            next(state.model.parameters()).data[0, 0] = torch.nan
        else:
            state.sums[0] = torch.inf
        _write_after_step(checkpoints, state)
    assert not list((tmp_path / "key").glob("*.ckpt"))


@pytest.mark.parametrize(("took", "steps"), [(0.5, 20), (100.0, 1)])
def test_the_steps_between_two_checkpoints_follow_from_the_seconds_they_take(
    state: State, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, took: float, steps: int
) -> None:
    """Ten seconds are 20 steps of half a second; a step of 100 seconds has a checkpoint after each."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    saved = []
    ten = runtime.model_copy(update={"checkpoint_seconds": 10.0})
    with open_checkpoints(ALONE, tmp_path, ten, lambda: "key") as checkpoints:
        for state.step in range(1, 46):
            now += took
            checkpoints.after_step(state)
            if checkpoints._steps_left == checkpoints._interval:
                saved.append(state.step)
    assert saved == list(range(1, 46, steps))
