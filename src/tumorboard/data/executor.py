"""Where work is done: in this process, in several local ones, or on an existing Dask cluster."""

import multiprocessing
import multiprocessing.context
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import cv2

from tumorboard.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]

AHEAD = 8  # items a process that are begun or done before they are asked for
CONNECT = 20  # seconds in which a scheduler has to answer, and a first worker to be there


@contextmanager
def open_run(workers: int, scheduler: str | None) -> Iterator[Run]:
    """A function `run(task, items)` that yields the results of `task(item)` in the order of items.

    Without a `scheduler` (tcp://host:port) it is the built-in map for one worker, else the work of so many processes,
    which begin at once and are never further ahead of what is asked for than some items each, so that their results
    do not fill the memory; with one, the map of the Executor which dask.distributed's `Client.get_executor` returns.
    Tasks are module-level functions or partials of them; OpenCV has one thread in each process but this one. Raises
    InputError for a scheduler that cannot be used, a local process that is killed, and a task that loses several
    workers of a cluster: the work of a lost one is done again by the others.
    """
    if scheduler is not None:
        with _connect(scheduler) as executor:
            yield partial(_run_on_cluster, executor, scheduler)
    elif workers == 1:
        yield map
    else:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # ends OpenCV's own threads, without which its processes would wait forever after a fork
        try:
            with ProcessPoolExecutor(workers, _context(), _begin_worker) as pool:
                pool.submit(int).result()  # forks all of them now, before a progress bar has a thread
                yield partial(_run_on_pool, pool, AHEAD * workers)
        finally:
            cv2.setNumThreads(threads)


def _begin_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that waits for work does not notice by itself that the one which gave it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _context() -> multiprocessing.context.BaseContext:
    """Forks are ready at once, where new processes import for a second; they are safe where no thread holds a lock."""
    alone = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if alone else "spawn")


def _run_on_pool(pool: Executor, ahead: int, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    waiting, begun = deque(items), deque[Future[R]]()

    def begin() -> None:
        while waiting and len(begun) < ahead:
            begun.append(pool.submit(task, waiting.popleft()))

    def results() -> Iterator[R]:
        with _explain_pool():
            while begun:
                result = begun.popleft().result()
                begin()
                yield result

    with _explain_pool():
        begin()
    return results()


@contextmanager
def _explain_pool() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            "a process that decodes images was killed, most likely for want of memory: "
            "lower runtime.workers or crop.max_pixels"
        ) from None


@contextmanager
def _connect(scheduler: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"runtime.scheduler is {scheduler}, but dask.distributed is not installed: install tumorboard[cluster], "
            "or set it to null"
        ) from None
    try:
        client = Client(scheduler, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise InputError(
            f"runtime.scheduler: no Dask scheduler answers at {scheduler} within {CONNECT} s ({error}): start one with "
            "`dask scheduler`, or set it to null"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
        except TimeoutError:
            raise InputError(
                f"runtime.scheduler: the scheduler at {scheduler} has no workers: start some with "
                f"`dask worker {scheduler}`"
            ) from None
        # Not pure: a run is not to be answered from the results that another one left on the cluster.
        with client.get_executor(pure=False) as executor:  # type: ignore[no-untyped-call]
            yield executor


def _run_on_cluster(executor: Executor, scheduler: str, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        yield from executor.map(partial(_on_worker, task), items)
    except (KilledWorker, FutureCancelledError) as error:
        raise InputError(f"runtime.scheduler: the cluster at {scheduler} gave up: {error}") from None
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise InputError(
            f"runtime.scheduler: the cluster at {scheduler} has no tumorboard, or another version of it: install the "
            "same as here for its scheduler and its workers"
        ) from None


def _on_worker(task: Callable[[T], R], item: T) -> R:
    # A worker runs a task a thread already.
    cv2.setNumThreads(1)
    try:
        return task(item)
    except InputError as error:
        raise InputError(f"worker on {socket.gethostname()}: {error}") from None
