"""Checkpoints that are whole, the job's own, and never in the way: each fault is made, none is pretended."""

import dataclasses
import fcntl
import os
import pickle
import resource
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tumorboard.data.store import CropStore, write_store
from tumorboard.models.registry import Classifier
from tumorboard.params import Params, Recipe, Runtime
from tumorboard.training import checkpoint
from tumorboard.training.checkpoint import (
    CODE,
    Checkpoints,
    UnusableError,
    checkpoints_of,
    job_key,
    read_checkpoint,
    write_checkpoint,
)
from tumorboard.training.distributed import Group
from tumorboard.training.state import Epoch, Job, State

ALONE = Group(0, 1, torch.device("cpu"))
DAY = 24 * 3600


@pytest.fixture
def runtime(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"checkpoint_seconds": 1e-9})


@pytest.fixture
def state() -> State:
    """After a step of Adam, an epoch past."""
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 50)), nn.Linear(50, 2), (0.5,) * 3, (0.25,) * 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 3, 2, 2)).sum().backward()
    optimizer.step()
    past = Epoch(1, 0.1, {"loss": np.float64(0.5)}, {"auc": float("nan")}, True, 2.0, 30.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    sums = torch.tensor([1.5, 2.0], dtype=torch.float64)
    return State(model, optimizer, scaler, sums, np.array([3.0, 4.0]), 7, time.perf_counter() - 100, [past], best)


def _tick(checkpoints: Checkpoints, state: State) -> None:
    """A step at whose end a checkpoint is due, written before this returns."""
    checkpoints.tick(state)
    assert checkpoints._writing is not None
    checkpoints._writing.result()


def test_a_state_comes_back_as_it_was(state: State, tmp_path: Path, runtime: Runtime) -> None:
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        checkpoints.tick(state)
        with torch.no_grad():
            state.model.head.weight += 1  # a later step does not reach into the copy
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(12, 50)), nn.Linear(50, 2)
    model = Classifier(*fresh, (0.5,) * 3, (0.25,) * 3)
    adam = torch.optim.Adam(model.parameters(), lr=9.0)
    found = State(model, adam, state.scaler, torch.zeros(2, dtype=torch.float64))
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        assert checkpoints.resume(found)
    with torch.no_grad():
        state.model.head.weight -= 1
    torch.testing.assert_close(model.state_dict(), state.model.state_dict(), rtol=0, atol=1e-7)
    assert torch.equal(model.backbone[1].weight, state.model.backbone[1].weight)
    torch.testing.assert_close(adam.state_dict(), state.optimizer.state_dict(), rtol=0, atol=0)
    assert found.best_weights is not None
    assert state.best_weights is not None
    torch.testing.assert_close(found.best_weights, state.best_weights, rtol=0, atol=0)
    assert (found.sums.tolist(), found.counts.tolist(), found.step) == ([1.5, 2.0], [3.0, 4.0], 7)
    assert time.perf_counter() - found.began == pytest.approx(100, abs=50)
    (past,) = found.history
    assert (past.number, past.lr, past.train, past.best, past.seconds) == (1, 0.1, {"loss": 0.5}, True, 2.0)
    assert np.isnan(past.val["auc"])


def test_tensors_keep_their_type_and_layout(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = {"half": torch.rand(3).bfloat16(), "image": image, "list": [{"n": 1, "none": None}, float("inf")]}
    write_checkpoint(tmp_path / "a.ckpt", "key", tree)
    found = read_checkpoint(tmp_path / "a.ckpt", "key")
    assert torch.equal(found["half"], tree["half"])
    assert found["half"].dtype == torch.bfloat16
    assert torch.equal(found["image"], image)
    assert found["image"].stride() == image.stride()
    assert found["list"] == tree["list"]


@pytest.mark.parametrize("place", [0, 100, 3000, -33, -1, None])
def test_a_wrong_byte_anywhere_and_a_missing_end_are_noticed(tmp_path: Path, place: int | None) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, "key", {"a": torch.zeros(2000)})
    content = bytearray(path.read_bytes())
    if place is None:
        del content[-500:]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnusableError, match="is damaged"):
        read_checkpoint(path, "key")


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_a_file_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    torch.save({"key": "key", "tree": _Trap()}, path)
    for content in (path.read_bytes(), pickle.dumps(_Trap(), protocol=2), b""):
        path.write_bytes(content + sha256(content).digest())
        with pytest.raises(UnusableError, match="is no checkpoint"):
            read_checkpoint(path, "key")
    assert not (tmp_path / "sprung").exists()


