"""The threads of a training: measured without a trace, adapted only where the result need not be equal to the bit."""

import time

import numpy as np
import pytest
import torch

from tests.training.trainings import MakeJob, train
from tumorboard.base.params import Runtime
from tumorboard.models.normalization import normalization
from tumorboard.training import threads as threads_module
from tumorboard.training.distributed import Group
from tumorboard.training.loop import set_up
from tumorboard.training.threads import ThreadWatch, _Moment, busy_cores, fastest_threads


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "tried", "best"), [(1, [1], 1), (4, [4, 2, 1], 2), (6, [6, 3, 1], 3)])
def test_the_fastest_number_of_threads_is_chosen(
    monkeypatch: pytest.MonkeyPatch, most: int, tried: list[int], best: int
) -> None:
    """By a clock that stands still but for what a step takes; the first step of each number is slow and not timed."""
    clock, steps = [0.0], []

    def step() -> None:
        number = torch.get_num_threads()
        steps.append(number)
        clock[0] += 100 * (steps.count(number) == 1) + (1 if number == best else 2)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert fastest_threads(step, most) == best
    assert list(dict.fromkeys(steps)) == tried


def test_busy_cores_are_those_of_the_other_processes() -> None:
    """In 10 s the machine's cores worked for 25 s, 8 of them for this process: 1.7 others."""
    assert busy_cores(_Moment(100, 50, 1000), _Moment(110, 58, 1025)) == pytest.approx(1.7)
    assert busy_cores(_Moment(100, 50, 1000), _Moment(110, 70, 1010)) == 0


def snapshot(state) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in state.model.state_dict().values()] + [torch.get_rng_state()]


@pytest.mark.parametrize("architecture", ["cnn", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_measuring_leaves_no_trace(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(threads_module, "FEWEST_STEPS", 1)
    torch.set_num_threads(2)
    job = make_job(architecture=architecture, head="mlp", deterministic=False, precision="bf16")
    setup, state = set_up(Group(0, 1, torch.device("cpu")), job, normalization(job.recipe))
    before = snapshot(state)
    watch = ThreadWatch(setup, state, alone)
    assert watch._adapts
    assert all(torch.equal(one, two) for one, two in zip(before, snapshot(state), strict=True))
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert not state.optimizer.state


def loads(monkeypatch: pytest.MonkeyPatch, *cores: float) -> None:
    """Other processes keep these cores busy, epoch by epoch."""
    given = iter(cores)
    monkeypatch.setattr(threads_module, "busy_cores", lambda *_: next(given))
    monkeypatch.setattr(threads_module.os, "cpu_count", lambda: 2)


def test_a_deterministic_training_keeps_its_threads_and_says_once_that_the_machine_is_busy(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads_module, "FEWEST_STEPS", 1)
    monkeypatch.setattr(threads_module, "fastest_threads", lambda *_: pytest.fail("it is not measured"))
    loads(monkeypatch, 0.2, 1.2, 1.3, 0.1)
    torch.set_num_threads(2)
    train(make_job(architecture="linear", epochs=4), alone)
    assert torch.get_num_threads() == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if "busy" in line]
    assert lines == [
        "fold 0  m  other processes keep 1.2 of 2 cores busy: 2 threads, which wait for each other, may be slower than "
        "one. runtime.threads: 1 changes rounding, and so the result's last digits"
    ]


def test_another_training_follows_the_load(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads_module, "FEWEST_STEPS", 1)
    chosen = iter([2, 1, 2])
    monkeypatch.setattr(threads_module, "fastest_threads", lambda *_: next(chosen))
    loads(monkeypatch, 0.2, 1.2, 1.3, 0.1)
    torch.set_num_threads(2)
    train(make_job(architecture="linear", epochs=4, deterministic=False), alone)
    lines = [line for line in capsys.readouterr().out.splitlines() if "busy" in line]
    assert lines == [
        "fold 0  m  other processes keep 1.2 of 2 cores busy: 1 instead of 2 threads from now on",
        "fold 0  m  other processes keep 0.1 of 2 cores busy: 2 instead of 1 threads from now on",
    ]


@pytest.mark.parametrize("changes", [{"threads": 2}, {"steps": 100}])
def test_a_fixed_number_and_a_short_training_are_not_measured(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int]
) -> None:
    monkeypatch.setattr(threads_module, "fastest_threads", lambda *_: pytest.fail("it is not measured"))
    monkeypatch.setattr(threads_module, "FEWEST_STEPS", changes.get("steps", 1))
    runtime = alone.model_copy(update={"threads": changes.get("threads", "auto")})
    job = make_job(architecture="linear", deterministic=False)
    train(job, runtime)
    assert torch.get_num_threads() == changes.get("threads", torch.get_num_threads())


def test_the_number_that_params_yaml_gives_is_used_and_two_numbers_give_other_bytes(
    make_job: MakeJob, alone: Runtime
) -> None:
    """The weights' gradients of a convolution are sums over the batch, which the threads divide among them."""
    weights = []
    for number in (1, 2, 2):
        job = make_job(16, 4, out=f"threads{len(weights)}", architecture="cnn", epochs=1, precision="off")
        model, _ = train(job, alone.model_copy(update={"threads": number}))
        assert torch.get_num_threads() == number
        weights.append(np.concatenate([tensor.double().numpy().ravel() for tensor in model.state_dict().values()]))
    assert np.array_equal(weights[1], weights[2])
    assert not np.array_equal(weights[0], weights[1])
    np.testing.assert_allclose(weights[0], weights[1], atol=0.05)
