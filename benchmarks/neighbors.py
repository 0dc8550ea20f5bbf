"""Measures training steps per second beside other processes that keep cores busy, with several numbers of threads.

Columns, each in a process of its own; they take turns:
  default   one thread per core, which wait by spinning
  sleeping  the same number of threads, which sleep soon (base/cores.py: what a stage does on a busy machine)
  one       one thread
  adapted   the number that a training with `deterministic: false` chooses at that moment (training/threads.py)

Each row is measured beside that number of neighbors: Python processes that keep a core busy. Compare within a row only.

Example:
    python -m benchmarks.neighbors --model cnn resnet18 --neighbors 0 1 2 4
"""

import subprocess
import sys
import time
from functools import partial
from statistics import median

from benchmarks import ROOT, argument_parser, machine, stage_environment
from tumorboard.base.cores import FEW_SPINS, available_cores

NEIGHBOR = "while True: pass"
SECONDS = 1.0  # least duration of a measurement
BATCH, CLASSES = 32, 2
WARM_STEPS = 3

COLUMNS = {  # by name: threads (0: one per core) and the environment
    "default": ("0", {}),
    "sleeping": ("0", {"GOMP_SPINCOUNT": str(FEW_SPINS)}),
    "one": ("1", {}),
    "adapted": ("adapted", {"GOMP_SPINCOUNT": str(FEW_SPINS)}),
}


class Column:
    """A process that trains one network, for some seconds each time that it is asked."""

    def __init__(self, model: str, side: int, *, threads: str, settings: dict[str, str]) -> None:
        """Starts the process and waits until it has trained a few steps."""
        environment = stage_environment() | settings
        environment.pop("OMP_NUM_THREADS", None)
        words = [sys.executable, "-m", "benchmarks.neighbors", "--work", model, str(side), threads]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        self._ask("")

    def _ask(self, line: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def images_per_second(self) -> float:
        """Returns the images per second over `SECONDS`."""
        return float(self._ask(str(SECONDS)))

    def choose(self) -> None:
        """Lets the process choose its threads anew, if it adapts them."""
        self._ask("choose")

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def work(model: str, side: int, threads: str) -> None:
    """Trains in this process, as the lines of standard input say; prints a line for each."""
    import torch

    from tumorboard.training.threads import fastest_threads

    most = available_cores()
    torch.set_num_threads(1 if threads == "1" else most)
    step = training_step(model, side)
    for _ in range(WARM_STEPS):
        step()
    for line in sys.stdin:
        if line.strip() == "choose" and threads == "adapted":
            torch.set_num_threads(fastest_threads(step, most))
        start, steps = time.perf_counter(), 0
        while line[0].isdigit() and time.perf_counter() - start < float(line):
            step()
            steps += 1
        print(steps * BATCH / (time.perf_counter() - start), flush=True)


def training_step(model: str, side: int) -> "partial[None]":
    """Returns a step of the trainer without its loader: forward, backward and optimizer, on random images."""
    import torch
    from torch.nn.functional import cross_entropy

    from tumorboard.base.params import load_params
    from tumorboard.base.recipe import resolve_recipe
    from tumorboard.models.device import autocast
    from tumorboard.models.registry import build_model
    from tumorboard.training.heap import keep_freed_memory
    from tumorboard.training.optim import make_optimizer

    keep_freed_memory()
    torch.use_deterministic_algorithms(True)
    recipe = resolve_recipe(load_params(ROOT / "params.yaml"), model)
    network = build_model(recipe, CLASSES, side, ((0.5,) * 3, (0.5,) * 3)).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network.backbone, network.head, recipe)
    images = torch.randint(0, 256, (BATCH, 3, side, side)).float().to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % CLASSES

    def step() -> None:
        optimizer.zero_grad()
        with autocast(recipe.precision, torch.device("cpu")):
            logits = network(images)
        cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return partial(step)


def measure(columns: dict[str, Column], neighbors: int, repetitions: int) -> dict[str, float]:
    """Returns the median images per second of each column beside some neighbors."""
    beside = [subprocess.Popen([sys.executable, "-c", NEIGHBOR]) for _ in range(neighbors)]
    try:
        speeds: dict[str, list[float]] = {name: [] for name in columns}
        for _ in range(repetitions):
            for name, column in columns.items():
                column.choose()
                speeds[name].append(column.images_per_second())
        return {name: median(values) for name, values in speeds.items()}
    finally:
        for process in beside:
            process.kill()
            process.wait()


def main() -> None:
    """Prints a table per network: a row per number of neighbors, images per second and the share of the row's best."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", nargs="+", default=["cnn", "resnet18"], help="recipes (default: cnn resnet18)")
    parser.add_argument("--side", type=int, default=64, help="of the images in pixels (default: %(default)s)")
    parser.add_argument("--neighbors", type=int, nargs="+", default=[0, 1, 2, 4], help="rows (default: 0 1 2 4)")
    parser.add_argument("--repetitions", type=int, default=5, help="per cell (default: %(default)s)")
    parser.add_argument("--work", nargs=3, metavar=("MODEL", "SIDE", "THREADS"), help="be one column's process")
    options = parser.parse_args()
    if options.work:
        model, side, threads = options.work
        work(model, int(side), threads)
        return
    print(machine())
    for model in options.model:
        columns = {
            name: Column(model, options.side, threads=threads, settings=settings)
            for name, (threads, settings) in COLUMNS.items()
        }
        print(
            f"\n| {model}, {options.side} pixels: neighbors | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
        )
        for neighbors in options.neighbors:
            speeds = measure(columns, neighbors, options.repetitions)
            best = max(speeds.values())
            cells = (f"{speed:.0f} ({speed / best:.2f})" for speed in speeds.values())
            print(f"| {neighbors} | {' | '.join(cells)} |", flush=True)
        for column in columns.values():
            column.end()


if __name__ == "__main__":
    main()
