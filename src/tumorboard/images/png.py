"""Checks PNG files for damage that Pillow misses, and reads grey with alpha at 16 bits, which Pillow cuts to 8."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tumorboard.base.errors import ImageError

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
    """Checks that a PNG's compressed pixels are as many as its header says.

    Pillow fills missing rows with black; OpenCV rejects such a file itself.

    Args:
        content: the bytes of the file.
        compressed: the IDAT bodies from `check_chunks`.

    Raises:
        ImageError: "truncated" if pixels are missing.

    Source: PNG specification (ISO/IEC 15948), 7.2 and 8.2.
    """
    width, height, bits, color, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    expected = 0
    for left, top, across, down in _ADAM7 if is_interlaced else _WHOLE:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits * _SAMPLES[color] // 8))  # each row begins with a filter byte
    size = len(zlib.decompressobj().decompress(b"".join(compressed), expected))
    if size < expected:
        raise ImageError("truncated", f"{size} bytes of pixels, expected {expected} for {width} x {height}")


def check_transparent_color(content: bytes, picture: Image.Image) -> None:
    """Checks that a PNG of 16 bits per channel names no transparent color.

    Pillow would look for the 16-bit color among 8-bit pixels.

    Raises:
        ImageError: "unsupported" if it does.
    """
    if content[24] == 16 and picture.mode == "RGB" and "transparency" in picture.info:
        raise ImageError("unsupported", "a PNG of 16 bits per channel with a transparent color; save it with alpha")


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
    return np.asarray(ImageOps.exif_transpose(picture)).view(">u2")
