"""doctor: each fault is made in a real repository of git and DVC, found by name, and cured."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.warm_python import search_path
from tumorboard.base.disk import check_disk
from tumorboard.base.errors import InputError
from tumorboard.base.findings import Finding
from tumorboard.commands import machine_checks
from tumorboard.commands.doctor import PROJECT_CHECKS, app
from tumorboard.commands.project_checks import check_data
from tumorboard.commands.start_checks import check_commit, prepare_start, run_checks

ROOT = Path(__file__).resolve().parents[2]
DVC = ("dvc",)
STAGES = """stages:
  phantom: {cmd: mkdir -p data/phantom && echo x > data/phantom/x, outs: [data/phantom]}
  crop: {cmd: cp -r data/phantom data/crop, deps: [data/phantom], outs: [data/crop]}
"""


class Study:
    """A small project whose current folder is its own; git and DVC are real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self("git", "init", "--quiet")
        self("git", "config", "user.name", "tests")
        self("git", "config", "user.email", "tests@localhost")
        self(*DVC, "init", "--quiet")
        shutil.copy(ROOT / "params.yaml", folder)
        shutil.copy(ROOT / ".gitignore", folder)
        (folder / "dvc.yaml").write_text(STAGES, encoding="utf-8")
        self(*DVC, "repro", "--quiet")
        self.commit()

    def __call__(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"PATH": search_path()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def commit(self) -> None:
        self("git", "add", "-A")
        self("git", "commit", "--quiet", "-m", "step")

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def found(self, check: str) -> list[Finding]:
        """What a check says other than ok."""
        return [finding for finding in run_checks(PROJECT_CHECKS, Path()) if finding.check == check and finding.cure]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("doctor") / "study")


@pytest.fixture
def study(template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A fresh copy; no setting of the account counts."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(template.folder, tmp_path / "study", symlinks=True)
    monkeypatch.chdir(tmp_path / "study")
    copy = object.__new__(Study)
    copy.folder = tmp_path / "study"
    return copy


def doctor(*options: str) -> tuple[int, dict[str, object]]:
    done = CliRunner().invoke(app, ["--json", *options])
    return done.exit_code, json.loads(done.stdout)


def test_a_sound_project_has_no_problem_and_nothing_is_changed(study: Study) -> None:
    before = study("git", "status", "--porcelain", "--ignored")
    status, answer = doctor()
    problems = [finding for finding in answer["findings"] if finding["level"] == "problem"]
    assert (status, problems) == (0, [])
    assert {finding["check"] for finding in answer["findings"]} >= {*PROJECT_CHECKS, "code", "torch", "links", "dvc"}
    assert study("git", "status", "--porcelain", "--ignored") == before
    text = CliRunner().invoke(app, []).stdout
    assert text.endswith("no problems\n")


DAMAGED = ["{", "", '{"write": {"a": {"pid"', "[]", '{"read": {"a": [{"pid": 1}]}}']


@pytest.mark.parametrize(
    ("name", "content"), [*((".dvc/tmp/rwlock", content) for content in DAMAGED), (".dvc/tmp/exps/rwlock", "{")]
)
def test_a_damaged_lock_of_dvc_is_removed(study: Study, name: str, content: str) -> None:
    lock = study.write(name, content)
    (finding,) = study.found("locks")
    assert (finding.level, finding.cure) == ("problem", f"rm {name}")
    assert lock.exists()
    status, answer = doctor("--fix")
    assert (status, answer["fixed"]) == (0, [f"removed {name}"])
    study(*DVC, "repro")


def test_a_lock_whose_number_another_program_has_now_is_removed_and_a_live_ones_is_not(study: Study) -> None:
    entry = {"write": {"/x": {"pid": 0, "cmd": "dvc repro"}}, "read": {}}
    with subprocess.Popen(["sleep", "60"]) as other:
        entry["write"]["/x"]["pid"] = other.pid
        study.write(".dvc/tmp/rwlock", json.dumps(entry))
        (finding,) = study.found("locks")
        assert finding.level == "problem"
        assert f"process {other.pid} is another program now" in finding.message
        other.kill()
    assert study.found("locks") == []  # DVC removes the entry itself
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc"]) as other:
        entry["write"]["/x"]["pid"] = other.pid
        study.write(".dvc/tmp/rwlock", json.dumps(entry))
        (finding,) = study.found("locks")
        assert (finding.level, finding.fix) == ("note", None)
        other.kill()


def test_an_old_lock_of_git_is_removed_and_a_fresh_one_is_not(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.process_iter", lambda _: [])
    lock = study.write(".git/index.lock", "")
    (finding,) = study.found("locks")
    assert (finding.level, finding.fix) == ("note", None)
    os.utime(lock, (time.time() - 600, time.time() - 600))
    (finding,) = study.found("locks")
    assert finding.cure == "rm .git/index.lock"
    assert finding.fix() == "removed .git/index.lock"


@pytest.mark.parametrize(
    "share", [0.0, 0.37, 0.99, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.5, 0.81))]
)
def test_a_torn_lock_file_is_restored_from_the_index_and_kept_aside(study: Study, share: float) -> None:
    file = study.folder / "dvc.lock"
    whole = file.read_text(encoding="utf-8")
    torn = whole[: int(len(whole) * share)].rstrip("\n")
    file.write_text(torn, encoding="utf-8")
    (finding,) = study.found("files of DVC")
    assert (finding.level, finding.cure) == ("problem", "tumorboard doctor --fix")
    lines = prepare_start(Path())
    assert any("restored dvc.lock from git's index" in line for line in lines)
    assert file.read_text(encoding="utf-8") == whole
    assert (study.folder / ".dvc/tmp/torn/dvc.lock").read_text(encoding="utf-8") == torn
    assert "up to date" in study(*DVC, "status")


