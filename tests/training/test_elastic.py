"""A group that loses a worker, and two hosts that lose each other, end with the scores of a run that lost nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from tumorboard.data.store import write_store
from tumorboard.params import load_params, resolve_recipe
from tumorboard.tables import write_json, write_table

ROOT = Path(__file__).resolve().parents[2]
STAGE = ("stages.train", "cnn", "0", "store", "manifest.csv", "balance", "recipe.json", "model.safetensors", "out")
PATIENCE = 240  # seconds, for machines with much else to do
EPOCHS = 12


def _project(folder: Path) -> Path:
    """A folder with params.yaml, a crop store of 24 images in two folds, and the recipe of a cnn."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["crop"]["side"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1, "timeout": 10.0, "checkpoint_seconds": 0.001}
    # So that rounding, which hosts with other numbers of threads do differently, stays rounding.
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
    """Start torchrun with two workers in all; what it says goes to the file `log`."""
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    environment = os.environ | own
    command = [*before, sys.executable, "-m", "torch.distributed.run", *settings, "-m", *STAGE, "metrics.json"]
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


def _workers(torchrun: int) -> list[int]:
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return [pid for pid in map(int, children) if b"stages.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _results(project: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    return pd.read_csv(project / "out" / "history.csv"), load_file(project / "model.safetensors")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """History and weights of two processes that lost nothing."""
    project = _project(tmp_path_factory.mktemp("whole"))
    process = _torchrun(project, "log", [], "--standalone", "--nproc-per-node", "2")
    assert process.wait(PATIENCE) == 0, (project / "log").read_text()
    return _results(project)


def _check(project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]]) -> None:
    """Batch norm's statistics are rounded otherwise where they were averaged on the way; nothing else is."""
    history, weights = _results(project)
    pd.testing.assert_frame_equal(history, expected[0], rtol=1e-3, atol=1e-4)
    for name, value in expected[1].items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_torchrun_starts_the_group_again_when_a_worker_was_killed(
    project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]]
) -> None:
    settings = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    with _torchrun(project, "log", [], *settings) as process:
        try:
            _wait_until(lambda: _is_in_epoch(project, 3), process)
            os.kill(_workers(process.pid)[1], signal.SIGKILL)
            assert process.wait(PATIENCE) == 0, (project / "log").read_text()
        finally:
            process.kill()
    assert "resumed from epoch " in (project / "log").read_text()
    _check(project, expected)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, joined by a cable, at 10.77.0.1 and 10.77.0.2."""
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


def test_two_hosts_of_which_one_is_cut_off_and_comes_back(
    project: Path, expected: tuple[pd.DataFrame, dict[str, np.ndarray]], hosts: list[str]
) -> None:
    """The cable is out for longer than a worker waits for another; both torchruns meet again and start the group."""
    processes = []
    for number, name in enumerate(hosts, 1):
        before = ["ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable"]
        # In a namespace a host's name says nothing of its address: is_host tells who keeps the meeting point.
        meeting = f"join_timeout={PATIENCE},last_call_timeout=5,is_host={int(number == 1)}"
        settings = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "5", "--rdzv-backend", "c10d"]
        settings += ["--rdzv-endpoint", "10.77.0.1:29400", "--rdzv-id", "test", "--rdzv-conf", meeting]
        processes.append(_torchrun(project, f"log{number}", before, *settings, "--local-addr", f"10.77.0.{number}"))
    try:
        _wait_until(lambda: _is_in_epoch(project, 3), *processes)
        _ip("-n", hosts[1], "link", "set", "cable", "down")
        _wait_until(lambda: all(not _workers(process.pid) for process in processes), *processes)
        _ip("-n", hosts[1], "link", "set", "cable", "up")
        for number, process in enumerate(processes, 1):
            assert process.wait(PATIENCE) == 0, (project / f"log{number}").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert any("resumed from epoch " in (project / f"log{number}").read_text() for number in (1, 2))
    _check(project, expected)
