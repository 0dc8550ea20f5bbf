"""The worker's part of `tumorboard run --scheduler` on a Dask cluster: runs one training as a process.

`python -m tumorboard.commands.cluster_worker STAGE` is such a process. It reads its order as a line of JSON, and ends
its training when its standard input ends, that is when the worker stops it or is killed.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tumorboard.base.faults import reported_errors
from tumorboard.base.files import read_json, write_json
from tumorboard.base.package_files import PACKAGE
from tumorboard.base.study import package_version
from tumorboard.commands.own_checkout import Entry, Source, fetch_inputs, own_checkout, push_result
from tumorboard.commands.trainings import KILL_SECONDS, POLL_SECONDS, Training, reproduce_stage, start_process


class WorkerFacts(NamedTuple):
    """The facts that decide whether a worker can train a study."""

    host: str
    version: str  # version of its tumorboard
    digest: str  # digest of its tumorboard (`package_digest`)
    sees_study: bool


@dataclass(frozen=True)
class Order:
    """One training for a worker."""

    stage: str  # stage of the training, as in train@cnn-0
    attempt: int  # number of the attempt, from 1; one more after each lost worker
    topic: str  # topic of the events that report progress
    folder: str  # the study's folder as the worker sees it
    log: str  # file for the output of a training in `folder`
    environment: Mapping[str, str | None]  # variables of the training; None: unset
    source: Source | None  # source of the worker's own checkout; None: it trains in `folder`


class Outcome(NamedTuple):
    """How a training ended on a worker."""

    status: int  # exit status
    log: str | None  # output of a training in an own checkout
    entry: Entry | None  # entry of the run cache, after a successful training in an own checkout


def package_digest() -> str:
    """Returns the SHA-256 of the source files of the running tumorboard, hexadecimal."""
    files = sorted(PACKAGE.rglob("*.py"))
    lines = [f"{file.relative_to(PACKAGE).as_posix()} {sha256(file.read_bytes()).hexdigest()}\n" for file in files]
    return sha256("".join(lines).encode()).hexdigest()


def examine_worker(marker: str) -> WorkerFacts:
    """Returns the facts about the worker that runs this function.

    Args:
        marker: a file of a unique name in the study's folder, which only a worker that sees this folder finds.
    """
    return WorkerFacts(socket.gethostname(), package_version(), package_digest(), Path(marker).exists())


def run_training(order: Order) -> Outcome:
    """Runs a training as a process of this worker, and reports its progress as events of Dask.

    A training that is no longer wanted, because the run was stopped or killed, is ended.
    """
    from distributed import get_worker

    worker = get_worker()
    task = worker.get_current_task()
    scratch = Path(worker.local_directory)
    log = Path(order.log) if order.source is None else scratch / f"{order.stage}.log"
    entry = scratch / f"{order.stage}.json"
    training = Training(order.stage, log)

    def report(**news: Any) -> None:
        worker.log_event(order.topic, {"stage": order.stage, "attempt": order.attempt, **news})

    report(begun=True)
    try:
        training.process = _start(order, log, scratch, entry)
        said = ""
        while training.state == "running" and _is_wanted(worker, task):
            if (progress := training.progress()) != said:
                said = progress
                report(progress=said)
            time.sleep(POLL_SECONDS)
    finally:
        status = _end(training.process) if training.process else 1
        report(ended=True)
    if order.source is None:
        return Outcome(status, None, None)
    text = log.read_text(encoding="utf-8", errors="replace")
    return Outcome(status, text, None if status else Entry(**read_json(entry)))


def _start(order: Order, log: Path, scratch: Path, entry: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(order.folder) if order.source is None else scratch
    with log.open("wb") as output:
        command = [sys.executable, "-m", __name__, order.stage]
        process = start_process(command, {}, output, folder=folder, stdin=subprocess.PIPE)
    assert process.stdin is not None
    words = asdict(order) | {"base": str(scratch.parent), "entry": str(entry)}
    with suppress(BrokenPipeError):  # it has ended already; its log has the reason
        process.stdin.write(json.dumps(words).encode() + b"\n")
        process.stdin.flush()
    return process


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ends a process by the end of its input, and returns its exit status."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    return process.wait()


def _is_wanted(worker: Any, task: Any) -> bool:
    """Returns whether the scheduler still wants the result of a task; a client that has ended wants nothing."""
    known = worker.state.tasks.get(task)
    return known is not None and known.state != "cancelled"


def main(stage: str) -> int:
    """Trains as ordered on standard input, and returns the exit status."""
    order = json.loads(sys.stdin.buffer.readline())
    _leave_input()
    for name, value in order["environment"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    source = order["source"] and Source(**order["source"])
    print(f"on {socket.gethostname()}", flush=True)
    if source is None:
        return reproduce_stage(stage)
    with own_checkout(source, Path(order["base"]) / f"tumorboard-{source.name}") as folder:
        print(f"in {folder}", flush=True)
        os.chdir(folder)
        fetch_inputs(stage)
        status = reproduce_stage(stage)
        if not status:
            write_json(push_result(stage)._asdict(), order["entry"])
        return status


def _leave_input() -> None:
    """Gives this process's commands an empty standard input, and watches its own, which ends with the worker."""
    lifeline = os.dup(0)
    with Path(os.devnull).open("rb") as empty:
        os.dup2(empty.fileno(), 0)
    threading.Thread(target=_end_with_worker, args=(lifeline,), daemon=True).start()


def _end_with_worker(lifeline: int) -> None:
    """Kills the commands of this process when the worker ends; DVC then ends by itself, as after a failed command.

    It does so at once: another worker may start this training within a second, and a killed one leaves its checkpoint.
    """
    while os.read(lifeline, 1024):
        pass
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        time.sleep(POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    with reported_errors(sys.argv[1], before=""):
        sys.exit(main(sys.argv[1]))
