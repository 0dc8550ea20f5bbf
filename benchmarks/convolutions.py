"""Measures what `tumorboard.training.convolutions` gains on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.convolutions
    OMP_NUM_THREADS=2 python -m benchmarks.convolutions --networks timm/tf_efficientnet_lite0:160

The first table has a training step (forward and backward pass) of 32 images: in float32, in bf16 as torch computes it,
and in bf16 with `faster_convolutions`. The second has single convolutions of one network, forward and backward. Times
are the least of several rounds in which all take turns.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks import argument_parser, machine
from tumorboard.training.convolutions import faster_convolutions

IMAGES = 32
NETWORKS = (
    "resnet18:64",
    "googlenet:64",
    "resnet50:64",
    "densenet121:64",
    "mobilenet_v3_small:64",
    "timm/tf_efficientnet_lite0:64",
    "timm/tf_efficientnet_lite0:160",
    "resnet18:224",
    "resnet50:224",
)
CONVOLUTIONS = {  # channels in and out, kernel, stride, groups, side of the input
    "3 x 3, 128 to 128 channels, 8 pixels": (128, 128, 3, 1, 1, 8),
    "3 x 3, 256 to 256 channels, 4 pixels": (256, 256, 3, 1, 1, 4),
    "3 x 3, 256 to 512 channels, 4 to 2 pixels": (256, 512, 3, 2, 1, 4),
    "3 x 3, 512 to 512 channels, 2 pixels": (512, 512, 3, 1, 1, 2),
    "1 x 1, 832 to 384 channels, 2 pixels": (832, 384, 1, 1, 1, 2),
    "1 x 1, 2048 to 512 channels, 7 pixels": (2048, 512, 1, 1, 1, 7),
    "depthwise 3 x 3, 144 channels, 40 pixels": (144, 144, 3, 1, 144, 40),
    "depthwise 3 x 3, 96 channels, 80 to 40 pixels": (96, 96, 3, 2, 96, 80),
    "depthwise 5 x 5, 240 channels, 20 pixels": (240, 240, 5, 1, 240, 20),
}
WAYS = {"float32": (False, False), "bf16": (True, False), "bf16, faster": (True, True)}


def train_step(
    network: nn.Module, images: Tensor, bf16: bool, faster: bool, optimizer: Optimizer | None = None
) -> None:
    """Computes gradients once, and moves the weights by them where there is an optimizer."""
    context = faster_convolutions(torch.device("cpu")) if faster else nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), context:
        outputs = network(images)
    loss = functional.cross_entropy(outputs.float().flatten(1), torch.zeros(len(images), dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    if optimizer is not None:
        optimizer.step()
    for parameter in network.parameters():
        parameter.grad = None


def build(name: str) -> nn.Module:
    """Returns a network of two classes by its name in torchvision, or timm/ and its name there."""
    if name.startswith("timm/"):
        network: nn.Module = timm.create_model(name.removeprefix("timm/"), num_classes=2)
        return network
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, num_classes=2, **options)


def least_times(tasks: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Returns milliseconds per task: the least of several rounds."""
    least = dict.fromkeys(tasks, float("inf"))
    for number in range(rounds + 1):  # one more, to warm up
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number:
                least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
    return least


def print_row(title: str, network: nn.Module, images: Tensor, rounds: int) -> None:
    """Prints the times of the three ways to compute a step."""
    network = network.to(memory_format=torch.channels_last).train()
    images = images.to(memory_format=torch.channels_last)
    tasks = {way: lambda options=options: train_step(network, images, *options) for way, options in WAYS.items()}
    times = least_times(tasks, rounds)
    gains = " | ".join(f"{times[other] / times['bf16, faster']:.2f}" for other in ("bf16", "float32"))
    print(f"| {title} | {' | '.join(f'{value:.3g} ms' for value in times.values())} | {gains} |", flush=True)


def main() -> None:
    """Prints both tables."""
    parser: argparse.ArgumentParser = argument_parser(__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="name:side")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    heading = f"| {' | '.join(WAYS)} | speed : bf16 | : float32 |\n|---|---|---|---|---|---|"
    print(f"{torch.get_num_threads()} threads\n\n| training step of {IMAGES} images {heading}")
    for network in options.networks:
        name, side = network.split(":")
        torch.manual_seed(0)
        print_row(f"`{name}`, {side} pixels", build(name), torch.randn(IMAGES, 3, int(side), int(side)), options.rounds)
    print(f"\n| convolution {heading}")
    for title, (inputs, outputs, kernel, stride, groups, side) in CONVOLUTIONS.items():
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        print_row(title, layer, torch.randn(IMAGES, inputs, side, side).requires_grad_(), 3 * options.rounds)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
