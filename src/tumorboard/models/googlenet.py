"""GoogLeNet with batch norm for small pictures (Szegedy et al. 2014; Ioffe & Szegedy 2015)."""

import torch
from torch import Tensor, nn

_BLOCKS = (
    # input, 1x1, (reduced, 3x3), (reduced, 5x5), projected pool
    (192, 64, (96, 128), (16, 32), 32),
    (256, 128, (128, 192), (32, 96), 64),
    None,  # a pool
    (480, 192, (96, 208), (16, 48), 64),
    (512, 160, (112, 224), (24, 64), 64),
    (512, 128, (128, 256), (24, 64), 64),
    (512, 112, (144, 288), (32, 64), 64),
    (528, 256, (160, 320), (32, 128), 128),
    None,
    (832, 256, (160, 320), (32, 128), 128),
    (832, 384, (192, 384), (48, 128), 128),
)


def googlenet_bn(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Images [N, 3, H, W] to features [N, 1024]: a 3x3 stem to 192, nine inception blocks, global average pool."""
    blocks = [nn.MaxPool2d(3, stride=2, padding=1) if widths is None else Inception(*widths) for widths in _BLOCKS]
    return nn.Sequential(_convolution(3, 192, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Inception(nn.Module):
    """Four branches side by side, joined by channel; the 5x5 branch is two 3x3 convolutions."""

    def __init__(self, width: int, single: int, triple: tuple[int, int], quintuple: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.single = _convolution(width, single, 1)
        self.triple = nn.Sequential(_convolution(width, triple[0], 1), _convolution(*triple, 3))
        self.quintuple = nn.Sequential(
            _convolution(width, quintuple[0], 1),
            _convolution(*quintuple, 3),
            _convolution(quintuple[1], quintuple[1], 3),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _convolution(width, pool, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps [N, C, H, W] to [N, C', H, W]."""
        return torch.cat([branch(images) for branch in self.children()], dim=1)


def _convolution(width: int, wider: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, wider, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)
    )
