"""Catches what libjpeg writes to the process's standard error, which OpenCV does not pass on."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO

from tumorboard.base.errors import ImageError

_STANDARD_ERROR = 2  # the file descriptor
_CUT = re.compile("premature end|Premature end", re.IGNORECASE)
_HARMLESS = re.compile(r"extraneous bytes before marker|Unknown Adobe color|JFIF|Invalid SOS parameters")
_LIBJPEG = re.compile(
    r"Corrupt JPEG data|Premature end|Warning: unknown JFIF|Inconsistent progression|Unknown Adobe color|Invalid SOS|"
    r"Application transferred too many"
)
_descriptor_lock = threading.Lock()  # the descriptor belongs to the whole process
_file: BinaryIO | None = None


def _forget() -> None:
    """Gives a forked process its own file and lock."""
    global _file, _descriptor_lock
    _file, _descriptor_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def catching_messages() -> Iterator[list[str]]:
    """Redirects the standard error of the process into a list of lines, which is filled at the end.

    Lines that are not libjpeg's, such as those of another thread, are written to the standard error afterwards.
    Without a standard error nothing is caught.
    """
    global _file
    lines: list[str] = []
    with _descriptor_lock:
        try:
            kept = os.dup(_STANDARD_ERROR)
        except OSError:
            yield lines
            return
        try:
            if _file is None:
                _file = TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as the process
            os.dup2(_file.fileno(), _STANDARD_ERROR)
            yield lines
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
            lines += _take_lines()


def _take_lines() -> list[str]:
    """Empties the file and returns libjpeg's lines in it."""
    assert _file is not None
    size = os.lseek(_file.fileno(), 0, os.SEEK_CUR)
    if not size:
        return []
    written = os.pread(_file.fileno(), size, 0)
    os.lseek(_file.fileno(), 0, os.SEEK_SET)
    os.ftruncate(_file.fileno(), 0)
    lines = written.decode(errors="replace").splitlines(keepends=True)
    if others := "".join(line for line in lines if not _LIBJPEG.search(line)):
        os.write(_STANDARD_ERROR, others.encode())
    return [line.strip() for line in lines if _LIBJPEG.search(line)]


def check_messages(lines: list[str]) -> str:
    """Returns libjpeg's harmless messages about a file as one text, '' if there are none.

    Raises:
        ImageError: "truncated" if pixels are missing, "corrupt" if they are damaged.
    """
    for line in lines:
        if _CUT.search(line):
            raise ImageError("truncated", f"the JPEG has fewer pixels than its header says: {line}")
        if not _HARMLESS.search(line):
            raise ImageError("corrupt", line)
    return "; ".join(lines)
