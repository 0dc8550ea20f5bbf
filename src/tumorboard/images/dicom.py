"""Reads DICOM files with pydicom (the extra `dicom`): the header, and one frame's values as they are displayed."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop, Frames
from tumorboard.images.dicom_file import open_dataset
from tumorboard.images.dicom_frame import is_compressed, read_stored_frame
from tumorboard.images.dicom_lut import read_palette, read_table
from tumorboard.images.dicom_pixel_shape import check_square_size, make_square, read_pixel_aspect, square_stretch
from tumorboard.images.grey import (
    Extent,
    Grey,
    GreyRange,
    Pixels,
    Values,
    Window,
    choose_range,
    depth_range,
    grey_range,
    measure,
    sample_levels,
    scale,
    without_undeclared_padding,
)
from tumorboard.images.header import Header, choose_frame

if TYPE_CHECKING:
    from pydicom import Dataset


_BIT_RANGES = ("depth", "stored bits")  # kinds of a GreyRange; over 0 to 255 they leave 8-bit values unchanged
# Photometric interpretations: grey, and those that pydicom returns in RGB.
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_NEUTRAL = {"RescaleSlope": "1", "RescaleIntercept": "0"}  # values that change nothing


class Scan(NamedTuple):
    """A DICOM file's data set and what its header states."""

    dataset: "Dataset"
    width: int  # pixels
    height: int  # pixels
    frames: int
    patient: str  # PatientID, or ""
    inverted: bool  # MONOCHROME1: the lowest value is white


def open_dicom(content: bytes, max_bytes: int | None = None) -> Scan:
    """Reads the header of a DICOM file with pixel data.

    Args:
        content: the bytes of the file.
        max_bytes: the largest data set that a deflated file may hold, in bytes; None: any.

    Raises:
        ImageError: "unsupported" without pydicom or for floating-point pixels; "not an image" for a file that states no
            size; "truncated" for one that ends early; "corrupt" for one that pydicom cannot read; "too many bytes" for
            one that inflates to more than `max_bytes`.
    """
    try:
        dataset = open_dataset(content, max_bytes)
        if not dataset:
            raise ImageError("truncated", "the DICOM file ends within its data set")  # pydicom then drops it
        if "Rows" not in dataset or "Columns" not in dataset:
            raise ImageError("not an image", "DICOM without rows and columns: a report, a directory, a cut header")
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ImageError("unsupported", "DICOM with floating-point pixel data")
        if "PixelData" not in dataset:
            # pydicom drops a last element that ends too early.
            raise ImageError("truncated", "the DICOM file has no pixel data, or ends within it")
        return Scan(
            dataset,
            width=int(dataset.Columns),
            height=int(dataset.Rows),
            frames=_count_frames(dataset),
            patient=str(dataset.get("PatientID") or "").strip(),
            inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
        )
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds of errors on damaged bytes
        raise ImageError("corrupt", f"not readable as DICOM: {error}") from error


def _count_frames(dataset: "Dataset") -> int:
    """Returns the number of frames; adds it to a data set that does not state it but holds several frames' pixels."""
    if dataset.get("NumberOfFrames"):
        return int(dataset.NumberOfFrames)
    values = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
    frame_bytes = values * int(dataset.get("BitsAllocated") or 0) // 8
    if not frame_bytes or is_compressed(dataset.file_meta.get("TransferSyntaxUID")):
        return 1
    frames, rest = divmod(len(dataset.PixelData), frame_bytes)
    if frames < 2 or rest > 1:  # one byte may pad an odd length
        return 1
    dataset.NumberOfFrames = frames
    return frames


def decode_dicom(content: bytes, crop: Crop, frames: Frames) -> tuple[Pixels, Header]:
    """Decodes one frame of a DICOM file to uint8[H, W], or to uint8[H, W, 3] in RGB.

    Grey is scaled over `crop.window`, else the header's first VOI LUT or window, else the rescaled range of BitsStored.
    Without any of these, whole numbers from 0 to 65535 are scaled by their depth as in other files, and all other
    values over their own range. Colors of more than 8 bits are scaled over `crop.window`, else BitsStored, else their
    depth. MONOCHROME1 is inverted. Pixel padding is in no range, and black. Pixels that are not
    square are resampled.

    Args:
        content: the bytes of the file.
        crop: the limits of size and shape, and `window`.
        frames: the frame to take of a file with several; None refuses such files.

    Returns:
        The pixels, and the Header with the size as stored, the stretch to square pixels, libjpeg's warning, and the
        range of values of more than 8 bits; it is None for palettes and for 8 bits that nothing rescales.

    Raises:
        ImageError: if the file cannot be used as an image.
    """
    scan = open_dicom(content, crop.max_bytes)
    try:
        index = choose_frame(scan.frames, frames)
        aspect = read_pixel_aspect(scan.dataset, _functional_group(scan.dataset, index, "PixelMeasuresSequence"))
        stretch = square_stretch(scan.width, scan.height, aspect)
        check_square_size(scan.width, scan.height, stretch, crop)
        stored, warning = read_stored_frame(scan.dataset, index, width=scan.width, height=scan.height, crop=crop)
        pixels, grey = _read_displayed(scan, stored, index, crop.fixed_window)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds of errors on damaged headers
        raise ImageError("corrupt", str(error)) from error
    return make_square(pixels, stretch), Header("DICOM", scan.width, scan.height, grey, warning, stretch)


