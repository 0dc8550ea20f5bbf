"""The command `predict`: its table, its exit status, and the project's own panel."""

import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from tumorboard.base.files import write_table
from tumorboard.base.params import Params, resolve_recipe
from tumorboard.base.tables import make_predictions
from tumorboard.commands.app import app
from tumorboard.commands.paths import JOINED, MODELS, SPLIT
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.registry import build_model

ROOT = Path(__file__).parents[2]
CLASSES = ("b", "a", "c")
MEAN_STD = ((0.5, 0.5, 0.5), (0.05, 0.05, 0.05))  # lets untrained networks decide differently
DIGEST = "0" * 16


def save(folder: Path, params: Params, name: str, fold: int, seed: int) -> Path:
    """Writes an untrained network to the path that a run would use."""
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": name, "precision": "off", "seed": seed})
    model = build_model(recipe, len(CLASSES), 32, MEAN_STD)
    card = ModelCard(
        name=name,
        classes=CLASSES,
        fold=fold,
        crop=params.crop,
        mean=MEAN_STD[0],
        std=MEAN_STD[1],
        recipe=recipe,
        manifest=DIGEST,
        parameters=1,
        epoch=1,
        score={},
        versions={},
        seed=seed,
    )
    file = folder / MODELS / name / f"{fold}.safetensors"
    save_model(file, model, card)
    return file


@pytest.fixture
def files(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folds of two models, the panel that params.yaml in the current folder lists, and twelve files in `new`."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key, value in (("models: ", "[linear, cnn]"), ("folds: ", "[0, 1]")):
        lines = [f"{key}{value}" if line.startswith(key) else line for line in text.splitlines()]
        text = "\n".join(lines)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    for number in range(11):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        (tmp_path / "new/deeper").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"new/deeper/{number:02d}, é.png")
    (tmp_path / "new/notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return [
        save(tmp_path, params, name, fold, seed)
        for name, fold, seed in (("linear", 0, 1), ("linear", 1, 2), ("cnn", 0, 3), ("cnn", 1, 4))
    ]


def named(files: list[Path]) -> list[str]:
    return [word for file in files for word in ("--model", str(file))]


def test_the_table_goes_to_a_file_or_to_standard_output(files: list[Path]) -> None:
    done = CliRunner().invoke(app, ["predict", "new/deeper", *named(files), "--out", "tables/new.csv"])
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert done.stderr.startswith("11 of 11 files classified by 2 models, soft vote: ")
    assert done.stderr.endswith("For research, not for diagnosis.\n")
    written = Path("tables/new.csv").read_text(encoding="utf-8")
    table = pd.read_csv("tables/new.csv", keep_default_na=False)
    assert list(table) == [
        "path", "decided", "probability", "agreeing", "p_b", "p_a", "p_c", "known", "problem",
    ]  # fmt: skip
    assert table["path"].tolist() == sorted(f"new/deeper/{path.name}" for path in Path("new/deeper").iterdir())
    done = CliRunner().invoke(app, ["predict", "new/deeper", *named(files)])
    assert (done.exit_code, done.stdout) == (0, written)


def test_a_file_that_was_not_classified_is_named_and_the_status_is_1(files: list[Path]) -> None:
    done = CliRunner().invoke(app, ["predict", "new", *named(files), "--vote", "hard"])
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1 + 12
    assert "11 of 12 files classified by 2 models, hard vote: " in done.stderr
    assert "not classified: new/notes.txt: not an image" in done.stderr


def test_without_model_files_the_projects_panel_votes_as_params_say(files: list[Path], tmp_path: Path) -> None:
    """The weights of the vote come from the run's validation rows, and files of the run's own data are marked."""
    own = tmp_path / "new/deeper/03, é.png"
    rows = pd.DataFrame({"id": [f"v{n}" for n in range(60)], "group": "g", "split": "val"})
    rows["label"] = [CLASSES[n % 3] for n in range(60)]
    for model, skill in (("linear", 0.1), ("cnn", 2.0)):
        logits = np.random.default_rng(0).normal(size=(60, 3)) + skill * np.eye(3)[np.arange(60) % 3]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        write_table(make_predictions(rows, shares, CLASSES, DIGEST), JOINED / f"{model}.csv")
    manifest = pd.DataFrame({"id": ["o", "p"], "path": ["o", "p"], "label": ["a", "b"], "group": ["g", "h"]})
    manifest = manifest.assign(split="test", fold=pd.array([None, None], dtype="Int64"), source_id=manifest["id"])
    write_table(manifest.assign(sha256=[sha256(own.read_bytes()).hexdigest(), "1"]), SPLIT)

    def tables(vote: str) -> pd.DataFrame:
        done = CliRunner().invoke(app, ["predict", "new/deeper", "--vote", vote, "--out", f"{vote}.csv"])
        assert done.exit_code == 0, done.output
        assert f"by 2 models, {vote} vote: " in done.stderr
        return pd.read_csv(f"{vote}.csv", keep_default_na=False)

    weighted, soft = tables("weighted"), tables("soft")
    assert weighted["known"].tolist() == ["test" if number == 3 else "" for number in range(11)]
    assert not np.allclose(weighted[["p_b", "p_a", "p_c"]], soft[["p_b", "p_a", "p_c"]], atol=1e-3)
    done = CliRunner().invoke(app, ["predict", "new/deeper"])
    assert "by 2 models, weighted vote: " in done.stderr  # ensemble.vote in params.yaml
    done = CliRunner().invoke(app, ["predict", str(own), *named(files)])
    assert done.stdout.splitlines()[1].endswith(",,")  # not known: other models may have other data


