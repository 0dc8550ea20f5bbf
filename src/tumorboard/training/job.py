"""The job of a training, its state from step to step, and its history of epochs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

import tumorboard
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_json
from tumorboard.base.params import Crop, Recipe
from tumorboard.base.schema import parse
from tumorboard.base.tables import Manifest, manifest_digest, read_manifest
from tumorboard.data.crop_record import check_crop, resolve_window
from tumorboard.data.store import CropStore
from tumorboard.evaluation.held_out import HeldOut
from tumorboard.models.published import file_digest
from tumorboard.models.recipes import check_progressive
from tumorboard.models.registry import Classifier
from tumorboard.models.study_code import is_study_code, study_digest
from tumorboard.training.distributed import Group
from tumorboard.training.graphs import GraphedSteps
from tumorboard.training.loader import Loader
from tumorboard.training.losses import Loss

# Files and folders whose code decides a training's result. A checkpoint written by other code is not resumed.
CODE = (
    "augment/alterations.py",
    "augment/mixing.py",
    "base/randomness.py",
    "data/store.py",
    "evaluation/held_out.py",
    "evaluation/metrics.py",
    "models",
    "training",
)
# Libraries whose version may change a training's result.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")
# Raise this number when the contents of a key change without a change in CODE.
_KEY_FORMAT = 2


@dataclass(frozen=True)
class Job:
    """What is trained, on which images, and where the result is written."""

    name: str  # the model's name
    fold: int  # the fold whose rows are the validation rows
    recipe: Recipe
    rows: Manifest  # training rows, altered copies and generated images included
    val_rows: Manifest
    store: CropStore  # the images of the training and validation rows
    classes: tuple[str, ...]  # names in the order of the network's outputs
    crop: Crop  # how the images were cropped; recorded in the model file
    digest: str  # digest of the split's manifest, from which both tables come
    weights: Path  # file of the trained model
    held_out: Path  # file of the validation outputs
    out: Path  # folder of history.csv


def read_job(
    name: str,
    *,
    fold: int,
    recipe: Recipe,
    crop: Crop,
    store: Path,
    manifest: Path,
    balance: Path,
    weights: Path,
    held_out: Path,
    out: Path,
) -> Job:
    """Reads the prepared data of a fold and returns its Job.

    Args:
        name: the model's name.
        fold: the validation fold.
        recipe: the model's resolved recipe.
        crop: how the images were cropped.
        store: folder of the crop store.
        manifest: file of the split's manifest.
        balance: folder of the fold's training rows (manifest.csv) and of the crops (store) of
            altered copies and generated images.
        weights: file that the trained model will be written to.
        held_out: file that the validation outputs will be written to.
        out: folder that history.csv will be written to.

    Raises:
        InputError: a table or a store is missing or damaged, or they do not belong together, or the recipe's
            `progressive` does not suit its network.
    """
    check_progressive(recipe, crop.side)
    split = read_manifest(manifest)
    rows = read_manifest(balance / "manifest.csv")
    crops = CropStore(store, balance / "store")
    check_crop(crops, crop, str(store))
    val_rows = split[split["fold"].eq(fold).fillna(False)]
    if len(val_rows):  # without validation rows the training raises an error that names the fold
        _check_balance(rows, split, fold, balance)
    return Job(
        name=name,
        fold=fold,
        recipe=recipe,
        rows=rows,
        val_rows=val_rows,
        store=crops,
        classes=tuple(sorted(split["label"].unique())),
        crop=resolve_window(crop, store),
        digest=manifest_digest(split),
        weights=weights,
        held_out=held_out,
        out=out,
    )


def _check_balance(rows: Manifest, split: Manifest, fold: int, balance: Path) -> None:
    """Raises InputError unless the originals among the balanced rows are the training rows of the fold."""
    training = split[(split["split"] == "train") & split["fold"].ne(fold).fillna(True)]
    originals = rows[rows["id"] == rows["source_id"]]
    expected, given = (dict(zip(table["id"], table["sha256"], strict=True)) for table in (training, originals))
    if expected != given:
        differing = min(expected.items() ^ given.items())[0]
        raise InputError(
            f"{balance / 'manifest.csv'}: was not made from this split, the first difference is {differing!r}: "
            f"run `dvc repro balance@{fold}`"
        )


def read_recipe(path: Path) -> Recipe:
    """Reads a model's resolved recipe, as models.recipes.pin_recipes gives it to the stage `recipe`.

    Raises:
        InputError: the file is missing or has a wrong key, or the pretrained weights or the study's own architecture do
            not have the SHA-256 that the recipe records.
    """
    tree = read_json(path)
    digest, code = tree.pop("pretrained_sha256", None), tree.pop("architecture_sha256", None)
    tree.pop("pretrained_tag", None)  # the tag makes DVC train anew when the default weights change
    recipe = parse(Recipe, tree, str(path))
    if digest and file_digest(Path(recipe.pretrained)) != digest:
        raise InputError(f"{recipe.pretrained}: is not the file that {path} was written for: run `dvc repro`")
    if code and study_digest(recipe.architecture) != code:
        raise InputError(f"{recipe.architecture}: is not the code that {path} was written for: run `dvc repro`")
    return recipe


@dataclass(frozen=True)
class Epoch:
    """The outcome of one epoch."""

    number: int  # number of the epoch, from 1
    lr: float  # learning rate of the head in the last step
    train: Mapping[str, float]  # loss and accuracy
    val: Mapping[str, float]  # HEADLINE_SCORES of the validation rows
    best: bool  # whether `val` beats all earlier epochs by the recipe's `select`
    seconds: float  # training and validation
    images_per_second: float  # training alone


def best_epoch(history: Sequence[Epoch]) -> Epoch | None:
    """Returns the best epoch so far; None where the selected score was undefined in every epoch."""
    return next((epoch for epoch in reversed(history) if epoch.best), None)


def kept_epoch(history: Sequence[Epoch], keep: str) -> Epoch:
    """Returns the epoch whose weights a training with this history keeps.

    Args:
        history: one Epoch or more.
        keep: "best" or "last", as in the recipe. Without a best epoch the last one is kept.
    """
    return (best_epoch(history) if keep == "best" else None) or history[-1]


@dataclass(frozen=True)
class Setup:
    """What stays the same from step to step, in one process of a training."""

    job: Job
    group: Group
    loader: Loader  # reads the training rows
    loss: Loss
    weight_of_row: NDArray[np.float64]  # class weight of each training row
    sides: tuple[int, ...]  # side of the training images in each epoch, in pixels
    graphs: GraphedSteps | None = None  # captures the steps as CUDA graphs; None: launched kernel by kernel


@dataclass
class State:
    """What changes from step to step; everything else follows from the job and the number of the step.

    A new field must be added to a checkpoint as well (training/checkpoint.py).
    """

    model: Classifier
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    sums: Tensor  # float64[2] on the device: summed losses and correct predictions of this process's images this epoch
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # their summed weights and their number
    step: int = 0  # number of finished steps of the current epoch
    began: float = 0.0  # start of the current epoch, by time.perf_counter
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None  # weights of the best epoch so far, on the CPU
    average: dict[str, Tensor] | None = None  # average of the weights, with `ema_decay` or `average_last`
    val_logits: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # [N, K], last epoch
    held_out: HeldOut | None = None  # on rank 0: the validation outputs of the epochs chosen so far
    skipped: int = 0  # number of steps skipped so far because they were not finite


def job_key(job: Job, initial: Mapping[str, Tensor]) -> str:
    """Returns 32 hexadecimal digits that change with everything that decides a job's result.

    They cover recipe, crop, rows and their pixels, initial weights, code and library versions. They do not cover the
    device and the number of processes, which change a result by rounding only. Every image is read once.

    Args:
        job: training and validation rows included.
        initial: the model's tensors before the first step, by name.

    Raises:
        RuntimeError: an entry of CODE does not exist.
    """
    manifests = [job.digest, manifest_digest(job.rows), manifest_digest(job.val_rows)]
    versions = [version(package) for package in PACKAGES]
    settings = [_KEY_FORMAT, job.name, job.fold, job.classes, manifests, versions]
    digest = sha256(
        json.dumps([settings, job.recipe.model_dump(mode="json"), job.crop.model_dump(mode="json")]).encode()
    )
    for file in code_files(Path(tumorboard.__file__).parent):
        digest.update(file.read_bytes())
    if is_study_code(job.recipe.architecture):
        digest.update(study_digest(job.recipe.architecture).encode())
    for name, tensor in initial.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    ids = sorted({*job.rows["id"], *job.val_rows["id"]})
    for start in range(0, len(ids), 256):
        digest.update(job.store[ids[start : start + 256]].tobytes())
    return digest.hexdigest()[:32]


def code_files(package: Path) -> Iterator[Path]:
    """Yields the source files that CODE names, entry by entry; raises RuntimeError for an entry without a file."""
    for entry in CODE:
        place = package / entry
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        if not files:
            raise RuntimeError(f"training.job.CODE lists '{entry}', but {place} is no source file or folder of such")
        yield from files
