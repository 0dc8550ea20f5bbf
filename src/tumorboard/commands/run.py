"""The command `tumorboard run`: `dvc repro` with trainings and evaluations side by side, one per GPU or some per CPU.

DVC runs one stage after another (its issue 755). Two simpler designs were tried with DVC 3.67 and rejected:

- Several `dvc --wait-for-lock repro --single-item train@…` at a time take turns at dvc.lock, but each appends its entry
  when it ends, so the file differs from the one that a serial run writes.
- Running the stages' commands here, with `dvc commit` afterwards, would reimplement what DVC does before a command: it
  removes old outputs, looks for the result in the run cache, and marks the files in use.

Instead, each training is a process in which DVC reproduces the stage without its last step, the entry in dvc.lock. A
plain `dvc repro` then takes every result from the run cache and writes dvc.lock as if it had trained. If this process
is killed outright, its trainings continue to their end, and their results are in the run cache too. The workers of a
cluster run the same processes (cluster.py), which end with this one and resume at the next run.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import modify_yaml

from tumorboard.base.errors import InputError
from tumorboard.base.files import side_cache
from tumorboard.base.params import Runtime, load_params
from tumorboard.commands.cluster import Cluster, check_cluster, run_on_cluster
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.start_checks import prepare_start
from tumorboard.commands.trainings import (
    POLL_SECONDS,
    Training,
    end_processes,
    jobs_without_gpu,
    open_repo,
    run_trainings,
    start_process,
    thread_settings,
    threads_note,
)

TRAIN, EVALUATE = SIDE_BY_SIDE = ("train", "evaluate")  # stages of dvc.yaml whose matrices are run side by side

app = typer.Typer(add_completion=False)


@app.command("run", epilog="Example: tumorboard run --gpus 0,1")
@reports_user_errors
def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or outputs, as `dvc repro` takes them; default: all.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Trainings, or evaluations, at a time; default: one per GPU; without, as many as there are cores for "
            "their runtime.threads or OMP_NUM_THREADS, and 1 where neither is set.",
        ),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs to use, as in 0,1; default: all visible ones.", show_default=False)
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Dask scheduler, as in tcp://host:8786, whose workers train; one training each."
        ),
    ] = None,
    own_checkouts: Annotated[
        bool,
        typer.Option(
            "--own-checkouts", help="The workers train in checkouts of their own, also where they see this folder."
        ),
    ] = False,
) -> None:
    """Brings the project up to date like `dvc repro`, with trainings and evaluations side by side.

    A failed training leaves the others running; another run repeats only what failed.
    Stale locks and torn files of DVC are mended first, as by `tumorboard doctor --fix`.
    """
    if scheduler and (jobs or gpus):
        raise InputError("--jobs and --gpus divide this machine, but with --scheduler each worker has one training")
    if own_checkouts and not scheduler:
        raise InputError("--own-checkouts is for the workers of a cluster: name its scheduler, --scheduler ADDRESS")
    cluster = Cluster(scheduler, own_checkouts) if scheduler else None
    if cluster:
        check_cluster(cluster)
    for line in prepare_start(Path()):
        print(line, file=sys.stderr)
    logs = side_cache("logs")
    if cluster:
        raise typer.Exit(reproduce_in_parallel(targets or [], cluster=cluster, logs=logs))
    runtime = load_params("params.yaml").runtime
    chosen, divide = choose_gpus(gpus, runtime), runtime.threads == "auto"
    jobs = jobs or len(chosen) or jobs_without_gpu(runtime)
    raise typer.Exit(reproduce_in_parallel(targets or [], jobs=jobs, gpus=chosen, logs=logs, divide=divide))


def reproduce_in_parallel(
    targets: Sequence[str],
    *,
    logs: Path,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    divide: bool = True,
    cluster: Cluster | None = None,
) -> int:
    """Brings targets up to date like `dvc repro`, with the changed trainings side by side, then their evaluations.

    A failed training leaves the others running; only the stages that need it are left out. On SIGINT, SIGTERM and
    SIGHUP the running commands are ended, and DVC ends as if they had failed.

    Args:
        targets: stages or outputs, as `dvc repro` takes them; empty: all.
        logs: folder that gets the output of each training and evaluation as <stage>.log.
        jobs: trainings, or evaluations, at a time; with 1, and on a cluster, `dvc repro` evaluates.
        gpus: entries of CUDA_VISIBLE_DEVICES, one per training; empty: each training sees what this process sees.
        divide: whether the trainings divide the processor's threads; false where `runtime.threads` is a number.
        cluster: runs the trainings in place of this machine, and `jobs` and `gpus` are not used.

    Returns:
        The exit status: 0, the one of a failed `dvc repro`, 1 if a stage failed, or 128 + the signal's number.

    Raises:
        InputError: DVC cannot load the project or find a target, or the cluster cannot train.
    """
    with collected_signals() as received:
        ran: list[Training] = []
        plan = _plan(targets)
        changed = _changed([*plan.before, *plan.stages[TRAIN]])
        status = _dvc_repro(plan.before, received) if changed & set(plan.before) else 0
        if not status and not received:
            if changed & set(plan.before):
                changed = _changed(plan.stages[TRAIN])
            files = _log_files(plan.stages[TRAIN], changed, logs)
            if cluster:
                ran = run_on_cluster(files, cluster, received)
                _forget_lost_outputs(ran)
            else:
                settings = thread_settings(jobs) if divide else {}
                ran = _run_on_this_machine(plan, files, logs, jobs, gpus, received, settings)
        failed = _failed(ran)
        if not status and not received:
            rest = plan.without(failed) if failed else [*targets]
            status = _dvc_repro(rest, received) if rest or not failed else 0
    if received:
        print("Stopped. The results of finished trainings are in DVC's run cache; another run takes them from there.")
    elif failed:
        _print_failures(ran)
    return 128 + received[0] if received else int(status or bool(failed))


def choose_gpus(wanted: str | None, runtime: Runtime) -> list[str]:
    """Chooses the GPUs of a run and sets CUDA_VISIBLE_DEVICES of this process to those wanted.

    Args:
        wanted: numbers or names with commas between them, as in '0,1'; None: all visible ones.
        runtime: decides between CPU and CUDA.

    Returns:
        Entries of CUDA_VISIBLE_DEVICES; empty on the CPU.

    Raises:
        InputError: a wanted GPU does not exist, since its training would silently run on the CPU; or
            `runtime.processes` asks for several GPUs per training.
    """
    if runtime.device == "cpu":
        if wanted:
            raise InputError(f"--gpus is {wanted}, but runtime.device is cpu: set it to auto or cuda")
        return []
    if wanted is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = wanted
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order in which nvidia-smi numbers the GPUs
    import torch  # here, because it is slow to import and not needed on the CPU

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if visible is None else visible.split(",")
    if wanted is not None and (count != len(names) or len(set(names)) < count):
        raise InputError(
            f"--gpus is {wanted}: torch finds {count} GPUs there; name existing ones, each once, as in 0,1"
        )
    if names[:count] and runtime.processes not in ("auto", 1):
        raise InputError(f"runtime.processes is {runtime.processes}, but each training gets one GPU: set it to auto")
    return names[:count]


@dataclass(frozen=True)
class _Plan:
    """The stages that the targets need, in DVC's order."""

    needs: dict[str, set[str]]  # all stages that a stage needs, itself included, by stage

    @property
    def stages(self) -> dict[str, list[str]]:
        """The stages of each matrix of SIDE_BY_SIDE."""
        return {name: [stage for stage in self.needs if stage.split("@")[0] == name] for name in SIDE_BY_SIDE}

    @property
    def before(self) -> list[str]:
        """The other stages that the trainings need."""
        trainings = self.stages[TRAIN]
        needed = set[str]().union(*(self.needs[stage] for stage in trainings))
        return [stage for stage in self.needs if stage in needed and stage not in trainings]

    def without(self, failed: set[str]) -> list[str]:
        """Returns the stages that need none of the failed ones."""
        return [stage for stage, needed in self.needs.items() if not failed & needed]


