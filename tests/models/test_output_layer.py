"""The output layers of networks: found by name, and left out where they have no use."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from tumorboard.models.output_layer import output_layer_names, removed_layer_names, without_output_layer


@pytest.mark.parametrize(
    ("build_network", "names"),
    [
        (torchvision.models.resnet18, ("fc",)),
        (torchvision.models.squeezenet1_1, ("classifier.1",)),
        (torchvision.models.vgg11, ("classifier.6",)),
        (torchvision.models.vit_b_16, ("heads.head",)),
        (torchvision.models.swin_t, ("head",)),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), ("head", "head_dist")),
        (lambda: nn.Sequential(nn.Linear(4, 4)), ()),
    ],
)
def test_output_layers_are_found_by_name(build_network, names) -> None:
    with torch.device("meta"):
        assert output_layer_names(build_network()) == names


def test_a_removed_layer_is_an_identity() -> None:
    with torch.device("meta"):
        network = torchvision.models.resnet18()
        assert removed_layer_names(network) == ()
        network.fc = nn.Identity()
        assert removed_layer_names(network) == ("fc",)


@pytest.mark.parametrize(
    ("name", "whole", "removed"),
    [
        ("resnet18", ("fc",), ("fc",)),
        ("levit_128s", ("head.linear", "head_dist.linear"), ("head", "head_dist")),  # a batch norm before each
        ("repvit_m0_9", ("head.head.l", "head.head_dist.l"), ("head.head", "head.head_dist")),  # the second is deleted
        ("caformer_s18", ("head.fc.fc2",), ("head.fc",)),  # a hidden layer and a layer norm before it
    ],
)
def test_the_layers_that_timm_removes_with_an_output_layer_are_those_that_a_file_may_have(name, whole, removed) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
        tensors = network.state_dict()
        assert (output_layer_names(network), removed_layer_names(network)) == (whole, ())
        network.reset_classifier(0)
        assert (output_layer_names(network), removed_layer_names(network)) == (removed, removed)
    fitted = without_output_layer(tensors, network, "file", removed)
    assert fitted.keys() == network.state_dict().keys()
