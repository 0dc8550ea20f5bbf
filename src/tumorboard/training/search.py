"""What to try before a training: learning rates by a rising ramp, the largest micro-batch that memory holds."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from tumorboard.errors import InputError
from tumorboard.models.batchnorm import fewest_images
from tumorboard.models.inference import choose_device
from tumorboard.params import LrFind, Runtime
from tumorboard.training.distributed import Group
from tumorboard.training.loader import epoch_batches, smallest_micro_batch
from tumorboard.training.loop import mean_std_of, prepare
from tumorboard.training.optim import set_lr
from tumorboard.training.state import Job, Run, State
from tumorboard.training.steps import Plan, backward, plan_step, set_modes, update

_DIVERGED = 4.0  # times the lowest smoothed loss, as in fastai
_GIB = 2**30


def find_lr(job: Job, runtime: Runtime, ramp: LrFind) -> pd.DataFrame:
    """Train while the learning rate rises exponentially; a row a step: lr, loss, smoothed (Smith 2017).

    One process; batches, augmentation and optimizer are the recipe's, the whole network learns, the schedule is left
    out. Ends early where the smoothed loss (a debiased running mean) is four times its lowest, or not finite.
    """
    run, state = _prepare(job, runtime)
    rows: list[tuple[float, float, float]] = []
    mean, lowest = 0.0, math.inf
    rates = np.geomspace(ramp.first, ramp.last, ramp.steps).tolist()
    plans = _endless(run)
    for step, lr in enumerate(tqdm(rates, desc=f"{job.name} learning rates", unit="step", leave=False, disable=None)):
        torch.manual_seed(job.recipe.seed + step)  # dropout's draws
        plan = next(plans)
        set_lr(state.optimizer, lr)
        found = backward(run, state, state.model, plan, run.loader.load(plan.loaded))
        loss = float(found[0].double().sum()) / plan.weight
        mean = ramp.smoothing * mean + (1 - ramp.smoothing) * loss
        smoothed = mean / (1 - ramp.smoothing ** (step + 1))
        if not smoothed <= _DIVERGED * lowest:
            break
        lowest = min(lowest, smoothed)
        rows.append((lr, loss, smoothed))
        update(job.recipe, state)
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])


def suggest_lr(curve: pd.DataFrame) -> dict[str, float]:
    """Two rates to choose from: a tenth of the lowest smoothed loss's, and that of the steepest fall before it.

    The first tenth of the steps, in which the running mean is still short, is left out. Raises InputError where the
    loss never fell.
    """
    start = len(curve) // 10
    lr, smoothed = curve["lr"].to_numpy()[start:], curve["smoothed"].to_numpy()[start:]
    lowest = int(np.argmin(smoothed)) if len(curve) > 1 else 0
    if lowest == 0:
        raise InputError("the loss never fell: lower lr_find.first, or look whether the model can learn at all")
    slope = np.gradient(smoothed, np.log(lr))[: lowest + 1]
    return {"tenth of the lowest": float(lr[lowest] / 10), "steepest fall": float(lr[np.argmin(slope)])}


class Probe(NamedTuple):
    """The largest number of images in a training step that memory holds, the fewest that the model can train on, and
    how the first was found."""

    images: int
    fewest: int
    how: str


def probe_batch_size(job: Job, runtime: Runtime, memory: float | None) -> Probe:
    """The most images that a process can train on at once, at most the training's.

    On CUDA steps of growing size are carried out until memory ends, then the sizes between. On the CPU, where memory
    that ends kills the process, it is an estimate: the peaks of a few sizes, carried on along a line up to `memory`
    (GiB; None: what the machine has free), shared out among runtime.processes. Raises InputError where not even the
    fewest fit.
    """
    # One micro-batch a step: its size is what is asked for.
    alone = job.recipe.model_copy(update={"accumulate": 1})
    run, state = _prepare(replace(job, recipe=alone), runtime)
    fewest = fewest_images(state.model, job.store.size)
    most = max(len(job.rows), fewest)

    def step(images: int) -> None:
        rows = np.resize(np.arange(len(job.rows)), images)
        plan = plan_step(run, np.stack([rows, np.zeros_like(rows)], axis=1))
        backward(run, state, state.model, plan, run.loader.load(plan.loaded))
        update(alone, state)

    set_lr(state.optimizer, 0.0)
    if run.group.device.type == "cuda":
        if memory is not None:
            raise InputError("--memory is for the CPU: on CUDA the device's own memory is the limit")
        found = largest_that_fits(step, fewest, most)
        return Probe(found, fewest, f"steps carried out on {torch.cuda.get_device_name()}")
    limit = (_free_memory() if memory is None else memory * _GIB) / processes_of(runtime)
    return estimate_from_peaks(lambda images: _peak_of(step, images), fewest, most, limit)


def processes_of(runtime: Runtime) -> int:
    """The processes of a training on this machine: one a CUDA device, or one, where the setting is 'auto'."""
    if runtime.processes != "auto":
        return runtime.processes
    return torch.cuda.device_count() if choose_device(runtime) == "cuda" else 1


def accumulate_for(job: Job, processes: int, probe: Probe) -> int:
    """The fewest micro-batches, each of as many images as fit, that every process's share of a batch can be cut into.

    Raises InputError where one of them would have fewer images than the model can train on.
    """
    rows, batch_size = len(job.rows), job.recipe.batch_size
    largest = math.ceil(math.ceil(rows / math.ceil(rows / batch_size)) / processes)  # an epoch is cut evenly
    accumulate = math.ceil(largest / probe.images)
    least = smallest_micro_batch(rows, batch_size, processes, accumulate)
    if least < probe.fewest:
        raise InputError(
            f"a process's share of a batch cannot be cut into parts of {probe.fewest} to {probe.images} images: "
            f"choose another batch_size than {batch_size}, or another number of processes than {processes}"
        )
    return accumulate


def largest_that_fits(step: Callable[[int], None], fewest: int, most: int) -> int:
    """The largest number in fewest..most for which `step` does not raise torch.OutOfMemoryError.

    Doubles until one does not fit, then halves the gap. Raises InputError where the fewest do not fit.
    """
    fits, fails = 0, most + 1
    size = fewest
    while fits < most and fails - fits > 1:
        try:
            step(size)
            fits = size
        except torch.OutOfMemoryError:
            fails = size
            if size == fewest:
                break
        torch.cuda.empty_cache()  # what a failed step left would count against the next
        size = min(2 * size, most) if fails > most else (fits + fails) // 2
    if not fits:
        raise InputError(f"{_too_little(fewest)}: lower crop.side, or choose a smaller architecture")
    return fits


def estimate_from_peaks(peak: Callable[[int], int], fewest: int, most: int, limit: float) -> Probe:
    """How many images fit below `limit` bytes by the line through the peaks of two sizes, the larger twice the other.

    They are doubled as long as the line says that the next fits into half of the limit, up to 64.
    """
    small, large = 2 * fewest, 4 * fewest
    low, high = peak(small), peak(large)
    while large < 64 and high + 2 * (high - low) < limit / 2:
        small, large, low = large, 2 * large, high
        high = peak(large)
    each = max(1.0, (high - low) / (large - small))
    base = high - each * large
    images = min(most, int((limit - base) / each))
    if images < fewest:
        raise InputError(
            f"{_too_little(fewest)}: a step needs {base / _GIB:.2f} GiB and {each / _GIB:.3f} more an image, "
            f"there are {limit / _GIB:.2f} GiB: lower crop.side, or choose a smaller architecture"
        )
    line = f"{base / _GIB:.2f} GiB and {each / _GIB:.3f} an image, within {limit / _GIB:.2f} GiB"
    return Probe(images, fewest, f"estimated from the peaks at {small} and {large}: {line}")


def _too_little(fewest: int) -> str:
    return f"too little memory for a step with {fewest} image{'s' * (fewest > 1)}"


def _prepare(job: Job, runtime: Runtime) -> tuple[Run, State]:
    """A run in this process alone, all of the network ready to learn."""
    group = Group(0, 1, torch.device(choose_device(runtime)))
    run, state = prepare(group, job, mean_std_of(job))
    set_modes(state.model, job.recipe, job.recipe.freeze_epochs)
    return run, state


def _endless(run: Run) -> Iterator[Plan]:
    recipe = run.job.recipe
    for epoch in itertools.count():
        for batch in epoch_batches(run.loader.keys, run.loader.strata, recipe.seed, epoch, recipe.batch_size):
            yield plan_step(run, batch)


def _peak_of(step: Callable[[int], None], images: int) -> int:
    """The most bytes that this process held at once during two steps; Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the mark of the peak back
    except OSError:
        raise InputError("the peak of memory on a CPU can be read on Linux only") from None
    step(images)
    step(images)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _free_memory() -> int:
    """Bytes that this process may hold: what it has, and what the machine has left."""
    return (_kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")) * 1024


def _kilobytes(file: str, key: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])
