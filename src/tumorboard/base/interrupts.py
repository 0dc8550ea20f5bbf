"""Ends a program at Ctrl-C, SIGTERM or SIGHUP: within seconds, with one line and status 128 + signal, at any moment.

While modules are imported the program ends at once. While it works the signal is an exception in the main thread, so
that temporary files are deleted. A thread ends the program where the exception does not do so in time, for example
within a long call of a library, or where a callback has swallowed it.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 2.0  # seconds from the signal until the thread ends the program
WATCHER = "signals"  # name of the thread
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _State:
    program = ""  # name that heads the line; empty: the signals are not handled here
    received = 0  # number of the first signal
    raises = False  # whether the signal becomes an exception
    reported = False  # whether the line was printed
    status: int | None = None  # exit status of the program; None: not known yet


_state = _State()


def handle_signals(program: str) -> None:
    """Makes this process end at a signal with one line; a program calls it before its slow imports.

    A signal that is ignored already stays so, as SIGHUP under nohup. Child processes of multiprocessing leave SIGINT,
    which a terminal sends to all of them, to their parent.

    Args:
        program: name that heads the line.
    """
    if _state.program or "--multiprocessing-fork" in sys.orig_argv:  # a spawned child imports its parent's program
        return
    _state.program = program
    # The system writes the number of a signal into this pipe even while the main thread runs a library's code.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_watch, args=(read_end,), name=WATCHER, daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.unraisablehook = _report_unraisable
    atexit.register(_skip_python_s_end)  # atexit calls its first function last
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_remove_handlers)


@contextmanager
def interruptible(program: str) -> Iterator[None]:
    """Makes a signal raise KeyboardInterrupt within the context, if this process handles signals.

    Args:
        program: name that heads the line.
    """
    if _state.program:
        _state.program = program
    _state.raises = True
    try:
        yield
    finally:
        _state.raises = False


def note_end(status: int) -> None:
    """Notes the status with which the program ends; only its orderly end follows."""
    _state.status = status


def was_interrupted() -> bool:
    """Returns whether a signal has arrived; later errors do not count, since they may be consequences of it."""
    return _state.received != 0


def end_interrupted(program: str) -> NoReturn:
    """Prints "<program>: interrupted" and ends with status 128 + signal; 130 if there was only a KeyboardInterrupt."""
    if not _state.reported:
        _state.reported = _state.received != 0
        print(f"\n{program}: interrupted", file=sys.stderr)
    if not _state.received:
        sys.exit(128 + signal.SIGINT)
    _flush()
    _end_now()  # an orderly end would wait for threads


def end_at_once(status: int) -> NoReturn:
    """Ends the program without Python's orderly end, which needs memory; only raises SystemExit in another program."""
    if not _state.program:
        sys.exit(status)
    _flush()
    _kill_children()
    os._exit(status)


def is_single_threaded() -> bool:
    """Returns whether only the main thread runs Python code; the one that waits for signals holds no lock."""
    return all(thread.name == WATCHER or thread is threading.main_thread() for thread in threading.enumerate())


def leave_to_parent() -> None:
    """Makes a child process, which was started with signals blocked, leave SIGINT to its parent and end at SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Delays signals to the end of the context. A process that is started within it starts with them blocked."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _on_signal(number: int, _: FrameType | None) -> None:
    if _state.received:
        return
    _state.received = number
    if _state.raises:
        raise KeyboardInterrupt
    _end_now()


def _watch(read_end: int) -> None:
    while True:
        for number in os.read(read_end, 64):
            # `tumorboard run` has handlers of its own and more to do.
            if number in _SIGNALS and signal.getsignal(number) is _on_signal:
                time.sleep(GRACE_SECONDS)
                _state.received = _state.received or number
                _end_now()


def _end_now() -> NoReturn:
    if not _state.reported:
        _state.reported = True
        with suppress(OSError):  # not `print`, since the main thread may be within one
            os.write(2, f"\n{_state.program}: interrupted\n".encode())
    _kill_children()
    os._exit(128 + _state.received)


def _flush() -> bool:
    """Writes what was printed; returns whether it could be written."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            written = False
    return written


def _kill_children() -> None:
    if "multiprocessing.process" not in sys.modules:  # no child was started
        return
    import psutil  # imported here, because every stage imports this module

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()


def _report_unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Reports an exception in a destructor, except a signal's, for which the thread ends the program."""
    if not (_state.received and isinstance(error.exc_value, KeyboardInterrupt)):
        sys.__unraisablehook__(error)


def _skip_python_s_end() -> None:
    """Ends a program that has done its work: while Python deletes its modules, no handler would receive a signal."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    if _state.status is not None and _flush():
        os._exit(_state.status)


def _remove_handlers() -> None:
    """Undoes the handlers in a forked child."""
    signal.set_wakeup_fd(-1)
    _state.program, _state.raises = "", False
    for number in _SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
