"""Decoding of DICOM files that pydicom writes: windows, depth, inversion, frames, colors, damage; levels by hand."""

import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.images.samples import CROP, decode_rgb, reason_for
from tumorboard.base.errors import ImageError
from tumorboard.base.params import Frames
from tumorboard.images.decode import decode
from tumorboard.images.dicom import open_dicom

pydicom = pytest.importorskip("pydicom")
# Files are mangled on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402


def dicom(values: np.ndarray, syntax: str = uid.ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """Returns a file with grey [H, W], [F, H, W] or color uint8[H, W, 3]; tags by keyword, None omits one."""
    color = values.ndim == 3 and values.shape[-1] == 3
    height, width = values.shape[-3:-1] if color else values.shape[-2:]
    bits = values.dtype.itemsize * 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    given = {
        "SOPClassUID": uid.SecondaryCaptureImageStorage,
        "SOPInstanceUID": "1.2.3",
        "Rows": height,
        "Columns": width,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "SamplesPerPixel": 3 if color else 1,
        "PhotometricInterpretation": "RGB" if color else "MONOCHROME2",
        "PlanarConfiguration": 0 if color else None,
        "PixelData": values.tobytes() + bytes(values.nbytes % 2),
    } | tags
    for keyword, value in given.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(content: bytes, frames: Frames = None, **changes: Any) -> list[int]:
    """Returns the first row of a decoded picture, whose channels must be equal."""
    pixels = decode_rgb(content, frames=frames, **changes)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


HU = np.array([[0, 1024, 1064, 1104, 4095, 500]], np.uint16)  # stored values of a CT with intercept -1024
CT = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}


@pytest.mark.parametrize("tags", [{"RescaleSlope": "", "RescaleIntercept": ""}, {"RescaleIntercept": ""}])
def test_rescaling_without_a_value_changes_nothing(tags: dict[str, str]) -> None:
    assert grey(dicom(HU, **tags)) == grey(dicom(HU))
    # A slope alone counts: 0 to 8190 is scaled by its depth of 14 bits.
    assert grey(dicom(HU, RescaleSlope="2", RescaleIntercept=""))[4] == round(8190 / 16383 * 255)


def test_a_slope_or_an_intercept_counts_without_the_other() -> None:
    window = {"WindowCenter": "40", "WindowWidth": "80"}
    assert grey(dicom(HU, RescaleIntercept="-1024", **window)) == grey(dicom(HU, **CT, **window))
    assert grey(dicom(HU, RescaleSlope="2"))[4] == round(8190 / 16383 * 255)


def test_a_slope_that_is_no_number_is_named() -> None:
    content = dicom(HU, RescaleSlope="1.5", RescaleIntercept="0").replace(b"1.5 ", b"1,5 ")
    with pytest.raises(ImageError, match=r"corrupt: RescaleSlope '1,5' is no number"):
        grey(content)


def test_frames_that_the_header_does_not_state_are_counted() -> None:
    three = np.array([[[0, 9]], [[50, 9]], [[255, 9]]], np.uint8).repeat(3, 2).repeat(6, 1)
    content = dicom(three)
    assert reason_for(content) == "multi-frame without a rule"
    assert grey(content, frames="middle") == [50, 50, 50, 9, 9, 9]
    assert grey(content, frames="first") == [0, 0, 0, 9, 9, 9]
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5)  # one byte pads it
    assert grey(dicom(odd)) == [0, 1, 2, 3, 4]


def test_a_window_of_text_is_named() -> None:
    content = dicom(HU, WindowCenter="40", WindowWidth="80").replace(b"80", b"ab")
    with pytest.raises(
        ImageError, match=r"corrupt: window center '40.*' and width 'ab' are no numbers: set crop\.window"
    ):
        grey(content)
    assert grey(content, window=(0, 4095))[4] == 255


