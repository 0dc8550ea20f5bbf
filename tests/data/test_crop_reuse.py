"""crop_images: which crops of earlier runs are used again, and that the bytes stay the same."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.cropping import build, data_section, hashes, job_of, picture, save
from tumorboard.base.params import Crop
from tumorboard.data import crop as crop_module
from tumorboard.data.crop import CropSummary, crop_images
from tumorboard.data.crop_key import crop_key
from tumorboard.data.sources import list_images
from tumorboard.data.store import CropStore


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
    images, ignored = list_images(raw, data_section(max_quarantined=1))
    job = job_of(raw, crop, tmp_path, max_quarantined=1)
    first = crop_images(images, ignored, job)
    # again.png has the bytes of another file, so that 10 of the 11 usable ones are decoded.
    assert first == CropSummary(first.counts, listed=12, decoded=10, cached=1)
    save(raw / "a/new.png", picture(55))
    images, ignored = list_images(raw, data_section(max_quarantined=1))
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
    tables = {"manifest.csv", "images.csv", "attributes.csv", "store/index.csv"}
    assert changed == tables | {f"store/shard-{shard:02d}.npy"}
    assert len(after) == 7 + crop.shards
    build(tmp_path / "raw", tmp_path / "clean", crop, tmp_path / "other cache")
    assert after == hashes(tmp_path / "clean")


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
    original = Path.read_text

    def read_text(file: Path, *arguments: object, **options: object) -> str:
        if file.suffix != ".py":  # the versions of packages are read from other files
            return original(file, *arguments, **options)  # type: ignore[arg-type]
        read.append("/".join(file.parts[-2:]))
        return f"code of {file.name}"

    before = crop_key(crop, None)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert crop_key.__wrapped__(crop, None) != before
    package = Path(crop_module.__file__).parents[1]
    modules = {f"images/{file.name}" for file in (package / "images").glob("*.py")}
    assert {"images/crop.py", "images/decode.py", "images/grey.py", "images/jpeg.py"} < modules
    assert sorted(read) == sorted(
        [*modules, "data/crop.py", "data/crop_cache.py", "data/crop_key.py", "data/image_facts.py"]
    )


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


def test_the_frame_rule_is_part_of_the_cache_key(tmp_path: Path, crop: Crop) -> None:
    for label, levels in (("a", (0, 50, 100)), ("b", (200, 150, 250))):
        pages = [Image.fromarray(np.full((20, 20), level, np.uint8)) for level in levels]
        (tmp_path / "raw" / label).mkdir(parents=True)
        pages[0].save(tmp_path / "raw" / label / "1.tif", save_all=True, append_images=pages[1:])
    data = data_section(max_quarantined=2)
    rows, ignored = list_images(tmp_path / "raw", data)
    levels = {}
    for frames in ("first", "middle", "first"):
        crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path, frames=frames, max_quarantined=2))
        levels[frames] = CropStore(tmp_path / "out/store")[["a/1.tif", "b/1.tif"]][:, 0, 0, 0].tolist()
    assert levels == {"first": [0, 200], "middle": [50, 150]}
    counts = crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path, max_quarantined=None)).counts
    assert (counts["images"], counts["quarantined"], counts["classes"]) == (0, 2, {})
