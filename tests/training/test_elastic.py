"""Tests that a group that loses a worker or a host ends with the result of an undisturbed training."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from tests.warm_python import executable
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import load_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.schema import read_yaml
from tumorboard.data.store import write_store
from tumorboard.evaluation.held_out import read_held_out

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "model": "cnn",
    "fold": "0",
    "store": "store",
    "manifest": "manifest.csv",
    "balance": "balance",
    "recipe": "recipe.json",
    "weights": "model.safetensors",
    "held-out": "held_out.safetensors",
    "out": "out",
    "metrics": "metrics.json",
}
STAGE = ["stages.train", *(word for name, value in OPTIONS.items() for word in (f"--{name}", value))]
PATIENCE = 240  # seconds, for a busy machine
EPOCHS = 12


def _project(folder: Path) -> Path:
    """A folder with params.yaml, a crop store of 24 images in two folds, and the recipe of a cnn."""
    tree = read_yaml(ROOT / "params.yaml")
    tree["crop"]["side"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1, "timeout": 10.0, "checkpoint_seconds": 0.001}
    # A setting under which differences of rounding between hosts stay small.
    tree["train"] |= {"epochs": EPOCHS, "batch_size": 8, "precision": "off", "optimizer": "sgd", "lr": 0.01}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    ids = [f"{number}.jpg" for number in range(24)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 12, "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0] * 8 + [1] * 16, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    crops = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    write_store(folder / "store", ids, crops, 2)
    write_store(folder / "balance" / "store", [], crops[:0], 2)
    write_table(manifest, folder / "manifest.csv")
    write_table(manifest[8:], folder / "balance" / "manifest.csv")
    recipe = resolve_recipe(load_params(folder / "params.yaml"), "cnn")
    write_json(recipe.model_dump(), folder / "recipe.json")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return _project(tmp_path)


def _torchrun(project: Path, log: str, before: list[str], *settings: str) -> subprocess.Popen[bytes]:
    """Starts torchrun with two workers in all; its output goes to the file `log`."""
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    environment = os.environ | own
    python = sys.executable if before else executable()  # forks of tests/warm_python.py have its network
    command = [*before, python, "-m", "torch.distributed.run", *settings, "-m", *STAGE]
    with (project / log).open("wb") as output:
        return subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _wait_until(happened: Callable[[], bool], *processes: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), "ended too early"
        time.sleep(0.02)


def _is_in_epoch(project: Path, epoch: int) -> bool:
    return any((project / ".cache" / "checkpoints").glob(f"*/{epoch:06d}-*.ckpt"))


def _workers(project: Path) -> list[int]:
    """Returns the processes that train in a project."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if "stages.train" in words and "torch.distributed.run" not in words and process.cwd() == str(project):
                found.append(process.pid)
    return found


def _results(project: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    return pd.read_csv(project / "out" / "history.csv"), load_file(project / "model.safetensors")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The history and weights of an undisturbed training in two processes."""
    project = _project(tmp_path_factory.mktemp("whole"))
    process = _torchrun(project, "log", [], "--standalone", "--nproc-per-node", "2")
    assert process.wait(PATIENCE) == 0, (project / "log").read_text()
    return _results(project)


def _check(project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]]) -> None:
    """Only batch norm's statistics are rounded differently, because each checkpoint averages them."""
    history, weights = _results(project)
    pd.testing.assert_frame_equal(history, expected[0], rtol=1e-3, atol=1e-4)
    for name, value in expected[1].items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    held_out = read_held_out(project / "held_out.safetensors", rows=8, classes=2)
    assert held_out.epochs.min() >= 1
    assert held_out.scores[-1] == history["val_loss"].min()


def test_torchrun_restarts_the_group_when_a_worker_was_killed(
    project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]]
) -> None:
    settings = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    with _torchrun(project, "log", [], *settings) as process:
        try:
            _wait_until(lambda: _is_in_epoch(project, 3), process)
            os.kill(_workers(project)[1], signal.SIGKILL)
            assert process.wait(PATIENCE) == 0, (project / "log").read_text()
        finally:
            process.kill()
    assert "resumed from epoch " in (project / "log").read_text()
    _check(project, expected)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, connected by a virtual cable, with the addresses 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 for network namespaces")
    names = [f"tumorboard{number}_{os.getpid()}" for number in (1, 2)]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.mark.slow
def test_two_hosts_resume_after_one_was_disconnected(
    project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]], hosts: list[str]
) -> None:
    """The cable is down for longer than a worker waits; then both torchruns meet again and restart the group."""
    processes = []
    for number, name in enumerate(hosts, 1):
        before = ["ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable"]
        # A namespace's host name does not resolve to its address, so is_host names the host of the meeting point.
        meeting = f"join_timeout={PATIENCE},last_call_timeout=5,is_host={int(number == 1)}"
        settings = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "5", "--rdzv-backend", "c10d"]
        settings += ["--rdzv-endpoint", "10.77.0.1:29400", "--rdzv-id", "test", "--rdzv-conf", meeting]
        processes.append(_torchrun(project, f"log{number}", before, *settings, "--local-addr", f"10.77.0.{number}"))
    try:
        _wait_until(lambda: _is_in_epoch(project, 3), *processes)
        _ip("-n", hosts[1], "link", "set", "cable", "down")
        _wait_until(lambda: not _workers(project), *processes)
        _ip("-n", hosts[1], "link", "set", "cable", "up")
        for number, process in enumerate(processes, 1):
            assert process.wait(PATIENCE) == 0, (project / f"log{number}").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert any("resumed from epoch " in (project / f"log{number}").read_text() for number in (1, 2))
    _check(project, expected)
