"""Resamples a DICOM picture whose pixels are not square, so that lengths in both directions are comparable."""

import math
from typing import TYPE_CHECKING

import cv2

from tumorboard.base.errors import ImageError, clip, printable
from tumorboard.base.params import Crop
from tumorboard.images.grey import Pixels
from tumorboard.images.header import check_size

if TYPE_CHECKING:
    from pydicom import Dataset

# Attributes with the height and the width of a pixel; the first one that is stated counts.
_SHAPES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_TOLERANCE = 1.01  # largest ratio of the sides of a pixel that counts as square
_MAX_RATIO = 10.0  # largest ratio of the sides of a pixel that is believed


def read_pixel_aspect(dataset: "Dataset", measures: "Dataset") -> float:
    """Returns the height of a pixel divided by its width; 1.0 if the header states no shape, or a nearly square one.

    Args:
        dataset: the data set.
        measures: the frame's Pixel Measures of an enhanced file; `dataset` itself for other files.

    Raises:
        ImageError: "corrupt" if the attribute that counts is not two numbers above 0, or their ratio exceeds 10.

    Source: DICOM PS3.3 10.7.1.3 (the spacing of rows precedes that of columns) and C.7.6.3.1.7 (PixelAspectRatio,
    vertical before horizontal, stands where no spacing is stated).
    """
    for keyword in _SHAPES:
        for holder in (measures, dataset):
            stated = holder.get(keyword)
            if stated is None or stated == "" or stated == []:
                continue
            return _aspect_of(keyword, [stated] if isinstance(stated, str | float | int) else list(stated))
    return 1.0


def _aspect_of(keyword: str, values: list[object]) -> float:
    stated = printable(clip("\\".join(map(str, values)), 40))
    try:
        height, width = (float(str(value)) for value in values)
    except ValueError:
        height = width = math.nan
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise ImageError(
            "corrupt", f"{keyword} is '{stated}', expected two numbers above 0, as in '0.5\\0.5': correct the header"
        )
    ratio = max(height, width) / min(height, width)
    if ratio > _MAX_RATIO:
        raise ImageError(
            "corrupt", f"{keyword} is '{stated}': pixels of {ratio:.4g} to 1, expected at most {_MAX_RATIO:g} to 1"
        )
    return height / width if ratio > _TOLERANCE else 1.0


def square_stretch(width: int, height: int, aspect: float) -> tuple[float, float]:
    """Returns by how much to enlarge an image in x and y so that its pixels become square.

    The direction with the longer side of a pixel is enlarged, since shrinking the other one would lose detail.

    Args:
        width: pixels of the stored image.
        height: pixels of the stored image.
        aspect: the height of a pixel divided by its width.

    >>> square_stretch(100, 50, 2.0), square_stretch(100, 50, 0.8), square_stretch(3, 3, 1.5)
    ((1.0, 2.0), (1.25, 1.0), (1.0, 1.3333333333333333))
    """
    if aspect == 1 or not width or not height:  # `check_size` refuses a picture without pixels
        return 1.0, 1.0
    if aspect > 1:
        return 1.0, round(height * aspect) / height
    return round(width / aspect) / width, 1.0


def check_square_size(width: int, height: int, stretch: tuple[float, float], crop: Crop) -> None:
    """Checks the size that an image has with square pixels.

    Args:
        width: pixels of the stored image.
        height: pixels of the stored image.
        stretch: as `square_stretch` returns it.
        crop: the limits.

    Raises:
        ImageError: as `check_size` raises it.
    """
    try:
        check_size(round(width * stretch[0]), round(height * stretch[1]), crop)
    except ImageError as error:
        if stretch == (1.0, 1.0):
            raise
        raise ImageError(
            error.reason, f"{error.detail}; stored as {width} x {height} pixels that are not square"
        ) from None


def make_square(pixels: Pixels, stretch: tuple[float, float]) -> Pixels:
    """Enlarges a picture uint8[H, W] or uint8[H, W, 3] by `stretch` in x and y, with linear interpolation."""
    if stretch == (1.0, 1.0):
        return pixels
    height, width = pixels.shape[:2]
    size = round(width * stretch[0]), round(height * stretch[1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
