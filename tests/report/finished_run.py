"""Writes the files of a run whose models are trained and evaluated, without training any."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy.special import softmax

from stages import ensemble, report
from tests.panel.statistics import made_up_statistics
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.tables import Manifest, make_predictions, manifest_digest, read_predictions
from tumorboard.data.parts import count_table
from tumorboard.data.store import CropBatch, CropStore, write_store
from tumorboard.evaluation.held_out import HeldOut, assign_parts, write_held_out
from tumorboard.panel.examples import choose_examples
from tumorboard.panel.filters import FirstLayer, write_filters
from tumorboard.panel.heat_maps import ExplainedExamples, write_explained
from tumorboard.panel.ledger import record_look
from tumorboard.panel.unlike import save_unlike
from tumorboard.report.conclusions import Conclusions, draw_conclusions
from tumorboard.report.explained import Explained
from tumorboard.report.results import Results, read_results

# Names that HTML, matplotlib and CSV have to escape.
CLASSES = ["<b>&", "$x_1$ with a name that is really long", "ordinary"]
DROPPED = [("train", "twins", 5), ("val", "twins", 6), ("train", "patients", 7), ("val", "patients", 8)]
EPOCHS = 8
GROUPS = 30
IMAGES_PER_GROUP = 3
SIDE = 16  # pixels
NOTHING_EXPLAINED = Explained(sheets=[], with_map=[], without_map=[], places={}, filters=[])
WRITTEN = "2026-01-02 03:04 UTC, commit abc1234"  # when a report was written, in tests that compare its bytes
_DRAWN: dict[int, tuple[Results, Conclusions]] = {}  # by the identity of the results, which are kept for it


def panel_params(params: Params, **changes: Any) -> Params:
    """Returns params of two models on two folds, of patients, without a positive class, with few resamples.

    Args:
        params: the repository's parameters.
        changes: a dict per section, a value per other key.
    """
    sections: dict[str, dict[str, Any]] = {
        "data": {"unit": "patient", "positive": None},
        "ensemble": {"vote": "soft"},
        "evaluate": {"bootstrap": 50, "subgroups": ("site",)},
    }
    given = {"study": "A <study> & more", "models": ("linear", "cnn"), "folds": (0, 1)}
    for name, value in changes.items():
        if isinstance(value, dict):
            sections[name] = sections.get(name, {}) | value
        else:
            given[name] = value
    updated = {name: getattr(params, name).model_copy(update=value) for name, value in sections.items()}
    return params.model_copy(update=updated | given)


def write_finished_run(
    root: Path,
    params: Params,
    classes: Sequence[str] = CLASSES,
    *,
    groups: int = GROUPS,
    skill: float = 1.0,
    giant: bool = False,
    seed: int = 0,
) -> None:
    """Writes what the stages before `ensemble` write: crops, split, recipes, histories, predictions, metrics.

    Args:
        root: an empty folder.
        params: whose models and folds are written; without `evaluate.test` no test image is predicted.
        classes: names.
        groups: number of groups of three images; every third one is in the test set, the others in folds 0 and 1.
        skill: how far the first model's logits favor the right class, 0 is guessing; the second's twice as far.
        giant: the images of half of the test groups are one group's.
        seed: seed of the logits.
    """
    generator = np.random.default_rng(seed)
    manifest = _make_manifest(classes, groups, giant)
    crops = generator.integers(0, 255, (len(manifest), SIDE, SIDE, 3), dtype=np.uint8)
    skills = [skill * (1 + number) for number in range(len(params.models))]
    write_run(root, params, manifest, crops=crops, classes=classes, skills=skills, generator=generator)


def write_run(
    root: Path,
    params: Params,
    manifest: Manifest,
    *,
    crops: CropBatch,
    classes: Sequence[str],
    skills: Sequence[float],
    generator: np.random.Generator,
) -> None:
    """Writes what the stages before `ensemble` write, of given images.

    Args:
        root: an empty folder.
        params: whose models and folds are written; without `evaluate.test` no test image is predicted.
        manifest: eight images or more, with groups named p<number>.
        crops: uint8[N, S, S, 3], one per row of the manifest.
        classes: names.
        skills: how far each model's logits favor the right class; 0 is guessing.
        generator: draws histories and logits.
    """
    _write_crops(root, manifest, crops, classes)
    _write_split(root, manifest, classes)
    _write_audit(root, manifest)
    for number, (model, skill) in enumerate(zip(params.models, skills, strict=True)):
        write_json(resolve_recipe(params, model).model_dump(mode="json"), root / "recipes" / f"{model}.json")
        for fold in params.folds:
            _write_training(root, model, fold, number, generator)
            _write_predictions(root, manifest, classes, (model, fold), skill, generator, params)


def run_stages(root: Path, params: Params) -> str:
    """Runs the stages ensemble and report on the files of `write_finished_run`; returns what they print."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_ensemble(root, params)
        run_report(root, params)
    return printed.getvalue()


