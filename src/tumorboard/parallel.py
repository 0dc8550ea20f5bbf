"""The project brought up to date with its trainings side by side, one a GPU.

DVC runs one stage after another (its issue 755). What speaks against the plainer ways, tried with DVC 3.67:

- Several `dvc --wait-for-lock repro --single-item train@…` at a time take turns at dvc.lock, but append their entries
  in the order in which they end, so that the file differs from a serial run's.
- Running the stages' commands here, and `dvc commit` after them, would do again what DVC does before a command: remove
  old outs, look for the result in the run cache, mark what is in use.

So each training is DVC's own reproduction of its stage, in a process of its own, with all but the last step, the entry
in dvc.lock. A plain `dvc repro` then finds every result in the run cache. It alone writes dvc.lock, as if it had
trained. Killing this process outright leaves trainings that run to their end, into the run cache.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tumorboard.errors import InputError
from tumorboard.params import Runtime

_TICK = 0.2  # seconds between two looks at the processes
_PATIENCE = 10.0  # seconds that a stage's command has to end before it is killed
_EPOCH = re.compile(r"epoch (\d+/\d+).*?(val loss \S+ accuracy \S+)")


def run(targets: Sequence[str], jobs: int, gpus: Sequence[str], logs: Path, matrix: str = "train") -> int:
    """Bring the targets (all where none is named) up to date as `dvc repro` would; the exit status.

    Stages of `matrix` that changed run side by side, at most `jobs` at a time, and share out the processor's threads.
    Each sees one of `gpus` (entries of CUDA_VISIBLE_DEVICES; none: as this process). A failing one leaves the others
    running and keeps only the stages that need it from running. Output goes to `logs`/<stage>.log. SIGINT, SIGTERM and
    SIGHUP end the commands, and DVC as if they had failed. Raises InputError.
    """
    with _signals() as received:
        failed: list[Training] = []
        plan = _plan(targets, matrix)
        changed = _changed([*plan.early, *plan.matrix])
        status = _repro(plan.early, received) if changed & set(plan.early) else 0
        if not status and not received:
            if changed & set(plan.early):
                changed = _changed(plan.matrix)
            trainings = [Training(stage, logs / f"{stage}.log") for stage in plan.matrix if stage in changed]
            _train(trainings, jobs, gpus, received)
            failed = [training for training in trainings if training.state == "failed"]
        if not status and not received:
            rest = plan.without({training.stage for training in failed}) if failed else [*targets]
            status = _repro(rest, received) if rest or not failed else 0
    if received:
        print("Stopped. Trainings that had ended are in DVC's run cache; another run takes them from there.")
    elif failed:
        print(f"\n{len(failed)} of {len(trainings)} trainings failed; another run trains these only:", file=sys.stderr)
        for training in failed:
            print(f"  {training.stage}  {training.reason()}\n    {training.log}", file=sys.stderr)
    return _exit_status(status or bool(failed), received)


def choose_gpus(wanted: str | None, runtime: Runtime) -> list[str]:
    """The GPUs to share out, as entries of CUDA_VISIBLE_DEVICES: those wanted ('0,1'), else all visible; [] on the CPU.

    Sets CUDA_VISIBLE_DEVICES of this process. Raises InputError where a wanted one does not exist: its training would
    silently run on the CPU.
    """
    if runtime.device == "cpu":
        if wanted:
            raise InputError(f"--gpus is {wanted}, but runtime.device is cpu: set it to auto or cuda")
        return []
    if wanted is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = wanted
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order in which nvidia-smi counts them
    import torch  # slow, and not needed on the CPU

    found = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(found)] if visible is None else visible.split(",")
    if wanted is not None and (found != len(names) or len(set(names)) < found):
        raise InputError(
            f"--gpus is {wanted}: torch finds {found} GPUs there; name existing ones, each once, as in 0,1"
        )
    if names[:found] and runtime.processes not in ("auto", 1):
        raise InputError(f"runtime.processes is {runtime.processes}, but each training gets one GPU: set it to auto")
    return names[:found]


@dataclass
class Training:
    """One stage of the matrix, run in a process of its own, and what its log says of it."""

    stage: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> str:
        """'queued', 'running', 'done' or 'failed'."""
        if self.process is None:
            return "queued"
        status = self.process.poll()
        return "running" if status is None else "failed" if status else "done"

    def progress(self) -> str:
        """The last epoch and its validation, as far as the log tells; 'from the run cache' where nothing was run."""
        lines = self._lines()
        if any("is cached - skipping run" in line for line in lines):
            return "from the run cache"
        found = [match for line in lines if (match := _EPOCH.search(line))]
        return f"epoch {found[-1][1]}  {found[-1][2]}" if found else ""

    def reason(self) -> str:
        """The log's last line."""
        return next(reversed(self._lines()), "no output")

    def _lines(self) -> list[str]:
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2**16))
            lines = file.read().decode("utf-8", "replace").splitlines()  # a progress bar's \r ends a line as well
        return [line.strip() for line in lines if line.strip()]

    def __str__(self) -> str:
        said = {"queued": "", "failed": self.reason() if self.state == "failed" else ""}
        return f"{self.state:<7}  {self.stage}  {said.get(self.state, self.progress())}".rstrip()


