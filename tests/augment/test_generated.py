"""Generated images of a balanced Manifest: how many, from which rows, and how like they are to training images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.augment.manifests import random_crops, training_manifest
from tumorboard.augment.balance import balance_manifest, count_by_class, draw_copies, training_rows
from tumorboard.augment.generated import generate_images, nearest_training_images, warn_of_copies
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Balance, Generate, Params
from tumorboard.base.tables import GENERATED, Manifest, check_manifest, read_manifest
from tumorboard.data.store import CropStore, write_store

TINY = Generate(steps=2, batch_size=4, lr=0.001, latent=4, width=4, min_images=2)


@pytest.fixture
def balance(params: Params) -> Balance:
    return params.balance.model_copy(update={"strategy": "generate", "target": None, "multiply": 1, "generate": TINY})


def generate(folder: Path, rows: Manifest, balance: Balance, crops: np.ndarray) -> dict[str, bytes]:
    """Returns the pixels of the images generated for training rows, by id."""
    write_store(folder, rows["id"].tolist(), crops, 3)
    balanced = balance_manifest(rows, balance, 4)
    ids, drawn = generate_images(balanced, CropStore(folder), balance, fold=0, seed=4)
    return {name: crop.tobytes() for name, crop in zip(ids, drawn, strict=True)}


@pytest.mark.parametrize(
    ("changes", "generated", "copies"),
    [
        ({}, {"normal": 4, "rare": 5}, {}),
        ({"target": 5}, {"normal": 2, "rare": 3}, {}),
        ({"target": 9}, {"blast": 2, "normal": 6, "rare": 7}, {}),
        ({"target": 2}, {}, {}),
        # Each class has 14 images, of which as many are generated as without `multiply`.
        ({"multiply": 2}, {"normal": 4, "rare": 5}, {"blast": 7, "normal": 7, "rare": 7}),
    ],
)
def test_classes_grow_by_generated_images_then_by_copies_of_real_ones(
    tmp_path: Path, balance: Balance, changes: dict, generated: dict, copies: dict
) -> None:
    rows = training_manifest(blast=7, normal=3, rare=2)
    balanced = balance_manifest(rows, balance.model_copy(update=changes), 0)
    write_table(balanced, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.csv"), check_manifest(balanced, "balanced"))
    pd.testing.assert_frame_equal(balanced.iloc[: len(rows)], rows)
    counts = count_by_class(balanced)
    for kind, expected in (("generated", generated), ("copies", copies)):
        assert {label: count[kind] for label, count in counts.items() if count[kind]} == expected
    assert all(count["after"] == count["before"] + count["copies"] + count["generated"] for count in counts.values())
    drawn = balanced[balanced["source_id"] == GENERATED]
    assert drawn["id"].tolist() == [f"{name}//g{n}" for name, count in generated.items() for n in range(1, count + 1)]
    assert (drawn[["path", "group", "sha256"]] == GENERATED).all(axis=None)
    assert set(drawn["split"]) <= {"train"}
    assert drawn["fold"].isna().all()
    others = balanced[(balanced["id"] != balanced["source_id"]) & (balanced["source_id"] != GENERATED)]
    assert set(others["source_id"]) <= set(rows["id"]), "copies are made of real images"
    store = random_crops(len(rows))
    write_store(tmp_path / "store", rows["id"].tolist(), store, 3)
    assert draw_copies(balanced, CropStore(tmp_path / "store"), balance.augment, 0)[0] == others["id"].tolist()


def test_only_training_rows_of_the_fold_count(tmp_path: Path, balance: Balance) -> None:
    """Neither pixels nor number of validation and test images, nor the order of the rows; but each training image."""
    manifest = training_manifest(blast=12, normal=6)
    manifest.loc[0, "split"], manifest.loc[0, "fold"] = "test", pd.NA
    rows = training_rows(manifest, 1)
    outside = ~manifest["id"].isin(rows["id"]).to_numpy()
    assert outside.sum() == 7
    crops = random_crops(len(manifest), 16)
    results = []
    for change in ("none", "outside", "order", "inside"):
        pixels = crops.copy()
        if change == "outside":
            pixels[outside] = 255 - pixels[outside]
        if change == "inside":
            pixels[~outside] = 255 - pixels[~outside]
        write_store(tmp_path, manifest["id"].tolist(), pixels, 3)
        balanced = balance_manifest(rows.iloc[::-1] if change == "order" else rows, balance, 4)
        ids, drawn = generate_images(balanced, CropStore(tmp_path), balance, fold=1, seed=4)
        results.append({name: crop.tobytes() for name, crop in zip(ids, drawn, strict=True)})
    none, after_outside, order, inside = results
    assert sorted(none) == ["normal//g1", "normal//g2", "normal//g3"]
    assert none == after_outside == order
    assert none != inside


def test_copies_among_the_rows_are_not_learned(tmp_path: Path, balance: Balance) -> None:
    rows, crops = training_manifest(blast=6, normal=4), random_crops(10, 16)
    assert generate(tmp_path / "a", rows, balance, crops) == generate(
        tmp_path / "b", rows, balance.model_copy(update={"multiply": 2}), crops
    )


def test_nothing_is_fitted_where_nothing_is_to_be_drawn(tmp_path: Path, balance: Balance) -> None:
    rows = training_manifest(blast=3, normal=3)
    too_few = balance.model_copy(update={"generate": TINY.model_copy(update={"min_images": 100})})
    assert generate(tmp_path, rows, too_few, random_crops(6, 200)) == {}


def test_a_class_with_too_few_images_is_refused(tmp_path: Path, balance: Balance) -> None:
    rows = training_manifest(blast=7, normal=5, rare=4)
    strict = balance.model_copy(update={"generate": TINY.model_copy(update={"min_images": 5})})
    message = r"class 'rare' has 4 training images in fold 0, fewer than balance\.generate\.min_images, 5: .*augment"
    with pytest.raises(InputError, match=message):
        generate(tmp_path, rows, strict, random_crops(16, 16))
    # A class that does not grow may be small.
    assert generate(tmp_path, rows[rows["label"] != "rare"], strict, random_crops(12, 16)).keys() == {
        "normal//g1",
        "normal//g2",
    }


def test_large_crops_are_refused(tmp_path: Path, balance: Balance) -> None:
    rows = training_manifest(blast=4, normal=3)
    with pytest.raises(InputError, match=r"draws images of up to 128 pixels, crop\.side is 129: .*lower crop\.side"):
        generate(tmp_path, rows, balance, random_crops(7, 129))


def test_the_nearest_training_image_may_be_of_any_class_but_is_no_copy(balance: Balance) -> None:
    rows = training_manifest(blast=5, normal=3)
    balanced = balance_manifest(rows, balance.model_copy(update={"multiply": 2}), 4)
    assert balanced["id"].str.endswith("//1").any()
    crops = dict(zip(balanced["id"], random_crops(len(balanced), 48), strict=True))
    crops["normal//g1"] = np.rot90(crops["blast/3.png"], 2)
    crops["normal//g2"] = crops["normal/1.png"] // 2  # darker
    for name in balanced["id"][balanced["id"].str.endswith("//1")]:
        crops[name] = crops["normal//g2"]
    nearest = nearest_training_images(balanced, lambda ids: np.stack([crops[name] for name in ids]))
    columns = ["id", "label", "nearest", "nearest_label", "turns", "mirrored"]
    assert nearest[columns].to_numpy().tolist() == [
        ["normal//g1", "normal", "blast/3.png", "blast", 2, False],
        ["normal//g2", "normal", "normal/1.png", "normal", 0, False],
    ]
    assert nearest["detail"].min() > 0.99


def test_near_equal_images_are_counted() -> None:
    nearest = pd.DataFrame({"id": ["a//g1", "a//g2", "a//g3"], "nearest": ["x", "y", "z"], "detail": [0.97, 0.3, 0.96]})
    (warning,) = warn_of_copies(nearest, 0.96)
    assert warning.startswith("2 of 3 generated images nearly equal a training image")
    assert "'a//g1' and 'x'" in warning
    assert warn_of_copies(nearest, 0.98) == []
    assert warn_of_copies(nearest, None) == []