def test_the_last_whole_version_may_be_an_older_commit(study: Study) -> None:
    file = study.folder / "dvc.lock"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole[:70], encoding="utf-8")
    study.commit()
    (finding,) = study.found("files of DVC")
    assert re.match(r"restored dvc.lock from commit [0-9a-f]{7}", finding.fix())
    assert file.read_text(encoding="utf-8") == whole


def test_a_torn_lock_file_that_git_does_not_have_is_moved_away(study: Study) -> None:
    study("git", "rm", "--quiet", "--cached", "dvc.lock")
    study("git", "commit", "--quiet", "--amend", "-m", "without")
    shutil.rmtree(study.folder / ".git/logs")
    study.write("dvc.lock", "schema: '2.0'\nstages:\n  phan")
    (finding,) = study.found("files of DVC")
    assert "moved dvc.lock away" in finding.fix()
    study(*DVC, "repro")


def test_a_merge_in_dvc_lock_is_not_called_torn(study: Study) -> None:
    study.write("dvc.lock", "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages: {}\n>>>>>>> other\n")
    (finding,) = study.found("files of DVC")
    assert "unresolved merge" in finding.message
    with pytest.raises(InputError, match=r"git checkout --ours dvc\.lock"):
        prepare_start(Path())


def test_marks_of_a_merge_that_were_committed_are_restored_from_an_older_commit(study: Study) -> None:
    whole = (study.folder / "dvc.lock").read_text(encoding="utf-8")
    study.write("dvc.lock", "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages: {}\n>>>>>>> other\n")
    study.commit()
    status, answer = doctor("--fix")
    assert status == 0, [each for each in answer["findings"] if each["level"] != "ok"]
    assert (study.folder / "dvc.lock").read_text(encoding="utf-8") == whole


def test_a_merge_in_params_yaml_is_named_with_its_line(study: Study) -> None:
    text = (study.folder / "params.yaml").read_text(encoding="utf-8")
    study.write("params.yaml", f"{text}<<<<<<< HEAD\nx: 1\n=======\nx: 2\n>>>>>>> other\n")
    (finding,) = study.found("params.yaml")
    line = len(text.splitlines()) + 1
    assert finding.message == f"params.yaml has the marks of an unresolved merge, first in line {line}"
    assert "keep one side of each pair" in finding.cure


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD\nstages: {}\n", "has the marks of an unresolved merge, first in line 1"),
        ("", "is damaged"),
        ("stages: [", "is damaged"),
        ("steps: {}\n", "is damaged"),
    ],
)
def test_a_dvc_yaml_that_dvc_cannot_read_is_left_as_it_is_and_its_cure_works(
    study: Study, text: str, message: str
) -> None:
    study.write("dvc.yaml", text)
    study.commit()
    (finding,) = study.found("files of DVC")
    assert finding.message.startswith(f"dvc.yaml {message}")
    doctor("--fix")
    assert (study.folder / "dvc.yaml").read_text(encoding="utf-8") == text
    study(*finding.cure.split())
    assert doctor()[0] == 0
    assert (study.folder / "dvc.yaml").read_text(encoding="utf-8") == STAGES


