"""What Pillow leaves out of a PNG: checksums, missing rows, the lower bits of grey and alpha of 16 bits each."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tumorboard.errors import ImageError

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the color type of the header
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # left, top, steps


def check_chunks(content: bytes) -> list[memoryview]:
    """Walk a PNG's chunks to its end mark, and give those of its (first) picture's compressed pixels.

    Pillow checks no checksum of pixel data and needs no end mark. Raises ImageError.
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


def check_key(content: bytes, picture: Image.Image) -> None:
    """Raise ImageError where one colour of 16 bits a channel is transparent: Pillow looks for it among 8 bits."""
    if content[24] == 16 and picture.mode == "RGB" and "transparency" in picture.info:
        raise ImageError("unsupported", "a PNG of 16 bits a channel with a transparent colour; save it with alpha")


def check_rows(content: bytes, compressed: list[memoryview]) -> None:
    """Raise ImageError where a PNG's compressed pixels are fewer than its header says; Pillow leaves these black.

    OpenCV refuses such a file by itself.
    """
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    size = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits * _CHANNELS[color] // 8))  # each row begins with its filter
    found = len(zlib.decompressobj().decompress(b"".join(compressed), size))
    if found < size:
        raise ImageError("truncated", f"{found} bytes of pixels, expected {size} of {width} x {height}")


def is_deep_grey_alpha(content: bytes) -> bool:
    """Whether a PNG's header says grey and alpha of 16 bits each."""
    return content[24:26] == b"\x10\4"


def read_deep_grey_alpha(content: bytes) -> NDArray[np.uint16]:
    """Grey and alpha uint16[H, W, 2] of such a PNG, upright, of which Pillow gives the upper 8 bits.

    The bytes of its pixels are as many as those of RGBA with 8 bits each; read as such, all of them come.
    """
    header = b"IHDR" + content[16:24] + b"\x08\6" + content[26:29]
    picture = Image.open(BytesIO(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]))
    return np.asarray(ImageOps.exif_transpose(picture)).view(">u2")
