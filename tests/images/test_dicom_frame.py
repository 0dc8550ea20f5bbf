"""Bits beyond BitsStored, and damage of compressed frames; levels by hand, reasons as those of JPEG files."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import COLOR, CROP, decode_rgb, encode, large, reason_for
from tumorboard.base.errors import ImageError
from tumorboard.images.decode import decode

pydicom = pytest.importorskip("pydicom")
from pydicom import uid  # noqa: E402
from pydicom.encaps import encapsulate, get_frame  # noqa: E402

from tests.images.test_dicom import TWELVE, dicom, grey  # noqa: E402
from tests.images.test_dicom_files import LS_FRAME, LS_VALUES, compressed, jpeg_of_12_bits, twelve_bit_jpeg  # noqa: E402

TEN = {"BitsStored": 10, "HighBit": 9}
RAMP = np.array([[0, 1000, 2048, 4000]], np.uint16)
LEVELS = [0, 62, 128, 249]  # of 12 bits: 1000 / 4095 * 255 = 62.3, 127.5, 249.1


def rle(values: np.ndarray, **tags: Any) -> bytes:
    dataset = pydicom.dcmread(BytesIO(dicom(values, **tags)))
    dataset.compress(uid.RLELossless)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [dicom, rle])
def test_values_that_exceed_the_bits_stored_keep_their_upper_bits(form: Any) -> None:
    assert grey(form(RAMP, **TEN)) == LEVELS
    assert grey(form(RAMP, BitsStored=10, HighBit=15)) == LEVELS
    assert grey(form(RAMP, **TWELVE)) == LEVELS
    colors = np.stack([RAMP, RAMP // 2, RAMP // 4], -1)
    assert decode_rgb(form(colors, **TEN))[0, :, 0].tolist() == LEVELS


def test_values_with_a_sign_keep_it() -> None:
    # The range is the file's own: (0 + 3000) / 7000 * 255 = 109.3
    exceeding = np.array([[-3000, 0, 4000]], np.int16)
    assert grey(dicom(exceeding, **TWELVE)) == [0, 109, 255]
    # -1 in 12 bits, stored without the upper bits of its sign: 4095. BitsStored is the range: 2047 / 4095 * 255 = 127.5
    unfilled = np.array([[-1, -2048, 2047, 0]], np.int16)
    assert grey(dicom(unfilled & 0x0FFF, **TWELVE)) == grey(dicom(unfilled, **TWELVE)) == [127, 0, 255, 128]


@pytest.mark.parametrize("tags", [{"position": 12}, {"position": None}])
def test_overlays_in_unused_bits_are_left_out(tags: dict[str, Any]) -> None:
    values = RAMP | np.array([[0, 1 << 12, 0, 1 << 12]], np.uint16)
    dataset = pydicom.dcmread(BytesIO(dicom(values, **TWELVE)))
    dataset.add_new((0x6002, 0x0010), "US", 1)  # OverlayRows
    if tags["position"]:
        dataset.add_new((0x6002, 0x0102), "US", tags["position"])
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert grey(buffer.getvalue()) == LEVELS
    # An overlay that has data of its own uses no bits of the pixels.
    dataset[0x6002, 0x0010].value = 1
    dataset.add_new((0x6002, 0x0102), "US", 0)
    dataset.add_new((0x6002, 0x3000), "OW", bytes(2))
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert grey(buffer.getvalue())[1] == round(5096 / 16383 * 255)  # 1000 + 4096, of 14 bits


def test_marks_in_a_single_bit_are_left_out_also_without_an_overlay_in_the_header() -> None:
    values = RAMP | np.array([[0, 1 << 15, 0, 1 << 15]], np.uint16)
    assert grey(dicom(values, **TWELVE)) == LEVELS


def in_dicom(frame: bytes, height: int, width: int) -> bytes:
    """Returns a file with one JPEG frame in color."""
    empty = np.zeros((height, width, 3), np.uint8)
    frames = encapsulate([frame])
    return dicom(empty, uid.JPEGBaseline8Bit, PixelData=frames, PhotometricInterpretation="YBR_FULL_422")


NOISE = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG", quality=95)


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_cut_jpeg_is_truncated_as_a_file_of_its_own_is(share: float, end: bytes) -> None:
    cut = NOISE[: int(len(NOISE) * share)] + end
    assert reason_for(cut) == reason_for(in_dicom(cut, 64, 64)) == "truncated"
    assert decode_rgb(in_dicom(NOISE, 64, 64)).std() > 50


def test_impossible_codes_are_corrupt_as_in_a_file_of_its_own() -> None:
    middle = len(NOISE) // 2
    zeros = NOISE[:middle] + bytes(200) + NOISE[middle + 200 :]
    assert reason_for(zeros) == reason_for(in_dicom(zeros, 64, 64)) == "corrupt"


def test_bytes_that_the_decoder_passes_over_are_a_warning() -> None:
    content = large("JPEG", quality=90)
    padded = content[:-2] + b"\x55" * 300 + content[-2:]
    warning = decode(in_dicom(padded, 250, 330), CROP, None)[1].warning
    assert warning.startswith("Corrupt JPEG data: ")
    assert warning == decode(padded, CROP, None)[1].warning
    assert decode(in_dicom(content, 250, 330), CROP, None)[1].warning == ""


def test_a_jpeg_of_many_scans_is_refused() -> None:
    content = encode(COLOR, "JPEG", progressive=True)
    start = content.index(b"\xff\xda")
    scan = content[start : content.index(b"\xff", start + 2)]
    many = content[:start] + scan * 101 + content[start:]
    assert reason_for(in_dicom(many, 24, 32)) == "unsupported"


def lossless(cut: int) -> bytes:
    values = np.random.default_rng(0).integers(0, 4096, (48, 48)).astype(np.uint16)
    dataset = pydicom.dcmread(BytesIO(compressed(values, uid.JPEGLosslessSV1)))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    return dicom(values, uid.JPEGLosslessSV1, PixelData=encapsulate([frame[: len(frame) - cut]]), **TWELVE)


def jpeg_ls(cut: int) -> bytes:
    frame = LS_FRAME[: len(LS_FRAME) - cut]
    return dicom(LS_VALUES, uid.JPEGLSLossless, PixelData=encapsulate([frame]), **TWELVE)


def extended(cut: int) -> bytes:
    frame = jpeg_of_12_bits(1000)
    empty = np.zeros((16, 16), np.uint16)
    return dicom(empty, uid.JPEGExtended12Bit, PixelData=encapsulate([frame[: len(frame) - cut]]), **TWELVE)


@pytest.mark.parametrize("kind", [lossless, jpeg_ls, extended])
def test_frames_that_no_decoder_reports_need_their_end_mark(kind: Any) -> None:
    assert decode_rgb(kind(0)).any()
    for cut in (1, 2, 20):
        with pytest.raises(ImageError, match=r"^truncated: the compressed frame ends before its end mark"):
            decode_rgb(kind(cut))
    assert decode_rgb(twelve_bit_jpeg(1000)).any()
