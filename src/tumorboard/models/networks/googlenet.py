"""GoogLeNet with batch norm for small images (Szegedy et al. 2014; Ioffe & Szegedy 2015)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Widths(NamedTuple):
    """The channels of an inception block."""

    input: int
    single: int  # output channels of the 1x1 branch
    triple: tuple[int, int]  # channels of the 3x3 branch after its 1x1 reduction, and at its end
    quintuple: tuple[int, int]  # channels of the 5x5 branch after its 1x1 reduction, and at its end
    pool: int  # output channels of the branch that pools and projects


# From the paper's Table 1; None is a max pool.
_BLOCKS = (
    Widths(192, 64, (96, 128), (16, 32), 32),
    Widths(256, 128, (128, 192), (32, 96), 64),
    None,
    Widths(480, 192, (96, 208), (16, 48), 64),
    Widths(512, 160, (112, 224), (24, 64), 64),
    Widths(512, 128, (128, 256), (24, 64), 64),
    Widths(512, 112, (144, 288), (32, 64), 64),
    Widths(528, 256, (160, 320), (32, 128), 128),
    None,
    Widths(832, 256, (160, 320), (32, 128), 128),
    Widths(832, 384, (192, 384), (48, 128), 128),
)


def googlenet_bn(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network from images [N, 3, H, W] to features [N, 1024].

    A 3x3 convolution to 192 channels, nine inception blocks with two max pools between them, and a global average pool.
    """
    blocks = [nn.MaxPool2d(3, stride=2, padding=1) if widths is None else Inception(widths) for widths in _BLOCKS]
    return nn.Sequential(_convolution(3, 192, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Inception(nn.Module):
    """Runs four branches side by side and concatenates their channels; the 5x5 branch is two 3x3 convolutions."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        reduced3, wide3 = widths.triple
        reduced5, wide5 = widths.quintuple
        self.single = _convolution(widths.input, widths.single, 1)
        self.triple = nn.Sequential(_convolution(widths.input, reduced3, 1), _convolution(reduced3, wide3, 3))
        self.quintuple = nn.Sequential(
            _convolution(widths.input, reduced5, 1), _convolution(reduced5, wide5, 3), _convolution(wide5, wide5, 3)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(widths.input, widths.pool, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns feature maps [N, C', H, W] of feature maps [N, C, H, W]."""
        return torch.cat([branch(images) for branch in self.children()], dim=1)


def _convolution(width: int, wider: int, kernel: int) -> nn.Sequential:
    """Returns a convolution that keeps the image's size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, wider, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)
    )
