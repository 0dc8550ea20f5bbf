"""compare: sides that are files, the workspace, revisions and experiments; git and DVC are real."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from tests.warm_python import search_path
from tumorboard.base.files import write_table
from tumorboard.base.schema import read_yaml
from tumorboard.base.tables import Predictions, make_predictions
from tumorboard.commands.compare import app
from tumorboard.evaluation.paired import SHARES

ROOT = Path(__file__).resolve().parents[2]
DVC = ("dvc",)
STAGES = """stages:
  ensemble:
    cmd: mkdir -p predictions && cp -r made/. predictions
    deps: [made]
    outs: [predictions/joined, predictions/votes, predictions/test/joined, predictions/test/votes]
"""


def table(wrong: int, *, split: str = "test", patients: int = 12) -> Predictions:
    """Four images of each patient, of which the first `wrong` are classified wrongly."""
    count = 4 * patients
    rows = pd.DataFrame(
        {"id": [f"{k:03}" for k in range(count)], "split": split, "label": ["ill", "well"] * (count // 2)}
    )
    rows["group"] = [f"P{k // 4}" for k in range(count)]
    right = np.arange(count) % 4 >= wrong
    ill = np.where(right == (rows["label"] == "ill"), 0.8, 0.2)
    return make_predictions(rows, np.stack([ill, 1 - ill], 1), ["ill", "well"], "digest")


def write_predictions(folder: Path, wrong: dict[str, int], *, test: bool = True) -> None:
    """Writes the tables of the stage ensemble; `wrong` by folder and name."""
    for name, number in wrong.items():
        write_table(table(number, split="val", patients=15), folder / f"{name}.csv")
        rows = table(number)
        write_table(rows if test else rows[:0], folder / "test" / f"{name}.csv")


def run(*arguments: str, columns: int = 150) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


def scores(*arguments: str) -> dict[str, dict[str, object]]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return {row["score"]: row for row in json.loads(done.stdout)["scores"]}


class Study:
    """A repository of git and DVC with one stage, which copies predictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "made").mkdir(parents=True)
        self("git", "init", "--quiet", "--initial-branch", "main")
        self("git", "config", "user.name", "tests")
        self("git", "config", "user.email", "tests@localhost")
        self(*DVC, "init", "--quiet")
        tree = read_yaml(ROOT / "params.yaml")
        tree["data"] |= {"unit": "smear", "positive": "ill"}
        tree["evaluate"]["confidence"] = 0.9
        (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        (folder / "dvc.yaml").write_text(STAGES, encoding="utf-8")

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"PATH": search_path()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make(self, wrong: dict[str, int], *, test: bool = True) -> None:
        shutil.rmtree(self.folder / "made")
        write_predictions(self.folder / "made", wrong, test=test)
        self(*DVC, "repro", "--quiet")

    def commit(self, tag: str) -> None:
        self("git", "add", "-A")
        self("git", "commit", "--quiet", "-m", tag)
        self("git", "tag", tag)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Revisions: one (no image wrong), two (one image of each patient), untested (as one, without test part)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
            patch.delenv(name)
        study = Study(tmp_path_factory.mktemp("compare") / "study")
        study.make({"votes/heading": 0, "votes/soft": 0, "joined/cnn": 2})
        study.commit("one")
        study.make({"votes/heading": 1, "votes/soft": 1, "joined/cnn": 2})
        study.commit("two")
        study.make({"votes/heading": 0, "joined/cnn": 2}, test=False)
        study.commit("untested")
    return study


@pytest.fixture
def study(template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
        monkeypatch.delenv(name)
    shutil.copytree(template.folder, tmp_path / "study", symlinks=True)
    monkeypatch.chdir(tmp_path / "study")
    copy = object.__new__(Study)
    copy.folder = tmp_path / "study"
    return copy


def test_two_files_are_compared_without_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(table(0), "a.csv")
    write_table(table(1), "b.csv")
    done = run("a.csv", "b.csv")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "a.csv against b.csv: these tables on 48 test images of 12 groups"
    assert lines[1] == "score A B A - B 95 % interval p"
    assert lines[2] == "accuracy 1.000 0.750 +0.250 +0.250 to +0.250 < 0.001 A is ahead"
    assert lines[3:5] == ["Exploratory:", "score A B A - B 95 % interval p Holm"]
    assert [line.split()[0] for line in lines[5:-1]] == [
        *("balanced_accuracy", "recall_ill", "recall_well", "brier", "auc")
    ]
    assert "Of brier less is better" in lines[-1]
    starts = [[line.index(title) for title in ("A", "A - B", "95 %")] for line in done.stdout.splitlines()[1:5:3]]
    assert starts[0] == starts[1], "the two tables have the same columns"


def test_no_verdict_is_cut_on_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the longest score's name and of the verdict within noise fill 80 columns; longer ones wrap."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(3)
    for name in ("a.csv", "b.csv"):
        write_table(noisy_table(generator), name)
    rows = run("a.csv", "b.csv", columns=80).stdout.splitlines()[1:-1]
    (row,) = (row.rstrip() for row in rows if row.startswith("balanced_accuracy"))
    assert row.endswith("  within noise")
    assert len(row) == 80
    for name in ("a.csv", "b.csv"):
        write_table(table(int(name == "b.csv"), patients=4), name)
    assert "too few groups (4)" in run("a.csv", "b.csv", columns=80).stdout


def noisy_table(generator: np.random.Generator, patients: int = 24) -> Predictions:
    """Four images of each patient, of which a random number is classified rightly."""
    rows = table(0, patients=patients)
    odds = generator.normal(1, 1, len(rows)) * np.where(rows["label"] == "ill", 1, -1)
    ill = 1 / (1 + np.exp(-odds))
    return make_predictions(
        rows[["id", "group", "split", "label"]], np.stack([ill, 1 - ill], 1), ["ill", "well"], "digest"
    )


def test_all_but_the_accuracy_are_corrected_for_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their verdicts, printed and in JSON, are those of the corrected p; one of them changes by it."""
    monkeypatch.chdir(tmp_path)
    between = accuracy = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        write_table(noisy_table(generator), "a.csv")
        write_table(noisy_table(generator), "b.csv")
        rows = json.loads(run("a.csv", "b.csv", "--json").stdout)["scores"]
        assert [row["kind"] for row in rows] == ["primary"] + ["exploratory"] * 5
        primary, others = rows[0], rows[1:]
        assert (primary["score"], primary["p_holm"]) == ("accuracy", None)
        assert (primary["p"] < 0.05) == (primary["verdict"] != "within noise")
        corrected = multipletests([row["p"] for row in others], method="holm")[1]
        assert [row["p_holm"] for row in others] == pytest.approx(corrected)
        assert [row["verdict"] == "within noise" for row in others] == [p >= 0.05 for p in corrected]
        accuracy += primary["p"] < 0.05
        changed = [row for row in others if row["p"] < 0.05 <= row["p_holm"]]
        between += len(changed)
        printed = run("a.csv", "b.csv").stdout.splitlines()
        for row in changed:
            (line,) = [line for line in printed if line.startswith(f"{row['score']} ")]
            assert line.endswith("within noise")
            assert f" {row['p_holm']:.3f} " in line
        if between and accuracy:
            return
    pytest.fail(f"{between} exploratory scores and {accuracy} accuracies had p below 0.05")


def test_a_difference_of_rounding_is_no_negative_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.csv and b.csv are right in as many images, of other patients of other sizes."""
    monkeypatch.chdir(tmp_path)
    rows = table(0, patients=11)
    sizes = np.repeat([f"P{k:02}" for k in range(8)], [1, 2, 3, 5, 7, 7, 8, 11])
    rows["group"] = sizes
    for name, wrong in {"a.csv": [0, 3, 9, 20, 41], "b.csv": [1, 4, 12, 30, 43]}.items():
        p = rows[["p_ill", "p_well"]].to_numpy().copy()
        p[wrong] = p[wrong, ::-1]
        write_table(make_predictions(rows[["id", "group", "split", "label"]], p, ["ill", "well"], "digest"), name)
    difference = scores("a.csv", "b.csv")["accuracy"]["difference"]
    assert isinstance(difference, float)
    assert abs(difference) < 1e-12
    assert "-0.000 " not in run("a.csv", "b.csv").stdout + run("b.csv", "a.csv").stdout


def test_the_other_order_names_the_other_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(table(0), "a.csv")
    write_table(table(1), "b.csv")
    assert "B is ahead" in run("b.csv", "a.csv").stdout
    assert "A is ahead" not in run("b.csv", "a.csv").stdout
    of = scores("b.csv", "a.csv")
    assert (of["brier"]["difference"] > 0, of["brier"]["verdict"]) == (True, "second is ahead")


def test_revisions_are_read_from_the_cache_and_nothing_is_checked_out(study: Study) -> None:
    before = study("git", "status", "--porcelain"), sorted(study.folder.rglob("*.csv"))
    of = scores("one", "two")
    assert (of["accuracy"]["first"], of["accuracy"]["second"]) == (1.0, 0.75)
    assert of["accuracy"]["verdict"] == "first is ahead"
    assert scores("one", "two", "--name", "cnn")["accuracy"]["verdict"] == "within noise"  # equal tables
    assert before == (study("git", "status", "--porcelain"), sorted(study.folder.rglob("*.csv")))


@pytest.mark.usefixtures("study")
def test_the_validation_part_has_other_rows() -> None:
    done = json.loads(run("one", "untested", "--part", "validation", "--json").stdout)
    assert (done["images"], done["groups"], done["part"], done["unit"]) == (60, 15, "validation", "smear")


def test_workspace_against_a_revision(study: Study) -> None:
    study.make({"votes/heading": 3, "joined/cnn": 2})
    assert scores("workspace", "two")["accuracy"]["difference"] == pytest.approx(-0.5)


def test_a_workspace_of_another_run_than_dvc_lock_is_compared_and_named(study: Study) -> None:
    study.make({"votes/heading": 3, "joined/cnn": 2})
    assert "warning" not in run("workspace", "two").stderr
    study("git", "checkout", "--quiet", "--force", "two")
    done = run("workspace", "two", "--json")
    assert json.loads(done.stdout)["scores"][0]["difference"] == pytest.approx(-0.5)
    where = "predictions/test/votes: not as in dvc.lock, but of another commit or an unfinished run"
    assert done.stderr == f"warning: workspace is not the run of this commit: {where}: dvc checkout --force\n"
    study(*DVC, "checkout", "--quiet", "--force")
    done = run("workspace", "two")
    assert (done.exit_code, done.stderr) == (0, "")


def test_an_experiment_is_a_side(study: Study) -> None:
    shutil.rmtree(study.folder / "made")
    write_predictions(study.folder / "made", {"votes/heading": 3, "joined/cnn": 2})
    study(*DVC, "exp", "run", "--quiet", "--name", "worse")
    study("git", "checkout", "--quiet", "--force", "two")
    assert scores("worse", "two")["accuracy"]["first"] == 0.25
    shutil.rmtree(study.folder / ".dvc/cache")
    done = run("worse", "two")
    assert done.stderr.startswith("compare: the predictions of worse are not in DVC's cache"), done.stderr
    assert done.stderr.endswith("`dvc pull` fetches what was pushed; else `dvc exp apply worse`, then `dvc repro`\n")


@pytest.mark.usefixtures("study")
def test_an_unscored_test_part_is_named() -> None:
    done = run("untested", "one")
    assert done.exit_code == 1
    assert done.stderr.startswith("compare: predictions/test/votes/heading.csv of untested has no rows: the test part")
    assert "--part validation" in done.stderr


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("nobody", "compare: 'nobody' is no file, git revision or experiment"),
        ("nobody.csv", "compare: 'nobody.csv' is no file, git revision or experiment"),
        ("", "compare: a name is empty: name a git revision, an experiment, a file or 'workspace'"),
    ],
)
def test_an_unknown_side_is_named(side: str, message: str) -> None:
    done = run("one", side)
    assert (done.exit_code, done.stderr.startswith(message)) == (1, True), done.stderr


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("name", ["../votes/soft", "..", "/votes/soft", "cnn/", ""])
def test_a_name_that_is_a_path_is_refused(name: str) -> None:
    done = run("one", "two", "--name", name)
    assert done.exit_code == 1
    assert done.stderr == f"compare: --name '{name}': is no name of a member or a vote, such as heading\n"


