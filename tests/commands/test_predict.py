"""The command `predict`: its table, its exit status, and the project's own panel."""

import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.panel.statistics import made_up_statistics
from tests.warm_python import executable
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.commands.app import app
from tumorboard.commands.panel_source import PanelSource
from tumorboard.commands.paths import MODELS, PANEL, SPLIT, UNLIKE
from tumorboard.data import workers
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.registry import build_model
from tumorboard.panel.fitted import Fit
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.stacking import Column, Stacking
from tumorboard.panel.unlike import save_unlike

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
        "path", "decided", "probability", "agreeing", "p_b", "p_a", "p_c", "threshold", "unlike", "known", "problem",
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


def save_study(files: list[Path], own: Path, threshold: float | None = None) -> Fit:
    """Writes what a study has beside its models: the panel's file, the split, the statistics of training images."""
    fit = Fit(
        vote="weighted",
        temperatures={"linear": 2.0, "cnn": 0.5},
        weights={"linear": 0.1, "cnn": 0.9},
        vote_temperatures={"soft": 3.0, "product": 1.0, "weighted": 1.5},
        threshold=threshold,
    )
    write_panel(PANEL, fit, classes=CLASSES, manifest=DIGEST, positive=None, unlike=1.5)
    manifest = pd.DataFrame({"id": ["o", "p"], "path": ["o", "p"], "label": ["a", "b"], "group": ["g", "h"]})
    manifest = manifest.assign(split="test", fold=pd.array([None, None], dtype="Int64"), source_id=manifest["id"])
    write_table(manifest.assign(sha256=[sha256(own.read_bytes()).hexdigest(), "1"]), SPLIT)
    for file in files:
        features = load_model(file, "cpu")[0].head.in_features
        save_unlike(made_up_statistics(features), UNLIKE / file.parent.name / f"{file.stem}.safetensors")
    return fit


def test_without_model_files_the_projects_panel_votes_as_it_was_fitted(files: list[Path], tmp_path: Path) -> None:
    """Temperatures and weights are the study's, and files of the study's own data are marked."""
    own = tmp_path / "new/deeper/03, é.png"
    fit = save_study(files, own)

    def table(*options: str, vote: str, models: int = 2) -> pd.DataFrame:
        done = CliRunner().invoke(app, ["predict", "new/deeper", *options, "--out", "table.csv", "--force"])
        assert done.exit_code == 0, done.output
        assert f"by {models} models, {vote} vote: " in done.stderr
        return pd.read_csv("table.csv", keep_default_na=False)

    heading = table(vote="weighted")
    assert heading["known"].tolist() == ["test" if number == 3 else "" for number in range(11)]
    assert heading["unlike"].astype(float).notna().all()
    columns = ["p_b", "p_a", "p_c"]
    named_vote = table("--vote", "weighted", vote="weighted")
    pd.testing.assert_frame_equal(named_vote, heading)
    each = {file: table("--model", str(file), vote="soft", models=1)[columns].to_numpy() for file in files}
    tempered = [
        (each[files[2 * number]] ** (1 / t), each[files[2 * number + 1]] ** (1 / t))
        for number, t in enumerate(fit.temperatures.values())
    ]
    linear, cnn = (sum(fold / fold.sum(1, keepdims=True) for fold in folds) / 2 for folds in tempered)
    weighted = (0.1 * linear + 0.9 * cnn) ** (1 / 1.5)
    np.testing.assert_allclose(heading[columns], weighted / weighted.sum(1, keepdims=True), rtol=1e-5)
    soft = (linear + cnn) ** (1 / 3)
    np.testing.assert_allclose(
        table("--vote", "soft", vote="soft")[columns], soft / soft.sum(1, keepdims=True), rtol=1e-5
    )
    by_others = table(*named(files), vote="soft")
    assert (by_others["known"] == "").all(), "other models may have other data"
    assert (by_others["unlike"] == "").all(), "nothing was fitted for them"
    plain = sum(each.values()) / 4
    np.testing.assert_allclose(by_others[columns], plain, rtol=1e-5)


