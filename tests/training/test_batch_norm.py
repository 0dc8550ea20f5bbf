"""Tests the fewest images that batch norm needs, conversion to synchronized batch norm, and averaged statistics."""

import pytest
import torch
from torch import nn

from tumorboard.base.params import Params, Recipe
from tumorboard.models.registry import build_model
from tumorboard.training.batch_norm import (
    average_batch_norm,
    batch_norm_means,
    fewest_images,
    synchronize_batch_norm,
)
from tumorboard.training.distributed import Group

MEAN_STD = ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("architecture", "side", "head", "fewest"),
    [
        ("cnn3", 32, "linear", 1),  # without batch norm
        ("resnet18", 32, "linear", 2),  # its last feature maps have one pixel
        ("resnet18", 64, "linear", 1),  # its last feature maps have four pixels
        ("googlenet_bn", 32, "linear", 1),
        ("googlenet_bn", 32, "mlp", 2),  # features have one value per channel
    ],
)
def test_two_images_are_needed_where_one_gives_one_value_per_channel(
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


def test_the_trial_pass_leaves_model_and_random_state_as_they_were(params: Params) -> None:
    recipe = Recipe(**dict(params.train) | {"head": "mlp"}, architecture="resnet18", seed=0)
    model = build_model(recipe, 2, 64, MEAN_STD).train()
    before, random_state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    fewest_images(model, 64)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training


def test_another_error_of_the_network_is_not_hidden(params: Params) -> None:
    model = build_model(Recipe(**dict(params.train), architecture="linear", seed=0), 2, 32, MEAN_STD)
    model.backbone = nn.Linear(5, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fewest_images(model, 32)


def test_a_network_with_synchronized_batch_norm_computes_the_same(params: Params) -> None:
    """timm's batch norm holds the activation that follows it, which torch's own conversion drops."""
    recipe = Recipe(**dict(params.train), architecture="timm/tf_efficientnet_lite0", seed=0)
    model = build_model(recipe, 2, 64, MEAN_STD).eval()
    images = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        expected = model(images)
        logits = synchronize_batch_norm(model, Group(0, 2, torch.device("cuda", 0))).eval()(images)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) > 40
    torch.testing.assert_close(logits, expected)


def test_means_have_the_names_of_the_state_dict_and_are_new_tensors() -> None:
    """For one process; tests/training/test_distributed.py averages over two."""
    model = nn.Sequential(
        nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), nn.BatchNorm1d(1)
    )
    model[2].running_mean += 5
    alone = Group(0, 1, torch.device("cpu"))
    means = batch_norm_means(model, alone)
    assert list(means) == ["0.running_mean", "0.running_var", "2.running_mean", "2.running_var"]
    means["2.running_mean"] += 1
    average_batch_norm(model, alone)
    assert model[2].running_mean.tolist() == [5.0]
    assert list(batch_norm_means(model[2], alone)) == ["running_mean", "running_var"]
