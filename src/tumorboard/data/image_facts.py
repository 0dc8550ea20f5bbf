"""Collects the facts about an image file that are known after it was decoded; the table images.csv."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from xxhash import xxh3_128

from tumorboard.base.tables import Images, Manifest
from tumorboard.data.grey_ranges import BY_VALUES
from tumorboard.images.crop import CroppedFile
from tumorboard.images.dicom import open_dicom

IMAGE_COLUMNS = (
    *("id", "pixels", "width", "height", "bytes", "format", "red", "green", "blue", "border"),
    *("scaling", "low", "high", "warning"),
)


class ImageFacts(NamedTuple):
    """The facts about an image file that are known after it was decoded."""

    pixels: str  # XXH3-128 of the shape and values of the decoded picture; a large picture is reduced before
    width: int  # width of the upright picture at full size, pixels
    height: int  # height of the upright picture at full size, pixels
    bytes: int  # size of the file
    format: str  # such as 'JPEG', see images.header.Header
    patient: str  # PatientID of a DICOM file, else ''
    red: float  # mean level of red, 0 to 255
    green: float  # mean level of green, 0 to 255
    blue: float  # mean level of blue, 0 to 255
    border: float  # share of the pixels in the dark border, 0 to 1, whether or not crop.border cuts it off
    scaling: str  # how the range of values of more than 8 bits was chosen, see GreyRange.kind; '' for other files
    low: float | None  # the value that became black; None for other files
    high: float | None  # the value that became white; None for other files
    levels: Sequence[float]  # GreyRange.levels; () for other files
    filled: float  # GreyRange.filled; 1 for other files
    warning: str  # the decoder's warning, else ''


def facts_of(content: bytes, cropped: CroppedFile) -> ImageFacts:
    """Returns the facts of an image file, by its bytes and what `crop_file` made of them."""
    picture, header, border, _ = cropped
    pixels = xxh3_128(str(picture.shape).encode())
    pixels.update(np.ascontiguousarray(picture).data)
    levels = [round(level, 2) for level in cv2.mean(picture)]
    return ImageFacts(
        pixels=pixels.hexdigest(),
        width=header.width,
        height=header.height,
        bytes=len(content),
        format=header.format,
        patient=open_dicom(content).patient if header.format == "DICOM" else "",
        red=levels[0],
        green=levels[1] if picture.ndim == 3 else levels[0],
        blue=levels[2] if picture.ndim == 3 else levels[0],
        border=round(border, 4),
        scaling=header.grey.kind if header.grey else "",
        low=header.grey.low if header.grey else None,
        high=header.grey.high if header.grey else None,
        levels=header.grey.levels if header.grey else (),
        filled=header.grey.filled if header.grey else 1.0,
        warning=header.warning,
    )


def count_images(manifest: Manifest, facts: Images, quarantined: int, ignored: int) -> dict[str, Any]:
    """Returns the metrics of the stage crop.

    Args:
        manifest: the Manifest of the usable images.
        facts: the facts of the same images, one row per image.
        quarantined: number of unusable files.
        ignored: number of ignored files.
    """
    return {
        "images": len(manifest),
        "classes": dict(sorted(Counter(manifest["label"]).items())),
        "groups": len(set(manifest["group"])),
        "quarantined": quarantined,
        "ignored": ignored,
        # Images beyond the first one with the same bytes, and with the same pixels; the latter include equal files.
        "equal_files": len(manifest) - manifest["sha256"].nunique(),
        "equal_pixels": len(facts) - facts["pixels"].nunique(),
        # Files whose grey was scaled over a range that their own values gave, and those with a decoder's warning.
        "own_range": int(facts["scaling"].isin(BY_VALUES).sum()),
        "decoder_warnings": int((facts["warning"] != "").sum()),
    }
