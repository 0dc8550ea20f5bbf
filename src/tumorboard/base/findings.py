"""A finding about the machine or the project: what was looked at, how it is, and the command that cures it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str  # name of the check, as in `git identity`
    level: Level  # a note slows or surprises, a problem stops a run or loses something
    message: str  # one sentence
    cure: str = ""  # one command for the shell, or what to write where; '' if nothing is to be done
    fix: Callable[[], str] | None = None  # does what is harmless and returns what was done; None: left to the user

    def __str__(self) -> str:
        return f"{self.check}: {self.message}" + (f"\n  cure: {self.cure}" if self.cure else "")
