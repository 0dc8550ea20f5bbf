"""The record of how crops were made, and the comparison with params.yaml and with model cards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.cropping import build
from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop
from tumorboard.data.crop_record import check_crop, resolve_window, write_record
from tumorboard.data.store import CropStore, write_store

# Another valid value of each key that decides what a crop is.
OTHER: dict[str, Any] = {
    "border": False,
    "border_threshold": 9,
    "border_tolerance": 0.125,
    "max_bytes": 12_345,
    "max_pixels": 23_456,
    "min_side": 7,
    "max_aspect": 3.5,
    "background": (1, 2, 3),
    "window": (0.0, 7.0),
    "scaled_decoding": None,
}


def make_store(folder: Path, crop: Crop) -> CropStore:
    write_store(folder, ["a"], np.zeros((1, crop.side, crop.side, 3), np.uint8), 1)
    return CropStore(folder)


def test_other_has_every_key_but_the_side_and_the_shards(crop: Crop) -> None:
    assert {*OTHER, "side", "shards"} == set(type(crop).model_fields)
    base = crop.model_copy(update={"border": True, "scaled_decoding": 2.0})
    assert all(getattr(base, key) != value for key, value in OTHER.items())


@pytest.mark.parametrize("key", list(OTHER))
def test_crops_that_were_made_otherwise_are_refused_by_the_name_of_the_key(
    key: str, crop: Crop, tmp_path: Path
) -> None:
    made = crop.model_copy(update={"border": True, "scaled_decoding": 2.0})
    store = make_store(tmp_path, made)
    write_record(tmp_path, made, None, made.fixed_window)
    check_crop(store, made, "store")
    with pytest.raises(InputError, match=rf"^store: was made with crop\.{key}: .*, but crop\.{key} is .*: run `dvc"):
        check_crop(store, made.model_copy(update={key: OTHER[key]}), "store")


def test_another_side_and_another_number_of_shards(crop: Crop, tmp_path: Path) -> None:
    store = make_store(tmp_path, crop)
    write_record(tmp_path, crop, None, None)
    check_crop(store, crop.model_copy(update={"shards": crop.shards + 1}), "store")
    with pytest.raises(InputError, match=r"holds crops of \d+ pixels, but crop\.side is"):
        check_crop(store, crop.model_copy(update={"side": crop.side * 2}), "store")


def test_a_card_has_the_range_that_set_became(crop: Crop, tmp_path: Path) -> None:
    by_set = crop.model_copy(update={"window": "set"})
    store = make_store(tmp_path, crop)
    write_record(tmp_path, by_set, None, (-50.0, 300.0))
    card = resolve_window(by_set, tmp_path)
    assert card.window == (-50.0, 300.0)
    for accepted in (by_set, card):
        check_crop(store, accepted, "store")
    for window in ((-50.0, 301.0), None):
        with pytest.raises(InputError, match=r"was made with crop\.window: set, but crop\.window is"):
            check_crop(store, crop.model_copy(update={"window": window}), "store")
    write_record(tmp_path, crop.model_copy(update={"window": (-50.0, 300.0)}), None, (-50.0, 300.0))
    with pytest.raises(InputError, match=r"crop\.window"):
        check_crop(store, by_set, "store")
    with pytest.raises(InputError, match=r"was not made with crop\.window: set"):
        resolve_window(by_set, tmp_path)


def test_a_store_without_a_record_is_compared_by_its_side(crop: Crop, tmp_path: Path) -> None:
    store = make_store(tmp_path, crop)
    check_crop(store, crop.model_copy(update={"border": not crop.border}), "store")


def test_altered_copies_beside_the_crops_have_no_record(crop: Crop, tmp_path: Path) -> None:
    make_store(tmp_path / "crops", crop)
    write_record(tmp_path / "crops", crop, None, None)
    write_store(tmp_path / "copies", ["b"], np.zeros((1, crop.side, crop.side, 3), np.uint8), 1)
    both = CropStore(tmp_path / "crops", tmp_path / "copies")
    check_crop(both, crop, "store")
    with pytest.raises(InputError, match=r"crop\.border"):
        check_crop(both, crop.model_copy(update={"border": not crop.border}), "store")


@pytest.mark.parametrize("text", ["[]", "{}", '{"crop": 1, "window": null}', "{"])
def test_a_damaged_record_is_named(text: str, crop: Crop, tmp_path: Path) -> None:
    store = make_store(tmp_path, crop)
    (tmp_path / "crop.json").write_text(text)
    with pytest.raises(InputError, match=r"crop\.json: "):
        check_crop(store, crop, "store")


def test_crop_records_params_and_frames_and_a_new_store_drops_the_old_record(
    raw: Path, crop: Crop, tmp_path: Path
) -> None:
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    record = json.loads((tmp_path / "out/store/crop.json").read_text())
    assert record == {"crop": crop.model_dump(mode="json"), "frames": None, "window": None}
    check_crop(CropStore(tmp_path / "out/store"), crop, "store")
    make_store(tmp_path / "out/store", crop)
    assert not (tmp_path / "out/store/crop.json").exists()
