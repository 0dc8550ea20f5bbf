"""The command `new`: the study it makes, that its pipeline is the package's, and what it refuses."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.commands.study_facts import FACTS
from tests.warm_python import search_path, spawn_warm_children
from tumorboard.base.errors import InputError
from tumorboard.base.params import load_params
from tumorboard.base.presets import PRESETS, explain_preset
from tumorboard.commands.app import app
from tumorboard.commands.new import check_positive, print_assumptions
from tumorboard.commands.new_folder import check_can_be_made
from tumorboard.commands.new_panel import panel_of
from tumorboard.commands.stage import write_lists, write_resolved
from tumorboard.data.check import Account

ROOT = Path(__file__).parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which git knows a name, without any repository around it."""
    home = tmp_path_factory.mktemp("new")
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "tests")
            patch.setenv(f"GIT_{role}_EMAIL", "tests@localhost")
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CEILING_DIRECTORIES", str(home))
        patch.setenv("COLUMNS", "200")
        patch.setattr("tumorboard.data.shortcuts.PERMUTATIONS", 1)
        spawn_warm_children(patch)
        yield home


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    """Two classes with ten patients each, three images per patient, and a table of them."""
    rng = np.random.default_rng(0)
    for number in range(60):
        file = folder / f"raw/{'blast' if number < 30 else 'normal'}/P{number // 3}_{number % 3}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
    return folder / "raw"


class Made(NamedTuple):
    """A study and what the command printed."""

    folder: Path
    done: Result


@pytest.fixture(scope="module")
def made(folder: Path, raw: Path) -> Made:
    """A study without any option."""
    before = {file: file.stat().st_mtime_ns for file in raw.rglob("*")}
    done = new(folder / "study", "--data", raw)
    assert done.exit_code == 0, done.output
    assert {file: file.stat().st_mtime_ns for file in raw.rglob("*")} == before
    return Made(folder / "study", done)


@pytest.fixture(scope="module")
def described(folder: Path, raw: Path) -> Path:
    """A study of a table, with all that can be said of it; the guess about groups is taken."""
    rows = "".join(f"{file.relative_to(raw).as_posix()},{file.parent.name}\n" for file in sorted(raw.rglob("*.png")))
    (raw / "mine.csv").write_text("path,label\n" + rows, encoding="utf-8")
    done = new(
        folder / "described",
        "--data",
        raw,
        "--labels",
        raw / "mine.csv",
        "--yes",
        "--positive",
        "blast",
        "--preset",
        "cells",
    )
    assert done.exit_code == 0, done.output
    return folder / "described"


def new(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["new", *map(str, words)])


def test_a_study_has_short_params_that_the_package_completes(made: Made, raw: Path) -> None:
    study = made.folder
    lines = (study / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if not line.startswith("#")]) < 30
    reason = next(row.reason for row in explain_preset("general") if row.key == "train.augment.vflip")
    assert f"#   train.augment.vflip: 0.0  # {reason}" in lines
    assert not any(line.startswith("#   balance.") for line in lines)
    params, defaults = load_params(study / "params.yaml"), load_params(ROOT / "params.yaml")
    assert (params.study, params.data.raw, params.preset) == ("study", str(raw), "general")
    assert params.models == ("resnet18", "efficientnet_lite0")
    assert (params.data.unit, params.data.positive, params.data.table) == (None, None, None)
    assert params.evaluate.subgroups == ()
    assert params.crop.side == PRESETS["general"].settings["crop.side"].value
    assert params.train.optimizer == defaults.train.optimizer
    assert params.recipes.keys() == defaults.recipes.keys()


def test_a_study_is_committed(made: Made) -> None:
    log, status = (
        subprocess.run(["git", *words], cwd=made.folder, capture_output=True, text=True, check=True).stdout
        for words in (["log", "--format=%s"], ["status", "--porcelain"])
    )
    assert log == "Begin the study\n"
    assert status == ""
    assert f"cd {made.folder}\n  dvc repro" in made.done.output
    assert "A run would accept this" in made.done.output


