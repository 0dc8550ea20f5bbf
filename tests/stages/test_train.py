"""Starts the stage `train` as a user, DVC and torchrun do."""

import json
import math
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.warm_python import executable
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.schema import read_yaml
from tumorboard.base.tables import manifest_digest, read_manifest
from tumorboard.data.store import write_store
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.models.model_file import load_model
from tumorboard.models.study_code import study_digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with params.yaml, a crop store of 24 images in two folds, two copies, and the recipe of a cnn."""
    tree = read_yaml(ROOT / "params.yaml")
    tree["crop"]["side"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1}
    tree["train"] |= {"epochs": 2, "batch_size": 8, "tensorboard": True}
    tree["data"]["positive"] = "b"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    ids = [f"{number}.jpg" for number in range(24)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 12, "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0] * 8 + [1] * 16, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    manifest.loc[22:, ["split", "fold"]] = ["test", pd.NA]
    copies = manifest[8:10].assign(id=["8.jpg//1", "9.jpg//1"])
    crops = np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), dtype=np.uint8)
    write_store(tmp_path / "store", ids, crops[:24], 2)
    write_store(tmp_path / "balance" / "store", copies["id"].tolist(), crops[24:], 2)
    write_table(manifest, tmp_path / "manifest.csv")
    write_table(pd.concat([manifest[8:22], copies]), tmp_path / "balance" / "manifest.csv")
    recipe = resolve_recipe(load_params(tmp_path / "params.yaml"), "cnn")
    write_json(recipe.model_dump(), tmp_path / "recipe.json")
    return tmp_path


OPTIONS = {
    "model": "cnn",
    "fold": "0",
    "store": "store",
    "manifest": "manifest.csv",
    "balance": "balance",
    "recipe": "recipe.json",
    "weights": "model.safetensors",
    "held-out": "held_out.safetensors",
    "out": "out",
    "metrics": "metrics.json",
}


def _words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _run(project: Path, *launcher: str, fold: str = "0") -> subprocess.CompletedProcess[str]:
    return _python(project, *launcher, "-m", "stages.train", *_words(OPTIONS | {"fold": fold}))


def _python(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # The package beside the stages, from whichever folder a script is started.
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    return subprocess.run(
        [executable(), *command], cwd=project, env=environment, text=True, capture_output=True, timeout=240
    )


def test_torchrun_trains_in_two_processes_of_which_one_writes(project: Path) -> None:
    before = {path.name for path in project.iterdir()}
    done = _run(project, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  lr")[0] for line in lines] == [f"fold 0  cnn  epoch {epoch}/2" for epoch in (1, 2)]
    written = {"model.safetensors", "held_out.safetensors", "out", "metrics.json", ".cache"}
    assert {path.name for path in project.iterdir()} == before | written
    assert list((project / ".cache").rglob("*")) == [project / ".cache" / "checkpoints"]
    assert (project / "dvc.yaml").read_text() == "stages: {}\n"

    history = pd.read_csv(project / "out" / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    card = load_model(project / "model.safetensors", "cpu")[1]
    metrics = json.loads((project / "metrics.json").read_text())
    assert metrics["epoch"] == 2
    assert metrics["kept_epoch"] == card.epoch == int(history["val_loss"].argmin()) + 1
    assert history["val_loss"].min() == card.score["loss"]
    held_out = read_held_out(project / "held_out.safetensors", rows=8, classes=2)
    assert held_out.epochs[-1] == card.epoch
    assert held_out.scores[-1] == card.score["loss"]
    assert sorted(metrics) == ["epoch", "kept_epoch", "train"]
    timings = json.loads((project / "out" / "timings.json").read_text())
    assert sorted(timings) == ["images_per_second", "seconds"]
    assert min(timings.values()) > 0
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


def test_pretrained_weights_that_changed_since_the_recipe_are_refused(project: Path) -> None:
    recipe = json.loads((project / "recipe.json").read_text())
    recipe |= {"pretrained": "weights/start.pth", "pretrained_sha256": "0" * 64}
    (project / "recipe.json").write_text(json.dumps(recipe))
    (project / "weights").mkdir()
    (project / "weights/start.pth").write_bytes(b"abc")
    done = _run(project)
    assert done.returncode == 1
    assert "train: weights/start.pth: is not the file that recipe.json was written for: run `dvc repro`" in done.stderr


OWN_NETWORK = """
from architectures.parts import shrink
from torch import nn

