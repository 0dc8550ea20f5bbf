"""From the bytes of an image file to a square crop: decode, remove a dark border, scale, cut the center."""

import functools
import math
import re
import struct
import zlib
from io import BytesIO
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from tumorboard import jpeg, png
from tumorboard.dicom import Window, is_dicom, open_dicom, read_frame
from tumorboard.errors import ImageError
from tumorboard.params import Crop, Frames

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
REDUCIBLE = ("JPEG", "MPO")  # can be decoded at a part of their size
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of a directory's values by their kind
# What Pillow's decoders are known to raise on damaged bytes.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

_CACHED_BYTES = 1 << 19  # of an image worked on at a time, which stay in a processor's cache

# decode() holds every file to crop.max_pixels; Pillow's own limit would overrule a larger one.
Image.MAX_IMAGE_PIXELS = None


class Header(NamedTuple):
    """An image file's format, one of FORMATS, 'MPO', 'DICOM' or 'NPY', and its full size when upright."""

    format: str
    width: int
    height: int


def decode(content: bytes, crop: Crop, frames: Frames, side: float | None = None) -> tuple[Pixels, Header]:
    """Decode an image file, upright after its EXIF orientation, to RGB uint8[H, W, 3], or to uint8[H, W] if it is grey.

    It is grey where the three channels are equal, whatever the file calls them. Raises ImageError.

    Reads FORMATS, DICOM (with pydicom) and .npy arrays [H, W] or uint8[H, W, 3]. Transparent pixels are composited on
    `crop.background`. Grey of more than 8 bits is scaled over `crop.window`, else over a DICOM header's window or bits
    stored, else over its own range: the smallest depth that holds its brightest value (8, 10, 12, 14 or 16 bits), so
    that 12-bit data is neither black nor clipped. Size, shape and the number of frames are held against `crop` and
    `frames` by the header, before a pixel is decoded. A truncated file is an error; damage within JPEG data that ends
    properly goes unseen: it has no checksum. docs/quarantine.md has the whole list.

    With a `side`, a JPEG comes as a half, a quarter or an eighth of its size, the smallest whose shorter side has that
    many pixels: libjpeg then transforms fewer frequencies, which averages as it decodes.
    """
    if not content:
        raise ImageError("empty", "the file holds no bytes")
    if is_dicom(content):
        return _with_header("DICOM", _decode_dicom(content, crop, frames))
    try:
        if content.startswith(npy.MAGIC_PREFIX):
            return _with_header("NPY", _decode_array(content, crop))
        image, header = _decode(content, crop, frames, side)
        return _one_channel(image), header
    except UnidentifiedImageError:
        if _SIGNATURE.match(content):
            raise _explain_unopened(content) from None
        raise ImageError("not an image", f"expected one of {', '.join(FORMATS)}, DICOM") from None
    except ImageError:
        raise
    except _DAMAGE as error:
        truncated = "truncated" in str(error).lower() or _ends_early(content)
        raise ImageError("truncated" if truncated else "corrupt", str(error)) from error


def _explain_unopened(content: bytes) -> ImageError:
    """Why Pillow does not open a file with a known signature: it says so of a TIFF alone."""
    if _ends_early(content):
        return ImageError("truncated", "the file ends before the place or the length that its header names")
    try:
        TiffImageFile(BytesIO(content))
    except Exception as error:  # of many kinds, on damaged bytes; and of other formats it is none
        if str(error) == "unknown pixel mode":
            return ImageError("unsupported", "a TIFF whose bits, channels or photometric interpretation Pillow lacks")
    return ImageError("corrupt", "the header is damaged or cut off")


def _ends_early(content: bytes) -> bool:
    """Whether a WebP is shorter than its RIFF header says, or a TIFF than its directory and what that points to."""
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    if not content.startswith((b"II*\0", b"MM\0*")):
        return False
    start = int.from_bytes(content[4:8], order) + 2
    entries = int.from_bytes(content[start - 2 : start], order)
    ends = [start + 12 * entries]
    for entry in range(start, min(ends[0], len(content) - 11), 12):
        kind, count, place = struct.unpack_from("<HII" if order == "little" else ">HII", content, entry + 2)
        size = count * _TIFF_BYTES.get(kind, 1)
        ends.append(place + size if size > 4 else 0)
    return len(content) < max(ends)


