"""Tests a group of two real processes, started by a script as a stage starts them: values passed, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.warm_python import executable
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.models.device import choose_device
from tumorboard.training.distributed import launch

SCRIPT = """
import json, os, sys, time
import numpy as np, torch
from torch import nn
from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime
from tumorboard.training.batch_norm import average_batch_norm, batch_norm_means
from tumorboard.training.distributed import launch

def exchange(group, callback):
    whole = np.arange(10).reshape(5, 2)
    norm = nn.BatchNorm1d(2)
    norm.running_mean += group.rank + 1
    given = {"running_mean": torch.full((2,), 4.0 * group.rank), "running_var": torch.zeros(2)}
    means = batch_norm_means(norm, group, given)
    average_batch_norm(norm, group)
    values = {
        "gathered": group.gather(whole[group.rank :: 2], 5).tolist(),
        "nothing_from_rank_1": group.gather(whole[: 1 - group.rank], 1).tolist(),
        "broadcast": group.broadcast({"of": group.rank}),
        "sum": group.sum([group.rank + 1.0, 0.25]),
        "own_mean": norm.running_mean.tolist(),
        "given_mean": [means["running_mean"].tolist(), given["running_mean"].tolist()],
        "threads": torch.get_num_threads(),
        "time": time.monotonic(),
    }
    if group.rank == 0:
        callback(values)
    group.broadcast("rank 0 has called back")
    if group.rank == 1:
        raise InputError("rank 1 found a mistake")
    group.broadcast("rank 1 never joins this")

def wait(group, callback):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece, while print may write a line and its end apart
    if group.rank == 1:
        time.sleep(60)
    group.broadcast("this follows after a minute")

def lose(group, callback):
    if group.rank == int(os.environ["VICTIM"]):
        time.sleep(0.5)
        os.kill(os.getpid(), 9)
    group.sum([1.0])

def run_out(group, callback):
    if group.rank == 1:
        torch.empty(1 << 50, dtype=torch.uint8)
    group.sum([1.0])

def be_wrong(group, callback):
    if group.rank == 1:
        torch.ones(2) @ torch.ones(3)
    group.sum([1.0])

def be_silent(group, callback):
    if group.rank == 1:
        time.sleep(60)
    group.sum([1.0])

if __name__ == "__main__":
    torch.set_num_threads(4)
    try:
        others = {"timeout": float(os.environ.get("LIMIT", 60)), "checkpoint_seconds": 0.0, "checkpoint_days": 1.0}
        others |= {"threads": "auto", "workers": 1, "scheduler": None, "cuda_graphs": False}
        runtime = Runtime(device="cpu", processes=2, **others)
        launch(globals()[sys.argv[1]], runtime, lambda values: print(json.dumps(values)))
    except InputError as error:
        print(time.monotonic())
        sys.exit(str(error))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def test_two_processes_exchange_values_and_one_that_fails_ends_both(script: Path) -> None:
    done = subprocess.run([executable(), script, "exchange"], text=True, capture_output=True, timeout=240)
    assert (done.returncode, done.stderr) == (1, "rank 1 found a mistake\n")
    values, ended = (json.loads(line) for line in done.stdout.splitlines())
    assert ended - values.pop("time") < 50  # the failed process waits for 60
    assert values == {
        "gathered": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]],
        "nothing_from_rank_1": [[0, 1]],
        "broadcast": {"of": 0},
        "sum": [3.0, 0.5],
        "own_mean": [1.5, 1.5],
        "given_mean": [[2.0, 2.0], [0.0, 0.0]],
        "threads": 2,
    }


@pytest.mark.parametrize(
    ("work", "environment", "message"),
    [
        ("lose", {"VICTIM": "0"}, r"training process 0 was killed \(SIGKILL\), .* memory ran out: lower runtime"),
        ("lose", {"VICTIM": "1"}, r"training process 1 was killed \(SIGKILL\), .* memory ran out: lower runtime"),
        ("run_out", {}, r"training process 1: out of memory \(.*can't allocate memory.*\): free some, or lower"),
        ("be_silent", {"LIMIT": "3"}, r"process 0 of 2 lost another .* was silent for runtime\.timeout = 3 s"),
    ],
)
def test_a_lost_process_and_too_little_memory_are_one_line(
    script: Path, work: str, environment: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        [executable(), script, work], env=os.environ | environment, text=True, capture_output=True, timeout=240
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.match(message, done.stderr)


def test_another_error_in_a_process_has_its_traceback(script: Path) -> None:
    done = subprocess.run([executable(), script, "be_wrong"], text=True, capture_output=True, timeout=240)
    assert done.returncode == 1
    assert re.search(r"RuntimeError: training process 1:\nTraceback.*in be_wrong\n", done.stderr, re.DOTALL)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(signal.SIG_DFL, id="foreground", marks=pytest.mark.slow),
        pytest.param(signal.SIG_IGN, id="background"),
    ],
)
def test_processes_do_not_outlive_the_one_that_started_them(script: Path, handler: signal.Handlers) -> None:
    """A shell makes what it starts in the background ignore SIGINT, and the children inherit that."""
    old = signal.signal(signal.SIGINT, handler)
    try:
        started = subprocess.Popen([sys.executable, script, "wait"], text=True, stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, old)
    with started as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(_is_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [pid for pid in children if _is_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests a machine without CUDA")
def test_a_missing_device_is_named(params: Params) -> None:
    assert choose_device(params.runtime) == "cpu"
    cuda = params.runtime.model_copy(update={"device": "cuda"})
    with pytest.raises(InputError, match=r"runtime\.device is cuda"):
        launch(print, cuda, print)


def test_settings_with_which_restarted_workers_never_meet_are_refused(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(InputError, match=r"--max-restarts 3 needs .* TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        launch(print, params.runtime, print)
