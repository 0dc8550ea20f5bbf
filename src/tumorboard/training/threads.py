"""Watches the load of the machine during a training on the CPU, and adapts the number of threads where that is allowed.

The number of threads decides how sums are divided, and so the last digits of a result (docs/threads.md). It is adapted
only in trainings with `deterministic: false` in their recipe; the others print a line on what keeps the machine busy.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
import torch

from tumorboard.base.params import Runtime
from tumorboard.models.device import autocast
from tumorboard.training.convolutions import faster_convolutions
from tumorboard.training.job import Setup, State
from tumorboard.training.steps import set_train_mode

FEWEST_STEPS = 100  # steps of a training that measures its threads; on two cores measuring takes eight
ROUNDS = 3  # timed steps per number of threads; they take turns, since the load by others changes
BUSY_CORES = 0.5  # cores; a smaller change of the load by other processes is no reason to measure again


class _Moment(NamedTuple):
    """Clocks at one moment, in seconds."""

    wall: float
    own: float  # processor time of this process
    machine: float  # processor time of all processes, summed over the cores


class ThreadWatch:
    """Chooses the threads of a training before its first epoch, and looks at them again after each."""

    def __init__(self, setup: Setup, state: State, runtime: Runtime) -> None:
        """Measures the threads where they may be adapted and the training is long enough.

        Args:
            setup: what stays the same in this process.
            state: before the first step, or resumed; its weights, buffers and gradients and torch's random state stay.
            runtime: `threads` may be a fixed number.
        """
        recipe = setup.job.recipe
        steps = recipe.epochs * -(-len(setup.job.rows) // recipe.batch_size)
        alone = setup.group.device.type == "cpu" and setup.group.size == 1
        self._adapts = alone and not recipe.deterministic and runtime.threads == "auto" and steps >= FEWEST_STEPS
        self._watches = alone
        self._setup, self._state = setup, state
        self._most = torch.get_num_threads()
        self._others = 0.0  # cores that other processes kept busy when the threads were chosen, or reported
        if self._adapts:
            self._choose()
        self._last = _moment()

    def after_epoch(self) -> str | None:
        """Adapts the threads if the load by other processes has changed.

        Returns:
            A line for the user: that the machine is oversubscribed or that the number of threads has changed; None
            where there is nothing new.
        """
        if not self._watches:
            return None
        now = _moment()
        others = busy_cores(self._last, now)
        self._last = now
        if abs(others - self._others) <= BUSY_CORES:
            return None
        self._others = others
        before = torch.get_num_threads()
        if self._adapts:
            self._choose()
            self._last = _moment()
        threads, cores = torch.get_num_threads(), os.cpu_count() or 1
        load = f"other processes keep {others:.1f} of {cores} cores busy"
        if threads != before:
            return f"{load}: {threads} instead of {before} threads from now on"
        if self._adapts or threads == 1 or others + threads <= cores + BUSY_CORES:
            return None
        return (
            f"{load}: {threads} threads, which wait for each other, may be slower than one. runtime.threads: 1 changes "
            "rounding, and so the result's last digits"
        )

    def _choose(self) -> None:
        step = _measured_step(self._setup, self._state)
        torch.set_num_threads(fastest_threads(step, self._most))


def fastest_threads(step: Callable[[], None], most: int) -> int:
    """Returns the number of threads with which a step takes the least time: `most`, a half of it, a quarter …, or 1.

    The numbers take turns, and the first turn is not timed. torch is left with the last number that was tried.

    Args:
        step: the function that is timed.
        most: the largest number of threads.
    """
    numbers = [most]
    while numbers[-1] > 1:
        numbers.append(numbers[-1] // 2)
    seconds = dict.fromkeys(numbers, 0.0)
    for turn in range(1 + ROUNDS):
        for number in numbers:
            torch.set_num_threads(number)
            start = time.perf_counter()
            step()
            if turn:
                seconds[number] += time.perf_counter() - start  # a sum, since a minimum hides the load by others
    return min(seconds, key=lambda number: seconds[number])


def busy_cores(before: _Moment, after: _Moment) -> float:
    """Returns how many cores other processes kept busy between two moments."""
    wall = max(after.wall - before.wall, 1e-9)
    return max(0.0, (after.machine - before.machine - (after.own - before.own)) / wall)


def _moment() -> _Moment:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return _Moment(time.perf_counter(), time.process_time(), sum(times) - idle)


def _measured_step(setup: Setup, state: State) -> Callable[[], None]:
    """Returns a forward and a backward pass of the training's network that leave no trace."""
    recipe, model = setup.job.recipe, state.model
    epoch = min(len(state.history), len(setup.sides) - 1)
    images, side = -(-min(recipe.batch_size, len(setup.job.rows)) // recipe.accumulate), setup.sides[epoch]
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    pixels = torch.arange(images * 3 * side * side).remainder(256).float().view(images, 3, side, side)
    pixels, labels = pixels.to(memory_format=layout), torch.arange(images) % len(setup.job.classes)

    def step() -> None:
        set_train_mode(model, recipe, epoch)
        buffers = [buffer.clone() for buffer in model.buffers()]
        with torch.random.fork_rng(devices=[]):
            with autocast(recipe.precision, setup.group.device), faster_convolutions(setup.group.device):
                logits = model(pixels)
            setup.loss(logits.float(), labels).sum().backward()  # type: ignore[no-untyped-call]
        state.optimizer.zero_grad()
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)

    return step