def test_the_pipeline_is_that_of_the_package(made: Made) -> None:
    study: dict[str, Any] = yaml.safe_load((made.folder / "dvc.yaml").read_text(encoding="utf-8"))
    assert set(study["stages"]) == set(PIPELINE["stages"]) - {"phantom"} | {"params"}
    assert study["plots"] == PIPELINE["plots"]
    for name in set(study["stages"]) - {"digest", "params"}:
        own, theirs = study["stages"][name], PIPELINE["stages"][name]
        assert own["cmd"] == theirs["cmd"].replace("python -m stages.", "python -m tumorboard.commands.stage ")
        assert own["deps"] == theirs["deps"]
        assert [path_of(out) for out in own["outs"]] == [path_of(out) for out in theirs["outs"]]
        assert [out for out in own["outs"] if out not in theirs["outs"]] == [
            path for path in map(path_of, theirs["outs"]) if path in ("plots/images", "plots/test")
        ]
        assert own.get("params") == ([{"resolved.yaml": theirs["params"]}] if "params" in theirs else None)


def path_of(output: Any) -> str:
    return output if isinstance(output, str) else str(next(iter(output)))


def test_no_picture_of_the_study_goes_into_git(made: Made) -> None:
    """What `git add -A` takes after a run: scores and curves, but neither sheets of images nor those of mistakes."""
    for name in ("plots/images/duplicates.png", "plots/test/mistakes.png", "plots/roc.csv"):
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / name).write_text("1")
    listed = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=made.folder, capture_output=True, text=True, check=True
    ).stdout
    shutil.rmtree(made.folder / "plots")
    assert listed == "?? plots/roc.csv\n"


def test_a_guessed_group_is_a_comment_until_it_is_confirmed(made: Made, described: Path) -> None:
    assert "The names look like 20 groups: blast/P0_0.png is of P0." in made.done.output
    text = (made.folder / "params.yaml").read_text(encoding="utf-8")
    assert load_params(made.folder / "params.yaml").data.group_pattern is None
    assert r'# group_pattern: "(?:^|/)([Pp]\\d+)[-_]"' in text
    confirmed = load_params(described / "params.yaml").data
    assert (confirmed.group_pattern, confirmed.unit) == (r"(?:^|/)([Pp]\d+)[-_]", "patient")


def test_what_is_assumed_is_printed_with_its_reason(made: Made) -> None:
    lines = [line.strip() for line in made.done.output.splitlines()]
    assert "classes       blast, normal, from the data itself" in lines
    assert "groups        60, one per image: no patients are known" in lines
    assert "data.unit     empty: nobody said what a group is (--unit)" in lines
    reason = PRESETS["general"].settings["crop.side"].reason
    assert f"crop.side     160: {reason}" in lines
    assert f"models        resnet18, efficientnet_lite0: {panel_of('general').reason}" in lines


def test_options_stand_in_params(described: Path) -> None:
    params = load_params(described / "params.yaml")
    assert (params.data.table, params.data.positive, params.preset) == ("mine.csv", "blast", "cells")
    assert params.models == ("cnn", "resnet18")
    assert params.crop.side == 64


