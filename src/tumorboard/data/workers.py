"""Maps a function over items in this process, in local processes, or on an existing Dask cluster."""

import multiprocessing
import multiprocessing.context
import re
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar

import cv2
import psutil

from tumorboard.base.cores import available_cores
from tumorboard.base.errors import InputError, printable
from tumorboard.base.interrupts import is_single_threaded
from tumorboard.base.processes import Child, running_children
from tumorboard.base.run_params import SCHEDULER

T = TypeVar("T")
R = TypeVar("R")

# Called as parallel_map(task, items); yields task(item) for each item, in the order of items.
ParallelMap: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
# Called as submit(task, item); returns an object whose method `result` waits for task(item).
_Submit: TypeAlias = Callable[[Callable[[Any], Any], Any], Any]

QUEUED_PER_WORKER = 8  # items that are submitted before their results are asked for
# Bytes that a process which decodes images takes at most, measured (docs/quarantine.md): with images of up to
# data.crop.LARGE_PIXELS and LARGE_BYTES, and with any image within the default limits.
SMALL_MEMORY = 1 << 29
LARGE_MEMORY = 3 << 29
CONNECT_SECONDS = 20  # time in which a scheduler must answer and its first worker must be there


def worker_count(workers: Literal["auto"] | int) -> int:
    """Returns the number of processes for `runtime.workers`; 'auto' means one per core that this process may use.

    >>> worker_count(3)
    3
    """
    if workers != "auto":
        return workers
    return available_cores()


