"""Compares the layers of networks with lists written by hand and with timm's own grouping."""

import pytest
import timm
import torch
import torchvision
from timm.optim import param_groups_layer_decay
from torch import nn

from tumorboard.models.networks.linear import linear
from tumorboard.models.networks.lstm_resnet import LstmResNet18
from tumorboard.training.layers_by_depth import layers_of


def _prefixes(network: nn.Module, depth: int) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    layers = [[names.pop(id(parameter)) for parameter in layer] for layer in layers_of(network)]
    assert not names  # each parameter once
    return [{".".join(name.split(".")[:-1][:depth]) for name in layer} for layer in layers]


def _torchvision_network(name: str) -> nn.Module:
    with torch.device("meta"):
        settings = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network: nn.Module = torchvision.models.get_model(name, **settings)
    return network


def test_a_resnets_layers_are_its_blocks_and_a_batch_norm_joins_its_convolution() -> None:
    blocks = [{f"layer{stage}.{block}"} for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert _prefixes(_torchvision_network("resnet18"), 2) == [{"conv1", "bn1"}, *blocks, {"fc"}]
    opened = [{f"resnet.layer{stage}.{block}"} for stage in (1, 2, 3, 4) for block in (0, 1)]
    before = [{"lstm"}, {"convolution"}, {"resnet.conv1", "resnet.bn1"}]
    assert _prefixes(LstmResNet18(), 3) == [*before, *opened, {"resnet.fc"}]


def test_the_layers_of_other_networks() -> None:
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    expected = [{f"features.{n}"} for n in convolutions] + [{f"classifier.{n}"} for n in (0, 3, 6)]
    assert _prefixes(_torchvision_network("vgg16"), 2) == expected
    blocks = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    expected = [{f"conv{n}"} for n in (1, 2, 3)] + [{f"inception{block}"} for block in blocks] + [{"fc"}]
    assert _prefixes(_torchvision_network("googlenet"), 1) == expected
    # The position embedding and the class token come before all blocks; the last norm joins the last block.
    transformer = _prefixes(_torchvision_network("vit_b_16"), 3)
    assert len(transformer) == 14
    assert transformer[0] == {"", "encoder", "conv_proj"}
    assert transformer[12] == {"encoder.layers.encoder_layer_11", "encoder.ln"}
    assert _prefixes(linear(16), 1) == [{"1"}, {"4"}, {"6"}]
    assert layers_of(nn.Identity()) == []


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0", "resnet18"])
def test_layers_of_a_timm_network_are_those_of_timms_layer_decay(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    groups = param_groups_layer_decay(network, layer_decay=0.5)
    theirs = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    layers = layers_of(network)
    assert {id(p): 0.5 ** (len(layers) - 1 - depth) for depth, layer in enumerate(layers) for p in layer} == theirs
