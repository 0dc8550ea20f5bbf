"""Decompresses one frame of a DICOM file, or names the package that could."""

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Crop
from tumorboard.images.dicom_file import INSTALL, frame_header
from tumorboard.images.header import check_size

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_WHOLE_DECODERS = ("pylibjpeg", "gdcm", "pyjpegls")  # pydicom's plugins that read every kind of their syntaxes
_PILLOW_BITS = 8  # bits per sample of a JPEG that Pillow can decode


def read_stored_frame(dataset: "Dataset", index: int, *, width: int, height: int, crop: Crop) -> NDArray[Any]:
    """Decompresses one frame: grey [H, W], or colors [H, W, 3] in RGB.

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
        aligned = None if is_compressed(syntax) else _read_high_bits(dataset, index)
        return pixel_array(dataset, index=index) if aligned is None else aligned
    except (ImageError, MemoryError):
        raise
    except NotImplementedError as error:
        raise ImageError("unsupported", f"no decoder is known for the transfer syntax {syntax.name!r}") from error
    except Exception as error:  # pydicom raises many kinds of errors on damaged bytes
        if needed := _missing_decoder(dataset, frame, str(error)):
            raise ImageError("unsupported", needed) from error
        raise ImageError("truncated" if "less than expected" in str(error) else "corrupt", str(error)) from error


def _read_high_bits(dataset: "Dataset", index: int) -> NDArray[Any] | None:
    """Returns a frame whose values stand in the upper bits, up to HighBit, as older files have them; None for others.

    pydicom does not look at HighBit. The values stand there if all bits below them are empty and some above are not.

    Source: DICOM PS3.5, 8.1.1, and its editions before 2014, by which HighBit need not be BitsStored - 1.
    """
    from pydicom.pixels.utils import pixel_array

    stored, end = int(dataset.get("BitsStored") or 0), int(dataset.get("HighBit") or 0) + 1
    shift = end - stored
    if not 0 < stored < end <= int(dataset.get("BitsAllocated") or 0):
        return None
    dataset.BitsStored = end
    try:
        values = pixel_array(dataset, index=index)
    finally:
        dataset.BitsStored = stored
    is_aligned = not (values & ((1 << shift) - 1)).any() and bool((values >> stored).any())
    return values >> shift if is_aligned else None


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
