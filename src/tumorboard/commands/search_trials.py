"""Runs the trials of `tumorboard search` side by side, follows their epochs, and stops those that are pruned."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tumorboard.base.errors import InputError
from tumorboard.commands.search_space import Point, describe_point
from tumorboard.commands.search_study import Study

FAILURES = 3  # trials in a row that fail before a search gives up
POLL_SECONDS = 0.2  # between two looks at the trials


class EpochLoss(NamedTuple):
    """The validation loss of a trial's training after an epoch."""

    fold: int  # position among the folds that the trial trains, from 0
    number: int  # number of the epoch, from 1
    epochs: int  # number of epochs that the training will have
    loss: float  # mean loss on all validation images of the fold


class RunningTrial(Protocol):
    """A trial whose trainings run."""

    def begun(self) -> bool:
        """Returns whether another trial may begin beside it."""

    def epochs(self) -> list[EpochLoss]:
        """Returns the epochs until now."""

    def ended(self) -> str | None:
        """Returns None while it runs, '' after its success, else why it failed."""

    def stop(self) -> None:
        """Ends it, and returns when it has ended."""

    def facts(self) -> Mapping[str, Any]:
        """Returns the facts by which a later process finds it after this one was killed."""


class Runner(Protocol):
    """Begins trials and reads their losses."""

    def begin(self, experiment: str, point: Point, slot: int) -> RunningTrial:
        """Begins a trial; `slot` counts those that run at a time, from 0."""

    def loss(self, experiment: str) -> float:
        """Returns a finished trial's mean held-out loss over the folds; raises InputError where it cannot be read."""


@dataclass(frozen=True)
class Plan:
    """How many trials are run, and until when."""

    trials: int  # number of trials of the search, earlier calls included
    jobs: int  # trials at a time
    folds: int  # number of folds that each trial trains
    prefix: str  # prefix of the experiments' names
    seconds: float | None = None  # time after which no trial begins; None: no limit


@dataclass
class _Active:
    number: int
    experiment: str
    running: RunningTrial
    slot: int
    began: float
    seen: int = 0  # epochs reported
    best: dict[int, float] = field(default_factory=dict)  # the least loss of each fold until now


@dataclass
class Scheduler:
    """Runs the trials of a search.

    Trials begin one after another, since DVC puts the folder's changes aside for a moment when an experiment begins.
    """

    study: Study
    runner: Runner
    plan: Plan
    received: Sequence[int]  # signals; once there is one, no trial begins and the running ones are stopped
    say: Callable[[str], None]  # takes a line per event
    status: Callable[[str], None] = lambda _: None  # takes a line about what runs now
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[], None] = lambda: time.sleep(POLL_SECONDS)

    def run(self) -> None:
        """Runs trials until there are enough, or the time is over; returns when all have ended.

        Raises:
            InputError: FAILURES trials failed one after another.
        """
        self._active: list[_Active] = []
        self._failures = 0
        self._start = self.clock()
        self._ended = sum(record.state in ("complete", "pruned", "failed") for record in self.study.records())
        try:
            while not self.received:
                for active in list(self._active):
                    self._follow(active)
                if self._failures >= FAILURES and not self._active:
                    raise InputError(f"{FAILURES} trials failed one after another, the last one: {self._reason}")
                while self._may_begin():
                    self._begin()
                if not self._active:
                    return
                self.status("   ".join(map(_describe, self._active)))
                self.wait()
        finally:
            for active in self._active:  # stopped by a signal or an error: their values are tried again
                active.running.stop()
                self.study.release(active.number)

    def _may_begin(self) -> bool:
        return (
            len(self._active) < self.plan.jobs
            and self._ended + len(self._active) < self.plan.trials
            and self._failures < FAILURES
            and not self.received
            and (self.plan.seconds is None or self.clock() - self._start < self.plan.seconds)
            and all(active.running.begun() for active in self._active)
        )

    def _begin(self) -> None:
        number, point = self.study.ask()
        experiment = f"{self.plan.prefix}-{number + 1:03d}"
        slot = min(set(range(self.plan.jobs)) - {active.slot for active in self._active})
        self.say(f"{self._ended + len(self._active) + 1} of {self.plan.trials}  {experiment}  {describe_point(point)}")
        self.study.note(number, experiment=experiment)
        running = self.runner.begin(experiment, point, slot)
        self._active.append(_Active(number, experiment, running, slot, self.clock()))
        self.study.note(number, **running.facts())

    def _follow(self, active: _Active) -> None:
        """Reports the new epochs of a trial, and closes it when it has ended or is pruned."""
        ended = active.running.ended()  # before its epochs are read, so that none is missing
        for epoch in active.running.epochs()[active.seen :]:
            active.seen += 1
            active.best[epoch.fold] = min(active.best.get(epoch.fold, math.inf), epoch.loss)
            worse = self.study.report(active.number, epoch.fold, epoch.number, _mean(active.best))
            last = epoch.fold == self.plan.folds - 1 and epoch.number == epoch.epochs
            if worse and ended is None and not last:
                active.running.stop()
                self.study.prune(active.number, self._leave(active))
                self.say(f"    {active.experiment}  pruned after epoch {active.seen}, loss {_mean(active.best):.4f}")
                return
        if ended is not None:
            self._end(active, ended)

    def _end(self, active: _Active, reason: str) -> None:
        loss = math.nan
        if not reason:
            try:
                loss = self.runner.loss(active.experiment)
                reason = "" if math.isfinite(loss) else "its held-out loss is not finite"
            except InputError as error:
                reason = str(error)
        seconds = self._leave(active)
        if reason:
            self._failures, self._reason = self._failures + 1, reason
            self.study.fail(active.number, reason, seconds)
            self.say(f"    {active.experiment}  failed: {reason}")
        else:
            self._failures = 0
            self.study.complete(active.number, loss, seconds)
            self.say(f"    {active.experiment}  held-out loss {loss:.4f}")

    def _leave(self, active: _Active) -> float:
        """Takes a trial from the running ones and returns the seconds that it ran."""
        self._active.remove(active)
        self._ended += 1
        return self.clock() - active.began


def _mean(best: Mapping[int, float]) -> float:
    return sum(best.values()) / len(best)


def _describe(active: _Active) -> str:
    if not active.seen:
        return f"{active.experiment} begins"
    return f"{active.experiment} epoch {active.seen} loss {_mean(active.best):.4f}"
