"""ResNets as first published, with the stride in a block's first convolution (He et al. 2015, arXiv 1512.03385)."""

from torch import nn

from tumorboard.models.zoo import torchvision_models


def resnet50_v1(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network from images [N, 3, H, W] to outputs [N, 1000], or to features [N, 2048] without its `fc`."""
    return _resnet(3, 4, 6, 3)


def resnet101_v1(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network like `resnet50_v1` with 23 blocks in its third stage."""
    return _resnet(3, 4, 23, 3)


def resnet152_v1(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network like `resnet50_v1` with 8 blocks in its second stage and 36 in its third."""
    return _resnet(3, 8, 36, 3)


def _resnet(*blocks: int) -> nn.Module:
    """Returns torchvision's ResNet ("v1.5", with the stride in a block's 3x3 convolution) with its strides moved.

    Parameters and tensor names are the same as in torchvision's network.
    """
    resnet = torchvision_models().resnet
    network: nn.Module = resnet.ResNet(resnet.Bottleneck, list(blocks))
    for block in network.modules():
        if isinstance(block, resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network
