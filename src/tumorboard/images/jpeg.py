"""Recognizes JPEGs in color whose header proves them grey, and refuses damaged ones and those of too many scans."""

import re
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from tumorboard.base.errors import ImageError
from tumorboard.images.decoder_messages import catching_messages, check_messages
from tumorboard.images.dicom_file import frame_header

_SEQUENTIAL = (0xC0, 0xC1)  # markers of frames with Huffman codes, whose only scan may hold everything
_PROGRESSIVE = 0xC2
# Markers of segments.
_JFIF = 0xE0
_TABLES = 0xC4
_SCAN = 0xDA
_END = 0xD9
_JPEG_LS = 0xF7
_BITS = 8  # bits per sample that libjpeg decodes as it is built for Pillow and OpenCV
_START_OF_SCAN = 0xDAFF  # FF DA as a little-endian number
_END_MARK = b"\xff\xd9"  # not in coded data, where an FF is followed by a 0 or, in JPEG-LS, by a byte below 0x80
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data, where other FFs are FF00 and restarts
MAX_SCANS = 100  # scans of a JPEG; encoders write 1 to 14
MAX_SCANNED = 20  # pixels times scans, as a multiple of crop.max_pixels
_LENGTH = 2  # bytes of a segment's length, which counts itself


def header_proves_grey(content: bytes) -> bool:
    """Returns whether the Huffman tables of both chroma channels hold no symbol but 0.

    This holds where a picture without color was saved in color with optimized tables: only "no difference" and "no
    further coefficient" can be coded, so that the chroma is neutral everywhere. Decoding the brightness alone, which is
    faster, then gives the same picture. False means that the header proves nothing: the picture may still be grey.

    Args:
        content: the bytes of the file; damaged files are allowed.

    Source: ITU-T T.81, B.2.4.2 and F.1.2.
    """
    tables: dict[int, bytes] = {}
    components: list[int] = []
    is_ycc = False
    position = 2
    while position + 2 + _LENGTH <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        start = position + 2 + _LENGTH
        position += 2 + int.from_bytes(content[position + 2 : start])
        segment = content[start:position]
        if marker == _JFIF and segment.startswith(b"JFIF\0"):
            is_ycc = True  # JFIF requires it; without JFIF the color space would be a guess
        elif marker in _SEQUENTIAL:
            components = list(segment[6:15:3])
        elif marker == _TABLES:
            tables |= _read_tables(segment)
        elif marker == _SCAN:
            selectors = dict(zip(segment[1::2], segment[2::2], strict=False))
            chroma = [table for component in components[1:] for table in _table_ids(selectors.get(component, 0))]
            is_only_scan = len(components) == 3 and segment.startswith(b"\3")
            return is_ycc and is_only_scan and all(tables.get(table) == b"\0" for table in chroma)
    return False


def name_foreign_kind(content: bytes) -> str:
    """Returns what kind of JPEG a file is by its frame header, if Pillow does not open that kind, else ''.

    Args:
        content: the bytes of the file.
    """
    marker, bits, _, _ = frame_header(content) if content.startswith(b"\xff\xd8") else (0, 0, 0, 0)
    if marker == _JPEG_LS:
        return "a JPEG-LS picture"
    return f"a JPEG of {bits} bits per sample" if marker and bits != _BITS else ""


def check_scans(content: bytes, pixels: int, max_pixels: int) -> None:
    """Checks that decoding takes a limited time: a decoder passes over all pixels once per scan.

    Args:
        content: the bytes of the file.
        pixels: width times height.
        max_pixels: `crop.max_pixels`.

    Raises:
        ImageError: "unsupported" for more than MAX_SCANS scans, or for fewer with more than MAX_SCANNED times
            `max_pixels` pixels in all of them.
    """
    allowed = min(MAX_SCANS, max(1, MAX_SCANNED * max_pixels // max(pixels, 1)))
    # Counting pairs of bytes as numbers takes a sixth of the time of bytes.count; it finds those in thumbnails too.
    pairs = (np.frombuffer(content, "<u2", (len(content) - start) // 2, start) for start in (0, 1))
    if sum(np.count_nonzero(numbers == _START_OF_SCAN) for numbers in pairs) <= allowed:
        return
    if (scans := count_scans(content)) > allowed:
        raise ImageError("unsupported", f"a JPEG of {scans} scans; of this size {allowed} are allowed, save it again")


def count_scans(content: bytes) -> int:
    """Returns how many scans the first picture of a JPEG file has."""
    scans, position = 0, 2
    while (marker := _NEXT_MARKER.search(content, position)) and content[marker.start() + 1] != _END:
        start = marker.start() + 2
        scans += content[start - 1] == _SCAN
        position = start + max(_LENGTH, int.from_bytes(content[start : start + _LENGTH]))
    return scans


def check_decoding(content: bytes) -> str:
    """Decodes a JPEG of 8 bits at 1/8 of its size and returns libjpeg's warning about it, '' if there is none.

    It is for JPEGs whose pixels another decoder returns without reporting damage.

    Raises:
        ImageError: "truncated" or "corrupt" if pixels are missing or damaged.
    """
    with catching_messages() as messages:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    warning = check_messages(messages)
    if pixels is None:
        try:
            Image.open(BytesIO(content), formats=("JPEG",)).load()
        except UnidentifiedImageError:
            return warning  # a kind that libjpeg lacks
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged bytes
            raise ImageError("truncated" if "truncated" in str(error) else "corrupt", str(error)) from error
    return warning


def check_coded_frame(content: bytes, max_pixels: int) -> str:
    """Checks a JPEG or JPEG-LS inside another file, whose decoder reports no damage; returns libjpeg's warning, or ''.

    JPEGs of 8 bits with Huffman codes are checked as files are. Of all others, such as those of 12 bits and without
    loss, only the end mark is looked for.

    Args:
        content: the bytes of the JPEG.
        max_pixels: `crop.max_pixels`.

    Raises:
        ImageError: "truncated" or "corrupt" for a damaged one, "unsupported" for one of too many scans.
    """
    marker, bits, width, height = frame_header(content)
    if marker in (*_SEQUENTIAL, _PROGRESSIVE) and bits == _BITS:
        check_scans(content, width * height, max_pixels)
        return check_decoding(content)
    if marker and not has_end(content):
        raise ImageError("truncated", "the compressed frame ends before its end mark")
    return ""


def has_end(content: bytes) -> bool:
    """Returns whether a JPEG or JPEG-LS has an end mark behind the header of its first scan."""
    position = 2
    while content[position : position + 1] == b"\xff" and len(content) >= position + 4:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(content[position + 2 : position + 4])
        if marker == _SCAN:
            break
    return content.find(_END_MARK, position) >= 0


def _read_tables(segment: bytes) -> dict[int, bytes]:
    """Returns the symbols of each Huffman table by its id: class (0: DC, 1: AC) times 16 plus number."""
    tables = {}
    while len(segment) > 17:
        end = 17 + sum(segment[1:17])
        tables[segment[0]] = segment[17:end]
        segment = segment[end:]
    return tables


def _table_ids(selector: int) -> tuple[int, int]:
    """Returns the ids of the DC and the AC table that a component's selector byte names."""
    return selector >> 4, 0x10 | selector & 0x0F