def test_the_newest_whole_one_of_the_job_is_used(
    state: State, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three, the oldest is gone; the newest is cut short, a newer one yet is another job's."""
    mine = tmp_path / "key"
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        for state.step in (8, 9, 10):
            _tick(checkpoints, state)
    assert sorted(path.name for path in mine.glob("*.ckpt")) == ["000002-000000009.ckpt", "000002-000000010.ckpt"]
    whole = (mine / "000002-000000009.ckpt").read_bytes()
    (mine / "000002-000000010.ckpt").write_bytes(whole[:-100])
    write_checkpoint(mine / "000002-000000011.ckpt", "other", {})
    (mine / ".000002-000000012.ckpt.123.tmp").write_bytes(whole[:100])  # killed while it was written
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        assert checkpoints.resume(state)
        assert state.step == 9
    names = ["000002-000000009.ckpt", "000002-000000010.ckpt.damaged", "000002-000000011.ckpt.damaged", "lock"]
    assert sorted(path.name for path in mine.iterdir()) == names
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"checkpoint {mine / '000002-000000011.ckpt'}: belongs to another job (other); "
        "it is set aside as 000002-000000011.ckpt.damaged"
    )
    assert "000002-000000010.ckpt: is damaged: it does not agree with its digest" in second


def test_without_room_training_goes_on_and_says_so_once(
    state: State, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses to let a file grow beyond 4 kB, then lets it."""
    mine, limits = tmp_path / "key", resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            for state.step in (8, 9):
                _tick(checkpoints, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [path.name for path in mine.iterdir()] == ["lock"]
        (message,) = capsys.readouterr().err.splitlines()
        assert message == (
            f"checkpoint {mine / '000002-000000008.ckpt'}: cannot be written ([Errno 27] File too large); "
            "training goes on, but could not be resumed from here"
        )
        state.step = 10
        _tick(checkpoints, state)
        assert (mine / "000002-000000010.ckpt").exists()
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_none_is_said(
    state: State, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with checkpoints_of(ALONE, tmp_path / "file", runtime, lambda: "key") as checkpoints:
        assert not checkpoints.resume(state)
        checkpoints.tick(state)
        checkpoints.discard()
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"checkpoint {tmp_path / 'file' / 'key'}: cannot be used ([Errno 20] Not a directory")
    assert message.endswith("training goes on without checkpoints")


@pytest.mark.parametrize("seconds", [0.0, None])
def test_nothing_is_kept_where_nothing_is_wanted(
    state: State, tmp_path: Path, runtime: Runtime, seconds: float | None
) -> None:
    still = runtime if seconds is None else runtime.model_copy(update={"checkpoint_seconds": seconds})
    folder = None if seconds is None else tmp_path
    with checkpoints_of(ALONE, folder, still, lambda: pytest.fail("no key is needed")) as checkpoints:
        assert not checkpoints.resume(state)
        checkpoints.tick(state)
        checkpoints.discard()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_job_do_not_meet(
    state: State, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as first:
        _tick(first, state)
        with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as second:
            assert not second.resume(state)
            second.tick(state)
            second.discard()
        with checkpoints_of(ALONE, tmp_path, runtime, lambda: "another") as third:
            _tick(third, state)
        assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1
        message = f"checkpoint {tmp_path / 'key'}: in use by another run of the same job; this one trains without"
        assert capsys.readouterr().err == f"{message} checkpoints\n"
        first.discard()
        assert [path.name for path in tmp_path.iterdir()] == ["another"]
        # The lock that the first one holds went with its folder: a new run makes its own.
        with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as fourth:
            _tick(fourth, state)
            assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1


def test_what_nobody_wrote_to_for_days_is_deleted(tmp_path: Path, runtime: Runtime) -> None:
    for name, days in (("old", 31), ("young", 29), ("old_but_in_use", 31)):
        folder = tmp_path / name
        folder.mkdir()
        for file in (folder / "000001-000000001.ckpt", folder / "lock"):
            file.write_bytes(b"1")
            os.utime(file, times=(time.time() - days * DAY,) * 2)
        os.utime(folder, times=(time.time() - days * DAY,) * 2)
    with (tmp_path / "old_but_in_use" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "old_but_in_use", "young"]


def test_other_jobs_folders_do_not_keep_a_job_from_its_own(
    state: State, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them cannot be looked into, as another user's, or changes while it is looked at."""
    (tmp_path / "other").mkdir()

    def fails(_: Path) -> float:
        raise FileNotFoundError("gone in between")

    monkeypatch.setattr(checkpoint, "_last_written", fails)
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        _tick(checkpoints, state)
    assert len(list((tmp_path / "key").glob("*.ckpt"))) == 1
    assert (tmp_path / "other").is_dir()


@pytest.mark.parametrize("ruined", ["weight", "loss"])
def test_what_is_not_finite_is_not_kept(state: State, tmp_path: Path, runtime: Runtime, ruined: str) -> None:
    with checkpoints_of(ALONE, tmp_path, runtime, lambda: "key") as checkpoints:
        if ruined == "weight":
            next(state.model.parameters()).data[0, 0] = torch.nan
        else:
            state.sums[0] = torch.inf
        _tick(checkpoints, state)
    assert not list((tmp_path / "key").glob("*.ckpt"))


@pytest.mark.parametrize(("took", "steps"), [(0.5, 20), (100.0, 1)])
def test_the_steps_between_two_follow_from_their_seconds(
    state: State, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, took: float, steps: int
) -> None:
    """Ten seconds are wanted: 20 steps of half a second, or one of 100 seconds."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    saved = []
    ten = runtime.model_copy(update={"checkpoint_seconds": 10.0})
    with checkpoints_of(ALONE, tmp_path, ten, lambda: "key") as checkpoints:
        for state.step in range(1, 46):
            now += took
            checkpoints.tick(state)
            if checkpoints._left == checkpoints._interval:
                saved.append(state.step)
    assert saved == list(range(1, 46, steps))


Vary = Callable[..., str]


@pytest.fixture
def vary(tmp_path: Path, params: Params) -> Vary:
    """The key of a job on two images and one for validation, parts of it exchanged."""

    def make(pixel: int = 0, weight: float = 0.0, seed: int = 1, **own: Any) -> str:
        crops = np.zeros((4, 2, 2, 3), np.uint8)
        crops[1, 0, 0, 0] = pixel
        write_store(tmp_path / "store", ["a", "b", "c", "unused"], crops, 2)
        ids = pd.DataFrame({"id": ["a", "b", "c"]})
        rest = {"path": ids["id"], "label": "x", "group": ids["id"], "split": "train", "source_id": ids["id"]}
        rows = ids.assign(**rest, sha256="0", fold=pd.array([1, 1, 0], dtype="Int64"))
        rows = rows[["id", "path", "label", "group", "split", "fold", "source_id", "sha256"]]
        recipe = Recipe(**dict(params.train), architecture="cnn", seed=seed)
        place = tmp_path / "out"
        job = Job("m", 0, recipe, rows[:2], rows[2:], CropStore(tmp_path / "store"), ("x", "y"), params.crop, "0" * 16,
                  place, place)  # fmt: skip
        return job_key(dataclasses.replace(job, **own), {"w": torch.tensor([weight])})

    return make


def test_the_key_names_all_that_decides_the_result(vary: Vary, tmp_path: Path, params: Params) -> None:
    keys = [
        vary(),
        vary(pixel=1),
        vary(weight=1e-7),
        vary(seed=2),
        vary(fold=1),
        vary(name="n"),
        vary(digest="1" * 16),
        vary(classes=("y", "x")),
        vary(crop=params.crop.model_copy(update={"border": not params.crop.border})),
    ]
    assert len(set(keys)) == len(keys)
    assert vary(out=tmp_path / "elsewhere", weights=tmp_path / "w") == keys[0]
    assert len(keys[0]) == 32


def test_the_key_covers_the_code_that_trains() -> None:
    """All that the loop imports, but for what reads, writes and checks."""
    graph = grimp.build_graph("tumorboard", cache_dir=None)
    imported = graph.find_upstream_modules("tumorboard.training.loop")
    covered = tuple("tumorboard." + name.removesuffix(".py").replace("/", ".") for name in CODE)
    assert {module for module in imported if not module.startswith(covered)} == {
        "tumorboard",
        "tumorboard.errors",
        "tumorboard.params",
        "tumorboard.sections",
        "tumorboard.tables",
    }
