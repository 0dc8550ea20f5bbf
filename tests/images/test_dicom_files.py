"""DICOM as scanners write it: without preamble, compressed, padded, windowed; oracles are pydicom's own functions."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import CROP, decode_rgb, reason_for
from tumorboard.base.errors import ImageError
from tumorboard.images.decode import decode
from tumorboard.images.dicom import open_dicom
from tumorboard.images.dicom_file import is_dicom
from tumorboard.images.grey import GreyRange

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
from pydicom import pixels, uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402

from tests.images.test_dicom import CT, HU, TWELVE, dicom  # noqa: E402

VALUES = (np.arange(24 * 32, dtype=np.uint16) * 5).reshape(24, 32)  # 0 to 3835: 12 bits


def bare(content: bytes, implicit: bool = False, little: bool = True) -> bytes:
    """Returns a file's data set alone, without preamble and file meta information."""
    dataset = pydicom.dcmread(BytesIO(content))
    buffer = BytesIO()
    pixel_data = dataset["PixelData"]
    if not implicit and not pixel_data.is_undefined_length:
        pixel_data.VR = "OW"
    if not little:
        pixel_data.value = np.frombuffer(pixel_data.value, "<u2").astype(">u2").tobytes()
    plain = Dataset(dataset)
    plain.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return buffer.getvalue()


def range_of(content: bytes, **changes: Any) -> GreyRange | None:
    return decode(content, CROP.model_copy(update=changes), None)[1].grey


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_data_set_without_preamble_and_file_meta_is_read(implicit: bool, little: bool) -> None:
    whole = dicom(VALUES, **TWELVE)
    content = bare(whole, implicit, little)
    assert content[128:132] != b"DICM"
    np.testing.assert_array_equal(decode_rgb(content), decode_rgb(whole))


def test_file_meta_without_a_preamble_is_read() -> None:
    whole = dicom(VALUES, **TWELVE)
    np.testing.assert_array_equal(decode_rgb(whole[132:]), decode_rgb(whole))


@pytest.mark.parametrize("first", ["ImageType", "SpecificCharacterSet", "SOPClassUID"])
def test_a_data_set_may_begin_with_another_element(first: str) -> None:
    tags = {"ImageType": ["ORIGINAL", "PRIMARY"], "SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": "1.2.3"}
    dataset = Dataset(pydicom.dcmread(BytesIO(dicom(VALUES, **TWELVE))))
    del dataset.SOPClassUID
    setattr(dataset, first, tags[first])
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=False)
    content = buffer.getvalue()
    np.testing.assert_array_equal(decode_rgb(content), decode_rgb(dicom(VALUES, **TWELVE)))


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_compressed_pixels_without_file_meta_are_recognized(syntax: str) -> None:
    whole = compressed(VALUES, syntax)
    np.testing.assert_array_equal(decode_rgb(bare(whole)), decode_rgb(dicom(VALUES, **TWELVE)))


@pytest.mark.parametrize(
    "content",
    [b"\x08\0", b"\x08\0\5\0" + b"\xff" * 40, b"\2\0abcdefghijklmnop", bytes(200), b"\x08\0" * 99],
)
def test_other_bytes_are_not_taken_for_dicom(content: bytes) -> None:
    assert not is_dicom(content)
    assert reason_for(content) == "not an image"


# A picture that CharLS compressed as JPEG-LS without loss, 12 bits; its row 3 is a run.
LS_VALUES = (np.arange(12 * 16, dtype=np.uint16) * 21).reshape(12, 16)
LS_VALUES[3] = 7
LS_FRAME = base64.b64decode(
    "/9j/9wALDAAMABABAREA/9oACAEBAAAAALTpz5dOfKjQ/3e+d9IAYNWjMkRIPvOuNtMsNQAYMLrrOc1rWsYxjQCZ6c+VGh/97531zxv0gAAAAA04Z8qN"
    "D/73zvrnjffaqDGLWta1rWtalMynqUpSlKZmZmYkU5mZlVVVVVVIlNVVVVVVVVVSBTFVVVVbSST5S0kkkkkknilJJJJJJV0A/9k="
)


def jpeg_ls() -> bytes:
    return dicom(LS_VALUES, uid.JPEGLSLossless, PixelData=encapsulate([LS_FRAME]), **TWELVE)


