"""DICOM files, read by pydicom (the extra `dicom`): what the header says, and the values of one frame."""

from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tumorboard.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

Window = tuple[float, float]

_GREY = ("MONOCHROME1", "MONOCHROME2")


class Scan(NamedTuple):
    """A data set and what its header says: size in pixels, number of frames, PatientID or '', MONOCHROME1 or not."""

    dataset: "Dataset"
    width: int
    height: int
    frames: int
    patient: str
    inverted: bool


def is_dicom(content: bytes) -> bool:
    """Whether a file has the mark of DICOM (PS3.10: 'DICM' after a preamble of 128 bytes)."""
    return content[128:132] == b"DICM"


def open_dicom(content: bytes) -> Scan:
    """The header of a DICOM file that has pixel data; raises ImageError."""
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
    except Exception as error:  # of many kinds, on damaged bytes: all of them are told
        raise ImageError("corrupt", f"not readable as DICOM: {error}") from error


def read_frame(dataset: "Dataset", index: int, window: Window | None) -> tuple[NDArray[Any], Window | None]:
    """One frame, uint8[H, W, 3] in RGB or grey values [H, W], and the window that grey is to be seen through.

    Grey is rescaled first (Modality LUT or slope and intercept). The window is the given one, else the header's first
    VOI LUT or window (PS3.3 C.11.2), else the rescaled range of its BitsStored, else None. An enhanced file has these
    in its functional groups (PS3.3 C.7.6.16). What pydicom cannot decompress raises ImageError.
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
            return _color(values, int(dataset.BitsStored), kind), None
        rescale = _find_for_frame(dataset, index, "PixelValueTransformationSequence")
        grey = apply_modality_lut(values, rescale)
        if window is None:
            grey, window = _by_header(grey, _find_for_frame(dataset, index, "FrameVOILUTSequence"))
        return grey, window or _stored_range(dataset, rescale, grey)
    except ImageError:
        raise
    except RuntimeError as error:
        # pydicom's words where no decoder is installed; else the decoders that there are failed.
        if "missing dependencies" not in str(error):
            raise ImageError("corrupt", str(error)) from error
        name = dataset.file_meta.TransferSyntaxUID.name
        raise ImageError("unsupported", f"no decoder for the transfer syntax {name!r} is installed: {error}") from error
    except Exception as error:  # as in open_dicom
        raise ImageError("truncated" if "less than expected" in str(error) else "corrupt", str(error)) from error


def _find_for_frame(dataset: "Dataset", index: int, macro: str) -> "Dataset":
    """The item of an enhanced file's functional groups for a frame, else for all frames, else the whole header."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    items: list[Dataset] = [item for group in (*own, *shared) for item in group.get(macro) or []]
    return items[0] if items else dataset


def _stored_range(dataset: "Dataset", rescale: "Dataset", grey: NDArray[Any]) -> Window | None:
    """The rescaled range of BitsStored; None where that is 16 or more, as it often is of 12-bit data too, or wrong."""
    from pydicom.pixels.processing import apply_modality_lut

    bits = int(dataset.BitsStored)
    if bits >= 16 or rescale.get("ModalityLUTSequence"):
        return None
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    low, high = sorted(float(end) for end in apply_modality_lut(np.array([lowest, lowest + 2**bits - 1]), rescale))
    return (low, high) if low <= grey.min() and grey.max() <= high else None


def _color(values: NDArray[Any], bits: int, kind: str) -> NDArray[np.uint8]:
    if values.ndim != 3 or values.shape[2] != 3:
        raise ImageError("unsupported", f"photometric interpretation {kind!r}; expected grey, RGB, YBR or palette")
    return (values >> max(bits - 8, 0)).astype(np.uint8)


def _by_header(grey: NDArray[Any], dataset: "Dataset") -> tuple[NDArray[Any], Window | None]:
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
