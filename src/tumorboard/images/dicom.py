"""Reads DICOM files with pydicom (the extra `dicom`): the header, and one frame's values as they are to be seen."""

from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop, Frames
from tumorboard.images.grey import Pixels, Window, scale_grey
from tumorboard.images.header import check_size, choose_frame

if TYPE_CHECKING:
    from pydicom import Dataset


_GREY = ("MONOCHROME1", "MONOCHROME2")  # photometric interpretations


class Scan(NamedTuple):
    """A DICOM file's data set and what its header states."""

    dataset: "Dataset"
    width: int  # pixels
    height: int  # pixels
    frames: int
    patient: str  # PatientID, or ""
    inverted: bool  # MONOCHROME1: the lowest value is white


def is_dicom(content: bytes) -> bool:
    """Returns whether a file has the mark of DICOM, "DICM" after a preamble of 128 bytes (PS3.10)."""
    return content[128:132] == b"DICM"


def open_dicom(content: bytes) -> Scan:
    """Reads the header of a DICOM file with pixel data.

    Raises:
        ImageError: "unsupported" without pydicom or for floating-point pixels; "not an image" for a file that states no
            size; "truncated" for one that ends early; "corrupt" for one that pydicom cannot read.
    """
    try:
        from pydicom import dcmread
    except ModuleNotFoundError:
        raise ImageError("unsupported", "DICOM needs pydicom: pip install 'tumorboard[dicom]'") from None
    try:
        dataset = dcmread(BytesIO(content))
        if not dataset:
            raise ImageError("truncated", "the DICOM file ends within its data set")  # which pydicom then drops
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
            frames=int(dataset.get("NumberOfFrames") or 1),
            patient=str(dataset.get("PatientID") or "").strip(),
            inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
        )
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds of errors on damaged bytes
        raise ImageError("corrupt", f"not readable as DICOM: {error}") from error


def decode_dicom(content: bytes, crop: Crop, frames: Frames) -> Pixels:
    """Decodes one frame of a DICOM file to uint8[H, W], or to uint8[H, W, 3] in RGB.

    Grey is scaled over the window of `read_frame`. Without one, whole numbers from 0 to 65535 are scaled by their depth
    as in other files, and all other values over their own range. MONOCHROME1 is inverted.

    Args:
        content: the bytes of the file.
        crop: the limits of size and shape, and `window`.
        frames: the frame to take of a file with several; None refuses such files.

    Raises:
        ImageError: if the file cannot be used as an image.
    """
    scan = open_dicom(content)
    check_size(scan.width, scan.height, crop)
    values, window = read_frame(scan.dataset, choose_frame(scan.frames, frames), crop.window)
    if values.ndim == 3:
        return values
    if window is None:
        if values.min() < 0 or values.max() > 65535 or (values != np.rint(values)).any():
            window = (float(values.min()), float(values.max()))
        else:
            values = values.astype(np.uint16)  # pydicom returns floats even for a slope of 1
    grey = scale_grey(values, window)
    return 255 - grey if scan.inverted else grey


def read_frame(dataset: "Dataset", index: int, window: Window | None) -> tuple[NDArray[Any], Window | None]:
    """Decompresses one frame, rescales its grey values and finds the window to see them through.

    Args:
        dataset: a data set with pixel data.
        index: the frame, counted from 0.
        window: a window in rescaled values, which precedes the header's.

    Returns:
        Colors, uint8[H, W, 3] in RGB, and None; or grey values [H, W] after the Modality LUT or slope and intercept,
        and the window: the given one, else the header's first VOI LUT or window, else the rescaled range of BitsStored,
        else None. An enhanced file states these in its functional groups.

    Raises:
        ImageError: if pydicom cannot decompress the frame, or its colors are neither RGB, YBR nor a palette.

    Source: DICOM PS3.3 C.11.2 (VOI LUT, window) and C.7.6.16 (functional groups).
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    try:
        values = pixel_array(dataset, index=index)
        kind = str(dataset.get("PhotometricInterpretation"))
        if kind == "PALETTE COLOR":
            values, bits = apply_color_lut(values, dataset), int(dataset.RedPaletteColorLookupTableDescriptor[2])
            return (values >> (bits - 8)).astype(np.uint8), None
        if kind not in _GREY:
            return _upper_8_bits(values, int(dataset.BitsStored), kind), None
        rescale = _functional_group(dataset, index, "PixelValueTransformationSequence")
        grey = apply_modality_lut(values, rescale)
        if window is None:
            grey, window = _header_window(grey, _functional_group(dataset, index, "FrameVOILUTSequence"))
        return grey, window or _stored_range(dataset, rescale, grey)
    except ImageError:
        raise
    except RuntimeError as error:
        # pydicom says "missing dependencies" if no decoder is installed; else the installed decoders failed.
        if "missing dependencies" not in str(error):
            raise ImageError("corrupt", str(error)) from error
        name = dataset.file_meta.TransferSyntaxUID.name
        raise ImageError("unsupported", f"no decoder for the transfer syntax {name!r} is installed: {error}") from error
    except Exception as error:  # pydicom raises many kinds of errors on damaged bytes
        raise ImageError("truncated" if "less than expected" in str(error) else "corrupt", str(error)) from error


def _functional_group(dataset: "Dataset", index: int, macro: str) -> "Dataset":
    """Returns a macro's item of an enhanced file, of the frame before the shared one; else the data set itself."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    items: list[Dataset] = [item for group in (*own, *shared) for item in group.get(macro) or []]
    return items[0] if items else dataset


def _header_window(grey: NDArray[Any], dataset: "Dataset") -> tuple[NDArray[Any], Window | None]:
    """Returns grey values and the header's window for them; a VOI LUT or a sigmoid is applied to the values first."""
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return apply_voi(grey, dataset), (0, 2**bits - 1)
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return grey, None
    center, width = (float(np.atleast_1d(dataset[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return expit(4 * (grey - center) / width), (0, 1)
    if function == "LINEAR_EXACT":
        return grey, (center - width / 2, center + width / 2)
    return grey, (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _stored_range(dataset: "Dataset", rescale: "Dataset", grey: NDArray[Any]) -> Window | None:
    """Returns the rescaled range of BitsStored, or None where it is unknown, useless or exceeded by the values.

    It is useless from 16 bits on, which many files with 12-bit data state.
    """
    from pydicom.pixels.processing import apply_modality_lut

    bits = int(dataset.BitsStored)
    if bits >= 16 or rescale.get("ModalityLUTSequence"):
        return None
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    low, high = sorted(float(end) for end in apply_modality_lut(np.array([lowest, lowest + 2**bits - 1]), rescale))
    return (low, high) if low <= grey.min() and grey.max() <= high else None


def _upper_8_bits(values: NDArray[Any], bits: int, kind: str) -> Pixels:
    """Returns the upper 8 of `bits` bits of colors [H, W, 3]."""
    if values.ndim != 3 or values.shape[2] != 3:
        raise ImageError("unsupported", f"photometric interpretation {kind!r}; expected grey, RGB, YBR or palette")
    return (values >> max(bits - 8, 0)).astype(np.uint8)
