"""The linear network: its parameters and outputs, computed by hand."""

import torch

from tumorboard.models.networks.linear import linear


def test_parameters_by_hand() -> None:
    counted = sum(parameter.numel() for parameter in linear(64).parameters())
    assert counted == 64 * 64 * 3 * 1000 + 1000 + 2 * (1000 * 1000 + 1000) == 14_291_000


def test_output_by_hand() -> None:
    network = linear(4).eval()
    first, second, third = (layer for layer in network if isinstance(layer, torch.nn.Linear))
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    hidden = (images.reshape(2, 48) @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(network(images), hidden @ third.weight.T + third.bias)


def test_dropout_comes_after_the_first_relu() -> None:
    layers = list(linear(4))
    assert [type(layer).__name__ for layer in layers[1:4]] == ["Linear", "ReLU", "Dropout"]
    assert layers[3].p == 0.25
