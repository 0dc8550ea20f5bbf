"""Crops an image file to a square: decode, remove the dark border, cut out the center square, scale it."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from tumorboard.base.params import Crop, Frames
from tumorboard.images.decode import decode
from tumorboard.images.grey import Pixels, three_channels
from tumorboard.images.header import Header


class CroppedFile(NamedTuple):
    """An image file's decoded picture and the square that models see of it."""

    picture: Pixels  # uint8[H, W] if grey, else uint8[H, W, 3] in RGB; reduced as decode_for_crop does
    header: Header  # the file's format and full size
    border: float  # the share of the picture's pixels in its dark border, 0 to 1, also if crop.border is false
    square: Pixels  # uint8[S, S] if grey, else uint8[S, S, 3]; S is crop.side


class Square(NamedTuple):
    """The square that models see, in pixels of the upright image at full size, as stored.

    Its sides differ where the pixels are not square.
    """

    left: float
    top: float
    width: float
    height: float


def crop_file(content: bytes, crop: Crop, frames: Frames) -> CroppedFile:
    """Decodes an image file and crops it; training and prediction both call this function.

    Args:
        content: the bytes of the file.
        crop: limits, border, side and the other parameters of the crop.
        frames: the frame to take of a file with several; None refuses such files.

    Raises:
        ImageError: if the file cannot be used as an image; `reason` is the cause.
    """
    picture, header = decode_for_crop(content, crop, frames)
    without_border, square = _cut_square(picture, crop)
    return CroppedFile(picture, header, border=1 - without_border.size / picture.size, square=square)


def crop_image(image: Pixels, crop: Crop) -> Pixels:
    """Crops a decoded image uint8[H, W] or uint8[H, W, 3] to uint8[S, S, 3], where S is `crop.side`."""
    return three_channels(_cut_square(image, crop)[1])


def _cut_square(image: Pixels, crop: Crop) -> tuple[Pixels, Pixels]:
    """Returns the image without its border, and the square, which is cut from it only if `crop.border`."""
    without_border = remove_border(image, crop.border_threshold, crop.border_tolerance)
    return without_border, center_square(without_border if crop.border else image, crop.side)


def locate_square(picture: Pixels, header: Header, crop: Crop) -> Square:
    """Returns where the square that `crop_file` cuts out lies in the image.

    Args:
        picture: as `decode_for_crop` returns it, reduced by 1, 2, 4, 8 ...
        header: as `decode_for_crop` returns it.
        crop: section `crop` of params.yaml, with which the picture was decoded.
    """
    rows, columns = slice(0, picture.shape[0]), slice(0, picture.shape[1])
    if crop.border:
        rows, columns = _bright_part(picture, crop.border_threshold, crop.border_tolerance)
    top, left, side = _center(rows.stop - rows.start, columns.stop - columns.start)
    # A decoder rounds the sides of a reduced picture, so that their ratio is not exactly the factor.
    factor = 2 ** round(math.log2(header.width * header.stretch[0] / picture.shape[1]))
    x, y = (factor / stretch for stretch in header.stretch)
    return Square(x * (columns.start + left), y * (rows.start + top), width=x * side, height=y * side)


def decode_for_crop(content: bytes, crop: Crop, frames: Frames) -> tuple[Pixels, Header]:
    """Decodes an image file as `decode` does, at 1/2, 1/4, 1/8 ... of its size where `crop.scaled_decoding` allows.

    The shorter side keeps at least `crop.scaled_decoding` times `crop.side` pixels, twice as many if a border is to be
    removed. JPEGs are reduced by the decoder, the others by averaging blocks, so that a border is searched at the same
    scale in every format.

    Args:
        content: the bytes of the file.
        crop: `scaled_decoding`, `side` and `border` choose the reduction; `decode` uses the rest.
        frames: the frame to take of a file with several; None refuses such files.

    Returns:
        The picture, uint8[H, W] if grey, else uint8[H, W, 3] in RGB, and the Header with the full size.

    Raises:
        ImageError: if the file cannot be used as an image.
    """
    least_side = None
    if crop.scaled_decoding is not None:
        least_side = crop.scaled_decoding * crop.side * (2 if crop.border else 1)
    image, header = decode(content, crop, frames, least_side)
    return _reduce(image, least_side), header


