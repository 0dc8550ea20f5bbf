"""Measures how fast an epoch of this project's trainer is, relative to other loops.

All loops train the same model on the same images, with the same batch size, augmentation and optimizer. Each loop has
its own process, which waits while the others run. Each repetition times one epoch of every loop, in a random order,
prints them, and ratios are taken within a repetition. The loops are:

- trainer: this project's, with packed crops, augmentation and steps; on a GPU these are captured as CUDA graphs
- uncaptured: the trainer on a GPU without CUDA graphs
- resident: the trainer's step on one batch that stays in memory without augmentation, so without an input pipeline
- plain: a loop over ImageFolder, PIL and a DataLoader with processes, in mixed precision and channels_last
- student: the same loop in float32 and without channels_last, as most scripts are written
- lightning: Lightning's Trainer in mixed precision on the same DataLoader, if Lightning is installed

Example:
    python -m benchmarks.train --data ../shared/data/brain_mri --side 64 --images 640 --repetitions 5
"""

import argparse
import math
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks import ROOT, argument_parser, machine, summary
from benchmarks.jobs import data_loader, make_job
from tumorboard.base.params import Augment, load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.device import autocast, choose_device
from tumorboard.models.registry import Classifier, build_model
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.heap import keep_freed_memory
from tumorboard.training.job import Job, Setup, State
from tumorboard.training.loop import mean_std_of, set_up
from tumorboard.training.one_step import backward, numbers_of_steps, optimizer_step, plan_step
from tumorboard.training.optim import set_lr
from tumorboard.training.steps import set_train_mode, train_epoch

UNALTERED: dict[str, Any] = {
    "crop": 1.0,
    "zoom": (1.0, 1.0),
    "blur_sigma": (1.0, 1.0),
    "fill": "reflect",
    "interpolation": "bilinear",
}  # of an Augment, whose other fields are 0
RunEpoch: TypeAlias = Callable[[], object]
MakeLoop: TypeAlias = Callable[[Job, DataLoader[Any], torch.device], RunEpoch]