def test_frozen_stages_are_noted_with_a_cure_that_works(study: Study) -> None:
    study(*DVC, "freeze", "crop")
    (finding,) = [each for each in doctor()[1]["findings"] if each["check"] == "dvc"]
    assert finding["level"] == "note"
    assert finding["message"].startswith("frozen in dvc.yaml: crop: ")
    study("sh", "-c", finding["cure"])
    assert [each["level"] for each in doctor()[1]["findings"] if each["check"] == "dvc"] == ["ok"]


def test_a_study_inside_a_larger_repository_is_reported_and_starts_no_experiment(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = tmp_path / "larger"
    larger.mkdir()
    shutil.copytree(study.folder, larger / "inner")
    shutil.move(larger / "inner/.git", larger)
    monkeypatch.chdir(larger / "inner")
    study.folder = larger / "inner"
    study.commit()
    (finding,) = study.found("git")
    assert finding.message.startswith("the folder is inner/ of a larger repository of git")
    with pytest.raises(InputError, match="move it out"):
        check_commit(Path())


def test_a_torn_dvc_file_is_restored(study: Study) -> None:
    study.write("datasets/mine/1.png", "image")
    study(*DVC, "add", "--quiet", "datasets/mine")
    study.commit()
    whole = (study.folder / "datasets/mine.dvc").read_text(encoding="utf-8")
    for torn in ("", whole[:20]):
        study.write("datasets/mine.dvc", torn)
        status, answer = doctor("--fix")
        assert status == 0, [each for each in answer["findings"] if each["level"] != "ok"]
        assert (study.folder / "datasets/mine.dvc").read_text(encoding="utf-8") == whole


def test_an_old_lock_of_git_in_a_worktree_is_removed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study("git", "worktree", "add", "--quiet", "../tree")
    monkeypatch.chdir(study.folder.parent / "tree")
    lock = study.folder / ".git/worktrees/tree/index.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    monkeypatch.setattr("psutil.process_iter", lambda _: [])
    (finding,) = study.found("locks")
    assert finding.cure == f"rm {lock}"
    assert finding.fix is not None
    finding.fix()
    assert not lock.exists()


@pytest.mark.parametrize("key", ["models: linear", "folds: 0", "medmnist: bloodmnist_224"])
def test_a_word_where_the_matrix_needs_a_list_is_reported_with_the_line_to_write(study: Study, key: str) -> None:
    name = key.split(":")[0]
    text = (study.folder / "params.yaml").read_text(encoding="utf-8")
    study.write("params.yaml", re.sub(rf"^{name}: .*", key, text, flags=re.M))
    (finding,) = study.found("params.yaml")
    assert f"params.yaml: {name}: is" in finding.message
    assert f"write a list in params.yaml, as in `{name}: [" in finding.cure
    with pytest.raises(InputError, match=r"write a list in params\.yaml"):
        prepare_start(Path())


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("models", "write in params.yaml, as in `models: [linear, cnn]`"),
        ("folds", "write in params.yaml, as in `folds: [0]`"),
        ("medmnist", "write in params.yaml, as in `medmnist: []`"),
        ("raw", "write below `data:` in params.yaml, as in `raw: /path/to/images`"),
    ],
)
def test_a_key_that_dvc_reads_from_a_short_file_must_be_there(study: Study, key: str, cure: str) -> None:
    lines = [
        "tumorboard: '0'",
        "models: [cnn]",
        "folds: [0]",
        "medmnist: []",
        "data:",
        "  raw: data/phantom",
        "  unit:",
    ]
    study.write("params.yaml", "\n".join(line for line in lines if not line.strip().startswith(f"{key}:")))
    (finding,) = study.found("params.yaml")
    assert f"{key}: missing" in finding.message
    assert finding.cure == cure
    assert not [finding for finding in check_data(study.folder) if key == "raw"]
    with pytest.raises(InputError, match=re.escape(cure)):
        prepare_start(Path())


@pytest.mark.parametrize("raw", ["", "''"])
def test_an_empty_data_folder_is_one_problem_and_no_crash(study: Study, raw: str) -> None:
    study.write("dvc.yaml", STAGES.replace("deps: [data/phantom]", "deps: ['${data.raw}']"))
    text = (study.folder / "params.yaml").read_text(encoding="utf-8")
    study.write("params.yaml", re.sub(r"^  raw: .*", f"  raw: {raw}", text, flags=re.M))
    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert "PROBLEM params.yaml: params.yaml: data.raw: is " in result.output
    assert result.output.splitlines()[-1] == "1 problem"


