"""Starts trainings as processes side by side, reads their progress from their logs, and ends them.

`python -m tumorboard.commands.trainings STAGE` is such a process: it reproduces one stage.
"""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil
from dvc.exceptions import DvcException
from dvc.logger import setup
from dvc.repo import Repo
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tumorboard.base.cores import available_cores
from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime

POLL_SECONDS = 0.2  # between two looks at the processes
KILL_SECONDS = 10.0  # time from the first SIGTERM to the SIGKILL of a stage's command
LOG_TAIL = 2**16  # bytes at the end of a log that are read
_EPOCH = re.compile(r"epoch (\d+/\d+).*?(val loss \S+ accuracy \S+)")  # part of a training's line per epoch


@dataclass
class Training:
    """A training or another stage, run in a process of its own."""

    stage: str  # its name in DVC, as in train@cnn-0
    log: Path  # the file that has its output
    process: subprocess.Popen[bytes] | None = None  # None before its start

    @property
    def state(self) -> str:
        """'queued', 'running', 'done' or 'failed'."""
        if self.process is None:
            return "queued"
        status = self.process.poll()
        return "running" if status is None else "failed" if status else "done"

    def progress(self) -> str:
        """Returns the last epoch in the log with its validation; 'from the run cache' if nothing was trained."""
        lines = self._lines()
        if any("is cached - skipping run" in line for line in lines):
            return "from the run cache"
        epochs = [match for line in lines if (match := _EPOCH.search(line))]
        return f"epoch {epochs[-1][1]}  {epochs[-1][2]}" if epochs else ""

    def reason(self) -> str:
        """Returns the last line of the log."""
        return next(reversed(self._lines()), "no output")

    def _lines(self) -> list[str]:
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()  # a progress bar's \r ends a line as well
        return [line.strip() for line in lines if line.strip()]

    def __str__(self) -> str:
        state = self.state
        details = "" if state == "queued" else self.reason() if state == "failed" else self.progress()
        return f"{state:<7}  {self.stage}  {details}".rstrip()


def run_trainings(
    trainings: list[Training], jobs: int, gpus: Sequence[str], received: list[int], settings: Mapping[str, str]
) -> None:
    """Runs stages side by side and shows their progress on standard output; returns when all have ended.

    Args:
        trainings: the stages in the order of their start.
        jobs: stages at a time.
        gpus: entries of CUDA_VISIBLE_DEVICES, one per stage; empty: each stage sees what this process sees.
        received: received signals; once there is one, no stage is started and the running ones are ended.
        settings: environment variables that override this process's, as of `thread_settings`.
    """
    free_gpus = [gpus[slot % len(gpus)] if gpus else None for slot in range(jobs)]
    queue, running = list(trainings), list[tuple[Training, str | None]]()
    with ProgressView(trainings) as view:
        try:
            while (queue or running) and not received:
                for training, gpu in [pair for pair in running if pair[0].state != "running"]:
                    running.remove((training, gpu))
                    free_gpus.append(gpu)
                while queue and free_gpus:
                    training, gpu = queue.pop(0), free_gpus.pop(0)
                    _start_training(training, {**settings} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}))
                    running.append((training, gpu))
                view.show()
                time.sleep(POLL_SECONDS)
        finally:
            end_processes([training.process for training, _ in running if training.process])


def jobs_without_gpu(runtime: Runtime) -> int:
    """Returns how many trainings fit side by side on the CPU: as many as the number of threads that was set allows.

    Args:
        runtime: its `threads` and `processes` are used. Where `threads` is "auto", OMP_NUM_THREADS sets the number;
            without it each training has all cores, and they run one by one.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "") if runtime.threads == "auto" else str(runtime.threads)
    if not threads.isdecimal() or int(threads) == 0:
        return 1
    processes = 1 if runtime.processes == "auto" else runtime.processes
    return max(1, _thread_count() // (int(threads) * processes))


def thread_settings(jobs: int) -> dict[str, str]:
    """Returns the environment that divides the processor's threads among `jobs`; the user's own setting stays."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, _thread_count() // jobs))}


def threads_note(settings: Mapping[str, str]) -> str:
    """Returns a sentence on what `thread_settings` changes; '' where it changes nothing."""
    if not settings:
        return ""
    return (
        f"Each training has {settings['OMP_NUM_THREADS']} of the processor's {_thread_count()} threads, which changes "
        "rounding: its results equal those of other runs with as many threads, not those of `dvc repro`."
    )


