"""Recognizes faults of the machine, such as too little memory, by their errors, and names their cures."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from tumorboard.base.errors import InputError
from tumorboard.base.interrupts import end_at_once, end_interrupted, interruptible, was_interrupted

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# The system's errors that name their cure. An OSError that is in no list here is a fault of this program.
PLACES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}
MIN_ADDRESS_SPACE = 1 << 30  # bytes; with 500 MiB, loading OpenBLAS never ends or crashes, with 800 it succeeds
# Messages of the loader of shared libraries about a package that is damaged or was built for another system.
DAMAGED_WORDS = ("cannot open shared object file", "undefined symbol", "invalid elf header", "file too short")
# Messages of torch, OpenCV, CUDA, the loader of shared libraries and Python's threads when they get no memory.
MEMORY_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "insufficient memory",
    "failed to allocate",
    "out of memory",
    "std::bad_alloc",
    "not enough memory",
    "failed to map segment",
    "can't start new thread",
)


def explain_fault(error: BaseException) -> str | None:
    """Returns the cause and the cure of a fault of the machine; None for any other error.

    Too little memory or too many open files are also recognized behind another error, such as an ImportError.

    >>> explain_fault(ValueError("no number")) is None
    True
    """
    if isinstance(error, OSError) and error.errno in PLACES:
        return "\n".join([str(error), *_problems_of_disk(error)])
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if _is_too_many_files(link):
            return f"{link}: {_limit_of_files()}raise it (`ulimit -n 4096`), or lower runtime.workers"
        if _is_too_little_memory(link):
            detail = str(link).strip().split("\n")[0]
            limit = _limit_of_memory()
            cure = f"{limit}{', ' if limit else ''}free some, or lower runtime.workers, runtime.processes or batch_size"
            return f"out of memory{f' ({detail})' if detail else ''}: {cure}"
        seen.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None


def explain_environment(error: BaseException) -> str | None:
    """Returns the cause and the cure of a package that is missing or cannot be loaded; None for any other error.

    >>> explain_environment(ImportError("cannot import name 'Job'", name="tumorboard.training.job")) is None
    True
    """
    if not isinstance(error, ImportError) or (error.name or "").split(".")[0] in ("tumorboard", "stages"):
        return None
    cure = "make the environment (`make env`) and activate it (`. .venv/bin/activate`)"
    if isinstance(error, ModuleNotFoundError):
        return f"{sys.executable} has no package {error.name}: {cure}"
    if any(words in str(error).lower() for words in DAMAGED_WORDS):
        return (
            f"a package of {sys.executable} is damaged ({error}): {cure.replace('make env', 'rm -r .venv && make env')}"
        )
    return None


def is_shortage(error: BaseException) -> bool:
    """Returns whether memory or the number of open files ran out, so that an error is no evidence about its file."""
    return _is_too_many_files(error) or _is_too_little_memory(error)


@contextmanager
def reported_errors(program: str, before: str = "\n") -> Iterator[None]:
    """Ends the program with one message on standard error at an error that the user can mend.

    An InputError and a fault of the machine end it with status 1; Ctrl-C, SIGTERM and SIGHUP with 128 + signal. Any
    other error stays as it is.

    Args:
        program: name that heads the message.
        before: text that is printed before it.
    """
    try:
        with interruptible(program):
            yield
    except KeyboardInterrupt:
        end_interrupted(program)
    except Exception as error:
        if was_interrupted():  # the error is a consequence of the signal
            end_interrupted(program)
        if isinstance(error, InputError):
            print(f"{before}{program}: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        fault = explain_fault(error)
        if fault is None:
            raise
        print(f"{before}{program}: {fault}", file=sys.stderr)
        end_at_once(1)
    if was_interrupted():  # the KeyboardInterrupt was swallowed
        end_interrupted(program)


def report_uncaught_faults(program: str) -> None:
    """Makes this process report an uncaught interrupt or fault of the machine, such as one during imports.

    Ends the program where `ulimit -v` leaves so little memory that libraries crash or wait forever while they load.

    Args:
        program: name that heads the message.
    """

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            end_interrupted(program)
        fault = explain_fault(error) or explain_environment(error)
        if fault is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"\n{program}: {fault}", file=sys.stderr)
            end_at_once(1)

    sys.excepthook = report
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if 0 <= limit < MIN_ADDRESS_SPACE:
        print(f"\n{program}: {_limit_of_memory()} to {MIN_ADDRESS_SPACE >> 20} MiB or more", file=sys.stderr)
        end_at_once(1)


def _problems_of_disk(error: OSError) -> list[str]:
    """Returns the problems that `tumorboard doctor` finds with the disks of a run and of the failed file."""
    from tumorboard.base.disk import check_disk  # imported here, because only a stage that fails needs it

    with suppress(OSError):  # a full disk may hinder this too
        failed = Path(error.filename) if isinstance(error.filename, str) else None
        return [str(finding) for finding in check_disk(Path(), failed) if finding.level == "problem"]
    return []


def _is_too_many_files(error: BaseException) -> bool:
    """Returns whether too many open files caused an error: the system's own, or one of a library while it loads."""
    if isinstance(error, OSError):
        return error.errno in TOO_MANY_FILES
    return isinstance(error, (ImportError, RuntimeError)) and "too many open files" in str(error).lower()


def _is_too_little_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, (RuntimeError, ImportError)) or type(error).__module__ == "cv2"
    return isinstance(error, MemoryError) or (known and any(words in str(error).lower() for words in MEMORY_WORDS))


def _limit_of_files() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else None
    return "" if limit is None else f"this process may have {limit} files open (`ulimit -n`): "


def _limit_of_memory() -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    return "" if limit < 0 or limit >= 1 << 60 else f"this process may have {limit >> 20} MiB (`ulimit -v`): raise it"