def compressed(values: np.ndarray, syntax: str, **tags: Any) -> bytes:
    """Returns 12-bit grey that pydicom or Pillow compresses without loss."""
    if syntax == uid.RLELossless:
        dataset = pydicom.dcmread(BytesIO(dicom(values, **TWELVE, **tags)))
        dataset.compress(uid.RLELossless)
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    if syntax == uid.JPEG2000Lossless:
        buffer = BytesIO()
        Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True)
        frame = buffer.getvalue()
    else:
        frame = lossless_jpeg(values)
    return dicom(values, syntax, PixelData=encapsulate([frame]), **TWELVE | tags)


class Bits:
    """Writes the bits of a JPEG's coded data."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, value: int, count: int) -> None:
        self.text += format(value, f"0{count}b") if count else ""

    def content(self) -> bytes:
        text = self.text + "1" * (-len(self.text) % 8)
        data = bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))
        return data.replace(b"\xff", b"\xff\0")


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def lossless_jpeg(values: np.ndarray) -> bytes:
    """Returns 12-bit grey as lossless JPEG (process 14, predictor 1), T.81 annex H, by hand."""
    height, width = values.shape
    table = segment(0xC4, b"\0" + bytes([0, 0, 0, 13]) + bytes(12) + bytes(range(13)))  # 13 categories of 4 bits
    bits = Bits()
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            above = int(values[row - 1, 0]) if row else 1 << 11
            difference = value - (line[column - 1] if column else above)
            category = abs(difference).bit_length()
            bits.add(category, 4)
            bits.add(difference if difference >= 0 else difference + (1 << category) - 1, category)
    frame = segment(0xC3, struct.pack(">BHHB", 12, height, width, 1) + b"\1\x11\0")
    scan = segment(0xDA, b"\1\1\0\1\0\0")
    return b"\xff\xd8" + frame + table + scan + bits.content() + b"\xff\xd9"


def jpeg_of_12_bits(dc: int, height: int = 16, width: int = 16) -> bytes:
    """Returns a sequential 12-bit JPEG (process 4) of one grey: 2048 + dc * quantizer 8 / 8."""
    quantizers = segment(0xDB, b"\0" + bytes([8] * 64))
    tables = segment(0xC4, b"\0" + bytes([0, 0, 0, 13]) + bytes(12) + bytes(range(13)))
    tables += segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\0")
    bits = Bits()
    for block in range(height * width // 64):
        difference = dc if block == 0 else 0
        category = abs(difference).bit_length()
        bits.add(category, 4)
        bits.add(difference if difference >= 0 else difference + (1 << category) - 1, category)
        bits.add(0, 1)  # end of block
    frame = segment(0xC1, struct.pack(">BHHB", 12, height, width, 1) + b"\1\x11\0")
    return b"\xff\xd8" + quantizers + frame + tables + segment(0xDA, b"\1\1\0\0\x3f\0") + bits.content() + b"\xff\xd9"


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_each_lossless_compression_decodes_to_the_values(syntax: str) -> None:
    np.testing.assert_array_equal(decode_rgb(jpeg_ls()), decode_rgb(dicom(LS_VALUES, **TWELVE)))
    np.testing.assert_array_equal(decode_rgb(bare(jpeg_ls())), decode_rgb(jpeg_ls()))
    np.testing.assert_array_equal(decode_rgb(compressed(VALUES, syntax)), decode_rgb(dicom(VALUES, **TWELVE)))


def twelve_bit_jpeg(dc: int) -> bytes:
    empty = np.zeros((16, 16), np.uint16)
    return dicom(empty, uid.JPEGExtended12Bit, PixelData=encapsulate([jpeg_of_12_bits(dc)]), **TWELVE)


def test_a_jpeg_of_a_kind_that_only_dicom_holds_is_unsupported_and_named_as_a_file_of_its_own() -> None:
    for frame, kind in ((jpeg_of_12_bits(7), "a JPEG of 12 bits"), (LS_FRAME, "a JPEG-LS picture")):
        with pytest.raises(ImageError, match=f"^unsupported: {kind}"):
            decode_rgb(frame)


@pytest.mark.parametrize("signed", [False, True])
def test_values_in_the_upper_bits_are_read_as_those_in_the_lower_ones(signed: bool) -> None:
    values = VALUES.astype(np.int16) - 2048 if signed else VALUES
    upper = dicom(values << 4, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(decode_rgb(upper), decode_rgb(dicom(values, **TWELVE)))
    # A wrong HighBit beside values in the lower bits changes nothing.
    np.testing.assert_array_equal(
        decode_rgb(dicom(VALUES, BitsStored=12, HighBit=15)), decode_rgb(dicom(VALUES, **TWELVE))
    )


def test_a_12_bit_jpeg_is_read() -> None:
    # (2048 + 1000) / 4095 * 255 = 189.8
    assert np.unique(decode_rgb(twelve_bit_jpeg(1000))).tolist() == [190]


@pytest.mark.parametrize("syntax", [uid.JPEGExtended12Bit, uid.JPEG2000, uid.JPEGLSLossless, uid.HTJ2K, uid.MPEG4HP41])
def test_a_missing_decoder_is_unsupported_and_never_corrupt(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = twelve_bit_jpeg(0)
    if syntax != uid.JPEGExtended12Bit:
        content = dicom(np.zeros((16, 16), np.uint16), syntax, PixelData=encapsulate([b"\0" * 64]), **TWELVE)
    if syntax != uid.MPEG4HP41:
        decoder = pixels.get_decoder(syntax)
        left = {name: function for name, function in decoder._available.items() if name == "pillow"}
        monkeypatch.setattr(decoder, "_available", left)
    with pytest.raises(ImageError) as caught:
        decode_rgb(content)
    assert caught.value.reason == "unsupported"
    assert ("tumorboard[dicom]" in caught.value.detail) == (syntax != uid.MPEG4HP41)


def test_damage_is_corrupt_where_the_decoders_are_there() -> None:
    frame = compressed(VALUES, uid.JPEGLosslessSV1)
    assert reason_for(frame.replace(b"\xff\xc3", b"\xff\xc5")) in ("corrupt", "truncated")


@pytest.mark.parametrize("form", ["JPEG2000", "JPEG"])
def test_a_frame_larger_than_the_header_says_is_refused_before_it_is_decoded(form: str) -> None:
    buffer = BytesIO()
    Image.new("L", (1200, 1000)).save(buffer, form, **({"no_jp2": True} if form == "JPEG2000" else {}))
    syntax = uid.JPEG2000Lossless if form == "JPEG2000" else uid.JPEGBaseline8Bit
    content = dicom(np.zeros((20, 20), np.uint8), syntax, PixelData=encapsulate([buffer.getvalue()]))
    assert reason_for(content) == "too many pixels"
    assert reason_for(content, max_pixels=2_000_000) == "corrupt"


def test_a_deflated_data_set_is_inflated_within_a_limit() -> None:
    content = dicom(VALUES, uid.DeflatedExplicitVRLittleEndian, **TWELVE)
    np.testing.assert_array_equal(decode_rgb(content), decode_rgb(dicom(VALUES, **TWELVE)))
    start = 144 + struct.unpack_from("<I", content, 140)[0]
    packer = zlib.compressobj(9, wbits=-15)
    body = zlib.decompress(content[start:], -15)
    private = struct.pack("<HH2sHI", 0x7FE1, 0x10, b"OB", 0, 3_000_000) + bytes(3_000_000)
    bomb = content[:start] + packer.compress(body + private) + packer.flush()
    assert len(bomb) < 20_000
    assert reason_for(bomb, max_bytes=2_000_000) == "too many bytes"
    np.testing.assert_array_equal(decode_rgb(bomb), decode_rgb(content))


SIGNED = np.array([[-2000, -2000, -1000, 0, 1000, 3000]], np.int16)


@pytest.mark.parametrize("padding", [{"PixelPaddingValue": -2000}, {}])
def test_padding_is_in_no_range_and_black(padding: dict[str, int]) -> None:
    tissue = np.tile(np.arange(-100, 300, 4, dtype=np.int16), 4)
    values = np.concatenate([np.full(100, -2000, np.int16), tissue]).reshape(10, -1)
    content = dicom(values, **padding)
    assert range_of(content)[:3] == ("own range", -100, 296)  # type: ignore[index]
    unpadded = dicom(tissue.reshape(10, -1))
    np.testing.assert_array_equal(decode_rgb(content).reshape(-1, 3)[100:], decode_rgb(unpadded).reshape(-1, 3))
    assert not decode_rgb(content).reshape(-1, 3)[:100].any()
    for window in (None, (-50.0, 50.0)):  # nor among the values by which a set's range is chosen
        assert range_of(content, window=window).levels[0] == -100  # type: ignore[union-attr]


def test_a_range_of_padding_values_and_one_of_the_other_sign_are_left_out() -> None:
    values = np.array([[-3000, -2500, -100, 100]], np.int16)
    assert range_of(dicom(values, PixelPaddingValue=-3000, PixelPaddingRangeLimit=-2500))[1:3] == (-100, 100)  # type: ignore[index]
    stated = dicom(values)
    # 62536 is -3000 in 16 bits: many files state the padding in the other sign.
    dataset = pydicom.dcmread(BytesIO(stated))
    dataset.add_new("PixelPaddingValue", "US", 62536)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert range_of(buffer.getvalue())[1:3] == (-2500, 100)  # type: ignore[index]


def test_bright_padding_does_not_choose_the_depth_and_is_black() -> None:
    values = np.array([[65535, 65535, 0, 2048, 4095]], np.uint16)
    assert decode_rgb(dicom(values, PixelPaddingValue=65535))[0, :, 0].tolist() == [0, 0, 0, 128, 255]
    inverted = dicom(values, PixelPaddingValue=65535, PhotometricInterpretation="MONOCHROME1")
    assert decode_rgb(inverted)[0, :, 0].tolist() == [0, 0, 255, 127, 0]


def test_a_dark_lowest_value_that_is_near_the_others_is_no_padding() -> None:
    assert range_of(dicom(SIGNED))[:3] == ("own range", -2000, 3000)  # type: ignore[index]
    assert range_of(dicom(np.full((4, 4), -7, np.int16)))[:3] == ("own range", -7, -7)  # type: ignore[index]


def test_the_kind_of_range_is_recorded() -> None:
    assert range_of(dicom(HU, WindowCenter="40", WindowWidth="81", VOILUTFunction="LINEAR_EXACT", **CT))[:3] == (  # type: ignore[index]
        "header",
        -0.5,
        80.5,
    )
    assert range_of(dicom(VALUES, **TWELVE))[:3] == ("stored bits", 0, 4095)  # type: ignore[index]
    assert range_of(dicom(VALUES))[:3] == ("depth", 0, 4095)  # type: ignore[index]
    assert range_of(dicom(VALUES), window=(5.0, 9.0))[:3] == ("params", 5, 9)  # type: ignore[index]
    assert range_of(dicom(np.zeros((4, 4), np.uint8))) is None


@pytest.mark.parametrize("slope", ["1", "2.5", "-0.5"])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_rescaling_and_inversion_are_pydicoms(slope: str, kind: str) -> None:
    tags = {"RescaleSlope": slope, "RescaleIntercept": "-1024", "WindowCenter": "100", "WindowWidth": "900"}
    content = dicom(VALUES, PhotometricInterpretation=kind, **tags, **TWELVE)
    dataset = open_dicom(content).dataset
    seen = pixels.apply_windowing(pixels.apply_rescale(VALUES, dataset), dataset)
    ends = [float(slope) * end - 1024 for end in (0, 4095)]
    expected = (seen - ends[0]) / (ends[1] - ends[0]) * 255
    expected = 255 - expected if kind == "MONOCHROME1" else expected
    np.testing.assert_allclose(decode_rgb(content)[..., 0], expected, atol=1)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("first", [0, 100])
def test_a_voi_lut_is_pydicoms(bits: int, first: int) -> None:
    item = Dataset()
    item.LUTDescriptor = [256, first, bits]
    item.add_new("LUTData", "US", [int(level) for level in np.linspace(2**bits - 1, 0, 256) ** 1.0])
    content = dicom(VALUES, VOILUTSequence=[item, item], **TWELVE)
    seen = pixels.apply_voi_lut(VALUES, open_dicom(content).dataset)
    np.testing.assert_allclose(decode_rgb(content)[..., 0], seen / (2**bits - 1) * 255, atol=0.51)
