"""Compares the average of the weights with torch's AveragedModel and with values computed by hand."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tumorboard.training.ema import average_decay, start_average, swapped_tensors, update_average


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_the_average_equals_torchs() -> None:
    model = _model()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    theirs.update_parameters(model)  # its first update copies
    average = start_average(model)
    for step in range(5):
        with torch.no_grad():
            model(torch.randn(6, 3, 8, 8) + step)  # moves batch norm's statistics
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        update_average(average, model.state_dict(), 0.8)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert average[name] == 5  # counted, not averaged
        else:
            torch.testing.assert_close(average[name], value)
            assert not torch.equal(average[name], model.state_dict()[name])


def test_the_decay_starts_low() -> None:
    assert [average_decay(0.999, step) for step in (0, 8, 90)] == [0.1, 0.5, 0.91]
    assert average_decay(0.999, 100_000) == 0.999
    assert average_decay(0.05, 0) == 0.05


def test_swapped_tensors_are_swapped_back() -> None:
    model, other = _model(), _model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    before = start_average(model)
    tensors = start_average(other)
    with swapped_tensors(model, tensors):
        for name, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
            assert torch.equal(tensors[name], before[name])
        model[1].running_mean += 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert tensors["1.running_mean"].tolist() == [7.0] * 4
    with pytest.raises(KeyError, match="within"), swapped_tensors(model, tensors):
        raise KeyError("within")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_under_two_names_are_swapped_back() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    average = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    before = start_average(model)
    with swapped_tensors(model, average):
        assert not any(value.any() for value in model.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.any() for value in average.values())
