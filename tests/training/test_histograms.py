"""Histograms of weights in TensorBoard, which change no result."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.training.trainings import MakeJob, output_files, train, untrained
from tumorboard.base.params import Runtime
from tumorboard.training.histograms import WeightHistograms

ALL = {"histograms": 0}  # by default one histogram per layer is read


def test_a_histogram_per_layer_has_its_weights(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, bias=False)
    histograms = WeightHistograms(tmp_path, on=True)
    for epoch, weights in enumerate(([[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 5.0]])):
        model.weight.data = torch.tensor(weights)
        histograms.add(model, epoch)
    events = EventAccumulator(str(tmp_path / "weights"), ALL).Reload().Histograms("weight")
    assert [event.step for event in events] == [0, 1]
    values = [event.histogram_value for event in events]
    assert [(one.num, one.min, one.max, one.sum) for one in values] == [(4, 0, 3, 6), (4, 1, 5, 8)]


def test_weights_that_are_not_finite_and_histograms_that_are_off_write_nothing(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    WeightHistograms(tmp_path, on=False).add(model, 0)
    assert list(tmp_path.iterdir()) == []
    model.weight.data[0, 0] = torch.nan
    histograms = WeightHistograms(tmp_path, on=True)
    histograms.add(model, 0)
    tags = EventAccumulator(str(tmp_path / "weights"), ALL).Reload().Tags()["histograms"]
    assert tags == ["bias"]


def test_a_training_has_the_initial_weights_and_each_epoch_and_stays_equal_to_the_bit(
    make_job: MakeJob, alone: Runtime
) -> None:
    plain, drawn = (make_job(24, 8, epochs=2, tensorboard=on, out=name) for on, name in ((False, "a"), (True, "b")))
    train(plain, alone)
    train(drawn, alone)
    # The model file has the recipe, which differs in this key.
    assert output_files(plain)[1:] == output_files(drawn)[1:]
    assert not (plain.out / "tensorboard").exists()
    events = EventAccumulator(str(drawn.out / "tensorboard/weights"), ALL).Reload()
    name, weights = next(iter(untrained(drawn).named_parameters()))
    histograms = events.Histograms(name)
    assert [event.step for event in histograms] == [0, 1, 2]
    assert histograms[0].histogram_value.sum == pytest.approx(float(weights.detach().sum()), abs=1e-4)
    assert histograms[2].histogram_value.sum != histograms[0].histogram_value.sum
