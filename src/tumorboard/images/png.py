"""Checks PNG files for damage that Pillow misses, and reads grey with alpha at 16 bits, which Pillow cuts to 8."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tumorboard.base.errors import ImageError

TEXT_EXIF = "Raw profile type exif"  # keyword of the text in which ImageMagick kept EXIF, before PNG had a chunk for it
EXCESS_BYTES = 1 << 16  # bytes behind the last pixel that are passed over
UNCHECKED_BYTES = 1 << 21  # bytes of compressed pixels that need no check: they inflate to 2 GiB at most, in seconds
_PIECE_BYTES = 1 << 20  # bytes that are inflated at a time
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by the header's color type
_WHOLE = ((0, 0, 1, 1),)  # the only pass without interlacing: left, top, step to the right, step down
_ADAM7 = (  # the passes of an interlaced file
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def check_chunks(content: bytes) -> list[memoryview]:
    """Checks every chunk of a PNG up to its end mark and returns the compressed pixels.

    Pillow does not check the checksums of pixel data and does not need an end mark.

    Args:
        content: the bytes of the file.

    Returns:
        The bodies of the IDAT chunks in their order: together the zlib stream of the (first) picture.

    Raises:
        ImageError: "truncated" if the file ends before its end mark; "corrupt" if a checksum is wrong.

    Source: PNG specification (ISO/IEC 15948), 5.3.
    """
    view, position, kind = memoryview(content), 8, b""
    compressed = []
    while kind != b"IEND":
        if position + 12 > len(content):
            raise ImageError("truncated", "the PNG ends before its end mark")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            raise ImageError("truncated", f"the PNG ends inside a chunk {kind!r}")
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ImageError("corrupt", f"wrong checksum of a chunk {kind!r}")
        if kind == b"IDAT":
            compressed.append(view[position + 8 : end])
        position = end + 4
    return compressed


def check_rows(content: bytes, compressed: list[memoryview]) -> None:
    """Checks that a PNG has as many compressed pixels as its header states.

    Pillow fills missing rows with black; OpenCV rejects such a file itself. Both libraries go through all data behind
    the last pixel, which may be gigabytes when inflated.

    Args:
        content: the bytes of the file.
        compressed: the IDAT bodies from `check_chunks`.

    Raises:
        ImageError: "truncated" if pixels are missing; "corrupt" if the data go on for more than EXCESS_BYTES.

    Source: PNG specification (ISO/IEC 15948), 7.2 and 8.2.
    """
    width, height = struct.unpack_from(">II", content, 16)
    expected = _filtered_size(content)
    size = _inflated_size(compressed, expected + EXCESS_BYTES)
    if size < expected:
        raise ImageError("truncated", f"{size} bytes of pixels, expected {expected} for {width} x {height}")
    if size >= expected + EXCESS_BYTES:
        raise ImageError("corrupt", f"more than the {expected} bytes of pixels of a PNG of {width} x {height}")


def check_excess(content: bytes, compressed: list[memoryview]) -> None:
    """Checks that a PNG whose compressed pixels could inflate to gigabytes ends where its pixels do.

    Args:
        content: the bytes of the file.
        compressed: the IDAT bodies from `check_chunks`.

    Raises:
        ImageError: "corrupt" if the data go on behind the pixels, "truncated" if pixels are missing.
    """
    length = sum(len(body) for body in compressed)
    if length > UNCHECKED_BYTES or length > _filtered_size(content) + EXCESS_BYTES:
        check_rows(content, compressed)


def _filtered_size(content: bytes) -> int:
    """Returns the number of bytes of a PNG's filtered rows, from its header."""
    width, height, bits, color, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    size = 0
    for left, top, across, down in _ADAM7 if is_interlaced else _WHOLE:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits * _SAMPLES[color] // 8))  # each row begins with a filter byte
    return size


def _inflated_size(compressed: list[memoryview], limit: int) -> int:
    """Returns how many bytes a zlib stream holds, or `limit` if it holds more; keeps a piece at a time."""
    inflater, size = zlib.decompressobj(), 0
    for body in compressed:
        pending: bytes | memoryview = body
        while pending and size < limit and not inflater.eof:
            size += len(inflater.decompress(pending, min(_PIECE_BYTES, limit - size)))
            pending = inflater.unconsumed_tail
    while size < limit and not inflater.eof:
        piece = inflater.decompress(b"", min(_PIECE_BYTES, limit - size))
        if not piece:
            break
        size += len(piece)
    return size


def check_transparent_color(content: bytes, picture: Image.Image) -> None:
    """Checks that a PNG of 16 bits per channel names no transparent color.

    Pillow would look for the 16-bit color among 8-bit pixels.

    Raises:
        ImageError: "unsupported" if it names one.
    """
    if content[24] == 16 and picture.mode == "RGB" and "transparency" in picture.info:
        raise ImageError("unsupported", "a PNG of 16 bits per channel with a transparent color; save it with alpha")


def stretch_transparent_value(content: bytes, picture: Image.Image) -> None:
    """Stretches the transparent value of a grey PNG of 2 or 4 bits to 8, as Pillow does with the pixels alone."""
    bits, color = content[24], content[25]
    if color == 0 and bits in (2, 4) and "transparency" in picture.info:
        picture.info["transparency"] = picture.info["transparency"] * 255 // (2**bits - 1)


def is_deep_grey_alpha(content: bytes) -> bool:
    """Returns whether a PNG's header states grey and alpha of 16 bits each."""
    return content[24:26] == b"\x10\4"


def read_deep_grey_alpha(content: bytes) -> NDArray[np.uint16]:
    """Returns grey and alpha, uint16[H, W, 2] and upright, of a PNG that holds 16 bits of each.

    Pillow returns their upper 8 bits only. Here it reads the same bytes under a header that states RGBA of 8 bits,
    which has as many bytes per pixel.
    """
    header = b"IHDR" + content[16:24] + b"\x08\6" + content[26:29]
    picture = Image.open(BytesIO(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]))
    ImageOps.exif_transpose(picture, in_place=True)
    return np.asarray(picture).view(">u2")