def _check_size(width: int, height: int, crop: Crop) -> None:
    if width * height > crop.max_pixels:
        raise ImageError("too many pixels", f"{width} x {height}, expected at most {crop.max_pixels} (crop.max_pixels)")
    if min(width, height) < crop.min_side:
        raise ImageError("too small", f"{width} x {height}, expected sides of {crop.min_side} or more (crop.min_side)")
    if max(width, height) > crop.max_aspect * min(width, height):
        raise ImageError(
            "aspect ratio", f"{width} x {height}, expected at most {crop.max_aspect} to 1 (crop.max_aspect)"
        )


def _choose_frame(count: int, frames: Frames) -> int:
    if count > 1 and frames is None:
        raise ImageError("multi-frame without a rule", f"{count} frames; data.frames may say which to take")
    return count // 2 if frames == "middle" else 0


def _with_header(name: str, pixels: Pixels) -> tuple[Pixels, Header]:
    return _one_channel(pixels), Header(name, pixels.shape[1], pixels.shape[0])


def _decode_array(content: bytes, crop: Crop) -> Pixels:
    stream = BytesIO(content)
    try:
        first = npy.read_magic(stream) == (1, 0)
        shape, _, dtype = npy.read_array_header_1_0(stream) if first else npy.read_array_header_2_0(stream)
    except Exception as error:  # of many kinds, on a damaged header: all of them are told
        raise ImageError("corrupt", f"not readable as .npy: {error}") from error
    color = len(shape) == 3 and shape[2] == 3 and dtype == np.uint8
    if dtype.kind not in "uif" or not (len(shape) == 2 or color):
        raise ImageError("unsupported", f"an array {dtype}{list(shape)}; expected numbers [H, W] or uint8[H, W, 3]")
    _check_size(shape[1], shape[0], crop)
    if len(content) - stream.tell() < math.prod(shape) * dtype.itemsize:
        raise ImageError("truncated", f"the file ends before its array {dtype}{list(shape)} does")
    values = npy.read_array(BytesIO(content), allow_pickle=False)
    return values if values.ndim == 3 else _scale_grey(values, None if values.dtype == np.uint8 else crop.window)


def _decode_dicom(content: bytes, crop: Crop, frames: Frames) -> Pixels:
    scan = open_dicom(content)
    _check_size(scan.width, scan.height, crop)
    values, window = read_frame(scan.dataset, _choose_frame(scan.frames, frames), crop.window)
    if values.ndim == 3:
        return values
    if window is None:
        if values.min() < 0 or values.max() > 65535 or (values != np.rint(values)).any():
            window = (float(values.min()), float(values.max()))
        else:
            values = values.astype(np.uint16)  # a slope of 1 makes floats of them
    grey = _scale_grey(values, window)
    return 255 - grey if scan.inverted else grey


