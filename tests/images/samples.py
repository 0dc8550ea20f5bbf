"""Small image files of every format, built in memory, and short ways to decode them in tests."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Frames, load_params
from tumorboard.images.decode import decode
from tumorboard.images.grey import Pixels, three_channels
from tumorboard.images.header import Header

# The committed parameters, but with limits that allow small and long images.
CROP = load_params(Path(__file__).parents[2] / "params.yaml").crop.model_copy(
    update={"min_side": 1, "max_aspect": 1e9, "max_pixels": 10**6, "window": None, "background": (0, 0, 0)}
)


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    """Returns the file that Pillow writes."""
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    """Returns a .npy file."""
    buffer = BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npy_header(text: str) -> bytes:
    """Returns the start of a .npy file, up to its values, with this header."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Returns a chunk of a PNG with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """Returns a PNG of rows that each begin with a filter byte; color type 3 gets a palette of greys."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(np.repeat(np.arange(2**bits, dtype=np.uint8), 3))) if color == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


def insert_chunk(content: bytes, kind: bytes, body: bytes) -> bytes:
    """Inserts a chunk behind a PNG's header."""
    return content[:33] + chunk(kind, body) + content[33:]


def tiff(values: np.ndarray, photometric: int, order: str = "<", floats: bool = False) -> bytes:
    """Returns a TIFF of one strip; photometric interpretation 0 is WhiteIsZero."""
    values = values.astype(values.dtype.newbyteorder(order))
    (height, width), size = values.shape, values.nbytes
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: size, 339: 3 if floats else 1}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack(f"{order}HI", 42, 8 + size)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (b"II" if order == "<" else b"MM") + start + values.tobytes() + directory


def ramps(height: int = 24, width: int = 32) -> np.ndarray:
    """Returns a picture whose red rises to the right, green downwards and blue along the diagonal."""
    y, x = np.mgrid[:height, :width]
    channels = x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)
    return np.stack(channels, -1).astype(np.uint8)


COLOR = Image.fromarray(ramps())
FILES = {
    "png": encode(COLOR, "PNG"),
    "palette png": encode(COLOR.quantize(16), "PNG"),
    "alpha png": encode(COLOR.convert("RGBA"), "PNG"),
    "jpeg": encode(COLOR, "JPEG", quality=95),
    "progressive jpeg": encode(COLOR, "JPEG", quality=95, progressive=True),
    "grey jpeg": encode(COLOR.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": encode(COLOR.convert("CMYK"), "JPEG", quality=95),
    "gif": encode(COLOR, "GIF"),
    "bmp": encode(COLOR, "BMP"),
    "tiff": encode(COLOR, "TIFF"),
    "lzw tiff": encode(COLOR, "TIFF", compression="tiff_lzw"),
    "webp": encode(COLOR, "WEBP", quality=95),
    "lossless webp": encode(COLOR, "WEBP", lossless=True),
    "ppm": encode(COLOR, "PPM"),
}


def large(form: str, **options: Any) -> bytes:
    """Returns a smooth picture of 330 x 250 pixels."""
    return encode(COLOR.resize((330, 250), Image.Resampling.BICUBIC), form, **options)


def decode_rgb(content: bytes, *, least_side: float | None = None, frames: Frames = None, **changes: Any) -> Pixels:
    """Decodes with CROP, changed, to three channels."""
    return three_channels(decode(content, CROP.model_copy(update=changes), frames, least_side)[0])


def header_of(content: bytes, *, least_side: float | None = None) -> Header:
    """Returns the header that `decode` returns beside the pixels."""
    return decode(content, CROP, None, least_side)[1]


def reason_for(content: bytes, **changes: Any) -> str:
    """Returns the reason of the ImageError that decoding raises."""
    with pytest.raises(ImageError) as caught:
        decode_rgb(content, **changes)
    assert str(caught.value) == f"{caught.value.reason}: {caught.value.detail}"
    return caught.value.reason
