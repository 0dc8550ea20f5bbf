"""What many tests share: the real params.yaml, shrunk."""

import fcntl
import gc
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import settings

from tests.pipeline import Project
from tests.warm_python import spawn_warm_children, warm_python
from tumorboard.base.params import Params, load_params

# Small networks on shared cores: a second thread waits for its turn more than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, and their children inherit that: signals are tested all the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run: a test fails because of a change, never by chance.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parents[1]
MakeOnce: TypeAlias = Callable[[str, Callable[[Path], object]], Path]

# Begun first, the longest in front, so that no process is left alone with one at the end. The first makes `finished`,
# for which others would wait: between it and them are long files that do without. (`make test` keeps this order by
# --no-loadscope-reorder; by default xdist begins with the files of most tests.)
LONG = (
    *("test_pipeline.py", "test_run.py", "test_doctor.py", "test_new.py", "test_pipeline_changes.py"),
    *("test_pipeline_queue.py", "test_links.py", "test_resume.py", "test_report.py", "test_compare.py"),
    *("test_shortcuts.py", "test_control.py", "test_check.py", "test_distributed.py", "test_elastic.py"),
    *("test_loop.py", "test_train.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest in front; within a file the order stays."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Leave the modules of all tests, which stay, to no later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml with sizes for tests: 32 pixels, few images, one epoch, images read by this process."""
    full = load_params(ROOT / "params.yaml")
    return full.model_copy(
        update={
            "phantom": full.phantom.model_copy(update={"images": 48, "patients": 12}),
            "crop": full.crop.model_copy(update={"side": 32, "shards": 4}),
            "train": full.train.model_copy(update={"epochs": 1, "batch_size": 8, "warmup_epochs": 0.0}),
            "runtime": full.runtime.model_copy(update={"workers": 1}),
        }
    )


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that `multiprocessing` spawns are forks of the server in tests/warm_python.py."""
    spawn_warm_children(monkeypatch)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A scheduler and two worker processes of two threads each; a killed worker is replaced."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=2, processes=True, dashboard_address=None) as local:
        yield local


@pytest.fixture
def closed_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Dask scheduler that does not exist, for which a client waits one second."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("tumorboard.data.workers.CONNECT_SECONDS", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """A function that makes a folder for all processes of this run of the tests, which only read it.

    Its arguments are the folder's name and what writes the files into it: the first process that asks does.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write(folder)
                made.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def finished(made_once: MakeOnce) -> Path:
    """A folder with a project whose pipeline has run, as `Project.copy_of` copies it; all processes share it.

    The first run has one model; of the second, for another model, added.log is the output. Both are committed.
    """

    def write(folder: Path) -> None:
        project = Project(folder, warm=False)
        project.write_params({}, ["linear"])
        project.drop_recipes()
        server = warm_python()
        # DVC is warm, but the stages are ordinary processes, each of which must import all that it uses.
        project(str(server.programs / "dvc") if server else "dvc", "repro")
        project.commit("the first run")
        project.write_params({}, ["linear", "cnn"])
        project.use(warm=True)
        (folder / "added.log").write_text(project("dvc", "repro"), encoding="utf-8")
        project.commit("another model")

    return made_once("finished", write)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the checkout; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder of real images ../shared/data beside the checkout")
    return folder