def test_an_added_copy_is_kept_by_dvc_and_in_the_first_commit(folder: Path, raw: Path) -> None:
    before = {file.relative_to(raw): file.read_bytes() for file in raw.rglob("*") if file.is_file()}
    done = new(folder / "kept", "--data", raw, "--add")
    assert done.exit_code == 0, done.output
    said = f"datasets/raw is a copy, {len(before)} files, which DVC keeps. `dvc push` would upload them"
    assert said in done.stdout
    study = folder / "kept"
    assert load_params(study / "params.yaml").data.raw == "datasets/raw"
    tracked, status = (
        subprocess.run(["git", *words], cwd=study, capture_output=True, text=True, check=True).stdout.splitlines()
        for words in (("ls-tree", "-r", "--name-only", "HEAD"), ("status", "--porcelain"))
    )
    assert [name for name in tracked if name.startswith("datasets")] == ["datasets/.gitignore", "datasets/raw.dvc"]
    assert status == []
    shutil.rmtree(study / "datasets/raw")
    subprocess.run(
        ["dvc", "checkout", "--quiet", "datasets/raw"], cwd=study, env=os.environ | {"PATH": search_path()}, check=True
    )
    copied = study / "datasets/raw"
    assert {file.relative_to(copied): file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before


def test_lines_of_a_file_stand_in_params(folder: Path, raw: Path) -> None:
    rows = [f"{file.relative_to(raw).with_suffix('').as_posix()},{file.parent.name}" for file in raw.rglob("*.png")]
    (raw / "odd.csv").write_text("\n".join(["image,dx", *rows]), encoding="utf-8")
    lines = folder / "lines.yaml"
    lines.write_text(
        f"data:\n  raw: {raw}\n  table: odd.csv\n  columns: {{path: image, label: dx}}\n  extension: .png\n"
        "  classes: {blast: ill, normal: well}\n  group_pattern: '(P[0-9]+)_'\n  positive: ill\n"
        "preset: mri\nfolds: [1]\nmodels: [linear]\ncrop: {window: [0, 80]}\nevaluate: {test: false}\n",
        encoding="utf-8",
    )
    done = new(folder / "by_file", "--data", raw, "--params", lines, "--preset", "cells")
    assert done.exit_code == 0, done.output
    assert "20 groups" in done.output
    params = load_params(folder / "by_file/params.yaml")
    assert (params.data.raw, params.data.table, params.data.extension) == (str(raw), "odd.csv", ".png")
    assert params.data.columns is not None
    assert (params.data.columns.label, params.data.classes) == ("dx", {"blast": "ill", "normal": "well"})
    assert (params.data.positive, params.data.group_pattern) == ("ill", "(P[0-9]+)_")
    assert (params.preset, params.folds, params.models) == ("cells", (1,), ("linear",))
    assert "models " not in done.output  # the reader's own need no reason
    assert (params.crop.window, params.evaluate.test, params.evaluate.subgroups) == ((0, 80), False, ())


def test_columns_that_the_table_has_are_accepted(folder: Path, raw: Path) -> None:
    rows = [f"{file.relative_to(raw).as_posix()},{file.parent.name},f\n" for file in raw.rglob("*.png")]
    (raw / "sexes.csv").write_text("path,label,Sex\n" + "".join(rows), encoding="utf-8")
    lines = "data: {table: sexes.csv}\nevaluate: {subgroups: [Sex]}\nensemble: {stacking_columns: [Sex]}\n"
    (folder / "columns.yaml").write_text(lines, encoding="utf-8")
    done = new(folder / "columns", "--data", raw, "--params", folder / "columns.yaml")
    assert done.exit_code == 0, done.output
    params = load_params(folder / "columns/params.yaml")
    assert (params.evaluate.subgroups, params.ensemble.stacking_columns) == (("Sex",), ("Sex",))


@pytest.mark.parametrize(
    ("crop", "assumed"),
    [
        ("{side: 32, border: false}", []),
        ("{border: false}", ["crop.side     160"]),
        ("{side: 32, border: , window: [0, 80]}", ["crop.border   true"]),
    ],
)
def test_values_of_a_file_are_not_called_assumed(crop: str, assumed: list[str]) -> None:
    facts = replace(FACTS, lines=yaml.safe_load(f"crop: {crop}"))
    console = Console(record=True, width=200)
    print_assumptions(facts, Account(classes={"a": 1}), console)
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert [line.split(": ")[0] for line in lines if line.startswith("crop.")] == assumed


@pytest.mark.parametrize(
    ("grouped", "text"),
    [(True, "2, as the table or the files have them"), (False, "2, one per image: no patients are known")],
)
def test_groups_of_one_image_that_the_table_has_are_known(grouped: bool, text: str) -> None:
    console = Console(record=True, width=200)
    account = Account(classes={"a": 1, "b": 1}, accepted=["a/1.png", "b/1.png"], groups=2, grouped=grouped)
    print_assumptions(replace(FACTS, group_pattern=None), account, console)
    assert text in console.export_text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("data: {tabel: x}", "data.tabel: unknown key; did you mean table?"),
        ("data: x", "data: expected a mapping"),
        ("crop: {window: wide}", "crop.window: is 'wide'"),
        ("data: {raw: /etc}", "data.raw is /etc, but --data is "),
        ("evaluate: {subgroups: [sex]}", "evaluate.subgroups: the data has no column 'sex' beside path, label"),
        ("data: {table: sexes.csv}\nevaluate: {subgroups: [Sex, Sec]}", "no column 'Sec'; did you mean Sex?"),
        (
            "data: {table: sexes.csv}\nensemble: {stacking_columns: [Sex, Sec]}",
            "wrong.yaml: ensemble.stacking_columns: the data has no column 'Sec'; did you mean Sex?",
        ),
        (
            "data: {table: sexes.csv}\nsplit: {leave_out: Sec}",
            "wrong.yaml: split.leave_out: the data has no column 'Sec'; did you mean Sex?",
        ),
        ("recipes: {cn: {lr: 0.5}}", "wrong.yaml: recipes.cn: there is no such recipe, and an own one needs an "),
        ("crop:", "wrong.yaml: crop: is empty: give it keys, or delete the line"),
    ],
)
def test_a_wrong_line_is_named(lines: str, message: str, folder: Path, raw: Path) -> None:
    (folder / "wrong.yaml").write_text(lines, encoding="utf-8")
    rows = [f"{file.relative_to(raw).as_posix()},{file.parent.name},f\n" for file in raw.rglob("*.png")]
    (raw / "sexes.csv").write_text("path,label,Sex\n" + "".join(rows), encoding="utf-8")
    done = new(folder / "d", "--data", raw, "--params", folder / "wrong.yaml")
    assert (done.exit_code, message in done.stderr, "wrong.yaml" in done.stderr) == (1, True, True), done.output
    assert not (folder / "d").exists()


