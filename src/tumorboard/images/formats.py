"""Recognizes a file's format by its first bytes: formats that are read here, and others with a program for them."""

import re
import zlib
from typing import BinaryIO, Literal

from tumorboard.base.errors import ImageError
from tumorboard.images.dicom_file import is_dicom

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")  # as Pillow names them
HEAD_BYTES = 4096  # first bytes of a file, enough to recognize its format
EXPECTED = f"expected one of {', '.join(FORMATS)}, DICOM, .npy"

_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|MM\*\0|II\0\*|II\+\0|MM\0\+|RIFF....WEBP|BM|P[0-9fy]|\x93NUMPY",
    re.DOTALL,
)

_SLICES = "save slices as PNG or .npy"
_PICTURES = "save the pictures as PNG or .npy"
# Images that are not read here: their first bytes, what they are, and what reads them.
_IMAGES = (
    (
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        "a JPEG 2000 picture (JP2)",
        "save it as PNG or TIFF, such as with Pillow",
    ),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL picture", "save it as PNG, such as with djxl"),
    (rb"II\xbc", "a JPEG XR picture", "save it as PNG or TIFF"),
    (rb"....ftyp(?=.{4}.{0,60}avi[fs]|avi[fs])", "an AVIF picture", "save it as PNG, such as with Pillow"),
    (rb"....ftyp(?:he|mif1|msf1)", "a HEIC picture", "save it as PNG, such as with pillow-heif"),
    (rb"8BPS", "a Photoshop document", "save it as PNG or TIFF"),
    (rb"v/1\x01", "an OpenEXR picture", "save it as TIFF"),
    (rb"SIMPLE  =", "a FITS file", f"read it with astropy and {_SLICES}"),
    (rb".{344}(?:n[i+]1\0)", "a NIfTI volume", f"read it with nibabel and {_SLICES}"),
    (
        rb"(?:\x1c\x02\0\0|\0\0\x02\x1c)n[i+]2\0",
        "a NIfTI volume",
        f"read it with nibabel and {_SLICES}",
    ),
    (rb"(?:\x5c\x01\0\0|\0\0\x01\x5c)", "an Analyze header", f"read it with nibabel and {_SLICES}"),
    (
        rb"\s*(?:ObjectType|NDims)\s*=",
        "a MetaImage (MHA, MHD)",
        f"read it with SimpleITK and {_SLICES}",
    ),
    (rb"NRRD000", "an NRRD volume", f"read it with SimpleITK or pynrrd and {_SLICES}"),
    (
        rb"\x89HDF\r\n\x1a\n",
        "an HDF5 file (also MINC, NeXus)",
        f"read it with h5py and {_PICTURES}",
    ),
    (rb"MATLAB 5\.0 MAT", "a MATLAB file", f"read it with scipy.io.loadmat and {_PICTURES}"),
    (rb"ZISRAWFILE", "a Zeiss CZI picture", "cut tiles with bioio or pylibCZI and save them as PNG"),
    (rb"\xda\xce\xbe\n", "a Nikon ND2 picture", "read it with nd2 and save it as PNG or TIFF"),
    (rb"\x70\0\0\0....\x2a", "a Leica LIF picture", "read it with readlif and save it as PNG or TIFF"),
)
# Files that hold no picture of their own.
_OTHERS = (
    (rb"\s*<(?i:!doctype html|html)", "a web page", "download the file again, perhaps signed in"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "a text in JSON", "download the file again, if a picture is expected"),
    (rb"\0{512}", "zeros only, as an interrupted download or copy leaves them", "copy or download the file again"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive (also .npz, .xlsx, .docx)", "unpack it"),
    (rb"7z\xbc\xaf|Rar!|.{257}ustar|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive", "unpack it"),
    (rb"\x1f\x8b", "a gzip archive", "unpack it"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]", "a video", "save its frames as PNG"),
    (rb"%PDF", "a PDF", "extract its pictures"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of an older Office", "save its pictures as PNG"),
    (rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*-->\s*)?<svg", "an SVG drawing", "save it as PNG"),
)
_APERIO = b"Aperio"  # mark in the description of an SVS, which is a TIFF
_DESCRIPTION = 270  # number of the TIFF tag ImageDescription
_LAST_PLACE = 1 << 40  # largest offset to seek to, in bytes; systems refuse much larger ones
_DIRECTORY_ENTRIES = 100  # entries of a TIFF's directory that are read; an SVS has about 20


def is_readable(head: bytes) -> bool:
    """Returns whether a file that begins with these bytes may be one that is read here."""
    return _READ.match(head) is not None or is_dicom(head)


def explain_foreign(head: bytes) -> ImageError:
    """Returns the error for a file that is not read here: what it is, and what would read it.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.

    >>> explain_foreign(b"NRRD0004 ").detail
    'an NRRD volume: read it with SimpleITK or pynrrd and save slices as PNG or .npy'
    """
    head = head[:HEAD_BYTES]
    if head.startswith(b"\x1f\x8b"):
        inside = _inflate_head(head)
        error = explain_foreign(inside) if inside and not inside.startswith(b"\x1f\x8b") else None
        if error is not None and error.reason == "unsupported":
            return ImageError("unsupported", f"compressed by gzip: {error.detail}")
    for marks, reason in ((_IMAGES, "unsupported"), (_OTHERS, "not an image")):
        for pattern, name, advice in marks:
            if re.match(pattern, head, re.DOTALL):
                return ImageError("unsupported" if reason == "unsupported" else "not an image", f"{name}: {advice}")
    return ImageError("not an image", EXPECTED)


def _inflate_head(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def check_whole_slide(description: object) -> None:
    """Raises ImageError if a TIFF's description is that of a whole-slide image of Aperio (SVS)."""
    text = description.encode(errors="replace") if isinstance(description, str) else description
    if isinstance(text, bytes) and _APERIO in text[:HEAD_BYTES]:
        raise whole_slide()


def check_large_tiff(file: BinaryIO) -> None:
    """Raises ImageError if a file is a whole-slide image of Aperio, by the description in its first directory.

    Reads a few kilobytes, however large the file is and whatever it states.

    Args:
        file: the open file, at its beginning.
    """
    head = file.read(16)
    order: Literal["little", "big"] = "big" if head.startswith(b"MM") else "little"
    is_tiff, is_big = head[:4] in (b"II*\0", b"MM\0*"), head[:4] in (b"II+\0", b"MM\0+")
    if not is_tiff and not is_big:
        return
    width = 8 if is_big else 4  # bytes of an offset
    entry_bytes = 4 + 2 * width
    file.seek(min(int.from_bytes(head[8:16] if is_big else head[4:8], order), _LAST_PLACE))
    count = int.from_bytes(file.read(width if is_big else 2), order)
    entries = file.read(entry_bytes * min(count, _DIRECTORY_ENTRIES))
    for start in range(0, len(entries) - entry_bytes + 1, entry_bytes):
        entry = entries[start : start + entry_bytes]
        if int.from_bytes(entry[:2], order) == _DESCRIPTION:
            file.seek(min(int.from_bytes(entry[-width:], order), _LAST_PLACE))
            check_whole_slide(file.read(HEAD_BYTES))


def whole_slide() -> ImageError:
    """Returns the error for a whole-slide image."""
    return ImageError("unsupported", "a whole-slide image (SVS): cut tiles with OpenSlide and save them as PNG or JPEG")