def trainer(job: Job, _: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes an epoch of this project's trainer."""
    return epoch_of(*start_training(job, device, cuda_graphs=device.type == "cuda"))


def uncaptured(job: Job, _: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes an epoch of the trainer without CUDA graphs."""
    return epoch_of(*start_training(job, device))


def epoch_of(setup: Setup, state: State) -> RunEpoch:
    """Returns an epoch of the trainer without its validation and checkpoints."""
    return lambda: train_epoch(setup, state, 0, Checkpoints(setup.group, folder=None, key="", seconds=0.0))


def resident(job: Job, _: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes as many of the trainer's steps, all on one batch."""
    return resident_steps(job, device, cuda_graphs=device.type == "cuda")


def resident_steps(job: Job, device: torch.device, *, cuda_graphs: bool) -> RunEpoch:
    """Makes an epoch of steps on one batch, which is not altered."""
    unaltered = Augment(**{name: UNALTERED.get(name, 0.0) for name in Augment.model_fields})
    job = replace(job, recipe=job.recipe.model_copy(update={"augment": unaltered}))
    setup, state = start_training(job, device, cuda_graphs=cuda_graphs)
    set_train_mode(state.model, job.recipe, 0)
    rows = np.arange(job.recipe.batch_size)
    plan = plan_step(setup, np.stack([rows, np.zeros_like(rows)], axis=1))
    batch = next(setup.loader.load(plan.micro_batches))
    inputs = [part.to(device) for part in next(setup.loader.read(plan.micro_batches))]
    numbers = numbers_of_steps(setup, state, [plan], [job.recipe.lr])[0]

    def run_epoch() -> None:
        if setup.graphs:
            setup.graphs.start_epoch(job.store.size)
        for _ in range(-(-len(job.rows) // job.recipe.batch_size)):
            set_lr(state.optimizer, job.recipe.lr)
            if setup.graphs:
                setup.graphs([numbers, *inputs])
            else:
                backward(setup, state, model=state.model, plan=plan, batches=iter([batch]))
                optimizer_step(job.recipe, state)

    return run_epoch


def start_training(job: Job, device: torch.device, *, cuda_graphs: bool = False) -> tuple[Setup, State]:
    """Returns a training in this process before its first step, with the same settings as `launch`."""
    if device.type == "cpu":
        keep_freed_memory()
    return set_up(Group(0, 1, device), job, mean_std_of(job), cuda_graphs=cuda_graphs)


def plain(job: Job, loader: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes an epoch of a hand-written loop in mixed precision and channels_last."""
    return hand_written(job, loader, device, precision=job.recipe.precision, layout=torch.channels_last)


def student(job: Job, loader: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes an epoch of a hand-written loop in float32 and torch's default layout."""
    return hand_written(job, loader, device, precision="off", layout=torch.contiguous_format)


def network(job: Job) -> Classifier:
    """Returns the network that the trainer trains."""
    return build_model(job.recipe, len(job.classes), job.store.size, mean_std_of(job))


def hand_written(
    job: Job, loader: DataLoader[Any], device: torch.device, *, precision: str, layout: torch.memory_format
) -> RunEpoch:
    """Makes an epoch of the usual loop: forward, backward, optimizer step and loss for the progress bar."""
    model = network(job).to(device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), job.recipe.lr, weight_decay=job.recipe.weight_decay)

    def run_epoch() -> None:
        for batch, labels in batches_on(loader, device):
            optimizer.zero_grad()
            with autocast(precision, device):
                loss = functional.cross_entropy(model(batch.to(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    return run_epoch


def batches_on(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the loader's batches on the device."""
    for batch, labels in loader:
        yield batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def lightning(job: Job, loader: DataLoader[Any], device: torch.device) -> RunEpoch:
    """Makes an epoch of one endless fit by Lightning, without its loggers, checkpoints and progress bar."""
    import lightning as framework

    class Module(framework.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network(job).to(memory_format=torch.channels_last)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, labels = batch
            return functional.cross_entropy(self.network(images.to(memory_format=torch.channels_last)), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), job.recipe.lr, weight_decay=job.recipe.weight_decay)

    may_start, has_ended = threading.Semaphore(0), threading.Semaphore(0)

    class OneEpochAtATime(framework.Callback):  # type: ignore[misc]
        def on_train_epoch_start(self, *_: object) -> None:
            may_start.acquire()

        def on_train_epoch_end(self, *_: object) -> None:
            has_ended.release()

    fit = framework.Trainer(
        max_epochs=-1,
        precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "off": "32-true"}[job.recipe.precision],
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        callbacks=[OneEpochAtATime()],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    ).fit
    threading.Thread(target=fit, args=(Module(), loader), daemon=True).start()

    def run_epoch() -> None:
        may_start.release()
        has_ended.acquire()

    return run_epoch


LOOPS: dict[str, MakeLoop] = {
    "trainer": trainer,
    "uncaptured": uncaptured,
    "resident": resident,
    "plain": plain,
    "student": student,
    "lightning": lightning,
}


def serve_epochs(pipe: Connection, name: str, data: Path, job: Job, workers: int) -> None:
    """Runs in the process of one loop: each True in the pipe is answered by the seconds of an epoch; False ends."""
    device = choose_device(load_params(ROOT / "params.yaml").runtime)
    run_epoch = LOOPS[name](job, data_loader(data, job, workers, device), torch.device(device))
    while pipe.recv():
        start = time.perf_counter()
        run_epoch()
        if device == "cuda":
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - start)


def time_loops(
    names: Sequence[str], data: Path, job: Job, *, workers: int, repetitions: int, minutes: float
) -> dict[str, list[float]]:
    """Returns the seconds of one epoch per loop and repetition; an epoch before them warms up and does not count.

    A line per repetition is printed as soon as it has ended.

    Args:
        names: names in LOOPS.
        data: has one folder per class, or a folder Training that has them.
        job: what is trained.
        workers: processes of each DataLoader; 0: none.
        repetitions: number of epochs timed per loop.
        minutes: time from the call on after which no further repetition is begun, but for the first that counts.
    """
    start = time.perf_counter()
    spawn = get_context("spawn")
    pipes: dict[str, Connection] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    try:
        for name in names:
            pipes[name], child_end = spawn.Pipe()
            spawn.Process(target=serve_epochs, args=(child_end, name, data, job, workers)).start()
            child_end.close()  # recv then raises EOFError if the process dies, instead of waiting forever
        for pipe in pipes.values():  # all loops warm up at once, which takes as long as the slowest
            pipe.send(True)
        for name, pipe in pipes.items():
            pipe.recv()
            print(f"{time.perf_counter() - start:6.1f} s  {name} is warm", flush=True)
        for repetition in range(1, 1 + repetitions):
            if repetition > 1 and time.perf_counter() - start > 60 * minutes:
                print(
                    f"stopped after {repetition - 1} of {repetitions} repetitions (--minutes {minutes:g})", flush=True
                )
                break
            for name in random.sample(list(names), len(names)):
                pipes[name].send(True)
                seconds[name].append(pipes[name].recv())
            line = ", ".join(f"{name} {len(job.rows) / seconds[name][-1]:.0f}" for name in names)
            print(f"{time.perf_counter() - start:6.1f} s  repetition {repetition}: {line} images/s", flush=True)
    finally:
        for pipe in pipes.values():
            with suppress(OSError):
                pipe.send(False)
    return seconds


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has one folder per class, or Training with these")
    parser.add_argument("--model", default="resnet18", help="a name under `recipes` (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=640, help="images per epoch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="epochs timed per loop (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each DataLoader (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=["bf16", "fp16", "off"],
        default="bf16",
        help="of all loops but student (default: %(default)s)",
    )
    cuda = torch.cuda.is_available()
    missing = {"lightning": not find_spec("lightning"), "uncaptured": not cuda}
    possible = [name for name in LOOPS if not missing.get(name)]
    parser.add_argument(
        "--loops", nargs="+", choices=list(LOOPS), default=possible, help="loops to time (default: all that can run)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=2.5 if cuda else math.inf,
        help="begin no further repetition after this time (default: 2.5 on a GPU, else no limit)",
    )
    parser.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="deterministic trainer (default: yes)",
    )
    return parser.parse_args()


def main() -> None:
    """Prints the images per second of each loop and the trainer's speed relative to the others."""
    options = parse_arguments()
    params = load_params(ROOT / "params.yaml")
    changes = {"batch_size": options.batch, "precision": options.precision, "deterministic": options.deterministic}
    recipe = resolve_recipe(params, options.model).model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(
            options.data, options.images, side=options.side, recipe=recipe, crop=params.crop, folder=Path(folder)
        )
        seconds = time_loops(
            options.loops,
            options.data,
            job,
            workers=options.workers,
            repetitions=options.repetitions,
            minutes=options.minutes,
        )
    cuda = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    print(machine(), f"torch {torch.__version__}", *cuda, sep=", ")
    print(
        f"{options.model}, {options.side} pixels, batch {options.batch}, {options.precision}, "
        f"{options.images} images per epoch"
    )
    for name, taken in seconds.items():
        print(f"  {name}: {options.images / np.median(taken):.1f} images/s")
    for name, taken in seconds.items():
        if name != "trainer" and "trainer" in seconds:
            ratios = [other / own for own, other in zip(seconds["trainer"], taken, strict=True)]
            print(f"  speed of trainer relative to {name}: {summary(ratios, 3)}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
