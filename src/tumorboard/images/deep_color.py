"""Reads all bits of PNG, TIFF and PPM files with colors of 16 bits, of which Pillow returns the upper 8."""

import re
import sys
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import PLANAR_CONFIGURATION

from tumorboard.base.errors import ImageError
from tumorboard.images.formats import FORMATS
from tumorboard.images.grey import Pixels
from tumorboard.images.tiff import INTERLEAVE, SEPARATE

_BAND_PIXELS = 1 << 20  # pixels that are copied at a time
_RAW_MODE = re.compile(r"(RGB|RGBX|RGBA);16([BLN])")  # Pillow's name of colors of 16 bits: order of the bytes
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LEAST_HIGH = 64  # from this upper byte on, values need all 16 bits, and the upper 8 of them are exact enough
_PPM_BITS_8 = 255  # largest value of a PPM with one byte per value


def is_deep_color(picture: Image.Image) -> bool:
    """Returns whether an opened file has colors of 16 bits that `read_deep_color` reads.

    It does not read later frames of an animated PNG, alpha that is multiplied into the colors, CMYK, and PPM of text.

    Args:
        picture: the opened file, before its pixels are loaded.
    """
    if not isinstance(picture, ImageFile.ImageFile) or not picture.tile or (picture.format == "PNG" and picture.tell()):
        return False
    codec, _, _, form = picture.tile[0]
    if codec == "ppm":
        return picture.mode == "RGB" and isinstance(form, tuple) and int(form[-1]) > _PPM_BITS_8
    return _RAW_MODE.fullmatch(_raw_mode(form)) is not None


def read_deep_color(picture: Image.Image, content: bytes) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Returns the colors, uint16[H, W, 3], and the alpha, uint16[H, W] or None, of an upright picture.

    Pillow decodes the file twice: to the upper bytes, and under the name of the other byte order to the lower ones.

    Args:
        picture: the opened file, for which `is_deep_color` is True, at the frame to read.
        content: the bytes of the file.

    Raises:
        ImageError: "truncated" if a PPM ends early; "unsupported" for a TIFF with a plane per channel that is so dark
            that its upper bytes, which alone can be read, lack its shades.
    """
    assert isinstance(picture, ImageFile.ImageFile)
    if picture.tile[0].codec_name == "ppm":
        return _read_ppm(picture, content), None
    has_alpha = picture.mode == "RGBA"
    upper = _load(content, picture.tell(), swapped=False)
    colors = np.empty((upper.height, upper.width, 3), "<u2")
    alpha = np.empty(colors.shape[:2], "<u2") if has_alpha else None
    _fill_bytes(colors, alpha, upper, 1)
    upper.close()  # frees its memory
    if getattr(picture, "tag_v2", {}).get(PLANAR_CONFIGURATION) == SEPARATE:  # Pillow ignores the order's name
        if int(colors.view(np.uint8)[..., 1::2].max()) < _LEAST_HIGH:
            raise ImageError("unsupported", f"a dark TIFF of 16 bits with a plane per channel: {INTERLEAVE}")
        lower = _load(content, picture.tell(), swapped=False)
    else:
        lower = _load(content, picture.tell(), swapped=True)
    _fill_bytes(colors, alpha, lower, 0)
    lower.close()
    return colors, alpha


def _read_ppm(picture: ImageFile.ImageFile, content: bytes) -> NDArray[np.uint16]:
    """Returns the values of a binary PPM as they stand in the file."""
    count, start = picture.width * picture.height * 3, picture.tile[0].offset
    if len(content) < start + 2 * count:
        raise ImageError("truncated", f"the PPM ends within its {picture.width} x {picture.height} pixels")
    values = np.frombuffer(content, ">u2", count, start)
    return values.reshape(picture.height, picture.width, 3).astype(np.uint16)


def _raw_mode(form: object) -> str:
    """Returns the raw mode in the arguments of a tile's decoder: the arguments themselves or the first of them."""
    return str(form[0] if isinstance(form, tuple) and form else form)


def _load(content: bytes, frame: int, *, swapped: bool) -> Image.Image:
    """Returns the loaded and upright picture of upper bytes, or with the bytes swapped that of lower bytes."""
    picture = Image.open(BytesIO(content), formats=FORMATS)
    picture.seek(frame)
    assert isinstance(picture, ImageFile.ImageFile)
    if swapped:
        tiles = []
        for tile in picture.tile:
            mode = _raw_mode(tile.args)
            mode = mode[:-1] + _OTHER_ORDER[mode[-1]]
            tiles.append(tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode))
        picture.tile = tiles
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _fill_bytes(colors: NDArray[np.uint16], alpha: NDArray[np.uint16] | None, picture: Image.Image, place: int) -> None:
    """Copies a picture of 8 bits into one byte of each value, in bands because each band is a copy.

    Args:
        colors: little-endian uint16[H, W, 3].
        alpha: little-endian uint16[H, W], or None.
        picture: RGB, or RGBA if there is alpha.
        place: 0 for the lower byte, 1 for the upper one.
    """
    step = max(1, _BAND_PIXELS // picture.width)
    for top in range(0, picture.height, step):
        bottom = min(top + step, picture.height)
        band: Pixels = np.asarray(picture.crop((0, top, picture.width, bottom)))
        colors[top:bottom].view(np.uint8)[..., place::2] = band[..., :3]
        if alpha is not None:
            alpha[top:bottom].view(np.uint8)[:, place::2] = band[..., 3]
