"""Copies: how many of which image, and what they look like."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import stages.balance
from tumorboard.augment import augment_images
from tumorboard.data.balance import balance_manifest, count_images, draw_copies, training_rows
from tumorboard.data.store import CropStore, write_store
from tumorboard.errors import InputError
from tumorboard.params import Balance, Params
from tumorboard.randomness import keys_of
from tumorboard.tables import MANIFEST, check_manifest, read_manifest, write_table


def manifest_of(**counts: int) -> pd.DataFrame:
    """A Manifest of training rows, `counts` images a class, folds 0 to 2 in turn."""
    rows = [
        (f"{label}/{n}.png", f"{label}/{n}.png", label, f"p{n}", "train", n % 3, f"{label}/{n}.png", f"{label}{n:02d}")
        for label, count in counts.items()
        for n in range(count)
    ]
    return pd.DataFrame(rows, columns=list(MANIFEST), dtype=object).astype({"fold": "Int64"})


def crops_of(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def balance(params: Params) -> Balance:
    return params.balance.model_copy(update={"strategy": "augment", "target": None, "multiply": 1})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"strategy": "none"}, {"blast": 7, "normal": 3, "rare": 2}),
        ({}, {"blast": 7, "normal": 7, "rare": 7}),
        ({"target": 5}, {"blast": 7, "normal": 5, "rare": 5}),
        ({"target": 9}, {"blast": 9, "normal": 9, "rare": 9}),
        ({"target": 2}, {"blast": 7, "normal": 3, "rare": 2}),
        ({"multiply": 2}, {"blast": 14, "normal": 14, "rare": 14}),
        ({"strategy": "none", "multiply": 3}, {"blast": 21, "normal": 9, "rare": 6}),
    ],
)
def test_classes_grow_as_the_params_say(balance: Balance, changes: dict, expected: dict) -> None:
    rows = manifest_of(blast=7, normal=3, rare=2)
    manifest = check_manifest(balance_manifest(rows, balance.model_copy(update=changes), 0), "balanced")
    assert manifest["label"].value_counts().to_dict() == expected
    pd.testing.assert_frame_equal(manifest.iloc[: len(rows)], rows)
    copies = manifest.iloc[len(rows) :]
    assert (copies["source_id"] != copies["id"]).all()
    parents = rows.set_index("id").loc[copies["source_id"]]
    for column in ("path", "label", "group", "split", "fold", "sha256"):
        assert copies[column].tolist() == parents[column].tolist()
    # Spread evenly, numbered from 1 without a gap, copy n of all before copy n + 1 of any.
    for label, count in rows["label"].value_counts().items():
        own = copies[copies["label"] == label]
        numbers = [int(name.rpartition("//")[2]) for name in own["id"]]
        assert numbers == [n // count + 1 for n in range(expected[label] - count)]
        assert (own["id"] == [f"{parent}//{n}" for parent, n in zip(own["source_id"], numbers, strict=True)]).all()


def test_copies_are_independent_of_the_order_of_rows_but_not_of_the_seed(balance: Balance) -> None:
    rows = manifest_of(blast=11, normal=7)
    copies = [set(balance_manifest(table, balance, 5)["id"]) for table in (rows, rows.sample(frac=1, random_state=1))]
    assert copies[0] == copies[1]
    assert len({frozenset(balance_manifest(rows, balance, seed)["id"]) for seed in range(5)}) > 1


def test_a_copy_is_its_parent_altered_by_its_number(tmp_path, balance: Balance) -> None:
    rows = manifest_of(blast=9, normal=2)
    crops = crops_of(len(rows))
    write_store(tmp_path, rows["id"].tolist(), crops, 3)
    manifest = balance_manifest(rows, balance, 4)
    ids, drawn = draw_copies(manifest, CropStore(tmp_path), balance.augment, 4)
    drawn = list(drawn)
    assert ids == manifest["id"].tolist()[len(rows) :]
    assert len({crop.tobytes() for crop in drawn}) == len(ids) == 7
    for name, crop in zip(ids, drawn, strict=True):
        parent, number = name.split("//")
        row = rows.index[rows["id"] == parent][0]
        image = torch.from_numpy(crops[row]).permute(2, 0, 1)[None]
        key = keys_of([rows.loc[row, "sha256"]])
        altered = augment_images(image, balance.augment, 4, key, int(number))[0].permute(1, 2, 0).numpy()
        assert crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, np.rint(altered).astype(np.uint8))


def test_training_rows_are_those_of_the_other_folds_and_of_none() -> None:
    manifest = manifest_of(blast=6, normal=6)
    manifest.loc[1, "split"], manifest.loc[1, "fold"] = "test", pd.NA
    manifest.loc[2, "fold"] = pd.NA
    rows = training_rows(manifest, 0)
    expected = [f"blast/{n}.png" for n in (2, 4, 5)] + [f"normal/{n}.png" for n in (1, 2, 4, 5)]
    assert rows["id"].tolist() == expected
    with pytest.raises(InputError, match=r"folds lists 3.*\[0, 1, 2\]"):
        training_rows(manifest, 3)


def test_stage_writes_manifest_store_and_counts(tmp_path, params: Params) -> None:
    manifest = manifest_of(blast=9, normal=3)
    manifest.loc[0, "split"], manifest.loc[0, "fold"] = "test", pd.NA
    write_table(manifest, tmp_path / "split.csv")
    write_store(tmp_path / "crops", manifest["id"].tolist(), crops_of(len(manifest)), 3)
    paths = [str(tmp_path / name) for name in ("crops", "split.csv", "out", "balance.json")]
    stages.balance.main(params, "1", *paths)
    balanced = read_manifest(tmp_path / "out" / "manifest.csv")
    # Of blast 1 to 8, fold 1 keeps 1, 4 and 7; of normal 0 to 2, it keeps 1.
    assert balanced["label"].value_counts().to_dict() == {"blast": 5, "normal": 5}
    copies = balanced["id"][balanced["id"] != balanced["source_id"]].tolist()
    assert sorted(CropStore(tmp_path / "out" / "store").ids) == sorted(copies)
    counts = json.loads((tmp_path / "balance.json").read_text())
    assert counts["classes"] == {
        "blast": {"before": 5, "copies": 0, "after": 5},
        "normal": {"before": 2, "copies": 3, "after": 5},
    }
    assert counts["copies"] == 3


@pytest.mark.parametrize("label", ["blast", "normal", "rare"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target": 11},
        {"target": 5},
        {"multiply": 3},
        {"target": 8, "multiply": 2},
        {"strategy": "none"},
        {"strategy": "none", "multiply": 3},
    ],
)
def test_an_added_image_makes_only_its_own_copies(tmp_path, params: Params, label: str, changes: dict) -> None:
    params = params.model_copy(update={"balance": params.balance.model_copy(update=changes)})
    full = manifest_of(blast=7, normal=5, rare=2).assign(fold=1)
    guard = manifest_of(guard=1)
    full = pd.concat([full, guard.assign(fold=0)], ignore_index=True).astype({"fold": "Int64"})
    added = f"{label}/1.png"
    pictures = dict(zip(full["id"], crops_of(len(full)), strict=True))
    copies, numbers = [], []
    for name, rows in (("before", full[full["id"] != added]), ("after", full)):
        write_table(rows, tmp_path / name / "split.csv")
        write_store(tmp_path / name / "crops", rows["id"].tolist(), [pictures[key] for key in rows["id"]], 3)
        paths = [str(tmp_path / name / part) for part in ("crops", "split.csv", "out", "balance.json")]
        stages.balance.main(params, "0", *paths)
        store = CropStore(tmp_path / name / "out" / "store")
        copies.append({key: store[[key]].tobytes() for key in store.ids})
        numbers.append(read_manifest(tmp_path / name / "out" / "manifest.csv")["label"].value_counts())
    before, after = copies
    assert {key: after[key] for key in before if key in after} == {key: before[key] for key in before if key in after}
    foreign = sorted(key for key in set(after) - set(before) if not key.startswith(f"{added}//"))
    balance = params.balance
    if balance.strategy == "augment" and label == "blast" and (balance.target or 0) < 7:
        # The largest class is one larger: of a class that grows to its size, each `multiply`-th image more is a copy.
        growing = [other for other in ("normal", "rare") if balance.target is None]
        assert [key.split("/")[0] for key in foreign] == sorted(growing * balance.multiply)
        assert (numbers[1] - numbers[0])["blast"] == balance.multiply
    else:
        assert foreign == []


def test_stage_without_copies_leaves_an_empty_store(tmp_path, params: Params) -> None:
    manifest = manifest_of(blast=3, normal=3)
    write_table(manifest, tmp_path / "split.csv")
    write_store(tmp_path / "crops", manifest["id"].tolist(), crops_of(len(manifest)), 3)
    stages.balance.main(params, "0", *(str(tmp_path / name) for name in ("crops", "split.csv", "out", "balance.json")))
    both = CropStore(tmp_path / "crops", tmp_path / "out" / "store")
    assert both.ids == sorted(manifest["id"])
    counts = count_images(read_manifest(tmp_path / "out" / "manifest.csv"))
    assert counts == {label: {"before": 2, "copies": 0, "after": 2} for label in ("blast", "normal")}
