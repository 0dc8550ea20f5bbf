"""The split stage under each policy, on crops of which one training image is saved again in the test set."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages import split
from tests.data.scenes import images_of_scenes
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table, write_table
from tumorboard.base.params import Params
from tumorboard.base.tables import read_manifest
from tumorboard.data.store import write_store


@pytest.fixture
def params(params: Params) -> Params:
    """The tests' params for any classes: none of them is to be detected."""
    return params.model_copy(update={"data": params.data.model_copy(update={"positive": None})})


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """24 pictures of two classes, 20 of them for training; 22, of the test set, is 0 saved again."""
    manifest, images, read_crops = images_of_scenes(
        ["a", "b"] * 12, list(range(24)), {22: 0}, splits=["train"] * 20 + ["test"] * 4
    )
    facts = pd.DataFrame({"width": 64, "height": 64, "bytes": np.arange(24), "format": "PNG"})
    facts = facts.assign(red=9.5, green=9.5, blue=9.5, border=0.0)
    write_table(images.join(facts), tmp_path / "crop/images.csv")
    write_table(manifest, tmp_path / "crop/manifest.csv")
    write_table(manifest[["id"]], tmp_path / "crop/attributes.csv")
    write_table(pd.DataFrame(columns=["path", "reason", "detail"]), tmp_path / "crop/quarantined.csv")
    write_store(tmp_path / "crop/store", manifest["id"].tolist(), read_crops(manifest["id"].tolist()), 2)
    return tmp_path / "crop"


def run(params: Params, crop: Path, policy: str) -> tuple[pd.DataFrame, dict[str, object]]:
    audit = params.audit.model_copy(update={"policy": policy})
    root = crop.parent
    changed = params.model_copy(update={"audit": audit, "folds": (0,)})
    split.main(
        changed,
        crop=crop,
        out=root / "split",
        metrics=root / "split.json",
        audit_metrics=root / "audit.json",
        test_metrics=root / "test_shortcuts.json",
    )
    return read_manifest(root / "split/manifest.csv"), json.loads((root / "audit.json").read_text())


def test_regroup_drops_the_training_twin_and_shows_it(params: Params, crop: Path) -> None:
    manifest, audited = run(params, crop, "regroup")
    assert set(manifest["id"]) == {f"{n:03d}" for n in range(24)} - {"000"}
    assert (audited["dropped"], audited["pairs_near"], audited["sets_across_given_parts"]) == (1, 1, 1)
    assert audited["may_leak"] is False
    pairs = read_table(crop.parent / "split/duplicates.csv")
    assert pairs[["first", "second", "first_split", "second_split"]].to_numpy().tolist() == [
        ["000", "022", "train", "test"]
    ]
    assert read_table(crop.parent / "split/quarantined.csv").empty
    assert len(read_table(crop.parent / "split/shortcuts.csv")) == 8


def test_report_keeps_all_and_says_that_it_may_leak(params: Params, crop: Path) -> None:
    manifest, audited = run(params, crop, "report")
    assert len(manifest) == 24
    assert (manifest["group"] == [f"g{n}" for n in range(24)]).all()
    assert (audited["dropped"], audited["pairs_near"], audited["may_leak"]) == (0, 1, True)


def test_files_and_label_conflicts_count_together_against_the_limit(params: Params, crop: Path) -> None:
    manifest = read_manifest(crop / "manifest.csv")
    manifest.loc[manifest["id"] == "022", "label"] = "b"  # of a picture that is there as a, too
    write_table(manifest, crop / "manifest.csv")
    unusable = pd.DataFrame([("x.png", "empty", "no\x1b[2Jbytes")], columns=["path", "reason", "detail"])
    write_table(unusable, crop / "quarantined.csv")
    two, three = (
        params.model_copy(update={"data": params.data.model_copy(update={"max_quarantined": limit})})
        for limit in (2, 3)
    )
    assert run(three, crop, "regroup")[1]["quarantined"] == 2
    with pytest.raises(
        InputError, match=r"3 of 25 files cannot be used(.|\n)*'x.png': empty \('no\\x1b\[2Jbytes'\)(.|\n)*'022': label"
    ):
        run(two, crop, "regroup")


def test_a_misspelled_stacking_column_is_refused_before_any_training(params: Params, crop: Path) -> None:
    attributes = read_manifest(crop / "manifest.csv")[["id"]].assign(age="40", sex="f")
    write_table(attributes, crop / "attributes.csv")
    right, wrong = (
        params.model_copy(update={"ensemble": params.ensemble.model_copy(update={"stacking_columns": names})})
        for names in (("sex", "age"), ("sex", "agee"))
    )
    with pytest.raises(InputError, match=r"^params\.yaml: ensemble\.stacking_columns: .* 'agee'; did you mean age\?$"):
        run(wrong, crop, "report")
    assert not (crop.parent / "split").exists()
    assert len(run(right, crop, "report")[0]) == 24


def test_refuse_writes_nothing(params: Params, crop: Path) -> None:
    with pytest.raises(InputError, match="'000' is 'a', '022' is 'a'"):
        run(params, crop, "refuse")
    assert not (crop.parent / "split").exists()


def test_warnings_go_to_standard_error_step_by_step(
    params: Params, crop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(crop / "manifest.csv")
    manifest.loc[manifest["id"] == "002", "group"] = "g21"  # a training patient in the test set
    manifest.loc[manifest["id"].isin(["021", "023"]), "label"] = "a"
    write_table(manifest, crop / "manifest.csv")
    images = read_table(crop / "images.csv")
    write_table(images.assign(width=[1 if label == "a" else 2 for label in manifest["label"]]), crop / "images.csv")
    run(params, crop, "report")
    lines = capsys.readouterr().err.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, STARTS, strict=True)] == STARTS


STARTS = [
    "audit: audit.policy is report: the copies of 1 pictures",
    "split: 1 image is left out of the given training and validation sets",
    "split: the given test set has no image of 'b'",
    "split: the validation set of fold 0 has ",
    "shortcuts: facts of the files alone predict the class",
    # Both classes in test (4 of 4 are a), in train (9 of 19 instead of 13 of 23), and in the fold of 3 images.
    "split: 6 shares are more than 0.05 (split.tolerance) from those wanted",
]


def test_warnings_before_an_error_are_printed(params: Params, crop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(crop / "manifest.csv")
    manifest.loc[manifest["split"] == "train", "group"] = [f"{n % 2}" for n in range(20)]  # too few groups
    manifest.loc[manifest["id"].isin(["000", "002"]), "group"] = ["g22", "g23"]
    write_table(manifest, crop / "manifest.csv")
    with pytest.raises(InputError, match="class 'a' has 1 group of images"):
        run(params, crop, "regroup")
    placeholder, left_out = capsys.readouterr().err.splitlines()
    assert "which looks like a placeholder" in placeholder
    assert left_out.startswith("split: 2 images are left out")
    assert not (crop.parent / "split").exists()
