"""Hands the trainings of `tumorboard run --scheduler` to the workers of a Dask cluster, one at a time to each.

Which worker gets which training is decided here and not by Dask, which would give several trainings to a worker of
several threads. A training whose worker is lost goes to another one. What a worker does is in cluster_worker.py.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing, side_cache
from tumorboard.commands.cluster_worker import (
    Order,
    Outcome,
    WorkerFacts,
    examine_worker,
    package_digest,
    run_training,
)
from tumorboard.commands.own_checkout import Source, publish_study, take_result
from tumorboard.commands.trainings import KILL_SECONDS, ProgressView, Training, open_repo

OPTION = "--scheduler"
GPU = "GPU"  # the resource of Dask that a worker with a GPU declares: dask worker --resources GPU=1
LOSSES = 3  # workers that a training may lose before it counts as failed
WAIT_SECONDS = 30.0  # wait for a worker after the last one was lost
LOOK_SECONDS = 1.0  # between two looks at the cluster
# Dask sets these to 1 in its workers, and the number of threads decides the last digits of a result.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class ClusterTraining(Training):
    """One training that a worker of a cluster runs."""

    condition: str = "queued"  # 'queued', 'running', 'done' or 'failed'
    attempt: int = 0  # how many workers have had it
    host: str = ""  # machine of the worker that has it
    news: str = ""  # its last progress
    at_work: bool = False  # whether its process may run

    @property
    def state(self) -> str:
        """'queued', 'running', 'done' or 'failed'."""
        return self.condition

    def progress(self) -> str:
        """Returns the worker's machine and the last epoch with its validation."""
        return f"on {self.host}  {self.news}".rstrip()

    def fail(self, reason: str) -> None:
        """Sets the state to 'failed' and adds the reason to the log."""
        self.condition = "failed"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n{reason}\n")

    def __str__(self) -> str:
        if self.condition == "queued" and self.host:
            return f"queued   {self.stage}  the worker on {self.host} is lost"
        return super().__str__()


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster whose workers train."""

    scheduler: str  # address of the scheduler, as in tcp://host:8786
    own_checkouts: bool  # whether workers that see the study's folder train in checkouts of their own all the same


def check_cluster(cluster: Cluster) -> None:
    """Raises InputError if no scheduler answers or it has no workers, before other stages have run for hours."""
    from tumorboard.data.workers import open_client  # imports OpenCV, which a run without a cluster does not need

    with open_client(cluster.scheduler, OPTION):
        pass


def run_on_cluster(files: Mapping[str, Path], cluster: Cluster, received: Sequence[int]) -> list[Training]:
    """Runs trainings on the workers of a Dask cluster and shows their progress; returns when all have ended.

    Args:
        files: file for each training's output, by its stage, in the order of their start.
        cluster: its scheduler, and which checkouts its workers use.
        received: received signals; once there is one, no training is started and the running ones are ended.

    Returns:
        The trainings, each of which is done or has failed, unless a signal was received.

    Raises:
        InputError: the cluster cannot be used or is lost, or none of its workers can train this study.
    """
    from tumorboard.data.workers import open_client

    trainings = [ClusterTraining(*each) for each in files.items()]
    if not trainings:
        return []
    with open_client(cluster.scheduler, OPTION) as client, _marker_file() as marker:
        try:
            _Run(client, marker, trainings, cluster.own_checkouts).run(received)
        except OSError as error:  # the client has lost its connection
            raise InputError(
                f"{OPTION}: the scheduler at {cluster.scheduler} is lost ({error}). The results of finished trainings "
                "are in DVC's run cache; another run takes them from there"
            ) from None
    return [*trainings]


@dataclass
class _Run:
    """The trainings of one run and the workers that have them."""

    client: Any  # a distributed.Client
    marker: Path  # a file in the study's folder, by which a worker sees that it sees this folder
    trainings: list[ClusterTraining]
    own: bool

    def __post_init__(self) -> None:
        self._queue = list(self.trainings)
        self._running: dict[str, tuple[ClusterTraining, Any]] = {}  # training and future by the worker's address
        self._facts: dict[str, WorkerFacts | None] = {}  # by the worker's address; None: it cannot train this study
        self._digest = package_digest()
        self._source: Source | None = None

    def run(self, received: Sequence[int]) -> None:
        """Hands the trainings to the workers; returns when all have ended."""
        self.client.subscribe_topic(self.marker.name, self._on_event)
        usable_at = time.monotonic()  # last time at which there was a worker
        with ProgressView(self.trainings) as view:
            try:
                while not received:
                    workers = self._look()
                    for address in list(self._running):
                        self._follow(address, workers)
                    view.show()  # shows the lost training before it begins again
                    for address in workers:
                        if self._queue and address not in self._running:
                            self._start(address, workers[address])
                    if workers:
                        usable_at = time.monotonic()
                    elif time.monotonic() > usable_at + WAIT_SECONDS or not any(self._facts.values()):
                        raise InputError(f"{OPTION}: the cluster has no worker that can train this study")
                    view.show()
                    if not self._queue and not self._running:
                        return
                    time.sleep(LOOK_SECONDS)
            finally:
                self._stop()

    def _look(self) -> dict[str, dict[str, float]]:
        """Returns the resources of each worker that can train this study, by its address."""
        if self.client.status != "running":
            raise ConnectionError("no connection")
        # Not `scheduler_info`: its answer may be the one that Dask keeps for itself, which has no workers.
        workers = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=WAIT_SECONDS)[
            "workers"
        ]
        declared = {address: worker.get("resources") or {} for address, worker in workers.items()}
        if any(GPU in resources for resources in declared.values()):
            declared = {address: each for address, each in declared.items() if each.get(GPU, 0) >= 1}
        new = [address for address in declared if address not in self._facts]
        if new:
            answers = self.client.run(examine_worker, str(self.marker), workers=new, on_error="return")
            for address, answer in answers.items():
                self._facts[address] = self._judge(address, answer)
        return {address: each for address, each in declared.items() if self._facts.get(address) is not None}

    def _judge(self, address: str, answer: WorkerFacts | Exception) -> WorkerFacts | None:
        """Returns a worker's facts; None, with a message on standard error, if it cannot train this study."""
        if isinstance(answer, OSError):  # it has just left
            return None
        if isinstance(answer, Exception):
            refusal = f"the worker {address} has no tumorboard, or another one ({answer}): install this version there"
        elif answer.digest != self._digest:
            refusal = (
                f"the worker {address} on {answer.host} has another tumorboard ({answer.version or 'version unknown'}) "
                "than this machine: install the same there and start the worker again"
            )
        else:
            try:
                if self._source is None and (self.own or not answer.sees_study):
                    self._source = publish_study([training.stage for training in self.trainings])
                    print("The inputs of the trainings were pushed to the DVC remote.", file=sys.stderr)
                return answer
            except InputError as error:
                refusal = f"the worker {address} on {answer.host} needs a checkout of its own, but {error}"
        print(f"{OPTION}: {refusal}", file=sys.stderr)
        return None

    def _start(self, address: str, resources: dict[str, float]) -> None:
        """Hands the next training to a worker."""
        training, facts = self._queue.pop(0), self._facts[address]
        assert facts is not None
        training.condition, training.host, training.news = "running", facts.host, ""
        training.attempt += 1
        order = Order(
            stage=training.stage,
            attempt=training.attempt,
            topic=self.marker.name,
            folder=str(Path.cwd()),
            log=str(training.log),
            environment={name: os.environ.get(name) for name in THREADS},
            source=self._source if self.own or not facts.sees_study else None,
        )
        future = self.client.submit(
            run_training,
            order,
            key=f"{training.stage}-{self.marker.name}-{training.attempt}",
            workers=[address],
            resources={GPU: 1} if GPU in resources else None,
            pure=False,
        )
        self._running[address] = training, future

    def _follow(self, address: str, workers: dict[str, dict[str, float]]) -> None:
        """Takes the outcome of a training that has ended, or puts one whose worker is lost into the queue again."""
        training, future = self._running[address]
        if future.status == "finished" and (outcome := _result_of(future)):
            self._take(training, outcome)
        elif future.status == "error":
            if "deserialization" in str(future.exception()):
                raise InputError(f"{OPTION}: the scheduler lacks tumorboard, or has another one: install this one")
            training.fail(f"the worker on {training.host}: {future.exception()}")
        elif address in workers and future.status == "pending":
            return
        elif training.attempt > LOSSES:
            future.cancel()
            training.fail(f"{training.attempt} workers were lost while they had it; too little memory is one reason")
        else:
            future.cancel()
            training.condition, training.at_work = "queued", False
            release_locks(training.stage)
            self._queue.insert(0, training)
        del self._running[address]

    def _take(self, training: ClusterTraining, outcome: Outcome) -> None:
        try:
            if outcome.log is not None:
                with replacing(training.log) as temporary:
                    temporary.write_text(outcome.log, encoding="utf-8")
            if outcome.entry is not None:
                take_result(outcome.entry)
            training.condition = "failed" if outcome.status else "done"
        except (InputError, OSError) as error:
            training.fail(str(error))

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        """Notes what a worker reports; called in the client's thread."""
        _, news = event
        training = next(each for each in self.trainings if each.stage == news["stage"])
        if news["attempt"] == training.attempt:
            training.news = news.get("progress", training.news)
            training.at_work = "ended" not in news

    def _stop(self) -> None:
        """Ends the trainings that run, and waits until they have ended."""
        for _, future in self._running.values():
            future.cancel()
        deadline = time.monotonic() + KILL_SECONDS + 5
        while any(training.at_work for training, _ in self._running.values()) and time.monotonic() < deadline:
            time.sleep(0.1)


