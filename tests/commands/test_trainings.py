"""Trainings as processes: what is shown of them, which GPU and how many threads each has, and how they are ended."""

import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tumorboard.base.params import Params
from tumorboard.commands import trainings as module
from tumorboard.commands.trainings import (
    ProgressView,
    Training,
    end_processes,
    jobs_without_gpu,
    run_trainings,
    start_process,
    thread_settings,
    threads_note,
)
from tumorboard.training.job import Epoch
from tumorboard.training.loop import epoch_line


def training(folder: Path, name: str, log: str | None, status: int | None) -> Training:
    """A training whose process has ended with a status, still runs (None) or, without a log, is queued."""
    if log is not None:
        (folder / name).write_text(log, encoding="utf-8")
    process = None if log is None else SimpleNamespace(poll=lambda: status)
    return Training(f"train@{name}", folder / name, process)


def test_progress_is_read_from_the_line_that_training_prints(tmp_path: Path) -> None:
    scores = {"loss": 0.25, "accuracy": 0.875, "auc": 0.9}
    job = SimpleNamespace(name="cnn", fold=0, recipe=SimpleNamespace(epochs=12))
    epoch = Epoch(number=3, lr=0.1, train=scores, val=scores, best=True, seconds=1.0, images_per_second=9.0)
    running = training(tmp_path, "a", f"Running stage 'train@a'\n{epoch_line(job, epoch)}\nsome more\n", None)
    assert str(running) == "running  train@a  epoch 3/12  val loss 0.2500 accuracy 0.8750"
    assert str(training(tmp_path, "b", "bar 10%\rbar 90%\ntrain: no luck\n\n", 1)) == "failed   train@b  train: no luck"
    assert str(training(tmp_path, "c", None, None)) == "queued   train@c"
    assert str(training(tmp_path, "d", "", None)) == "running  train@d"


def test_the_last_epoch_counts_and_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    lines = [f"epoch {number}/9000  val loss {number} accuracy 0" for number in range(1, 5001)]
    assert len("\n".join(lines)) > 2**16
    assert training(tmp_path, "a", "\n".join(lines), 0).progress() == "epoch 5000/9000  val loss 5000 accuracy 0"
    cached = "Stage 'train@b' is cached - skipping run, checking out outputs\n"
    assert str(training(tmp_path, "b", cached, 0)) == "done     train@b  from the run cache"


