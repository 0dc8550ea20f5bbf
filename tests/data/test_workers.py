"""open_workers: the same results in the same order in this process, in local processes and on a Dask cluster."""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import pytest

from tumorboard.base.errors import InputError
from tumorboard.data import workers as workers_module
from tumorboard.data.workers import _map_on_cluster, open_workers, worker_count

ROOT = Path(__file__).resolve().parents[2]


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def square_slowly(number: int, started: Path) -> tuple[int, int]:
    (started / f"{number} {os.getpid()}").touch()
    time.sleep(0.1)
    return square(number)


def refuse(number: int) -> int:
    raise InputError(f"not {number}")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_within_the_answer(_: int) -> str:
    """Lets this process be killed when it has written a quarter of its answer into its pipe."""

    def send_half(connection: Connection, answer: Any) -> None:
        os.write(connection.fileno(), struct.pack("!i", len(answer)) + bytes(answer[: len(answer) // 4]))
        os.kill(os.getpid(), signal.SIGKILL)

    Connection.send_bytes = send_half  # type: ignore[assignment,method-assign]
    return "x" * 1000


class TwoWordsError(Exception):
    """Cannot be unpickled, like any exception whose arguments are not those of its constructor."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def fail(kind: str) -> None:
    if kind == "two words":
        raise TwoWordsError("one", "two")
    if kind == "image":
        raise InputError("scan.png: corrupt")
    raise OSError(errno.EMFILE, "Too many open files", "scan.png")


def draw(_: int) -> str:
    return uuid4().hex


def threads(_: int) -> int:
    return int(cv2.getNumThreads())


def test_worker_count_is_the_given_number_or_that_of_the_usable_cores() -> None:
    assert worker_count(3) == 3
    assert worker_count("auto") == len(os.sched_getaffinity(0))


def test_one_worker_is_this_process() -> None:
    with open_workers(1, None) as parallel_map:
        assert list(parallel_map(square, range(5))) == [(n * n, os.getpid()) for n in range(5)]


def test_local_processes_keep_the_order_and_have_one_thread() -> None:
    with open_workers(2, None) as parallel_map:
        results = list(parallel_map(square, range(40)))
        assert set(parallel_map(threads, range(4))) == {1}
    assert [number for number, _ in results] == [n * n for n in range(40)]
    assert os.getpid() not in {process for _, process in results}


def test_local_processes_start_at_once_and_work_a_limited_number_of_items_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "QUEUED_PER_WORKER", 3)
    with open_workers(2, None) as parallel_map:
        results = parallel_map(partial(square_slowly, started=tmp_path), range(20))
        for asked in range(3):
            limit = time.monotonic() + 20
            while len(list(tmp_path.iterdir())) < 6 + asked and time.monotonic() < limit:
                time.sleep(0.01)
            time.sleep(0.3)  # three tasks' time
            assert len(list(tmp_path.iterdir())) == 6 + asked
            assert next(results)[0] == asked**2
        assert [number for number, _ in results] == [n * n for n in range(3, 20)]


FORKED = """
import cv2, numpy as np, threading
from tumorboard.data.workers import open_workers

cv2.setNumThreads(4)
noise = np.random.default_rng(0).integers(0, 256, (999, 999, 3), dtype=np.uint8)
blur = cv2.GaussianBlur(noise, (9, 9), 3)  # starts OpenCV's threads, which a forked process lacks
if THREAD:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
with open_workers(2, None) as parallel_map:
    for result, number in parallel_map(task, [(noise, n) for n in range(20)]):
        assert (result == blur).all()
        print(number, end=" ")
print(cv2.getNumThreads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
@pytest.mark.parametrize(("thread", "forks"), [(False, True), (True, False)])
def test_a_process_without_other_threads_forks_even_after_opencv_had_some(
    tmp_path: Path, thread: bool, forks: bool
) -> None:
    """A forked process knows what the script defined; a spawned one runs the script again and fails."""
    task = "import cv2\ndef task(item):\n    return cv2.GaussianBlur(item[0], (9, 9), 3), item[1]\n"
    script = tmp_path / "script.py"
    script.write_text(task + FORKED.replace("THREAD", str(thread)), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout == " ".join(map(str, range(20))) + " 4\n") == forks, done.stderr


def test_a_killed_local_process_is_an_error() -> None:
    with open_workers(2, None) as parallel_map, pytest.raises(InputError, match=r"killed.*runtime\.workers"):
        list(parallel_map(die, [1]))


def test_every_item_after_a_killed_process_is_an_error_and_none_waits() -> None:
    with open_workers(2, None) as parallel_map:
        for _ in range(3):
            with pytest.raises(InputError, match=r"was killed \(SIGKILL\)"):
                list(parallel_map(die, range(20)))


def test_a_process_that_is_killed_while_it_sends_a_result_is_an_error() -> None:
    """The pools of Python's library wait for the rest of the result."""
    start = time.monotonic()
    with open_workers(2, None) as parallel_map:
        results = parallel_map(die_within_the_answer, range(4))
        with pytest.raises(InputError, match=r"was killed \(SIGKILL\)"):
            list(results)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("two words", RuntimeError, "TwoWordsError: one two"),
        ("image", InputError, "^scan.png: corrupt"),
        ("files", OSError, "Too many open files: 'scan.png'"),
    ],
)
def test_an_error_in_a_local_process_is_raised_here_with_its_traceback(
    kind: str, error: type[Exception], message: str
) -> None:
    with open_workers(2, None) as parallel_map, pytest.raises(error, match=message) as caught:
        list(parallel_map(fail, [kind]))
    assert str(caught.value).endswith(message.removeprefix("^"))
    if kind != "two words":
        assert "in fail" in "".join(caught.value.__notes__)


def test_local_processes_end_at_once_where_the_results_are_no_longer_wanted(tmp_path: Path) -> None:
    def stop_after_one() -> None:
        with open_workers(2, None) as parallel_map:
            next(parallel_map(partial(square_slowly, started=tmp_path), range(400)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_after_one()
    begun = list(tmp_path.iterdir())
    assert len(begun) < 200, "the other items were computed"
    assert not any(is_alive(int(file.name.split()[1])) for file in begun)


def test_local_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
sys.path[:0] = {[str(ROOT / "src"), str(ROOT)]!r}
from functools import partial
from pathlib import Path
from tests.data.test_workers import square_slowly
from tumorboard.data.workers import open_workers
if __name__ == "__main__":
    with open_workers(2, None) as parallel_map:
        list(parallel_map(partial(square_slowly, started=Path({str(tmp_path)!r})), range(4)))
        Path({str(tmp_path / "done")!r}).touch()
        time.sleep(600)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes = {int(file.name.split()[1]) for file in tmp_path.glob("* *")}
    assert processes
    parent.kill()
    parent.wait()
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, processes))


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # an orphan that nobody waits for stays a zombie


def test_without_dask_the_message_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"install tumorboard\[cluster\]"), open_workers(1, "tcp://127.0.0.1:8786"):
        pass


def test_a_scheduler_that_does_not_answer_is_named(closed_address: str) -> None:
    with pytest.raises(InputError, match=f"no Dask scheduler answers at {closed_address} within 1 s"):
        open_workers(1, closed_address).__enter__()


def test_a_scheduler_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(workers_module, "CONNECT_SECONDS", 1)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty:
        address = empty.scheduler_address
        with pytest.raises(InputError, match=f"{address} has no workers"):
            open_workers(1, address).__enter__()


def test_a_cluster_returns_the_same_results_in_the_same_order(cluster: Any) -> None:
    with open_workers(1, cluster.scheduler_address) as parallel_map:
        results = list(parallel_map(square, range(40)))
        assert set(parallel_map(threads, range(4))) == {1}
        with pytest.raises(InputError, match=rf"worker on {socket.gethostname()}: not 3"):
            list(parallel_map(refuse, [3]))
    assert [number for number, _ in results] == [n * n for n in range(40)]
    assert os.getpid() not in {process for _, process in results}


def test_a_cluster_computes_equal_items_one_by_one(cluster: Any) -> None:
    """Otherwise a run could be answered from the results of an earlier one."""
    with open_workers(1, cluster.scheduler_address) as parallel_map:
        assert len(set(parallel_map(draw, [7] * 6))) == 6


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("Error during deserialization of the task graph", InputError, "tcp://there:1 has no tumorboard or another"),
        ("division by zero in a task", RuntimeError, "division by zero"),
    ],
)
def test_a_cluster_without_tumorboard_is_named_and_other_errors_are_not_hidden(
    text: str, error: type[Exception], message: str
) -> None:
    pytest.importorskip("distributed")

    def fail_there(*_: Any) -> Any:
        failed = Future[Any]()
        failed.set_exception(RuntimeError(text))
        return failed

    with pytest.raises(error, match=message) as caught:
        list(_map_on_cluster(fail_there, 1, "tcp://there:1", square, [1]))
    assert type(caught.value) is error


def test_the_items_of_a_killed_worker_are_repeated(cluster: Any, tmp_path: Path) -> None:
    with open_workers(1, cluster.scheduler_address) as parallel_map:
        results = []
        for number, (result, _) in enumerate(parallel_map(partial(square_slowly, started=tmp_path), range(40))):
            results.append(result)
            if number == 3:
                victim = next(iter(tmp_path.iterdir())).name.split()[1]
                os.kill(int(victim), signal.SIGKILL)
    assert results == [n * n for n in range(40)]
    # The items that the killed worker had started, or whose results only it held, are done a second time.
    assert len(list(tmp_path.iterdir())) > 40