def _decode(content: bytes, crop: Crop, frames: Frames, side: float | None) -> tuple[Pixels, Header]:
    picture = Image.open(BytesIO(content), formats=FORMATS)  # reads the header alone
    _check_size(picture.width, picture.height, crop)
    compressed = png.check_chunks(content) if picture.format == "PNG" else []
    if picture.format == "GIF" and not content.rstrip(b"\0\r\n").endswith(b";"):
        raise ImageError("truncated", "the GIF ends before its trailer")
    # The further frames of a multi-picture JPEG (MPO) are previews and other views of its first one.
    frame = 0 if picture.format == "MPO" else _choose_frame(getattr(picture, "n_frames", 1), frames)
    picture.seek(frame)
    if frame:
        _check_size(picture.width, picture.height, crop)  # the pages of a TIFF need not be of one size
    plain = picture.mode in ("L", "RGB") and not picture.has_transparency_data and not frame
    if picture.format in ("JPEG", "MPO", "PNG") and plain:
        grey = picture.mode == "L" or (picture.format in REDUCIBLE and jpeg.is_surely_grey(content))
        flags = _reduction(picture, side) | (cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if pixels is not None:
            return pixels, _read_header(picture, pixels)  # type: ignore[return-value]
    if picture.format == "PNG":
        png.check_rows(content, compressed)
        png.check_key(content, picture)
    if picture.format == "PNG" and png.is_deep_grey_alpha(content) and not frame:
        values = png.read_deep_grey_alpha(content)
        pixels = _scale_visible(values[..., 0], values[..., 1] / 65535, crop)
    else:
        pixels = _decode_with_pillow(picture, crop)
    return pixels, _read_header(picture, pixels)


def _read_header(picture: Image.Image, pixels: Any) -> Header:
    """The header of an opened file, given what was decoded of it: that is upright, but may be smaller."""
    height, width = pixels.shape[:2]
    if picture.format in REDUCIBLE:
        turned = (picture.width < picture.height) != (width < height)
        width, height = picture.size[::-1] if turned else picture.size
    return Header(picture.format or "", width, height)


def _reduction(picture: Image.Image, side: float | None) -> int:
    """OpenCV's flag for decoding a JPEG at an eighth, a quarter or a half with `side` pixels left; 0 for full size."""
    small, large = sorted(picture.size)
    # The coloured reductions give BGR; the grey ones give RGB where that is asked for beside them.
    for factor, flag in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        # Sides stay unequal, so that _read_header sees which is which.
        distinct = small == large or -(-small // factor) < -(-large // factor)
        if side and picture.format in REDUCIBLE and small >= factor * side and distinct:
            return flag
    return 0


def decode_for_crop(content: bytes, crop: Crop, frames: Frames) -> tuple[Pixels, Header]:
    """Decode an image file as `decode` does, halved as often as crop.scaled_decoding allows.

    JPEGs are halved in the decoder, the others by averaging blocks, so that a border is sought at one scale whatever
    the format. With one to be removed twice as many pixels are kept. Raises ImageError.
    """
    side = None
    if crop.scaled_decoding is not None:
        side = crop.scaled_decoding * crop.side * (2 if crop.border else 1)
    image, header = decode(content, crop, frames, side)
    return _halve(image, side), header


def _halve(image: Pixels, side: float | None) -> Pixels:
    """Average blocks of 2, 4, 8 ... pixels a side, the largest that leave the shorter side `side` pixels."""
    shorter = min(image.shape[:2])
    return image if side is None or shorter < 2 * side else _average(image, 2 ** int(math.log2(shorter / side)))


def _average(image: Pixels, factor: int) -> Pixels:
    """The averages of blocks of factor x factor pixels; the last pixels of sides that it does not divide stay out."""
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: rows * factor, : columns * factor]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _decode_with_pillow(picture: Image.Image, crop: Crop) -> Pixels:
    """What OpenCV cannot read, or will not: then Pillow's error says why."""
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        values = np.asarray(upright)
        if "transparency" in upright.info:
            return _scale_visible(values, values != upright.info["transparency"], crop)
        grey = _scale_grey(values, crop.window)
        white_is_zero = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0
        return 255 - grey if white_is_zero else grey  # Pillow does so for 8 bits or less
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*crop.background, 255)), layer)
    return np.array(upright.convert("RGB"))


def _scale_visible(grey: NDArray[Any], alpha: NDArray[Any], crop: Crop) -> Pixels:
    """Grey values [H, W] scaled as far as they are visible, composited on the background by alpha [H, W], 0 to 1."""
    pixels = _scale_grey(np.where(alpha > 0, grey, 0), crop.window)[..., None]
    share = alpha[..., None].astype(np.float64)
    return np.rint(pixels * share + np.array(crop.background) * (1 - share)).astype(np.uint8)


