"""Evaluates a trained model: its predictions for validation and test images, and their scores."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.params import Evaluate, Runtime
from tumorboard.base.tables import Manifest, Predictions, make_predictions, manifest_digest
from tumorboard.data.store import CropStore, check_side
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.models.device import choose_device
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.model_file import ModelCard, load_model
from tumorboard.models.registry import Classifier


class Evaluation(NamedTuple):
    """What `evaluate_model` returns."""

    predictions: Predictions  # the fold's validation rows, split 'val', then the test rows
    metrics: dict[str, Any]  # test, val: scores; intervals: of the test scores; parameters, epoch: from the model card
    images_per_second: float  # of prediction alone; differs from run to run


def evaluate_model(
    weights: Path,
    *,
    model: str,
    fold: int,
    manifest: Manifest,
    crops: CropStore,
    runtime: Runtime,
    evaluate: Evaluate,
    seed: int,
) -> Evaluation:
    """Predicts the validation images of a model's fold and the test images, and scores both.

    Args:
        weights: the model file.
        model: the name of the model that the file must hold.
        fold: the fold that the file must hold.
        manifest: after the split; the model must have been trained on it.
        crops: holds the images of the manifest.
        runtime: chooses the device.
        evaluate: the settings of the bootstrap intervals.
        seed: of the bootstrap intervals.

    Raises:
        InputError: where the file is no model, or of another model, fold, manifest or side of the crops.
    """
    digest = manifest_digest(manifest)
    device = torch.device(choose_device(runtime))
    network, card = load_model(weights, device)
    _check_card(card, {"model": model, "fold": fold, "manifest": digest}, weights)
    check_side(crops, card.crop.side, f"the crop store for {weights}")
    rows_by_split = {
        "val": manifest[manifest["fold"].eq(fold).fillna(False)].assign(split="val"),
        "test": manifest[manifest["split"] == "test"],
    }
    start = time.perf_counter()
    logits = {
        split: _predict_rows(network, card, rows, crops=crops, device=device) for split, rows in rows_by_split.items()
    }
    seconds = time.perf_counter() - start
    val, test = (
        make_predictions(rows, softmax(logits[split]), card.classes, digest) for split, rows in rows_by_split.items()
    )
    metrics = {
        "test": scores(test),
        "intervals": bootstrap_intervals(test, evaluate, seed),
        "val": scores(val),
        "parameters": card.parameters,
        "epoch": card.epoch,
    }
    return Evaluation(pd.concat([val, test]), metrics, (len(val) + len(test)) / seconds)


def _predict_rows(
    network: Classifier, card: ModelCard, rows: Manifest, *, crops: CropStore, device: torch.device
) -> NDArray[np.float32]:
    """Returns the logits float32[N, K] of the images of N rows, by the precision and batch size of the recipe."""
    return predict_logits(
        network,
        crops,
        rows["id"].tolist(),
        precision=card.recipe.precision,
        channels_last=card.recipe.channels_last,
        device=device,
        batch_size=card.recipe.batch_size,
        progress=True,
    )


def _check_card(card: ModelCard, expected: dict[str, Any], weights: Path) -> None:
    """Raises InputError unless the model file is of the expected model, fold and manifest."""
    for field, value in {"model": card.name, "fold": card.fold, "manifest": card.manifest}.items():
        if value != expected[field]:
            raise InputError(
                f"{weights}: trained as {field} {value}, expected {field} {expected[field]}: train it again (dvc repro)"
            )
