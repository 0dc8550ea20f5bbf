"""Evaluates a trained model: its predictions for the validation and test images."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime
from tumorboard.base.progress import tracked
from tumorboard.base.tables import Manifest, Predictions, make_predictions, manifest_digest
from tumorboard.data.crop_record import check_crop
from tumorboard.data.store import CropStore
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.models.device import choose_device, use_threads
from tumorboard.models.inference import crop_logits, softmax
from tumorboard.models.model_file import ModelCard, load_model
from tumorboard.models.registry import Classifier
from tumorboard.panel.fit_unlike import collected_features, fit_unlike
from tumorboard.panel.unlike import UnlikeStatistics, unlike_scores


class Evaluation(NamedTuple):
    """What `evaluate_model` returns."""

    validation: Predictions  # predictions of the fold's validation rows, uncalibrated
    test: Predictions  # predictions of the test rows, uncalibrated; no rows where they are not to be scored
    test_unlike: NDArray[np.float64]  # [N], how unlike the training images each test row is by this model (`unlike.py`)
    images_per_second: float  # speed of predicting the test rows and of scoring how unlike they are; no result
    card: ModelCard
    unlike: UnlikeStatistics  # statistics of the training images


def evaluate_model(
    weights: Path,
    held_out: Path,
    *,
    model: str,
    fold: int,
    manifest: Manifest,
    crops: CropStore,
    runtime: Runtime,
    test: bool,
) -> Evaluation:
    """Returns a trained model's predictions for the validation images of its fold and for the test images.

    A validation image has the output of the epoch that was chosen without it, a test image has the output of the kept
    epoch. Inference is in float32.

    Args:
        weights: the model file.
        held_out: the training's outputs for the validation images.
        model: the name of the model that the file must hold.
        fold: the fold that the file must hold.
        manifest: the manifest after the split; the model must have been trained on it.
        crops: crops of the training, validation and test images.
        runtime: device and threads.
        test: whether the test images are predicted.

    Raises:
        InputError: where a file is no model, or of another model, fold, manifest, crop or other validation images.
    """
    use_threads(runtime)
    digest = manifest_digest(manifest)
    network, card = load_model(weights, choose_device(runtime))
    _check_card(card, {"model": model, "fold": fold, "manifest": digest}, weights)
    check_crop(crops, card.crop, f"the crop store for {weights}")
    in_fold = manifest["fold"].eq(fold).fillna(False)
    val_rows = manifest[in_fold].assign(split="val")
    train_rows = manifest[(manifest["split"] == "train") & ~in_fold]
    test_rows = manifest[(manifest["split"] == "test") & test]
    outputs = read_held_out(held_out, len(val_rows), len(card.classes))
    unlike = fit_unlike(network, card, train=train_rows, held_out=val_rows, crops=crops)
    start = time.perf_counter()
    test_logits, test_unlike = _predict(network, card, crops, test_rows, unlike)
    seconds = time.perf_counter() - start
    return Evaluation(
        validation=make_predictions(val_rows, softmax(outputs.own_logits), card.classes, digest),
        test=make_predictions(test_rows, softmax(test_logits), card.classes, digest),
        test_unlike=test_unlike,
        images_per_second=len(test_rows) / seconds,
        card=card,
        unlike=unlike,
    )


def _predict(
    network: Classifier, card: ModelCard, crops: CropStore, rows: Manifest, unlike: UnlikeStatistics
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns logits float32[N, K] and unlike scores float64[N] of the N images of a manifest, with a progress bar."""
    ids = rows["id"].tolist()
    size = -(-card.recipe.batch_size // card.recipe.accumulate)  # as many images as fit into memory in training
    logits, scores = [], []
    for start in tracked(range(0, max(1, len(ids)), size), "predict", "batch"):  # one empty batch for no images
        batch = crops[ids[start : start + size]]
        with collected_features(network) as features:
            logits.append(
                crop_logits(
                    network,
                    batch,
                    precision="off",
                    channels_last=card.recipe.channels_last,
                    device=network.mean.device,
                    tta=card.recipe.tta,
                )
            )
        scores.append(unlike_scores(unlike, features[0], batch))  # of the unaltered crops, which come first
    return np.concatenate(logits), np.concatenate(scores)


def _check_card(card: ModelCard, expected: dict[str, Any], weights: Path) -> None:
    """Raises InputError unless the model file is of the expected model, fold and manifest."""
    for field, value in {"model": card.name, "fold": card.fold, "manifest": card.manifest}.items():
        if value != expected[field]:
            raise InputError(
                f"{weights}: trained as {field} {value}, expected {field} {expected[field]}: train it again (dvc repro)"
            )
