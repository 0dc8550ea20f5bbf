"""Finds the kinds of TIFF whose values Pillow would read as others, and reads these or refuses them."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from tumorboard.base.errors import ImageError
from tumorboard.images.grey import Values

SEPARATE = 2  # planar configuration: one plane per channel
INTERLEAVE = "save it with interleaved channels (planar configuration 1)"
_UNCOMPRESSED = 1
_UNSIGNED, _SIGNED = (1,), (2,)  # sample formats
_NUMBERS = {1: "whole numbers", 2: "whole numbers with a sign", 3: "floating-point numbers", 5: "complex", 6: "complex"}
_UNREAD = ("unknown pixel mode", "Invalid value for samples per pixel")  # errors of Pillow about kinds it does not read
_WITH_ALPHA = 2  # channels of grey with alpha
_COLORS = 4  # channels, of colors with alpha and of CMYK; Pillow reads no more
_FLOAT = 3  # sample format
_BYTE_BITS = 8
_BIG_TIFF = 43  # version in the header
_LIKE_GREY = (0, 1, 3)  # photometric interpretations of one channel: white is zero, black is zero, palette


def check_planes(picture: TiffImageFile) -> None:
    """Raises ImageError for uncompressed planes of more than 8 bits, which Pillow reads as bytes; others it reads.

    Args:
        picture: the file, opened at the page that is to be read.
    """
    tags = picture.tag_v2
    is_raw = tags.get(COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED and tags.get(PLANAR_CONFIGURATION) == SEPARATE
    if is_raw and len(picture.getbands()) > 1 and max(tags.get(BITSPERSAMPLE, (1,))) > _BYTE_BITS:
        raise ImageError(
            "unsupported",
            f"a TIFF of more than 8 bits with a plane per channel and without compression: {INTERLEAVE}",
        )


def has_signed_bytes(picture: Image.Image) -> bool:
    """Returns whether a picture is a TIFF of whole numbers from -128 to 127, which Pillow opens as 0 to 255."""
    tags = getattr(picture, "tag_v2", {})
    return picture.mode == "L" and tags.get(SAMPLEFORMAT) == _SIGNED and tags.get(BITSPERSAMPLE) == (_BYTE_BITS,)


def restore_sign(values: Values, picture: Image.Image) -> Values:
    """Returns a TIFF's values with the sign that its header states; those of other files as they are.

    Args:
        values: the values of the loaded picture.
        picture: the picture, of any format.
    """
    tags = getattr(picture, "tag_v2", {})
    if has_signed_bytes(picture):
        return values.view(np.int8)
    is_unsigned = tags.get(SAMPLEFORMAT, _UNSIGNED) == _UNSIGNED and tags.get(BITSPERSAMPLE) == (32,)
    return values.view(np.uint32) if is_unsigned and values.dtype == np.int32 else values


def restore_palette(picture: TiffImageFile) -> None:
    """Sets the palette of a TIFF whose colors of 8 bits stand in 16 as they are; Pillow would divide them to black.

    Args:
        picture: the opened file, before its pixels are loaded.

    Source: TIFF 6.0, section 5, by which colors have 16 bits; checkcmap of libtiff's tools.
    """
    colors = picture.tag_v2.get(COLORMAP, ())
    if picture.mode in ("P", "PA") and max(colors, default=0) < 256:
        picture.palette = ImagePalette.raw("RGB;L", bytes(colors))


def name_unread_kind(content: bytes, error: str) -> str:
    """Returns what a TIFF that Pillow does not open holds, and as what to save it; '' if the file is damaged.

    Args:
        content: the bytes of the file.
        error: what Pillow reports.
    """
    is_known = error in _UNREAD
    try:
        tags = _first_directory(content)
        bits, formats = tags.get(BITSPERSAMPLE, (1,)), tags.get(SAMPLEFORMAT, _UNSIGNED)
        channels, photometric = int(tags.get(SAMPLESPERPIXEL, 1)), tags.get(PHOTOMETRIC_INTERPRETATION)
    except Exception:  # many kinds, for damaged bytes
        return "a TIFF with bits, channels or a photometric interpretation that Pillow lacks" if is_known else ""
    if not is_known and channels <= _COLORS:
        return ""
    numbers = _NUMBERS.get(formats[0], "values of an unknown kind")
    kind = f"a TIFF of {channels} channel{'s' * (channels > 1)} of {max(bits)} bits ({numbers})"
    if channels == 1 and photometric in _LIKE_GREY:
        floats = ", or as float32 with crop.window" if formats[0] == _FLOAT else ""
        return f"{kind}: save it as grey of uint8 or uint16{floats}"
    if channels == _WITH_ALPHA:
        return f"{kind}: save it as grey of uint8 or uint16 without the second channel, or as a PNG with alpha"
    if channels <= _COLORS and (max(bits) not in (_BYTE_BITS, 2 * _BYTE_BITS) or formats[0] == _FLOAT):
        return f"{kind}: save it as RGB of uint8 or uint16, or one channel of it as grey"
    if channels > _COLORS:
        return f"{kind}: save three of the channels as RGB of uint8 or uint16, or one of them as grey"
    return f"{kind}, photometric interpretation {photometric}: save it as RGB or grey of uint8 or uint16"


def _first_directory(content: bytes) -> Any:
    """Returns the tags of a TIFF's first directory."""
    head = content[:8]
    if _BIG_TIFF in head[2:4]:
        head = content[:16]
    directory = ImageFileDirectory_v2(head)
    stream = BytesIO(content)
    stream.seek(directory.next)
    directory.load(stream)
    return directory
