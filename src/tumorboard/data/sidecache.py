"""Crops remembered by the digest of the file that they were made of: packs in a folder, each written once."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.errors import InputError
from tumorboard.tables import replacing

Crops = NDArray[np.uint8]


class Place(NamedTuple):
    """Where a crop lies: the name of a pack, and the crop's first byte in it."""

    pack: str
    start: int


class SideCache:
    """Crops uint8[size, size, 3] and facts about them (values of JSON), as one process sees the packs in a folder.

    A file a crop would cost more to create than a small image to decode. A pack is named by the digests in it and never
    changed, so that processes on many machines may write at a time, each its own. What is damaged is not found.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._header = lru_cache(maxsize=8)(_read_header)
        self._found: dict[str, tuple[str, int]] = {}
        # The newer of two packs counts: it was written because an entry of the older one was damaged.
        for path in sorted(folder.glob("*.pack"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
            for row, (digest, _, _) in enumerate(self._header(path)[0]):
                self._found[digest] = path.name, row

    def find(self, digest: str) -> Mapping[str, Any] | None:
        """The facts of a file's crop, if it is here and whole."""
        if digest not in self._found:
            return None
        pack, row = self._found[digest]
        try:
            _, crc, facts = self._header(self._folder / pack)[0][row]
            crop = next(read_crops(self._folder, [self.place(digest)], self._size))
            return facts if zlib.crc32(crop.data) == crc else None
        except (OSError, IndexError, InputError):
            return None

    def place(self, digest: str) -> Place:
        """Where the crop of a file that was found or written lies."""
        pack, row = self._found[digest]
        return Place(pack, self._header(self._folder / pack)[1] + row * 3 * self._size**2)

    def write(self, found: Mapping[str, tuple[Mapping[str, Any], Crops]]) -> None:
        """Write a pack of facts and crops by the digests of their files; none where there are none."""
        if not found:
            return
        name = sha256("".join(found).encode()).hexdigest()[:32] + ".pack"
        header = json.dumps([(digest, zlib.crc32(crop.data), facts) for digest, (facts, crop) in found.items()])
        with replacing(self._folder / name) as temporary, temporary.open("wb") as file:
            file.write(b"%08x %b\n" % (zlib.crc32(header.encode()), header.encode()))
            for _, crop in found.values():
                file.write(crop.data)
        self._header.cache_clear()  # a damaged pack of this name may have been there
        self._found |= {digest: (name, row) for row, digest in enumerate(found)}


def read_crops(folder: Path, places: Iterable[Place], size: int) -> Iterator[Crops]:
    """The crops uint8[size, size, 3] at places; raises InputError where a pack is gone or cut short."""
    for place in places:
        crop = np.empty((size, size, 3), np.uint8)
        try:
            with (folder / place.pack).open("rb", buffering=0) as file:
                file.seek(place.start)
                found = file.readinto(crop.data.cast("B"))
        except OSError as error:
            raise InputError(f"{folder / place.pack}: gone since a moment ago ({error}): run the stage again") from None
        if found != crop.nbytes:
            raise InputError(f"{folder / place.pack}: cut short since a moment ago: run the stage again")
        yield crop


def _read_header(path: Path) -> tuple[list[tuple[str, int, dict[str, Any]]], int]:
    """A pack's entries (digest, CRC-32 of the crop, facts) and where its first crop begins; none of a damaged one."""
    with path.open("rb") as file:
        line = file.readline()
    checksum, _, header = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(header):
        return [], 0
    return [(digest, crc, facts) for digest, crc, facts in json.loads(header)], len(line)
