"""crop_images: its tables and crops equal those made by hand; the cache, quarantine, several processes, a cluster."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Crop, Data, Frames, Params
from tumorboard.base.tables import read_manifest
from tumorboard.data import crop as crop_module
from tumorboard.data.crop import CropJob, CropSummary, _cache_key, _cut_chunks, crop_images
from tumorboard.data.sources import list_images
from tumorboard.data.store import CropStore
from tumorboard.images import crop as images
from tumorboard.images.crop import crop_image

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
    return params.crop.model_copy(update={"side": 24, "border": False})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five files in a, six in b; b/again.png repeats a file of a, and b/resaved.bmp the picture of another one."""
    folder = tmp_path / "raw"
    for number in range(4):
        save(folder / f"a/P{number}, é {number}.png", picture(number, 40 + number))
        save(folder / f"b/-{number}.png", picture(10 + number))
    save(folder / "a/turned\nname.png", picture(99, 31, 24))
    (folder / "b/again.png").write_bytes((folder / "a/P0, é 0.png").read_bytes())
    save(folder / "b/resaved.bmp", picture(1, 41))
    return folder


def build(
    raw: Path,
    out: Path,
    crop: Crop,
    cache: Path,
    workers: int = 1,
    max_quarantined: int = 0,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """The counts of a run over all files in `raw`, listed in a random order."""
    data = Data(raw=str(raw), table=None, group_pattern=None, frames=None, max_quarantined=max_quarantined)
    rows, ignored = list_images(raw, data)
    shuffled = rows.sample(frac=1, random_state=len(rows))
    job = CropJob(
        raw=raw,
        out=out,
        cache=cache,
        crop=crop,
        frames=data.frames,
        max_quarantined=max_quarantined,
        workers=workers,
        scheduler=scheduler,
    )
    return crop_images(shuffled, ignored, job).counts


def job_of(raw: Path, crop: Crop, folder: Path, frames: Frames = None, max_quarantined: int | None = 0) -> CropJob:
    """A job of one worker that writes to `folder`/out and keeps its crops in `folder`/cache."""
    return CropJob(
        raw=raw,
        out=folder / "out",
        cache=folder / "cache",
        crop=crop,
        frames=frames,
        max_quarantined=max_quarantined,
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SHA-256 of every file content that is decoded."""
    seen: list[str] = []
    decode = images.decode

    def counting(content: bytes, *limits: Any) -> tuple[Pixels, images.Header]:
        seen.append(sha256(content).hexdigest())
        return decode(content, *limits)

    monkeypatch.setattr(images, "decode", counting)
    return seen


def test_the_tables_and_crops_equal_those_made_by_hand(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "README").write_text("not an image, not in a class")
    before = hashes(raw)
    counts = build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert hashes(raw) == before
    assert counts == {
        "images": 11,
        "classes": {"a": 5, "b": 6},
        "groups": 11,
        "quarantined": 0,
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
        np.testing.assert_array_equal(store[[path]][0], crop_image(upright, crop))
        size = (str(upright.shape[1]), str(upright.shape[0]), str((raw / path).stat().st_size))
        assert tuple(facts.loc[path, ["width", "height", "bytes"]]) == size
        color = facts.loc[path, ["red", "green", "blue"]].astype(float)
        np.testing.assert_allclose(color, upright.mean((0, 1)), atol=0.006)
        assert facts.loc[path, "border"] == "0.0"
    assert facts.loc["b/resaved.bmp", "format"] == "BMP"
    assert facts.loc["b/again.png", "format"] == "PNG"
    same = facts.groupby("pixels").groups.values()
    assert sorted(list(ids) for ids in same if len(ids) > 1) == [
        ["a/P0, é 0.png", "b/again.png"],
        ["a/P1, é 1.png", "b/resaved.bmp"],
    ]
    assert read_table(tmp_path / "out/ignored.csv").to_numpy().tolist() == [["README", "outside the class folders"]]


@pytest.mark.parametrize("removed", [True, False])
def test_the_dark_border_is_measured_whether_or_not_it_is_cut_off(tmp_path: Path, crop: Crop, removed: bool) -> None:
    framed = np.zeros((40, 50, 3), np.uint8)
    framed[5:35, 10:40] = 200
    save(tmp_path / "raw/a/framed.png", framed)
    save(tmp_path / "raw/b/black.png", np.zeros((40, 50, 3), np.uint8))
    build(tmp_path / "raw", tmp_path / "out", crop.model_copy(update={"border": removed}), tmp_path / "cache")
    facts = read_table(tmp_path / "out/images.csv").set_index("id")
    # 900 of 2,000 pixels are left; a black picture stays whole.
    assert facts["border"].to_dict() == {"a/framed.png": "0.55", "b/black.png": "0.0"}
    assert float(facts.loc["a/framed.png", "green"]) == 90.0


def test_a_grey_picture_has_its_mean_level_in_each_color(tmp_path: Path, crop: Crop) -> None:
    for label, levels in (("a", [10, 21]), ("b", [0, 255])):
        grey = np.tile(np.array(levels, np.uint8), (30, 15))
        (tmp_path / "raw" / label).mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / "raw" / label / "1.png")
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    colors = read_table(tmp_path / "out/images.csv")[["red", "green", "blue"]]
    assert colors.to_numpy().tolist() == [["15.5"] * 3, ["127.5"] * 3]


def test_the_same_pixels_in_another_shape_are_another_picture(tmp_path: Path, crop: Crop) -> None:
    flat = picture(0, 24, 48)
    save(tmp_path / "raw/a/1.png", flat)
    save(tmp_path / "raw/b/1.png", flat.reshape(48, 24, 3))
    assert build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")["equal_pixels"] == 0


def test_an_added_image_is_the_only_one_decoded_and_the_bytes_are_the_same(
    tmp_path: Path, raw: Path, crop: Crop, decoded: list[str]
) -> None:
    build(raw, tmp_path / "first", crop, tmp_path / "cache")
    # again.png has the bytes of another file.
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


def test_the_summary_counts_decoded_and_cached_files_and_nothing_is_printed(
    tmp_path: Path, raw: Path, crop: Crop, capfd: pytest.CaptureFixture[str]
) -> None:
    (raw / "a/broken.png").write_bytes(b"no picture")
    images, ignored = list_images(raw, Data(raw="", table=None, group_pattern=None, frames=None, max_quarantined=1))
    job = job_of(raw, crop, tmp_path, max_quarantined=1)
    first = crop_images(images, ignored, job)
    # again.png has the bytes of another file, so that 10 of the 11 usable ones are decoded.
    assert first == CropSummary(first.counts, listed=12, decoded=10, cached=1)
    save(raw / "a/new.png", picture(55))
    images, ignored = list_images(raw, Data(raw="", table=None, group_pattern=None, frames=None, max_quarantined=1))
    second = crop_images(images, ignored, job)
    assert second == CropSummary(second.counts, listed=13, decoded=1, cached=11)
    assert (first.counts["images"], second.counts["images"]) == (11, 12)
    assert capfd.readouterr() == ("", "")


def test_one_more_image_in_a_hundred_changes_only_its_shard(tmp_path: Path, crop: Crop, decoded: list[str]) -> None:
    for number in range(100):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    build(tmp_path / "raw", tmp_path / "first", crop, tmp_path / "cache")
    save(tmp_path / "raw/a/new.png", picture(1000, 24, 24))
    del decoded[:]
    build(tmp_path / "raw", tmp_path / "added", crop, tmp_path / "cache")
    assert decoded == [sha256((tmp_path / "raw/a/new.png").read_bytes()).hexdigest()]
    before, after = hashes(tmp_path / "first"), hashes(tmp_path / "added")
    shard = int(sha256(b"a/new.png").hexdigest(), 16) % crop.shards
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"manifest.csv", "images.csv", "store/index.csv", f"store/shard-{shard:02d}.npy"}
    assert len(after) == 5 + crop.shards
    build(tmp_path / "raw", tmp_path / "clean", crop, tmp_path / "other cache")
    assert after == hashes(tmp_path / "clean")


def write_jpeg(path: Path, height: int, width: int, orientation: int = 1) -> None:
    y, x = np.mgrid[:height, :width]
    waves = 128 + 90 * np.sin(x / 9) * np.cos(y / 7)
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([waves, 255 - waves, waves / 2], -1).astype(np.uint8)).save(path, quality=95, exif=exif)


def test_a_jpeg_decoded_at_a_reduced_size_is_listed_at_its_full_size(tmp_path: Path, crop: Crop) -> None:
    write_jpeg(tmp_path / "raw/a/wide.jpg", 200, 301)
    write_jpeg(tmp_path / "raw/a/turned.jpg", 200, 301, 6)
    write_jpeg(tmp_path / "raw/a/nearly square, turned.jpg", 1000, 1001, 8)
    write_jpeg(tmp_path / "raw/b/small.jpg", 30, 24)
    (tmp_path / "raw/b/untagged.jpg").write_bytes((tmp_path / "raw/a/wide.jpg").read_bytes() + b"a note")
    for name, scaled in (("scaled", 2.0), ("plain", None)):
        counts = build(
            tmp_path / "raw",
            tmp_path / name,
            crop.model_copy(update={"scaled_decoding": scaled}),
            tmp_path / "cache",
        )
        assert (counts["equal_files"], counts["equal_pixels"]) == (0, 1)
        facts = read_table(tmp_path / name / "images.csv")
        assert facts[["id", "width", "height"]].to_numpy().tolist() == [
            ["a/nearly square, turned.jpg", "1000", "1001"],
            ["a/turned.jpg", "200", "301"],
            ["a/wide.jpg", "301", "200"],
            ["b/small.jpg", "24", "30"],
            ["b/untagged.jpg", "301", "200"],
        ]
    stores = [CropStore(tmp_path / name / "store") for name in ("scaled", "plain")]
    scaled_crops, plain_crops = (store.take(np.arange(5)).astype(float) for store in stores)
    error = ((scaled_crops - plain_crops) ** 2).mean(axis=(1, 2, 3))
    assert error[3] == 0
    assert (error[[0, 1, 2, 4]] > 0).all()
    assert (error < 255**2 / 10**3).all()  # 30 dB


def test_changed_parameters_do_not_use_cached_crops(tmp_path: Path, raw: Path, crop: Crop, decoded: list[str]) -> None:
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    changes: list[tuple[dict[str, Any], int]] = [
        ({"shards": 2}, 0),
        ({"border": True}, 10),
        ({"side": 20}, 10),
        ({"max_pixels": 5000}, 10),
        ({}, 0),  # the crops of the first run are still there
    ]
    for change, decodes in changes:
        del decoded[:]
        build(raw, tmp_path / "out", crop.model_copy(update=change), tmp_path / "cache")
        assert len(decoded) == decodes, change


def test_the_cache_key_covers_all_code_that_makes_crops(crop: Crop, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def read_text(file: Path, encoding: str) -> str:
        assert encoding == "utf-8"
        read.append("/".join(file.parts[-2:]))
        return f"code of {file.name}"

    before = _cache_key(crop, None)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert _cache_key.__wrapped__(crop, None) != before
    package = Path(crop_module.__file__).parents[1]
    modules = {f"images/{file.name}" for file in (package / "images").glob("*.py")}
    assert {"images/crop.py", "images/decode.py", "images/grey.py", "images/jpeg.py"} < modules
    assert sorted(read) == sorted([*modules, "data/crop.py", "data/crop_cache.py"])


def test_workers_get_absolute_paths_and_at_least_32_files_each(
    tmp_path: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[CropJob] = []
    opened: list[int] = []

    @contextmanager
    def record(workers: int, _: str | None) -> Iterator[Any]:
        def map_here(task: Any, items: Sequence[Any]) -> Iterator[Any]:
            jobs.extend([task.keywords["job"]] if "job" in task.keywords else [])
            return map(task, items)

        opened.append(workers)
        yield map_here

    monkeypatch.setattr(crop_module, "open_workers", record)
    monkeypatch.chdir(tmp_path)
    for number in range(33):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
        if number >= 31:
            build(Path("raw"), Path("out"), crop, Path("cache"), workers=8)
    assert opened == [1, 2]
    assert {(job.raw, job.out, job.cache.parent) for job in jobs} == {
        (tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
    }


def test_a_damaged_cached_crop_is_made_again(
    tmp_path: Path, raw: Path, crop: Crop, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crop_module, "MAX_CHUNK_FILES", 1)
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    packs = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(packs) == 10
    whole = [pack.read_bytes() for pack in packs]
    packs[0].write_bytes(b"")
    packs[1].write_bytes(whole[1][:-1])
    del decoded[:]
    before = hashes(tmp_path / "out")
    build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert len(decoded) == 2
    assert hashes(tmp_path / "out") == before
    assert [pack.read_bytes() for pack in packs] == whole


def test_large_crops_are_written_in_several_packs(
    tmp_path: Path, raw: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(raw, tmp_path / "one", crop, tmp_path / "one cache")
    monkeypatch.setattr(crop_module, "PACK_BYTES", 3 * 3 * crop.side**2)
    build(raw, tmp_path / "several", crop, tmp_path / "cache")
    sizes = {path.stat().st_size // (3 * crop.side**2) for path in (tmp_path / "cache").rglob("*.pack")}
    assert sizes == {3, 2}  # of 8 and of 2 crops
    assert hashes(tmp_path / "several") == hashes(tmp_path / "one")


def test_several_processes_give_the_same_bytes(tmp_path: Path, crop: Crop) -> None:
    for number in range(70):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    (tmp_path / "raw/a/broken.png").write_bytes(b"no picture")
    one = build(tmp_path / "raw", tmp_path / "one", crop, tmp_path / "cache 1", 1, 1)
    two = build(tmp_path / "raw", tmp_path / "two", crop, tmp_path / "cache 2", 2, 1)
    assert one == two
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "size", "workers", "expected"),
    [
        (10, 5, 1, [8, 2]),
        (400, 5, 2, [50, 43, 38, 33, 29, 25, 22, 20, 17, 15, 13, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8, 8, 1]),
        (300, 5, 1, [75, 56, 42, 31, 24, 18, 13, 10, 8, 8, 8, 7]),
        (1200, 5, 1, [128] * 6 + [108, 81, 60, 45, 34, 26, 19, 14, 11, 8, 8, 8, 8, 2]),
        (7, 2_000_000, 1, [2, 2, 2, 1]),
        (3, 9_000_000, 1, [1, 1, 1]),
        (3, 0, 1, [3]),
    ],
)
def test_chunks_are_smaller_for_large_files_and_towards_the_end(
    tmp_path: Path, files: int, size: int, workers: int, expected: list[int]
) -> None:
    paths = [f"{number:04d}" for number in range(files)]
    for path in paths:
        with (tmp_path / path).open("wb") as file:
            file.truncate(size)
    (tmp_path / paths[-1]).unlink()  # a file that has vanished does not count
    chunks = _cut_chunks(paths, tmp_path, workers)
    assert [len(chunk) for chunk in chunks] == expected
    assert [path for chunk in chunks for path in chunk] == paths


def elsewhere(**folders: Path) -> Callable[..., Any]:
    """A stand-in for open_workers whose worker sees other folders under the names that it is given."""

    def map_elsewhere(task: Any, items: Sequence[Any]) -> Iterator[Any]:
        arguments = dict(task.keywords)
        if "marker" in folders and "marker" in arguments:
            arguments["marker"] = folders["marker"]
        elif "job" in arguments:
            arguments["job"] = replace(arguments["job"], **folders)
        return map(partial(task.func, **arguments), items)

    @contextmanager
    def opened(workers: int, scheduler: str | None) -> Iterator[Any]:
        assert (workers, scheduler) == (1, "tcp://there:1")
        yield map_elsewhere

    return opened


def test_a_worker_that_sees_other_folders_is_an_error(
    tmp_path: Path, raw: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounted").mkdir()
    for folders, message in [
        ({"raw": tmp_path / "nowhere"}, "does not see the raw folder"),
        ({"marker": tmp_path / "nowhere"}, "does not see the crop cache"),
        ({"cache": tmp_path / "another version"}, "has other versions of tumorboard"),
        # An empty mount point must not have every file quarantined.
        ({"raw": tmp_path / "mounted"}, r"é 0.png: can be read here, but not by the worker that tried \(No such file"),
    ]:
        monkeypatch.setattr(crop_module, "open_workers", elsewhere(**folders))
        with pytest.raises(InputError, match=message):
            build(raw, tmp_path / "out", crop, tmp_path / "cache", 1, 99, "tcp://there:1")
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache").rglob(".run-*"))


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(tmp_path: Path, crop: Crop, cluster: Any) -> None:
    for number in range(700):
        save(tmp_path / f"raw/{'ab'[number % 2]}/{number}.png", picture(number, 24, 24))
    (tmp_path / "raw/a/broken.png").write_bytes(b"no picture")
    here = build(tmp_path / "raw", tmp_path / "here", crop, tmp_path / "cache 1", 1, 1)
    killed: list[bool] = []

    def kill_one() -> None:
        while len(list((tmp_path / "cache 2").rglob("*.pack"))) < 2:
            time.sleep(0.005)
        victim = next(iter(cluster.scheduler_info["workers"].values()))
        os.kill(cluster.workers[victim["id"]].pid, signal.SIGKILL)
        killed.append(not (tmp_path / "there").exists())

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    there = build(tmp_path / "raw", tmp_path / "there", crop, tmp_path / "cache 2", 1, 1, cluster.scheduler_address)
    killer.join()
    assert killed == [True]
    assert here == there
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")


def test_files_that_cannot_be_used_are_listed_with_their_reasons(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "a/empty.png").touch()
    (raw / "a/notes.txt").write_text("no picture")
    jpeg = cv2.imencode(".jpg", picture(3, 300, 300))[1].tobytes()
    (raw / "b/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (raw / "b/nowhere.png").symlink_to(raw / "gone.png")
    (raw / "b/pipe.png").unlink(missing_ok=True)
    os.mkfifo(raw / "b/pipe.png")
    save(raw / "b/large.png", np.zeros((1000, 1001, 3), np.uint8))
    small = crop.model_copy(update={"max_pixels": 1_000_000})
    counts = build(raw, tmp_path / "out", small, tmp_path / "cache", max_quarantined=6)
    assert (counts["images"], counts["quarantined"]) == (11, 6)
    quarantined = read_table(tmp_path / "out/quarantined.csv")
    assert quarantined.set_index("path")["reason"].to_dict() == {
        "a/empty.png": "empty",
        "a/notes.txt": "not an image",
        "b/cut.jpg": "truncated",
        "b/large.png": "too many pixels",
        "b/nowhere.png": "broken or outward link",
        "b/pipe.png": "unreadable",
    }
    assert (quarantined["detail"] != "").all()
    assert not set(quarantined["path"]) & set(read_manifest(tmp_path / "out/manifest.csv")["path"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_quarantined(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "b/-0.png").chmod(0)
    assert build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=1)["quarantined"] == 1


def test_a_file_that_vanished_is_quarantined(tmp_path: Path, raw: Path, crop: Crop) -> None:
    rows, ignored = list_images(raw, Data(raw="", table=None, group_pattern=None, frames=None, max_quarantined=1))
    (raw / "b/-0.png").unlink()
    counts = crop_images(rows, ignored, job_of(raw, crop, tmp_path, max_quarantined=1)).counts
    assert (counts["images"], counts["quarantined"]) == (10, 1)


def test_a_patient_of_dicom_files_is_their_group_unless_another_is_given(tmp_path: Path, crop: Crop) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    for number, patient in enumerate(["P1", "P1", "", "P2"]):
        for label in "ab":
            (tmp_path / f"raw/{label}").mkdir(parents=True, exist_ok=True)
            content = dicom(picture(number)[..., 0].copy(), PatientID=patient)
            (tmp_path / f"raw/{label}/{number}.dcm").write_bytes(content)
    groups = []
    for pattern in (None, r"(\d)\.dcm", "(.*)"):
        rows, ignored = list_images(
            tmp_path / "raw", Data(raw="", table=None, group_pattern=pattern, frames=None, max_quarantined=0)
        )
        for _ in range(2):  # the second time from the crop cache
            crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path))
            groups.append(read_manifest(tmp_path / "out/manifest.csv")["group"].tolist())
    by_patient = ["P1", "P1", "a/2.dcm", "P2", "P1", "P1", "b/2.dcm", "P2"]
    own = [f"{label}/{number}.dcm" for label in "ab" for number in range(4)]
    assert groups == [by_patient, by_patient, [*"01230123"], [*"01230123"], own, own]
    facts = read_table(tmp_path / "out/images.csv")
    assert set(facts["format"]) == {"DICOM"}
    assert "patient" not in facts.columns


def test_a_patient_with_a_carriage_return_and_a_table_that_makes_each_image_its_own_group(
    tmp_path: Path, crop: Crop
) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    paths = [f"{label}/{number}.dcm" for label in "ab" for number in range(2)]
    for number, path in enumerate(paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        content = dicom(picture(number)[..., 0].copy(), PatientID=f"P{path[0]}\rX")
        (tmp_path / "raw" / path).write_bytes(content)
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest["group"].tolist() == ["Pa\rX", "Pa\rX", "Pb\rX", "Pb\rX"]
    table = "path,label,group\n" + "".join(f"{path},{path[0]},{path}\n" for path in paths)
    (tmp_path / "raw/labels.csv").write_text(table)
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    assert read_manifest(tmp_path / "out/manifest.csv")["group"].tolist() == paths


def test_the_frame_rule_is_part_of_the_cache_key(tmp_path: Path, crop: Crop) -> None:
    for label, levels in (("a", (0, 50, 100)), ("b", (200, 150, 250))):
        pages = [Image.fromarray(np.full((20, 20), level, np.uint8)) for level in levels]
        (tmp_path / "raw" / label).mkdir(parents=True)
        pages[0].save(tmp_path / "raw" / label / "1.tif", save_all=True, append_images=pages[1:])
    data = Data(raw="", table=None, group_pattern=None, frames=None, max_quarantined=2)
    rows, ignored = list_images(tmp_path / "raw", data)
    levels = {}
    for frames in ("first", "middle", "first"):
        crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path, frames=frames, max_quarantined=2))
        levels[frames] = CropStore(tmp_path / "out/store")[["a/1.tif", "b/1.tif"]][:, 0, 0, 0].tolist()
    assert levels == {"first": [0, 200], "middle": [50, 150]}
    counts = crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path, max_quarantined=None)).counts
    assert (counts["images"], counts["quarantined"], counts["classes"]) == (0, 2, {})


def test_too_many_quarantined_files_raise_with_nothing_written(tmp_path: Path, raw: Path, crop: Crop) -> None:
    for number in range(12):
        (raw / f"a/{number:02d}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"12 of 23 files .*data\.max_quarantined") as caught:
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=11)
    assert "'a/00.png': not an image" in str(caught.value)
    assert "'a/09.png'" in str(caught.value)
    assert "'a/10.png'" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_class_without_any_usable_image_is_an_error(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "c").mkdir()
    (raw / "c/1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"class 'c' has no usable image(.|\n)*'c/1.png': not an image"):
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=5)
    assert not (tmp_path / "out").exists()


def test_splits_and_folds_of_a_table_are_in_the_manifest(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "labels.csv").write_text(
        "path,label,group,split,fold\nb/-0.png,y,G,train,2\nb/-1.png,x,H,test,\nb/-2.png,x,H,train,\n"
    )
    counts = build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert list(counts["classes"].items()) == [("x", 2), ("y", 1)]
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest[["label", "group", "split"]].to_numpy().tolist() == [
        ["y", "G", "train"],
        ["x", "H", "test"],
        ["x", "H", "train"],
    ]
    assert manifest["fold"].tolist() == [2, pd.NA, pd.NA]