def _read_displayed(scan: Scan, stored: Values, index: int, window: Window | None) -> tuple[Pixels, GreyRange | None]:
    """Returns the pixels of one frame as they are displayed, and their range, as `decode_dicom` explains."""
    kind = str(scan.dataset.get("PhotometricInterpretation"))
    if kind not in _GREY:
        return _read_colors(stored, scan.dataset, kind, window)
    grey, chosen = choose_dicom_range(scan.dataset, stored, index, window)
    pixels = scale(grey, (chosen.low, chosen.high))
    if scan.inverted:
        for rows, _, padding in Grey(stored, is_padding=grey.is_padding).blocks():
            pixels[rows] = 255 - pixels[rows] if padding is None else np.where(padding, 0, 255 - pixels[rows])
    is_plain = stored.dtype.itemsize == 1 and chosen.kind in _BIT_RANGES and (chosen.low, chosen.high) == (0, 255)
    return pixels, None if is_plain else chosen


def choose_dicom_range(dataset: "Dataset", stored: Values, index: int, window: Window | None) -> tuple[Grey, GreyRange]:
    """Returns the grey values of a frame as they are to be displayed, and the range that becomes black to white.

    Args:
        dataset: the data set of the frame.
        stored: the decompressed frame [H, W].
        index: number of the frame, counted from 0. An enhanced file states window and rescaling per frame.
        window: the window in rescaled values, in place of the header's; None: the header's, else a range of the values.

    Source: DICOM PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT, window), C.7.6.16 (functional groups) and C.7.5.1.1.2
    (pixel padding).
    """
    rescaling = _functional_group(dataset, index, "PixelValueTransformationSequence")
    rescale = _rescaling(rescaling)
    grey = Grey(stored, rescale, _padding_test(dataset))
    extent = measure(grey)
    visible, trimmed = _without_undeclared_padding(grey, extent)
    levels = sample_levels(visible)
    if window is not None:
        return grey, grey_range("params", window, levels)
    look, shown = _header_window(_functional_group(dataset, index, "FrameVOILUTSequence"))
    if shown is not None:
        seen = grey if look is None else Grey(stored, lambda block: look(rescale(block)), grey.is_padding)
        return seen, grey_range("header", shown, levels, look)
    is_table = bool(rescaling.get("ModalityLUTSequence"))
    if bits := None if is_table else _stored_range(dataset, rescale, extent):
        return grey, grey_range("stored bits", bits, levels)
    if extent.low >= 0 and extent.high <= 65535 and extent.whole:
        return grey, grey_range("depth", depth_range(extent.high), levels)
    return visible, grey_range("own range", (trimmed.low, trimmed.high), levels)


def _rescaling(rescaling: "Dataset") -> Callable[[Values], Values]:
    """Returns the function from stored to rescaled values: a Modality LUT, or slope and intercept."""
    from pydicom.pixels.processing import apply_modality_lut

    if rescaling.get("ModalityLUTSequence"):
        return read_table(rescaling.ModalityLUTSequence[0], "Modality LUT").look_up
    _complete_rescaling(rescaling)
    return partial(apply_modality_lut, ds=rescaling)


def _complete_rescaling(rescaling: "Dataset") -> None:
    """Sets slope and intercept where one of them is missing or stated without a value, since pydicom applies pairs.

    Raises:
        ImageError: "corrupt" if one of them is no number.
    """
    for tag, neutral in _NEUTRAL.items():
        stated = rescaling.get(tag)
        if stated in (None, ""):
            if any(other in rescaling for other in _NEUTRAL):
                setattr(rescaling, tag, neutral)
            continue
        try:
            float(stated)
        except (TypeError, ValueError):
            raise ImageError("corrupt", f"{tag} {str(stated)!r} is no number: correct it in the header") from None


