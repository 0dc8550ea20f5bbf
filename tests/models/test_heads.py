"""Heads: their layers, and their parameters counted by hand."""

import pytest
from torch import nn

from tumorboard.base.params import Params, Train
from tumorboard.models.heads import build_head


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def train(params: Params) -> Train:
    return params.train


def test_linear_is_one_layer(train: Train) -> None:
    assert count(build_head(train.model_copy(update={"head": "linear"}), 512, 5)) == 512 * 5 + 5


def test_predict_net_of_three_hidden_layers(train: Train) -> None:
    settings = {
        "head": "mlp",
        "head_widths": (512, 128, 128),
        "head_batch_norm": (True, True, False),
        "head_dropout": (0.25, 0.0, 0.0),
        "head_activation": "leaky_relu",
    }
    head = build_head(train.model_copy(update=settings), 1000, 2)
    expected = nn.Sequential(
        *(nn.Linear(1000, 512), nn.BatchNorm1d(512), nn.LeakyReLU(), nn.Dropout(0.25)),
        *(nn.Linear(512, 128), nn.BatchNorm1d(128), nn.LeakyReLU()),
        *(nn.Linear(128, 128), nn.LeakyReLU()),
        nn.Linear(128, 2),
    )
    assert str(head) == str(expected)
    weights = (1000 * 512 + 512) + (512 * 128 + 128) + (128 * 128 + 128) + (128 * 2 + 2)
    assert count(head) == weights + 2 * 512 + 2 * 128 == 596_226


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((128, 32), (512 * 128 + 128) + 2 * 128 + (128 * 32 + 32) + 2 * 32 + (32 * 5 + 5)),
        ((64,), (512 * 64 + 64) + 2 * 64 + (64 * 5 + 5)),
        ((512, 128, 32), (512 * 512 + 3 * 512) + (512 * 128 + 3 * 128) + (128 * 32 + 3 * 32) + (32 * 5 + 5)),
    ],
)
def test_heads_on_512_features_with_batch_norm_after_each_layer(
    train: Train, widths: tuple[int, ...], expected: int
) -> None:
    settings = {"head": "mlp", "head_widths": widths, "head_batch_norm": True, "head_dropout": 0.0}
    head = build_head(train.model_copy(update=settings | {"head_activation": "relu"}), 512, 5)
    assert count(head) == expected
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * len(widths) + [nn.Linear]


def test_no_hidden_layers_is_linear(train: Train) -> None:
    settings = {"head": "mlp", "head_widths": (), "head_batch_norm": True, "head_dropout": 0.25}
    assert count(build_head(train.model_copy(update=settings), 7, 3)) == 7 * 3 + 3
