"""Trainings side by side, through the real DVC and dvc.yaml in a copy of the project whose stages are stubs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from dvc.repo import Repo
from typer.testing import CliRunner

from tests.pipeline import Project
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.commands import run as run_module
from tumorboard.commands import trainings
from tumorboard.commands.app import app as tumorboard
from tumorboard.commands.run import choose_gpus, reproduce_in_parallel

# Writes the outputs that dvc.yaml lists for its stage. A training also keeps a journal. JOURNAL/fail, JOURNAL/kill and
# JOURNAL/hang name models; no training ends before TOGETHER trainings have begun.
STUB = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
import yaml

name, _, item = os.environ["DVC_STAGE"].partition("@")
stage = yaml.load(Path("dvc.yaml").read_text(), yaml.CSafeLoader)["stages"][name]
text = os.environ["DVC_STAGE"] + "\\n"
journal = Path(os.environ["JOURNAL"])

def note(event):
    seen = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    with (journal / "notes").open("a") as file:
        file.write(json.dumps({"event": event, "item": item, "pid": os.getpid(), **seen}) + "\\n")

def option(name):
    return Path(sys.argv[sys.argv.index(name) + 1])

def begun():
    return (journal / "notes").read_text().count('"begin"')

def asked(kind):
    return item.split("-")[0] in ((journal / kind).read_text() if (journal / kind).exists() else "")

if name == "digest":  # of the stub itself: an edited stub is run again, and no other one
    for script in Path("stages").glob("[a-z]*.py"):
        digest = Path("digests", script.stem + ".sha256")
        digest.parent.mkdir(exist_ok=True)
        digest.write_text(hashlib.sha256(script.read_bytes()).hexdigest())
    sys.exit()
if name == "recipe":
    params = yaml.load(Path("params.yaml").read_text(), yaml.CSafeLoader)
    files = [f"recipes/{model}.json" for model in params["models"]]
    text = json.dumps(params["train"])
elif name in ("crop", "split"):
    names = ("manifest.csv", "images.csv", "attributes.csv", "quarantined.csv", "store/index.csv")
    files = [f"data/{name}/{file}" for file in names]
else:
    files = []
if name == "train":
    note("begin")
    deadline = time.monotonic() + 240
    while begun() < int(os.environ.get("TOGETHER", 0)) or asked("hang"):
        assert time.monotonic() < deadline, "nothing runs beside this training"
        time.sleep(0.02)
    option("--weights").parent.mkdir(parents=True, exist_ok=True)
    option("--weights").write_text("half a model")
    if asked("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if asked("fail"):
        sys.exit("train: the loss is not finite")
    text += option("--recipe").read_text()
    print(f"fold 0  {item}  epoch 2/2  lr 1  train loss 1 accuracy 0  val loss 0.5000 accuracy 0.7500 auc 1")
    note("end")
if name == "evaluate":
    note("evaluate")
    if asked("spoil"):
        sys.exit("evaluate: no space left")
for entry in stage["outs"] + stage.get("metrics", []):
    path = entry if isinstance(entry, str) else next(iter(entry))
    model, _, fold = item.rpartition("-")
    path = path.replace("${item.model}", model).replace("${item.fold}", fold)
    files.append(path if Path(path).suffix else f"{path}/file")
for path in files:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"text": text}) if path.endswith(".json") else text)
"""
ON_TWO_GPUS = """
import sys
from pathlib import Path
from tumorboard.commands.run import reproduce_in_parallel
sys.exit(reproduce_in_parallel(sys.argv[1:], jobs=2, gpus=["5", "7"], logs=Path(".cache/logs")))
"""
UNDIVIDED = ON_TWO_GPUS.replace('gpus=["5", "7"]', "divide=False")
COMMAND = ("python", "-m", "tumorboard.commands.app", "run")
STAGES = ("digest", "phantom", "crop", "split", "balance@0", "recipe", "ensemble", "explain", "report")
MATRIX = ("train", "evaluate")
MODELS = ["linear", "cnn", "resnet18"]


