"""Decodes image files of every supported format to upright 8-bit pixels, or reports why a file cannot be used."""

import math
import re
import struct
import zlib
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGEDESCRIPTION, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop, Frames
from tumorboard.images import deep_color, jpeg, pgm, png, tiff
from tumorboard.images.decoder_messages import catching_messages, check_messages
from tumorboard.images.dicom import decode_dicom
from tumorboard.images.dicom_file import is_dicom
from tumorboard.images.formats import FORMATS, HEAD_BYTES, check_whole_slide, explain_foreign, whole_slide
from tumorboard.images.frames import check_frame_count, check_passed_frames
from tumorboard.images.grey import GreyRange, Pixels, one_channel_if_grey, scale_color, scale_grey, scale_visible
from tumorboard.images.header import Header, check_size, choose_frame

_BAND_PIXELS = 1 << 20  # pixels that Pillow converts at a time
_JPEG_FORMATS = ("JPEG", "MPO")  # multi-picture files (MPO) hold JPEGs
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|II[*+]\0|MM\0[*+]|RIFF....WEBP", re.DOTALL)
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes per value by the entry's type; others have 1
_DAMAGE_ERRORS = (  # errors that Pillow's decoders raise on damaged bytes
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
_REDUCTIONS = (  # factor, and OpenCV's flag for it; the flags for color return BGR even where RGB is requested
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)

# decode() checks every file against crop.max_pixels; Pillow's own limit would overrule a larger one.
Image.MAX_IMAGE_PIXELS = None


def decode(content: bytes, crop: Crop, frames: Frames, least_side: float | None = None) -> tuple[Pixels, Header]:
    """Decodes an image file to upright 8-bit pixels.

    Reads FORMATS, DICOM (with pydicom) and .npy arrays, numbers [H, W] or uint8[H, W, 3]. Limits of size, shape and
    number of frames are checked against the header, before any pixel is decoded. The EXIF orientation is applied, and
    transparent pixels are composited on `crop.background`. DICOM pixels that are not square are made so. Grey and
    colors of more than 8 bits are scaled over `crop.window`; without it over a DICOM header's window or stored bits;
    without these by their depth (`scale_grey`).
    docs/quarantine.md lists all formats and reasons.

    Args:
        content: the bytes of the file.
        crop: the limits, `background` and `window`.
        frames: the frame to take of a file with several; None refuses such files.
        least_side: decodes a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest at which the shorter side has this many
            pixels: libjpeg then transforms fewer frequencies, which averages pixels. None decodes at full size.

    Returns:
        The pixels and the Header with the file's full size. The pixels are uint8[H, W] if the three channels are equal,
        whatever color type the file states, else uint8[H, W, 3] in RGB.

    Raises:
        ImageError: if the file cannot be used as an image; `reason` is the cause. Damage inside a JPEG that ends
            properly is detected only where libjpeg reports it, because JPEG has no checksum.
    """
    if not content:
        raise ImageError("empty", "the file has no bytes")
    if len(content) > crop.max_bytes:
        raise too_many_bytes(len(content), crop)
    try:
        pixels, header = _decode_any(content, crop, frames, least_side)
        return one_channel_if_grey(pixels), header
    except (MemoryError, cv2.error) as error:
        if isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem:
            lower = "memory ran out while it was decoded: lower crop.max_pixels"
            raise ImageError("not enough memory", lower) from None
        raise ImageError("corrupt", f"OpenCV cannot decode it: {' '.join(str(error).split())}") from error


def too_many_bytes(size: int, crop: Crop) -> ImageError:
    """Returns the error for a file that has more bytes than `crop.max_bytes`.

    Args:
        size: bytes of the file.
        crop: section `crop` of params.yaml.
    """
    return ImageError("too many bytes", f"{size} bytes, expected at most {crop.max_bytes} (crop.max_bytes)")


def _decode_any(content: bytes, crop: Crop, frames: Frames, least_side: float | None) -> tuple[Pixels, Header]:
    try:
        if is_dicom(content):
            return decode_dicom(content, crop, frames)
        if content.startswith(npy.MAGIC_PREFIX):
            pixels, grey = _decode_npy(content, crop)
            return pixels, Header("NPY", pixels.shape[1], pixels.shape[0], grey)
        return _decode_picture(content, crop, frames, least_side)
    except UnidentifiedImageError:
        if _SIGNATURE.match(content):
            raise _explain_unopened(content) from None
        raise explain_foreign(content[:HEAD_BYTES]) from None
    except ImageError:
        raise
    except _DAMAGE_ERRORS as error:
        is_truncated = "truncated" in str(error).lower() or _ends_early(content)
        raise ImageError("truncated" if is_truncated else "corrupt", str(error)) from error


def _decode_npy(content: bytes, crop: Crop) -> tuple[Pixels, GreyRange | None]:
    """Decodes a .npy file; its header is checked before its values are read."""
    stream = BytesIO(content)
    try:
        is_version_1 = npy.read_magic(stream) == (1, 0)
        shape, _, dtype = npy.read_array_header_1_0(stream) if is_version_1 else npy.read_array_header_2_0(stream)
    except Exception as error:  # numpy raises many kinds of errors on a damaged header
        raise ImageError("corrupt", f"not readable as .npy: {error}") from error
    is_color = len(shape) == 3 and shape[2] == 3 and dtype == np.uint8
    if dtype.kind not in "uif" or not (len(shape) == 2 or is_color):
        raise ImageError("unsupported", f"an array {dtype}{list(shape)}; expected numbers [H, W] or uint8[H, W, 3]")
    check_size(shape[1], shape[0], crop)
    if len(content) - stream.tell() < math.prod(shape) * dtype.itemsize:
        raise ImageError("truncated", f"the file ends inside its array {dtype}{list(shape)}")
    values = npy.read_array(BytesIO(content), allow_pickle=False)
    return (values, None) if values.dtype == np.uint8 else scale_grey(values, crop.fixed_window)


def _decode_picture(content: bytes, crop: Crop, frames: Frames, least_side: float | None) -> tuple[Pixels, Header]:
    """Decodes a file of FORMATS: plain JPEGs and PNGs with OpenCV, which is faster, all others with Pillow."""
    picture = Image.open(BytesIO(content), formats=FORMATS)  # reads the header only
    check_size(picture.width, picture.height, crop)
    compressed = png.check_chunks(content) if picture.format == "PNG" else []
    if picture.format == "GIF" and not content.rstrip(b"\0\r\n").endswith(b";"):
        raise ImageError("truncated", "the GIF ends before its trailer")
    if isinstance(picture, TiffImageFile):
        check_whole_slide(picture.tag_v2.get(IMAGEDESCRIPTION))
    # The other frames of a multi-picture JPEG (MPO) are previews or other views of the first one.
    frame = 0
    if picture.format != "MPO":
        check_frame_count(picture, content)
        frame = choose_frame(getattr(picture, "n_frames", 1), frames)
    check_passed_frames(picture, frame, crop.max_pixels)
    picture.seek(frame)
    if frame:
        check_size(picture.width, picture.height, crop)  # the pages of a TIFF may differ in size
    warning = ""
    is_jpeg, is_plain = picture.format in _JPEG_FORMATS, picture.mode in ("L", "RGB") and not frame
    is_plain = is_plain and png.TEXT_EXIF not in picture.info  # only Pillow reads it
    if is_jpeg:
        jpeg.check_scans(content, picture.width * picture.height, crop.max_pixels)
    if picture.format == "PNG":
        png.check_excess(content, compressed)
    if is_plain and (is_jpeg or picture.format == "PNG") and not picture.has_transparency_data:
        pixels, warning = _decode_with_opencv(content, picture, least_side)
        if pixels is not None:
            pixels, grey = (pixels, None) if pixels.dtype == np.uint8 else scale_color(pixels, crop.fixed_window)
            return pixels, _read_header(picture, pixels, grey, warning)
    elif is_jpeg:
        warning = jpeg.check_decoding(content)
    if picture.format == "PNG":
        png.check_rows(content, compressed)
        png.check_transparent_color(content, picture)
        png.stretch_transparent_value(content, picture)
    if picture.format == "PNG" and png.is_deep_grey_alpha(content) and not frame:
        values = png.read_deep_grey_alpha(content)
        pixels, grey = scale_visible(values[..., 0], values[..., 1], crop)
    else:
        pixels, grey = _decode_with_pillow(picture, content, crop)
    return pixels, _read_header(picture, pixels, grey, warning)


def _decode_with_opencv(content: bytes, picture: Image.Image, least_side: float | None) -> tuple[Any, str]:
    """Decodes a JPEG or PNG, opened as `picture`, upright; None if OpenCV cannot. Also returns a warning, or ''.

    Colors of a PNG of 16 bits are uint16[H, W, 3], all other pixels uint8.
    """
    if picture.format == "PNG":
        flags = cv2.IMREAD_GRAYSCALE if picture.mode == "L" else cv2.IMREAD_COLOR_RGB
        if deep_color.is_deep_color(picture):
            flags |= cv2.IMREAD_ANYDEPTH
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags), ""
    is_grey = picture.mode == "L" or jpeg.header_proves_grey(content)
    flags = _reduction(picture, least_side) | (cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR_RGB)
    with catching_messages() as messages:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    return pixels, check_messages(messages)