def test_an_unknown_member_lists_those_there_are(study: Study) -> None:
    expected = "compare: one has no member or vote 'resnet'; there are cnn, heading, soft\n"
    assert run("one", "two", "--name", "resnet").stderr == expected
    study(*DVC, "checkout", "--quiet")
    done = run("workspace", "two", "--name", "resnet", "--part", "validation")
    assert done.stderr == "compare: workspace has no member or vote 'resnet'; there are cnn, heading\n"


def refused(rows: dict[str, dict[str, object]]) -> list[str]:
    """The scores that are not compared; they have no number."""
    names = [name for name, row in rows.items() if row["verdict"] == SHARES]
    assert all(rows[name][key] is None for name in names for key in ("first", "second", "difference", "low", "p"))
    return names


def test_the_hard_vote_has_no_scores_of_probabilities(study: Study) -> None:
    write_predictions(study.folder / "predictions", {"votes/hard": 1})
    rows = scores("workspace", "workspace", "--name", "hard")
    assert [*rows] == ["accuracy", "balanced_accuracy", "recall_ill", "recall_well", "brier", "auc"]
    assert refused(rows) == ["brier", "auc"]
    lines = run("workspace", "workspace", "--name", "hard").stdout.splitlines()
    (line,) = [" ".join(line.split()) for line in lines if line.startswith("brier")]
    assert line == f"brier {SHARES}"


