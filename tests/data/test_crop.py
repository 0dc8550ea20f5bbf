"""crop_images: what it writes is what decoding and cropping by hand gives; caching, rejecting, several processes."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from tumorboard import images
from tumorboard.data.crop import crop_images, worker_count
from tumorboard.data.sources import list_images
from tumorboard.data.store import CropStore
from tumorboard.errors import InputError
from tumorboard.params import Crop, Data, Params
from tumorboard.tables import read_manifest, read_table

Pixels = NDArray[np.uint8]


def picture(seed: int, height: int = 40, width: int = 50) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def crop(params: Params) -> Crop:
    return params.crop.model_copy(update={"size": 24, "border": False})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five files a class; b/again.png repeats a file of a, b/resaved.bmp the picture of one."""
    folder = tmp_path / "raw"
    for number in range(4):
        save(folder / f"a/P{number}, é {number}.png", picture(number, 40 + number))
        save(folder / f"b/-{number}.png", picture(10 + number))
    save(folder / "a/turned\nname.png", picture(99, 31, 24))
    (folder / "b/again.png").write_bytes((folder / "a/P0, é 0.png").read_bytes())
    save(folder / "b/resaved.bmp", picture(1, 41))
    return folder


def build(raw: Path, out: Path, crop: Crop, cache: Path, workers: int = 1, max_rejected: int = 0) -> dict[str, Any]:
    data = Data(raw=str(raw), table=None, group_pattern=None, max_rejected=max_rejected)
    rows, ignored = list_images(raw, data)
    shuffled = rows.sample(frac=1, random_state=len(rows))
    return crop_images(shuffled, ignored, raw, crop, out, cache, workers, max_rejected)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SHA-256 of every file content that is decoded."""
    seen: list[str] = []
    decode = images.decode

    def counting(content: bytes, max_pixels: int) -> Pixels:
        seen.append(sha256(content).hexdigest())
        return decode(content, max_pixels)

    monkeypatch.setattr(images, "decode", counting)
    return seen


def test_the_outs_are_what_the_files_hold(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "README").write_text("not an image, not in a class")
    before = hashes(raw)
    counts = build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert hashes(raw) == before
    assert counts == {
        "images": 11,
        "classes": {"a": 5, "b": 6},
        "groups": 11,
        "rejected": 0,
        "ignored": 1,
        "equal_files": 1,
        "equal_pixels": 2,
    }
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest["id"].tolist() == sorted(set(before) - {"README"})
    assert (manifest["id"] == manifest["path"]).all()
    assert (manifest["id"] == manifest["source_id"]).all()
    assert manifest["sha256"].tolist() == [before[path] for path in manifest["path"]]
    store = CropStore(tmp_path / "out/store")
    facts = read_table(tmp_path / "out/images.csv").set_index("id")
    for path in manifest["id"]:
        upright = np.asarray(Image.open(raw / path).convert("RGB"))
        np.testing.assert_array_equal(store[[path]][0], images.crop_image(upright, crop))
        size = (str(upright.shape[1]), str(upright.shape[0]), str((raw / path).stat().st_size))
        assert tuple(facts.loc[path, ["width", "height", "bytes"]]) == size
    assert facts.loc["b/resaved.bmp", "format"] == "BMP"
    assert facts.loc["b/again.png", "format"] == "PNG"
    same = facts.groupby("pixels").groups.values()
    assert sorted(list(ids) for ids in same if len(ids) > 1) == [
        ["a/P0, é 0.png", "b/again.png"],
        ["a/P1, é 1.png", "b/resaved.bmp"],
    ]
    assert read_table(tmp_path / "out/ignored.csv").to_numpy().tolist() == [["README", "outside the class folders"]]


def test_the_same_pixels_in_another_shape_are_another_picture(tmp_path: Path, crop: Crop) -> None:
    flat = picture(0, 24, 48)
    save(tmp_path / "raw/a/1.png", flat)
    save(tmp_path / "raw/b/1.png", flat.reshape(48, 24, 3))
    assert build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")["equal_pixels"] == 0


def test_an_added_image_costs_one_decode_and_gives_the_same_bytes(
    tmp_path: Path, raw: Path, crop: Crop, decoded: list[str]
) -> None:
    build(raw, tmp_path / "first", crop, tmp_path / "cache")
    # again.png is, byte for byte, a file seen before.
    assert len(decoded) == 10
    save(raw / "a/new.png", picture(55))
    del decoded[:]
    build(raw, tmp_path / "added", crop, tmp_path / "cache")
    assert decoded == [sha256((raw / "a/new.png").read_bytes()).hexdigest()]
    clean = build(raw, tmp_path / "clean", crop, tmp_path / "empty cache")
    assert hashes(tmp_path / "added") == hashes(tmp_path / "clean")
    del decoded[:]
    assert build(raw, tmp_path / "again", crop, tmp_path / "cache") == clean
    assert decoded == []


def test_parameters_that_change_crops_are_not_served_from_the_cache(
    tmp_path: Path, raw: Path, crop: Crop, decoded: list[str]
) -> None:
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    for change, decodes in [({"shards": 2}, 0), ({"border": True}, 10), ({"size": 20}, 10), ({"max_pixels": 5000}, 10)]:
        del decoded[:]
        build(raw, tmp_path / "out", crop.model_copy(update=change), tmp_path / "cache")
        assert len(decoded) == decodes, change


def test_a_damaged_cache_entry_is_made_again(tmp_path: Path, raw: Path, crop: Crop, decoded: list[str]) -> None:
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    entries = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    whole = [entry.read_bytes() for entry in entries]
    entries[0].write_bytes(b"")
    entries[1].write_bytes(whole[1][:-1])
    entries[2].write_bytes(whole[2].replace(b'"width": ', b'"width": 1'))
    entries[3].write_bytes(whole[3][:-1] + bytes([whole[3][-1] ^ 1]))
    del decoded[:]
    before = hashes(tmp_path / "out")
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert len(decoded) == 4
    assert hashes(tmp_path / "out") == before
    assert [entry.read_bytes() for entry in entries] == whole


def test_several_processes_give_the_same_bytes(tmp_path: Path, crop: Crop) -> None:
    for number in range(70):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    (tmp_path / "raw/a/broken.png").write_bytes(b"no picture")
    one = build(tmp_path / "raw", tmp_path / "one", crop, tmp_path / "cache 1", 1, 1)
    two = build(tmp_path / "raw", tmp_path / "two", crop, tmp_path / "cache 2", 2, 1)
    assert one == two
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_files_that_are_no_images_are_listed_with_their_reasons(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "a/empty.png").touch()
    (raw / "a/notes.txt").write_text("no picture")
    jpeg = cv2.imencode(".jpg", picture(3, 300, 300))[1].tobytes()
    (raw / "b/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (raw / "b/nowhere.png").symlink_to(raw / "gone.png")
    (raw / "b/pipe.png").unlink(missing_ok=True)
    os.mkfifo(raw / "b/pipe.png")
    save(raw / "b/large.png", np.zeros((1000, 1001, 3), np.uint8))
    small = crop.model_copy(update={"max_pixels": 1_000_000})
    counts = build(raw, tmp_path / "out", small, tmp_path / "cache", max_rejected=6)
    assert (counts["images"], counts["rejected"]) == (11, 6)
    rejected = read_table(tmp_path / "out/rejected.csv")
    assert rejected.set_index("path")["reason"].to_dict() == {
        "a/empty.png": "empty",
        "a/notes.txt": "not an image",
        "b/cut.jpg": "truncated",
        "b/large.png": "too many pixels",
        "b/nowhere.png": "unreadable",
        "b/pipe.png": "unreadable",
    }
    assert (rejected["detail"] != "").all()
    assert not set(rejected["path"]) & set(read_manifest(tmp_path / "out/manifest.csv")["path"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_rejected(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "b/-0.png").chmod(0)
    assert build(raw, tmp_path / "out", crop, tmp_path / "cache", max_rejected=1)["rejected"] == 1


def test_a_file_that_vanished_is_rejected(tmp_path: Path, raw: Path, crop: Crop) -> None:
    rows, ignored = list_images(raw, Data(raw="", table=None, group_pattern=None, max_rejected=1))
    (raw / "b/-0.png").unlink()
    counts = crop_images(rows, ignored, raw, crop, tmp_path / "out", tmp_path / "cache", 1, 1)
    assert (counts["images"], counts["rejected"]) == (10, 1)


def test_too_many_rejected_stop_with_nothing_written(tmp_path: Path, raw: Path, crop: Crop) -> None:
    for number in range(12):
        (raw / f"a/{number:02d}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"12 of 23 files .*data\.max_rejected") as caught:
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_rejected=11)
    assert "'a/00.png': not an image" in str(caught.value)
    assert "'a/09.png'" in str(caught.value)
    assert "'a/10.png'" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_class_without_any_usable_image_is_an_error(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "c").mkdir()
    (raw / "c/1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"class 'c' has no image(.|\n)*'c/1.png': not an image"):
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_rejected=5)
    assert not (tmp_path / "out").exists()


def test_parts_and_folds_of_a_table_arrive_in_the_manifest(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "labels.csv").write_text(
        "path,label,group,split,fold\nb/-0.png,x,G,train,2\nb/-1.png,y,H,test,\nb/-2.png,y,H,train,\n"
    )
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest[["label", "group", "split"]].to_numpy().tolist() == [
        ["x", "G", "train"],
        ["y", "H", "test"],
        ["y", "H", "train"],
    ]
    assert manifest["fold"].tolist() == [2, pd.NA, pd.NA]


def test_workers() -> None:
    assert worker_count(3) == 3
    assert worker_count("auto") == len(os.sched_getaffinity(0))