def _reduction(picture: Image.Image, least_side: float | None) -> int:
    """Returns OpenCV's flag for the smallest size of a JPEG with `least_side` pixels; 0 means full size."""
    shorter, longer = sorted(picture.size)
    for factor, flag in _REDUCTIONS:
        # Unequal sides stay unequal, so that _read_header recognizes a turned picture.
        stays_distinct = shorter == longer or -(-shorter // factor) < -(-longer // factor)
        if least_side and picture.format in _JPEG_FORMATS and shorter >= factor * least_side and stays_distinct:
            return flag
    return 0


def _decode_with_pillow(picture: Image.Image, content: bytes, crop: Crop) -> tuple[Pixels, GreyRange | None]:
    """Decodes an opened picture upright; where that fails, Pillow's error has the cause."""
    if isinstance(picture, TiffImageFile):
        tiff.check_planes(picture)
        tiff.restore_palette(picture)
    if deep_color.is_deep_color(picture):
        colors, alpha = deep_color.read_deep_color(picture, content)
        return scale_color(colors, crop.fixed_window) if alpha is None else scale_visible(colors, alpha, crop)
    largest = pgm.largest_value(picture)
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")) or tiff.has_signed_bytes(picture):
        values = tiff.restore_sign(pgm.restore_values(np.asarray(picture), largest), picture)
        if "transparency" in picture.info:
            return scale_visible(values, values != picture.info["transparency"], crop)
        grey, chosen = scale_grey(values, crop.fixed_window)
        is_white_zero = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0
        return 255 - grey if is_white_zero else grey, chosen  # up to 8 bits Pillow inverts by itself
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    step = max(1, _BAND_PIXELS // picture.width)
    for top in range(0, picture.height, step):  # in bands, because each conversion makes a copy
        band = picture.crop((0, top, picture.width, min(top + step, picture.height)))
        if band.has_transparency_data:
            layer = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", layer.size, (*crop.background, 255)), layer)
        pixels[top : top + step] = np.asarray(band.convert("RGB"))
    return pixels, None


def _read_header(picture: Image.Image, pixels: Any, grey: GreyRange | None = None, warning: str = "") -> Header:
    """Returns the header of an opened file whose decoded pixels are upright and may be reduced."""
    height, width = pixels.shape[:2]
    if picture.format in _JPEG_FORMATS:
        shorter, longer = sorted(picture.size)
        width, height = (shorter, longer) if width < height else (longer, shorter)
    return Header(picture.format or "", width, height, grey, warning)


def _explain_unopened(content: bytes) -> ImageError:
    """Returns the error for a file with a known signature that Pillow does not open; Pillow explains TIFFs only."""
    if _ends_early(content):
        return ImageError("truncated", "the file ends before an offset or a length that its header states")
    if content.startswith((b"II", b"MM")) and b"Aperio" in content:
        return whole_slide()
    if kind := jpeg.name_foreign_kind(content):
        return ImageError("unsupported", f"{kind}: save it as PNG, with the program that wrote it")
    try:
        TiffImageFile(BytesIO(content))
    except Exception as error:  # many kinds: for damaged bytes, and for a file that is no TIFF
        if kind := tiff.name_unread_kind(content, str(error)):
            return ImageError("unsupported", kind)
    return ImageError("corrupt", "the header is damaged or cut off")


def _ends_early(content: bytes) -> bool:
    """Returns whether a WebP is shorter than its RIFF header states, or a TIFF than its directory and its values."""
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    if not content.startswith((b"II*\0", b"MM\0*")):
        return False
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    start = int.from_bytes(content[4:8], order) + 2
    entries = int.from_bytes(content[start - 2 : start], order)
    ends = [start + 12 * entries]
    for entry in range(start, min(ends[0], len(content) - 11), 12):
        kind, count, offset = struct.unpack_from("<HII" if order == "little" else ">HII", content, entry + 2)
        size = count * _TIFF_BYTES.get(kind, 1)
        ends.append(offset + size if size > 4 else 0)  # values of up to 4 bytes stand in the entry itself
    return len(content) < max(ends)