@dataclass(frozen=True)
class _Plan:
    """The stages that the targets need, in DVC's order, each with all that it needs and itself; and the matrix's."""

    needs: dict[str, set[str]]
    matrix: list[str]

    @property
    def early(self) -> list[str]:
        """What the matrix needs."""
        needed = set[str]().union(*(self.needs[stage] for stage in self.matrix))
        return [stage for stage in self.needs if stage in needed and stage not in self.matrix]

    def without(self, failed: set[str]) -> list[str]:
        """What needs none of the failed."""
        return [stage for stage, needed in self.needs.items() if not failed & needed]


def _plan(targets: Sequence[str], matrix: str) -> _Plan:
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with _repo() as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        steps = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
        needs = {stage.addressing: {one.addressing for one in plan_repro(graph, [stage])} for stage in steps}
    return _Plan(needs, [stage for stage in needs if stage.split("@")[0] == matrix])


def _changed(stages: list[str]) -> set[str]:
    with _repo() as repo:
        return set(repo.status(targets=stages)) if stages else set()


@contextmanager
def _repo() -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        raise InputError(str(error)) from None


def _repro(targets: list[str], received: list[int]) -> int:
    process = _start([sys.executable, "-m", "dvc", "repro", *targets], {}, None)
    while process.poll() is None:
        if received:
            _end([process])
        time.sleep(_TICK)
    return process.returncode


def _train(trainings: list[Training], jobs: int, gpus: Sequence[str], received: list[int]) -> None:
    free = [gpus[slot % len(gpus)] if gpus else None for slot in range(jobs)]
    settings = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        settings["OMP_NUM_THREADS"] = str(threads)
        if not gpus and trainings:
            print(
                f"Each training has {threads} of the processor's {len(os.sched_getaffinity(0))} threads, which changes "
                "rounding: its bits are those of another run with as many, not those of `dvc repro`.",
                file=sys.stderr,
            )
    queue, taken = list(trainings), list[tuple[Training, str | None]]()
    with _View(trainings) as view:
        try:
            while (queue or taken) and not received:
                for training, gpu in [one for one in taken if one[0].state != "running"]:
                    taken.remove((training, gpu))
                    free.append(gpu)
                while queue and free:
                    training, gpu = queue.pop(0), free.pop(0)
                    visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
                    training.log.parent.mkdir(parents=True, exist_ok=True)
                    with training.log.open("wb") as log:
                        command = [sys.executable, "-m", __name__, training.stage]
                        training.process = _start(command, settings | visible, log)
                    taken.append((training, gpu))
                view.show()
                time.sleep(_TICK)
        finally:
            _end([training.process for training, _ in taken if training.process])


def _start(command: list[str], settings: dict[str, str], output: Any) -> subprocess.Popen[bytes]:
    """Start a process that the terminal's Ctrl-C does not reach, whose stages' `python` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.Popen(
        command,
        env=os.environ | {"PATH": path} | settings,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what DVC's processes run, never DVC itself, which could be writing dvc.lock; return when all have ended."""
    start = time.monotonic()
    commands = set[psutil.Process]()  # kept, as one whose shell has ended is nobody's child any more
    while True:
        running = [process for process in processes if process.poll() is None]
        for process in running:
            with suppress(psutil.NoSuchProcess):
                commands.update(psutil.Process(process.pid).children(recursive=True))
        commands = {command for command in commands if _runs(command)}
        if not running and not commands:
            return
        for command in commands:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() < start + _PATIENCE:
                    command.terminate()
                else:
                    command.kill()
        time.sleep(_TICK)


def _runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask this process to end, so that it can do so in order."""
    received: list[int] = []
    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup sets it
    ]
    old = {number: signal.signal(number, lambda number, _: received.append(number)) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _exit_status(status: int, received: list[int]) -> int:
    return 128 + received[0] if received else int(status)


@dataclass
class _View:
    """The trainings on standard output: on a terminal a line each that changes, elsewhere a line a change."""

    trainings: list[Training]
    output: TextIO = field(default_factory=lambda: sys.stdout)

    def __enter__(self) -> "_View":
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
        """Bring what is shown up to date."""
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
        """The lines, or where the terminal is too low for them those that run or failed and how many there are else."""
        if len(lines) < self._console.height:
            return lines
        shown = [line for line in lines if line.startswith(("running", "failed"))][: self._console.height - 2]
        rest = [line.split()[0] for line in lines if line not in shown]
        return [*shown, "and " + ", ".join(f"{rest.count(state)} {state}" for state in dict.fromkeys(rest))]


def _reproduce(stage: str) -> int:
    """Reproduce one stage up to, but not including, its entry in dvc.lock; the exit status."""
    from dvc.exceptions import DvcException
    from dvc.logger import setup
    from dvc.repo import Repo

    setup(level=logging.INFO)
    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.reproduce([stage], single_item=True, repro_fn=lambda stage, **options: stage.reproduce(**options))
    except DvcException as error:
        cause = error.__cause__ or error
        if not str(cause).endswith("exited with 1"):  # else the command has printed why
            print(cause, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_reproduce(sys.argv[1]))
