"""Keeps crops of earlier runs in a folder, by the digest of the image file that each was made from."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_hexdigest

from tumorboard.base.errors import InputError
from tumorboard.base.faults import explain_fault
from tumorboard.base.files import replacing
from tumorboard.images.grey import Pixels, three_channels


class CropLocation(NamedTuple):
    """Where a crop lies."""

    pack: str  # file name of the pack
    start: int  # offset of the crop's first byte in the pack
    channels: int  # 1 (grey) or 3


class CachedCrop(NamedTuple):
    """A crop and the facts of its image file, which need no second decoding."""

    facts: Mapping[str, Any]  # values that JSON can hold
    crop: Pixels  # uint8[S, S] or uint8[S, S, 3]


class _PackEntry(NamedTuple):
    """What the header of a pack states about one crop."""

    file_digest: str  # SHA-256 of the image file
    crop_digest: str  # XXH3-64 of the crop's bytes
    location: CropLocation
    facts: dict[str, Any]


class CropCache:
    """The crops in a folder of packs, as this process sees them.

    A pack is one file of up to some hundred crops, because creating a file takes longer than decoding a small image. It
    is named by the digests in it and never changed, so that processes on several machines can write into the same
    folder. A damaged pack or crop counts as missing.

    Args:
        folder: holds the packs; all crops in it have the same size.
        size: side S of the crops in pixels.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._entries = lru_cache(maxsize=8)(partial(_read_pack_header, size=size))
        self._rows: dict[str, tuple[str, int]] = {}  # the pack and the row in it, by the digest of the image file
        # The newest pack with a digest counts: it was written because the entry in the older one was damaged.
        for path in sorted(folder.glob("*.pack"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
            for row, entry in enumerate(self._entries(path)):
                self._rows[entry.file_digest] = path.name, row

    def facts(self, digest: str) -> Mapping[str, Any] | None:
        """Returns the facts of an image file's crop, or None if the crop is missing or damaged.

        Args:
            digest: SHA-256 of the image file.
        """
        if digest not in self._rows:
            return None
        pack, row = self._rows[digest]
        try:
            entry = self._entries(self._folder / pack)[row]
            crop = _read_crop(self._folder, entry.location, self._size)
            return entry.facts if xxh3_64_hexdigest(crop.data) == entry.crop_digest else None
        except (OSError, IndexError, InputError):
            return None

    def location(self, digest: str) -> CropLocation:
        """Returns where the crop of an image file lies, after `facts` has found it or `write_pack` has written it."""
        pack, row = self._rows[digest]
        return self._entries(self._folder / pack)[row].location

    def write_pack(self, crops: Mapping[str, CachedCrop]) -> None:
        """Writes crops into a new pack, or nothing if there are none.

        Args:
            crops: the crops by the SHA-256 of their image files.
        """
        if not crops:
            return
        name = sha256("".join(crops).encode()).hexdigest()[:32] + ".pack"
        rows = [
            (digest, xxh3_64_hexdigest(crop.data), 1 if crop.ndim == 2 else 3, facts)
            for digest, (facts, crop) in crops.items()
        ]
        header = json.dumps(rows).encode()
        with replacing(self._folder / name) as temporary, temporary.open("wb") as file:
            file.write(b"%b %b\n" % (xxh3_64_hexdigest(header).encode(), header))
            for _, crop in crops.values():
                file.write(crop.data)
        self._entries.cache_clear()  # a damaged pack of the same name may have been read before
        self._rows |= {digest: (name, row) for row, digest in enumerate(crops)}


def read_crops(folder: Path, locations: Iterable[CropLocation], size: int) -> Iterator[Pixels]:
    """Yields crops uint8[S, S, 3] from a folder of packs.

    Args:
        folder: holds the packs.
        locations: locations of the crops, in the order in which they are wanted.
        size: side S of the crops in pixels.

    Raises:
        InputError: a pack was deleted or truncated after it was found.
    """
    for location in locations:
        yield three_channels(_read_crop(folder, location, size))


def _read_crop(folder: Path, location: CropLocation, size: int) -> Pixels:
    crop = np.empty((size, size) if location.channels == 1 else (size, size, 3), np.uint8)
    path = f"{folder}/{location.pack}"  # joining two Paths takes longer than opening the file
    try:
        with FileIO(path) as file:
            file.seek(location.start)
            count = file.readinto(crop.data.cast("B"))
    except OSError as error:
        if explain_fault(error):
            raise
        raise InputError(f"{path}: deleted while the stage ran ({error}): run the stage again") from None
    if count != crop.nbytes:
        raise InputError(f"{path}: truncated while the stage ran: run the stage again")
    return crop


def _read_pack_header(path: Path, size: int) -> list[_PackEntry]:
    """Returns the entries of a pack, none if its header is damaged.

    The header is one line: the XXH3-64 of the JSON, a space, and the JSON, which has one row per crop (digest of the
    image file, digest of the crop, channels, facts). The bytes of the crops follow in the same order.
    """
    with path.open("rb") as file:
        line = file.readline()
    digest, _, header = line.rstrip(b"\n").partition(b" ")
    if digest != xxh3_64_hexdigest(header).encode():
        return []
    entries, start = [], len(line)
    for file_digest, crop_digest, channels, facts in json.loads(header):
        entries.append(_PackEntry(file_digest, crop_digest, CropLocation(path.name, start, channels), facts))
        start += channels * size**2
    return entries
