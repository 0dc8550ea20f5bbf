"""Finds the kinds of TIFF whose values Pillow would read as others, and reads these or refuses them."""

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, COMPRESSION, PLANAR_CONFIGURATION, SAMPLEFORMAT, TiffImageFile

from tumorboard.base.errors import ImageError
from tumorboard.images.grey import Values

_SEPARATE = 2  # planar configuration: one plane per channel
_UNCOMPRESSED = 1
_UNSIGNED, _SIGNED = (1,), (2,)  # sample formats
_BYTE_BITS = 8


def check_planes(picture: TiffImageFile) -> None:
    """Raises ImageError for uncompressed planes of more than 8 bits, which Pillow reads as bytes; others it reads.

    Args:
        picture: the file, opened at the page that is to be read.
    """
    tags = picture.tag_v2
    is_raw = tags.get(COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED and tags.get(PLANAR_CONFIGURATION) == _SEPARATE
    if is_raw and len(picture.getbands()) > 1 and max(tags.get(BITSPERSAMPLE, (1,))) > _BYTE_BITS:
        raise ImageError(
            "unsupported",
            "a TIFF of more than 8 bits with a plane per channel and without compression: save it with interleaved "
            "channels (planar configuration 1) or compressed",
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
