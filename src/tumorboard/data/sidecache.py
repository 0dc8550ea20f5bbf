"""Crops remembered by the digest of the file that they were made of: packs in a folder, each written once."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from tumorboard.errors import InputError
from tumorboard.images import three_channels
from tumorboard.tables import replacing

Crops = NDArray[np.uint8]


class Place(NamedTuple):
    """Where a crop lies: the name of a pack, the crop's first byte in it, and the number of its channels."""

    pack: str
    start: int
    channels: int


class Entry(NamedTuple):
    """What a pack tells of a crop: the digest of its file, its own, where it lies, and facts."""

    file: str
    crop: str
    place: Place
    facts: dict[str, Any]


class SideCache:
    """Crops uint8[size, size(, 3)] and facts about them (values of JSON), as one process sees the packs in a folder.

    A file a crop would cost more to create than a small image to decode. A pack is named by the digests in it and never
    changed, so that processes on many machines may write at a time, each its own. What is damaged is not found.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._header = lru_cache(maxsize=8)(partial(_read_header, size=size))
        self._found: dict[str, tuple[str, int]] = {}
        # The newer of two packs counts: it was written because an entry of the older one was damaged.
        for path in sorted(folder.glob("*.pack"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
            for row, entry in enumerate(self._header(path)):
                self._found[entry.file] = path.name, row

    def find(self, digest: str) -> Mapping[str, Any] | None:
        """The facts of a file's crop, if it is here and whole."""
        if digest not in self._found:
            return None
        pack, row = self._found[digest]
        try:
            entry = self._header(self._folder / pack)[row]
            crop = _read_crop(self._folder, entry.place, self._size)
            return entry.facts if xxh3_64_hexdigest(crop.data) == entry.crop else None
        except (OSError, IndexError, InputError):
            return None

    def place(self, digest: str) -> Place:
        """Where the crop of a file that was found or written lies."""
        pack, row = self._found[digest]
        return self._header(self._folder / pack)[row].place

    def write(self, found: Mapping[str, tuple[Mapping[str, Any], Crops]]) -> None:
        """Write a pack of facts and crops by the digests of their files; none where there are none."""
        if not found:
            return
        name = sha256("".join(found).encode()).hexdigest()[:32] + ".pack"
        rows = [
            (digest, xxh3_64_hexdigest(crop.data), 1 if crop.ndim == 2 else 3, facts)
            for digest, (facts, crop) in found.items()
        ]
        header = json.dumps(rows).encode()
        with replacing(self._folder / name) as temporary, temporary.open("wb") as file:
            file.write(b"%b %b\n" % (xxh3_64_hexdigest(header).encode(), header))
            for _, crop in found.values():
                file.write(crop.data)
        self._header.cache_clear()  # a damaged pack of this name may have been there
        self._found |= {digest: (name, row) for row, digest in enumerate(found)}


def read_crops(folder: Path, places: Iterable[Place], size: int) -> Iterator[Crops]:
    """The crops at places as uint8[size, size, 3]; raises InputError where a pack is gone or cut short."""
    for place in places:
        yield three_channels(_read_crop(folder, place, size))


def _read_crop(folder: Path, place: Place, size: int) -> Crops:
    crop = np.empty((size, size) if place.channels == 1 else (size, size, 3), np.uint8)
    path = f"{folder}/{place.pack}"  # joining two Paths takes longer than opening the file
    try:
        with FileIO(path) as file:
            file.seek(place.start)
            found = file.readinto(crop.data.cast("B"))
    except OSError as error:
        raise InputError(f"{path}: gone since a moment ago ({error}): run the stage again") from None
    if found != crop.nbytes:
        raise InputError(f"{path}: cut short since a moment ago: run the stage again")
    return crop


def _read_header(path: Path, size: int) -> list[Entry]:
    """A pack's entries; none of a damaged pack."""
    with path.open("rb") as file:
        line = file.readline()
    digest, _, header = line.rstrip(b"\n").partition(b" ")
    if digest != xxh3_64_hexdigest(header).encode():
        return []
    entries, start = [], len(line)
    for of_file, of_crop, channels, facts in json.loads(header):
        entries.append(Entry(of_file, of_crop, Place(path.name, start, channels), facts))
        start += channels * size**2
    return entries
