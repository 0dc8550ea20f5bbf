"""Decompresses one frame of a DICOM file, or names the package that could."""

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop
from tumorboard.images.dicom_file import INSTALL, frame_header
from tumorboard.images.header import check_size
from tumorboard.images.jpeg import check_coded_frame

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_WHOLE_DECODERS = ("pylibjpeg", "gdcm", "pyjpegls")  # pydicom's plugins that read every kind of their syntaxes
_PILLOW_BITS = 8  # bits per sample of a JPEG that Pillow can decode
_OVERLAYS = range(0x6000, 0x6020, 2)  # groups of elements about overlays
# Elements of these groups.
_OVERLAY_ROWS = 0x0010
_OVERLAY_BIT = 0x0102
_OVERLAY_DATA = 0x3000


def read_stored_frame(
    dataset: "Dataset", index: int, *, width: int, height: int, crop: Crop
) -> tuple[NDArray[Any], str]:
    """Decompresses one frame: grey [H, W], or colors [H, W, 3] in RGB; also returns libjpeg's warning about it, or ''.

    Args:
        dataset: a data set with pixel data.
        index: the frame, counted from 0.
        width: width of the frame in pixels, as the header states it.
        height: height of the frame in pixels, as the header states it.
        crop: the limits of size, which a compressed frame must keep too, whatever the header states.

    Raises:
        ImageError: "unsupported" if no installed decoder reads this compression; "truncated" or "corrupt" if the frame
            is damaged; "too many pixels" if the compressed frame is larger than the header states and `crop` allows.
    """
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    frame = _compressed_frame(dataset, index) if is_compressed(syntax) else b""
    size = _coded_size(frame)
    if size is not None and size != (width, height):
        check_size(*size, crop)
        raise ImageError("corrupt", f"the header says {width} x {height}, the compressed frame {size[0]} x {size[1]}")
    try:
        warning = check_coded_frame(frame, crop.max_pixels) if frame.startswith(b"\xff\xd8") else ""
        return _clear_unused_bits(pixel_array(dataset, index=index, correct_unused_bits=False), dataset), warning
    except (ImageError, MemoryError):
        raise
    except NotImplementedError as error:
        raise ImageError("unsupported", f"no decoder is known for the transfer syntax {syntax.name!r}") from error
    except Exception as error:  # pydicom raises many kinds of errors on damaged bytes
        if needed := _missing_decoder(dataset, frame, str(error)):
            raise ImageError("unsupported", needed) from error
        raise ImageError("truncated" if "less than expected" in str(error) else "corrupt", str(error)) from error


def _clear_unused_bits(values: NDArray[Any], dataset: "Dataset") -> NDArray[Any]:
    """Returns a frame's values without the bits beyond BitsStored and HighBit, if nothing but overlays stands there.

    Values that exceed BitsStored are kept, because many headers state too few bits; pydicom would cut their upper bits
    off. The upper bits are cleared only where the header says that overlays stand there, where the next bit above
    BitsStored is never set, or where they lack the sign of negative values. Values that stand in the upper bits, up to
    HighBit, as older files have them, are shifted down: all bits below them are then empty.

    Args:
        values: all bits of the frame; J2K and JPEG-LS values have as many bits as these state themselves.
        dataset: the data set of the frame.

    Source: DICOM PS3.5, 8.1.1, and its editions before 2014, by which HighBit need not be BitsStored - 1.
    """
    stored, end = int(dataset.get("BitsStored") or 0), int(dataset.get("HighBit") or 0) + 1
    allocated = 8 * values.dtype.itemsize
    if not 0 < stored < allocated or not values.size:
        return values
    is_signed = values.dtype.kind == "i"
    low, high = int(values.min()), int(values.max())
    limit = 1 << stored
    if (-limit // 2 <= low and high < limit // 2) if is_signed else high < limit:
        return values
    if stored < end <= allocated:
        shift = end - stored
        if not (values & ((1 << shift) - 1)).any():
            return _lowest_bits(values, end) >> shift
    lacks_sign = is_signed and low >= 0 and high < limit
    # Values that grow beyond BitsStored use the next bit; marks in a bit further up do not.
    has_marks = not is_signed and not (values & limit).any()
    return _lowest_bits(values, stored) if lacks_sign or has_marks or _has_overlay_bits(dataset) else values


def _lowest_bits(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Returns the values of the lowest bits alone, the highest of which is the sign of signed values.

    >>> import numpy as np
    >>> _lowest_bits(np.array([0x1FFF, 5], np.int16), 12)
    array([-1,  5], dtype=int16)
    """
    shift = 8 * values.dtype.itemsize - bits
    return (values << shift) >> shift


def _has_overlay_bits(dataset: "Dataset") -> bool:
    """Returns whether the header describes an overlay that stands in unused bits of the pixels.

    Source: DICOM PS3.3 of 2004, C.9.2: OverlayBitPosition is not 0, and there is no OverlayData.
    """
    for group in _OVERLAYS:
        if (group, _OVERLAY_BIT) in dataset and dataset[group, _OVERLAY_BIT].value:
            return True
        if (group, _OVERLAY_ROWS) in dataset and (group, _OVERLAY_DATA) not in dataset:
            return True
    return False


def is_compressed(syntax: "UID | None") -> bool:
    """Returns whether frames are compressed; False for a UID that is no transfer syntax."""
    return syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed


def _compressed_frame(dataset: "Dataset", index: int) -> bytes:
    """Returns the bytes of a compressed frame, b"" if they cannot be found."""
    from pydicom.encaps import get_frame

    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        return get_frame(dataset.PixelData, index, number_of_frames=frames)
    except Exception:  # many kinds on damaged bytes, which pixel_array then reports
        return b""


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Returns the width and height that a JPEG, JPEG-LS or JPEG 2000 states, None if it states none.

    Source: ITU-T T.81, B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    if frame.startswith(b"\xff\x4f\xff\x51") and len(frame) >= 24:
        right, bottom, left, top = (int.from_bytes(frame[start : start + 4]) for start in (8, 12, 16, 20))
        return right - left, bottom - top
    if not frame.startswith(b"\xff\xd8"):
        return None
    marker, _, width, height = frame_header(frame)
    return (width, height) if marker and height else None  # 0: the height follows later, in a DNL segment


def _missing_decoder(dataset: "Dataset", frame: bytes, error: str) -> str:
    """Returns which package to install if no installed decoder reads this compression in full, else ''."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if not is_compressed(syntax):
        return ""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"no decoder is known for the transfer syntax {syntax.name!r}: export the pictures as PNG"
    available = set(decoder.available_plugins)
    if not available:
        return f"no decoder for the transfer syntax {syntax.name!r} is installed: {INSTALL}"
    if available & {*_WHOLE_DECODERS, "pydicom"}:
        return ""
    # Pillow alone is left: it decodes JPEGs of 8 bits in full, and some kinds of JPEG 2000.
    _, bits, _, _ = frame_header(frame)
    if bits == _PILLOW_BITS and frame.startswith(b"\xff\xd8"):
        return ""
    kind = f"{bits}-bit {syntax.name!r}" if bits else repr(syntax.name)
    return f"the installed decoders cannot read this {kind}: {INSTALL} ({error.splitlines()[-1].strip()})"
