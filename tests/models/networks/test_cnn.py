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


@pytest.mark.parametrize(("size", "side", "total"), [(64, 16, 57_413), (256, 64, 794_693), (50, 12, None)])
def test_cnn3_parameters_by_hand(size: int, side: int, total: int | None) -> None:
    # Padding keeps the side in each convolution: 64 -> 32 -> 16; 256 -> 128 -> 64; 50 -> 25 -> 12.
    convolutions = (25 * 3 * 16 + 16) + (25 * 16 * 16 + 16) + (9 * 16 * 3 + 3)
    assert count(cnn3(size)) == convolutions + 3 * side * side * 64 + 64
    if total:  # with the linear head of two classes
        assert count(cnn3(size)) + 64 * 2 + 2 == total
    assert cnn3(size)(torch.zeros(2, 3, size, size)).shape == (2, 64)


def test_cnn3_output_by_hand() -> None:
    torch.manual_seed(0)
    network = cnn3(32)
    first, second, third, last = (layer for layer in network if isinstance(layer, (nn.Conv2d, nn.Linear)))
    images = torch.randn(2, 3, 32, 32)
    maps = functional.conv2d(functional.pad(images, (2, 2, 2, 2)), first.weight, first.bias)
    maps = functional.max_pool2d(maps.clamp(min=0), 2)
    maps = functional.conv2d(functional.pad(maps, (2, 2, 2, 2)), second.weight, second.bias)
    maps = functional.max_pool2d(maps.clamp(min=0), 2)
    maps = functional.conv2d(functional.pad(maps, (1, 1, 1, 1)), third.weight, third.bias).clamp(min=0)
    assert maps.shape == (2, 3, 8, 8)
    expected = maps.reshape(2, 3 * 8 * 8) @ last.weight.T + last.bias
    assert expected.min() < 0, "no activation follows the last layer"
    torch.testing.assert_close(network(images), expected)


def test_cnn_features_are_the_mean_over_places() -> None:
    # A pattern that moves by a multiple of 16 pixels, the stride of the four pools, moves features but not their mean.
    network = cnn(32).eval()
    tile = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    picture = torch.zeros(1, 3, 96, 96)
    picture[..., 32:48, 32:48] = tile
    moved = torch.zeros(1, 3, 96, 96)
    moved[..., 48:64, 48:64] = tile
    torch.testing.assert_close(network(picture), network(moved))
