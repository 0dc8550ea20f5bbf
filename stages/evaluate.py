"""Judge the validation and test images with a trained model: MODEL FOLD STORE SPLIT_MANIFEST WEIGHTS OUT METRICS."""

import time

import pandas as pd
import torch

from tumorboard.data.store import CropStore
from tumorboard.door import run
from tumorboard.errors import InputError
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.models.inference import choose_device, predict_logits, softmax
from tumorboard.models.weights import load_model
from tumorboard.params import Params
from tumorboard.tables import make_predictions, manifest_digest, read_manifest, write_json, write_table


def main(
    params: Params, model: str, fold: str, store: str, split_manifest: str, weights: str, out: str, metrics: str
) -> None:
    """Write the Predictions of a fold's validation rows and of the test rows to `out`, their scores to `metrics`."""
    manifest = read_manifest(split_manifest)
    digest = manifest_digest(manifest)
    network, card = load_model(weights, choose_device(params.runtime))
    for what, given, expected in (
        ("model", card.name, model),
        ("fold", card.fold, int(fold)),
        ("manifest", card.manifest, digest),
    ):
        if given != expected:
            raise InputError(f"{weights}: trained as {what} {given}, not {expected}: train it again (dvc repro)")
    parts = {
        "val": manifest[manifest["fold"].eq(int(fold)).fillna(False)].assign(split="val"),
        "test": manifest[manifest["split"] == "test"],
    }
    crops = CropStore(store)
    start = time.perf_counter()
    logits = {
        part: predict_logits(
            network,
            crops,
            rows["id"].tolist(),
            card.recipe.precision,
            card.recipe.channels_last,
            torch.device(choose_device(params.runtime)),
            card.recipe.batch_size,
            progress=True,
        )
        for part, rows in parts.items()
    }
    seconds = time.perf_counter() - start
    tables = {part: make_predictions(rows, softmax(logits[part]), card.classes, digest) for part, rows in parts.items()}
    write_table(pd.concat(tables.values()), out)
    write_json(
        {
            "test": scores(tables["test"]),
            "intervals": bootstrap_intervals(tables["test"], params.evaluate, params.seed),
            "val": scores(tables["val"]),
            "parameters": card.parameters,
            "epoch": card.epoch,
            "images_per_second": round(sum(map(len, tables.values())) / seconds, 1),
        },
        metrics,
    )


if __name__ == "__main__":
    run(main)
