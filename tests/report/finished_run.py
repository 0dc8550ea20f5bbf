"""Writes the files of a run whose models are trained and evaluated, without training any."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages import ensemble, report
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params, resolve_recipe
from tumorboard.base.tables import Manifest, make_predictions, manifest_digest
from tumorboard.data.parts import count_table
from tumorboard.data.store import write_store

# Names that HTML, matplotlib and CSV have to escape.
CLASSES = ["<b>&", "$x_1$ with a name that is really long", "ordinary"]
DROPPED = [("train", "twins", 5), ("val", "twins", 6), ("train", "patients", 7), ("val", "patients", 8)]
EPOCHS = 8
GROUPS = 30
IMAGES_PER_GROUP = 3
SIDE = 16  # pixels


def panel_params(params: Params) -> Params:
    """Returns params of two models on two folds, with few resamples."""
    return params.model_copy(
        update={
            "models": ("linear", "cnn"),
            "folds": (0, 1),
            "ensemble": params.ensemble.model_copy(update={"vote": "soft"}),
            "evaluate": params.evaluate.model_copy(update={"bootstrap": 50}),
        }
    )


def write_finished_run(
    root: Path, params: Params, classes: Sequence[str] = CLASSES, *, groups: int = GROUPS, skill: float = 1.0
) -> None:
    """Writes what the stages before `ensemble` write: crops, split, recipes, histories, predictions, metrics.

    Args:
        root: an empty folder.
        params: whose models and folds are written.
        classes: names.
        groups: of three images each; every third one is in the test set, the others in folds 0 and 1.
        skill: how far the models' logits favor the right class; 0 is guessing.
    """
    generator = np.random.default_rng(0)
    manifest = _make_manifest(classes, groups)
    crops = generator.integers(0, 255, (len(manifest), SIDE, SIDE, 3), dtype=np.uint8)
    write_store(root / "crop" / "store", manifest["id"].tolist(), crops, 2)
    excluded = pd.DataFrame({"path": ["bad & ugly.jpg"], "reason": ["truncated"], "detail": ["<at byte 7>"]})
    write_table(excluded, root / "crop" / "quarantined.csv")
    _write_split(root, manifest, classes)
    _write_audit(root, manifest)
    for number, model in enumerate(params.models):
        write_json(resolve_recipe(params, model).model_dump(mode="json"), root / "recipes" / f"{model}.json")
        for fold in params.folds:
            _write_training(root, model, fold, number, generator)
            _write_predictions(root, manifest, classes, model, fold, skill * (1 + number), generator)


def run_stages(root: Path, params: Params) -> str:
    """Runs the stages ensemble and report on the files of `write_finished_run`; returns what they print."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_ensemble(root, params)
        run_report(root, params)
    return printed.getvalue()


def run_ensemble(root: Path, params: Params) -> None:
    """Runs the stage ensemble."""
    ensemble.main(
        params,
        members=root / "predictions" / "members",
        joined=root / "predictions" / "joined",
        votes=root / "predictions" / "votes",
        metrics=root / "metrics" / "ensemble.json",
        comparison=root / "metrics" / "votes.json",
    )


def run_report(root: Path, params: Params) -> None:
    """Runs the stage report."""
    report.main(params, **folders_of(root), plots=root / "plots", page=root / "report" / "index.html")


def folders_of(root: Path) -> dict[str, Path]:
    """Returns the folders that `read_results` reads, by parameter name."""
    return {name: root / name for name in ("crop", "split", "recipes", "training", "predictions", "metrics")}


def _make_manifest(classes: Sequence[str], groups: int) -> Manifest:
    group = np.repeat(np.arange(groups), IMAGES_PER_GROUP)
    labels = np.array(classes, dtype=object)[group % len(classes)]
    ids = [f"{label}/p{g} \n<i>{k}.jpg" for k, (label, g) in enumerate(zip(labels, group, strict=True))]
    part = group // len(classes) % 3
    fold = pd.Series(part - 1, dtype="Int64").mask(part == 0)
    return pd.DataFrame(
        {
            "id": ids,
            "path": ids,
            "label": labels,
            "group": [f"p{g}" for g in group],
            "split": np.where(part == 0, "test", "train"),
            "fold": fold,
            "source_id": ids,
            "sha256": [f"{k:064x}" for k in range(len(ids))],
        }
    )


