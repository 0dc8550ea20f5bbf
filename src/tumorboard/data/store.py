"""Writes and reads the crop store: uint8 crops in a few .npy files, looked up by id and read through memory maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.faults import explain_fault
from tumorboard.base.files import read_table, replacing, write_table

CropArray: TypeAlias = NDArray[np.uint8]  # one crop, uint8[S, S, 3]
CropBatch: TypeAlias = NDArray[np.uint8]  # N crops, uint8[N, S, S, 3]
Index: TypeAlias = pd.DataFrame  # one row per crop, sorted by id: id, shard, row in the shard

RECORD = "crop.json"  # file beside the shards that records how the crops were made, see crop_record.py

Key = TypeVar("Key")  # identifies a crop for load_crops


def write_store(folder: Path | str, ids: Sequence[str], crops: Iterable[CropArray] | CropBatch, shards: int) -> None:
    """Writes crops as index.csv (id, shard, row) and shard-00.npy, shard-01.npy ... (uint8[n, S, S, 3]).

    An id's shard is its SHA-256 modulo `shards`, and the rows of a shard follow the sorted ids. So the bytes do not
    depend on the order of the ids, and another image changes its own shard only. One crop at a time is in memory. A
    shard without crops has no file. An older store in the folder is replaced.

    Args:
        folder: the folder to write to.
        ids: N unique ids.
        crops: N crops uint8[S, S, 3], in the order of the ids.
        shards: number of files to distribute the crops over.

    Raises:
        ValueError: an id is there twice, the crops differ in size or are not uint8, or are more or fewer than the ids.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_store(folder, ["a", "b"], np.zeros((2, 8, 8, 3), np.uint8), shards=4)
    ...     CropStore(folder)[["b", "a", "b"]].shape
    (3, 8, 8, 3)
    """
    folder = Path(folder)
    _remove_store(folder)
    index = _build_index(ids, shards)
    counts = index.groupby("shard").size()
    targets = index[["shard", "row"]].to_numpy(np.int64)[_positions_in(pd.Index(index["id"], dtype=object), ids)]
    with ExitStack() as stack:
        files: dict[int, tuple[BufferedWriter, int]] = {}
        shape: tuple[int, ...] = ()
        for (shard, row), crop in zip(targets, crops, strict=True):
            shape = shape or crop.shape
            if crop.shape != shape or crop.dtype != np.uint8:
                raise ValueError(f"a crop is {crop.dtype}{crop.shape} beside uint8{shape}")
            if shard not in files:
                temporary = stack.enter_context(replacing(_shard_path(folder, shard)))
                file = stack.enter_context(temporary.open("wb"))
                files[shard] = file, _write_header(file, (int(counts[shard]), *shape))
            file, start = files[shard]
            file.seek(start + int(row) * crop.nbytes)
            file.write(crop.tobytes())
    write_table(index, folder / "index.csv")


@contextmanager
def writing_store_in_parallel(
    folder: Path,
    ids: Sequence[str],
    *,
    keys: Sequence[Key],
    load_crops: Callable[[Sequence[Key]], Iterable[CropArray]],
    shards: int,
    parallel_map: Callable[[Callable[[Any], int], Sequence[Any]], Iterable[int]],
) -> Iterator[None]:
    """Writes the store that `write_store` writes, with one parallel task per shard.

    With several processes the shards are written while the body of the `with` runs; its end waits for them.

    Args:
        folder: the folder to write to; workers on other machines must see it under the same name.
        ids: N unique ids.
        keys: N keys, in the order of the ids.
        load_crops: yields one crop uint8[S, S, 3] per key; sent to the workers.
        shards: number of files to distribute the crops over.
        parallel_map: runs the tasks; `workers.open_workers` yields one.

    Raises:
        InputError: a worker has written a shard that is not visible here.
    """
    _remove_store(folder)
    index = _build_index(ids, shards)
    key_of = dict(zip(ids, keys, strict=True))
    tasks = [(n, [key_of[i] for i in index["id"][index["shard"] == n]]) for n in sorted(set(index["shard"].tolist()))]
    written = parallel_map(partial(_write_shard, folder=folder, load_crops=load_crops), tasks)
    yield
    for shard in written:
        if not (path := _shard_path(folder, shard)).is_file():
            raise InputError(f"{path}: written by a worker, but not visible here: all workers must share that folder")
    write_table(index, folder / "index.csv")


def _write_shard(
    task: tuple[int, Sequence[Key]], folder: Path, load_crops: Callable[[Sequence[Key]], Iterable[CropArray]]
) -> int:
    """Writes one shard from its number and the keys of its crops; returns the number."""
    shard, keys = task
    with replacing(_shard_path(folder, shard)) as temporary, temporary.open("wb") as file:
        for row, crop in enumerate(load_crops(keys)):
            if row == 0:
                _write_header(file, (len(keys), *crop.shape))
            file.write(crop.data)
    return shard


def _remove_store(folder: Path) -> None:
    for old in [folder / "index.csv", folder / RECORD, *folder.glob("shard-*.npy")]:
        old.unlink(missing_ok=True)


def _build_index(ids: Sequence[str], shards: int) -> Index:
    """Assigns each id to a shard and a row; raises ValueError if an id is there twice."""
    index = pd.DataFrame({"id": pd.Series(sorted(ids), dtype=object)})
    if twice := index["id"][index["id"].duplicated()].tolist():
        raise ValueError(f"id {twice[0]!r} twice")
    index["shard"] = [int(sha256(i.encode("utf-8", "surrogateescape")).hexdigest(), 16) % shards for i in index["id"]]
    index["row"] = index.groupby("shard").cumcount()
    return index


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:02d}.npy"


def _write_header(file: BufferedWriter, shape: tuple[int, ...]) -> int:
    """Writes the header of a .npy file of uint8 and returns its length in bytes."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


