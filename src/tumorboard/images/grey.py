"""Maps grey values and colors of any bit depth to 8 bits, and pictures with equal channels to one channel and back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W] if grey, [H, W, 3] in RGB
Window: TypeAlias = tuple[float, float]  # the grey values that become black and white
Values: TypeAlias = NDArray[Any]

GREY_DEPTHS = (8, 10, 12, 14, 16)  # bits per pixel that cameras and scanners produce
LEVELS = 100  # values that stand for the distribution of a file's grey values
_BLOCK_BYTES = 1 << 19  # bytes of a picture that are compared at a time: they fit into a processor's cache
_BLOCK_VALUES = 1 << 18  # grey values that are computed at a time, so that a large picture needs no second copy
_SAMPLE_VALUES = 1 << 16  # grey values that the levels are computed from
_PADDING_SHARE = 0.001  # smallest share of the pixels at which a lowest value far below all others is padding


class GreyRange(NamedTuple):
    """Which values of a file with more than 8 bits become black and white, and how they were chosen."""

    kind: str  # params, header, stored bits, depth (of the brightest value) or own range (of the file's values)
    low: float  # becomes black
    high: float  # becomes white
    levels: tuple[float, ...]  # LEVELS quantiles of the file's values, at the middles of equal shares, without padding
    filled: float  # share of the range from the lowest to the highest of the levels, 0 to 1


def grey_range(
    kind: str, window: Window, levels: tuple[float, ...], shown: Callable[[Values], Values] | None = None
) -> GreyRange:
    """Returns a GreyRange, with the share of it that the levels fill.

    Args:
        kind: as in GreyRange.
        window: the values that become black and white.
        levels: the quantiles of the file's values, or ().
        shown: applied to values before the window, such as a lookup table; None: nothing is.

    >>> grey_range("stored bits", (0, 4095), (100, 150, 300, 5000)).filled  # (4095 - 100) / 4095
    0.9756
    """
    low, high = window
    values = np.array([levels or (low,)])
    ends = np.clip(values if shown is None else shown(values), low, high)
    filled = float(np.ptp(ends)) / (high - low) if high > low else 0.0
    return GreyRange(kind, low, high, levels, round(filled, 4))


@dataclass(frozen=True)
class Grey:
    """Grey values [H, W] that are computed block by block from the stored ones."""

    stored: Values  # [H, W], of any type
    compute: Callable[[Values], Values] = lambda stored: stored  # values of a block, element by element
    is_padding: Callable[[Values], NDArray[np.bool_]] | None = None  # mask of stored values' padding; None: no padding

    def blocks(self) -> Iterator[tuple[slice, Values, NDArray[np.bool_] | None]]:
        """Yields blocks of rows: the rows, their values and which of these are padding (None: no value is)."""
        step = max(1, _BLOCK_VALUES // max(1, self.stored.shape[1]))
        for top in range(0, len(self.stored), step):
            rows = slice(top, top + step)
            stored = self.stored[rows]
            padding = None if self.is_padding is None else self.is_padding(stored)
            yield rows, self.compute(stored), padding

    def seen(self) -> Iterator[Values]:
        """Yields the values of each block that are no padding."""
        for _, values, padding in self.blocks():
            visible = values if padding is None else values[~padding]
            if visible.size:
                yield visible


class Extent(NamedTuple):
    """The range of grey values, without padding."""

    low: float
    high: float
    whole: bool  # all are whole numbers


def measure(grey: Grey) -> Extent:
    """Returns the extent of grey values without padding; 0 to 0 if all is padding.

    Raises:
        ImageError: "unsupported" if a value is NaN or infinite.
    """
    low, high, whole = np.inf, -np.inf, True
    for values in grey.seen():
        if not np.isfinite(values).all():
            raise ImageError(
                "unsupported",
                "grey values that are NaN or infinite: save it with numbers in their place, such as the lowest value",
            )
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        whole = whole and (values.dtype.kind in "ui" or bool((values == np.rint(values)).all()))
    return Extent(low, high, whole) if low <= high else Extent(0.0, 0.0, True)


def sample_levels(grey: Grey) -> tuple[float, ...]:
    """Returns LEVELS quantiles of grey values without padding, at the middles of equal shares.

    A regular sample of about _SAMPLE_VALUES pixels is used; () if all of them are padding.
    """
    stored = grey.stored.reshape(-1)
    step = max(1, stored.size // _SAMPLE_VALUES)
    stored = stored[:: step + (step % 3 == 0)]  # a multiple of 3 would meet one channel of colors alone
    if grey.is_padding is not None:
        stored = stored[~grey.is_padding(stored)]
    if not stored.size:
        return ()
    values = grey.compute(stored[None])[0].astype(np.float64)
    return tuple(float(f"{level:.6g}") for level in np.quantile(values, (np.arange(LEVELS) + 0.5) / LEVELS))


def without_undeclared_padding(grey: Grey, extent: Extent) -> Extent:
    """Returns the extent without a lowest value that is padding, although no header declares it.

    Scanners fill what lies beyond the field of view with one value, such as -2000 in a CT. It is taken for padding if
    at least _PADDING_SHARE of the pixels have it, and no other value is closer to it than the range of the others'
    middle 98 %.
    """
    count, second = 0, np.inf
    for values in grey.seen():
        others = values[values != extent.low]
        count += values.size - others.size
        second = min(second, float(others.min()) if others.size else np.inf)
    levels = np.array(sample_levels(grey))
    others = levels[levels != extent.low]
    if count < _PADDING_SHARE * grey.stored.size or not others.size:
        return extent
    middle = np.quantile(others, 0.99) - np.quantile(others, 0.01)
    is_far = second - extent.low > max(middle, 1) and np.isfinite(second)
    return extent._replace(low=second) if is_far else extent


def choose_range(grey: Grey, window: Window | None) -> GreyRange:
    """Returns the range over which a file's grey is scaled: the given window, else the range of its depth.

    Args:
        grey: the values.
        window: `crop.window` of params.yaml, if it is two numbers, or None.

    Raises:
        ImageError: "unsupported" if a value is NaN or infinite, or if there is no window and the values are floats,
            negative or above 65535.
    """
    extent = measure(grey)
    if window is not None:
        return grey_range("params", window, sample_levels(grey))
    if grey.stored.dtype.kind not in "ui" or extent.low < 0 or extent.high > 65535:
        raise ImageError("unsupported", "grey values that are floats, negative or above 65535: set crop.window")
    return grey_range("depth", depth_range(extent.high), sample_levels(grey))


def depth_range(brightest: float) -> Window:
    """Returns 0 and the largest value of the smallest of GREY_DEPTHS that holds the brightest pixel, 65535 at most.

    >>> depth_range(1000), depth_range(1024)
    ((0.0, 1023.0), (0.0, 4095.0))
    """
    return 0.0, float(next(2**bits - 1 for bits in GREY_DEPTHS if brightest < 2**bits))


def scale(grey: Grey, window: Window) -> Pixels:
    """Maps grey values linearly from a window to 0 to 255, uint8[H, W]; values outside are clipped, padding is 0.

    Values are rounded to the nearest integer, halves to the even one.
    """
    low, high = window
    pixels = np.empty(grey.stored.shape, np.uint8)
    for rows, values, padding in grey.blocks():
        if high > low:
            scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        else:
            scaled = np.where(values > low, 255.0, 0.0)
        pixels[rows] = np.rint(scaled.clip(0, 255))
        if padding is not None:
            pixels[rows][padding] = 0
    return pixels


def scale_grey(grey: Values, window: Window | None) -> tuple[Pixels, GreyRange]:
    """Maps grey values linearly from a window to 0 to 255; values outside the window are clipped.

    Args:
        grey: numbers [H, W] of any type.
        window: the values that become 0 and 255. None takes 0 and the largest value of the smallest of GREY_DEPTHS
            that holds the brightest pixel, so that 12-bit data in a 16-bit file is neither black nor clipped.

    Returns:
        uint8[H, W], rounded to the nearest integer, halves to the even one; and the range.

    Raises:
        ImageError: "unsupported" if a value is NaN or infinite, or if there is no window and the values are floats,
            negative or above 65535.

    >>> scale_grey(np.array([[0, 500, 1000]], np.uint16), None)[0]  # 1000 needs 10 bits: 1023 is white
    array([[  0, 125, 249]], dtype=uint8)
    >>> scale_grey(np.array([[-1024, 20, 40, 80, 3071]]), (0, 80))[0]  # a CT's brain window, in Hounsfield units
    array([[  0,  64, 128, 255, 255]], dtype=uint8)
    """
    values = Grey(grey)
    chosen = choose_range(values, window)
    return scale(values, (chosen.low, chosen.high)), chosen


def scale_color(colors: Values, window: Window | None) -> tuple[Pixels, GreyRange]:
    """Scales colors of more than 8 bits as `scale_grey` scales grey, all channels over one range.

    Args:
        colors: numbers [H, W, 3].
        window: the values that become 0 and 255, or None.

    >>> scale_color(np.array([[[0, 500, 1000]]], np.uint16), None)[0]
    array([[[  0, 125, 249]]], dtype=uint8)
    """
    pixels, chosen = scale_grey(colors.reshape(len(colors), -1), window)
    return pixels.reshape(colors.shape), chosen


def scale_visible(values: Values, alpha: Values, crop: Crop) -> tuple[Pixels, GreyRange]:
    """Scales values as `scale_grey` and `scale_color` do and composites them on the background.

    Args:
        values: numbers, grey [H, W] or colors [H, W, 3]; those with alpha 0 are ignored when the range is chosen, and
            become 0 in colors.
        alpha: opacity [H, W], 0 to 1, bool, or uint16 with 65535 for 1.
        crop: `window` and `background` are used.

    Returns:
        uint8[H, W, 3] in RGB, and the range.
    """
    height, width = alpha.shape
    if values.ndim == 3:
        values[alpha == 0] = 0  # in place: a copy of colors would take much memory
    visible = values.reshape(height, -1) if values.ndim == 3 else np.where(alpha > 0, values, 0)
    chosen = choose_range(Grey(visible), crop.fixed_window)
    opaque = 65535 if alpha.dtype.kind == "u" else 1
    background = np.array(crop.background)
    pixels = np.empty((height, width, 3), np.uint8)
    for rows, block, _ in Grey(visible).blocks():
        opacity = alpha[rows, :, None].astype(np.float64) / opaque
        scaled = scale(Grey(block), (chosen.low, chosen.high)).reshape(len(block), width, -1)
        pixels[rows] = np.rint(scaled * opacity + background * (1 - opacity))
    return pixels, chosen


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