def run_ensemble(root: Path, params: Params) -> None:
    """Runs the stage ensemble."""
    predictions, metrics = root / "predictions", root / "metrics"
    ensemble.main(
        params,
        members=predictions / "members",
        test_members=predictions / "test" / "members",
        held_out=predictions / "held_out",
        unlike=predictions / "unlike",
        test_unlike=predictions / "test" / "unlike",
        attributes=root / "crop" / "attributes.csv",
        panel=root / "models" / "panel.json",
        joined=predictions / "joined",
        votes=predictions / "votes",
        test_joined=predictions / "test" / "joined",
        test_votes=predictions / "test" / "votes",
        metrics=metrics / "ensemble.json",
        comparison=metrics / "votes.json",
        test_metrics=metrics / "test" / "ensemble.json",
        test_comparison=metrics / "test" / "votes.json",
    )
    _write_explained(root, params)


def _write_explained(root: Path, params: Params) -> None:
    """Writes what the stage explain writes: maps of all models but the first, which begin at the upper left."""
    generator, side = np.random.default_rng(4), CropStore(root / "crop" / "store").size
    for folder, scores in ((root / "predictions", "places.json"), (root / "predictions/test", "test/places.json")):
        examples = choose_examples(read_predictions(folder / "votes" / "heading.csv"))
        members = {}
        for name in params.models[1:]:
            members[name] = generator.random((len(examples), side, side)).astype(np.float32)
        vote = np.mean(list(members.values()), axis=0) if members else None
        write_explained(ExplainedExamples(examples, members, vote), folder / "maps")
        write_json({}, root / "metrics" / scores)
    filters = generator.normal(size=(4, 3, 3, 3)).astype(np.float32)
    layers = {params.models[0]: FirstLayer(filters, filters + 0.1, np.array([0.25], np.float32))}
    write_filters(layers, root / "predictions/filters.safetensors")


def run_report(root: Path, params: Params) -> None:
    """Runs the stage report, with `root` as the main checkout, whose ledger it reads."""
    paths = inputs_of(root)
    del paths["ledger"]
    with (
        mock.patch.dict(os.environ, DVC_ROOT=str(root)),
        mock.patch("tumorboard.report.results.describe_run", return_value=WRITTEN),
    ):
        report.main(
            params,
            **paths,
            plots=root / "plots",
            page=root / "report" / "index.html",
            schema=root / "metrics" / "schema.json",
        )


def make_results(root: Path, params: Params, **options: Any) -> Results:
    """Writes a run of 72 patients, of which 24 are in the test part, and returns its results."""
    classes = options.pop("classes", ["a", "b"])
    write_finished_run(root, params, classes, **({"groups": 72, "skill": 1.0} | options))
    run_ensemble(root, params)
    return read_results(params, **inputs_of(root))


def conclusions_of(results: Results) -> Conclusions:
    """Returns the conclusions from results; those from the same object are drawn once."""
    if id(results) not in _DRAWN:
        _DRAWN[id(results)] = results, draw_conclusions(results)
    return _DRAWN[id(results)][1]


def inputs_of(root: Path) -> dict[str, Path]:
    """Returns the files and folders that `read_results` reads, by parameter name."""
    folders = {
        name: root / name for name in ("crop", "split", "balance", "recipes", "training", "predictions", "metrics")
    }
    return folders | {"panel": root / "models" / "panel.json", "ledger": root / ".cache" / "test-looks.jsonl"}


def record_looks(root: Path, manifest: Manifest, count: int) -> None:
    """Writes the ledger of `count` sets of weights whose test scores were computed."""
    weights = root / "weights.bin"
    for number in range(count):
        weights.write_bytes(str(number).encode())
        record_look(inputs_of(root)["ledger"], manifest, "cnn", 0, weights)
    weights.unlink()


