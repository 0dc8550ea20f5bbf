"""From the bytes of an image file to a square crop: decode, remove a dark border, scale, cut the center."""

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tumorboard.errors import InputError
from tumorboard.params import Crop

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
# What Pillow's decoders are known to raise on damaged bytes.
_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)

# decode() holds every file to its caller's max_pixels; Pillow's own limit would overrule a larger one.
Image.MAX_IMAGE_PIXELS = None


class ImageError(InputError):
    """A file that cannot be used as an image.

    `reason` is 'empty', 'not an image', 'truncated', 'corrupt', 'too many pixels', 'multi-frame' or 'unsupported';
    `detail` says more.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(content: bytes, max_pixels: int) -> Pixels:
    """Decode an image file to uint8[H, W, 3], RGB, upright after its EXIF orientation; raises ImageError.

    Reads FORMATS. Transparent pixels are composited on black. Grey of more than 8 bits is scaled over the smallest
    depth that holds its brightest pixel (8, 10, 12, 14 or 16 bits), so that 12-bit data is neither black nor clipped.
    More than `max_pixels` (width times height) and several frames are rejected by the header, before a pixel is
    decoded. A truncated file is an error; damage within JPEG data that ends properly goes unseen: it has no checksum.
    """
    if not content:
        raise ImageError("empty", "the file holds no bytes")
    try:
        return _decode(content, max_pixels)
    except UnidentifiedImageError:
        if _SIGNATURE.match(content):
            raise ImageError("corrupt", "the header is damaged or cut off") from None
        raise ImageError("not an image", f"expected one of {', '.join(FORMATS)}") from None
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError("truncated" if "truncated" in str(error).lower() else "corrupt", str(error)) from error


def _decode(content: bytes, max_pixels: int) -> Pixels:
    picture = Image.open(BytesIO(content), formats=FORMATS)  # reads the header alone
    if picture.width * picture.height > max_pixels:
        raise ImageError("too many pixels", f"{picture.width} x {picture.height}, expected at most {max_pixels}")
    if picture.format == "PNG":
        _check_png(content)
    if picture.format == "GIF" and not content.rstrip(b"\0").endswith(b";"):
        raise ImageError("truncated", "the GIF ends before its trailer")
    # The further frames of a multi-picture JPEG (MPO) are previews and other views of its first one.
    if picture.format != "MPO" and (frames := getattr(picture, "n_frames", 1)) > 1:
        raise ImageError("multi-frame", f"{frames} frames, expected a single picture")
    if picture.format in ("JPEG", "MPO", "PNG") and picture.mode in ("L", "RGB") and not picture.has_transparency_data:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is not None:
            return pixels  # type: ignore[return-value]
    return _decode_with_pillow(picture)


def _decode_with_pillow(picture: Image.Image) -> Pixels:
    """What OpenCV cannot read, or will not: then Pillow's error says why."""
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        return _scale_grey(np.asarray(upright))
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
    return np.array(upright.convert("RGB"))


def _scale_grey(grey: NDArray[np.integer[Any] | np.floating[Any]]) -> Pixels:
    brightest = int(grey.max())
    if grey.dtype.kind == "f" or grey.min() < 0 or brightest > 65535:
        raise ImageError("unsupported", "signed, 32-bit or floating-point grey; expected 8 or 16 bits without sign")
    full = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if brightest < 2**bits)
    scaled = np.rint(grey * (255 / full)).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)


def _check_png(content: bytes) -> None:
    """Walk a PNG's chunks to its end mark; Pillow checks no checksum of pixel data and needs no end mark."""
    view, position, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise ImageError("truncated", "the PNG ends before its end mark")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            raise ImageError("truncated", f"the PNG ends inside a chunk {kind!r}")
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ImageError("corrupt", f"wrong checksum of a chunk {kind!r}")
        position = end + 4


def remove_border(image: Pixels, threshold: int, tolerance: float) -> Pixels:
    """Cut away the dark rows and columns at the four sides; returns a view of uint8[H, W, 3].

    A row or column is dark while at most the share `tolerance` of its pixels has a channel above `threshold`. An image
    that is dark throughout stays whole.
    """
    bright = cv2.inRange(image, (0, 0, 0), (threshold,) * 3) == 0
    rows = np.flatnonzero(bright.mean(axis=1) > tolerance)
    columns = np.flatnonzero(bright.mean(axis=0) > tolerance)
    if not rows.size or not columns.size:
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def crop_image(image: Pixels, crop: Crop) -> Pixels:
    """The center square of uint8[H, W, 3] as uint8[S, S, 3], S = crop.size; first without its border if crop.border.

    It is cut out before it is scaled, so that a long strip costs no more than its square. Shrinking averages over areas
    (OpenCV's INTER_AREA: antialiased); enlarging is bilinear, which unlike bicubic adds no halo to an edge.
    """
    if crop.border:
        image = remove_border(image, crop.border_threshold, crop.border_tolerance)
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > crop.size else cv2.INTER_LINEAR
    return cv2.resize(square, (crop.size, crop.size), interpolation=how)  # type: ignore[return-value]
