"""Trainings on a Dask cluster: a real scheduler, two workers in folders of their own, and a small project of DVC."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.docs_blocks import environment_of_a_stranger

WAIT_SECONDS = 240
# As in the project's dvc.yaml, a training reads parts of a stage's output, and its metrics are in git.
PIPELINE = {
    "stages": {
        "prepare": {
            "cmd": "mkdir -p data/store && echo 1 > data/store/a && echo 2 > data/rows && echo 3 > data/not-needed",
            "outs": ["data"],
        },
        "train": {
            "matrix": {"model": ["a", "b", "c"]},
            "cmd": "python train.py ${item.model}",
            "deps": ["data/rows", "data/store", "train.py"],
            "params": ["lr"],
            "outs": ["models/${item.model}"],
            "metrics": [{"metrics/${item.model}.json": {"cache": False}}],
        },
        "report": {"cmd": "cat models/* > report", "deps": ["models"], "outs": ["report"]},
    }
}
# JOURNAL/<model>.hang lets a training wait, JOURNAL/<model>.fail lets it fail.
TRAIN = """
import json, os, sys, time
from pathlib import Path
model, journal = sys.argv[1], Path(os.environ["JOURNAL"])
with (journal / "notes").open("a") as file:
    note = {"model": model, "pid": os.getpid(), "folder": os.getcwd(), "threads": os.environ.get("OMP_NUM_THREADS")}
    file.write(json.dumps(note | {"worker": os.environ.get("WORKER")}) + "\\n")
print(f"epoch 1/1  val loss 0.5 accuracy 0.75", flush=True)
while (journal / f"{model}.hang").exists():
    time.sleep(0.05)
if (journal / f"{model}.fail").exists():
    sys.exit("train: the loss is not finite")
for path in (Path("models", model), Path("metrics", model + ".json")):
    path.parent.mkdir(exist_ok=True)
    text = Path("data/rows").read_text() + Path("data/store/a").read_text() + Path("params.yaml").read_text()
    path.write_text(json.dumps(text))
"""
RUN = """
import sys
from pathlib import Path
from tumorboard.base.faults import reported_errors
from tumorboard.commands.cluster import Cluster
from tumorboard.commands.run import reproduce_in_parallel
with reported_errors("run"):
    cluster = Cluster(sys.argv[1], own_checkouts="own" in sys.argv)
    sys.exit(reproduce_in_parallel([], logs=Path(".cache/logs").absolute(), cluster=cluster))