class CropStore:
    """The crops of one or several stores; `store[ids]` returns uint8[N, S, S, 3] in the order of the ids.

    Memory maps are opened when they are first needed. A CropStore can be pickled; another process opens the files
    itself.

    Args:
        folders: folders of the stores, which hold different ids and crops of one size.

    Raises:
        InputError: an id is unknown or in two stores, or a shard is missing, truncated or not what the index states.
    """

    def __init__(self, *folders: Path | str) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        indexes = [_read_index(folder) for folder in self.folders]
        self._index = pd.Index(np.concatenate([index["id"] for index in indexes]), dtype=object)
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise InputError(f"id {twice!r} is in two of the stores {', '.join(map(str, folders))}")
        self._files: list[tuple[Path, int]] = []
        shard_of = []
        for folder, index in zip(self.folders, indexes, strict=True):
            numbers, codes, counts = np.unique(index["shard"], return_inverse=True, return_counts=True)
            shard_of.append(codes + len(self._files))
            paths = [_shard_path(folder, number) for number in numbers]
            self._files += zip(paths, counts.tolist(), strict=True)
        self._shard_of = np.concatenate(shard_of).astype(np.int64)
        self._row_of = np.concatenate([index["row"].to_numpy(np.int64) for index in indexes])
        self._maps: dict[int, CropBatch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, ids: Sequence[str]) -> CropBatch:
        return self.take(self.positions(ids))

    def read_once(self, ids: Sequence[str]) -> CropBatch:
        """Returns `self[ids]` and closes the memory maps, whose pages would count as this process's memory."""
        crops = self[ids]
        self._maps.clear()
        return crops

    @property
    def ids(self) -> list[str]:
        """All ids, store by store, sorted within each store."""
        return list(self._index)

    @property
    def size(self) -> int:
        """The side S of the crops in pixels; raises InputError if there are none."""
        if not self._files:
            raise InputError("the crop store holds no images")
        return int(self._map(0).shape[1])

    def positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Returns the positions int64[N] of N ids, for `take`; raises InputError for an unknown id."""
        positions = _positions_in(self._index, ids)
        if (unknown := positions < 0).any():
            raise InputError(f"id {list(ids)[int(np.argmax(unknown))]!r} is not in the crop store")
        return positions

    def take(self, positions: NDArray[np.int64]) -> CropBatch:
        """Returns the crops uint8[N, S, S, 3] at positions int64[N]."""
        shards, rows = self._shard_of[positions], self._row_of[positions]
        crops = np.empty((len(positions), self.size, self.size, 3), dtype=np.uint8)
        for shard in np.unique(shards):
            in_shard = np.flatnonzero(shards == shard)
            crops[in_shard] = self._map(shard)[rows[in_shard]]
        return crops

    def _map(self, shard: int) -> CropBatch:
        if shard not in self._maps:
            path, count = self._files[shard]
            array = _open_shard(path, count)
            size = next(iter(self._maps.values()), array).shape[1]
            if array.shape[1] != size:
                raise InputError(f"{path}: crops of {array.shape[1]} pixels beside crops of {size} pixels")
            self._maps[shard] = array
        return self._maps[shard]


def _positions_in(index: pd.Index, ids: Sequence[str]) -> NDArray[np.int64]:
    """Returns the positions int64[N] of N ids in an index, -1 for an unknown id."""
    return index.get_indexer(pd.Index(list(ids), dtype=object)).astype(np.int64)


def _read_index(folder: Path) -> Index:
    """Reads and checks an index; raises InputError."""
    path = folder / "index.csv"
    index = read_table(path)
    if list(index.columns) != ["id", "shard", "row"]:
        raise InputError(f"{path}: columns are {list(index.columns)}, expected id, shard, row")
    try:
        index = index.astype({"shard": np.int64, "row": np.int64})
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if not index["row"].equals(index.groupby("shard").cumcount()):
        raise InputError(f"{path}: the rows of a shard do not count from 0 in the order of the ids")
    return index


def _open_shard(path: Path, count: int) -> CropBatch:
    """Opens a shard of `count` crops as a memory map; raises InputError."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such shard, although index.csv beside it names it") from None
    except (OSError, ValueError) as error:
        if explain_fault(error):
            raise
        raise InputError(f"{path}: not a complete shard: {error}") from None
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) != 4 or shape[0] != count or shape[1] != shape[2] or shape[3] != 3:
        raise InputError(f"{path}: holds {array.dtype}{list(shape)}, expected uint8[{count}, S, S, 3]")
    return np.asarray(array)


def check_side(store: CropStore, side: int, where: str) -> None:
    """Raises InputError unless the crops have this side in pixels.

    Args:
        store: the crops, at least one.
        side: `crop.side` of params.yaml or of a model card.
        where: folder of the store, for the message.
    """
    if store.size != side:
        raise InputError(f"{where}: holds crops of {store.size} pixels, but crop.side is {side}: run `dvc repro crop`")