def run_program(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command in a process of its own, whose streams have an encoding."""
    command = [sys.executable, "-m", "tumorboard.commands.app", *arguments]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


def test_names_of_files_and_classes_are_no_formulas_for_a_spreadsheet(files: list[Path], tmp_path: Path) -> None:
    network, card = load_model(files[0], "cpu")
    names = ("=cmd|' /C calc'!A0", "+1", "normal")
    save_model(tmp_path / "evil.safetensors", network, card.model_copy(update={"classes": names}))
    source = next(path for path in Path("new/deeper").iterdir())
    given = ["=1+1.png", "+2.png", "-3.png", "@SUM(1).png", "\t=4.png", "\uff1d5.png", "plain.png", "a=b.png"]
    for name in given:
        Path(name).write_bytes(source.read_bytes())
    done = CliRunner().invoke(app, ["predict", "--model", "evil.safetensors", "--out", "new.csv", "--", *given])
    assert done.exit_code == 0, done.output
    table = pd.read_csv("new.csv", dtype=str)
    assert table["path"].tolist() == [f"./{name}" for name in given[:6]] + given[6:]
    assert all(Path(path).is_file() for path in table["path"])
    assert set(table["decided"]) <= {"'=cmd|' /C calc'!A0", "'+1", "normal"}
    texts = table[["path", "decided", "agreeing"]].to_numpy().ravel().tolist() + list(table)
    assert not [text for text in texts if text[0] in "=+-@\t\r"]


@pytest.mark.parametrize(
    "encoding",
    ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascii", "latin-1", "utf-16"))],
)
def test_the_table_is_utf_8_whatever_the_terminal_and_the_names_are(files: list[Path], encoding: str) -> None:
    source = next(path for path in Path("new/deeper").iterdir())
    raw = b"new/caf\xe9.png"  # not UTF-8
    given = [b"new/\xe8\x83\xb6.png", raw]  # a Chinese name
    for name in given:
        Path(os.fsdecode(name)).write_bytes(source.read_bytes())
    done = run_program("predict", "--model", str(files[0]), *given, PYTHONIOENCODING=encoding)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert [line.split(b",")[0] for line in done.stdout.splitlines()] == [b"path", *given]
    bad = run_program("predict", "--model", str(files[0]), b"caf\xe9 \xe8\x83\xb6.png", PYTHONIOENCODING=encoding)
    assert bad.returncode == 1
    assert b"Traceback" not in bad.stderr


def test_the_limits_of_the_study_hold_for_somebody_elses_model(files: list[Path], tmp_path: Path) -> None:
    network, card = load_model(files[0], "cpu")
    crop = card.crop.model_copy(update={"max_pixels": 10**15, "max_bytes": 10**15})
    save_model(tmp_path / "open.safetensors", network, card.model_copy(update={"crop": crop}))
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub("max_pixels: [0-9]+", "max_pixels: 2999", text), encoding="utf-8")
    done = CliRunner().invoke(app, ["predict", "new/deeper", "--model", "open.safetensors"])
    assert done.exit_code == 1
    assert "too many pixels" in done.stderr


def test_mistakes_are_one_message_each(files: list[Path]) -> None:
    files[2].unlink()
    for arguments, message in (
        (["new", "--vote", "loud"], "predict: --vote is 'loud', expected one of hard, soft, product, weighted"),
        (["new"], "predict: models/cnn/0.safetensors is not there: `dvc repro` trains it, `dvc pull` fetches it"),
        (["nowhere", *named(files)], "predict: nowhere: no such file"),
        (["new", *named(files[:1]), "--vote", "weighted"], "predict: the weighted vote needs a run's validation rows"),
    ):
        done = CliRunner().invoke(app, ["predict", *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(message)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_classified(
    files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_text("")
    for out, message in ((tmp_path, "is a folder: name a file"), (tmp_path / "a_file/new.csv", "cannot be written: ")):
        done = CliRunner().invoke(app, ["predict", "new", *named(files[:1]), "--out", str(out)])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"predict: {out}: {message}")
        assert len(done.stderr.splitlines()) == 1


def test_a_folder_without_a_study_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", "new"])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"predict: {tmp_path} is no study: it has no params.yaml")
    assert "--model FILE" in done.stderr
