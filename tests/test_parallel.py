"""Trainings side by side, through the real DVC and dvc.yaml in a copy of the project whose stages are stubs."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from tests.test_pipeline import Project
from tumorboard.errors import InputError
from tumorboard.parallel import Training, _View, choose_gpus
from tumorboard.params import Params
from tumorboard.training.loop import _line
from tumorboard.training.state import Epoch

# Writes what dvc.yaml says that its stage writes. Training also keeps a journal; JOURNAL/fail, JOURNAL/kill and
# JOURNAL/hang name models, and with TOGETHER none ends before so many have begun.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
import yaml

name, _, item = os.environ["DVC_STAGE"].partition("@")
stage = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][name]
text = os.environ["DVC_STAGE"] + "\\n"
journal = Path(os.environ["JOURNAL"])

def note(what):
    seen = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    with (journal / "notes").open("a") as file:
        file.write(json.dumps({"what": what, "item": item, "pid": os.getpid(), **seen}) + "\\n")

def begun():
    return (journal / "notes").read_text().count('"begin"')

def asked(kind):
    return item.split("-")[0] in ((journal / kind).read_text() if (journal / kind).exists() else "")

if name == "recipe":
    params = yaml.safe_load(Path("params.yaml").read_text())
    files = [f"recipes/{model}.json" for model in params["models"]]
    text = json.dumps(params["train"])
elif name in ("crop", "split"):
    files = [f"data/{name}/{file}" for file in ("manifest.csv", "images.csv", "quarantined.csv", "store/index.csv")]
else:
    files = []
if name == "train":
    note("begin")
    deadline = time.monotonic() + 60
    while begun() < int(os.environ.get("TOGETHER", 0)) or asked("hang"):
        assert time.monotonic() < deadline, "nothing runs beside this training"
        time.sleep(0.02)
    Path(sys.argv[7]).parent.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[7]).write_text("half a model")
    if asked("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if asked("fail"):
        sys.exit("train: the loss is not finite")
    text += Path(sys.argv[6]).read_text()
    print(f"fold 0  {item}  epoch 2/2  lr 1  train loss 1 accuracy 0  val loss 0.5000 accuracy 0.7500 auc 1")
    note("end")
for entry in stage["outs"] + stage.get("metrics", []):
    path = entry if isinstance(entry, str) else next(iter(entry))
    model, _, fold = item.rpartition("-")
    path = path.replace("${item.model}", model).replace("${item.fold}", fold)
    files.append(path if Path(path).suffix else f"{path}/file")
for path in files:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"text": text}) if path.endswith(".json") else text)
"""
ON_TWO_GPUS = "import sys; from pathlib import Path; from tumorboard.parallel import run; " + (
    "sys.exit(run(sys.argv[1:], 2, ['5', '7'], Path('.cache/logs')))"
)
COMMAND = (sys.executable, "-m", "tumorboard.cli", "run")
STAGES = ("phantom", "crop", "split", "balance@0", "recipe", "ensemble", "report")
MATRIX = ("train", "evaluate")
MODELS = ["linear", "cnn", "resnet18"]


class StubProject(Project):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for script in (self.folder / "stages").glob("[a-z]*.py"):
            script.write_text(STUB, encoding="utf-8")
        pipeline = self.folder / "dvc.yaml"  # the modules, on which stubs do not depend, are most of what DVC parses
        pipeline.write_text(re.sub(r"^    - src/.*\n", "", pipeline.read_text(encoding="utf-8"), flags=re.M))
        self.journal = folder / "journal"
        self.environment |= {"JOURNAL": str(self.journal), "PYTHONPATH": str(self.folder / "src")}
        self.environment.pop("OMP_NUM_THREADS", None)
        self.write_params({}, MODELS)
        self.commit("stubs")

    def script(self, together: int = 0, **models: str) -> None:
        """What the next trainings do; forgets what the last ones noted."""
        shutil.rmtree(self.journal, ignore_errors=True)
        self.journal.mkdir()
        (self.journal / "notes").touch()
        for kind, model in models.items():
            (self.journal / kind).write_text(model, encoding="utf-8")
        self.environment["TOGETHER"] = str(together)

    def side_by_side(self, *targets: str, fails: bool = False) -> str:
        return self(sys.executable, "-c", ON_TWO_GPUS, *targets, fails=fails)

    def notes(self, what: str) -> list[dict[str, str | None]]:
        found = [json.loads(line) for line in (self.journal / "notes").read_text(encoding="utf-8").splitlines()]
        return [note for note in found if what in ("", note["what"])]

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


def test_trainings_overlap_one_a_gpu_and_the_lock_file_is_a_serial_runs(project: StubProject) -> None:
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
    assert [note["what"] for note in project.notes("")][:2] == ["begin", "begin"]  # each waited for the other
    assert {note["CUDA_VISIBLE_DEVICES"] for note in begun[:2]} == {"5", "7"}
    assert begun[2]["CUDA_VISIBLE_DEVICES"] in ("5", "7")
    assert project.lock == serial
    project.commit("side by side")