def _plan(targets: Sequence[str]) -> _Plan:
    with open_repo() as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        steps = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
        needs = {stage.addressing: {other.addressing for other in plan_repro(graph, [stage])} for stage in steps}
    return _Plan(needs)


def _log_files(stages: Sequence[str], changed: set[str], logs: Path) -> dict[str, Path]:
    """Returns the log of each stage that changed."""
    return {stage: logs / f"{stage}.log" for stage in stages if stage in changed}


def _run_on_this_machine(
    plan: _Plan,
    trainings: Mapping[str, Path],
    logs: Path,
    jobs: int,
    gpus: Sequence[str],
    received: list[int],
    settings: Mapping[str, str],
) -> list[Training]:
    """Runs trainings side by side, whose log is given for each, then the changed evaluations of those that ended well.

    The other arguments are those of `reproduce_in_parallel` and `run_trainings`.
    """
    if trainings and not gpus and (note := threads_note(settings)):
        print(note, file=sys.stderr)
    ran = _run_side_by_side(trainings, jobs, gpus, received, settings)
    if jobs == 1 or received:
        return ran
    stages = [stage for stage in plan.stages[EVALUATE] if not _failed(ran) & plan.needs[stage]]
    evaluations = _log_files(stages, _changed(stages), logs)
    return ran + _run_side_by_side(evaluations, jobs, gpus, received, settings)


