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
    """What changes from step to step; everything else follows from the job and the step's number."""

    model: Classifier
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Run:
    """A job as one process carries it out."""

    job: Job
    group: Group
    loader: Loader
    loss: Loss
    weight_of_row: NDArray[np.float64]
