"""What a training is made of: its job, its state, what an epoch came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from tumorboard.data.store import CropStore
from tumorboard.models.registry import Classifier
from tumorboard.params import Crop, Recipe
from tumorboard.tables import manifest_digest, read_manifest
from tumorboard.training.distributed import Group
from tumorboard.training.loader import Loader
from tumorboard.training.losses import Loss


@dataclass(frozen=True)
class Job:
    """What is trained on what, and where it goes; with the recipe's seed all that decides the result.

    `rows`, `val_rows`: the training Manifest, copies among them, and the fold's validation rows; `digest`: of the
    manifest both come from; `store`: holds the images of both; `classes`: their names in the order of the outputs.
    """

    name: str
    fold: int
    recipe: Recipe
    rows: pd.DataFrame
    val_rows: pd.DataFrame
    store: CropStore
    classes: tuple[str, ...]
    crop: Crop
    digest: str
    weights: Path
    out: Path


def read_job(
    name: str, fold: int, recipe: Recipe, crop: Crop, data: tuple[Path, Path, Path], weights: Path, out: Path
) -> Job:
    """A job on prepared data: the store, the split's manifest and the fold's balance folder; raises InputError."""
    store, split, balance = data
    manifest = read_manifest(split)
    return Job(
        name=name,
        fold=fold,
        recipe=recipe,
        rows=read_manifest(balance / "manifest.csv"),
        val_rows=manifest[manifest["fold"].eq(fold).fillna(False)],
        store=CropStore(store, balance / "store"),
        classes=tuple(sorted(manifest["label"].unique())),
        crop=crop,
        digest=manifest_digest(manifest),
        weights=weights,
        out=out,
    )


@dataclass(frozen=True)
class Epoch:
    """What an epoch, counted from 1, came to: learning rate of its last step, scores, and if it is the best yet.

    `seconds` are the whole epoch's, `images_per_second` the training's alone.
    """

    number: int
    lr: float
    train: Mapping[str, float]
    val: Mapping[str, float]
    best: bool
    seconds: float
    images_per_second: float


@dataclass
class State:
    """What changes from step to step; everything else follows from the job and the step's number.

    `step`: the steps of the current epoch that are done; `sums`: float64[2] on the device, the summed losses and right
    answers of this process's images in them; `counts`: float64[2], their summed weights and their number; `began`: when
    the epoch began, by time.perf_counter; `average`: of the weights, where the recipe wants one; `skipped`: steps so
    far that were not finite. A new field belongs into a checkpoint as well (training/checkpoint.py).
    """

    model: Classifier
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    sums: Tensor
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    step: int = 0
    began: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None
    average: dict[str, Tensor] | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Run:
    """A job as one process carries it out."""

    job: Job
    group: Group
    loader: Loader
    loss: Loss
    weight_of_row: NDArray[np.float64]