def network(side):
    return nn.Sequential(shrink(), nn.Flatten(), nn.Linear(3 * (side // 2) ** 2, 7), nn.ReLU())
"""


def test_an_architecture_of_the_studys_own_is_trained_and_its_model_read(project: Path, monkeypatch) -> None:
    (project / "architectures").mkdir()
    (project / "architectures/mine.py").write_text(OWN_NETWORK)
    (project / "architectures/parts.py").write_text(
        "from torch.nn import AvgPool2d\ndef shrink(): return AvgPool2d(2)\n"
    )
    monkeypatch.chdir(project)
    digest = study_digest("architectures.mine:network")
    recipe = json.loads((project / "recipe.json").read_text()) | {"architecture": "architectures.mine:network"}
    (project / "recipe.json").write_text(json.dumps(recipe | {"architecture_sha256": digest}))
    done = _run(project)
    assert done.returncode == 0, done.stderr
    model, card = load_model(project / "model.safetensors", "cpu")
    assert card.versions["architectures.mine:network"] == digest
    assert model.head.in_features == 7
    assert card.parameters == 3 * 8 * 8 * 7 + 7 + 7 * 2 + 2


KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.checkpoint_file import HashedFile
write, after_step, large = HashedFile.write, Checkpoints.after_step, []

def cut_off(self, part):
    large.extend([len(part)] * (len(part) > 50_000))
    if len(large) == 12:  # the third of the second checkpoint
        write(self, part[: len(part) // 2])
        self.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, part)

def after_step_and_wait(self, state):
    after_step(self, state)
    self._writing.result()

HashedFile.write, Checkpoints.after_step = cut_off, after_step_and_wait
sys.argv = ["stages/train.py", *sys.argv[1:]]
runpy.run_module("stages.train", run_name="__main__")
"""


def test_a_stage_killed_while_it_writes_a_checkpoint_ends_with_the_result_of_one_that_was_not(project: Path) -> None:
    """SIGKILL within a large tensor; then the stage again, and the Predictions of the model that it trained."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert "checkpoint_seconds: 60.0" in text
    (project / "params.yaml").write_text(text.replace("checkpoint_seconds: 60.0", "checkpoint_seconds: 1.0e-9"))
    (project / "cut_off.py").write_text(KILLED_WHILE_WRITING, encoding="utf-8")

    def results() -> list[bytes]:
        shared = {name: OPTIONS[name] for name in ("model", "fold", "store", "manifest", "weights", "held-out")}
        outputs = {"out": "p.csv", "test-out": "t.csv", "unlike": "unlike.safetensors", "test-unlike": "u.csv"}
        outputs |= {"metrics": "scores.json"}
        evaluate = _words(shared | outputs)
        evaluated = _python(project, "-m", "stages.evaluate", *evaluate)
        assert evaluated.returncode == 0, evaluated.stderr
        curve = Path("out") / "dvclive" / "plots" / "metrics" / "val" / "auc.tsv"
        names = ("model.safetensors", "held_out.safetensors", "out/history.csv", "p.csv", "t.csv", "u.csv")
        files = [(project / name).read_bytes() for name in names]
        steps = pd.read_csv(project / curve, sep="\t")
        shutil.rmtree(project / "out")
        return [*files, steps[["step", "auc"]].to_csv().encode()]

    assert _run(project).returncode == 0
    expected = results()
    killed = _python(project, "cut_off.py", *_words(OPTIONS))
    assert killed.returncode == -signal.SIGKILL
    (folder,) = (project / ".cache" / "checkpoints").iterdir()
    assert len(list(folder.glob(".*.tmp"))) == 1
    assert list(folder.glob("*.ckpt"))
    shutil.rmtree(project / "out", ignore_errors=True)  # as DVC does
    done = _run(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert " resumed from epoch " in done.stdout.splitlines()[0]
    assert results() == expected
    assert not folder.exists()