"""


class Study:
    """A project of git and DVC with a remote each, and the processes of a cluster that see it."""

    def __init__(self, base: Path) -> None:
        self.base, self.folder, self.journal = base, base / "study", base / "journal"
        self.environment = environment_of_a_stranger(base) | {
            "JOURNAL": str(self.journal),
            "OMP_NUM_THREADS": "3",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.serial = ""  # dvc.lock as `dvc repro` wrote it
        self.journal.mkdir()
        self.folder.mkdir()
        self.write("dvc.yaml", yaml.safe_dump(PIPELINE))
        self.write("train.py", TRAIN)
        self.write(".gitignore", "/data/\n/models/\n/report\n/.cache/\n")
        self.set_rate(1)
        self("git", "init", "--quiet", "--bare", str(base / "git"))
        self("git", "init", "--quiet")
        self("git", "config", "user.name", "tests")
        self("git", "config", "user.email", "tests@localhost")
        self("git", "remote", "add", "origin", str(base / "git"))
        self("dvc", "init", "--quiet")
        self("dvc", "config", "core.autostage", "false")
        self("dvc", "remote", "add", "--default", "storage", str(base / "remote"))
        self.commit()

    def __call__(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def set_rate(self, rate: int) -> None:
        self.write("params.yaml", f"lr: {rate}\n")

    def commit(self) -> None:
        self("git", "add", "-A")
        self("git", "commit", "--quiet", "--allow-empty", "-m", "a state")
        self("git", "push", "--quiet", "--set-upstream", "origin", "HEAD")

    def script(self, *files: str) -> None:
        """Sets what the next trainings do and deletes the notes of the last ones."""
        shutil.rmtree(self.journal)
        self.journal.mkdir()
        for name in ("notes", *files):
            (self.journal / name).touch()

    def notes(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.journal / "notes").read_text(encoding="utf-8").splitlines()]

    def trained(self) -> list[str]:
        return sorted(note["model"] for note in self.notes())

    @property
    def lock(self) -> str:
        return (self.folder / "dvc.lock").read_text(encoding="utf-8")

    def forget(self) -> None:
        """Deletes all results: outputs, DVC's cache and dvc.lock."""
        for name in ("data", "models", ".dvc/cache"):
            shutil.rmtree(self.folder / name)
        for name in ("report", "dvc.lock"):
            (self.folder / name).unlink()

    def start(self, name: str, *words: str, **environment: str) -> None:
        """Starts a program of Dask in a folder of its own; its output is <name>.log."""
        (self.base / name).mkdir(exist_ok=True)
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--no-dashboard"],
                cwd=self.base / name,
                env=self.environment | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_worker(self, name: str, *words: str, **environment: str) -> None:
        own = ["--name", name, "--local-directory", str(self.base / name), "--nthreads", "4"]
        file = ["--scheduler-file", str(self.base / "scheduler.json")]
        self.start(name, "worker", *file, *own, *words, **({"WORKER": name} | environment))

    @property
    def address(self) -> str:
        file = self.base / "scheduler.json"
        wait_for(lambda: file.exists() and '"address"' in file.read_text())
        return str(json.loads(file.read_text())["address"])

    def run(self, *words: str, fails: bool = False) -> str:
        return self(sys.executable, "-c", RUN, self.address, *words, fails=fails)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, self.address, *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study that `dvc repro` has run, a scheduler and the workers `one` and `two`, each with four threads."""
    pytest.importorskip("distributed")
    base = tmp_path_factory.mktemp("cluster")
    made = Study(base)
    made.start("scheduler", "scheduler", "--port", "0", "--scheduler-file", str(base / "scheduler.json"))
    for name in ("one", "two"):
        made.start_worker(name)
    made.script()
    made("dvc", "repro")
    made.commit()
    made.serial = made.lock
    yield made
    for name in reversed(list(made.processes)):
        made.stop(name)


def test_each_worker_has_one_training_and_the_lock_file_equals_a_serial_runs(study: Study) -> None:
    study.forget()
    study.script("a.hang", "b.hang")
    run = study.begin()
    wait_for(lambda: len(study.notes()) == 2)
    time.sleep(2)
    assert study.trained() == ["a", "b"], "a worker of four threads had two trainings"
    assert {note["worker"] for note in study.notes()} == {"one", "two"}
    assert {note["folder"] for note in study.notes()} == {str(study.folder)}
    assert {note["threads"] for note in study.notes()} == {"3"}  # of the run, not the 1 that Dask sets in its workers
    for name in ("a", "b"):
        (study.journal / f"{name}.hang").unlink()
    said, _ = run.communicate()
    assert run.returncode == 0, said
    assert study.trained() == ["a", "b", "c"]
    assert f"done     train@a  on {socket.gethostname()}  epoch 1/1  val loss 0.5 accuracy 0.75\n" in said
    assert "epoch 1/1" in (study.folder / ".cache/logs/train@a.log").read_text()
    assert not list((study.folder / ".cache").glob("run-*"))
    assert study.lock == study.serial
    assert (study.folder / "report").read_text()


@pytest.mark.slow
def test_workers_in_checkouts_of_their_own_return_results_through_the_remotes(study: Study) -> None:
    study.forget()
    study.script()
    said = study.run("own")
    assert study.trained() == ["a", "b", "c"]
    folders = {Path(note["folder"]) for note in study.notes()}
    assert {folder.name for folder in folders} == {"0"}
    assert {folder.parents[2] for folder in folders} == {study.base / "one", study.base / "two"}
    assert all(not (folder / "data/not-needed").exists() for folder in folders)
    assert study.lock == study.serial
    assert "epoch 1/1" in (study.folder / ".cache/logs/train@b.log").read_text()
    assert "Running stage 'train@" not in said  # the last `dvc repro` took them from the run cache
    assert json.loads((study.folder / "metrics/a.json").read_text())


@pytest.mark.slow
def test_the_training_of_a_killed_worker_ends_with_it_and_goes_to_the_other(study: Study) -> None:
    study.set_rate(2)
    study.script("a.hang", "b.hang", "c.fail")
    run = study.begin()
    wait_for(lambda: len(study.notes()) == 2)
    first = next(note for note in study.notes() if note["model"] == "a")
    victim = study.processes.pop(first["worker"])
    (worker,) = [each for each in psutil.Process(victim.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    victim.kill()  # the nanny, which would start another worker
    worker.kill()
    victim.wait()
    wait_for(lambda: not is_running(int(first["pid"])))
    (study.journal / "b.hang").unlink()
    wait_for(lambda: study.trained().count("a") == 2)
    (study.journal / "a.hang").unlink()
    said, _ = run.communicate()
    study.start_worker(first["worker"])
    assert run.returncode == 1
    assert f"queued   train@a  the worker on {socket.gethostname()} is lost" in said
    assert {note["worker"] for note in study.notes()} == {"one", "two"}
    assert "1 of 3 stages failed" in said
    assert "train@c  train: the loss is not finite" in said
    assert study.trained() == ["a", "a", "b", "c"]
    locked = yaml.safe_load(study.lock)["stages"]
    assert {name: locked[name]["params"]["params.yaml"]["lr"] for name in locked if "train" in name} == {
        "train@a": 2,
        "train@b": 2,
        "train@c": 1,
    }


def begin_hanging(study: Study) -> "subprocess.Popen[str]":
    """Begins a run whose trainings hang, and returns its process when both workers have one."""
    study.set_rate(3)
    study.script("a.hang", "b.hang", "c.hang")
    run = study.begin()
    wait_for(lambda: len(study.notes()) == 2)
    return run


@pytest.mark.slow
def test_a_killed_run_ends_its_trainings(study: Study) -> None:
    run = begin_hanging(study)
    run.kill()
    run.communicate()
    wait_for(lambda: not any(is_running(int(note["pid"])) for note in study.notes()))
    assert len(study.notes()) == 2


@pytest.mark.slow
def test_a_signal_ends_the_trainings_before_the_run(study: Study) -> None:
    run = begin_hanging(study)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert "Stopped" in said
    assert not any(is_running(int(note["pid"])) for note in study.notes())


@pytest.mark.slow
def test_a_worker_with_another_tumorboard_is_named_and_not_used(study: Study) -> None:
    study.stop("one")
    other = study.base / "other"
    shutil.copytree(Path(__file__).parents[2] / "src", other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "tumorboard/training/losses.py").open("a") as file:
        file.write("# another version\n")
    study.start_worker("three", PYTHONPATH=str(other))
    study.set_rate(5)
    study.script()
    wait_for(lambda: "Registered to" in (study.base / "three.log").read_text())
    said = study.run()
    assert "has another tumorboard" in said
    assert {note["worker"] for note in study.notes()} == {"two"}
    study.stop("two")
    study.set_rate(6)
    said = study.run(fails=True)
    assert "the cluster has no worker that can train this study" in said
    assert "Traceback" not in said
