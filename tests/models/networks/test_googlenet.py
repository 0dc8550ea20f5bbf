"""GoogLeNet with batch norm: its widths and parameters are summed by hand from the paper's table."""

import torch
from torch import nn

from tumorboard.models.networks.googlenet import Inception, Widths, googlenet_bn

# 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pool: a3 b3 a4 b4 c4 d4 e4 a5 b5
TABLE = [
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]


def convolution(narrow: int, wide: int, side: int) -> int:
    """Parameters of a convolution without bias and the batch norm after it."""
    return narrow * wide * side * side + 2 * wide


def test_parameters_are_those_of_the_table() -> None:
    total, width = convolution(3, 192, 3), 192
    for one, reduced3, three, reduced5, five, pool in TABLE:
        total += convolution(width, one, 1)
        total += convolution(width, reduced3, 1) + convolution(reduced3, three, 3)
        total += convolution(width, reduced5, 1) + convolution(reduced5, five, 3) + convolution(five, five, 3)
        total += convolution(width, pool, 1)
        width = one + three + five + pool
    assert width == 1024
    assert sum(parameter.numel() for parameter in googlenet_bn(32).parameters()) == total == 6_148_096


def test_pools_halve_after_the_second_and_the_seventh_block() -> None:
    network = googlenet_bn(32).eval()
    shapes = []
    for layer in network:
        if isinstance(layer, Inception):
            layer.register_forward_hook(lambda _layer, _given, result: shapes.append(tuple(result.shape[1:])))
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 32, 32))
    sums = [row[0] + row[2] + row[4] + row[5] for row in TABLE]
    assert shapes == [(width, side, side) for width, side in zip(sums, [32] * 2 + [16] * 5 + [8] * 2, strict=True)]
    assert features.shape == (1, 1024)


def test_branches_are_joined_by_channel() -> None:
    block = Inception(Widths(4, single=1, triple=(2, 3), quintuple=(1, 2), pool=2)).eval()
    images = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        joined = block(images)
        weight = block.single[0].weight
        # In eval mode a new batch norm only divides by sqrt(1 + eps).
        single = nn.functional.conv2d(images, weight).div((1 + 1e-5) ** 0.5).relu()
        pooled = nn.functional.max_pool2d(images, 3, stride=1, padding=1)
        pool = nn.functional.conv2d(pooled, block.pool[1][0].weight).div((1 + 1e-5) ** 0.5).relu()
    assert joined.shape == (1, 1 + 3 + 2 + 2, 6, 6)
    torch.testing.assert_close(joined[:, :1], single)
    torch.testing.assert_close(joined[:, 6:], pool)
