"""ResNets with the stride in the first 1x1 convolution: torchvision's parameters, and smaller maps within a block."""

import pytest
import torch
import torchvision
from torchvision.models.resnet import Bottleneck

from tumorboard.models.networks.resnet_v1 import resnet50_v1, resnet101_v1, resnet152_v1


@pytest.mark.parametrize(
    ("build", "name", "total"),
    [
        (resnet50_v1, "resnet50", 25_557_032),
        (resnet101_v1, "resnet101", 44_549_160),
        (resnet152_v1, "resnet152", 60_192_808),
    ],
)
def test_the_tensors_are_those_of_torchvision(build, name: str, total: int) -> None:
    """The totals are those of torchvision's documentation."""
    with torch.device("meta"):
        network, published = build(64), torchvision.models.get_model(name)
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in published.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == total


def test_only_the_first_block_of_stages_two_to_four_has_a_stride_and_it_is_in_the_first_convolution() -> None:
    with torch.device("meta"):
        blocks = {name: block for name, block in resnet50_v1(64).named_modules() if isinstance(block, Bottleneck)}
    assert len(blocks) == 3 + 4 + 6 + 3
    strides = {name: (block.conv1.stride, block.conv2.stride, block.conv3.stride) for name, block in blocks.items()}
    halving = {"layer2.0", "layer3.0", "layer4.0"}
    for name, given in strides.items():
        assert given == (((2, 2) if name in halving else (1, 1)), (1, 1), (1, 1)), name
    assert all(blocks[name].downsample[0].stride == (2, 2) for name in halving)


def test_the_side_within_a_block_by_hand() -> None:
    """64 pixels: 32 after the stem's convolution, 16 after its pool and the first stage, then 8 within the block."""
    shapes = {}
    for name, network in (("v1", resnet50_v1(64)), ("v1.5", torchvision.models.resnet50())):
        block = network.get_submodule("layer2.0")
        block.conv1.register_forward_hook(lambda _layer, _given, out, name=name: shapes.update({name: out.shape[1:]}))
        with torch.no_grad():
            assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert shapes == {"v1": (128, 8, 8), "v1.5": (128, 16, 16)}