def test_proposed_lines_are_said_to_go_into_a_file(folder: Path) -> None:
    for number in range(12):
        file = folder / f"download/images_part_{1 + number // 6}/ISIC_{number:07}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    rows = [f"ISIC_{number:07},{('nv', 'mel')[number % 2]}" for number in range(12)]
    (folder / "download/metadata.csv").write_text("\n".join(["image_id,dx", *rows]), encoding="utf-8")
    done = new(folder / "e", "--data", folder / "download")
    assert done.exit_code == 2
    assert "path: image_id" in done.output
    assert "add to this command: --params FILE" in done.output


def test_a_file_of_arrays_is_data(folder: Path) -> None:
    arrays: dict[str, Any] = {}
    for seed, (part, count) in enumerate((("train", 40), ("val", 16), ("test", 16))):
        rng = np.random.default_rng(seed)
        arrays |= {f"{part}_images": rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)}
        arrays |= {f"{part}_labels": (np.arange(count) % 2).astype(np.uint8)}
    np.savez(folder / "arrays.npz", **arrays)
    done = new(folder / "arrays", "--data", folder / "arrays.npz")
    assert done.exit_code == 0, done.output
    assert load_params(folder / "arrays/params.yaml").data.raw == str(folder / "arrays.npz")


def test_a_table_elsewhere_is_refused(folder: Path, raw: Path) -> None:
    (folder / "far.csv").write_text("path,label\n", encoding="utf-8")
    done = new(folder / "b", "--data", raw, "--labels", folder / "far.csv")
    assert done.exit_code == 1
    assert "lies outside" in done.stderr
    assert "there is no such file" in new(folder / "b", "--data", raw, "--labels", "gone.csv").stderr
    assert "lies outside" in new(folder / "b", "--data", raw, "--labels", folder / "far.csv", "--add").stderr
    assert not (folder / "b").exists()