@pytest.mark.parametrize("width", ["0", "-80", "0.5"])
def test_a_window_without_a_width_is_none(width: str) -> None:
    assert grey(dicom(HU, WindowCenter="40", WindowWidth=width)) == grey(dicom(HU))
    assert grey(dicom(HU, WindowCenter="40", WindowWidth="1")) == [0, 255, 255, 255, 255, 255]  # two levels are legal


def test_a_ct_is_rescaled_and_scaled_over_the_headers_window() -> None:
    # Center 40, width 80: PS3.3 C.11.2.1.2 maps 40 - 0.5 -+ 79 / 2 = 0 and 79 to black and white; 40 / 79 * 255 = 129.1
    assert grey(dicom(HU, WindowCenter="40", WindowWidth="80", **CT)) == [0, 0, 129, 255, 255, 0]


def test_the_first_of_several_windows_is_used() -> None:
    assert grey(dicom(HU, WindowCenter=["40", "500"], WindowWidth=["80", "2000"], **CT)) == [0, 0, 129, 255, 255, 0]


def test_a_window_in_params_precedes_the_headers_and_is_in_rescaled_values() -> None:
    content = dicom(HU, WindowCenter="40", WindowWidth="80", **CT)
    # (0 + 1000) / 1400 * 255 = 182.1, (40 + 1000) / 1400 * 255 = 189.4, 196.7; -524: 476 / 1400 * 255 = 86.7
    assert grey(content, window=(-1000.0, 400.0)) == [0, 182, 189, 197, 255, 87]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", [0, 0, 128, 255, 255, 0]),  # 0 and 80 to black and white
        # 255 / (1 + exp(-4 * (x - 40) / 80)) at -1024, 0, 40, 80, 3071, -524: 255 / (1 + e^2) = 30.4
        ("SIGMOID", [0, 30, 128, 225, 255, 0]),
    ],
)
def test_other_functions_of_a_window(function: str, expected: list[int]) -> None:
    assert grey(dicom(HU, WindowCenter="40", WindowWidth="80", VOILUTFunction=function, **CT)) == expected


