"""Tests how a job is read, the key that names all that decides its result, and which epoch is kept."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pandas as pd
import pytest
import torch

import tumorboard
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params, Recipe
from tumorboard.base.tables import manifest_digest, read_manifest
from tumorboard.data.crop_record import write_record
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.study_code import study_digest
from tumorboard.training import job as job_module
from tumorboard.training.job import (
    CODE,
    Epoch,
    Job,
    best_epoch,
    code_files,
    job_key,
    kept_epoch,
    read_job,
    read_recipe,
)

KeyWith = Callable[..., str]


@pytest.fixture
def key_with(tmp_path: Path, params: Params) -> KeyWith:
    """A function that computes the key of a job with two training images and one for validation, with changes."""

    def make(pixel: int = 0, weight: float = 0.0, seed: int = 1, **changes: Any) -> str:
        crops = np.zeros((4, 2, 2, 3), np.uint8)
        crops[1, 0, 0, 0] = pixel
        write_store(tmp_path / "store", ["a", "b", "c", "unused"], crops, 2)
        ids = pd.DataFrame({"id": ["a", "b", "c"]})
        rest = {"path": ids["id"], "label": "x", "group": ids["id"], "split": "train", "source_id": ids["id"]}
        rows = ids.assign(**rest, sha256="0", fold=pd.array([1, 1, 0], dtype="Int64"))
        rows = rows[["id", "path", "label", "group", "split", "fold", "source_id", "sha256"]]
        recipe = Recipe(**dict(params.train), architecture="cnn", seed=seed)
        job = Job(
            name="m",
            fold=0,
            recipe=recipe,
            rows=rows[:2],
            val_rows=rows[2:],
            store=CropStore(tmp_path / "store"),
            classes=("x", "y"),
            crop=params.crop,
            digest="0" * 16,
            weights=tmp_path / "out",
            held_out=tmp_path / "out",
            out=tmp_path / "out",
        )
        return job_key(dataclasses.replace(job, **changes), {"w": torch.tensor([weight])})

    return make


def test_the_key_changes_with_all_that_decides_the_result(key_with: KeyWith, tmp_path: Path, params: Params) -> None:
    keys = [
        key_with(),
        key_with(pixel=1),
        key_with(weight=1e-7),
        key_with(seed=2),
        key_with(fold=1),
        key_with(name="n"),
        key_with(digest="1" * 16),
        key_with(classes=("y", "x")),
        key_with(crop=params.crop.model_copy(update={"border": not params.crop.border})),
    ]
    assert len(set(keys)) == len(keys)
    assert key_with(out=tmp_path / "elsewhere", weights=tmp_path / "w") == keys[0]
    assert len(keys[0]) == 32


def test_the_key_covers_the_code_that_trains() -> None:
    """Covered is every module that the loop imports, except those that read, write, check and show progress.

    data.crop_record only checks and completes the job's `crop`, and the key covers that value.
    """
    graph = grimp.build_graph("tumorboard", cache_dir=None)
    imported = graph.find_upstream_modules("tumorboard.training.loop")
    covered = tuple("tumorboard." + name.removesuffix(".py").replace("/", ".") for name in CODE)
    assert {module for module in imported if not module.startswith(covered)} == {
        "tumorboard",
        "tumorboard.base.arrays",
        "tumorboard.base.cores",
        "tumorboard.base.data_params",
        "tumorboard.base.digests",
        "tumorboard.base.disk",
        "tumorboard.base.dvc_cache",
        "tumorboard.base.errors",
        "tumorboard.base.evaluate_params",
        "tumorboard.base.faults",
        "tumorboard.base.files",
        "tumorboard.base.findings",
        "tumorboard.base.generate_params",
        "tumorboard.base.interrupts",
        "tumorboard.base.package_files",
        "tumorboard.base.params",
        "tumorboard.base.presets",
        "tumorboard.base.processes",
        "tumorboard.base.progress",
        "tumorboard.base.recipe",
        "tumorboard.base.run_params",
        "tumorboard.base.schema",
        "tumorboard.base.search_params",
        "tumorboard.base.short_params",
        "tumorboard.base.study",
        "tumorboard.base.tables",
        "tumorboard.data.crop_record",
    }


def test_every_entry_of_the_code_list_exists() -> None:
    package = Path(tumorboard.__file__).parent
    files = list(code_files(package))
    for entry in CODE:
        assert any(file.is_relative_to(package / entry) for file in files), entry
    assert package / "training" / "loop.py" in files
    assert package / "models" / "networks" / "cnn.py" in files
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("entry", ["no_such.py", "no_such_folder"])
def test_a_missing_entry_of_the_code_list_is_an_error(
    key_with: KeyWith, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setattr(job_module, "CODE", (*CODE, entry))
    with pytest.raises(RuntimeError, match=f"CODE lists '{entry}'"):
        key_with()


def test_the_key_changes_with_code_and_with_library_versions(
    key_with: KeyWith, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [key_with()]
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "version", lambda name: "9.9" if name == "timm" else "1.0")
        keys.append(key_with())
        patch.setattr(job_module, "version", lambda _: "1.0")
        keys.append(key_with())
    for text in ("a = 1", "a = 2"):
        (tmp_path / "code.py").write_text(text)
        monkeypatch.setattr(job_module, "code_files", lambda _: [tmp_path / "code.py"])
        keys.append(key_with())
    assert len(set(keys)) == 5


def test_the_key_changes_with_the_studys_own_architecture(
    key_with: KeyWith, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(**dict(params.train), architecture="architectures.mine:network", seed=0)
    (tmp_path / "architectures").mkdir()
    keys = set()
    for number in range(2):
        (tmp_path / "architectures/mine.py").write_text("from architectures.part import a\n")
        (tmp_path / "architectures/part.py").write_text(f"a = {number}\n")
        keys.add(key_with(recipe=recipe))
    assert len(keys) == 2


def test_the_key_covers_the_pixels_of_every_image(key_with: KeyWith, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    get = CropStore.__getitem__

    def spy(store: CropStore, ids: list[str]) -> Any:
        read.extend(ids)
        return get(store, ids)

    monkeypatch.setattr(CropStore, "__getitem__", spy)
    key_with()
    assert read == ["a", "b", "c"]


def _epoch(number: int, best: bool) -> Epoch:
    return Epoch(number, 0.1, {"loss": 0.5}, {"loss": 0.4}, best, 1.0, 5.0)


@pytest.mark.parametrize(
    ("marks", "best", "kept"),
    [([True], 1, 1), ([True, True, False], 2, 2), ([False, False], None, 2), ([False, True, False], 2, 2)],
)
def test_the_last_epoch_marked_as_best_is_kept_or_else_the_last_one(
    marks: list[bool], best: int | None, kept: int
) -> None:
    history = [_epoch(number, mark) for number, mark in enumerate(marks, 1)]
    found = best_epoch(history)
    assert (found.number if found else None) == best
    assert kept_epoch(history, "best").number == kept
    assert kept_epoch(history, "last").number == len(marks)


def prepared(folder: Path) -> pd.DataFrame:
    """Writes the prepared data of fold 1 of four images, with crops of 4 pixels; returns the split's manifest."""
    ids = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["y", "x", "y", "x"], "group": ids, "split": "train"})
    manifest["fold"] = pd.array([0, 1, 2, None], dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256="0")
    manifest.loc[3, "split"] = "test"
    copy = manifest[:1].assign(id="a.jpg//1")
    crops = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 4, 3), np.uint8)
    write_store(folder / "store", ids, crops[:4], 2)
    write_store(folder / "balance" / "store", ["a.jpg//1"], crops[4:], 1)
    write_table(manifest, folder / "manifest.csv")
    write_table(pd.concat([manifest.iloc[[0, 2]], copy]), folder / "balance" / "manifest.csv")
    return manifest