def test_an_image_below_the_least_probability_of_params_is_left_undecided(files: list[Path]) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub("abstain: 0.0", "abstain: 0.999", text), encoding="utf-8")
    done = CliRunner().invoke(app, ["predict", "new/deeper", *named(files), "--out", "new.csv"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv("new.csv", keep_default_na=False)
    assert ((table["decided"] == "") == (table["probability"] < 0.999)).all()
    assert f"undecided {(table['decided'] == '').sum()}" in done.stderr


def test_a_study_whose_panel_file_is_missing_or_of_other_models_is_one_message(
    files: list[Path], tmp_path: Path
) -> None:
    save_study(files, tmp_path / "new/deeper/03, é.png")

    def fails(message: str) -> None:
        done = CliRunner().invoke(app, ["predict", "new/deeper", "--out", "new.csv"])
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert message in done.stderr
        assert not Path("new.csv").exists()

    content = PANEL.read_text(encoding="utf-8")
    PANEL.write_text(content.replace(DIGEST, "1" * 16), encoding="utf-8")
    fails("predict: models/panel.json: was fitted for other manifest than the models have: run `dvc repro ensemble`")
    PANEL.write_text(content.replace('"cnn"', '"vgg"'), encoding="utf-8")
    fails("predict: models/panel.json: was fitted for linear, vgg, but the panel has linear, cnn: run")
    PANEL.unlink()
    fails("predict: models/panel.json: is not there: `dvc repro ensemble` writes it, `dvc pull` fetches it")


def run_program(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command in a process of its own, whose streams have an encoding."""
    command = [executable(), "-m", "tumorboard.commands.app", *arguments]
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
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
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


def test_a_cluster_decodes_where_it_is_named_and_the_table_is_the_same(files: list[Path], cluster: Any) -> None:
    """Two worker processes, which began in another folder; named by an option, then by params.yaml."""
    here = CliRunner().invoke(app, ["predict", "new", *named(files)])
    address = cluster.scheduler_address
    there = CliRunner().invoke(app, ["predict", "new", *named(files), "--scheduler", address])
    assert (there.exit_code, there.stdout) == (1, here.stdout), there.stderr
    assert len(here.stdout.splitlines()) == 1 + 12
    text = Path("params.yaml").read_text(encoding="utf-8").replace("\n  scheduler:", "\n  scheduler: tcp://no.where:1")
    Path("params.yaml").write_text(text, encoding="utf-8")
    asked = []

    def connected(scheduler: str) -> Any:
        asked.append(scheduler)
        raise InputError(f"no Dask scheduler answers at {scheduler}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_connect", connected)
        done = CliRunner().invoke(app, ["predict", "new", *named(files), "--out", "new.csv"])
    assert (done.exit_code, done.stderr) == (1, "predict: no Dask scheduler answers at tcp://no.where:1\n")
    assert asked == ["tcp://no.where:1"]
    assert not Path("new.csv").exists()


@pytest.mark.parametrize("options", [[], ["--vote", "hard"]])
def test_pictures_of_a_panel_without_maps_are_refused_before_anything_is_classified(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(PanelSource, "predict", lambda *_: pytest.fail("it was classified"))
    command = ["predict", "new", *named(files[:2]), *options, "--explain", "maps", "--out", "new.csv"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.startswith(
        f"predict: --explain: the {(options or ['soft'])[-1]} vote has no map of its evidence"
    )
    assert "linear: architecture linear has no layer" in done.stderr
    assert done.stderr.endswith("name other models (--model), or leave --explain out\n")
    assert not Path("maps").exists()
    assert not Path("new.csv").exists()


def test_mistakes_are_one_message_each(files: list[Path]) -> None:
    files[2].unlink()
    for arguments, message in (
        (["new", "--vote", "loud"], "predict: --vote is 'loud', expected one of single, hard, soft, product, weighted"),
        (["new"], "predict: models/cnn/0.safetensors is not there: `dvc repro` trains it, `dvc pull` fetches it"),
        (["nowhere", *named(files)], "predict: nowhere: no such file"),
        (
            ["new", *named(files[:1]), "--scheduler", "here"],
            "predict: runtime.scheduler (or --scheduler): 'here' is no address, such as tcp://host:8786",
        ),
        (
            ["new", *named(files[:1]), "--vote", "weighted"],
            "predict: the weighted vote needs the weights of a study's models/panel.json",
        ),
    ):
        done = CliRunner().invoke(app, ["predict", *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(message)


def test_a_panel_that_votes_by_columns_takes_them_from_a_table(files: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "new/deeper/03, é.png"
    save_study(files, own)
    fit = Fit(
        vote="stacking",
        temperatures={"linear": 2.0, "cnn": 0.5},
        weights={"linear": 0.1, "cnn": 0.9},
        vote_temperatures={},
        single="cnn",
        stacking=Stacking(
            coefficients=((0.0,) * 8, (0.0,) * 6 + (5.0, 0.0), (0.0,) * 6 + (-5.0, 0.0)),
            intercepts=(0.0, 0.0, 0.0),
            penalty=1.0,
            columns=(Column("age", (), 50.0, 10.0),),
        ),
    )
    write_panel(PANEL, fit, classes=CLASSES, manifest=DIGEST, positive=None, unlike=1.5)
    paths = sorted((tmp_path / "new/deeper").iterdir())
    rows = [f'"{path.relative_to(tmp_path)}",{70 if number % 2 else 30}' for number, path in enumerate(paths)]
    Path("ages.csv").write_text("\n".join(["path,age", *rows]), encoding="utf-8")

    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["predict", "new/deeper", *options, "--out", "table.csv"])

    for options, message in (
        (
            (),
            "predict: the stacking vote needs age of each image: name a table with the columns path, age: --columns",
        ),
        (("--columns", "nowhere.csv"), "predict: nowhere.csv"),
        (("--columns", "ages.csv", "--vote", "soft"), "predict: --columns: the soft vote uses no columns of a table"),
    ):
        done = run(*options)
        assert (done.exit_code, done.stderr.splitlines()[0].startswith(message)) == (1, True), done.stderr
        assert not Path("table.csv").exists()
    done = run("--columns", "ages.csv")
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv("table.csv").set_index("path")
    decided = [table.loc[str(path.relative_to(tmp_path)), "decided"] for path in paths]
    assert decided == [CLASSES[1] if number % 2 else CLASSES[2] for number in range(len(paths))]
    assert "--columns: " not in done.stderr
    Path("table.csv").unlink()
    Path("ages.csv").write_text("\n".join(["path,age", *rows]).replace(",70", ",4000"), encoding="utf-8")
    done = run("--columns", "ages.csv")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines()[0] == (
        "--columns: age of 5 images, the first new/deeper/01, é.png: 4000 is more than 6 standard deviations from the "
        "mean of the training table's numbers that the vote was fitted on (mean 50, standard deviation 10); it is used "
        "as it is"
    )


@pytest.mark.parametrize("options", [["--submission", "id,a"], ["--like", "sample.csv"]])
def test_the_hard_vote_has_no_probabilities_for_a_competition(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    names = sorted(path.stem for path in Path("new/deeper").iterdir())
    Path("sample.csv").write_text("\n".join(["id,a", *(f'"{name}",0' for name in names)]), encoding="utf-8")
    command = ["predict", "new/deeper", *named(files), "--out", "new.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(PanelSource, "predict", lambda *_: pytest.fail("it was classified"))
        done = CliRunner().invoke(app, [*command, *options, "--vote", "hard"])
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.startswith("predict: the competition's column 'a' is to hold probabilities, but the hard vote")
    assert not Path("new.csv").exists()
    done = CliRunner().invoke(app, [*command, *options, "--vote", "soft"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [*command, "--submission", "id,label", "--vote", "hard", "--force"])
    assert done.exit_code == 0, done.output


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
    assert done.stderr == (
        f"predict: {tmp_path} is no study: it has no params.yaml, and thus no panel. Change into the folder of a "
        "trained study (`tumorboard new` makes one), or name what it exported: --panel FILE; or model files: --model "
        "FILE (repeatable)\n"
    )
    serve = CliRunner().invoke(app, ["serve"])
    assert (serve.exit_code, serve.stderr) == (1, done.stderr.replace("predict: ", "serve: ", 1))


def test_explain_writes_a_picture_per_classified_file(files: list[Path]) -> None:
    done = CliRunner().invoke(app, ["predict", "new", *named(files), "--out", "new.csv", "--explain", "maps"])
    assert done.exit_code == 1, done.output  # notes.txt was not classified
    table = pd.read_csv("new.csv")
    usable = table.index[table["problem"].isna()]
    pictures = sorted(path.name for path in Path("maps").iterdir())
    assert len(pictures) == 11
    assert pictures == [f"{row + 1:05d}_{Path(table['path'][row]).stem}.png" for row in usable]
    with Image.open(Path("maps") / pictures[0]) as picture:
        assert picture.format == "PNG"
    again = CliRunner().invoke(
        app, ["predict", "new", *named(files), "--out", "new.csv", "--explain", "maps", "--force"]
    )
    assert again.exit_code == 1
    assert "--explain maps: is not an empty folder: name a new one" in again.stderr


def test_a_panel_without_any_map_says_why(files: list[Path]) -> None:
    linear = named([path for path in files if "linear" in path.parts])
    done = CliRunner().invoke(app, ["predict", *linear, "new", "--out", "new.csv", "--explain", "maps"])
    assert done.exit_code == 1
    assert "architecture linear has no layer that keeps the places of the image" in done.stderr
    assert not Path("maps").exists()


def test_the_table_replaces_another_file_only_by_force(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("notes.csv").write_text("mine")
    command = ["predict", "new/deeper", *named(files[:1]), "--out"]
    with monkeypatch.context() as patch:
        patch.setattr(PanelSource, "predict", lambda *_: pytest.fail("it was classified"))
        done = CliRunner().invoke(app, [*command, "notes.csv"])
        assert (done.exit_code, done.stdout) == (1, "")
        expected = "predict: --out notes.csv: exists: name another file, or replace it with --force\n"
        assert done.stderr == expected
        assert Path("notes.csv").read_text() == "mine"
        os.mkfifo(tmp_path / "pipe")
        done = CliRunner().invoke(app, [*command, "pipe", "--force"])
        assert (done.exit_code, done.stderr) == (1, "predict: --out pipe: is no ordinary file: name another one\n")
    done = CliRunner().invoke(app, [*command, "notes.csv", "--force"])
    assert done.exit_code == 0, done.output
    assert Path("notes.csv").read_text(encoding="utf-8").startswith("path,decided,")


def test_the_table_replaces_no_file_that_is_read(files: list[Path]) -> None:
    image = next(path for path in Path("new").rglob("*") if path.suffix in (".jpg", ".png"))
    before = image.read_bytes()
    done = CliRunner().invoke(app, ["predict", str(image), *named(files), "--out", str(image), "--force"])
    assert done.exit_code == 1
    assert "is a file that this command reads: name another one" in done.stderr
    assert image.read_bytes() == before


def test_the_table_replaces_no_file_of_the_studys_panel(files: list[Path], tmp_path: Path) -> None:
    save_study(files, tmp_path / "new/deeper/03, é.png")
    for name in (Path("params.yaml"), PANEL, SPLIT, files[0].relative_to(tmp_path), UNLIKE / "cnn/0.safetensors"):
        before = name.read_bytes()
        done = CliRunner().invoke(app, ["predict", "new/deeper", "--out", str(name), "--force"])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == f"predict: --out {name}: is a file that this command reads: name another one\n"
        assert name.read_bytes() == before


def test_a_link_is_not_replaced(files: list[Path], tmp_path: Path) -> None:
    """Such as /dev/stdout, which leads to a file where the output is redirected."""
    (tmp_path / "there.csv").write_text("mine")
    for link, target in (("link.csv", "there.csv"), ("broken.csv", "nowhere.csv")):
        Path(link).symlink_to(target)
        command = ["predict", "new/deeper", *named(files[:1]), "--out", link, "--force"]
        done = CliRunner().invoke(app, command)
        message = f"predict: --out {link}: is a link, which the file would replace: name another one\n"
        assert (done.exit_code, done.stderr) == (1, message)
        assert Path(link).readlink() == Path(target)


def test_a_folder_for_maps_that_cannot_be_made_is_named_before_anything_is_classified(files: list[Path]) -> None:
    Path("file").write_text("")
    done = CliRunner().invoke(app, ["predict", "new", *named(files), "--out", "new.csv", "--explain", "file/maps"])
    assert done.exit_code == 1
    assert "--explain file/maps: cannot be made: Not a directory" in done.stderr
    assert not Path("new.csv").exists()
