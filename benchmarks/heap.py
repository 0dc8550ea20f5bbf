"""Measures what `tumorboard.training.heap` gains on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.heap

A step (bf16, forward and backward pass, AdamW) of 32 images: as glibc is set up, with freed memory kept in small pages,
and in large pages. Each way has a process of its own; the three take turns.
"""

import json
import os
import resource
import subprocess
import sys
import time

import torch
from torch.optim import AdamW

from benchmarks import argument_parser, machine
from benchmarks.convolutions import IMAGES, build, train_step
from tumorboard.training import heap

WAYS = ("as it is", "kept", "kept, large pages")
NETWORKS = (
    "resnet18:64",
    "googlenet:64",
    "densenet121:64",
    "timm/tf_efficientnet_lite0:160",
)


def measure(network: str, way: str, steps: int) -> dict[str, float]:
    """Returns the least and median milliseconds per step and the peak memory in MB, of this process."""
    if way == "kept":
        heap.LARGE_PAGES = 0
    if way != "as it is":
        heap.keep_freed_memory()
    name, side = network.split(":")
    torch.manual_seed(0)
    model = build(name).to(memory_format=torch.channels_last).train()
    optimizer = AdamW(model.parameters(), fused=True)
    seconds = []
    for _ in range(steps + 2):
        images = torch.randn(IMAGES, 3, int(side), int(side)).to(memory_format=torch.channels_last)
        start = time.perf_counter()
        train_step(model, images, True, True, optimizer)
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[2:])  # the first two warm up
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"least": 1e3 * timed[0], "median": 1e3 * timed[len(timed) // 2], "memory": peak}


def main() -> None:
    """Prints a table with a row per network."""
    parser = argument_parser(__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="name:side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=2, help="a network and a way, measured in this process")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if options.one:
        print(json.dumps(measure(*options.one, options.steps)))
        return
    print(f"| | {' | '.join(WAYS)} | speed : as it is | : kept | peak memory |\n|---|---|---|---|---|---|---|")
    for network in options.networks:
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.heap",
                    "--steps",
                    str(options.steps),
                    "--one",
                    network,
                    way,
                ]
                results[way].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
        times = [min(result["median"] for result in results[way]) for way in WAYS]
        memory = ", ".join(f"{max(result['memory'] for result in results[way]):,.0f}" for way in WAYS)
        gains = " | ".join(f"{other / times[2]:.2f}" for other in times[:2])
        name, side = network.split(":")
        cells = " | ".join(f"{value:,.0f} ms" for value in times)
        print(f"| `{name}`, {side} pixels | {cells} | {gains} | {memory} MB |", flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
