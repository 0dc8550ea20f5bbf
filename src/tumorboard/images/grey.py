"""Maps grey values of any bit depth to 8 bits, and pictures with equal channels to one channel and back."""

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W] if grey, [H, W, 3] in RGB
Window: TypeAlias = tuple[float, float]  # the grey values that become black and white

GREY_DEPTHS = (8, 10, 12, 14, 16)  # bits per pixel that cameras and scanners produce
_BLOCK_BYTES = 1 << 19  # bytes of a picture that are compared at a time: they fit into a processor's cache


def scale_grey(grey: NDArray[Any], window: Window | None) -> Pixels:
    """Maps grey values linearly from a window to 0 to 255; values outside the window are clipped.

    Args:
        grey: numbers [H, W] of any type.
        window: the values that become 0 and 255. None takes 0 and the largest value of the smallest of GREY_DEPTHS
            that holds the brightest pixel, so that 12-bit data in a 16-bit file is neither black nor clipped.

    Returns:
        uint8[H, W], rounded to the nearest integer, halves to the even one.

    Raises:
        ImageError: "unsupported" if a value is NaN or infinite, or if there is no window and the values are floats,
            negative or above 65535.

    >>> scale_grey(np.array([[0, 500, 1000]], np.uint16), None)  # 1000 needs 10 bits: 1023 is white
    array([[  0, 125, 249]], dtype=uint8)
    >>> scale_grey(np.array([[-1024, 20, 40, 80, 3071]]), (0, 80))  # a CT's brain window, in Hounsfield units
    array([[  0,  64, 128, 255, 255]], dtype=uint8)
    """
    if not np.isfinite(grey).all():
        raise ImageError("unsupported", "grey values that are NaN or infinite")
    low, high = _depth_range(grey) if window is None else window
    scaled = (grey.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.where(grey > low, 255.0, 0.0)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)  # type: ignore[no-any-return]


def _depth_range(grey: NDArray[Any]) -> Window:
    """Returns 0 and the largest value of the smallest depth that holds all grey values."""
    brightest = float(grey.max())
    if grey.dtype.kind not in "ui" or grey.min() < 0 or brightest > 65535:
        raise ImageError("unsupported", "grey values that are floats, negative or above 65535: set crop.window")
    return 0, next(2**bits - 1 for bits in GREY_DEPTHS if brightest < 2**bits)


def scale_visible_grey(grey: NDArray[Any], alpha: NDArray[Any], crop: Crop) -> Pixels:
    """Scales grey values as `scale_grey` does and composites them on the background.

    Args:
        grey: numbers [H, W]; those with alpha 0 are ignored when the depth is chosen.
        alpha: opacity [H, W], 0 to 1 or bool.
        crop: `window` and `background` are used.

    Returns:
        uint8[H, W, 3] in RGB.
    """
    pixels = scale_grey(np.where(alpha > 0, grey, 0), crop.window)[..., None]
    opacity = alpha[..., None].astype(np.float64)
    return np.rint(pixels * opacity + np.array(crop.background) * (1 - opacity)).astype(np.uint8)


def one_channel_if_grey(image: Pixels) -> Pixels:
    """Returns one channel uint8[H, W] if all three channels are equal, else the image as it is.

    Grey pictures are then cropped at a third of the cost.

    >>> one_channel_if_grey(np.array([[[7, 7, 7], [9, 9, 9]]], np.uint8))
    array([[7, 9]], dtype=uint8)
    """
    middle = image[len(image) // 2]
    if image.ndim == 2 or (middle != middle[:, :1]).any():  # one row is enough to recognize most colored pictures
        return image
    grey = np.empty(image.shape[:2], np.uint8)
    step = max(1, _BLOCK_BYTES // (3 * image.shape[1]))
    for top in range(0, len(image), step):
        red, green, blue = cv2.split(image[top : top + step])
        if cv2.norm(red, green, cv2.NORM_INF) or cv2.norm(red, blue, cv2.NORM_INF):
            return image
        grey[top : top + step] = red
    return grey


def three_channels(image: Pixels) -> Pixels:
    """Returns uint8[H, W, 3]: a grey image uint8[H, W] three times, a colored one as it is."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image  # type: ignore[return-value]