def _reduce(image: Pixels, least_side: float | None) -> Pixels:
    """Averages the largest blocks of 2, 4, 8 ... pixels that leave the shorter side at least `least_side` pixels."""
    shorter = min(image.shape[:2])
    if least_side is None or shorter < 2 * least_side:
        return image
    return _average_blocks(image, 2 ** int(math.log2(shorter / least_side)))


def _average_blocks(image: Pixels, factor: int) -> Pixels:
    """Averages blocks of factor x factor pixels; drops the last rows and columns that fill no block."""
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    whole_blocks = image[: rows * factor, : columns * factor]
    return cv2.resize(whole_blocks, (columns, rows), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def remove_border(image: Pixels, threshold: int, tolerance: float) -> Pixels:
    """Cuts off the dark rows and columns at the four sides of an image.

    Args:
        image: uint8[H, W] or uint8[H, W, 3].
        threshold: a pixel is bright if any of its channels exceeds this level, 0 to 255.
        tolerance: a row or column is dark if at most this share of its pixels is bright, 0 to 1.

    Returns:
        A view of the image; the whole image if all its rows or all its columns are dark.

    >>> picture = np.array([[0, 0, 0, 0], [0, 90, 80, 0], [0, 70, 60, 0]], np.uint8)
    >>> remove_border(picture, threshold=24, tolerance=0.02)
    array([[90, 80],
           [70, 60]], dtype=uint8)
    """
    return image[_bright_part(image, threshold, tolerance)]


def _bright_part(image: Pixels, threshold: int, tolerance: float) -> tuple[slice, slice]:
    """Returns the rows and the columns that `remove_border` leaves."""
    bright = cv2.threshold(image, threshold, 1 if image.ndim == 2 else 255, cv2.THRESH_BINARY)[1]
    if image.ndim == 3:  # the brightness of 0 and 255 is 0 only if all channels are, and takes less time than a maximum
        bright = cv2.threshold(cv2.cvtColor(bright, cv2.COLOR_RGB2GRAY), 0, 1, cv2.THRESH_BINARY)[1]
    height, width = bright.shape
    in_row, in_column = (cv2.reduce(bright, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for axis in (1, 0))
    rows = np.flatnonzero(in_row / width > tolerance)
    columns = np.flatnonzero(in_column / height > tolerance)
    if not rows.size or not columns.size:
        return slice(0, height), slice(0, width)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def center_square(image: Pixels, size: int) -> Pixels:
    """Cuts out the center square of an image and scales it, antialiased if it shrinks.

    The square is cut out before it is scaled, so that a long strip costs no more than its square. Interpolation is
    bilinear. Before a reduction, even sides are halved by averaging while `size` pixels are left; then a Gaussian blur
    of variance (s^2 - 1) / 6, for s pixels that become one, gives bilinear interpolation the width of the triangle
    that Pillow and torchvision use. In OpenCV this takes a third of the time of INTER_AREA, and the result is closer
    to theirs.

    Args:
        image: uint8[H, W] or uint8[H, W, 3].
        size: side of the result in pixels.

    Returns:
        uint8[size, size] or uint8[size, size, 3].

    >>> center_square(np.array([[9, 10, 20, 9], [9, 30, 40, 9]], np.uint8), 2)
    array([[10, 20],
           [30, 40]], dtype=uint8)
    """
    top, left, side = _center(*image.shape[:2])
    square = image[top : top + side, left : left + side]
    while side >= 2 * size and side % 2 == 0:  # averaging 2 x 2 pixels is exact and fast
        side //= 2
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if size < side < 4 * size:
        square = _blur(square, ((side / size) ** 2 - 1) / 6)
    # From 4 times the size on, a blur would take longer than averaging over areas.
    interpolation = cv2.INTER_LINEAR if side < 4 * size else cv2.INTER_AREA
    return cv2.resize(square, (size, size), interpolation=interpolation)  # type: ignore[return-value]


def _center(height: int, width: int) -> tuple[int, int, int]:
    """Returns top, left and side of the center square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _blur(image: Pixels, variance: float) -> Pixels:
    """Blurs by a Gaussian of this variance in square pixels; a narrow one has three samples with that variance."""
    if variance <= 0.5:
        kernel, sigma = 3, math.sqrt(-0.5 / math.log(variance / 2 / (1 - variance)))
    else:
        sigma = math.sqrt(variance)
        kernel = 2 * math.ceil(2.5 * sigma - 0.5) + 1
    return cv2.GaussianBlur(image, (kernel, kernel), sigma)  # type: ignore[return-value]
