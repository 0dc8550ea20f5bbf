"""Lookup tables of DICOM headers in each form in which their entries are stored; expected levels by hand."""

from typing import Any

import numpy as np
import pytest

from tests.images.samples import CROP, decode_rgb
from tumorboard.base.errors import ImageError
from tumorboard.images.decode import decode

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402

from tests.images.test_dicom import TWELVE, dicom, grey  # noqa: E402

VALUES = np.array([[0, 16, 1024, 2048, 4095]], np.uint16)
ENTRIES = np.arange(4096) // 16  # 0 to 255
LEVELS = [0, 1, 64, 128, 255]  # of the values


def table(entries: Any, bits: int, first: int = 0, count: int = 4096) -> Dataset:
    """Returns the item of a sequence; bytes are stored as words (OW), numbers as US."""
    item = Dataset()
    item.LUTDescriptor = [count % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.add_new("LUTData", "OW" if isinstance(entries, bytes) else "US", entries)
    item.ModalityLUTType = "US"
    return item


FORMS = {
    "8 bits as numbers": (ENTRIES.tolist(), 8),
    "8 bits in words": (ENTRIES.astype("<u2").tobytes(), 8),
    "8 bits in bytes": (ENTRIES.astype(np.uint8).tobytes(), 8),
    "8 bits, two in a number": (ENTRIES.astype(np.uint8).view("<u2").tolist(), 8),
    "16 bits in words": ((ENTRIES * 257).astype("<u2").tobytes(), 16),
    "10 bits, which the entries exceed": (ENTRIES.astype("<u2").__mul__(257).tobytes(), 10),
}


@pytest.mark.parametrize("form", FORMS)
def test_entries_of_each_form_are_read(form: str) -> None:
    assert grey(dicom(VALUES, VOILUTSequence=[table(*FORMS[form])], **TWELVE)) == LEVELS
    # A Modality LUT gives the same values, of which the depth is the range: 8 or 16 bits.
    assert grey(dicom(VALUES, ModalityLUTSequence=[table(*FORMS[form])], **TWELVE)) == LEVELS


def test_values_before_and_behind_the_entries_have_the_first_and_the_last() -> None:
    lut = table(list(range(10, 250, 30)), 8, first=-2, count=8)  # -2 is 10, -1 is 40, …, 5 is 220
    content = dicom(np.array([[-300, -2, -1, 4, 5, 300]], np.int16), VOILUTSequence=[lut], **TWELVE)
    assert grey(content) == [10, 10, 40, 190, 220, 220]


def test_all_65536_entries_are_stated_as_0() -> None:
    lut = table(np.arange(65536).astype("<u2")[::-1].tobytes(), 16, count=65536)
    assert grey(dicom(np.array([[0, 65535]], np.uint16), VOILUTSequence=[lut])) == [255, 0]


def test_the_share_of_the_range_is_that_of_the_entries() -> None:
    values = np.linspace(0, 4095, 10000).astype(np.uint16).reshape(100, 100)
    chosen = decode(dicom(values, VOILUTSequence=[table(*FORMS["8 bits as numbers"])], **TWELVE), CROP, None)[1].grey
    assert chosen is not None
    assert chosen.filled == pytest.approx(0.99, abs=0.005)
    assert chosen[:3] == ("header", 0, 255)
    assert chosen.levels[-1] == pytest.approx(
        4095 * 0.995, rel=1e-3
    )  # values before the table, as crop.window has them


@pytest.mark.parametrize(
    ("lut", "message"),
    [
        (table([1, 2, 3], 16), "a VOI LUT of 3 entries, but its descriptor says 4096"),
        (table(bytes(100), 8), "a VOI LUT of 100 entries, but its descriptor says 4096"),
        (table([1, 2, 3], 32, count=3), "a VOI LUT of 32 bits per entry, expected 8 to 16"),
    ],
)
def test_a_table_that_cannot_be_is_named_with_a_cure(lut: Dataset, message: str) -> None:
    content = dicom(VALUES, VOILUTSequence=[lut], **TWELVE)
    with pytest.raises(ImageError, match=f"^corrupt: {message}.*: correct the header, or export the picture as PNG"):
        decode_rgb(content)
    assert grey(content, window=(0, 4095)) == [0, 1, 64, 128, 255]  # the window of params.yaml needs no table


def palette(red: bytes, bits: int, count: int, first: int = 0) -> dict[str, Any]:
    """Returns the tags of a palette whose green and blue are 0."""
    dark = {name: bytes(len(red)) for name in ("Green", "Blue")}
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, data in ({"Red": red} | dark).items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [count, first, bits]
        tags[f"{name}PaletteColorLookupTableData"] = data
    return tags


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_8_bits_may_stand_in_16(bits: int) -> None:
    ramp = np.arange(256)
    indices = np.array([[0, 100, 255]], np.uint8)
    for red in (ramp.astype("<u2"), ramp.astype("<u2") * 257, ramp.astype(np.uint8)):
        pixels = decode_rgb(dicom(indices, **palette(red.tobytes(), bits, 256)))
        assert pixels[0].tolist() == [[0, 0, 0], [100, 0, 0], [255, 0, 0]]


def test_a_palette_of_more_than_256_colors_of_8_bits_is_read_to_its_end() -> None:
    red = (np.arange(1024) // 4).astype(np.uint8)
    tags = palette(red.tobytes(), 8, 1024, first=10)
    pixels = decode_rgb(dicom(np.array([[0, 10, 14, 1030, 1033, 4000]], np.uint16), **tags, **TWELVE))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255]
