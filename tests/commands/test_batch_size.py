"""Probes of memories that are made up, the accumulation by hand, and the command on a prepared project."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime
from tumorboard.commands import batch_size as module
from tumorboard.commands.app import app
from tumorboard.commands.batch_size import (
    Capacity,
    accumulate_for,
    estimate_from_peaks,
    largest_that_fits,
    measure_capacity,
    process_count,
)
from tumorboard.commands.prepared_job import prepare_alone
from tumorboard.training.job import Job, State

MakeJob = Callable[..., Job]
GIB = 2**30


@pytest.mark.parametrize(("fewest", "most"), [(1, 1000), (2, 1000), (2, 37), (2, 2), (1, 1)])
def test_the_search_returns_the_largest_step_that_fits(fewest: int, most: int) -> None:
    for capacity in [*range(fewest, min(most, 40) + 1), 500, 999, 1000, 2000]:
        tried: list[int] = []

        def step(images: int, capacity: int = capacity, tried: list[int] = tried) -> None:
            tried.append(images)
            if images > capacity:
                raise torch.OutOfMemoryError("CUDA out of memory")

        assert largest_that_fits(step, fewest, most) == min(capacity, most)
        assert len(tried) <= 22
        assert max(tried) <= most


def test_too_little_memory_is_a_users_error_and_any_other_error_passes() -> None:
    def never(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(_: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(InputError, match=r"too little memory for a step with 2 images: lower crop\.side"):
        largest_that_fits(never, 2, 64)
    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(broken, 2, 64)


def test_the_estimate_extends_a_line_and_measures_nothing_near_the_limit() -> None:
    """1 GiB and 0.25 per image: 10.1 GiB hold 36 images. 8 images need 3 GiB, 16 already 5, half of the limit."""
    tried: list[int] = []

    def peak(images: int) -> int:
        tried.append(images)
        return int(GIB * (1 + 0.25 * images))

    probe = estimate_from_peaks(peak, 2, 1000, 10.1 * GIB)
    assert (probe.images, probe.fewest) == (36, 2)
    assert probe.how == "estimated from the peaks at 8 and 16: 1.00 GiB and 0.250 per image, within 10.10 GiB"
    assert tried == [4, 8, 16]
    assert estimate_from_peaks(peak, 2, 20, 10.1 * GIB).images == 20
    with pytest.raises(
        InputError,
        match=r"too little memory for a step with 2 images: a step needs 1\.00 GiB and 0\.250 more per image",
    ):
        estimate_from_peaks(peak, 2, 20, 1.3 * GIB)
    assert estimate_from_peaks(lambda _: GIB, 1, 77, 2 * GIB).images == 77  # no measurable memory per image


def test_the_estimate_measures_64_images_at_most() -> None:
    tried: list[int] = []

    def peak(images: int) -> int:
        tried.append(images)
        return images * 2**20

    assert estimate_from_peaks(peak, 1, 10**7, 1000 * GIB).images == 1000 * 1024
    assert tried == [2, 4, 8, 16, 32, 64]


def test_the_accumulation_keeps_the_batch(make_job: MakeJob) -> None:
    """With 100 images and batches of at most 64, an epoch has two steps of 50."""

    def accumulate(batch_size: int, processes: int, images: int, fewest: int = 1) -> int:
        return accumulate_for(make_job(100, batch_size=batch_size), processes, Capacity(images, fewest, ""))

    assert accumulate(100, 1, 100) == accumulate(64, 1, 50) == 1
    assert accumulate(100, 1, 99) == 2
    assert accumulate(64, 1, 10) == 5
    assert accumulate(64, 1, 3) == 17
    assert accumulate(33, 2, 12) == 2  # four steps of 25, of which one of two processes has 13
    assert accumulate(64, 1, 1) == 50
    assert accumulate(64, 1, 3, fewest=2) == 17  # 16 of three, one of two
    with pytest.raises(InputError, match=r"cut into parts of 2 to 2 images: choose another batch_size than 33"):
        accumulate(33, 1, 2, fewest=2)  # 25 images: twelve pairs, and one


def test_a_probe_on_the_cpu_measures_this_process(make_job: MakeJob, alone: Runtime) -> None:
    """Two processes have half of the memory each, and each image needs its activations."""
    job = make_job(100, architecture="cnn", accumulate=4)
    probe = measure_capacity(job, alone, 64.0)
    assert probe.images == 100
    assert probe.fewest == 1
    assert "within 64.00 GiB" in probe.how
    with pytest.raises(InputError, match="too little memory for a step with 1 image: "):
        measure_capacity(job, alone.model_copy(update={"processes": 2}), 0.1)


def test_a_probe_does_not_train(make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps on the same images could diverge, so the learning rate is zero."""
    states = []

    def prepare(job: Job, runtime: Runtime) -> tuple[object, State]:
        setup, state = prepare_alone(job, runtime)
        states.append((state, [parameter.detach().clone() for parameter in state.model.parameters()]))
        return setup, state

    monkeypatch.setattr(module, "prepare_alone", prepare)
    measure_capacity(make_job(100), alone, 64.0)
    ((state, initial),) = states
    for parameter, value in zip(state.model.parameters(), initial, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is not None  # the steps were carried out


def test_processes_are_one_per_gpu_unless_a_number_is_set(alone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def count(device: str, processes: str | int) -> int:
        return process_count(alone.model_copy(update={"device": device, "processes": processes}))

    assert (count("cuda", "auto"), count("cuda", 3), count("cpu", "auto"), count("cpu", 2)) == (4, 3, 1, 2)


@pytest.mark.usefixtures("prepared_project")
def test_the_command_prints_the_images_and_the_accumulation() -> None:
    done = CliRunner().invoke(app, ["batch-size", "cnn", "--memory", "64"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("32 images at a time (estimated from the peaks at ")
    assert done.stdout.splitlines()[1] == "accumulate: 1 keeps batch_size 8 with 1 process"
    done = CliRunner().invoke(app, ["batch-size", "cnn", "--memory", "0.01"])
    assert done.exit_code == 1
    assert done.stderr.startswith("batch-size: too little memory for a step with 1 image: a step needs ")


@pytest.mark.parametrize("command", ["lr-find", "batch-size"])
def test_a_missing_recipe_or_missing_data_are_named(prepared_project: Path, command: str) -> None:
    for arguments, message in (
        (["cnm"], "model 'cnm' has no entry under recipes; did you mean cnn"),
        (["cnn", "--fold", "3"], "data/balance/3 is not there: `dvc repro balance@3` prepares the images of fold 3"),
    ):
        done = CliRunner().invoke(app, [command, *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{command}: {message}")
    assert not (prepared_project / "lr_find").exists()