def read_prepared(folder: Path, params: Params, side: int = 4) -> Job:
    return read_job(
        "m",
        fold=1,
        recipe=Recipe(**dict(params.train), architecture="cnn", seed=0),
        crop=params.crop.model_copy(update={"side": side}),
        store=folder / "store",
        manifest=folder / "manifest.csv",
        balance=folder / "balance",
        weights=folder / "model.safetensors",
        held_out=folder / "held_out.safetensors",
        out=folder / "out",
    )


def test_a_job_is_read_from_the_prepared_data(tmp_path: Path, params: Params) -> None:
    """The validation row of fold 1 is neither another fold's nor a test row."""
    manifest = prepared(tmp_path)
    job = read_prepared(tmp_path, params)
    assert job.rows["id"].tolist() == ["a.jpg", "c.jpg", "a.jpg//1"]
    assert job.val_rows["id"].tolist() == ["b.jpg"]
    assert job.classes == ("x", "y")
    assert job.digest == manifest_digest(manifest)
    assert job.store[["a.jpg//1", "b.jpg"]][:, 0, 0, 0].tolist() == [4, 1]


def test_crops_of_another_side_than_the_params_are_refused(tmp_path: Path, params: Params) -> None:
    prepared(tmp_path)
    with pytest.raises(InputError, match=r"store: holds crops of 4 pixels, but crop\.side is 8: run `dvc repro crop`"):
        read_prepared(tmp_path, params, side=8)