def _scale_grey(grey: NDArray[Any], window: Window | None) -> Pixels:
    """Grey values [H, W] of any depth as uint8[H, W]: `window` becomes 0 to 255, what lies outside is cut off."""
    if not np.isfinite(grey).all():
        raise ImageError("unsupported", "grey values that are no numbers (NaN) or infinite")
    if window is None:
        brightest = float(grey.max())
        if grey.dtype.kind not in "ui" or grey.min() < 0 or brightest > 65535:
            raise ImageError(
                "unsupported", "floating-point grey, or below 0 or above 65535: only crop.window can say its range"
            )
        window = (0, next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if brightest < 2**bits))
    low, high = window
    scaled = (grey.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.where(grey > low, 255.0, 0.0)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)  # type: ignore[no-any-return]


def _one_channel(image: Pixels) -> Pixels:
    """The channel uint8[H, W] of uint8[H, W, 3] whose three are equal, a third of the work; others as they are."""
    middle = image[len(image) // 2]
    if image.ndim == 2 or (middle != middle[:, :1]).any():
        return image  # most coloured pictures, at the cost of a row
    found = np.empty(image.shape[:2], np.uint8)
    step = max(1, _CACHED_BYTES // (3 * image.shape[1]))
    for top in range(0, len(image), step):
        red, green, blue = cv2.split(image[top : top + step])
        if cv2.norm(red, green, cv2.NORM_INF) or cv2.norm(red, blue, cv2.NORM_INF):
            return image
        found[top : top + step] = red
    return found


def three_channels(image: Pixels) -> Pixels:
    """An image uint8[H, W] or uint8[H, W, 3] as uint8[H, W, 3]."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image  # type: ignore[return-value]


def remove_border(image: Pixels, threshold: int, tolerance: float) -> Pixels:
    """Cut away the dark rows and columns at the four sides; returns a view of uint8[H, W] or uint8[H, W, 3].

    A row or column is dark while at most the share `tolerance` of its pixels has a channel above `threshold`. An image
    that is dark throughout stays whole.
    """
    brightest = image if image.ndim == 2 else functools.reduce(cv2.max, cv2.split(image))
    bright = cv2.threshold(brightest, threshold, 1, cv2.THRESH_BINARY)[1]
    height, width = bright.shape
    in_row, in_column = (cv2.reduce(bright, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for axis in (1, 0))
    rows = np.flatnonzero(in_row / width > tolerance)
    columns = np.flatnonzero(in_column / height > tolerance)
    if not rows.size or not columns.size:
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def crop_image(image: Pixels, crop: Crop) -> Pixels:
    """The center square uint8[S, S, 3] of a decoded image, S = crop.side; first without its border if crop.border."""
    if crop.border:
        image = remove_border(image, crop.border_threshold, crop.border_tolerance)
    return three_channels(center_square(image, crop.side))


def center_square(image: Pixels, size: int) -> Pixels:
    """The center square of uint8[H, W] or uint8[H, W, 3] scaled to uint8[size, size] or uint8[size, size, 3].

    It is cut out before it is scaled, so that a long strip costs no more than its square. Interpolation is bilinear,
    and antialiased where it shrinks: even sides are halved by averages while that leaves `size` pixels, then comes a
    blur whose variance, (s^2 - 1) / 6 where s pixels become one, makes bilinear interpolation's triangle as wide as
    that of Pillow's and torchvision's resizing. In OpenCV this takes a third of the time of averaging over areas
    (INTER_AREA), and comes closer to theirs.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    while side >= 2 * size and side % 2 == 0:  # which is exact, and fast
        side //= 2
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    how = cv2.INTER_LINEAR if side < 4 * size else cv2.INTER_AREA  # beyond, the blur would take longer than areas
    if size < side < 4 * size:
        square = _blur(square, ((side / size) ** 2 - 1) / 6)
    return cv2.resize(square, (size, size), interpolation=how)  # type: ignore[return-value]


def _blur(image: Pixels, variance: float) -> Pixels:
    """Blur by a Gaussian of this variance in square pixels; of a narrow one three samples that have it."""
    if variance <= 0.5:
        kernel, sigma = 3, math.sqrt(-0.5 / math.log(variance / 2 / (1 - variance)))
    else:
        sigma = math.sqrt(variance)
        kernel = 2 * math.ceil(2.5 * sigma - 0.5) + 1
    return cv2.GaussianBlur(image, (kernel, kernel), sigma)  # type: ignore[return-value]
