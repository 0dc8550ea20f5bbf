"""Records beside the crops how they were made; training and evaluation refuse crops that were made otherwise."""

import json
from pathlib import Path
from typing import Any

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_json, write_json
from tumorboard.base.params import SET, Crop, Frames
from tumorboard.data.store import RECORD, CropStore, check_side

_NO_CHANGE = {"shards"}  # keys of section `crop` that change where a crop lies, not what it is


def write_record(store: Path, crop: Crop, frames: Frames, window: tuple[float, float] | None) -> None:
    """Writes how the crops of a store were made.

    Args:
        store: folder of the crop store.
        crop: section `crop` of params.yaml.
        frames: `data.frames` of params.yaml.
        window: the range of grey values that `crop.window` became; with `set` the range of all files.
    """
    record = {
        "crop": crop.model_dump(mode="json"),
        "frames": frames,
        "window": None if window is None else list(window),
    }
    write_json(record, store / RECORD)


def check_crop(store: CropStore, crop: Crop, where: str) -> None:
    """Raises InputError unless the crops were made with these parameters.

    For a store without a record (from version 0.1.0) only the side is compared.

    Args:
        store: the crops, not empty; it may join several folders, and those that balance the classes have no record.
        crop: section `crop` of params.yaml, or of a model card.
        where: folder of the store, for the message.
    """
    check_side(store, crop.side, where)
    given = crop.model_dump(mode="json", exclude=_NO_CHANGE)
    for folder in store.folders:
        record = _read_record(folder)
        if record is None:
            continue
        made = record["crop"]
        for key, value in given.items():
            # A card has the range that `set` became.
            if value != made.get(key) and (key != "window" or value != record["window"]):
                old, new = _shown(made.get(key)), _shown(value)
                raise InputError(f"{where}: was made with crop.{key}: {old}, but crop.{key} is {new}: run `dvc repro`")


def resolve_window(crop: Crop, store: Path) -> Crop:
    """Returns `crop` with the range that `crop.window: set` became in a crop store; other windows stay.

    A model's card needs it: a new image is scaled over the range of the images that the model was trained on.

    Raises:
        InputError: the store was made with another `crop.window`.
    """
    if crop.window != SET:
        return crop
    record = _read_record(store)
    if record is None or record["crop"].get("window") != SET:
        raise InputError(f"{store}: was not made with crop.window: {SET}: run `dvc repro`")
    window = record["window"]
    return crop.model_copy(update={"window": None if window is None else tuple(window)})


def _shown(value: object) -> str:
    """Returns a value as params.yaml has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _read_record(store: Path) -> dict[str, Any] | None:
    path = store / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("crop"), dict) or "window" not in record:
        raise InputError(f"{path}: does not say how the crops were made: run `dvc repro crop`")
    return record
