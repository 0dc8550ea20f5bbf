"""The side cache: what was written is found by any process, what is damaged is not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tumorboard.data.sidecache import SideCache, read_crops
from tumorboard.errors import InputError

SIDE = 4


def crop(level: int) -> NDArray[np.uint8]:
    return np.arange(level, level + 3 * SIDE**2, dtype=np.uint8).reshape(SIDE, SIDE, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack of a and b, then one of c, whose facts hold what JSON has to escape."""
    cache = SideCache(tmp_path, SIDE)
    cache.write({"a": ({"width": 1}, crop(1)), "b": ({"width": 2}, crop(2))})
    cache.write({"c": ({"patient": 'é "\n\\'}, crop(3))})
    return tmp_path


def test_another_process_finds_facts_and_crops(folder: Path) -> None:
    cache = SideCache(folder, SIDE)
    assert [cache.find(name) for name in "abcd"] == [{"width": 1}, {"width": 2}, {"patient": 'é "\n\\'}, None]
    places = [cache.place(name) for name in "cab"]
    for found, level in zip(read_crops(folder, places, SIDE), (3, 1, 2), strict=True):
        np.testing.assert_array_equal(found, crop(level))
    assert len(list(folder.iterdir())) == 2


def test_grey_crops_take_a_third_and_are_read_with_three_channels(tmp_path: Path) -> None:
    grey = np.arange(SIDE**2, dtype=np.uint8).reshape(SIDE, SIDE)
    SideCache(tmp_path, SIDE).write({"a": ({}, grey), "b": ({}, crop(9)), "c": ({}, grey + 1)})
    cache = SideCache(tmp_path, SIDE)
    first, second, third = (cache.place(name) for name in "abc")
    assert (second.start - first.start, third.start - second.start) == (SIDE**2, 3 * SIDE**2)
    assert [cache.find(name) for name in "abc"] == [{}, {}, {}]
    expected = [np.repeat((grey + 1)[..., None], 3, axis=2), np.repeat(grey[..., None], 3, axis=2), crop(9)]
    np.testing.assert_array_equal(list(read_crops(tmp_path, [third, first, second], SIDE)), expected)


def test_who_writes_finds_it_at_once_and_who_looked_before_does_not(tmp_path: Path) -> None:
    early, writer = SideCache(tmp_path, SIDE), SideCache(tmp_path, SIDE)
    writer.write({"a": ({}, crop(1))})
    assert writer.find("a") == {}
    assert early.find("a") is None


def test_nothing_to_write_makes_no_file(tmp_path: Path) -> None:
    SideCache(tmp_path, SIDE).write({})
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
def test_what_is_damaged_is_not_found_until_it_is_written_anew(folder: Path, damage, left: str) -> None:
    pack = folder / SideCache(folder, SIDE).place("a").pack
    pack.write_bytes(damage(pack.read_bytes()))
    cache = SideCache(folder, SIDE)
    assert [name for name in "ab" if cache.find(name) is not None] == list(left)
    cache.write({"b": ({"width": 2}, crop(2))})
    again = SideCache(folder, SIDE)
    for found in (cache, again):
        assert found.find("b") == {"width": 2}
        np.testing.assert_array_equal(next(read_crops(folder, [found.place("b")], SIDE)), crop(2))


def test_a_pack_of_the_same_name_replaces_a_damaged_one(folder: Path) -> None:
    pack = folder / SideCache(folder, SIDE).place("c").pack
    whole = pack.read_bytes()
    pack.write_bytes(whole[:10])
    cache = SideCache(folder, SIDE)
    assert cache.find("c") is None
    cache.write({"c": ({"patient": 'é "\n\\'}, crop(3))})
    assert cache.find("c") == {"patient": 'é "\n\\'}
    assert pack.read_bytes() == whole


def test_a_pack_that_is_deleted_meanwhile_is_not_found_and_no_crop_is_invented(folder: Path) -> None:
    cache = SideCache(folder, SIDE)
    place = cache.place("c")
    (folder / place.pack).write_bytes(b"")
    with pytest.raises(InputError, match=f"{place.pack}: cut short"):
        list(read_crops(folder, [place._replace(start=0)], SIDE))
    (folder / place.pack).unlink()
    assert cache.find("c") is None
    with pytest.raises(InputError, match=f"{place.pack}: gone"):
        list(read_crops(folder, [place], SIDE))