def test_failed_trainings_leave_the_others_running_and_are_named_with_their_logs(project: StubProject) -> None:
    before = project.locked()
    project.write_params({"train": {"lr": 0.01}}, MODELS)  # a stub's recipe holds the shared one, whatever its model
    project.script(together=2, fail="cnn", kill="linear")
    said = project.side_by_side(fails=True)
    assert project.trained() == ["cnn-0", "linear-0", "resnet18-0"]
    assert "2 of 3 trainings failed" in said
    assert "train@cnn-0  train: the loss is not finite" in said
    assert re.search(r"train@linear-0  failed to run: python -m stages.train linear .*, exited with -?\d+\n", said)
    (log,) = re.findall(r"^    (\S+train@cnn-0\.log)$", said, flags=re.M)
    assert "the loss is not finite" in (project.folder / log).read_text(encoding="utf-8")
    assert re.search(r"^done     train@resnet18-0  epoch 2/2  val loss 0.5000 accuracy 0.7500$", said, flags=re.M)
    after = project.locked()
    changed = {stage for stage in after if after[stage] != before[stage]}
    # The stub's evaluation writes the same again, so that only its dependency is new.
    assert changed == {"recipe", "train@resnet18-0", "evaluate@resnet18-0"}


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


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended: an ended one stays in the table until its parent asks for it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_signal_ends_the_trainings_and_leaves_the_lock_file_whole(project: StubProject) -> None:
    project.write_params({"train": {"lr": 0.03}}, MODELS)
    project.script(hang="cnn linear")
    command = [sys.executable, "-c", ON_TWO_GPUS]
    process = subprocess.Popen(command, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
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


def training(folder: Path, name: str, log: str | None, status: int | None) -> Training:
    """A training whose process has ended with a status, runs (None) or, without a log, has not begun."""
    if log is not None:
        (folder / name).write_text(log, encoding="utf-8")
    process = None if log is None else SimpleNamespace(poll=lambda: status)
    return Training(f"train@{name}", folder / name, process)


def test_progress_is_read_from_the_line_that_training_prints(tmp_path: Path) -> None:
    scores = {"loss": 0.25, "accuracy": 0.875, "auc": 0.9}
    job = SimpleNamespace(name="cnn", fold=0, recipe=SimpleNamespace(epochs=12))
    epoch = Epoch(number=3, lr=0.1, train=scores, val=scores, best=True, seconds=1.0, images_per_second=9.0)
    running = training(tmp_path, "a", f"Running stage 'train@a'\n{_line(job, epoch)}\nsome more\n", None)
    assert str(running) == "running  train@a  epoch 3/12  val loss 0.2500 accuracy 0.8750"
    assert str(training(tmp_path, "b", "bar 10%\rbar 90%\ntrain: no luck\n\n", 1)) == "failed   train@b  train: no luck"
    assert str(training(tmp_path, "c", None, None)) == "queued   train@c"
    assert str(training(tmp_path, "d", "", None)) == "running  train@d"


def read_to_end(master: int) -> str:
    """What was written to a terminal whose other end is closed: in pieces, of which an error is the last on Linux."""
    pieces = []
    with os.fdopen(master, "rb", buffering=0) as file, suppress(OSError):
        while piece := file.read(2**16):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_terminal_shows_a_line_a_training_and_a_low_one_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = [training(tmp_path, f"done{i}", "", 0) for i in range(3)]
    trainings += [training(tmp_path, f"wait{i}", None, None) for i in range(4)]
    trainings[1] = training(tmp_path, "now", "epoch 1/2  val loss 1 accuracy 0", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    shown = {}
    for height in (20, 5):
        monkeypatch.setenv("LINES", str(height))
        master, slave = pty.openpty()
        with os.fdopen(slave, "w") as terminal, _View(trainings, terminal) as view:
            view.show()
        text = read_to_end(master)
        first, *_, last = text.split("\x1b[1A")  # up a line: the second picture is drawn over the first
        assert text.count("\x1b[1A") == first.count("\n")
        shown[height] = re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", last).split()
    assert [word for word in shown[20] if "@" in word] == [training.stage for training in trainings]
    assert " ".join(shown[5]) == "running train@now epoch 1/2 val loss… and 2 done, 4 queued"


def runtime_of(params: Params, **changes: object) -> object:
    return params.runtime.model_copy(update={"device": "auto", "processes": "auto"} | changes)


def test_gpus_are_those_that_torch_finds(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("wanted", "changes", "message"),
    [
        ("0,1,2", {}, "torch finds 2 GPUs"),
        ("0,0", {}, "each once"),
        ("0", {"device": "cpu"}, "runtime.device is cpu"),
        (None, {"processes": 2}, "runtime.processes is 2"),
    ],
)
def test_gpus_that_cannot_be_are_refused(
    params: Params, monkeypatch: pytest.MonkeyPatch, wanted: str | None, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=message):
        choose_gpus(wanted, runtime_of(params, **changes))