def _without_undeclared_padding(grey: Grey, extent: Extent) -> tuple[Grey, Extent]:
    """Returns grey values and their extent without padding that the header does not declare; see `images.grey`."""
    if grey.is_padding is not None or extent.low >= 0:
        return grey, extent
    trimmed = without_undeclared_padding(grey, extent)
    if trimmed == extent:
        return grey, extent
    return Grey(grey.stored, grey.compute, lambda stored: grey.compute(stored) < trimmed.low), trimmed


def _padding_test(dataset: "Dataset") -> Callable[[Values], NDArray[np.bool_]] | None:
    """Returns the test for stored values that the header declares as padding; None if it declares none."""
    first = dataset.get("PixelPaddingValue")
    if first is None or first == "":
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(int(end), dataset) for end in (first, first if last is None or last == "" else last)]
    low, high = min(ends), max(ends)
    return lambda stored: (stored >= low) & (stored <= high)


def _as_stored(value: int, dataset: "Dataset") -> int:
    """Returns a padding value, signed if the stored values are: files often state 63536 for -2000 and the reverse.

    >>> from types import SimpleNamespace
    >>> _as_stored(63536, SimpleNamespace(PixelRepresentation=1, BitsAllocated=16))
    -2000
    """
    bits: int = int(dataset.BitsAllocated)
    span = 1 << bits
    if dataset.PixelRepresentation and value >= span // 2:
        return value - span
    return value + span if not dataset.PixelRepresentation and value < 0 else value


def _functional_group(dataset: "Dataset", index: int, macro: str) -> "Dataset":
    """Returns a macro's item of an enhanced file, the frame's own, else the shared one, else the data set itself."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    items: list[Dataset] = [item for group in (*own, *shared) for item in group.get(macro) or []]
    return items[0] if items else dataset


def _header_window(dataset: "Dataset") -> tuple[Callable[[Values], Values] | None, Window | None]:
    """Returns the header's window, and the function to apply to grey values before it: a VOI LUT or a sigmoid."""
    if dataset.get("VOILUTSequence"):
        table = read_table(dataset.VOILUTSequence[0], "VOI LUT")
        return table.look_up, (0, table.white)
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None, None
    stated = [str(np.atleast_1d(dataset[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth")]
    try:
        center, width = map(float, stated)
    except ValueError:
        raise ImageError(
            "corrupt", f"window center {stated[0]!r} and width {stated[1]!r} are no numbers: set crop.window"
        ) from None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if width < (1 if function == "LINEAR" else np.finfo(float).tiny):  # PS3.3 forbids it; it would show two levels
        return None, None
    if function == "SIGMOID":
        from scipy.special import expit  # few files need it, and it is no part of the smallest environment

        return lambda grey: expit(4 * (grey - center) / width), (0, 1)
    if function == "LINEAR_EXACT":
        return None, (center - width / 2, center + width / 2)
    return None, (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _stored_range(dataset: "Dataset", rescale: Callable[[Values], Values], extent: Extent) -> Window | None:
    """Returns the rescaled range of BitsStored, or None where it is unknown, useless or exceeded by the values.

    It is useless from 16 bits on, since many files with 12-bit data state 16 bits.
    """
    bits = int(dataset.BitsStored)
    if bits >= 16:
        return None
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    low, high = sorted(float(end) for end in rescale(np.array([lowest, lowest + 2**bits - 1])))
    return (low, high) if low <= extent.low and extent.high <= high else None


def _read_colors(
    values: Values, dataset: "Dataset", kind: str, window: Window | None
) -> tuple[Pixels, GreyRange | None]:
    """Returns colors as uint8[H, W, 3] in RGB, and their range if they have more than 8 bits and no palette."""
    if kind == "PALETTE COLOR" and values.ndim == 2:
        palette, first = read_palette(dataset)
        values = palette[(values.astype(np.int32) - first).clip(0, len(palette) - 1)]
    if kind not in (*_COLORS, "PALETTE COLOR") or values.ndim != 3 or values.shape[2] != 3:
        raise ImageError("unsupported", f"photometric interpretation {kind!r}; expected grey, RGB, YBR_FULL or palette")
    if values.dtype.itemsize == 1:
        return values.astype(np.uint8), None
    flat = Grey(values.reshape(len(values), -1))
    chosen = choose_range(flat, window)
    if window is None and (bits := _stored_range(dataset, flat.compute, measure(flat))):
        chosen = grey_range("stored bits", bits, chosen.levels)
    return scale(flat, (chosen.low, chosen.high)).reshape(values.shape), chosen
