"""Untrained models in files, for the tests of the panel, of evaluation and of prediction."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tumorboard.base.files import write_table
from tumorboard.base.params import Crop, Params, Recipe
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.tables import manifest_digest, read_manifest
from tumorboard.data.store import write_store
from tumorboard.evaluation.held_out import HeldOut, assign_parts, write_held_out
from tumorboard.models.model_file import ModelCard, save_model
from tumorboard.models.registry import build_model

CLASSES = ("b", "a", "c")
NORMALIZATION = ((0.5, 0.5, 0.5), (0.05, 0.05, 0.05))  # a small deviation makes untrained networks decide differently


def untrained_card(name: str, recipe: Recipe, crop: Crop, classes: tuple[str, ...] = CLASSES) -> ModelCard:
    """Returns the card of a network that was never trained, of fold 0."""
    return ModelCard(
        name=name,
        classes=classes,
        fold=0,
        crop=crop,
        mean=NORMALIZATION[0],
        std=NORMALIZATION[1],
        recipe=recipe,
        manifest="0" * 16,
        parameters=1,
        epoch=1,
        score={},
        versions={},
        seed=recipe.seed,
    )


def save_untrained(
    folder: Path,
    params: Params,
    name: str,
    fold: int,
    seed: int,
    changes: dict[str, object] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """Writes an untrained network to models/<name>/<fold>.safetensors and returns the path.

    Args:
        name: "linear", "cnn" or "other"; the last is a cnn3.
        seed: seed of the weights.
        changes: fields of the model card that are to differ.
        classes: number of the network's outputs.
    """
    architecture = {"linear": "linear", "cnn": "cnn", "other": "cnn3"}[name]
    recipe = resolve_recipe(params, "cnn").model_copy(
        update={"architecture": architecture, "precision": "off", "seed": seed}
    )
    model = build_model(recipe, len(classes), 32, NORMALIZATION)
    card = untrained_card(name, recipe, params.crop, classes)
    file = folder / f"models/{name}/{fold}.safetensors"
    save_model(file, model, card.model_copy(update={"fold": fold} | (changes or {})))
    return file


def save_panel(folder: Path, params: Params) -> list[Path]:
    """Writes two models of two folds each and returns their paths: linear 0, linear 1, cnn 0, cnn 1."""
    folds = [("linear", 0), ("linear", 1), ("cnn", 0), ("cnn", 1)]
    return [save_untrained(folder, params, name, fold, seed) for seed, (name, fold) in enumerate(folds, 1)]


def save_split_and_model(folder: Path, params: Params) -> None:
    """Writes a split of 12 images, a model that was trained on it, and its outputs for its validation images.

    The files: manifest.csv (4 test images, 4 of fold 0, 4 of fold 1), store, model.safetensors, held_out.safetensors.

    The model is a linear one of fold 1 with the classes b and a, whose card says that epoch 7 was kept. The outputs for
    its four validation images differ from part to part; each image is its own group, hence its own part.
    """
    ids = [f"i{k:02d}" for k in range(12)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 6, "group": ids})
    manifest["split"] = ["test"] * 4 + ["train"] * 8
    manifest["fold"] = pd.array([None] * 4 + [0] * 4 + [1] * 4, dtype="Int64")
    manifest["source_id"] = ids
    manifest["sha256"] = ids
    write_table(manifest, folder / "manifest.csv")
    crops = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    write_store(folder / "store", ids, crops, 2)
    recipe = resolve_recipe(params, "linear")
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    torch.manual_seed(0)
    model = build_model(recipe, 2, 32, (mean, std))
    card = ModelCard(
        name="linear",
        classes=("b", "a"),
        fold=1,
        crop=params.crop,
        mean=mean,
        std=std,
        recipe=recipe,
        manifest=manifest_digest(read_manifest(folder / "manifest.csv")),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epoch=7,
        score={"loss": 0.5},
        versions={},
        seed=0,
    )
    save_model(folder / "model.safetensors", model, card)
    logits = np.random.default_rng(1).normal(size=(5, 4, 2)).astype(np.float32)
    held_out = HeldOut(assign_parts(ids[8:]), logits, np.array([2, 3, 7, 5, 7]), np.full(5, 0.5))
    write_held_out(held_out, folder / "held_out.safetensors")
