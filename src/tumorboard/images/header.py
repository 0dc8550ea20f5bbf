"""Checks the size and the number of frames that a file's header states, before any pixel is decoded."""

from typing import NamedTuple

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop, Frames
from tumorboard.images.grey import GreyRange


class Header(NamedTuple):
    """An image file's format and full size, and how it was decoded."""

    format: str  # one of formats.FORMATS, "MPO", "DICOM" or "NPY"
    width: int  # pixels of the upright image, as stored
    height: int  # pixels of the upright image, as stored
    grey: GreyRange | None = None  # how grey or color of more than 8 bits was scaled; None: the file has 8 bits
    warning: str = ""  # the decoder's warning about data that it passed over
    stretch: tuple[float, float] = (1.0, 1.0)  # enlargement in x and y that made the pixels of a DICOM file square


def check_size(width: int, height: int, crop: Crop) -> None:
    """Checks the size of an image against the limits of `crop`.

    Args:
        width: pixels.
        height: pixels.
        crop: `max_pixels`, `min_side` and `max_aspect` are the limits; each limit itself is allowed.

    Raises:
        ImageError: "too many pixels", "too small" or "aspect ratio", checked in this order.
    """
    if width * height > crop.max_pixels:
        raise ImageError("too many pixels", f"{width} x {height}, expected at most {crop.max_pixels} (crop.max_pixels)")
    if min(width, height) < crop.min_side:
        raise ImageError("too small", f"{width} x {height}, expected sides of {crop.min_side} or more (crop.min_side)")
    if max(width, height) > crop.max_aspect * min(width, height):
        raise ImageError(
            "aspect ratio", f"{width} x {height}, expected at most {crop.max_aspect} to 1 (crop.max_aspect)"
        )


def choose_frame(count: int, frames: Frames) -> int:
    """Returns the index of the frame to decode.

    Args:
        count: number of frames or pages in the file.
        frames: "first", "middle", or None if only files with one frame are allowed.

    Raises:
        ImageError: "multi-frame without a rule" if there are several frames and `frames` is None.

    >>> choose_frame(4, "first"), choose_frame(4, "middle"), choose_frame(1, None)
    (0, 2, 0)
    """
    if count > 1 and frames is None:
        raise ImageError(
            "multi-frame without a rule", f"{count} frames; set data.frames to 'first' or 'middle' to choose one"
        )
    return count // 2 if frames == "middle" else 0
