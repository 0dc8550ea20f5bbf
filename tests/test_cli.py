"""The commands beside the pipeline, on a project whose data are prepared and on one whose are not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tumorboard.cli import BALANCE, SPLIT, STORE, app
from tumorboard.data.store import write_store
from tumorboard.tables import write_table

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml, and the outputs of crop, split and balance for 40 images of two brightnesses, fold 0 judged."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["crop"]["side"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1}
    tree["train"] |= {"batch_size": 8}
    tree["lr_find"] |= {"first": 0.00001, "steps": 20, "smoothing": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    ids = [f"{number}.jpg" for number in range(40)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 20, "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0] * 8 + [1] * 32, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    crops = np.random.default_rng(0).integers(0, 120, (40, 16, 16, 3), dtype=np.uint8)
    crops[::2] += 100
    write_store(tmp_path / STORE, ids, crops, 2)
    write_store(tmp_path / BALANCE / "0" / "store", [], crops[:0], 1)
    write_table(manifest, tmp_path / SPLIT)
    write_table(manifest[8:], tmp_path / BALANCE / "0" / "manifest.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_those_of_the_train_stage() -> None:
    command = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"]["cmd"].split()
    assert command[5:8] == [str(STORE), str(SPLIT), f"{BALANCE}/${{item.fold}}"]


def test_lr_find_writes_a_table_and_a_picture_and_suggests(project: Path) -> None:
    done = CliRunner().invoke(app, ["lr-find", "cnn"])
    assert done.exit_code == 0, done.output
    curve = pd.read_csv(project / "lr_find/cnn.csv")
    lowest = curve["lr"][2 + curve["smoothed"][2:].argmin()]
    lines = done.stdout.splitlines()
    assert lines[0] == f"tenth of the lowest: {lowest / 10:.2g}"
    assert lines[1].startswith("steepest fall: ")
    assert lines[2] == f"the recipe's lr is 0.001; lr_find/cnn.csv and lr_find/cnn.png show {len(curve)} steps"
    with Image.open(project / "lr_find/cnn.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 8  # something is drawn
    assert {path.name for path in (project / "lr_find").iterdir()} == {"cnn.csv", "cnn.png"}


@pytest.mark.usefixtures("project")
def test_batch_size_names_the_accumulation() -> None:
    done = CliRunner().invoke(app, ["batch-size", "cnn", "--memory", "64"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("32 images at a time (estimated from the peaks at ")
    assert done.stdout.splitlines()[1] == "accumulate: 1 keeps batch_size 8 with 1 process"
    done = CliRunner().invoke(app, ["batch-size", "cnn", "--memory", "0.01"])
    assert done.exit_code == 1
    assert done.stderr.startswith("batch-size: too little memory for a step with 1 image: a step needs ")


@pytest.mark.parametrize("command", ["lr-find", "batch-size"])
def test_what_is_missing_is_named(project: Path, command: str) -> None:
    for arguments, message in (
        (["cnm"], "model 'cnm' has no entry under recipes; did you mean cnn"),
        (["cnn", "--fold", "3"], "data/balance/3 is not there: `dvc repro balance@3` prepares the images of fold 3"),
    ):
        done = CliRunner().invoke(app, [command, *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{command}: {message}")
    assert not (project / "lr_find").exists()
