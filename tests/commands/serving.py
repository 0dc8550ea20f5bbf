"""A small study and its server, for the tests of `tumorboard serve`."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.commands.test_predict import save, save_study
from tumorboard.base.params import Params
from tumorboard.commands.panel_source import PanelSource, open_source
from tumorboard.commands.served_panel import ServedPanel
from tumorboard.commands.server import Serving
from tumorboard.commands.server_guard import loopback_hosts
from tumorboard.commands.uploads import Queue, UploadLimits

ROOT = Path(__file__).parents[2]
PORT = 8000


def picture(seed: int) -> bytes:
    """Returns noise as a PNG file."""
    noise = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def make_study(folder: Path, params: Params) -> Params:
    """Writes a panel of two untrained networks whose own data has `own.png`; returns its parameters."""
    (folder / "own.png").write_bytes(picture(0))
    with contextlib.chdir(folder):
        files = [save(folder, params, "linear", 0, 1), save(folder, params, "cnn", 0, 3)]
        save_study(files, folder / "own.png")
        shutil.copy(ROOT / "params.yaml", "params.yaml")
    return params.model_copy(update={"models": ["linear", "cnn"], "folds": [0]})


def source_of(folder: Path, params: Params) -> PanelSource:
    with contextlib.chdir(folder):
        return open_source(make_study(folder, params))


@contextlib.contextmanager
def serving_of(
    source: PanelSource,
    folder: Path,
    *,
    port: int = PORT,
    max_bytes: int = 1_000_000,
    waiting: int = 8,
    seconds: float = 10.0,
) -> Iterator[Serving]:
    served = ServedPanel(source, max_bytes)
    with Queue(waiting) as queue:
        yield Serving(
            served=served,
            queue=queue,
            folder=folder,
            limits=UploadLimits(max_bytes=served.crop.max_bytes, waiting=waiting, seconds=seconds),
            hosts=loopback_hosts(port),
            title="a study",
        )
