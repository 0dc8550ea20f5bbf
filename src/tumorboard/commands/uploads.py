"""Takes uploads within limits: one task at a time, a bounded number of waiting ones, bytes and seconds per file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tumorboard.images.formats import HEAD_BYTES

T = TypeVar("T")

LARGEST_STATED = 1 << 40  # bytes; a larger stated size of a file counts as this


@dataclass(frozen=True)
class UploadLimits:
    """The limits of uploads."""

    max_bytes: int  # the largest file in bytes
    waiting: int  # files that may wait while another is classified
    seconds: float  # time limit for the arrival of a file


class Queue:
    """Runs tasks one at a time in a thread. A bounded number have a place: the running task and those that wait."""

    def __init__(self, waiting: int) -> None:
        """Starts no thread before the first task.

        Args:
            waiting: number of places beside the running task's.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classify")
        self._free = waiting + 1

    def has_place(self) -> bool:
        """Returns whether another file may wait."""
        return self._free > 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a free place, from before a file is received until it is answered; in the event loop's thread only."""
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def run(self, task: Callable[[], T]) -> T:
        """Returns the result of a task, after the earlier tasks."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, task)

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the running task and drops the others."""
        self._thread.shutdown(cancel_futures=True)


async def receive_file(chunks: AsyncIterator[bytes], file: Path, stated: int | None, limits: UploadLimits) -> None:
    """Writes an upload to a file and stops at the limits.

    If a file is too large, only its first bytes are written, and the rest becomes a hole of no bytes on disk, so
    that `read_image_bytes` finds the size and the format that its message needs.

    Args:
        chunks: the parts of the body.
        file: the file that is created.
        stated: size of the file in bytes; None: not stated.
        limits: `max_bytes` and `seconds` are used.

    Raises:
        TimeoutError: the file did not arrive in time.
    """
    wanted = limits.max_bytes + 1 if stated is None or stated <= limits.max_bytes else HEAD_BYTES
    size = 0
    async with asyncio.timeout(limits.seconds):
        with file.open("xb") as target:
            async for chunk in chunks:
                size += target.write(chunk[: wanted - size])
                if size >= wanted:
                    break
            if stated is not None and stated > limits.max_bytes:
                target.truncate(min(stated, LARGEST_STATED))


async def drop_file(chunks: AsyncIterator[bytes], limits: UploadLimits) -> None:
    """Reads an upload and keeps nothing, at most to the limits: a client that still sends would not see the answer."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(limits.seconds):
            async for chunk in chunks:
                size += len(chunk)
                if size > limits.max_bytes:
                    break
