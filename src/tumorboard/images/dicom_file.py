"""Recognizes and opens DICOM files, also those without preamble or file meta information, within a limit of memory."""

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from tumorboard.base.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "pip install 'tumorboard[dicom]'"

_FIRST_GROUPS = (0x0002, 0x0008)  # groups that a file without preamble begins with: meta information, or data set
_LAST_FIRST_ELEMENT = 0x0100  # the highest element of these groups that a data set may begin with
_LAST_SECOND_GROUP = 0x0040  # the highest group of the second element
_LARGEST_FIRST = 1024  # bytes that the value of a data set's first element may take
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the UID of Deflated Explicit VR Little Endian
_ITEM = b"\xfe\xff\x00\xe0"  # the tag with which encapsulated pixels begin
_INFLATE_BYTES = 1 << 20  # bytes that are inflated at a time
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def is_dicom(content: bytes) -> bool:
    """Returns whether a file begins as DICOM does.

    It begins with "DICM" after a preamble of 128 bytes (PS3.10), or without a preamble with an element of the first
    groups: a tag, a value representation or none, a short length, and after the value a tag that is not smaller.
    """
    if content[128:132] == b"DICM":
        return True
    return any(_begins_with_element(content, order) for order in ("<", ">"))


def _begins_with_element(content: bytes, order: str) -> bool:
    """Returns whether a file begins with an element of a data set, in this byte order ('<' or '>')."""
    if len(content) < 12:
        return False
    first = struct.unpack_from(f"{order}HH", content)
    if first[0] not in _FIRST_GROUPS or first[1] > _LAST_FIRST_ELEMENT:
        return False
    if content[4:6] in _VRS:
        length = struct.unpack_from(f"{order}H", content, 6)[0]
    elif order == "<":  # without value representations the order is always little endian
        length = struct.unpack_from("<I", content, 4)[0]
    else:
        return False
    if length > _LARGEST_FIRST or length % 2:
        return False
    if len(content) < 12 + length:
        return True  # the file ends here
    following = struct.unpack_from(f"{order}HH", content, 8 + length)
    return bool(first < following < (_LAST_SECOND_GROUP, 0))


def open_dataset(content: bytes, max_bytes: int | None) -> "Dataset":
    """Reads a DICOM file with pydicom, and finds out the transfer syntax where the file does not state it.

    Args:
        content: the bytes of the file.
        max_bytes: the largest data set that a deflated file may hold, in bytes; None: any.

    Raises:
        ImageError: "unsupported" without pydicom; "too many bytes" for a file that inflates to more than `max_bytes`.
    """
    try:
        from pydicom import dcmread
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import UID
    except ModuleNotFoundError:
        raise ImageError("unsupported", f"DICOM needs pydicom: {INSTALL}") from None
    if max_bytes is not None:
        _check_inflated_size(content, max_bytes)
    dataset = dcmread(BytesIO(content), force=True)
    if not hasattr(dataset, "file_meta") or dataset.file_meta is None:
        dataset.file_meta = FileMetaDataset()
    if dataset and "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = UID(_find_syntax(dataset))
    return dataset


def _check_inflated_size(content: bytes, max_bytes: int) -> None:
    """Raises ImageError if a file's deflated data set exceeds `max_bytes`; inflates it in pieces and keeps none."""
    end = _meta_end(content)
    if _DEFLATED not in content[:end]:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, pending = 0, content[end:]
    while pending and not inflater.eof:
        try:
            size += len(inflater.decompress(pending, _INFLATE_BYTES))
        except zlib.error:
            return  # dcmread reports the error
        pending = inflater.unconsumed_tail
        if size > max_bytes:
            raise ImageError(
                "too many bytes", f"its deflated data set exceeds {max_bytes} bytes when inflated (crop.max_bytes)"
            )


def _meta_end(content: bytes) -> int:
    """Returns where the file meta information ends, from its group length (0002,0000), which comes first."""
    start = 132 if content[128:132] == b"DICM" else 0
    if len(content) < start + 12:
        return len(content)
    if content[start : start + 6] == b"\2\0\0\0UL":
        return start + 12 + int(struct.unpack_from("<I", content, start + 8)[0])
    position = start
    while content[position : position + 2] == b"\2\0" and len(content) >= position + 12:
        is_long = content[position + 4 : position + 6] in (b"OB", b"UN", b"OW")
        length = struct.unpack_from("<I" if is_long else "<H", content, position + (8 if is_long else 6))[0]
        position += (12 if is_long else 8) + length
    return position


def _find_syntax(dataset: "Dataset") -> str:
    """Returns the transfer syntax of a data set without file meta information, from its encoding and its pixels."""
    from pydicom import uid

    if "PixelData" in dataset and bytes(dataset.PixelData[:4]) == _ITEM:
        return _find_compression(bytes(dataset.PixelData))
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little is not False else uid.ExplicitVRBigEndian


def _find_compression(value: bytes) -> str:
    """Returns the transfer syntax of encapsulated pixels, from the mark with which their first frame begins."""
    from pydicom import uid
    from pydicom.encaps import generate_fragments

    fragments = iter(generate_fragments(value))
    next(fragments, b"")  # the table of offsets
    frame = next(fragments, b"")
    if frame.startswith(b"\xff\x4f\xff\x51"):
        return uid.JPEG2000
    if not frame.startswith(b"\xff\xd8"):
        return uid.RLELossless
    by_marker = {0xC0: uid.JPEGBaseline8Bit, 0xC1: uid.JPEGExtended12Bit, 0xC3: uid.JPEGLossless}
    marker = sof_marker(frame)
    return uid.JPEGLSNearLossless if marker == 0xF7 else by_marker.get(marker, uid.JPEGExtended12Bit)


def sof_marker(frame: bytes) -> int:
    """Returns the second byte of a JPEG's or JPEG-LS's frame header (0xC0 to 0xCF, 0xF7), 0 if there is none."""
    return frame_header(frame)[0]


def frame_header(frame: bytes) -> tuple[int, int, int, int]:
    """Returns marker, bits, width and height of a JPEG's or JPEG-LS's frame header; zeros if there is none.

    Source: ITU-T T.81, B.2.2; ITU-T T.87, C.2.2.
    """
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, height, width = struct.unpack_from(">BHH", frame, position + 4)
            return marker, bits, width, height
        position += 2 + int.from_bytes(frame[position + 2 : position + 4])
    return 0, 0, 0, 0
