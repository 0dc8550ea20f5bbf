"""A small job that the tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tumorboard.data.store import CropStore, write_store
from tumorboard.params import Augment, Params, Recipe, Runtime
from tumorboard.training.state import Job

CLASSES = ("blue", "red")
MakeJob = Callable[..., Job]


def _rows(ids: list[str], labels: list[str], fold: int) -> pd.DataFrame:
    same = {"path": ids, "label": labels, "group": ids, "split": "train", "source_id": ids, "sha256": "0"}
    rows = pd.DataFrame({"id": ids} | same | {"fold": pd.array([fold] * len(ids), dtype="Int64")})
    return rows[["id", "path", "label", "group", "split", "fold", "source_id", "sha256"]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """132 noisy squares of 32 pixels: two of three 'red', the others 'blue', by which channel is the brighter one."""
    folder = tmp_path_factory.mktemp("store")
    crops = np.random.default_rng(0).integers(0, 100, (132, 32, 32, 3), dtype=np.uint8)
    for number, crop in enumerate(crops):
        crop[..., 0 if number % 3 else 2] += 100
    write_store(folder, [f"{number}.jpg" for number in range(132)], crops, 4)
    return folder


@pytest.fixture
def make_job(store: Path, tmp_path: Path, params: Params) -> MakeJob:
    """A job on the first images, its validation rows behind them, in float32 without augmentation by default."""

    def make(train: int = 40, val: int = 31, out: str = "out", **own: Any) -> Job:
        ids = [f"{number}.jpg" for number in range(train + val)]
        labels = ["red" if number % 3 else "blue" for number in range(train + val)]
        still = dict.fromkeys(Augment.model_fields, 0.0) | {"crop": 1.0, "fill": "reflect", "interpolation": "bilinear"}
        augment = Augment(**still | {"zoom": (1.0, 1.0), "blur_sigma": (1.0, 1.0)})
        plain = {"architecture": "cnn3", "seed": 5, "precision": "off", "augment": augment, "schedule": "constant"}
        plain |= {"optimizer": "sgd", "weight_decay": 0.0005}
        recipe = Recipe(**dict(params.train) | plain | {"batch_size": 16, "lr": 0.02} | own)
        val_rows = _rows(ids[train:], labels[train:], 0)
        return Job("m", 0, recipe, _rows(ids[:train], labels[:train], 1), val_rows, CropStore(store), CLASSES,
                   params.crop, "0" * 16, tmp_path / out / "model.safetensors", tmp_path / out)  # fmt: skip

    return make


@pytest.fixture
def alone(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"device": "cpu", "processes": 1})
