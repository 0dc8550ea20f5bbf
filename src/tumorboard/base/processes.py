"""Child processes: each has a pipe of its own to its parent, leaves Ctrl-C to it, and ends with it.

A child that is killed is noticed at once as the end of its pipe. The pools of Python's library share queues, with locks
that a killed process may hold for ever: they then hang, and so does Ctrl-C.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from tumorboard.base.errors import InputError
from tumorboard.base.interrupts import blocked_signals, leave_to_parent

TERM_SECONDS = 0.5  # seconds in which a child deletes its temporary files before it is killed
JOIN_SECONDS = 1.0  # seconds to wait for the end of a child whose pipe has ended


@dataclass(frozen=True)
class Child:
    """A child process, as its parent sees it."""

    process: BaseProcess
    connection: Connection  # the parent's end of the pipe to the child

    def cause_of_end(self) -> str:
        """Returns how the child ended, such as 'was killed (SIGKILL)'; call it after its pipe has ended."""
        self.process.join(JOIN_SECONDS)
        status = self.process.exitcode
        if status is None:
            return "does not answer"
        if status >= 0:
            return f"ended with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"was killed ({name})"


@contextmanager
def running_children(context: BaseContext, size: int, work: Callable[..., None], *values: Any) -> Iterator[list[Child]]:
    """Starts child processes that run `work(connection, number, *values)`, and ends them with the context.

    Args:
        context: multiprocessing's context, which decides between fork and spawn.
        size: number of children.
        work: module-level function; `connection` leads to this process, `number` counts the children from 0.
        values: further arguments of `work`, the same for all children; they are pickled for a spawned one.

    Raises:
        InputError: the system starts no further process.
    """
    children: list[Child] = []
    try:
        for number in range(size):
            with blocked_signals():
                here, there = context.Pipe()
                process = context.Process(target=_run, args=(work, there, number, values), daemon=True)  # type: ignore[attr-defined]
                try:
                    process.start()
                except BlockingIOError as error:
                    raise InputError(
                        f"the system starts no process beyond {number} ({error}): lower runtime.workers or "
                        "runtime.processes, or raise the limit (`ulimit -u`)"
                    ) from None
                children.append(Child(process, here))
                there.close()  # so that the pipe ends when the child ends
        yield children
    finally:
        _end(children)


def _end(children: list[Child]) -> None:
    """Ends children with SIGTERM, and with SIGKILL those that still run after TERM_SECONDS."""
    for child in children:
        with suppress(OSError):
            child.process.terminate()
    deadline = time.monotonic() + TERM_SECONDS
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        with suppress(OSError):
            child.process.kill()
    for child in children:
        child.process.join(JOIN_SECONDS)
        child.connection.close()


def _run(work: Callable[..., None], connection: Connection, number: int, values: tuple[Any, ...]) -> None:
    leave_to_parent()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(BrokenPipeError):  # the parent has ended
        work(connection, number, *values)


def _exit_with_parent() -> None:
    """Ends this process when its parent is killed, which a process that waits for work does not notice by itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