def _make_manifest(classes: Sequence[str], groups: int, giant: bool) -> Manifest:
    group = np.repeat(np.arange(groups), IMAGES_PER_GROUP)
    labels = np.array(classes, dtype=object)[group % len(classes)]
    ids = [f"{label}/p{g} \n<i>{k}.jpg" for k, (label, g) in enumerate(zip(labels, group, strict=True))]
    part = group // len(classes) % 3
    fold = pd.Series(part - 1, dtype="Int64").mask(part == 0)
    names = np.array([f"p{g}" for g in group], dtype=object)
    if giant:
        names[(part == 0) & (group < groups // 2)] = "p0"
    return pd.DataFrame(
        {
            "id": ids,
            "path": ids,
            "label": labels,
            "group": names,
            "split": np.where(part == 0, "test", "train"),
            "fold": fold,
            "source_id": ids,
            "sha256": [f"{k:064x}" for k in range(len(ids))],
        }
    )


def _write_crops(root: Path, manifest: Manifest, crops: np.ndarray, classes: Sequence[str]) -> None:
    write_store(root / "crop" / "store", manifest["id"].tolist(), crops, 2)
    excluded = pd.DataFrame({"path": ["bad & ugly.jpg"], "reason": ["truncated"], "detail": ["<at byte 7>"]})
    write_table(excluded, root / "crop" / "quarantined.csv")
    images = manifest[["id"]].assign(scaling="", low="", high="", warning="")
    write_table(images, root / "crop" / "images.csv")
    number = manifest["group"].str[1:].astype(int)
    sites = np.where(number // len(classes) % 2, "north", "<south>")
    write_table(manifest[["id"]].assign(site=sites), root / "crop" / "attributes.csv")
    counts = {"images": len(manifest), "groups": manifest["group"].nunique(), "quarantined": 1}
    write_json(counts | {"own_range": 0, "decoder_warnings": 0}, root / "metrics" / "crop.json")


def _write_split(root: Path, manifest: Manifest, classes: Sequence[str]) -> None:
    write_table(manifest, root / "split" / "manifest.csv")
    write_table(count_table(manifest), root / "split" / "counts.csv")
    explanations = [
        {"part": "fold_1", "label": classes[0], "wanted": 0.3333, "got": 0.25, "why": "groups stay <whole>"},
        {"part": "test", "label": "", "wanted": 0.2, "got": 0.4, "why": "another reason"},
    ]
    dropped = {f"dropped_{part}_{reason}": count for part, reason, count in DROPPED}
    write_json(
        dropped | {"merged_groups": 0, "outside_tolerance": 2, "explanations": explanations},
        root / "metrics" / "split.json",
    )


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
    probe = pd.DataFrame({"facts": ["width", "all of them"], "images": 90, "accuracy": [0.71, 0.4], "majority": 0.33})
    write_table(probe.assign(skill=[0.567, 0.0], p=[0.01, np.nan]), root / "split" / "shortcuts.csv")
    write_table(probe.assign(skill=[0.25, np.nan]), root / "split" / "test_shortcuts.csv")
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
    member: tuple[str, int],
    skill: float,
    generator: np.random.Generator,
    params: Params,
) -> None:
    """Writes a member's validation outputs, which differ a little from part to part, and its test predictions."""
    (model, fold), digest, predictions = member, manifest_digest(manifest), root / "predictions"
    rows = manifest[manifest["fold"].eq(fold).fillna(False)].assign(split="val")
    parts = assign_parts(rows["group"].tolist())
    choices = int(parts.max()) + 2
    logits = _logits(rows, classes, skill, generator) + 0.1 * generator.normal(size=(choices, len(rows), len(classes)))
    held_out = HeldOut(parts, logits.astype(np.float32), np.full(choices, 5), np.zeros(choices))
    write_held_out(held_out, predictions / "held_out" / model / f"{fold}.safetensors")
    save_unlike(
        made_up_statistics(held_out=generator.normal(size=len(rows))),
        predictions / "unlike" / model / f"{fold}.safetensors",
    )
    own = softmax(held_out.own_logits.astype(np.float64), axis=1)
    write_table(make_predictions(rows, own, classes, digest), predictions / "members" / model / f"{fold}.csv")
    tests = manifest[manifest["split"] == "test"]
    probabilities = softmax(_logits(tests, classes, skill, generator), axis=1)
    if not params.evaluate.test:
        tests, probabilities = tests.head(0), probabilities[:0]
    table = make_predictions(tests, probabilities, classes, digest)
    write_table(table, predictions / "test" / "members" / model / f"{fold}.csv")
    unlike = table[["id"]].assign(unlike=-1.0)  # like a training image
    write_table(unlike, predictions / "test" / "unlike" / model / f"{fold}.csv")


def _logits(rows: Manifest, classes: Sequence[str], skill: float, generator: np.random.Generator) -> np.ndarray:
    logits = generator.normal(size=(len(rows), len(classes))) * 1.5
    logits[np.arange(len(rows)), [classes.index(label) for label in rows["label"]]] += skill
    return logits
