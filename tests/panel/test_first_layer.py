"""The filters of first layers: those that training changed most, networks that have none, and their file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.panel.models import save_untrained
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel.filters import read_filters, write_filters
from tumorboard.panel.first_layer import SHOWN, first_layer, first_layers
from tumorboard.panel.panel import Panel
from tumorboard.panel.trained_model import TrainedModel, load_panel


def trained(file: Path, change: float, filters: list[int]) -> TrainedModel:
    """Returns a model some of whose filters differ from the initial ones by a number."""
    model, card = load_model(file, "cpu")
    weights = next(module for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d)).weight
    with torch.no_grad():
        for rank, number in enumerate(filters):
            weights[number] += change * (len(filters) - rank)
    save_model(file, model, card)
    return TrainedModel(file, *load_model(file, "cpu"))


def test_before_is_what_the_seed_gave_and_the_changed_filters_come_first(tmp_path: Path, params: Params) -> None:
    file = save_untrained(tmp_path, params, "cnn", 0, seed=5)
    start = load_model(file, "cpu")[0]
    convolution = next(module for module in start.backbone.modules() if isinstance(module, torch.nn.Conv2d))
    layer = first_layer(trained(file, 0.01, [7, 2]))
    assert layer is not None
    initial = convolution.weight.detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(layer.before[0], initial[7])
    np.testing.assert_array_equal(layer.before[1], initial[2])
    np.testing.assert_allclose(layer.after[0], initial[7] + 0.02, atol=1e-6)
    np.testing.assert_array_equal(layer.after[2:], layer.before[2:])
    assert len(layer.after) <= SHOWN
    size = initial[0].size
    expected = np.sqrt(size * (0.02**2 + 0.01**2)) / np.linalg.norm(initial)
    assert layer.change[0] == pytest.approx(expected, rel=1e-4)


def test_a_fully_connected_first_layer_has_pictures_of_the_whole_image(tmp_path: Path, params: Params) -> None:
    file = save_untrained(tmp_path, params, "linear", 0, seed=5)
    model, card = load_model(file, "cpu")
    layer = first_layer(TrainedModel(file, model, card))
    assert layer is not None
    assert layer.after.shape == (SHOWN, 32, 32, 3)
    # The filter looks at the pixels as they are: the weight of green in row 3, column 4.
    weights = next(module for module in model.backbone.modules() if isinstance(module, torch.nn.Linear)).weight
    assert layer.after[0, 3, 4, 1] == weights[0].view(3, 32, 32)[1, 3, 4]
    assert layer.change[0] == 0


def test_initial_weights_that_are_not_there_leave_the_trained_ones(tmp_path: Path, params: Params) -> None:
    file = save_untrained(tmp_path, params, "cnn", 0, seed=5)
    model, card = load_model(file, "cpu")
    away = card.model_copy(update={"recipe": card.recipe.model_copy(update={"pretrained": "weights/gone.safetensors"})})
    layer = first_layer(TrainedModel(file, model, away))
    assert layer is not None
    assert (len(layer.before), len(layer.after)) == (0, min(SHOWN, model.backbone[0].weight.shape[0]))
    assert np.isnan(layer.change[0])


def test_a_network_that_begins_with_a_recurrent_layer_is_left_out(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = load_panel([save_untrained(tmp_path, params, "cnn", 0, seed=1)], "cpu")
    one = panel.models["cnn"][0]
    assert isinstance(one, TrainedModel)
    recurrent = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.LSTM(3, 4), torch.nn.Conv2d(3, 2, 1))
    monkeypatch.setattr(one.network, "backbone", recurrent)
    assert first_layers(Panel({"cnn": [one]})) == {}


def test_filters_are_read_back_and_a_damaged_file_is_named(tmp_path: Path, params: Params) -> None:
    files = [save_untrained(tmp_path, params, name, 0, seed=1) for name in ("cnn", "linear")]
    layers = first_layers(load_panel(files, "cpu"))
    write_filters(layers, tmp_path / "filters.safetensors")
    read = read_filters(tmp_path / "filters.safetensors", ("linear", "other", "cnn"))
    assert list(read) == ["linear", "cnn"]
    for name, layer in read.items():
        for one, other in zip(layer, layers[name], strict=True):
            np.testing.assert_array_equal(one, other)
    (tmp_path / "filters.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"filters\.safetensors: is damaged"):
        read_filters(tmp_path / "filters.safetensors", ("cnn",))