def _run_side_by_side(
    files: Mapping[str, Path], jobs: int, gpus: Sequence[str], received: list[int], settings: Mapping[str, str]
) -> list[Training]:
    ran = [Training(*each) for each in files.items()]
    run_trainings(ran, jobs, gpus, received, settings)
    _forget_lost_outputs(ran)
    return ran


def _print_failures(ran: Sequence[Training]) -> None:
    """Names each stage that failed, with its reason and its log."""
    failed = _failed(ran)
    print(f"\n{len(failed)} of {len(ran)} stages failed; another run repeats only these:", file=sys.stderr)
    for training in ran:
        if training.stage in failed:
            print(f"  {training.stage}  {training.reason()}\n    {training.log}", file=sys.stderr)


def _failed(ran: Sequence[Training]) -> set[str]:
    return {training.stage for training in ran if training.state == "failed"}


def _changed(stages: list[str]) -> set[str]:
    """Returns the stages that `dvc status` lists."""
    with open_repo() as repo:
        return set(repo.status(targets=stages)) if stages else set()


def _forget_lost_outputs(ran: Sequence[Training]) -> None:
    """Removes outputs that are not in the cache from the entries of stages in dvc.lock that have run.

    For an entry with outputs DVC looks only for these, as in a clone without its cache, and not in the run cache: it
    would train once more. The next `dvc repro` writes the whole entry in the same place.
    """
    done = [training.stage for training in ran if training.state == "done"]
    if not done:
        return
    with open_repo() as repo, repo.lock:
        lost = [stage.name for name in done for stage in repo.stage.collect(name) if not stage.outs_cached()]
        if lost and Path("dvc.lock").is_file():
            with modify_yaml("dvc.lock") as tree:
                for name in lost:
                    tree["stages"].get(name, {}).pop("outs", None)


def _dvc_repro(targets: list[str], received: list[int]) -> int:
    """Runs `dvc repro`, ends its commands once a signal was received, and returns its exit status."""
    process = start_process([sys.executable, "-m", "dvc", "repro", *targets], {}, None)
    while process.poll() is None:
        if received:
            end_processes([process])
        time.sleep(POLL_SECONDS)
    return process.returncode


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects the signals that ask this process to end, instead of ending at once."""
    received: list[int] = []
    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup ignores SIGHUP, and so do its children
    ]
    old = {number: signal.signal(number, lambda number, _: received.append(number)) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
