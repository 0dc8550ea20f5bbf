"""Tests the files that a journal writes: metrics of the kept epoch, timings, and curves."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.training.job import Epoch
from tumorboard.training.journal import Journal


def _epoch(number: int, best: bool) -> Epoch:
    return Epoch(number, 0.1, {"loss": 0.5}, {"loss": number / 10}, best, seconds=1.25, images_per_second=4.96 + number)


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 3)])
def test_metrics_are_those_of_the_kept_epoch(tmp_path: Path, params: Params, keep: str, kept: int) -> None:
    recipe = resolve_recipe(params, "cnn").model_copy(update={"keep": keep})
    journal = Journal(tmp_path / "out", tmp_path / "metrics.json", recipe)
    for number, best in ((1, True), (2, True), (3, False)):
        journal.add(_epoch(number, best))
        assert json.loads((tmp_path / "metrics.json").read_text())["epoch"] == number
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "epoch": 3,
        "kept_epoch": kept,
        "train": {"loss": 0.5},  # the validation scores chose this epoch, so that they are no metrics
    }
    assert json.loads((tmp_path / "out" / "timings.json").read_text()) == {"seconds": 3.75, "images_per_second": 8.0}


def test_without_a_best_epoch_the_last_one_is_kept(tmp_path: Path, params: Params) -> None:
    journal = Journal(tmp_path / "out", tmp_path / "metrics.json", resolve_recipe(params, "cnn"))
    for number in (1, 2):
        journal.add(_epoch(number, best=False))
        assert json.loads((tmp_path / "metrics.json").read_text())["kept_epoch"] == number


@pytest.mark.parametrize("tensorboard", [False, True])
def test_curves_are_written_for_dvclive_and_where_wanted_tensorboard(
    tmp_path: Path, params: Params, tensorboard: bool
) -> None:
    recipe = resolve_recipe(params, "cnn").model_copy(update={"tensorboard": tensorboard})
    journal = Journal(tmp_path / "out", tmp_path / "metrics.json", recipe)
    assert list(tmp_path.iterdir()) == [], "a rank without epochs must not open a file"
    for number in (1, 2):
        journal.add(_epoch(number, best=True))
    folder = tmp_path / "out" / "dvclive" / "plots" / "metrics"
    assert pd.read_csv(folder / "val" / "loss.tsv", sep="\t")[["step", "loss"]].values.tolist() == [[0, 0.1], [1, 0.2]]
    assert pd.read_csv(folder / "lr.tsv", sep="\t")["lr"].tolist() == [0.1, 0.1]
    assert (tmp_path / "out" / "tensorboard").exists() == tensorboard
    if tensorboard:
        events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload().Scalars("val/loss")
        assert [(event.step, pytest.approx(event.value)) for event in events] == [(1, 0.1), (2, 0.2)]
