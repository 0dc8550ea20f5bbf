"""The command `tumorboard batch-size`: how many images fit in memory at once."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer

from tumorboard.base.errors import InputError, counted
from tumorboard.base.params import Runtime, load_params
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.prepared_job import FoldOption, ModelArgument, prepare_alone, read_prepared_job
from tumorboard.models.device import choose_device
from tumorboard.training.batch_norm import fewest_images
from tumorboard.training.job import Job
from tumorboard.training.loader import smallest_micro_batch
from tumorboard.training.one_step import backward, optimizer_step, plan_step
from tumorboard.training.optim import set_lr

GIB = 2**30  # bytes
LARGEST_MEASURED = 64  # images; larger steps on the CPU are estimated from smaller ones

app = typer.Typer(add_completion=False)


@app.command("batch-size", epilog="Example: tumorboard batch-size resnet18")
@reports_user_errors
def batch_size(
    model: ModelArgument,
    fold: FoldOption = 0,
    memory: Annotated[
        float | None, typer.Option(min=0, metavar="GIB", help="Memory limit on a CPU; default: what is free now.")
    ] = None,
) -> None:
    """Finds how many images of MODEL fit in memory at once, and the `accumulate` for its batch_size."""
    params = load_params("params.yaml")
    job = read_prepared_job(params, model, fold)
    size, processes = job.recipe.batch_size, process_count(params.runtime)
    capacity = measure_capacity(job, params.runtime, memory)
    typer.echo(f"{capacity.images} images at a time ({capacity.how})")
    accumulate = accumulate_for(job, processes, capacity)
    typer.echo(f"accumulate: {accumulate} keeps batch_size {size} with {processes} process{'es' * (processes > 1)}")


class Capacity(NamedTuple):
    """How many images one process can train on at once."""

    images: int  # the most images that fit in memory
    fewest: int  # the fewest images that the model can train on
    how: str  # a text for the user on how `images` was determined


def measure_capacity(job: Job, runtime: Runtime, memory: float | None) -> Capacity:
    """Returns the most images that one process can train on at once, at most all training images of the job.

    On CUDA, steps of growing size are run until memory is exhausted, then sizes between the last two. On the CPU,
    where exhausted memory kills the process, the peaks of a few small steps are extrapolated along a line.

    Args:
        job: the training whose recipe and images are used; its outputs are not written.
        runtime: decides the device; its processes share the memory.
        memory: the limit on a CPU in GiB; None: the machine's free memory.

    Raises:
        InputError: if not even the fewest images fit, or if `memory` is given on CUDA.
    """
    # One micro-batch per step, so that the step holds exactly the images asked for.
    unaccumulated = job.recipe.model_copy(update={"accumulate": 1})
    setup, state = prepare_alone(replace(job, recipe=unaccumulated), runtime)
    fewest = fewest_images(state.model, job.store.size)
    most = max(len(job.rows), fewest)

    def step(images: int) -> None:
        rows = np.resize(np.arange(len(job.rows)), images)
        plan = plan_step(setup, np.stack([rows, np.zeros_like(rows)], axis=1))
        backward(setup, state, model=state.model, plan=plan, batches=setup.loader.load(plan.micro_batches))
        optimizer_step(unaccumulated, state)

    set_lr(state.optimizer, 0.0)
    if setup.group.device.type == "cuda":
        if memory is not None:
            raise InputError("--memory is for the CPU: on CUDA the device's own memory is the limit")
        images = largest_that_fits(step, fewest, most)
        return Capacity(images, fewest, f"steps carried out on {torch.cuda.get_device_name()}")
    limit = (_free_bytes() if memory is None else memory * GIB) / process_count(runtime)
    return estimate_from_peaks(lambda images: _peak_bytes(step, images), fewest, most, limit)


def process_count(runtime: Runtime) -> int:
    """Returns the number of processes of a training on this machine; 'auto' means one per CUDA device, or one."""
    if runtime.processes != "auto":
        return runtime.processes
    return torch.cuda.device_count() if choose_device(runtime) == "cuda" else 1


def accumulate_for(job: Job, processes: int, capacity: Capacity) -> int:
    """Returns the fewest micro-batches per step with which every process's share of a batch fits in memory.

    Args:
        job: gives the number of training images and the batch size, which counts all processes together.
        processes: number of processes of the training.
        capacity: the capacity of one process.

    Raises:
        InputError: if a micro-batch would then hold fewer images than the model can train on.
    """
    rows, batch_size = len(job.rows), job.recipe.batch_size
    largest_batch = math.ceil(rows / math.ceil(rows / batch_size))  # an epoch is cut into batches of nearly equal size
    accumulate = math.ceil(math.ceil(largest_batch / processes) / capacity.images)
    if smallest_micro_batch(rows, batch_size, processes, accumulate) < capacity.fewest:
        raise InputError(
            f"a process's share of a batch cannot be cut into parts of {capacity.fewest} to {capacity.images} images: "
            f"choose another batch_size than {batch_size}, or another number of processes than {processes}"
        )
    return accumulate


def largest_that_fits(step: Callable[[int], None], fewest: int, most: int) -> int:
    """Returns the largest number in fewest..most for which `step` does not raise torch.OutOfMemoryError.

    The number is doubled until a step fails; then the interval between success and failure is halved.

    Example:
        >>> def step(images):
        ...     if images > 37:
        ...         raise torch.OutOfMemoryError
        >>> largest_that_fits(step, 1, 1000)
        37

    Raises:
        InputError: if the fewest do not fit.
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
        torch.cuda.empty_cache()  # otherwise a failed step's memory would be missing in the next step
        size = min(2 * size, most) if fails > most else (fits + fails) // 2
    if not fits:
        raise InputError(f"{_too_little(fewest)}: lower crop.side, or choose a smaller architecture")
    return fits


