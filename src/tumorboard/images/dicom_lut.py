"""Reads the lookup tables of DICOM headers, whose entries have several forms, and applies them to values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.images.grey import Pixels, Values, depth_range

if TYPE_CHECKING:
    from pydicom import Dataset

_MAX_BITS = 16  # bits per entry
_BYTE_BITS = 8
_CURE = "correct the header, or export the picture as PNG"
_ALL_ENTRIES = 1 << 16  # the number of entries for which a descriptor has 0


class LookupTable(NamedTuple):
    """A table that gives a value for each whole number from `first` on."""

    entries: NDArray[np.uint16]  # [N]
    first: int  # the number that the first entry belongs to
    white: float  # the largest value that an entry may have

    def look_up(self, values: Values) -> Values:
        """Returns the entries of values, uint16; those before the first or after the last entry get these."""
        places = np.rint(values.astype(np.float64) - self.first).clip(0, len(self.entries) - 1)
        return self.entries[places.astype(np.intp)]


def read_table(item: "Dataset", name: str) -> LookupTable:
    """Reads the item of a Modality or VOI LUT sequence.

    pydicom counts the places of 8-bit entries in 8 bits, and does not read entries that stand in one byte each.

    Args:
        item: has LUTDescriptor and LUTData.
        name: what the table is, for messages.

    Raises:
        ImageError: "corrupt" if it has fewer entries than its descriptor says, or entries of more than 16 bits.

    Source: DICOM PS3.3, C.11.1.1.1 and C.11.2.1.1. Where entries exceed their bits, these are not used: their depth is.
    """
    count, first, bits = _read_descriptor(item.LUTDescriptor)
    if not 0 < bits <= _MAX_BITS:
        raise ImageError("corrupt", f"a {name} of {bits} bits per entry, expected 8 to 16: {_CURE}")
    entries = _read_entries(item.LUTData, count, item, name, may_be_bytes=bits <= _BYTE_BITS)
    brightest = int(entries.max())
    return LookupTable(entries, first, 2.0**bits - 1 if brightest < 2**bits else depth_range(brightest)[1])


def read_palette(dataset: "Dataset") -> tuple[Pixels, int]:
    """Returns the palette of a file, uint8[N, 3], and the value of its first color.

    Colors of 8 bits may stand in 16 bits as they are; all of them are then below 256.

    Raises:
        ImageError: "corrupt" if it has fewer colors than its descriptor says.
        ValueError: pydicom finds no palette that it can read.

    Source: DICOM PS3.3, C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9.2.
    """
    from pydicom.pixels.processing import apply_color_lut

    count, first, _ = _read_descriptor(dataset.RedPaletteColorLookupTableDescriptor)
    tags = [f"{channel}PaletteColorLookupTableData" for channel in ("Red", "Green", "Blue")]
    if all(tag in dataset for tag in tags):
        channels = [_read_entries(dataset[tag].value, count, dataset, "palette", may_be_bytes=True) for tag in tags]
        colors = np.stack(channels, -1)
    else:  # in segments
        colors = apply_color_lut(np.arange(first, first + count), dataset)[:, :3]
    return (colors if colors.max() < 256 else colors >> 8).astype(np.uint8), first


def _read_descriptor(descriptor: Sequence[int]) -> tuple[int, int, int]:
    """Returns the number of entries, the number that the first one belongs to, and the bits per entry."""
    count, first, bits = (int(number) for number in descriptor)
    return count % _ALL_ENTRIES or _ALL_ENTRIES, first, bits


def _read_entries(data: Any, count: int, holder: "Dataset", name: str, *, may_be_bytes: bool) -> NDArray[np.uint16]:
    """Returns the entries of a table.

    Args:
        data: numbers, or bytes of 16-bit words.
        count: how many entries the descriptor states.
        holder: the data set that holds them, whose byte order is that of the words.
        name: what the table is, for messages.
        may_be_bytes: whether too few words are taken for two entries each, the first of them in the lower byte.

    Raises:
        ImageError: "corrupt" if there are fewer.
    """
    if isinstance(data, bytes):
        is_little = holder.original_encoding[1] is not False
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little else ">u2")
    else:
        words = np.atleast_1d(np.asarray(data, np.int64)).astype("<u2")  # those below 0 have the same bits
    entries = words.astype("<u2").view(np.uint8) if may_be_bytes and len(words) < count else words
    if len(entries) < count:
        raise ImageError("corrupt", f"a {name} of {len(entries)} entries, but its descriptor says {count}: {_CURE}")
    return entries[:count].astype(np.uint16)
