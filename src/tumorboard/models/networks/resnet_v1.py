"""ResNets as first published, with the stride in a block's first convolution (He et al. 2015, arXiv 1512.03385)."""

from typing import Any

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


class BottleneckV1(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """A bottleneck block whose first 1x1 convolution has the stride; torchvision's has it in the 3x3 ("v1.5").

    Parameters and tensor names are those of torchvision's block.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


def resnet50_v1(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network from images [N, 3, H, W] to outputs [N, 1000], or to features [N, 2048] without its `fc`."""
    return _resnet(3, 4, 6, 3)


def resnet101_v1(size: int) -> nn.Module:  # noqa: ARG001 - as above
    """Returns a network like `resnet50_v1` with 23 blocks in its third stage."""
    return _resnet(3, 4, 23, 3)


def resnet152_v1(size: int) -> nn.Module:  # noqa: ARG001 - as above
    """Returns a network like `resnet50_v1` with 8 blocks in its second stage and 36 in its third."""
    return _resnet(3, 8, 36, 3)


def _resnet(*blocks: int) -> nn.Module:
    network: nn.Module = ResNet(BottleneckV1, list(blocks))
    return network
