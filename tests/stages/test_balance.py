"""The stage that balances the training images of one fold."""

import json
from pathlib import Path

import pandas as pd
import pytest

import stages.balance
from tests.augment.manifests import random_crops, training_manifest
from tumorboard.augment.balance import count_by_class
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Params
from tumorboard.base.tables import Manifest, read_manifest
from tumorboard.data.store import CropStore, write_store


def run_stage(folder: Path, params: Params, manifest: Manifest, fold: int) -> Manifest:
    """Writes the stage's inputs below `folder`, runs it, and returns the balanced Manifest that it wrote."""
    write_table(manifest, folder / "split.csv")
    write_store(folder / "crops", manifest["id"].tolist(), random_crops(len(manifest)), 3)
    stages.balance.main(
        params,
        fold=fold,
        store=folder / "crops",
        manifest=folder / "split.csv",
        out=folder / "out",
        metrics=folder / "balance.json",
    )
    return read_manifest(folder / "out" / "manifest.csv")


def test_stage_writes_manifest_store_and_counts(tmp_path: Path, params: Params) -> None:
    manifest = training_manifest(blast=9, normal=3)
    manifest.loc[0, "split"], manifest.loc[0, "fold"] = "test", pd.NA
    balanced = run_stage(tmp_path, params, manifest, fold=1)
    # Fold 1 validates on blast 1, 4 and 7 of the blasts 1 to 8, and on normal 1 of the normals 0 to 2.
    assert balanced["label"].value_counts().to_dict() == {"blast": 5, "normal": 5}
    copies = balanced["id"][balanced["id"] != balanced["source_id"]].tolist()
    assert sorted(CropStore(tmp_path / "out" / "store").ids) == sorted(copies)
    counts = json.loads((tmp_path / "balance.json").read_text())
    assert counts["classes"] == {
        "blast": {"before": 5, "copies": 0, "after": 5},
        "normal": {"before": 2, "copies": 3, "after": 5},
    }
    assert counts["copies"] == 3


def test_stage_without_copies_leaves_an_empty_store(tmp_path: Path, params: Params) -> None:
    manifest = training_manifest(blast=3, normal=3)
    balanced = run_stage(tmp_path, params, manifest, fold=0)
    both = CropStore(tmp_path / "crops", tmp_path / "out" / "store")
    assert both.ids == sorted(manifest["id"])
    assert count_by_class(balanced) == {label: {"before": 2, "copies": 0, "after": 2} for label in ("blast", "normal")}


def test_stage_refuses_a_fold_without_validation_rows(tmp_path: Path, params: Params) -> None:
    with pytest.raises(InputError, match=r"^folds lists 3, but no image is in that validation fold"):
        run_stage(tmp_path, params, training_manifest(blast=3, normal=3), fold=3)
