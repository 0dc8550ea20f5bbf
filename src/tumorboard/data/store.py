"""The crop store: uint8 images in a few .npy files, found by id and read through memory maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.errors import InputError
from tumorboard.tables import read_table, replacing, write_table

Crops = NDArray[np.uint8]


def write_store(folder: Path | str, ids: Sequence[str], crops: Iterable[Crops] | Crops, shards: int) -> None:
    """Write crops, each uint8[S, S, 3], as `index.csv` (id, shard, row) and `shard-00.npy` ... uint8[n, S, S, 3].

    An id's shard is its SHA-256 modulo `shards`, rows follow the ids, so that the bytes depend neither on the order of
    the ids nor, but for the shards concerned, on other images. One crop at a time is held in memory. A shard without
    images has no file. An older store in the folder is replaced.
    """
    folder = Path(folder)
    _remove_store(folder)
    index = _lay_out(ids, shards)
    counts = index.groupby("shard").size()
    places = index[["shard", "row"]].to_numpy(np.int64)[_find(ids, pd.Index(index["id"], dtype=object))]
    with ExitStack() as stack:
        files: dict[int, tuple[BufferedWriter, int]] = {}
        shape: tuple[int, ...] = ()
        for (shard, row), crop in zip(places, crops, strict=True):
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
def writing_store_by_shards(
    folder: Path,
    ids: Sequence[str],
    keys: Sequence[Any],
    crops_of: Callable[[Sequence[Any]], Iterable[Crops]],
    shards: int,
    run: Callable[[Callable[[Any], int], Sequence[Any]], Iterable[int]],
) -> Iterator[None]:
    """Write the store that `write_store` writes, a task a shard: `crops_of(keys)` yields the crops of keys, one an id.

    `run` does the tasks (`executor.open_run`). Where it has processes they work beside the body of the `with`, whose
    end waits for them. Raises InputError where a shard is not there when its task is done.
    """
    _remove_store(folder)
    index = _lay_out(ids, shards)
    key_of = dict(zip(ids, keys, strict=True))
    tasks = [(n, [key_of[i] for i in index["id"][index["shard"] == n]]) for n in sorted(set(index["shard"].tolist()))]
    written = run(partial(_write_shard, folder=folder, crops_of=crops_of), tasks)
    yield
    for shard in written:
        if not (path := _shard_path(folder, shard)).is_file():
            raise InputError(f"{path}: written by a worker, but not to be seen here: all must share that folder")
    write_table(index, folder / "index.csv")


def _write_shard(
    task: tuple[int, Sequence[Any]], folder: Path, crops_of: Callable[[Sequence[Any]], Iterable[Crops]]
) -> int:
    shard, keys = task
    with replacing(_shard_path(folder, shard)) as temporary, temporary.open("wb") as file:
        for row, crop in enumerate(crops_of(keys)):
            if row == 0:
                _write_header(file, (len(keys), *crop.shape))
            file.write(crop.data)
    return shard


def _remove_store(folder: Path) -> None:
    for old in [folder / "index.csv", *folder.glob("shard-*.npy")]:
        old.unlink(missing_ok=True)


def _lay_out(ids: Sequence[str], shards: int) -> pd.DataFrame:
    """The index of a store: id, shard, row, sorted by id."""
    index = pd.DataFrame({"id": pd.Series(sorted(ids), dtype=object)})
    if twice := index["id"][index["id"].duplicated()].tolist():
        raise ValueError(f"id {twice[0]!r} twice")
    index["shard"] = [int(sha256(i.encode("utf-8", "surrogateescape")).hexdigest(), 16) % shards for i in index["id"]]
    index["row"] = index.groupby("shard").cumcount()
    return index


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:02d}.npy"


def _write_header(file: BufferedWriter, shape: tuple[int, ...]) -> int:
    """Write the header of a .npy file of uint8 and return its length."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


class CropStore:
    """The union of stores; `store[ids]` gathers uint8[N, S, S, 3] from memory maps that are opened when first needed.

    It can be sent to other processes, which open the files themselves. Raises InputError for an unknown id, an id in
    two stores, and a shard that is missing, cut short or not what the index says.
    """

    def __init__(self, *folders: Path | str) -> None:
        indexes = [_read_index(Path(folder)) for folder in folders]
        self._index = pd.Index(np.concatenate([index["id"] for index in indexes]), dtype=object)
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise InputError(f"id {twice!r} is in two of the stores {', '.join(map(str, folders))}")
        self._files: list[tuple[Path, int]] = []
        shard_of = []
        for folder, index in zip(folders, indexes, strict=True):
            numbers, codes, counts = np.unique(index["shard"], return_inverse=True, return_counts=True)
            shard_of.append(codes + len(self._files))
            paths = [_shard_path(Path(folder), number) for number in numbers]
            self._files += zip(paths, counts.tolist(), strict=True)
        self._shard_of = np.concatenate(shard_of).astype(np.int64)
        self._row_of = np.concatenate([index["row"].to_numpy(np.int64) for index in indexes])
        self._maps: dict[int, Crops] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, ids: Sequence[str]) -> Crops:
        return self.take(self.positions(ids))

    @property
    def ids(self) -> list[str]:
        """All ids, store by store, sorted within each."""
        return list(self._index)

    @property
    def size(self) -> int:
        """The side S of the crops in pixels."""
        if not self._files:
            raise InputError("the crop store holds no images")
        return int(self._map(0).shape[1])

    def positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The positions int64[N] of ids, for `take`."""
        positions = _find(ids, self._index)
        if (unknown := positions < 0).any():
            raise InputError(f"id {list(ids)[int(np.argmax(unknown))]!r} is not in the crop store")
        return positions

    def take(self, positions: NDArray[np.int64]) -> Crops:
        """The crops uint8[N, S, S, 3] at positions."""
        shards, rows = self._shard_of[positions], self._row_of[positions]
        crops = np.empty((len(positions), self.size, self.size, 3), dtype=np.uint8)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            crops[here] = self._map(shard)[rows[here]]
        return crops

    def _map(self, shard: int) -> Crops:
        if shard not in self._maps:
            path, count = self._files[shard]
            array = _open_shard(path, count)
            size = next(iter(self._maps.values()), array).shape[1]
            if array.shape[1] != size:
                raise InputError(f"{path}: crops of {array.shape[1]} pixels beside crops of {size} pixels")
            self._maps[shard] = array
        return self._maps[shard]


def _find(ids: Sequence[str], index: pd.Index) -> NDArray[np.int64]:
    """The positions int64[N] of ids in an index, -1 for an unknown one."""
    return index.get_indexer(pd.Index(list(ids), dtype=object)).astype(np.int64)


def _read_index(folder: Path) -> pd.DataFrame:
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


def _open_shard(path: Path, count: int) -> Crops:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such shard, though the index beside it names it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole shard: {error}") from None
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) != 4 or shape[0] != count or shape[1] != shape[2] or shape[3] != 3:
        raise InputError(f"{path}: holds {array.dtype}{list(shape)}, expected uint8[{count}, S, S, 3]")
    return np.asarray(array)
