"""The stage that balances the training images of one fold."""

import json
from pathlib import Path

import pandas as pd
import pytest

import stages.balance
from tests.augment.manifests import random_crops, training_manifest
from tumorboard.augment.balance import count_by_class
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table, write_table
from tumorboard.base.params import Generate, Params
from tumorboard.base.tables import GENERATED, Manifest, read_manifest
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
        "blast": {"before": 5, "copies": 0, "generated": 0, "after": 5},
        "normal": {"before": 2, "copies": 3, "generated": 0, "after": 5},
    }
    assert (counts["copies"], counts["generated"]) == (3, 0)


def test_stage_without_copies_leaves_an_empty_store(tmp_path: Path, params: Params) -> None:
    manifest = training_manifest(blast=3, normal=3)
    balanced = run_stage(tmp_path, params, manifest, fold=0)
    both = CropStore(tmp_path / "crops", tmp_path / "out" / "store")
    assert both.ids == sorted(manifest["id"])
    assert count_by_class(balanced) == {
        label: {"before": 2, "copies": 0, "generated": 0, "after": 2} for label in ("blast", "normal")
    }


def test_stage_writes_generated_images_and_what_they_resemble(
    tmp_path: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = Generate(steps=2, batch_size=4, lr=0.001, latent=4, width=4, min_images=3)
    balance = params.balance.model_copy(update={"strategy": "generate", "multiply": 2, "generate": generate})
    manifest = training_manifest(blast=9, normal=6)
    audit = params.audit.model_copy(update={"near": 0.000001})  # each image is near its nearest
    balanced = run_stage(tmp_path, params.model_copy(update={"balance": balance, "audit": audit}), manifest, fold=1)
    # Fold 1 trains on six blasts and four normals, of which it has two more generated; then twice as many by copies.
    assert balanced["label"].value_counts().to_dict() == {"blast": 12, "normal": 12}
    generated = balanced["id"][balanced["source_id"] == GENERATED].tolist()
    assert generated == ["normal//g1", "normal//g2"]
    training = balanced["id"][balanced["id"] == balanced["source_id"]].tolist()
    store = CropStore(tmp_path / "out" / "store")
    assert sorted(store.ids) == sorted(set(balanced["id"]) - set(training))
    counts = json.loads((tmp_path / "balance.json").read_text())
    assert counts["classes"]["normal"] == {"before": 4, "copies": 6, "generated": 2, "after": 12}
    assert (counts["copies"], counts["generated"]) == (12, 2)
    table = read_table(tmp_path / "out" / "generated.csv")
    assert table["id"].tolist() == generated
    assert set(table["nearest"]) <= set(training), "no image of validation or test, and no copy"
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("generator  step 2  critic ")
    assert "2 of 2 generated images nearly equal a training image" in printed.err
    # The same again has the same bytes; another strategy leaves no table of generated images.
    before = store[generated].tobytes()
    run_stage(tmp_path, params.model_copy(update={"balance": balance}), manifest, fold=1)
    assert CropStore(tmp_path / "out" / "store")[generated].tobytes() == before
    run_stage(tmp_path, params, manifest, fold=1)
    assert not (tmp_path / "out" / "generated.csv").exists()


def test_stage_that_refuses_writes_nothing(tmp_path: Path, params: Params) -> None:
    balance = params.balance.model_copy(update={"strategy": "generate"})
    with pytest.raises(InputError, match="class 'normal' has 2 training images in fold 1"):
        run_stage(tmp_path, params.model_copy(update={"balance": balance}), training_manifest(blast=9, normal=3), 1)
    assert not (tmp_path / "out").exists()


def test_stage_refuses_a_fold_without_validation_rows(tmp_path: Path, params: Params) -> None:
    with pytest.raises(InputError, match=r"^folds lists 3, but no image is in that validation fold"):
        run_stage(tmp_path, params, training_manifest(blast=3, normal=3), fold=3)
