"""What batch norm needs, by the networks whose pictures shrink to one pixel, and timm's networks converted."""

import pytest
import torch
from torch import nn

from tumorboard.models.batchnorm import fewest_images, synchronise
from tumorboard.models.registry import build_model
from tumorboard.params import Params, Recipe

MEAN_STD = ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("architecture", "side", "head", "fewest"),
    [
        ("cnn3", 32, "linear", 1),  # without batch norm
        ("resnet18", 32, "linear", 2),  # its last pictures are one pixel
        ("resnet18", 64, "linear", 1),  # four
        ("googlenet_bn", 32, "linear", 1),
        ("googlenet_bn", 32, "mlp", 2),  # features have one value a channel
    ],
)
def test_two_images_are_needed_where_one_leaves_one_value(
    params: Params, architecture: str, side: int, head: str, fewest: int
) -> None:
    recipe = Recipe(**dict(params.train) | {"head": head}, architecture=architecture, seed=0)
    model = build_model(recipe, 2, side, MEAN_STD).train()
    assert fewest_images(model, side) == fewest
    images = torch.rand(fewest, 3, side, side) * 255
    model(images).sum().backward()
    if fewest == 2:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(images[:1])


def test_nothing_is_left_of_the_trial(params: Params) -> None:
    recipe = Recipe(**dict(params.train) | {"head": "mlp"}, architecture="resnet18", seed=0)
    model = build_model(recipe, 2, 64, MEAN_STD).train()
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    fewest_images(model, 64)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training


def test_another_error_of_the_network_is_not_hidden(params: Params) -> None:
    model = build_model(Recipe(**dict(params.train), architecture="linear", seed=0), 2, 32, MEAN_STD)
    model.backbone = nn.Linear(5, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fewest_images(model, 32)


def test_a_synchronised_network_is_the_same_one(params: Params) -> None:
    """timm's batch norm holds the activation behind it, which torch's own conversion loses."""
    recipe = Recipe(**dict(params.train), architecture="timm/tf_efficientnet_lite0", seed=0)
    model = build_model(recipe, 2, 64, MEAN_STD).eval()
    images = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        expected = model(images)
        found = synchronise(model).eval()(images)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) > 40
    torch.testing.assert_close(found, expected)