@pytest.mark.parametrize("raw", [".", "data", "data/crop"])
def test_a_data_folder_that_the_pipeline_writes_to_is_reported(study: Study, raw: str) -> None:
    study.write("dvc.yaml", STAGES.replace("deps: [data/phantom]", f"deps: ['{raw}']"))
    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert "data.raw may not be, or hold, what the pipeline writes" in result.output


def test_a_folder_without_a_commit_is_refused_with_the_cure_before_an_experiment(study: Study) -> None:
    check_commit(study.folder)
    shutil.rmtree(study.folder / ".git")
    with pytest.raises(InputError, match=r"no repository of git[^`]*\n  cure: git init && git add -A"):
        check_commit(study.folder)
    study("git", "init", "--quiet")
    with pytest.raises(InputError, match=r"no commit yet, .*\n  cure: git add -A && git commit"):
        check_commit(study.folder)


@pytest.mark.parametrize("kept", [(), ("name",), ("email",)])
def test_an_identity_of_git_that_is_missing_or_half_is_reported(study: Study, kept: tuple[str, ...]) -> None:
    for key in {"name", "email"} - {*kept}:
        study("git", "config", "--unset", f"user.{key}")
    (finding,) = study.found("git identity")
    assert finding.level == "problem"
    assert finding.cure.startswith("git config --global user.name")
    assert any("git identity" in line for line in prepare_start(Path()))


