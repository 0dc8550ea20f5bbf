"""Signals at random moments: each program ends within 3 seconds, with one line, and leaves nothing behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.training.test_elastic import STAGE, _project
from tumorboard.base.schema import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3.0
# Python's own start has no handler yet, so that the moments begin once SIGTERM is caught.
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Starts Python in a session of its own, as a terminal does, and returns once it handles signals."""
    (folder / "temporary").mkdir(exist_ok=True)
    own = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "TMPDIR": str(folder / "temporary")}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1]
        if int(status.split()[0], 16) & SIGTERM_BIT:
            break
        time.sleep(0.002)
    return process


def session(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Returns what runs in the session of a process."""
    members = []
    for other in psutil.process_iter():
        try:
            if os.getsid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                members.append(other)
        except (psutil.Error, ProcessLookupError):
            continue
    return members


def check_end(process: subprocess.Popen[str], name: str, number: int, to_all: bool) -> None:
    """Sends a signal to the process, or to its whole session as Ctrl-C does, and checks how it ends."""
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    try:
        out, error = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    while session(process) and time.monotonic() - began < SECONDS:
        time.sleep(0.01)  # a worker that has read the end of its pipe
    assert session(process) == []
    assert time.monotonic() - began < SECONDS
    assert process.returncode == 128 + number, error
    *before, last = error.strip().splitlines()
    assert last in (f"{name}: interrupted", *(["tumorboard: interrupted"] if name == "check" else []))
    assert all(line.startswith("crop: 300 files") for line in before), error  # the stage's own last words
    assert "Traceback" not in out


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with 300 small images, which three processes decode."""
    tree = read_yaml(ROOT / "params.yaml")
    tree["data"] |= {"raw": "raw", "group_pattern": None, "unit": None, "positive": None}
    tree |= {"study": "Noise", "preset": "general"}
    tree["runtime"]["workers"] = 3
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        path = tmp_path / "raw" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path


PROGRAMS = {
    "check": ["-m", "tumorboard.commands.app", "check", "raw"],
    "crop": ["-m", "stages.crop", "--out", "out", "--metrics", "metrics.json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_that_decode_in_several_processes_end_at_any_moment(name: str, project: Path) -> None:
    whole = time.monotonic()
    assert start(PROGRAMS[name], project).wait(120) == 0
    whole = time.monotonic() - whole
    moments = random.Random(12)  # noqa: S311
    tried = 0
    for _ in range(40):
        shutil.rmtree(project / ".cache", ignore_errors=True)
        process = start(PROGRAMS[name], project)
        number = moments.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM])
        try:
            process.wait(moments.uniform(0, 0.7 * whole))  # in the last part a signal may come after all work is done
            process.communicate()  # it has ended before the signal
        except subprocess.TimeoutExpired:
            check_end(process, name, number, to_all=number == signal.SIGINT or moments.random() < 0.5)
            tried += 1
        if tried == 10:
            break
    assert tried == 10
    assert list((project / "temporary").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_ends_while_it_imports_starts_and_trains(tmp_path: Path, processes: int) -> None:
    _project(tmp_path)
    for file, old, new in (
        ("params.yaml", "processes: 1", f"processes: {processes}"),
        ("recipe.json", '"epochs": 12', '"epochs": 4000'),
    ):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    check_end(start(["-m", *STAGE], tmp_path), "train", signal.SIGINT, to_all=True)
    importing = start(["-m", *STAGE], tmp_path)
    time.sleep(1)
    check_end(importing, "train", signal.SIGTERM, to_all=False)
    for number, to_all in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        process = start(["-m", *STAGE], tmp_path)
        assert process.stdout is not None
        process.stdout.readline()  # the line of an epoch
        check_end(process, "train", number, to_all)


SLOW = """
import sys, time
from tumorboard.base.faults import reported_errors
from tumorboard.base.interrupts import handle_signals

class Careless:
    def __del__(self):
        time.sleep(60)  # an exception that is raised in here is swallowed

handle_signals("slow")
with reported_errors("slow"):
    print("began", flush=True)
    WORK
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("Careless()", id="in a destructor"),
        pytest.param("import ctypes; ctypes.CDLL(None).sleep(60)", id="in a library"),
        pytest.param("try: time.sleep(60)\n    except BaseException: pass", id="swallowed"),
        pytest.param("try: time.sleep(60)\n    except BaseException: raise ValueError from None", id="replaced"),
    ],
)
def test_a_signal_that_meets_careless_code_ends_the_program_too(tmp_path: Path, work: str) -> None:
    process = start(["-c", SLOW.replace("WORK", work)], tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert time.monotonic() - began < SECONDS
    assert process.returncode == 130
    assert error.strip().endswith("slow: interrupted")


def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    code = SLOW.replace("WORK", "sys.exit()")
    run: Callable[[str], str] = lambda before: f"{before}\n{code}"  # noqa: E731
    check = "import atexit, signal; atexit.register(lambda: print(signal.getsignal(signal.SIGHUP).name))"
    ignored = run(f"{check}; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    done = subprocess.run(
        [sys.executable, "-c", ignored],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["began", "SIG_IGN"]
