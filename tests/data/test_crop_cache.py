"""CropCache: any process finds what was written, and a damaged crop counts as missing."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.data.crop_cache import CachedCrop, CropCache, read_crops

SIDE = 4


def crop(level: int) -> NDArray[np.uint8]:
    return np.arange(level, level + 3 * SIDE**2, dtype=np.uint8).reshape(SIDE, SIDE, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack of a and b, and one of c, whose facts have characters that JSON escapes."""
    cache = CropCache(tmp_path, SIDE)
    cache.write_pack({"a": CachedCrop({"width": 1}, crop(1)), "b": CachedCrop({"width": 2}, crop(2))})
    cache.write_pack({"c": CachedCrop({"patient": 'é "\n\\'}, crop(3))})
    return tmp_path


def test_another_process_finds_facts_and_crops(folder: Path) -> None:
    cache = CropCache(folder, SIDE)
    assert [cache.facts(name) for name in "abcd"] == [{"width": 1}, {"width": 2}, {"patient": 'é "\n\\'}, None]
    locations = [cache.location(name) for name in "cab"]
    for stored, level in zip(read_crops(folder, locations, SIDE), (3, 1, 2), strict=True):
        np.testing.assert_array_equal(stored, crop(level))
    assert len(list(folder.iterdir())) == 2


def test_grey_crops_take_a_third_of_the_bytes_and_are_read_with_three_channels(tmp_path: Path) -> None:
    grey = np.arange(SIDE**2, dtype=np.uint8).reshape(SIDE, SIDE)
    CropCache(tmp_path, SIDE).write_pack(
        {"a": CachedCrop({}, grey), "b": CachedCrop({}, crop(9)), "c": CachedCrop({}, grey + 1)}
    )
    cache = CropCache(tmp_path, SIDE)
    first, second, third = (cache.location(name) for name in "abc")
    assert (second.start - first.start, third.start - second.start) == (SIDE**2, 3 * SIDE**2)
    assert [cache.facts(name) for name in "abc"] == [{}, {}, {}]
    expected = [np.repeat((grey + 1)[..., None], 3, axis=2), np.repeat(grey[..., None], 3, axis=2), crop(9)]
    np.testing.assert_array_equal(list(read_crops(tmp_path, [third, first, second], SIDE)), expected)


def test_the_writer_finds_a_crop_at_once_and_a_reader_opened_before_does_not(tmp_path: Path) -> None:
    early, writer = CropCache(tmp_path, SIDE), CropCache(tmp_path, SIDE)
    writer.write_pack({"a": CachedCrop({}, crop(1))})
    assert writer.facts("a") == {}
    assert early.facts("a") is None


def test_no_crops_make_no_file(tmp_path: Path) -> None:
    CropCache(tmp_path, SIDE).write_pack({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[:0], ""),
        (lambda content: content[:20], ""),
        (lambda content: content.replace(b'"width": 2', b'"width": 3'), ""),
        (lambda content: content[:-1], "a"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "a"),
    ],
)
def test_a_damaged_crop_is_missing_until_it_is_written_again(folder: Path, damage, left: str) -> None:
    pack = folder / CropCache(folder, SIDE).location("a").pack
    pack.write_bytes(damage(pack.read_bytes()))
    cache = CropCache(folder, SIDE)
    assert [name for name in "ab" if cache.facts(name) is not None] == list(left)
    cache.write_pack({"b": CachedCrop({"width": 2}, crop(2))})
    again = CropCache(folder, SIDE)
    for reader in (cache, again):
        assert reader.facts("b") == {"width": 2}
        np.testing.assert_array_equal(next(read_crops(folder, [reader.location("b")], SIDE)), crop(2))


def test_a_pack_of_the_same_name_replaces_a_damaged_one(folder: Path) -> None:
    pack = folder / CropCache(folder, SIDE).location("c").pack
    whole = pack.read_bytes()
    pack.write_bytes(whole[:10])
    cache = CropCache(folder, SIDE)
    assert cache.facts("c") is None
    cache.write_pack({"c": CachedCrop({"patient": 'é "\n\\'}, crop(3))})
    assert cache.facts("c") == {"patient": 'é "\n\\'}
    assert pack.read_bytes() == whole


def test_a_pack_that_is_deleted_or_truncated_meanwhile_is_an_error(folder: Path) -> None:
    cache = CropCache(folder, SIDE)
    location = cache.location("c")
    (folder / location.pack).write_bytes(b"")
    with pytest.raises(InputError, match=f"{location.pack}: truncated while the stage ran"):
        list(read_crops(folder, [location._replace(start=0)], SIDE))
    (folder / location.pack).unlink()
    assert cache.facts("c") is None
    with pytest.raises(InputError, match=f"{location.pack}: deleted while the stage ran"):
        list(read_crops(folder, [location], SIDE))
