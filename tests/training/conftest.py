"""A small training job for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.params import Augment, Params, Recipe, Runtime
from tumorboard.base.tables import Manifest
from tumorboard.data.store import CropStore, write_store
from tumorboard.training.job import Job

CLASSES = ("blue", "red")
MakeJob = Callable[..., Job]


def _rows(ids: list[str], labels: list[str], fold: int) -> Manifest:
    same = {"path": ids, "label": labels, "group": ids, "split": "train", "source_id": ids, "sha256": "0"}
    rows = pd.DataFrame({"id": ids} | same | {"fold": pd.array([fold] * len(ids), dtype="Int64")})
    return rows[["id", "path", "label", "group", "split", "fold", "source_id", "sha256"]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop store of 132 noisy squares of 32 pixels; the brighter channel is red in two of three and blue in one."""
    folder = tmp_path_factory.mktemp("store")
    crops = np.random.default_rng(0).integers(0, 100, (132, 32, 32, 3), dtype=np.uint8)
    for number, crop in enumerate(crops):
        crop[..., 0 if number % 3 else 2] += 100
    write_store(folder, [f"{number}.jpg" for number in range(132)], crops, 4)
    return folder


@pytest.fixture
def make_job(store: Path, tmp_path: Path, params: Params) -> MakeJob:
    """A function that makes a job: `train` training rows, then `val` validation rows, changes to the recipe by keyword.

    By default the recipe has float32 and no augmentation.
    """

    def make(train: int = 40, val: int = 31, out: str = "out", **changes: Any) -> Job:
        ids = [f"{number}.jpg" for number in range(train + val)]
        labels = ["red" if number % 3 else "blue" for number in range(train + val)]
        still = dict.fromkeys(Augment.model_fields, 0.0) | {"crop": 1.0, "fill": "reflect", "interpolation": "bilinear"}
        augment = Augment(**still | {"zoom": (1.0, 1.0), "blur_sigma": (1.0, 1.0)})
        plain = {"architecture": "cnn3", "seed": 5, "precision": "off", "augment": augment, "schedule": "constant"}
        plain |= {"optimizer": "sgd", "weight_decay": 0.0005}
        recipe = Recipe(**dict(params.train) | plain | {"batch_size": 16, "lr": 0.02} | changes)
        return Job(
            name="m",
            fold=0,
            recipe=recipe,
            rows=_rows(ids[:train], labels[:train], 1),
            val_rows=_rows(ids[train:], labels[train:], 0),
            store=CropStore(store),
            classes=CLASSES,
            crop=params.crop,
            digest="0" * 16,
            weights=tmp_path / out / "model.safetensors",
            held_out=tmp_path / out / "held_out.safetensors",
            out=tmp_path / out,
        )

    return make


@pytest.fixture
def alone(params: Params) -> Runtime:
    """Settings for one process on the CPU."""
    return params.runtime.model_copy(update={"device": "cpu", "processes": 1})