def _write_split(root: Path, manifest: Manifest, classes: Sequence[str]) -> None:
    write_table(manifest, root / "split" / "manifest.csv")
    write_table(count_table(manifest), root / "split" / "counts.csv")
    explanations = [
        {"part": "fold_1", "label": classes[0], "wanted": 0.3333, "got": 0.25, "why": "groups stay <whole>"},
        {"part": "test", "label": "", "wanted": 0.2, "got": 0.4, "why": "another reason"},
    ]
    dropped = {f"dropped_{part}_{reason}": count for part, reason, count in DROPPED}
    write_json(dropped | {"outside_tolerance": 2, "explanations": explanations}, root / "metrics" / "split.json")


def _write_audit(root: Path, manifest: Manifest) -> None:
    """Writes four pairs that differ in the keys by which the report sorts them, and a probe without a test score."""
    kinds = [("bytes", 1.0, False), ("near", 0.97, True), ("near", 0.951, False), ("near", 0.99, False)]
    ids = manifest["id"].to_numpy()[:8]
    pairs = pd.DataFrame(kinds, columns=["kind", "correlation", "mirrored"])
    pairs.insert(0, "first", ids[::2])
    pairs.insert(1, "second", ids[1::2])
    pairs["first_label"] = CLASSES[0]
    pairs["second_label"] = [CLASSES[0]] * 3 + [CLASSES[1]]
    pairs["first_split"] = "train"
    pairs["second_split"] = ["test", "test", "train", "train"]
    write_table(pairs, root / "split" / "duplicates.csv")
    excluded = pd.DataFrame({"path": ["<two>.jpg"], "reason": ["label conflict"], "detail": ["both"]})
    write_table(excluded, root / "split" / "quarantined.csv")
    scores = {"accuracy": [0.71, 0.4], "majority": 0.33, "skill": [0.567, 0.0], "test_accuracy": np.nan}
    scores |= {"test_majority": np.nan, "test_skill": np.nan}
    write_table(
        pd.DataFrame({"facts": ["width", "all of them"], "images": 90} | scores), root / "split" / "shortcuts.csv"
    )
    metrics = {"policy": "regroup", "may_leak": False, "images": 1234, "pictures": 1200, "pairs_bytes": 3}
    metrics |= {"pairs_pixels": 38, "pairs_near": 7, "pairs_mirrored": 1, "sets": 29, "largest_set": 5}
    metrics |= {"sets_across_given_parts": 4, "too_faint_to_compare": 6, "label_conflicts": 2, "quarantined": 9}
    write_json(metrics | {"dropped": 26, "shortcuts": 1}, root / "metrics" / "audit.json")


def _write_training(root: Path, model: str, fold: int, number: int, generator: np.random.Generator) -> None:
    epochs = np.arange(1, EPOCHS + 1)
    history = pd.DataFrame({"epoch": epochs, "lr": 0.1})
    for part, start, speed in (("train", 1.5, 0.5), ("val", 1.6, 0.4)):
        noise = generator.normal(size=EPOCHS) * 0.03
        history[f"{part}_loss"] = start * np.exp(-speed * epochs / 4) / (1 + 0.2 * number) + noise
        history[f"{part}_accuracy"] = 1 - 0.3 * history[f"{part}_loss"]
    folder = root / "training" / model / str(fold)
    write_table(history, folder / "history.csv")
    write_json({"seconds": 61.5 + 2 * fold, "images_per_second": 321.5 + 10 * fold}, folder / "timings.json")
    evaluation = {"parameters": 1234567 * (number + 1), "epoch": 5 + fold}
    write_json(evaluation, root / "metrics" / "evaluate" / model / f"{fold}.json")


def _write_predictions(
    root: Path,
    manifest: Manifest,
    classes: Sequence[str],
    model: str,
    fold: int,
    skill: float,
    generator: np.random.Generator,
) -> None:
    rows = manifest[(manifest["split"] == "test") | manifest["fold"].eq(fold).fillna(False)]
    rows = rows.assign(split=np.where(rows["split"] == "test", "test", "val"))
    logits = generator.normal(size=(len(rows), len(classes))) * 1.5
    logits[np.arange(len(rows)), [classes.index(label) for label in rows["label"]]] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = make_predictions(rows, probabilities, classes, manifest_digest(manifest))
    write_table(table, root / "predictions" / "members" / model / f"{fold}.csv")
