"""Shows the progress of a long loop: a bar on a terminal, a line per minute elsewhere, as in a cluster job's log."""

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

MINUTE = 60.0  # seconds between two lines

Item = TypeVar("Item")


class Progress:
    """A bar on standard error if that is a terminal, else a line per minute there; use it in a `with`."""

    def __init__(self, heading: str, total: int, unit: str) -> None:
        """Starts the bar or the first minute.

        Args:
            heading: text at the start of the bar and of each line.
            total: number of units.
            unit: noun for one unit, in the singular.
        """
        self._heading, self._total, self._unit = heading, total, unit
        # disable=None: no bar where standard error is no terminal
        self._bar = tqdm(desc=heading, total=total, unit=unit, leave=False, disable=None)
        self._done = 0
        self._began = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Counts finished units; prints a line if a minute has passed since the last one and not all are done."""
        self._bar.update(count)
        self._done += count
        if self._bar.disable and self._done < self._total and time.monotonic() - self._began >= MINUTE:
            self._began = time.monotonic()
            print(f"{self._heading}  {self._unit} {self._done}/{self._total}", file=sys.stderr, flush=True)


def tracked(items: Sequence[Item], heading: str, unit: str) -> Iterator[Item]:
    """Yields items, and shows with a Progress how many of them are done."""
    with Progress(heading, len(items), unit) as bar:
        for item in items:
            yield item
            bar.update()
