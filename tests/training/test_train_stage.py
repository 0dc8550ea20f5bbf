"""The stage as it is started: by hand and by torchrun."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tumorboard.data.store import write_store
from tumorboard.models.weights import load_model
from tumorboard.params import load_params, resolve_recipe
from tumorboard.tables import manifest_digest, read_manifest, write_json, write_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with params.yaml, a crop store of 24 images in two folds, two copies, and the recipe of a cnn."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["crop"]["size"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1}
    tree["train"] |= {"epochs": 2, "batch_size": 8, "tensorboard": True}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    ids = [f"{number}.jpg" for number in range(24)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 12, "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0] * 8 + [1] * 16, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    copies = manifest[8:10].assign(id=["8.jpg//1", "9.jpg//1"])
    crops = np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), dtype=np.uint8)
    write_store(tmp_path / "store", ids, crops[:24], 2)
    write_store(tmp_path / "balance" / "store", copies["id"].tolist(), crops[24:], 2)
    write_table(manifest, tmp_path / "manifest.csv")
    write_table(pd.concat([manifest[8:], copies]), tmp_path / "balance" / "manifest.csv")
    recipe = resolve_recipe(load_params(tmp_path / "params.yaml"), "cnn")
    write_json(recipe.model_dump(), tmp_path / "recipe.json")
    return tmp_path


def _run(project: Path, *launcher: str, fold: str = "0") -> subprocess.CompletedProcess[str]:
    paths = ("store", "manifest.csv", "balance", "recipe.json", "model.safetensors", "out", "metrics.json")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "stages.train", "cnn", fold, *paths],
        cwd=project, env=environment, text=True, capture_output=True, timeout=120,
    )  # fmt: skip


def test_torchrun_trains_in_two_processes_and_one_writes(project: Path) -> None:
    before = {path.name for path in project.iterdir()}
    done = _run(project, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  lr")[0] for line in lines] == [f"fold 0  cnn  epoch {epoch}/2" for epoch in (1, 2)]
    assert {path.name for path in project.iterdir()} == before | {"model.safetensors", "out", "metrics.json"}
    assert (project / "dvc.yaml").read_text() == "stages: {}\n"

    history = pd.read_csv(project / "out" / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    card = load_model(project / "model.safetensors", "cpu")[1]
    metrics = json.loads((project / "metrics.json").read_text())
    assert metrics["epoch"] == 2
    assert metrics["kept_epoch"] == card.epoch == int(history["val_loss"].argmin()) + 1
    assert metrics["val"]["loss"] == history["val_loss"].min() == card.score["loss"]
    assert metrics["seconds"] > 0
    assert card.classes == ("a", "b")
    assert card.manifest == manifest_digest(read_manifest(project / "manifest.csv"))

    curve = pd.read_csv(project / "out" / "dvclive" / "plots" / "metrics" / "val" / "loss.tsv", sep="\t")
    assert curve["loss"].tolist() == history["val_loss"].tolist()
    events = EventAccumulator(str(project / "out" / "tensorboard")).Reload()
    board = [event.value for event in events.Scalars("train/accuracy")]
    assert np.allclose(board, history["train_accuracy"])
    assert not any(math.isnan(value) for value in board)


def test_a_fold_without_rows_is_one_message(project: Path) -> None:
    done = _run(project, fold="3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "\ntrain: fold 3 has no validation rows: name one of the split's folds in `folds`\n"
    assert not (project / "out").exists()
