"""Gives the values of a PGM of more than 8 bits back, which Pillow stretches to 16 bits."""

import numpy as np
from PIL import Image, ImageFile

from tumorboard.images.grey import Values

_WHITE = 65535  # the value to which Pillow stretches the largest one that a header states


def largest_value(picture: Image.Image) -> int:
    """Returns the largest value that the header of an opened PGM states, if Pillow will stretch it to 16 bits, else 0.

    Args:
        picture: the opened file of any format, before its pixels are loaded.
    """
    if not isinstance(picture, ImageFile.ImageFile) or picture.format != "PPM" or picture.mode != "I":
        return 0
    form = picture.tile[0].args  # a name, and the number where Pillow stretches the values
    return int(form[-1]) if isinstance(form, tuple) and isinstance(form[-1], int) else 0


def restore_values(values: Values, largest: int) -> Values:
    """Returns the values as the file has them, so that `crop.window` means what it says.

    Args:
        values: the values of a loaded picture.
        largest: as `largest_value` returns it; 0: the values stay.

    >>> restore_values(np.array([0, 6407, 65535]), 1023)
    array([   0,  100, 1023])
    """
    return np.rint(values * (largest / _WHITE)).astype(np.int64) if largest else values