@pytest.mark.parametrize(
    ("place", "data", "message"),
    [
        ("full", "raw", "is not empty"),
        ("full/file", "raw", "is a file"),
        (".", "raw", "is not empty"),
        ("raw/blast/study", "raw", "lies inside --data"),
        ("new", "gone", "is no folder"),
        ("new", "full/file", "is no folder"),
        ("repository/new", "raw", "lies inside the git repository"),
        ("full/file/x", "raw", "full/file/x: cannot be made: Not a directory"),
        ("dangling", "raw", "dangling: is a link to a place that is not there"),
        ("dangling/x", "raw", "dangling/x: cannot be made: File exists"),
        ("/proc/x/y", "raw", "new: /proc/x/y: cannot be made: "),
    ],
)
@pytest.mark.usefixtures("raw")
def test_a_place_that_cannot_be(
    place: str, data: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorboard.commands.new.check_folder", None)  # the images are not looked at
    if not (folder / "dangling").is_symlink():
        (folder / "dangling").symlink_to("nowhere")
    (folder / "full").mkdir(exist_ok=True)
    (folder / "full/file").write_text("mine", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(folder / "repository")], check=True)
    done = new(folder / place, "--data", folder / data)
    assert (done.exit_code, message in done.stderr) == (1, True), done.output
    assert (folder / "full/file").read_text(encoding="utf-8") == "mine"
    assert not (folder / "new").exists()


def test_data_that_a_run_would_refuse(folder: Path, raw: Path) -> None:
    shutil.copytree(raw / "blast", folder / "half/blast")
    done = new(folder / "refused", "--data", folder / "half")
    assert done.exit_code == 2
    assert "A run would refuse this" in done.output
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "new: --group-pattern is empty: name a pattern, or leave the option out\n"),
        ("P", "--group-pattern: 'P' has no group: put the patient's part in parentheses\n"),
        (
            "(Q)",
            "--group-pattern: '(Q)' matches no group in the path 'blast/P0_0.png'; correct the pattern, or leave the "
            "option out if every image is its own group\n",
        ),
    ],
)
def test_a_pattern_that_is_none_is_named_as_the_option(pattern: str, message: str, folder: Path, raw: Path) -> None:
    done = new(folder / "patterned", "--data", raw, "--group-pattern", pattern)
    assert done.exit_code == (2 if pattern else 1)
    assert done.output.endswith(message), done.output
    assert "data.group_pattern" not in done.output
    assert not (folder / "patterned").exists()


def test_a_pattern_of_a_file_is_named_as_its_line(folder: Path, raw: Path) -> None:
    (folder / "lines.yaml").write_text("data:\n  group_pattern: (Q)\n", encoding="utf-8")
    done = new(folder / "lined", "--data", raw, "--params", folder / "lines.yaml")
    assert "data.group_pattern: '(Q)' matches no group" in done.output
    assert "or set it to null if every image" in done.output


