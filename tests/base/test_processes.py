"""running_children: a pipe for each child, the way in which it ended, and no child left."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.processes import running_children


def echo(connection: Connection, number: int, word: str) -> None:
    connection.send((number, word, os.getpid(), signal.getsignal(signal.SIGINT)))
    connection.recv()


def ignore_everything(connection: Connection, _: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(os.getpid())
    time.sleep(600)


def end_by(connection: Connection, number: int) -> None:
    connection.send_bytes(b"half an answer")
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_get_the_values_leave_sigint_to_the_parent_and_end_with_the_context(method: str) -> None:
    with running_children(multiprocessing.get_context(method), 2, echo, "hello") as children:
        answers = [child.connection.recv() for child in children]
        assert [answer[:2] for answer in answers] == [(0, "hello"), (1, "hello")]
        assert {answer[3] for answer in answers} == {signal.SIG_IGN}
        assert all(is_running(answer[2]) for answer in answers)
    assert not any(is_running(answer[2]) for answer in answers)


def test_a_child_that_does_not_end_by_itself_is_killed_and_not_waited_for() -> None:
    with running_children(multiprocessing.get_context("fork"), 1, ignore_everything) as children:
        process = children[0].connection.recv()
        start = time.monotonic()
    assert time.monotonic() - start < 60  # it would sleep for 600
    assert not is_running(process)


def test_the_end_of_a_child_is_the_end_of_its_pipe_and_named() -> None:
    with running_children(multiprocessing.get_context("fork"), 2, end_by) as children:
        for child, cause in zip(children, ["was killed (SIGKILL)", "ended with status 3"], strict=True):
            child.connection.recv_bytes()
            with pytest.raises(EOFError):
                child.connection.recv_bytes()
            assert child.cause_of_end() == cause


def test_a_system_that_starts_no_more_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Process.start
    started: list[int] = []

    def start_two(process: multiprocessing.Process) -> None:
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)
        started.append(process.pid or 0)

    monkeypatch.setattr(context.Process, "start", start_two)
    with pytest.raises(InputError, match=r"no process beyond 2 .*lower runtime\.workers"):
        running_children(context, 5, echo, "x").__enter__()
    assert not any(map(is_running, started))
