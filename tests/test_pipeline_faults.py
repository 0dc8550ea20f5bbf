"""The pipeline by DVC where something goes wrong meanwhile: edits, Ctrl-C; and one range of grey values for a set."""

import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.pipeline import Project, ran
from tumorboard.base.files import read_json, read_table
from tumorboard.base.presets import fill_empty
from tumorboard.base.schema import read_yaml
from tumorboard.data.store import CropStore
from tumorboard.models.model_file import load_model

pytestmark = pytest.mark.slow

SECONDS = 3.0  # from Ctrl-C to the end
WORK = "    summary = crop_images(images, ignored, job)\n"
# What somebody does while the stage runs, in the study's copy of the stage.
EDIT = '    if Path("edit.py").is_file():\n        exec(Path("edit.py").read_text())\n'


def edit_params(project: Project, changes: dict[str, Any]) -> None:
    """Sets keys of params.yaml by their dotted names."""
    file = project.folder / "params.yaml"
    tree = read_yaml(file)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = value
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small study with 24 images, 8 and 16 bits deep, and a table."""
    project = Project(tmp_path)
    raw = project.folder / "mine"
    raw.mkdir()
    pixels = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(24)]
    for number, name in enumerate(names):
        # Each file reaches to another brightest value, so that its own range would be another one.
        Image.fromarray(pixels.integers(100, 600 + 150 * number, (48, 48)).astype(np.uint16)).save(raw / name)
    lines = [f"{name},{'ab'[number % 2]},g{number // 2}" for number, name in enumerate(names)]
    (raw / "labels.csv").write_text("\n".join(["path,label,group", *lines, ""]))
    edit_params(project, {"data.raw": "mine", "data.group_pattern": None, "data.positive": None, "models": ["linear"]})
    return project


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        pytest.param(
            "text = Path('params.yaml').read_text()\n"
            "Path('params.yaml').write_text(text.replace('  side: 32', '  side: 16'))",
            "params.yaml: crop.side was 32 and is 16",
            id="params.yaml",
        ),
        pytest.param(
            "Path('mine/0.png').write_bytes(Path('mine/1.png').read_bytes())", "mine/0.png was changed", id="image"
        ),
        pytest.param("Path('mine/0.png').unlink()", "mine/0.png was removed", id="removed image"),
        pytest.param(
            "text = Path('mine/labels.csv').read_text()\n"
            "Path('mine/labels.csv').write_text(text.replace('0.png,a', '0.png,b'))",
            "mine/labels.csv was changed",
            id="table",
        ),
    ],
)
def test_an_edit_while_crop_runs_fails_the_run_and_nothing_is_recorded(project: Project, edit: str, named: str) -> None:
    script = project.folder / "stages/crop.py"
    text = script.read_text(encoding="utf-8")
    assert WORK in text
    script.write_text(text.replace(WORK, WORK + EDIT), encoding="utf-8")
    (project.folder / "edit.py").write_text(edit)
    log = project("dvc", "repro", "crop", fails=True)
    assert "crop: inputs changed while the stage ran; nothing was written, run it again:\n  " + named in log
    assert "Traceback" not in log
    assert not (project.folder / "data/crop").exists()
    assert not (project.folder / "metrics/crop.json").exists()
    assert "crop" not in read_yaml(project.folder / "dvc.lock")["stages"]

    (project.folder / "edit.py").unlink()
    if "removed" in named:
        table = project.folder / "mine/labels.csv"
        table.write_text(table.read_text().replace("0.png,a,g0\n", "", 1))
    assert "crop" in ran(project("dvc", "repro", "crop"))  # and not from the run cache
    store = CropStore(project.folder / "data/crop/store")
    recorded = read_yaml(project.folder / "dvc.lock")["stages"]["crop"]["params"]["params.yaml"]["crop"]
    used = fill_empty({"preset": "cells", "crop": recorded})["crop"]
    assert used == read_json(project.folder / "data/crop/store/crop.json")["crop"]
    assert store.size == used["side"]
    assert "up to date" in project("dvc", "repro", "crop")


def test_one_range_for_a_set_of_16_bits_reaches_the_model_s_card(project: Project) -> None:
    log = project("dvc", "repro", "crop")
    assert re.search(r"24 files are scaled each by its own range: \d+ different ranges.*: set crop\.window", log)
    assert read_json(project.folder / "metrics/crop.json")["own_range"] == 24
    edit_params(project, {"crop.window": "set", "split.folds": 2})
    log = project("dvc", "repro", "train")
    assert "own range" not in log
    facts = read_table(project.folder / "data/crop/images.csv")
    assert set(facts["scaling"]) == {"params"}
    ((low, high),) = set(zip(facts["low"], facts["high"], strict=True))
    window = (float(low), float(high))
    assert 100 <= window[0] < window[1] < 4050
    assert load_model(project.folder / "models/linear/0.safetensors", "cpu")[1].crop.window == window
    assert read_json(project.folder / "metrics/crop.json")["own_range"] == 0
    assert "up to date" in project("dvc", "repro", "train")

    # A store that was made otherwise is refused by name.
    edit_params(project, {"crop.window": [0.0, 5000.0]})
    log = project("dvc", "repro", "--single-item", "train@linear-0", fails=True)
    assert "was made with crop.window: set, but crop.window is [0.0, 5000.0]: run `dvc repro`" in log


def interrupt(project: Project, waits_for: str, seconds: float) -> tuple[int, list[str]]:
    """Interrupts `dvc repro train` as Ctrl-C in a terminal does; returns its status and the lines it then prints.

    Args:
        project: to run it in.
        waits_for: text to wait for in its output.
        seconds: to wait after that.
    """
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=project.folder,
        env=project.ordinary,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # The tests may run where Ctrl-C is ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    lines: list[str] = []
    assert process.stdout is not None
    output = process.stdout
    reader = threading.Thread(target=lambda: [lines.append(line) for line in output])
    reader.start()
    deadline = time.monotonic() + 240
    while not any(waits_for in line for line in lines):
        assert process.poll() is None, lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
    time.sleep(seconds)
    before, began = len(lines), time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    status = process.wait(30)
    assert time.monotonic() - began < SECONDS
    left = [each for each in psutil.process_iter() if in_session(each, process.pid)]
    assert left == []
    reader.join()
    return status, [line.strip() for line in lines[before:] if line.strip()]


def in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ProcessLookupError):
        return False


def test_ctrl_c_of_dvc_repro_is_two_lines_and_leaves_nothing_running(project: Project) -> None:
    """DVC adds its own line, and its status is 255."""
    edit_params(project, {"train.epochs": 5000, "split.folds": 2})
    status, lines = interrupt(project, "epoch 2/", 0.0)
    assert status == 255
    assert lines[-2] == "train: interrupted"
    assert lines[-1].startswith("ERROR: failed to reproduce 'train@linear-0'")
    assert lines[-1].endswith("exited with 130")
    assert all("epoch" in line for line in lines[:-2])
    moments = random.Random(12)  # noqa: S311
    for _ in range(4):
        status, lines = interrupt(project, "Running stage", moments.uniform(0, 4))
        assert status == 255
        assert not any("Traceback" in line for line in lines), lines
        assert sum("interrupted" in line for line in lines) == 1, lines
