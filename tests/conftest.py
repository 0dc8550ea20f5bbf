"""What many tests share: the real params.yaml, shrunk."""

import os
import signal
from pathlib import Path

import pytest

from tumorboard.base.params import Params, load_params

# Small networks on shared cores: a second thread waits for its turn more than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, and their children inherit that: signals are tested all the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

# Minutes long: begun first, so that no process is left alone with one at the end.
LONG = ("test_pipeline.py", "test_links.py", "test_run.py", "test_elastic.py", "test_loop.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest in front; within a file the order stays."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml with sizes for tests: 32 pixels, few images, one epoch."""
    full = load_params(ROOT / "params.yaml")
    return full.model_copy(
        update={
            "phantom": full.phantom.model_copy(update={"images": 48, "patients": 12}),
            "crop": full.crop.model_copy(update={"side": 32, "shards": 4}),
            "train": full.train.model_copy(update={"epochs": 1, "batch_size": 8, "warmup_epochs": 0.0}),
        }
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the checkout; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder of real images ../shared/data beside the checkout")
    return folder