def test_images_of_one_class_have_no_numbers_of_scores_that_need_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, wrong in {"one": 0, "two": 1}.items():
        write_table(table(wrong).query("label == 'ill'"), f"{name}.csv")
    lines = [" ".join(line.split()) for line in run("one.csv", "two.csv").stdout.splitlines()]
    for score in ("balanced_accuracy", "recall_well", "auc"):
        assert f"{score} undefined" in lines
        assert scores("one.csv", "two.csv")[score]["first"] is None
    assert any(line.startswith("recall_ill 1.000 0.500 +0.500") for line in lines)


def test_a_heading_vote_that_is_the_hard_one_is_known_by_its_table(study: Study) -> None:
    write_predictions(study.folder / "predictions", {"votes/hard": 1, "votes/heading": 0, "joined/cnn": 2})
    assert refused(scores("workspace", "one")) == []
    write_predictions(study.folder / "predictions", {"votes/heading": 1})
    for part in ("test", "validation"):
        assert refused(scores("workspace", "one", "--part", part)) == ["brier", "auc"]
        assert refused(scores("one", "workspace", "--part", part)) == ["brier", "auc"]
    assert refused(scores("workspace", "one", "--name", "cnn")) == []


def test_a_file_of_the_hard_vote_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, wrong in {"soft": 0, "hard": 1, "heading": 1}.items():
        write_table(table(wrong), f"{name}.csv")
    assert refused(scores("soft.csv", "hard.csv")) == ["brier", "auc"]
    assert refused(scores("heading.csv", "soft.csv")) == ["brier", "auc"]
    write_table(table(0), "heading.csv")
    assert refused(scores("heading.csv", "soft.csv")) == []