class StubProject(Project):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for script in (self.folder / "stages").glob("[a-z]*.py"):
            script.write_text(STUB, encoding="utf-8")
        self.journal = folder / "journal"
        self.environment |= {"JOURNAL": str(self.journal), "PYTHONPATH": str(self.folder / "src")}
        self.environment.pop("OMP_NUM_THREADS", None)
        self.write_params({}, MODELS)
        self.drop_recipes()
        self.commit("stubs")

    def script(self, together: int = 0, **models: str) -> None:
        """Sets what the next trainings do and deletes the notes of the last ones."""
        shutil.rmtree(self.journal, ignore_errors=True)
        self.journal.mkdir()
        (self.journal / "notes").touch()
        for kind, model in models.items():
            (self.journal / kind).write_text(model, encoding="utf-8")
        self.environment["TOGETHER"] = str(together)

    def side_by_side(self, *targets: str, fails: bool = False) -> str:
        return self("python", "-c", ON_TWO_GPUS, *targets, fails=fails)

    def notes(self, event: str = "") -> list[dict[str, str | None]]:
        """The notes of the trainings, or those of one event: 'begin' or 'end'."""
        notes = [json.loads(line) for line in (self.journal / "notes").read_text(encoding="utf-8").splitlines()]
        return [note for note in notes if event in ("", note["event"])]

    def trained(self) -> list[str]:
        return sorted(str(note["item"]) for note in self.notes("begin"))

    @property
    def lock(self) -> bytes:
        return (self.folder / "dvc.lock").read_bytes()

    def locked(self) -> dict[str, object]:
        return yaml.safe_load(self.lock)["stages"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> StubProject:
    return StubProject(tmp_path_factory.mktemp("parallel"))


def test_trainings_overlap_on_one_gpu_each_and_the_lock_file_equals_a_serial_runs(project: StubProject) -> None:
    project.script()
    project("dvc", "repro")
    assert len(project.trained()) == 3
    serial = project.lock
    project("git", "clean", "-dfxq")  # DVC's cache among them
    assert not (project.folder / ".dvc/cache").exists()

    project.script(together=2)
    project.side_by_side()
    begun = project.notes("begin")
    assert project.trained() == ["cnn-0", "linear-0", "resnet18-0"]
    assert [note["event"] for note in project.notes()][:2] == ["begin", "begin"]  # each waited for the other
    assert {note["CUDA_VISIBLE_DEVICES"] for note in begun[:2]} == {"5", "7"}
    assert begun[2]["CUDA_VISIBLE_DEVICES"] in ("5", "7")
    evaluated = project.notes("evaluate")
    assert sorted(str(note["item"]) for note in evaluated) == project.trained()  # once each
    assert {note["CUDA_VISIBLE_DEVICES"] for note in evaluated} == {"5", "7"}
    assert project.lock == serial
    project.commit("side by side")


def test_failed_trainings_leave_the_others_running_and_are_named_with_their_logs(project: StubProject) -> None:
    before = project.locked()
    project.write_params({"train": {"lr": 0.01}}, MODELS)  # a stub's recipe holds the shared one, whatever its model
    project.script(together=2, fail="cnn", kill="linear")
    said = project.side_by_side(fails=True)
    assert project.trained() == ["cnn-0", "linear-0", "resnet18-0"]
    assert "2 of 4 stages failed" in said
    assert "train@cnn-0  train: the loss is not finite" in said
    assert re.search(
        r"train@linear-0  failed to run: python -m stages.train --model linear .*, exited with -?\d+\n", said
    )
    (log,) = re.findall(r"^    (\S+train@cnn-0\.log)$", said, flags=re.M)
    assert "the loss is not finite" in (project.folder / log).read_text(encoding="utf-8")
    assert re.search(r"^done     train@resnet18-0  epoch 2/2  val loss 0.5000 accuracy 0.7500$", said, flags=re.M)
    after = project.locked()
    changed = {stage for stage in after if after[stage] != before[stage]}
    # The stub's evaluation writes the same again, so that only its dependency is new.
    assert changed == {"recipe", "train@resnet18-0", "evaluate@resnet18-0"}


def test_a_failed_evaluation_is_named_and_repeated_without_a_training(project: StubProject) -> None:
    project.write_params({"train": {"lr": 0.02}}, MODELS)
    project.script(together=2, spoil="cnn")
    said = project.side_by_side(fails=True)
    assert "1 of 6 stages failed" in said
    assert "evaluate@cnn-0  evaluate: no space left" in said
    assert {note["CUDA_VISIBLE_DEVICES"] for note in project.notes("evaluate")} == {"5", "7"}
    project.script()
    project.side_by_side()
    assert [(note["event"], note["item"]) for note in project.notes()] == [("evaluate", "cnn-0")]
    project.write_params({"train": {"lr": 0.01}}, MODELS)


def test_threads_that_are_set_are_not_divided(project: StubProject) -> None:
    project.write_params({"train": {"lr": 0.03}}, MODELS)
    project.script(together=2)
    said = project("python", "-c", UNDIVIDED)
    assert len(project.trained()) == 3
    assert {note["OMP_NUM_THREADS"] for note in project.notes()} == {None}
    assert "Each training has" not in said
    project.write_params({"train": {"lr": 0.01}}, MODELS)


def test_another_run_trains_only_what_failed_and_the_command_divides_the_threads(project: StubProject) -> None:
    project.script(together=2)
    said = project(*COMMAND, "--jobs", "2")
    assert project.trained() == ["cnn-0", "linear-0"]
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {note["OMP_NUM_THREADS"] for note in project.notes("begin")} == {str(threads)}
    assert {note["CUDA_VISIBLE_DEVICES"] for note in project.notes("begin")} == {os.environ.get("CUDA_VISIBLE_DEVICES")}
    assert f"Each training has {threads} of the processor's" in said
    assert set(project.locked()) == {*STAGES, *(f"{verb}@{model}-0" for verb in MATRIX for model in MODELS)}


def test_results_are_in_the_run_cache(project: StubProject) -> None:
    project("git", "checkout", "--quiet", "HEAD", "params.yaml")
    project.script()
    project("dvc", "repro", "train")
    assert project.trained() == []
    # As where a run was stopped after its trainings: results in the run cache, no entries in dvc.lock.
    project.write_params({"train": {"lr": 0.01}}, MODELS)
    assert "done     train@cnn-0  from the run cache" in project.side_by_side()
    assert project.trained() == []
    parallel = project.lock

    project("git", "checkout", "--quiet", "HEAD", "dvc.lock")
    for folder in (".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.folder / folder)
    project("dvc", "repro")
    assert project.trained() == ["cnn-0", "linear-0", "resnet18-0"]
    assert project.lock == parallel


def test_a_clone_without_the_cache_trains_once_though_dvc_lock_has_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output of a training is another one each time, as it has the seconds of the epochs."""
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    study = tmp_path / "study"
    study.mkdir()
    monkeypatch.chdir(study)
    train = {"matrix": {"model": ["a", "b"]}, "cmd": "date +%s%N | tee -a ../trained > ${item.model}", "deps": ["data"]}
    stages = {
        "train": train | {"outs": ["${item.model}"]},
        "report": {"cmd": "cat a > r", "deps": ["a"], "outs": ["r"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    Path("data").write_text("1", encoding="utf-8")
    Repo.init(no_scm=True).close()
    with Repo() as repo:
        repo.reproduce()
    order = [*yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]]
    for name in (".dvc/cache", "a", "b", "r"):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    assert reproduce_in_parallel([], jobs=1, gpus=[], logs=tmp_path / "logs") == 0
    trained = (tmp_path / "trained").read_text(encoding="utf-8").split()
    assert len(trained) == 4  # each model twice in all
    assert sorted(Path(name).read_text(encoding="utf-8").strip() for name in "ab") == sorted(trained[2:])
    assert [*yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]] == order


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended; a zombie, for which no parent has waited yet, has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_signal_ends_the_trainings_and_leaves_the_lock_file_whole(project: StubProject) -> None:
    project.write_params({"train": {"lr": 0.03}}, MODELS)
    project.script(hang="cnn linear")
    command = [sys.executable, "-c", ON_TWO_GPUS]
    process = subprocess.Popen(command, cwd=project.folder, env=project.ordinary, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(project.notes("begin")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    before = project.lock
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped" in said
    assert not any(runs(int(str(note["pid"]))) for note in project.notes("begin"))
    assert project.lock == before
    assert len(project.notes("begin")) == 2, "a training began after the signal"


@pytest.mark.parametrize("command", ["run", "control"])
def test_a_folder_that_is_no_study_is_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(tumorboard, [command])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"{command}: params.yaml: {tmp_path} is no study: it has no params.yaml. Change into the folder of a study; "
        "`tumorboard new` makes one\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_does_not_exist_is_one_message(project: StubProject) -> None:
    said = project(*COMMAND, "train@alexnet-0", fails=True)
    assert re.search(r"^run: .*train@alexnet-0", said, flags=re.M)
    assert "Traceback" not in said


def test_a_failed_earlier_stage_stops_before_any_training(project: StubProject) -> None:
    project.script()
    project.write_params({"train": {"lr": 0.04}}, MODELS)
    with (project.folder / "stages/split.py").open("a", encoding="utf-8") as file:
        file.write("sys.exit('split: too few patients')\n")
    assert "split: too few patients" in project.side_by_side(fails=True)
    assert project.trained() == []


def runtime_of(params: Params, **changes: object) -> object:
    return params.runtime.model_copy(update={"device": "auto", "processes": "auto"} | changes)


def test_the_gpus_are_those_that_torch_finds(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert choose_gpus(None, runtime_of(params)) == ["0", "1"]
    assert choose_gpus(None, runtime_of(params, device="cpu")) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a,9")  # CUDA stops at the first that does not exist
    assert choose_gpus(None, runtime_of(params)) == ["3", "GPU-8a"]
    assert choose_gpus("4,6", runtime_of(params, processes=1)) == ["4", "6"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert choose_gpus(None, runtime_of(params)) == []


@pytest.mark.parametrize(
    ("options", "gpus", "threads", "jobs", "divide"),
    [
        ([], [], "auto", 1, True),
        ([], [], 1, 5, False),
        ([], ["0", "1"], 1, 2, False),
        (["--jobs", "3"], [], "auto", 3, True),
        (["--jobs", "3"], ["0", "1"], "auto", 3, True),
    ],
)
def test_number_of_trainings_at_a_time(
    options: list[str],
    gpus: list[str],
    threads: str | int,
    jobs: int,
    divide: bool,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, object] = {}

    def reproduce(_: list[str], **settings: object) -> int:
        said.update(settings)
        return 0

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    changed = params.model_copy(update={"runtime": params.runtime.model_copy(update={"threads": threads})})
    monkeypatch.setattr(run_module, "load_params", lambda *_: changed)
    monkeypatch.setattr(run_module, "choose_gpus", lambda *_: gpus)
    monkeypatch.setattr(run_module, "prepare_start", lambda *_: [])
    monkeypatch.setattr(run_module, "reproduce_in_parallel", reproduce)
    monkeypatch.setattr(trainings, "_thread_count", lambda: 5)
    result = CliRunner().invoke(run_module.app, options)
    assert result.exit_code == 0, result.output
    assert (said["jobs"], said["gpus"], said["divide"]) == (jobs, gpus, divide)


@pytest.mark.parametrize(
    ("wanted", "changes", "message"),
    [
        ("0,1,2", {}, "torch finds 2 GPUs"),
        ("0,0", {}, "each once"),
        ("0", {"device": "cpu"}, "runtime.device is cpu"),
        (None, {"processes": 2}, "runtime.processes is 2"),
    ],
)
def test_gpus_that_do_not_exist_or_do_not_fit_are_refused(
    params: Params, monkeypatch: pytest.MonkeyPatch, wanted: str | None, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=message):
        choose_gpus(wanted, runtime_of(params, **changes))
