"""Measures where bf16 is slower than float32 on a CPU: the gradients of depthwise convolutions.

    python -m benchmarks.bf16 --side 64 112

The first table has a training step and a prediction of a network for 32 images on one thread: in float32, in bf16, and
in bf16 with its depthwise convolutions in float32: all, or those with a kernel above 3 or a stride above 1. The second
has single convolutions, forward and with gradients. Times are CPU time, the least of several rounds in which all take
turns.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import argument_parser, machine

IMAGES = 32
CONVOLUTIONS = {  # channels in and out, kernel, groups, side
    "depthwise 3 x 3": (96, 96, 3, 96, 32),
    "depthwise 5 x 5": (240, 240, 5, 240, 16),
    "pointwise 16 to 96": (16, 96, 1, 1, 32),
    "pointwise 480 to 80": (480, 80, 1, 1, 8),
    "full 3 x 3": (64, 64, 3, 1, 16),
}


def depthwise_in_float32(network: nn.Module, chosen: Callable[[nn.Conv2d], bool]) -> nn.Module:
    """Returns a copy of a network whose chosen depthwise convolutions ignore autocast."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 and chosen(layer):
            layer.forward = _without_autocast(layer.forward)  # type: ignore[method-assign]
    return network


def _without_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_float32(images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(images.float())

    return in_float32


def train_step(network: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> None:
    """Computes gradients once."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        outputs = network(images)
    functional.cross_entropy(outputs.float(), labels).backward()
    for parameter in network.parameters():
        parameter.grad = None


def predict(network: nn.Module, images: Tensor, bf16: bool) -> None:
    """Computes outputs once."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        network(images)


def least_times(tasks: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Returns milliseconds of CPU time per task: the least of several rounds."""
    least = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds + 1):  # one more, to warm up
        for name, task in tasks.items():
            start = time.thread_time()
            task()
            least[name] = min(least[name], 1e3 * (time.thread_time() - start))
    return least


def network_rows(name: str, side: int, rounds: int) -> None:
    """Prints one row per way to compute a network."""
    base = timm.create_model(name, num_classes=4).to(memory_format=torch.channels_last)
    images = torch.randn(IMAGES, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 4, (IMAGES,))
    large = depthwise_in_float32(base, lambda layer: layer.kernel_size[0] > 3 or layer.stride[0] > 1)
    ways = {
        "float32": (base, False),
        "bf16": (copy.deepcopy(base), True),
        "bf16, depthwise in float32": (depthwise_in_float32(base, lambda _: True), True),
        "bf16, large or strided depthwise in float32": (large, True),
    }
    steps = {way: lambda w=w: train_step(w[0], images, labels, w[1]) for way, w in ways.items()}
    trained = least_times(steps, rounds)
    for network, _ in ways.values():
        network.eval()
    predicted = least_times({way: lambda w=w: predict(w[0], images, w[1]) for way, w in ways.items()}, rounds)
    for way in ways:
        ratio = trained["float32"] / trained[way], predicted["float32"] / predicted[way]
        print(f"| {side} | {way} | {trained[way]:.0f} ms | {ratio[0]:.2f} | {predicted[way]:.0f} ms | {ratio[1]:.2f} |")


def convolution_row(name: str, rounds: int) -> None:
    """Prints the times of one convolution, in the layout channels_last."""
    inputs, outputs, kernel, groups, side = CONVOLUTIONS[name]
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    layer = layer.to(memory_format=torch.channels_last)
    images = torch.randn(IMAGES, inputs, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def forward(bf16: bool) -> None:
        predict(layer, images.detach(), bf16)

    def with_gradients(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result = layer(images)
        result.backward(torch.ones_like(result))

    tasks = {
        f"{kind} {bf16}": lambda task=task, bf16=bf16: task(bf16)
        for kind, task in (("forward", forward), ("gradients", with_gradients))
        for bf16 in (False, True)
    }
    print(f"| {name} | {' | '.join(f'{value:.1f} ms' for value in least_times(tasks, rounds).values())} |", flush=True)


def main() -> None:
    """Prints both tables."""
    parser: argparse.ArgumentParser = argument_parser(__doc__)
    parser.add_argument("--network", default="tf_efficientnet_lite0", help="name in timm")
    parser.add_argument("--side", type=int, nargs="+", default=[64, 112])
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| side | | training step | speed : float32 | prediction | speed : float32 |\n|---|---|---|---|---|---|")
    for side in options.side:
        network_rows(options.network, side, options.rounds)
    print("\n| convolution | float32, forward | bf16, forward | float32, with gradients | bf16, with gradients |")
    print("|---|---|---|---|---|")
    for name in CONVOLUTIONS:
        convolution_row(name, options.rounds)
    print(machine())


if __name__ == "__main__":
    main()