@pytest.mark.parametrize("width", ["1", "7", "350.5"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_pydicoms(function: str, width: str) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    content = dicom(values, BitsStored=12, HighBit=11, WindowCenter="300", WindowWidth=width, VOILUTFunction=function)
    theirs = pydicom.pixels.apply_windowing(values, open_dicom(content).dataset)  # 0 to 4095
    ours = decode_rgb(content)[..., 0]
    np.testing.assert_allclose(ours, theirs * (255 / 4095), atol=0.51)


def test_a_lookup_table_precedes_a_window() -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new("LUTData", "US", [0, 200, 50, 255])
    values = np.array([[0, 1, 2, 3]], np.uint16)
    content = dicom(values, VOILUTSequence=[item], WindowCenter="2", WindowWidth="2")
    assert grey(content) == [0, 200, 50, 255]


def test_without_a_window_grey_is_scaled_by_its_depth_as_in_other_files() -> None:
    assert grey(dicom(np.array([[0, 100, 255]], np.uint8))) == [0, 100, 255]
    assert grey(dicom(np.array([[0, 2048, 4095]], np.uint16))) == [0, 128, 255]
    unscaled = dicom(np.array([[0, 100, 255]], np.uint8), RescaleSlope="1", RescaleIntercept="0")
    assert grey(unscaled) == [0, 100, 255]


TWELVE = {"BitsStored": 12, "HighBit": 11}


def test_without_a_window_the_bits_stored_are_the_range() -> None:
    # 500 / 4095 * 255 = 31.1, 1000 / 4095 * 255 = 62.3: whatever the brightest value is
    assert grey(dicom(np.array([[0, 500, 1000]], np.uint16), **TWELVE)) == [0, 31, 62]
    assert grey(dicom(np.array([[0, 500, 4095]], np.uint16), **TWELVE)) == [0, 31, 255]
    inverted = dicom(np.array([[0, 500, 1000]], np.uint16), PhotometricInterpretation="MONOCHROME1", **TWELVE)
    assert grey(inverted) == [255, 224, 193]
    # (-1000 + 2048) / 4095 * 255 = 65.3, 2048 / 4095 * 255 = 127.53, 4048 / 4095 * 255 = 252.1
    assert grey(dicom(np.array([[-1000, 0, 2000]], np.int16), **TWELVE)) == [65, 128, 252]
    # Black and white: 1 bit in 8.
    assert grey(dicom(np.array([[0, 1, 1]], np.uint8), BitsStored=1, HighBit=0)) == [0, 255, 255]


def test_bits_stored_that_the_values_exceed_are_ignored() -> None:
    buffer = BytesIO()
    values = np.repeat(np.array([[0, 16384, 65535, 65535]], np.uint16), 4, axis=0)
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True)
    content = dicom(values, uid.JPEG2000Lossless, PixelData=encapsulate([buffer.getvalue()]), **TWELVE)
    assert grey(content) == [0, 64, 255, 255]  # 16384 / 65535 * 255 = 63.75


def test_the_bits_stored_are_rescaled_as_the_values_are() -> None:
    # From -1024 to 3071: stored 500 / 4095 * 255 = 31.1, 1064 / 4095 * 255 = 66.3
    assert grey(dicom(np.array([[0, 500, 1064]], np.uint16), **TWELVE, **CT)) == [0, 31, 66]
    negative = {"RescaleSlope": "-1", "RescaleIntercept": "0"}
    assert grey(dicom(np.array([[0, 500, 1000]], np.uint16), **TWELVE, **negative)) == [255, 224, 193]


def enhanced(values: np.ndarray, groups: list[dict[str, Any]], shared: dict[str, Any], **tags: Any) -> bytes:
    """Returns a file with functional groups, one per frame and a shared one; RescaleSlope and so on by keyword."""

    def group(tags: dict[str, Any]) -> Dataset:
        rescale, window, group = Dataset(), Dataset(), Dataset()
        for keyword, value in tags.items():
            setattr(rescale if keyword.startswith("Rescale") else window, keyword, value)
        if len(rescale):
            group.PixelValueTransformationSequence = [rescale]
        if len(window):
            group.FrameVOILUTSequence = [window]
        return group

    sequences = {
        "PerFrameFunctionalGroupsSequence": [group(each) for each in groups],
        "SharedFunctionalGroupsSequence": [group(shared)],
    }
    return dicom(values, NumberOfFrames=len(values) if values.ndim == 3 else 1, **sequences, **tags)


VIEW = {"WindowCenter": "40", "WindowWidth": "80"}


@pytest.mark.parametrize(
    ("own", "shared"), [({}, CT | VIEW), (CT | VIEW, {}), (CT, VIEW), (VIEW, CT), (CT | VIEW, {"WindowCenter": "9"})]
)
def test_an_enhanced_ct_decodes_as_a_plain_one(own: dict[str, Any], shared: dict[str, Any]) -> None:
    content = enhanced(HU, [own], shared)
    assert grey(content) == grey(dicom(HU, **CT, **VIEW)) == [0, 0, 129, 255, 255, 0]
    assert grey(content, window=(-1000.0, 400.0)) == [0, 182, 189, 197, 255, 87]  # as in the plain one's test


def test_a_frame_of_an_enhanced_file_has_its_own_window() -> None:
    values = np.array([[[0, 80, 120, 160]]] * 2, np.uint16)
    windows = [
        {"WindowCenter": center, "WindowWidth": "100", "VOILUTFunction": "LINEAR_EXACT"} for center in ("50", "110")
    ]
    content = enhanced(values, windows, {})
    assert grey(content, "first") == [0, 204, 255, 255]  # from 0 to 100: 80 / 100 * 255
    assert grey(content, "middle") == [0, 51, 153, 255]  # the second: from 60 to 160


def test_floating_point_pixel_data_is_unsupported() -> None:
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        data = {keyword: np.linspace(0, 1, 6).astype(kind).tobytes()}
        assert reason_for(dicom(HU, PixelData=None, **data)) == "unsupported"


def test_without_a_window_negative_and_fractional_values_are_scaled_over_their_own_range() -> None:
    assert grey(dicom(np.array([[-1000, 0, 1000]], np.int16))) == [0, 128, 255]
    assert grey(dicom(np.array([[0, 1, 4]], np.uint16), RescaleSlope="0.3", RescaleIntercept="0")) == [0, 64, 255]


def test_monochrome1_is_inverted() -> None:
    values = np.array([[0, 100, 255]], np.uint8)
    assert grey(dicom(values, PhotometricInterpretation="MONOCHROME1")) == [255, 155, 0]
    windowed = dicom(HU, PhotometricInterpretation="MONOCHROME1", WindowCenter="40", WindowWidth="80", **CT)
    assert grey(windowed) == [255, 255, 126, 0, 0, 255]


def test_colors_become_rgb() -> None:
    values = np.array([[(255, 0, 0), (1, 2, 3)]], np.uint8)
    np.testing.assert_array_equal(decode_rgb(dicom(values)), values)
    # Pure grey has no chroma: Y, 128, 128.
    ybr = np.array([[(76, 85, 255), (90, 128, 128)]], np.uint8)
    pixels = decode_rgb(dicom(ybr, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(pixels[0].astype(int), [(254, 0, 0), (90, 90, 90)], atol=1)


@pytest.mark.parametrize(
    ("bits", "levels", "expected", "scaling"),
    [
        # 16384 / 65535 * 255 = 63.75, 128 / 65535 * 255 = 0.498
        (16, (65535, 16384, 128), [255, 64, 0], ("depth", 0, 65535)),
        (16, (4095, 1024, 8), [255, 64, 0], ("depth", 0, 4095)),  # 12 bits, although 16 are stated
        (12, (1023, 256, 8), [64, 16, 0], ("stored bits", 0, 4095)),  # 1023 / 4095 * 255 = 63.7: BitsStored counts
        (10, (4095, 1024, 8), [255, 64, 0], ("depth", 0, 4095)),  # the values exceed BitsStored
        (8, (255, 64, 0), [255, 64, 0], ("stored bits", 0, 255)),
    ],
)
def test_colors_of_more_bits_are_scaled_over_their_depth(
    bits: int, levels: tuple[int, int, int], expected: list[int], scaling: tuple[str, float, float]
) -> None:
    content = dicom(np.array([[levels, (0, 0, 0)]], np.uint16), BitsStored=bits, HighBit=bits - 1)
    pixels, header = decode(content, CROP, None)
    assert pixels.tolist() == [[expected, [0, 0, 0]]]
    assert header.grey is not None
    assert header.grey[:3] == scaling
    # The window of params.yaml is that of all channels: 1024 / 2048 * 255 = 127.5, to the even one.
    assert decode_rgb(dicom(np.array([[(2048, 1024, 0)]], np.uint16)), window=(0, 2048)).tolist() == [[[255, 128, 0]]]


def test_a_palette_becomes_rgb() -> None:
    tables = {}
    for channel, levels in (("Red", [0, 255]), ("Green", [10, 20]), ("Blue", [200, 100])):
        tables[f"{channel}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tables[f"{channel}PaletteColorLookupTableData"] = np.array(levels, "<u2").__mul__(257).tobytes()
    content = dicom(np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **tables)
    np.testing.assert_array_equal(decode_rgb(content)[0], [(0, 10, 200), (255, 20, 100)])


def test_frames_need_a_rule() -> None:
    values = np.stack([np.full((2, 4), level, np.uint8) for level in (10, 60, 110, 160)])
    content = dicom(values, NumberOfFrames=4)
    assert open_dicom(content).frames == 4
    assert reason_for(content) == "multi-frame without a rule"
    assert grey(content, "first") == [10] * 4
    assert grey(content, "middle") == [110] * 4


def test_rle_is_decompressed() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    dataset = open_dicom(dicom(values)).dataset
    dataset.compress(uid.RLELossless)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue()), decode_rgb(dicom(values)))


def test_a_compression_without_a_decoder_is_unsupported_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = pydicom.pixels.get_decoder(uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    content = dicom(np.zeros((4, 4), np.uint8), uid.JPEGLSLossless, PixelData=encapsulate([b"\xff\xd8" + bytes(60)]))
    with pytest.raises(ImageError, match=r"unsupported: no decoder for .*JPEG-LS Lossless"):
        decode_rgb(content)


def test_damaged_compressed_data_is_corrupt() -> None:
    content = dicom(np.zeros((4, 4), np.uint8), uid.RLELossless, PixelData=encapsulate([bytes(100)]))
    assert reason_for(content) == "corrupt"


def test_a_file_cut_anywhere_is_an_error() -> None:
    content = dicom(HU, PatientID="P1", **CT)
    reasons = {reason_for(content[:cut]) for cut in range(133, len(content))}
    assert reasons <= {"truncated", "corrupt", "not an image"}
    assert reason_for(content[:-1]) == "truncated"
    assert reason_for(content[:-5]) == "truncated"


def test_a_compressed_file_cut_within_its_pixels_is_truncated() -> None:
    dataset = pydicom.dcmread(BytesIO(dicom(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8))))
    dataset.compress(uid.RLELossless)
    buffer = BytesIO()
    dataset.save_as(buffer)
    content = buffer.getvalue()
    assert decode_rgb(content).shape == (20, 20, 3)
    for cut in (9, 30, 200):
        assert reason_for(content[:-cut]) == "truncated"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(132, len(dicom(HU, **CT)) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_mangled_file_raises_only_image_errors(changes: list[tuple[int, int]]) -> None:
    content = bytearray(dicom(HU, WindowCenter="40", WindowWidth="80", **CT))
    for position, byte in changes:
        content[position] = byte
    with suppress(ImageError):
        assert decode_rgb(bytes(content), frames="first").ndim == 3


def test_limits_are_checked_by_the_header() -> None:
    content = dicom(np.zeros((20, 40), np.uint8), PixelData=bytes(2))
    assert reason_for(content, max_pixels=799) == "too many pixels"
    assert reason_for(content, min_side=21) == "too small"
    assert reason_for(content, max_aspect=1.9) == "aspect ratio"


def test_a_report_without_pixels_is_not_an_image() -> None:
    assert reason_for(dicom(HU, Rows=None, Columns=None, PixelData=None)) == "not an image"


def test_the_patient_and_the_format() -> None:
    assert open_dicom(dicom(HU, PatientID="P 7 ")).patient == "P 7"
    assert open_dicom(dicom(HU)).patient == ""
    assert decode(dicom(HU), CROP, None)[1][:3] == ("DICOM", HU.shape[1], HU.shape[0])


def test_another_photometric_interpretation_is_unsupported() -> None:
    content = dicom(HU, PhotometricInterpretation="XYZ")
    assert reason_for(content) in ("unsupported", "corrupt")
    colors = np.full((4, 4, 3), 90, np.uint8)
    for kind in ("HSV", "YBR_PARTIAL_420"):  # pydicom returns these as they are
        assert reason_for(dicom(colors, PhotometricInterpretation=kind)) == "unsupported"


def test_without_pydicom_the_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(dicom(HU))
    program = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from tumorboard.images.dicom import open_dicom\n"
        "open_dicom(open(sys.argv[1], 'rb').read())"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "scan.dcm"], capture_output=True, text=True)
    assert "unsupported: DICOM needs pydicom: pip install 'tumorboard[dicom]'" in done.stderr
