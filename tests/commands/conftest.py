"""A small project whose data are prepared; and the small job of the tests of training."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.training.conftest import alone, make_job, store  # noqa: F401  # fixtures
from tumorboard.base.files import write_table
from tumorboard.base.schema import read_yaml
from tumorboard.commands.paths import BALANCE, SPLIT, STORE
from tumorboard.data.store import write_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepared_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml and the outputs of crop, split and balance for 40 images of two brightnesses; fold 0 validates.

    The current folder is the project's.
    """
    tree = read_yaml(ROOT / "params.yaml")
    tree["crop"]["side"] = 16
    tree["runtime"] |= {"device": "cpu", "processes": 1}
    tree["train"] |= {"batch_size": 8}
    tree["lr_find"] |= {"first": 0.00001, "steps": 20, "smoothing": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    ids = [f"{number}.jpg" for number in range(40)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 20, "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0] * 8 + [1] * 32, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    crops = np.random.default_rng(0).integers(0, 120, (40, 16, 16, 3), dtype=np.uint8)
    crops[::2] += 100
    write_store(tmp_path / STORE, ids, crops, 2)
    write_store(tmp_path / BALANCE / "0" / "store", [], crops[:0], 1)
    write_table(manifest, tmp_path / SPLIT)
    write_table(manifest[8:], tmp_path / BALANCE / "0" / "manifest.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path