def test_without_git_nothing_is_written(
    folder: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # an empty folder
    done = new(folder / "ungitted", "--data", raw)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "new: git is not installed, and DVC needs it: install the package git\n"
    assert not (folder / "ungitted").exists()


@pytest.mark.parametrize("unit", ["Patient", "patient!", ""])
def test_a_unit_with_which_a_run_would_stop_is_refused_before_anything_is_written(tmp_path: Path, unit: str) -> None:
    (tmp_path / "data").mkdir()
    done = CliRunner().invoke(
        app, ["new", str(tmp_path / "study"), "--data", str(tmp_path / "data"), "--unit", unit, "--yes"]
    )
    assert done.exit_code == 1
    assert f"--unit {unit!r}: expected one word" in done.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(("positive", "classes"), [("blasts", ["blast", "normal"]), ("a", ["a", "b", "c"])])
def test_a_positive_class_that_is_none(positive: str, classes: list[str]) -> None:
    with pytest.raises(
        InputError, match=rf"--positive '{positive}': expected one of two classes; there are {classes[0]}"
    ):
        check_positive(positive, Account(classes=dict.fromkeys(classes, 9)))


def test_a_positive_class_that_is_none_is_refused_before_the_verdict(folder: Path, raw: Path) -> None:
    done = new(folder / "p", "--data", raw, "--positive", "nope")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--positive 'nope': expected one of two classes; there are blast, normal" in done.stderr
    assert not (folder / "p").exists()


def test_a_folder_is_made_only_to_find_out_whether_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "a/b/c", "a/../d"):
        check_can_be_made(tmp_path / place)
    assert [file.name for file in tmp_path.rglob("*")] == ["empty"]


def test_a_preset_that_is_none(folder: Path, raw: Path) -> None:
    done = new(folder / "c", "--data", raw, "--preset", "cell")
    assert (done.exit_code, "did you mean cells" in done.stderr) == (1, True)


def test_without_a_git_identity_nothing_is_written(folder: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    monkeypatch.chdir(folder)
    done = new("anonymous", "--data", raw)
    assert done.exit_code == 1
    assert "git config --global user.name" in done.stderr
    assert not (folder / "anonymous").exists()


def test_resolved_parameters_are_complete(made: Made, tmp_path: Path) -> None:
    short = Path(shutil.copy(made.folder / "params.yaml", tmp_path))
    text = short.read_text(encoding="utf-8")
    short.write_text(text.replace("train:\n", "train:\n  lr: 0.5\n  augment: {rotate: 7}\n"), encoding="utf-8")
    write_resolved(short, tmp_path / "resolved.yaml")
    tree = yaml.safe_load((tmp_path / "resolved.yaml").read_text(encoding="utf-8"))
    assert "tumorboard" not in tree
    assert (tree["train"]["lr"], tree["train"]["augment"]["rotate"], tree["train"]["epochs"]) == (0.5, 7, 16)
    assert load_params(tmp_path / "resolved.yaml") == load_params(short)


def test_the_lists_of_sources_name_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("tumorboard: 0.0.1\n", encoding="utf-8")
    write_lists(tmp_path / "digests")
    lines = (tmp_path / "digests/crop.sha256").read_text(encoding="utf-8").splitlines()
    names = [line.split("  ")[1] for line in lines]
    assert "stages/crop.py" in names
    assert "tumorboard/images/crop.py" in names
    assert {name.split("/")[0] for name in names} == {"stages", "tumorboard"}
    assert "tumorboard 0.0.1 made this study" in capsys.readouterr().err
    (tmp_path / "digests/crop.sha256").write_text("0" * 64 + "  stages/crop.py\n", encoding="utf-8")
    write_lists(tmp_path / "digests")
    assert "so they run again: crop" in capsys.readouterr().err


def test_a_study_crops_by_dvc(described: Path) -> None:
    """The stages run from the package, and a second run has nothing to do but the list of sources."""
    with (described / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("crop: {side: 32}\nruntime: {workers: 1}\n")
    environment = os.environ | {"PATH": search_path(), "PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1"}

    def repro() -> str:
        command = ["dvc", "repro", "crop"]
        done = subprocess.run(
            command,
            cwd=described,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "crop: 60 files, 60 decoded" in repro()
    assert (described / "data/crop/manifest.csv").is_file()
    again = repro()
    assert "Stage 'crop' didn't change" in again
    assert "Stage 'params' didn't change" in again