def _result_of(future: Any) -> Outcome | None:
    """Returns the result of a training that has ended; None if its worker was lost with it."""
    try:
        outcome: Outcome = future.result(timeout=WAIT_SECONDS)
    except TimeoutError:
        return None
    return outcome


@contextmanager
def _marker_file() -> Iterator[Path]:
    """Creates a file of a unique name in the study's folder, and deletes it at the end."""
    marker = side_cache(f"run-{uuid4().hex}")
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def release_locks(stage: str) -> None:
    """Removes the entries of a lost worker's training from DVC's lock file of the study's folder.

    DVC would look for the process by its number, but on the machine of the worker that trains next.

    Args:
        stage: stage of the training, as in train@cnn-0.
    """
    with open_repo(wait=True) as repo, repo.lock:
        file = Path(repo.tmp_dir) / "rwlock"
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # DVC itself reports a damaged file
            return
        kept = {
            "write": {path: holder for path, holder in tree.get("write", {}).items() if not _is_of(holder, stage)},
            "read": {
                path: left
                for path, holders in tree.get("read", {}).items()
                if (left := [holder for holder in holders if not _is_of(holder, stage)])
            },
        }
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")


def _is_of(holder: dict[str, Any], stage: str) -> bool:
    """Returns whether a lock's holder runs the command of a training."""
    return str(holder["cmd"]).endswith(f" {stage}")
