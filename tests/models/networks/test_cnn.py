"""The small convolutional networks: parameters counted by hand, and features that ignore where a pattern lies."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from tumorboard.models.networks.cnn import cnn, cnn3


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_cnn_parameters_by_hand() -> None:
    widths = (3, 32, 64, 128, 256)
    pairs = pairwise(widths)
    assert count(cnn(64)) == sum(9 * narrow * wide + 2 * wide for narrow, wide in pairs) == 388_896


@pytest.mark.parametrize(("size", "side"), [(32, 1), (64, 5), (224, 25)])
def test_cnn3_parameters_by_hand(size: int, side: int) -> None:
    # 64 -> 60 -> 30 -> 26 -> 13 -> 11 -> 5; 224 -> 220 -> 110 -> 106 -> 53 -> 51 -> 25
    convolutions = (25 * 3 * 16 + 16) + (25 * 16 * 16 + 16) + (9 * 16 * 3 + 3)
    assert count(cnn3(size)) == convolutions + 3 * side * side * 64 + 64
    assert cnn3(size)(torch.zeros(2, 3, size, size)).shape == (2, 64)


def test_cnn3_output_by_hand() -> None:
    torch.manual_seed(0)
    network = cnn3(32)
    first, second, third, last = (layer for layer in network if isinstance(layer, (nn.Conv2d, nn.Linear)))
    images = torch.randn(2, 3, 32, 32)
    maps = images
    for layer in (first, second, third):
        maps = functional.max_pool2d(functional.conv2d(maps, layer.weight, layer.bias).clamp(min=0), 2)
    expected = (maps.reshape(2, 3) @ last.weight.T + last.bias).clamp(min=0)
    torch.testing.assert_close(network(images), expected)
    # Pooled values below zero, which the ReLU before the pool sets to zero, do occur in this example.
    unclipped = functional.conv2d(network[:6](images), third.weight, third.bias)
    assert functional.max_pool2d(unclipped, 2).min() < 0


def test_cnn_features_are_the_mean_over_places() -> None:
    # A pattern that moves by a multiple of 16 pixels, the stride of the four pools, moves features but not their mean.
    network = cnn(32).eval()
    tile = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    picture = torch.zeros(1, 3, 96, 96)
    picture[..., 32:48, 32:48] = tile
    moved = torch.zeros(1, 3, 96, 96)
    moved[..., 48:64, 48:64] = tile
    torch.testing.assert_close(network(picture), network(moved))
