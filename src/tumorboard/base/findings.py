"""A finding about the machine or the project: the check, its result, and the command that cures a problem."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FIX = "tumorboard doctor --fix"
KEPT = ".dvc/tmp/torn"  # folder below the project for files that a fix replaces

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str  # name of the check, as in `git identity`
    level: Level  # note: a run is slow or surprising; problem: a run stops or loses something
    message: str  # one sentence
    cure: str = ""  # one command for the shell, or what to write where; '' if nothing is to be done
    fix: Callable[[], str] | None = None  # applies a harmless cure and returns its description; None: no such cure

    def __str__(self) -> str:
        return f"{self.check}: {self.message}" + (f"\n  cure: {self.cure}" if self.cure else "")