def _thread_count() -> int:
    return available_cores()


def _start_training(training: Training, settings: dict[str, str]) -> None:
    """Starts this module as a process that reproduces the training's stage and writes its log."""
    training.log.parent.mkdir(parents=True, exist_ok=True)
    with training.log.open("wb") as log:
        training.process = start_process([sys.executable, "-m", __name__, training.stage], settings, log)


def start_process(
    command: list[str], settings: dict[str, str], output: Any, *, folder: Path | None = None, stdin: Any = None
) -> subprocess.Popen[bytes]:
    """Starts a process that the terminal's Ctrl-C does not reach.

    Args:
        command: the program and its arguments. `python` in a stage's command is the Python of this process.
        settings: environment variables that override this process's.
        output: file for standard output and standard error; None: this process's.
        folder: working folder of the process; None: this process's.
        stdin: file for standard input, or subprocess.PIPE; None: an empty one.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path} | settings,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def end_processes(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends the commands that DVC's processes run and returns when all have ended.

    DVC itself is not ended, because it could be writing dvc.lock; it ends when its command has failed.
    """
    start = time.monotonic()
    commands = set[psutil.Process]()  # collected, because a command whose shell has ended has no parent any more
    while True:
        running = [process for process in processes if process.poll() is None]
        for process in running:
            with suppress(psutil.NoSuchProcess):
                commands.update(psutil.Process(process.pid).children(recursive=True))
        commands = {command for command in commands if _is_running(command)}
        if not running and not commands:
            return
        for command in commands:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() < start + KILL_SECONDS:
                    command.terminate()
                else:
                    command.kill()
        time.sleep(POLL_SECONDS)


def _is_running(process: psutil.Process) -> bool:
    """Returns whether a process has not ended; a zombie, for which no parent has waited yet, has ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class ProgressView:
    """Shows trainings: on a terminal one line per training that is redrawn, elsewhere one line per change."""

    trainings: Sequence[Training]
    output: TextIO = field(default_factory=lambda: sys.stdout)

    def __enter__(self) -> "ProgressView":
        self._console = Console(file=self.output)
        self._live = Live(console=self._console, auto_refresh=False) if self.output.isatty() else None
        self._last: list[str] = [f"queued   {training.stage}" for training in self.trainings]
        if self._live and self.trainings:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.show()
        if self._live:
            self._live.stop()

    def show(self) -> None:
        """Shows what has changed since the last call."""
        lines = [str(training) for training in self.trainings]
        if lines == self._last:
            return
        if self._live:
            self._live.update(Text("\n".join(self._fitting(lines)), no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            for line in (new for new, old in zip(lines, self._last, strict=True) if new != old):
                print(line, file=self.output, flush=True)
        self._last = lines

    def _fitting(self, lines: list[str]) -> list[str]:
        """Returns the lines; on a terminal too low for them, those of running and failed trainings and a count."""
        if len(lines) < self._console.height:
            return lines
        shown = [line for line in lines if line.startswith(("running", "failed"))][: self._console.height - 2]
        rest = [line.split()[0] for line in lines if line not in shown]
        return [*shown, "and " + ", ".join(f"{rest.count(state)} {state}" for state in dict.fromkeys(rest))]


@contextmanager
def open_repo(*, wait: bool = False) -> Iterator[Repo]:
    """Opens the DVC project of the current folder; an error of DVC becomes an InputError.

    Args:
        wait: whether to wait for another process that has locked the project, instead of an error.
    """
    try:
        with Repo(_wait_for_lock=wait) as repo:
            yield repo
    except DvcException as error:
        raise InputError(str(error)) from None


def reproduce_stage(stage: str) -> int:
    """Lets DVC reproduce one stage up to, but not including, its entry in dvc.lock; returns the exit status."""
    setup(level=logging.INFO)
    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.reproduce([stage], single_item=True, repro_fn=lambda stage, **options: stage.reproduce(**options))
    except DvcException as error:
        cause = error.__cause__ or error
        if not str(cause).endswith("exited with 1"):  # with status 1 the command itself has printed the reason
            print(cause, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(reproduce_stage(sys.argv[1]))