def limit_workers(workers: int, memory: int) -> int:
    """Returns how many of the processes may run at the same time, so that all of them fit into the free memory.

    Args:
        workers: number of processes that are wanted.
        memory: bytes that one of them takes at most.
    """
    return max(1, min(workers, free_memory() // memory))


def free_memory() -> int:
    """Returns the bytes of memory that are free on this machine, or in this process's control group if fewer."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):  # no control groups, or those of version 1
        return free


@contextmanager
def open_workers(workers: int, scheduler: str | None) -> Iterator[ParallelMap]:
    """Opens workers and yields a parallel map, which returns results in the order of its items.

    One local worker is the built-in map, which computes a result when it is asked for. Several are processes that start
    at once; they, and the threads of a cluster's workers, run at most QUEUED_PER_WORKER items each ahead of what is
    asked for, so that results do not fill the memory. OpenCV runs with one thread in each of them. A cluster repeats
    the items of a worker that is lost.

    Args:
        workers: number of local processes.
        scheduler: address of a Dask scheduler (tcp://host:port), whose cluster is used instead of local processes.

    Yields:
        parallel_map(task, items), where `task` is a module-level function or a partial of one.

    Raises:
        InputError: the scheduler cannot be used, a local process is killed or cannot be started, or an item loses
            several workers of a cluster.

    >>> with open_workers(1, None) as parallel_map:
    ...     list(parallel_map(abs, [-2, 1, -3]))
    [2, 1, 3]
    """
    if scheduler is not None:
        with _connect(scheduler) as (submit, threads):
            yield partial(_map_on_cluster, submit, QUEUED_PER_WORKER * threads, scheduler)
    elif workers == 1:
        yield map
    else:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # ends OpenCV's thread pool, for which forked processes would wait forever
        try:
            with running_children(_process_context(), workers, _serve) as children, _Pool(children) as pool:
                yield partial(_map_ahead, pool.submit, QUEUED_PER_WORKER * workers)
        finally:
            cv2.setNumThreads(threads)


def _process_context() -> multiprocessing.context.BaseContext:
    """Returns the fork method where it is safe, which is where no other thread can hold a lock; else spawn.

    Forked processes are ready at once, while spawned ones import modules for a second.
    """
    fork = sys.platform == "linux" and is_single_threaded()
    return multiprocessing.get_context("fork" if fork else "spawn")


def _serve(connection: Connection, _: int) -> None:
    """Runs the items that come through the pipe, in a child process, and sends back each result or error."""
    cv2.setNumThreads(1)
    while True:
        task, item = connection.recv()
        try:
            answer = ForkingPickler.dumps((True, task(item)))
        except Exception as error:
            error.add_note(f"In a process that decodes images:\n{traceback.format_exc()}")
            answer = _pickled(error)
        connection.send_bytes(answer)


def _pickled(error: Exception) -> Any:
    """Pickles an error, or the text of one that cannot be unpickled."""
    try:
        answer = ForkingPickler.dumps((False, error))
        ForkingPickler.loads(answer)
    except Exception:
        return ForkingPickler.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


class _Pool:
    """Distributes items to child processes, by one thread for each."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._idle = SimpleQueue[Child]()
        for child in children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(len(children))

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        # The threads end when the children are ended.
        self._threads.shutdown(wait=False, cancel_futures=True)

    def submit(self, task: Callable[[T], R], item: T) -> "Future[R]":
        """Runs `task(item)` in the child that is free first."""
        return self._threads.submit(self._run, task, item)

    def _run(self, task: Callable[[T], R], item: T) -> R:
        child = self._idle.get()
        try:
            child.connection.send((task, item))
            succeeded, value = child.connection.recv()
        except (EOFError, OSError):
            raise InputError(
                f"a process that decodes images {child.cause_of_end()}, most likely because memory ran out: "
                "lower runtime.workers or crop.max_pixels"
            ) from None
        finally:
            self._idle.put(child)  # also a child that has ended, whose next items end at once
        if not succeeded:
            raise value
        return value  # type: ignore[no-any-return]


def _map_ahead(submit: _Submit, ahead: int, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Submits the first `ahead` items now, and another one whenever a result is asked for."""
    waiting, submitted = deque(items), deque[Any]()

    def submit_more() -> None:
        while waiting and len(submitted) < ahead:
            submitted.append(submit(task, waiting.popleft()))

    def results() -> Iterator[R]:
        while submitted:
            result = submitted.popleft().result()
            submit_more()
            yield result

    submit_more()
    return results()


@contextmanager
def open_client(scheduler: str, setting: str) -> Iterator[Any]:
    """Connects to a Dask cluster and yields distributed's Client.

    Args:
        scheduler: address of the cluster's scheduler (tcp://host:port).
        setting: name of the setting that gives the address, for errors: `runtime.scheduler` or an option.

    Raises:
        InputError: it is no address, dask.distributed is not installed, no scheduler answers, or it has no workers.
    """
    if not re.fullmatch(SCHEDULER, scheduler):
        raise InputError(f"{setting}: {printable(scheduler)!r} is no address, such as tcp://host:8786")
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"{setting} is {scheduler}, but dask.distributed is not installed: install tumorboard[cluster], or leave "
            f"{setting} empty"
        ) from None
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise InputError(
            f"{setting}: no Dask scheduler answers at {scheduler} within {CONNECT_SECONDS} s ({error}): start one with "
            f"`dask scheduler`, or leave {setting} empty"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise InputError(
                f"{setting}: the scheduler at {scheduler} has no workers: start some with `dask worker {scheduler}`"
            ) from None
        yield client


@contextmanager
def _connect(scheduler: str) -> Iterator[tuple[_Submit, int]]:
    """Yields a function that submits an item to a cluster, and the present number of threads of its workers."""
    with open_client(scheduler, "runtime.scheduler (or --scheduler)") as client:
        # With pure=True Dask would answer a run from the results that an earlier run left on the cluster.
        yield partial(client.submit, pure=False), max(1, sum(client.nthreads().values()))


def _map_on_cluster(
    submit: _Submit, ahead: int, scheduler: str, task: Callable[[T], R], items: Sequence[T]
) -> Iterator[R]:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        yield from _map_ahead(submit, ahead, partial(_run_on_worker, task), items)
    except (KilledWorker, FutureCancelledError) as error:
        raise InputError(f"runtime.scheduler: the cluster at {scheduler} gave up: {error}") from None
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise InputError(
            f"runtime.scheduler: the cluster at {scheduler} has no tumorboard or another version of it: install this "
            "version for its scheduler and its workers"
        ) from None


def _run_on_worker(task: Callable[[T], R], item: T) -> R:
    """Runs one item on a cluster's worker and names the machine in errors."""
    cv2.setNumThreads(1)  # a Dask worker runs one task per thread already
    try:
        return task(item)
    except InputError as error:
        raise InputError(f"worker on {socket.gethostname()}: {error}") from None
