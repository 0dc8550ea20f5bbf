"""The crop store: crops come back as written, the bytes depend only on the content, damage is named."""

import errno
import pickle
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.data.store import CropStore, write_store, writing_store_in_parallel

IDS = [f"class {n % 3}/é,{n}.png" for n in range(40)] + ["\udcff.png", "NA", "a\nb", 'q"', "x//1"]


@pytest.fixture
def crops() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (len(IDS), 5, 5, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_crops_come_back_in_the_order_of_the_ids(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, iter(crops), 8)
    store = CropStore(tmp_path)
    asked = [3, 44, 3, 0, 40, 17]
    np.testing.assert_array_equal(store[[IDS[n] for n in asked]], crops[asked])
    np.testing.assert_array_equal(store.take(store.positions(IDS)), crops)
    assert store.ids == sorted(IDS)
    assert (len(store), store.size) == (len(IDS), 5)
    assert store[[]].shape == (0, 5, 5, 3)


def test_the_layout_is_as_documented(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, 8)
    shard_of = {i: int.from_bytes(sha256(i.encode("utf-8", "surrogateescape")).digest(), "big") % 8 for i in IDS}
    for row in read_table(tmp_path / "index.csv").itertuples():
        members = sorted(i for i in IDS if shard_of[i] == int(row.shard))
        assert members[int(row.row)] == row.id
        shard = np.load(tmp_path / f"shard-{int(row.shard):02d}.npy")
        assert shard.shape == (len(members), 5, 5, 3)
        np.testing.assert_array_equal(shard[int(row.row)], crops[IDS.index(row.id)])
    assert len(list(tmp_path.iterdir())) == 1 + len(set(shard_of.values()))


def test_the_bytes_do_not_depend_on_the_order_of_the_ids(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path / "a", IDS, crops, 8)
    write_store(tmp_path / "b", IDS[::-1], crops[::-1], 8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_image_changes_only_its_own_shard(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path / "a", IDS[1:], crops[1:], 8)
    write_store(tmp_path / "b", IDS, crops, 8)
    before, after = contents(tmp_path / "a"), contents(tmp_path / "b")
    shard = int(sha256(IDS[0].encode()).hexdigest(), 16) % 8
    assert {name for name in after if after[name] != before.get(name)} == {"index.csv", f"shard-{shard:02d}.npy"}


def test_a_store_written_in_parallel_has_the_same_bytes(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path / "a", IDS, crops, 8)
    crop_of = {f"key {n}": crop for n, crop in enumerate(crops)}
    write_store(tmp_path / "b", ["older"], crops[:1], 99)
    keys = list(crop_of)
    with writing_store_in_parallel(
        tmp_path / "b",
        IDS,
        keys=keys,
        load_crops=lambda keys: (crop_of[key] for key in keys),
        shards=8,
        parallel_map=map,
    ):
        assert contents(tmp_path / "b") == {}  # the older store is gone, and map has not started
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_that_a_worker_wrote_elsewhere_is_named(tmp_path: Path) -> None:
    writing = writing_store_in_parallel(
        tmp_path,
        ["a"],
        keys=["a"],
        load_crops=lambda _: [],
        shards=1,
        parallel_map=lambda _, tasks: (shard for shard, _ in tasks),
    )
    with pytest.raises(InputError, match=r"shard-00\.npy: written by a worker, but not visible here"), writing:
        pass


def test_an_older_store_is_replaced(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, 8)
    write_store(tmp_path, IDS[:1], crops[:1], 1)
    assert sorted(contents(tmp_path)) == ["index.csv", "shard-00.npy"]


def test_nothing_is_left_when_the_crops_fail(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    def broken() -> object:
        yield from crops[:20]
        raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        write_store(tmp_path, IDS, broken(), 8)  # type: ignore[arg-type]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("number", [44, 46])
def test_crops_must_match_the_ids_and_have_one_size(tmp_path: Path, crops: NDArray[np.uint8], number: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_store(tmp_path, IDS, [crops[0]] * number, 8)
    with pytest.raises(ValueError, match="beside"):
        write_store(tmp_path, IDS[:2], [crops[0], crops[0][:4, :4]], 8)
    with pytest.raises(ValueError, match="twice"):
        write_store(tmp_path, ["x", "x"], crops[:2], 8)


def test_several_stores_are_read_as_one_even_if_one_is_empty(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path / "a", IDS[:30], crops[:30], 4)
    write_store(tmp_path / "b", IDS[30:], crops[30:], 7)
    write_store(tmp_path / "none", [], iter([]), 4)
    store = CropStore(tmp_path / "none", tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(store[IDS[::-1]], crops[::-1])
    with pytest.raises(InputError, match="two of the stores"):
        CropStore(tmp_path / "a", tmp_path / "a")
    with pytest.raises(InputError, match="no images"):
        _ = CropStore(tmp_path / "none").size


def test_stores_of_different_sizes_are_refused(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path / "a", ["a"], crops[:1], 1)
    write_store(tmp_path / "b", ["b"], crops[:1, :4, :4], 1)
    with pytest.raises(InputError, match=r"b/shard-00.npy: crops of 4 pixels beside crops of 5"):
        CropStore(tmp_path / "a", tmp_path / "b")[["a", "b"]]


def test_a_pickled_store_contains_no_crops(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 99, 99, 3), dtype=np.uint8)
    write_store(tmp_path, list("abcd"), crops, 2)
    store = CropStore(tmp_path)
    store[["a"]]
    packed = pickle.dumps(store)
    assert len(packed) < 5_000
    np.testing.assert_array_equal(pickle.loads(packed)[list("dcba")], crops[::-1])  # noqa: S301


def test_changing_the_returned_crops_does_not_change_the_store(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, 1)
    before = contents(tmp_path)
    taken = CropStore(tmp_path)[IDS]
    taken[:] = 0
    assert contents(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="lists memory maps by Linux's /proc")
def test_reading_once_leaves_no_shard_in_memory(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, shards=3)
    store = CropStore(tmp_path)
    np.testing.assert_array_equal(store[IDS[:2]], crops[:2])
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(store.read_once(IDS[::-1]), crops[::-1])
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(store[IDS], crops)


def test_an_unknown_id_is_named(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, 8)
    with pytest.raises(InputError, match="'nobody'"):
        CropStore(tmp_path)[[IDS[0], "nobody"]]


def test_damaged_shards_are_named(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    write_store(tmp_path, IDS, crops, 1)
    shard = tmp_path / "shard-00.npy"
    whole = shard.read_bytes()
    foreign = tmp_path / "foreign.npy"
    np.save(foreign, crops.astype(np.float32))
    short = tmp_path / "short.npy"
    np.save(short, crops[1:])
    for damaged in (whole[:-1], whole[:50], b"", b"no array", foreign.read_bytes(), short.read_bytes()):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=r"shard-00\.npy"):
            CropStore(tmp_path)[IDS]
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-00\.npy: no such shard"):
        CropStore(tmp_path)[IDS]


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    for frame in ({"id": ["a"], "shard": ["0"]}, {"id": ["a"], "shard": ["x"], "row": ["0"]}):
        pd.DataFrame(frame).to_csv(tmp_path / "index.csv", index=False)
        with pytest.raises(InputError, match=r"index\.csv"):
            CropStore(tmp_path)
    pd.DataFrame({"id": ["a"], "shard": ["0"], "row": ["1"]}).to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(InputError, match="count from 0"):
        CropStore(tmp_path)


def test_writing_holds_only_a_few_crops_in_memory(tmp_path: Path) -> None:
    ids = [str(n) for n in range(200)]
    tracemalloc.start()
    write_store(tmp_path, ids, (np.full((128, 128, 3), n, np.uint8) for n in range(200)), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 < 200 * 128 * 128 * 3
    np.testing.assert_array_equal(CropStore(tmp_path)[ids][:, 0, 0, 0], np.arange(200))


def test_too_many_open_files_are_no_damage_of_a_shard(
    tmp_path: Path, crops: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path, IDS, crops, 8)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("numpy.lib.format.open_memmap", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        CropStore(tmp_path)[IDS]