def test_an_identity_of_the_environment_counts(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study("git", "config", "--unset", "user.name")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@localhost")
    assert study.found("git identity") == []


def set_raw(study: Study, folder: str) -> str:
    """Names another data folder in a study's params.yaml; returns what the file was before."""
    text = (study.folder / "params.yaml").read_text(encoding="utf-8")
    study.write("params.yaml", re.sub(r"^  raw: data/phantom", f"  raw: {folder}", text, flags=re.M))
    return text


def test_a_data_folder_that_git_does_not_know_and_its_dvc_file_are_reported(study: Study) -> None:
    study.write("datasets/mine/1.png", "image")
    set_raw(study, "datasets/mine")
    (finding,) = study.found("data")
    assert finding.cure == "dvc add datasets/mine && git commit -m 'Add datasets/mine'"
    study(*DVC, "add", "--quiet", "datasets/mine")
    (finding,) = study.found("uncommitted")
    assert finding.cure.startswith("git add datasets/mine.dvc")
    study("sh", "-c", finding.cure)
    assert study.found("data") == []
    assert study.found("uncommitted") == []
    shutil.rmtree(study.folder / "datasets/mine")
    (finding,) = study.found("data")
    assert (finding.level, finding.cure) == ("problem", "dvc checkout")


def test_a_data_folder_that_is_not_there_stops_a_run(study: Study) -> None:
    study.write("datasets/brain/1.png", "image")
    text = set_raw(study, "datasets/brian")
    (finding,) = study.found("data")
    assert finding.level == "problem"
    assert finding.message == "data.raw: there is no 'datasets/brian': 'datasets' has no 'brian'; nearest: 'brain'"
    with pytest.raises(InputError, match=r"there is no 'datasets/brian'.*\n  cure: correct data\.raw in params\.yaml"):
        prepare_start(Path())
    study.write("params.yaml", text)
    shutil.rmtree(study.folder / "data/phantom", ignore_errors=True)  # the stage phantom writes it
    assert [each for each in study.found("data") if each.level == "problem"] == []
    prepare_start(Path())


def test_images_that_git_would_take_are_reported(study: Study) -> None:
    study.write("mine/1.png", "image" * 1000)
    (finding,) = study.found("uncommitted")
    assert "mine/1.png" in finding.message
    assert finding.cure.endswith("dvc add mine")
    study("sh", "-c", finding.cure)
    study.commit()
    assert study.found("uncommitted") == []


def test_a_remote_that_no_commit_has_is_reported(study: Study) -> None:
    assert study.found("remote") == []
    study(*DVC, "remote", "add", "--default", "storage", "/archive")
    (finding,) = study.found("remote")
    assert (finding.level, finding.cure) == ("problem", "git add .dvc/config && git commit -m 'Add the remote'")
    study("sh", "-c", finding.cure)
    assert study.found("remote") == []
    study.write("dvc.lock", (study.folder / "dvc.lock").read_text(encoding="utf-8") + "\n")
    (finding,) = study.found("remote")
    assert "dvc.lock is not committed" in finding.message


@pytest.mark.skipif(find_spec("dvc_oss") is not None, reason="the client is installed here")
def test_a_remote_whose_client_is_not_installed_is_reported_as_dvc_would(study: Study) -> None:
    study(*DVC, "remote", "add", "--local", "bucket", "oss://bucket/study")
    asked = [*DVC, "status", "--cloud", "-r", "bucket"]
    failed = subprocess.run(asked, cwd=study.folder, capture_output=True, text=True)
    assert "requires 'dvc-oss'" in failed.stderr
    (finding,) = study.found("remote")
    assert (finding.level, finding.cure) == ("note", "pip install dvc-oss")
    assert finding.message == "the remote bucket: DVC needs dvc-oss, which is not installed here"
    study("dvc", "remote", "modify", "--local", "bucket", "oss_key_id", "a")  # an entry without the URL
    assert [finding.cure for finding in study.found("remote")] == ["pip install dvc-oss"]


def test_what_dvc_exp_apply_leaves_of_other_models_is_reported(study: Study) -> None:
    study.write("metrics/evaluate/linear/0.json", "{}")
    assert study.found("leftovers") == []
    study.write("metrics/evaluate/vgg16/0.json", "{}")
    study.write("metrics/train/linear/3.json", "{}")
    (finding,) = study.found("leftovers")
    assert "metrics/train/linear/3.json, metrics/evaluate/vgg16/0.json" in finding.message
    assert finding.cure == "dvc repro"


@pytest.mark.parametrize("content", ['{"pid": 4194000, "returncode": null}', "", "{"])
def test_a_dead_experiment_of_the_queue_is_marked_as_failed(study: Study, content: str) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    file = study.write(f".dvc/tmp/exps/run/{revision}/{revision}.json", content)
    (finding,) = study.found("queue")
    assert finding.cure == "tumorboard doctor --fix"
    assert "experiment 0123456 is marked as failed" in finding.fix()
    assert json.loads(file.read_text(encoding="utf-8"))["returncode"] == -1
    assert study.found("queue") == []


def test_an_accent_in_the_path_is_reported(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(study.folder, tmp_path / "étude")
    monkeypatch.chdir(tmp_path / "étude")
    (finding,) = [finding for finding in PROJECT_CHECKS["path"](Path()) if finding.cure]
    assert "not ASCII" in finding.message


def test_a_params_yaml_that_was_deleted_comes_back_from_the_last_commit(study: Study) -> None:
    before = (study.folder / "params.yaml").read_bytes()
    (study.folder / "params.yaml").unlink()
    (finding,) = study.found("params.yaml")
    assert "it has no params.yaml" in finding.message
    study(*finding.cure.split())
    assert (study.folder / "params.yaml").read_bytes() == before


def test_a_folder_without_git_is_reported(study: Study) -> None:
    shutil.rmtree(study.folder / ".git")
    (finding,) = study.found("git")
    assert finding.cure.startswith("git init")
    assert doctor()[0] == 1


@pytest.mark.slow
def test_the_code_of_another_checkout_is_a_finding_of_doctor_and_stops_the_other_commands(study: Study) -> None:
    study.write("src/tumorboard/__init__.py", "")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    tumorboard = [sys.executable, "-m", "tumorboard.commands.app"]
    for command in (["check", "data/phantom"], ["predict", "x"], ["run"], ["lr-find", "cnn"], ["batch-size", "cnn"]):
        done = subprocess.run([*tumorboard, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{command[0]}: the running code is {ROOT}/src/tumorboard, not {study.folder}")
    status, answer = doctor()
    (code,) = [finding for finding in answer["findings"] if finding["check"] == "code"]
    assert (status, code["level"]) == (1, "problem")


def test_little_disk_a_slow_machine_and_no_links_are_reported(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2**29))
    assert {finding.level for finding in check_disk(Path())} == {"problem"}
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0, 0))
    assert any("1000.0 processes want" in finding.message for finding in machine_checks.check_processor(Path()))

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (finding,) = machine_checks.check_links(Path())
    assert (finding.level, finding.cure) == ("note", "dvc config --local cache.type symlink")
    assert [path.name for path in study.folder.rglob("*.tmp")] == []


def test_outside_of_a_project_only_the_machine_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, answer = doctor()
    checked = [finding["check"] for finding in answer["findings"]]
    assert {*checked} <= {"code", "torch", "processor", "memory", "disk", "links", "study"}
    (study,) = [finding for finding in answer["findings"] if finding["check"] == "study"]
    assert study["level"] == "note"
    assert study["message"] == f"{tmp_path} is no study: it has no dvc.yaml, so only the machine was checked"
    assert "tumorboard new" in study["cure"]
    assert status == int(any(finding["level"] == "problem" for finding in answer["findings"]))