def estimate_from_peaks(peak: Callable[[int], int], fewest: int, most: int, limit: float) -> Capacity:
    """Estimates how many images fit below a limit by the line through the memory peaks of two step sizes.

    The larger of the two sizes is twice the smaller. Both are doubled, up to LARGEST_MEASURED images, while the line
    predicts that the next size needs less than half of the limit.

    Args:
        peak: returns the most bytes held during a step of that many images.
        fewest: the fewest images that the model can train on.
        most: upper bound of the estimate.
        limit: bytes.

    Raises:
        InputError: if the fewest do not fit.
    """
    small, large = 2 * fewest, 4 * fewest
    low, high = peak(small), peak(large)
    while large < LARGEST_MEASURED and high + 2 * (high - low) < limit / 2:
        small, large, low = large, 2 * large, high
        high = peak(large)
    per_image = max(1.0, (high - low) / (large - small))
    base = high - per_image * large
    images = min(most, int((limit - base) / per_image))
    if images < fewest:
        raise InputError(
            f"{_too_little(fewest)}: a step needs {base / GIB:.2f} GiB and {per_image / GIB:.3f} more per image, "
            f"there are {limit / GIB:.2f} GiB: lower crop.side, or choose a smaller architecture"
        )
    line = f"{base / GIB:.2f} GiB and {per_image / GIB:.3f} per image, within {limit / GIB:.2f} GiB"
    return Capacity(images, fewest, f"estimated from the peaks at {small} and {large}: {line}")


def _too_little(fewest: int) -> str:
    return f"too little memory for a step with {counted(fewest, 'image')}"


def _peak_bytes(step: Callable[[int], None], images: int) -> int:
    """Returns the most bytes that this process held at once during two steps; Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark VmHWM
    except OSError:
        raise InputError("the peak of memory on a CPU can be read on Linux only") from None
    step(images)
    step(images)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _free_bytes() -> int:
    """Returns the bytes that this process may hold: the bytes it holds, and those that the machine has free."""
    return (_kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")) * 1024


def _kilobytes(file: str, key: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])