def read_to_end(master: int) -> str:
    """All that was written to a terminal whose other end is closed; on Linux the end is an error."""
    pieces = []
    with os.fdopen(master, "rb", buffering=0) as file, suppress(OSError):
        while piece := file.read(2**16):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_terminal_shows_a_line_per_training_and_a_low_one_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = [training(tmp_path, f"done{i}", "", 0) for i in range(3)]
    trainings += [training(tmp_path, f"wait{i}", None, None) for i in range(4)]
    trainings[1] = training(tmp_path, "now", "epoch 1/2  val loss 1 accuracy 0", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    shown = {}
    for height in (20, 5):
        monkeypatch.setenv("LINES", str(height))
        master, slave = pty.openpty()
        with os.fdopen(slave, "w") as terminal, ProgressView(trainings, terminal) as view:
            view.show()
        text = read_to_end(master)
        first, *_, last = text.split("\x1b[1A")  # one line up: the second picture is drawn over the first
        assert text.count("\x1b[1A") == first.count("\n")
        shown[height] = re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", last).split()
    assert [word for word in shown[20] if "@" in word] == [training.stage for training in trainings]
    assert " ".join(shown[5]) == "running train@now epoch 1/2 val loss… and 2 done, 4 queued"


# Notes when it starts and ends and what it sees, in place of DVC's reproduction of a stage.
NOTE = """
import os, sys, time
def note(event):
    seen = [os.environ.get(name, '-') for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')]
    with open(sys.argv[2], 'a') as file:
        file.write(' '.join([event, sys.argv[1], *seen]) + '\\n')
note('begin')
time.sleep(0.3)
note('end')
"""


def run_notes(folder: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, gpus: list[str]) -> list[list[str]]:
    """The notes of four trainings, each a list: event, stage, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS."""
    notes = folder / "notes"
    notes.write_text("")

    def start(command: list[str], settings: dict[str, str], output: object) -> subprocess.Popen[bytes]:
        assert command[:3] == [sys.executable, "-m", "tumorboard.commands.trainings"]
        return start_process([sys.executable, "-c", NOTE, command[3], str(notes)], settings, output)

    monkeypatch.setattr(module, "start_process", start)
    monkeypatch.setattr(module, "_thread_count", lambda: 7)
    stages = [Training(f"t{n}", folder / f"logs/t{n}.log") for n in range(4)]
    run_trainings(stages, jobs, gpus, [], thread_settings(jobs))
    return [line.split() for line in notes.read_text().splitlines()]


def test_jobs_limit_the_trainings_at_a_time_and_each_gpu_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notes = run_notes(tmp_path, monkeypatch, 2, ["5", "GPU-8a"])
    assert sorted(stage for event, stage, *_ in notes if event == "end") == ["t0", "t1", "t2", "t3"]
    busy: set[str] = set()
    for event, _, gpu, threads in notes:
        assert threads == "3"  # 7 threads for two
        assert gpu in ("5", "GPU-8a")
        assert (gpu in busy) == (event == "end")
        busy ^= {gpu}


@pytest.mark.parametrize(
    ("threads", "processes", "environment", "jobs"),
    [
        ("auto", "auto", None, 1),  # each training has all cores
        ("auto", "auto", "1", 7),
        ("auto", "auto", "2", 3),
        ("auto", "auto", "9", 1),
        ("auto", 2, "1", 3),
        ("auto", "auto", "4,2", 1),  # a number per level of nesting, as OpenMP reads it
        ("auto", "auto", "0", 1),
        (3, "auto", "1", 2),  # runtime.threads decides
        (3, 2, None, 1),
    ],
)
def test_jobs_without_gpu(
    threads: Any,
    processes: Any,
    environment: str | None,
    jobs: int,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_thread_count", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    runtime = params.runtime.model_copy(update={"threads": threads, "processes": processes})
    assert jobs_without_gpu(runtime) == jobs


def test_threads_are_divided_unless_the_user_has_set_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    notes = run_notes(tmp_path, monkeypatch, 4, [])
    assert [event for event, *_ in notes[:4]] == ["begin"] * 4
    assert {(gpu, threads) for _, _, gpu, threads in notes} == {("-", "1")}
    assert "Each training has 1 of the processor's 7 threads" in threads_note(thread_settings(4))
    assert threads_note(thread_settings(1)) == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert {threads for *_, threads in run_notes(tmp_path, monkeypatch, 2, [])} == {"6"}
    assert threads_note(thread_settings(2)) == ""


def test_one_job_has_all_threads_and_runs_one_training_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notes = run_notes(tmp_path, monkeypatch, 1, [])
    expected = [[event, f"t{number}"] for number in range(4) for event in ("begin", "end")]
    assert [note[:2] for note in notes] == expected
    assert {note[3] for note in notes} == {"-"}


def test_no_training_starts_after_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_process", lambda *_: pytest.fail("a training was started"))
    queued = Training("t", tmp_path / "t.log")
    run_trainings([queued], 1, [], [15], {})
    assert queued.state == "queued"


def test_a_command_that_ignores_sigterm_is_killed_and_its_parent_is_left_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent stands for DVC: it ends by itself with a status of its own once its command has ended."""
    monkeypatch.setattr(module, "KILL_SECONDS", 0.5)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    program = (
        "import subprocess, sys\n"
        "command = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "command.stdout.readline()\n"
        "print(command.pid, flush=True)\n"
        "sys.exit(7 if command.wait() == -9 else 8)\n"
    )
    parent = start_process([sys.executable, "-c", program, stubborn], {}, subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    start = time.monotonic()
    end_processes([parent])
    assert 0.5 <= time.monotonic() - start < 30
    assert parent.poll() == 7
    assert not psutil.pid_exists(pid)


def test_a_stage_that_dvc_cannot_reproduce_is_a_message_and_status_1(tmp_path: Path) -> None:
    """The module runs as a process, as `run_trainings` starts it; here outside of any DVC project."""
    command = [sys.executable, "-m", "tumorboard.commands.trainings", "train@cnn-0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "not inside of a DVC repository" in done.stdout
    assert "Traceback" not in done.stderr
