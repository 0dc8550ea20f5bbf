from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tumorboard.data.store import CropStore, write_store
from tumorboard.models.registry import Classifier
from tumorboard.models.weights import load_model
from tumorboard.params import Params, Recipe
from tumorboard.tables import MANIFEST, read_table
from tumorboard.training.loop import train_model
from tumorboard.training.state import Job

TrainIt = Callable[..., Classifier]


@pytest.fixture
def train_it(tmp_path: Path, params: Params) -> TrainIt:
    """Train `cnn` for an epoch on 20 originals and 4 copies, black and so unlike them, and return it."""
    ids = [f"{number}.png" for number in range(28)] + [f"{number}.png//1" for number in range(4)]
    crops = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    crops[28:] = 0
    write_store(tmp_path / "store", ids, crops, 2)
    labels = ["a" if number % 2 else "b" for number in range(32)]
    frame = pd.DataFrame({"id": ids, "path": ids, "label": labels, "group": ids, "split": "train", "sha256": "0"})
    frame["source_id"] = [name.split("//")[0] for name in ids]
    frame["fold"] = pd.array([1] * 32, dtype="Int64")
    frame = frame[list(MANIFEST)]
    runtime = params.runtime.model_copy(update={"device": "cpu", "processes": 1})

    def train(name: str, **own: object) -> Classifier:
        given = {"architecture": "cnn", "seed": 0, "epochs": 1, "batch_size": 24, "precision": "off", "lr": 0.001}
        recipe = Recipe(**dict(params.train) | given | own)
        rows, val_rows = frame.drop(index=range(20, 28)), frame.iloc[20:28]
        job = Job("m", 0, recipe, rows, val_rows, CropStore(tmp_path / "store"), ("a", "b"), params.crop, "0" * 16,
                  tmp_path / name / "m.safetensors", tmp_path / name)  # fmt: skip
        train_model(job, runtime, lambda _: None)
        return load_model(job.weights, "cpu")[0]

    train.images = torch.from_numpy(crops[:20]).permute(0, 3, 1, 2)  # type: ignore[attr-defined]
    return train


def first_norm(model: Classifier) -> torch.nn.BatchNorm2d:
    return next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))


def test_statistics_are_those_of_the_unaltered_originals(train_it: TrainIt) -> None:
    model = train_it("all", batch_norm_images=1000)
    seen: list[torch.Tensor] = []
    first_norm(model).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        model(train_it.images)  # type: ignore[attr-defined]
    values = seen[0].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(first_norm(model).running_mean.double(), values.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first_norm(model).running_var.double(), values.var(1), rtol=1e-4, atol=1e-5)


def test_training_is_not_touched(train_it: TrainIt, tmp_path: Path) -> None:
    models = [train_it(name, batch_norm_images=n, epochs=3) for name, n in (("with", 8), ("without", 0))]
    losses = [read_table(tmp_path / name / "history.csv")["train_loss"].tolist() for name in ("with", "without")]
    assert losses[0] == losses[1]
    means = [first_norm(model).running_mean for model in models]
    assert not torch.equal(means[0], means[1])


def test_frozen_layers_keep_their_statistics(train_it: TrainIt) -> None:
    model = train_it("frozen", batch_norm_images=8, backbone_lr_scale=0.0)
    assert torch.equal(first_norm(model).running_mean, torch.zeros_like(first_norm(model).running_mean))
    assert first_norm(model).momentum == 0.1