def test_a_missing_cache_names_the_commands(study: Study) -> None:
    shutil.rmtree(study.folder / ".dvc/cache")
    done = run("one", "two")
    assert done.exit_code == 1
    assert done.stderr.startswith("compare: the predictions of one are not in DVC's cache"), done.stderr
    assert done.stderr.endswith("`dvc pull` fetches what was pushed; else `git checkout one`, then `dvc repro`\n")


def test_a_revision_before_the_pipeline_is_one_message(study: Study) -> None:
    study("git", "checkout", "--quiet", "--orphan", "empty")
    study("git", "rm", "-r", "--quiet", "--cached", ".")
    study("git", "add", ".dvc")
    study("git", "commit", "--quiet", "-m", "empty")
    done = run("empty", "one")
    assert done.exit_code == 1
    expected = (
        "has no predictions/test/votes/heading.csv: `dvc pull` fetches what was pushed; else `dvc repro`, then commit\n"
    )
    assert done.stderr == f"compare: empty {expected}"
    assert run("HEAD", "one").stderr == f"compare: HEAD {expected}"


def test_other_data_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(table(0), "a.csv")
    write_table(table(1, patients=13), "b.csv")
    assert run("a.csv", "b.csv").stderr == (
        "compare: a.csv and b.csv were made of different data: 4 of 52 ids are only in b.csv, such as id '048': "
        "compare the same test images (data, seed and split must be equal)\n"
    )


def test_a_file_of_another_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(table(0, split="val"), "a.csv")
    assert run("a.csv", "a.csv").stderr == (
        "compare: a.csv has no test images: --part validation compares those that it has\n"
    )
    assert run("a.csv", "a.csv", "--part", "validation").exit_code == 0


def test_outside_a_project_a_revision_and_the_workspace_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(table(0), "a.csv")
    cure = "change into the folder of a study (`tumorboard new` makes one), or name two files\n"
    expected = f"compare: 'main' is no file, and {tmp_path} is no DVC project, so it has no revisions: {cure}"
    assert run("a.csv", "main").stderr == expected
    expected = f"compare: {tmp_path} is no study: it has no params.yaml: {cure}"
    assert run("a.csv", "workspace").stderr == expected


def test_a_damaged_file_is_named(study: Study) -> None:
    (study.folder / "bad.csv").write_text("id,label\n1,a\n", encoding="utf-8")
    assert run("bad.csv", "one").stderr.startswith("compare: bad.csv: columns are")


@pytest.mark.usefixtures("study")
def test_unit_and_confidence_are_those_of_params_and_the_more_probable_class_decides() -> None:
    done = run("one", "two")
    assert "48 test images of 12 smears" in done.stdout, done.output
    assert "90 % interval" in done.stdout
    assert "recall_ill" in done.stdout
    assert "sensitivity" not in done.stdout, "that is a threshold's"