def test_crops_that_were_made_by_other_params_are_refused(tmp_path: Path, params: Params) -> None:
    prepared(tmp_path)
    made = params.crop.model_copy(update={"side": 4, "border": not params.crop.border})
    write_record(tmp_path / "store", made, params.data.frames, None)
    with pytest.raises(InputError, match=r"store: was made with crop\.border: \w+, but crop\.border is \w+: run"):
        read_prepared(tmp_path, params)
    write_record(tmp_path / "store", params.crop.model_copy(update={"side": 4}), params.data.frames, None)
    assert read_prepared(tmp_path, params).crop.border == params.crop.border


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda rows: rows[rows["id"] != "c.jpg"], "c.jpg"),
        (lambda rows: pd.concat([rows, rows[:1].assign(id="b.jpg", source_id="b.jpg")]), "b.jpg"),
        (lambda rows: rows.assign(sha256="1"), "a.jpg"),
    ],
)
def test_balanced_rows_of_another_split_are_refused(
    tmp_path: Path, params: Params, change: Callable[[pd.DataFrame], pd.DataFrame], differing: str
) -> None:
    prepared(tmp_path)
    table = tmp_path / "balance" / "manifest.csv"
    write_table(change(read_manifest(table)), table)
    with pytest.raises(InputError, match=rf"was not made from this split, .* '{differing}': run `dvc repro balance@1`"):
        read_prepared(tmp_path, params)


def test_a_recipe_is_read_with_the_digest_of_its_weights(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(**dict(params.train), architecture="cnn", seed=0)
    file = tmp_path / "recipe.json"
    write_json(recipe.model_dump(mode="json"), file)
    assert read_recipe(file) == recipe
    (tmp_path / "start.pth").write_bytes(b"abc")
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    tree = json.loads(file.read_text()) | {"pretrained": "start.pth", "pretrained_sha256": sha256_of_abc}
    write_json(tree, file)
    assert read_recipe(file).pretrained == "start.pth"
    (tmp_path / "start.pth").write_bytes(b"abd")
    with pytest.raises(
        InputError, match=r"start\.pth: is not the file that .*recipe\.json was written for: run `dvc rep"
    ):
        read_recipe(file)
    write_json(tree | {"lr": "fast"}, file)
    with pytest.raises(InputError, match=r"recipe\.json: lr: is 'fast'"):
        read_recipe(file)


def test_a_recipe_is_read_with_the_digest_of_its_own_architecture(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(**dict(params.train), architecture="architectures.mine:network", seed=0)
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures/mine.py").write_text("a = 1")
    pinned = {"architecture_sha256": study_digest(recipe.architecture), "pretrained_tag": "any"}
    write_json(recipe.model_dump(mode="json") | pinned, tmp_path / "recipe.json")
    assert read_recipe(tmp_path / "recipe.json") == recipe
    (tmp_path / "architectures/mine.py").write_text("a = 2")
    with pytest.raises(InputError, match=r"^architectures\.mine:network: is not the code that .* run `dvc repro`"):
        read_recipe(tmp_path / "recipe.json")


def test_a_job_resolves_the_window_of_the_set(tmp_path: Path, params: Params) -> None:
    store, balance = tmp_path / "store", tmp_path / "balance"
    write_store(store, ["a", "b"], np.zeros((2, params.crop.side, params.crop.side, 3), np.uint8), 1)
    write_store(balance / "store", ["c"], np.zeros((1, params.crop.side, params.crop.side, 3), np.uint8), 1)
    ids = pd.DataFrame({"id": ["a", "b"]})
    rest = {"path": ids["id"], "label": ["x", "y"], "group": ids["id"], "split": "train", "fold": [0, 1]}
    rows = ids.assign(**rest, source_id=ids["id"], sha256="0")
    write_table(rows, tmp_path / "manifest.csv")
    write_table(rows[rows["fold"] != 0], balance / "manifest.csv")
    by_set = params.crop.model_copy(update={"window": "set"})
    write_record(store, by_set, None, (-50.0, 300.0))
    job = read_job(
        "cnn",
        fold=0,
        recipe=Recipe(**dict(params.train), architecture="cnn", seed=0),
        crop=by_set,
        store=store,
        manifest=tmp_path / "manifest.csv",
        balance=balance,
        weights=tmp_path / "weights",
        held_out=tmp_path / "held_out",
        out=tmp_path / "out",
    )
    assert job.crop == params.crop.model_copy(update={"window": (-50.0, 300.0)})  # as the model's card records it
