"""The command `export`: its package predicts as the study does, its cards have the run's numbers."""

import json
import shutil
import sys
import zipfile
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.commands.test_predict import CLASSES, DIGEST, save
from tests.panel.packages import FIT
from tests.panel.statistics import made_up_statistics
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.schema import read_yaml
from tumorboard.commands import panel_source
from tumorboard.commands.app import app
from tumorboard.commands.paths import METRICS, PANEL, RECIPES, SPLIT, STORE, UNLIKE
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.model_file import load_model, save_model
from tumorboard.models.registry import build_model
from tumorboard.models.study_code import study_digest
from tumorboard.panel import onnx_export
from tumorboard.panel.fitted import Fit
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.stacking import Column, Stacking
from tumorboard.panel.trained_model import TrainedModel
from tumorboard.panel.unlike import save_unlike
from tumorboard.panel.votes import VOTES

ROOT = Path(__file__).parents[2]
SCORES = {
    **{"images": 20, "groups": 6, "accuracy": 0.75, "accuracy_low": 0.625, "accuracy_high": 0.875},
    **{"balanced_accuracy": 0.7, "auc": 0.81, "auc_low": 0.7, "auc_high": 0.9, "calibration_slope": 0.9},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """A study with two models of one fold, whose panel has numbers that nobody fitted, and four images in `new`."""
    folder = tmp_path_factory.mktemp("study")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key, value in (("models: ", "[cnn3, cnn]"), ("folds: ", "[1]"), ("  max_pixels: ", "4000")):
        text = "\n".join(f"{key}{value}" if line.startswith(key) else line for line in text.splitlines())
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        (folder / "new").mkdir(exist_ok=True)
        Image.fromarray(noise).save(folder / f"new/{number}.png")
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(folder / "new/large.png")  # above the study's max_pixels
    for seed, name in enumerate(("cnn3", "cnn")):
        file = save(folder, params, name, 1, seed)
        save_unlike(
            made_up_statistics(load_model(file, "cpu")[0].head.in_features), folder / UNLIKE / name / "1.safetensors"
        )
        recipe = {"architecture": name, "pretrained": "none", "optimizer": "adamw", "lr": 0.001, "tta": []}
        write_json(recipe, folder / RECIPES / f"{name}.json")
    by_model = {"temperatures": {"cnn3": 2.0, "cnn": 0.5}, "weights": {"cnn3": 0.3, "cnn": 0.7}}
    fit = Fit(**(FIT.to_json() | by_model | {"stacking": FIT.stacking}))
    write_panel(folder / PANEL, fit, classes=CLASSES, manifest=DIGEST, positive=None, unlike=1.5)
    write_split_and_metrics(folder)
    return folder


def write_split_and_metrics(folder: Path) -> None:
    ids = ["o", "p", "q"]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b", "c"], "group": ids})
    manifest = manifest.assign(split=["train", "train", "test"], fold=pd.array([1, 1, None], dtype="Int64"))
    own = sha256((folder / "new/2.png").read_bytes()).hexdigest()
    write_table(manifest.assign(source_id=ids, sha256=["1" * 64, "2" * 64, own]), folder / SPLIT)
    crops = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    write_store(folder / STORE, ids, crops, 1)
    metrics = folder / METRICS.parent
    write_json({"images": 3, "quarantined": 1}, metrics / "crop.json")
    images = {"train": {"b": 900, "a": 300, "c": 34}, "test": {"b": 5, "a": 6, "c": 7}}
    write_json({"images": images, "groups": {"train": 77, "test": 8}}, metrics / "split.json")
    audit = dict.fromkeys(("pairs_bytes", "pairs_pixels", "pairs_near", "label_conflicts", "quarantined"), 2)
    write_json(audit | {"policy": "regroup", "shortcuts": 1, "may_leak": False}, metrics / "audit.json")
    members = {"cnn3": SCORES | {"accuracy": 0.5}, "cnn": SCORES}
    votes: dict[str, Any] = {"members": members, "votes": {"heading": SCORES | {"accuracy": 0.8125, "images": 4321}}}
    write_json(votes, metrics / "votes.json")
    votes["votes"]["heading"]["accuracy"] = 0.78125
    write_json(votes, metrics / "test/votes.json")


@pytest.fixture
def study(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(built, tmp_path / "study")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_package_predicts_as_its_study_does(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last byte, by every vote, in a folder that is no study."""
    done = run("export", "../panel.zip")
    assert done.exit_code == 0, done.output
    assert "2 model files, " in done.output
    assert "Use it anywhere: tumorboard predict --panel panel.zip IMAGES" in done.output
    images = str(study / "new")
    assert run("predict", images, "--out", "../heading.csv").exit_code == 1  # large.png is above the study's limit
    for vote in VOTES:
        assert run("predict", images, "--vote", vote, "--out", f"../{vote}.csv").exit_code == 1
    monkeypatch.chdir(study.parent / "elsewhere")
    shutil.rmtree(study / "models")
    assert run("predict", images, "--panel", "../panel.zip", "--out", "heading.csv").exit_code == 1
    assert Path("heading.csv").read_bytes() == Path("../heading.csv").read_bytes()
    for vote in VOTES:
        done = run("predict", images, "--panel", "../panel.zip", "--vote", vote, "--out", f"{vote}.csv")
        assert f"by 2 models, {vote} vote: " in done.stderr
        assert Path(f"{vote}.csv").read_bytes() == Path(f"../{vote}.csv").read_bytes()
    assert Path("heading.csv").read_bytes() == Path("weighted.csv").read_bytes()
    table = pd.read_csv("heading.csv", keep_default_na=False)
    assert table["known"].tolist() == ["", "", "test", "", ""]
    assert table["problem"].str.startswith("too many pixels").tolist() == [False] * 4 + [True]
    assert (table["unlike"][:4] != "").all()


def test_equal_studies_give_equal_packages_that_name_no_image(study: Path) -> None:
    assert run("export", "../a.zip").exit_code == 0
    (study / "params.yaml").touch()
    assert run("export", "../b.zip").exit_code == 0
    content = Path("../a.zip").read_bytes()
    assert content == Path("../b.zip").read_bytes()
    assert str(study.parent).encode() not in content
    with zipfile.ZipFile("../a.zip") as file:
        known = file.read("known.csv").decode().splitlines()
        assert known[:3] == ["sha256,split", "1" * 64 + ",train", "2" * 64 + ",train"]
        assert file.read("models/cnn/1.safetensors") == Path("models/cnn/1.safetensors").read_bytes()
        assert json.loads(file.read("preprocessing.json"))["crop"]["max_pixels"] == 4000


@pytest.mark.usefixtures("study")
def test_a_params_yaml_that_was_edited_changes_limits_and_decision_but_not_the_crop() -> None:
    """The networks are for 32 pixels; only what needs no training comes from params.yaml."""
    tree = read_yaml(Path("params.yaml"))
    tree["crop"] |= {"side": 96, "border": False, "max_bytes": 123456}
    tree["data"]["frames"], tree["evaluate"]["abstain"] = "middle", 0.25
    Path("params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert run("export", "../panel.zip").exit_code == 0
    with zipfile.ZipFile("../panel.zip") as file:
        packed = json.loads(file.read("preprocessing.json"))
        card = json.loads(file.read("models/cnn/1.json"))
        readme = file.read("README.md").decode()
    assert packed["crop"] == card["crop"] | {"max_bytes": 123456, "max_pixels": 4000}
    assert (packed["crop"]["side"], packed["crop"]["border"]) == (32, True)
    assert (packed["abstain"], packed["frames"]) == (0.25, "middle")
    assert "one picture of 32 × 32 pixels" in readme
    assert "Scale it to 32 pixels" in readme
    assert "96" not in readme.split("## Preprocessing")[1].split("## From")[0]
    assert "more than 123,456 bytes or 4,000 pixels" in readme
    assert "take the middle one" in readme
    assert "Below a probability of 0.25 nothing is decided." in readme
    assert "are those of the study's params.yaml at export" in readme


@pytest.mark.usefixtures("study")
def test_the_cards_have_the_numbers_of_the_run() -> None:
    assert run("export", "../panel.zip").exit_code == 0
    with zipfile.ZipFile("../panel.zip") as file:
        card, member, readme = (file.read(name).decode() for name in ("MODEL_CARD.md", "cards/cnn.md", "README.md"))
    for text in (card, member, readme):
        assert "For research, not for diagnosis." in text
    assert "| training and validation | 1,234 | 77 | 900 | 300 | 34 |" in card
    assert "| test | 18 | 8 | 5 | 6 | 7 |" in card
    row = "75.0\N{NO-BREAK SPACE}% (62.5\N{NO-BREAK SPACE}% to 87.5\N{NO-BREAK SPACE}%)"
    assert card.count(f"| cnn | {row} | 70.0\N{NO-BREAK SPACE}% | 0.810 (0.700 to 0.900) |  | 0.90 |") == 2
    assert member.count(f"| cnn | {row}") == 2
    validation, test = card.split("Validation images:")[1].split("Test images:")
    assert "| **weighted vote** | 81.2" in validation
    assert "| **weighted vote** | 78.1" in test
    assert "Validation: 4,321 images" in card
    assert "1 facts of the files" in card
    assert "cnn: drawn at random, so that no weights of others are in it." in card
    assert "1 | models/cnn/1.safetensors | 1 |" in member
    assert "cnn3: T = 2" in readme
    assert "weighted mean of the members' probabilities: cnn3 0.3, cnn 0.7. Then softmax(log(p) / 1.5)." in readme
    assert "more than 500,000,000 bytes or 4,000 pixels" in readme


@pytest.mark.usefixtures("study")
def test_an_unscored_test_part_is_said_and_not_read() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("\n  test: true", "\n  test: false"), encoding="utf-8")
    shutil.rmtree("metrics/test")
    done = run("export", "../panel.zip")
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile("../panel.zip") as file:
        card = file.read("MODEL_CARD.md").decode()
    assert "The test part was not scored (`evaluate.test: false`)." in card
    assert "Test images:" not in card


@pytest.mark.usefixtures("study")
def test_onnx_files_are_checked_on_the_folds_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are right is in tests/panel/test_onnx.py."""
    compared = []

    def compare(trained: TrainedModel, file: Path, crops: np.ndarray) -> float:
        compared.append(crops)
        assert file.read_bytes() == trained.card.name.encode()
        return 0.00003

    def write(trained: TrainedModel, file: Path) -> None:
        file.write_bytes(trained.card.name.encode())

    monkeypatch.setattr(onnx_export, "export_onnx", write)
    monkeypatch.setattr(onnx_export, "largest_difference", compare)
    done = run("export", "../panel.zip", "--onnx")
    assert done.exit_code == 0, done.output
    assert "cnn/1: onnxruntime differs from torch by at most 3.0e-05 on 2 validation images\n" in done.output
    for crops in compared:
        np.testing.assert_array_equal(crops, CropStore(STORE)[["o", "p"]])
    with zipfile.ZipFile("../panel.zip") as file:
        assert file.read("onnx/cnn3/1.onnx") == b"cnn3"
        readme = file.read("README.md").decode()
        manifest = json.loads(file.read("manifest.json"))
    assert [one["onnx"] for one in manifest["models"]] == ["onnx/cnn3/1.onnx", "onnx/cnn/1.onnx"]
    assert "compared with torch's on 2 validation images" in readme
    assert "| cnn3/1 | 3.0e-05 |" in readme
    assert "pip install 'tumorboard[predict]'" in readme
    shutil.rmtree(STORE)
    assert run("export", "../panel.zip", "--onnx", "--force").exit_code == 0
    assert [len(crops) for crops in compared] == [2, 2, 32, 32]


@pytest.mark.usefixtures("study")
def test_the_printed_command_quotes_the_name_of_the_package() -> None:
    done = run("export", "../my panel's.zip")
    assert """Use it anywhere: tumorboard predict --panel 'my panel'"'"'s.zip' IMAGES""" in done.output


def test_a_vote_with_columns_is_exported_with_a_command_that_works(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed command and that of the README, in a folder that is no study."""
    columns = (Column("age", (), 50.0, 10.0), Column("sex", ("F", "M"), None, None))
    stacking = Stacking(coefficients=((0.0,) * 11,) * 3, intercepts=(0.0, 0.0, 0.0), penalty=1.0, columns=columns)
    by_model = {"temperatures": {"cnn3": 2.0, "cnn": 0.5}, "weights": {"cnn3": 0.3, "cnn": 0.7}}
    fit = Fit(**(FIT.to_json() | by_model | {"vote": "stacking", "stacking": stacking}))
    write_panel(PANEL, fit, classes=CLASSES, manifest=DIGEST, positive=None)
    done = run("export", "../elsewhere/panel.zip")
    assert done.exit_code == 0, done.output
    *_, command, table = done.stdout.splitlines()
    assert command == "Use it anywhere: tumorboard predict --panel panel.zip IMAGES --columns TABLE.csv"
    assert table == ("TABLE.csv needs one row per image and the columns path, age, sex: the stacking vote uses them")
    (study / "new/large.png").unlink()
    rows = [f"{number}.png,60,{'female' if number else 'F'}" for number in range(4)]
    (study / "new/TABLE.csv").write_text("\n".join(["path,age,sex", *rows]), encoding="utf-8")
    monkeypatch.chdir(study.parent / "elsewhere")
    with zipfile.ZipFile("panel.zip") as file:
        assert " --columns TABLE.csv --out new.csv" in file.read("README.md").decode()
        assert "The vote uses age (a number; mean 50, " in file.read("MODEL_CARD.md").decode()
    images = [str(study / f"new/{number}.png") for number in range(4)]
    words = command.partition("tumorboard ")[2].replace("TABLE.csv", str(study / "new/TABLE.csv")).split(" ")
    done = run(*[image for word in words for image in (images if word == "IMAGES" else [word])])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith(f"--columns: sex of 3 images, the first {images[1]}: 'female' is none of F, M, the")


def fails(message: str, *words: str) -> None:
    done = run(*words)
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.splitlines()) == 1


def test_mistakes_are_one_message_each(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there.zip").write_bytes(b"mine")
    fails("export: there.zip: exists: name another file, or replace it with --force", "export", "there.zip")
    assert Path("there.zip").read_bytes() == b"mine"
    assert run("export", "there.zip", "--force").exit_code == 0
    fails("new: is a folder", "export", "new", "--force")
    for name in ("params.yaml", "models/panel.json", "models/cnn/1.safetensors", "recipes/cnn.json"):
        before = Path(name).read_bytes()
        fails(f"export: {name}: is a file that this command reads: name another one", "export", name, "--force")
        assert Path(name).read_bytes() == before
    fails("panel_of_nobody.zip: no such file", "predict", "new", "--panel", "panel_of_nobody.zip")
    fails("name one of them", "predict", "new", "--panel", "there.zip", "--model", "models/cnn/1.safetensors")
    fails("is no whole zip file", "predict", "new", "--panel", "models/cnn/1.safetensors")
    fails("--vote is 'loud'", "predict", "new", "--panel", "there.zip", "--vote", "loud")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    fails("--onnx needs the package onnxscript: pip install 'tumorboard[onnx]'", "export", "b.zip", "--onnx")
    monkeypatch.setattr(panel_source, "find_spec", lambda _: None)
    fails("models/cnn3/1.safetensors: needs torch", "predict", "new", "--panel", "there.zip")
    (study / METRICS.parent / "audit.json").unlink()
    fails("metrics/audit.json: no such file", "export", "b.zip")
    (study / UNLIKE / "cnn/1.safetensors").unlink()
    fails("predictions/unlike/cnn/1.safetensors: is not there", "export", "b.zip")
    Path("models/cnn/1.safetensors").unlink()
    fails("models/cnn/1.safetensors is not there: `dvc repro` trains it", "export", "b.zip")
    monkeypatch.chdir(study.parent / "elsewhere")
    fails("Change into the folder of a trained study (`tumorboard new` makes one)\n", "export", "b.zip")
    assert not Path("b.zip").exists()
    assert not (study / "b.zip").exists()


def test_models_of_another_run_than_the_scores_are_not_packed(study: Path) -> None:
    """As `git stash` or `git checkout` without `dvc checkout` leave them: the metrics are git's, the models DVC's."""

    def lock(panel: bytes) -> None:
        digest = md5(panel, usedforsecurity=False).hexdigest()
        entry = {"path": PANEL.as_posix(), "hash": "md5", "md5": digest, "size": len(panel)}
        tree = {"schema": "2.0", "stages": {"ensemble": {"cmd": "x", "outs": [entry]}}}
        (study / "dvc.lock").write_text(yaml.safe_dump(tree), encoding="utf-8")

    own = (study / PANEL).read_bytes()
    lock(own)
    assert run("export", "whole.zip").exit_code == 0
    assert "not as in dvc.lock" not in run("predict", "new/0.png").stderr
    lock(own.replace(b"0", b"1"))
    fails("scores of the model cards may be another panel's: models/panel.json: not as in dvc.lock", "export", "b.zip")
    assert not Path("b.zip").exists()
    warning = "warning: the panel is not the one of this commit: models/panel.json: not as in dvc.lock"
    assert warning in run("predict", "new/0.png").stderr
    assert warning not in run("predict", "new/0.png", "--panel", "whole.zip").stderr
    (study / SPLIT).unlink()
    assert "so that no file is marked as known" in run("predict", "new/0.png").stderr


def test_code_of_the_study_is_not_packed(study: Path) -> None:
    """A study's own network is named, and nothing is written."""
    (study / "architectures").mkdir()
    code = """
from torch import nn


def net(side):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 4))
"""
    (study / "architectures/own.py").write_text(code)
    name = "architectures.own:net"
    _, card = load_model("models/cnn/1.safetensors", "cpu")
    recipe = card.recipe.model_copy(update={"architecture": name})
    network = build_model(recipe, 3, 32, (card.mean, card.std))
    card = card.model_copy(update={"recipe": recipe, "versions": {name: study_digest(name)}})
    Path("models/cnn/1.safetensors").unlink()
    save_model("models/cnn/1.safetensors", network, card)
    save_unlike(made_up_statistics(4), UNLIKE / "cnn/1.safetensors")
    fails(f"models/cnn/1.safetensors: its network, {name}, is code of this study", "export", "../panel.zip")
    assert not Path("../panel.zip").exists()
