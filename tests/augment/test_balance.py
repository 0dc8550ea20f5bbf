"""Balancing: how many copies of which image are made, and how they are altered."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.augment.manifests import random_crops, training_manifest
from tumorboard.augment.alterations import augment_images
from tumorboard.augment.balance import balance_manifest, count_by_class, draw_copies, training_rows
from tumorboard.base.errors import InputError
from tumorboard.base.params import Balance, Params
from tumorboard.base.randomness import keys_of
from tumorboard.base.tables import check_manifest
from tumorboard.data.store import CropStore, write_store


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
        ({"target": 5, "multiply": 2}, {"blast": 14, "normal": 10, "rare": 10}),
        ({"strategy": "none", "multiply": 3}, {"blast": 21, "normal": 9, "rare": 6}),
    ],
)
def test_classes_grow_as_the_params_say(balance: Balance, changes: dict, expected: dict) -> None:
    rows = training_manifest(blast=7, normal=3, rare=2)
    manifest = check_manifest(balance_manifest(rows, balance.model_copy(update=changes), 0), "balanced")
    assert manifest["label"].value_counts().to_dict() == expected
    pd.testing.assert_frame_equal(manifest.iloc[: len(rows)], rows)
    copies = manifest.iloc[len(rows) :]
    assert (copies["source_id"] != copies["id"]).all()
    parents = rows.set_index("id").loc[copies["source_id"]]
    for column in ("path", "label", "group", "split", "fold", "sha256"):
        assert copies[column].tolist() == parents[column].tolist()
    # Numbers count from 1, and each image of a class has its copy n before any has its copy n + 1.
    for label, count in rows["label"].value_counts().items():
        own = copies[copies["label"] == label]
        numbers = [int(name.rpartition("//")[2]) for name in own["id"]]
        assert numbers == [n // count + 1 for n in range(expected[label] - count)]
        assert (own["id"] == [f"{parent}//{n}" for parent, n in zip(own["source_id"], numbers, strict=True)]).all()


def test_copies_are_independent_of_the_order_of_rows_but_not_of_the_seed(balance: Balance) -> None:
    rows = training_manifest(blast=11, normal=7)
    copies = [set(balance_manifest(table, balance, 5)["id"]) for table in (rows, rows.sample(frac=1, random_state=1))]
    assert copies[0] == copies[1]
    assert len({frozenset(balance_manifest(rows, balance, seed)["id"]) for seed in range(5)}) > 1


def test_a_copy_is_its_parent_altered_by_its_number(tmp_path: Path, balance: Balance) -> None:
    rows = training_manifest(blast=9, normal=2)
    crops = random_crops(len(rows))
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
        altered = augment_images(image, balance.augment, seed=4, keys=key, counter=int(number))
        assert crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, np.rint(altered[0].permute(1, 2, 0).numpy()).astype(np.uint8))


def test_training_rows_are_those_outside_of_the_validation_fold() -> None:
    manifest = training_manifest(blast=6, normal=6)
    manifest.loc[1, "split"], manifest.loc[1, "fold"] = "test", pd.NA
    manifest.loc[2, "fold"] = pd.NA
    rows = training_rows(manifest, 0)
    expected = [f"blast/{n}.png" for n in (2, 4, 5)] + [f"normal/{n}.png" for n in (1, 2, 4, 5)]
    assert rows["id"].tolist() == expected
    with pytest.raises(InputError, match=r"folds lists 3.*\[0, 1, 2\]"):
        training_rows(manifest, 3)


def test_images_are_counted_per_class(balance: Balance) -> None:
    rows = training_manifest(normal=2, blast=5)
    counts = count_by_class(balance_manifest(rows, balance, 0))
    assert list(counts.items()) == [
        ("blast", {"before": 5, "copies": 0, "generated": 0, "after": 5}),
        ("normal", {"before": 2, "copies": 3, "generated": 0, "after": 5}),
    ]


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
def test_an_added_image_makes_only_its_own_copies(tmp_path: Path, params: Params, label: str, changes: dict) -> None:
    balance = params.balance.model_copy(update=changes)
    full = training_manifest(blast=7, normal=5, rare=2)
    write_store(tmp_path, full["id"].tolist(), random_crops(len(full)), 3)
    added = f"{label}/1.png"
    copies, sizes = [], []
    for rows in (full[full["id"] != added].reset_index(drop=True), full):
        balanced = balance_manifest(rows, balance, params.seed)
        ids, crops = draw_copies(balanced, CropStore(tmp_path), balance.augment, params.seed)
        copies.append({name: crop.tobytes() for name, crop in zip(ids, crops, strict=True)})
        sizes.append(balanced["label"].value_counts())
    before, after = copies
    assert {key: after[key] for key in before if key in after} == {key: before[key] for key in before if key in after}
    foreign = sorted(key for key in set(after) - set(before) if not key.startswith(f"{added}//"))
    if balance.strategy == "augment" and label == "blast" and (balance.target or 0) < 7:
        # The largest class has one image more, so that each class that grows to its size has `multiply` copies more.
        growing = [other for other in ("normal", "rare") if balance.target is None]
        assert [key.split("/")[0] for key in foreign] == sorted(growing * balance.multiply)
        assert (sizes[1] - sizes[0])["blast"] == balance.multiply
    else:
        assert foreign == []
