"""Files of other formats are named with what would read them; files that cost time or memory are refused in time."""

import gzip
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, features

from tests.images.samples import COLOR, CROP, FILES, chunk, decode_rgb, encode, large, npy, ramps, reason_for
from tumorboard.base.errors import ImageError
from tumorboard.images import decode as decode_module
from tumorboard.images.decode import decode
from tumorboard.images.decoder_messages import catching_messages, check_messages
from tumorboard.images.formats import explain_foreign, is_readable
from tumorboard.images.jpeg import count_scans

NIFTI = struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(4)
FOREIGN = {
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
    "JPEG 2000 ": b"\xff\x4f\xff\x51" + bytes(20),
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "HEIC ": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "AVIF ": b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
    "NIfTI": NIFTI,
    "NIfTI ": struct.pack(">i", 348) + bytes(340) + b"ni1\0",
    "NIfTI  ": struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n",
    "compressed by gzip: a NIfTI": gzip.compress(NIFTI + bytes(1000)),
    "Analyze": struct.pack("<i", 348) + bytes(344),
    "MetaImage": b"ObjectType = Image\nNDims = 3\n",
    "MetaImage ": b"NDims = 3\nDimSize = 1 2 3\n",
    "NRRD": b"NRRD0004\ntype: short\n",
    "HDF5": b"\x89HDF\r\n\x1a\n\0",
    "MATLAB": b"MATLAB 5.0 MAT-file, Platform",
    "Photoshop": b"8BPS\0\1",
    "CZI": b"ZISRAWFILE\0\0",
}
OTHERS = {
    "ZIP": b"PK\3\4" + bytes(30),
    "PDF": b"%PDF-1.7",
    "gzip": gzip.compress(b"text"),
    "archive": bytes(257) + b"ustar" + bytes(20),
    "video": b"\0\0\0\x20ftypisom\0\0\2\0",
    "web page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "JSON": b'{"error": "denied"}',
    "zeros only": bytes(2000),
    "SVG": b'<?xml version="1.0"?>\n<svg></svg>',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_image_of_a_format_that_is_not_read_is_named_with_what_reads_it(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_rgb(FOREIGN[name])
    assert caught.value.reason == "unsupported"
    assert name.strip() in caught.value.detail
    assert "save" in caught.value.detail or "cut tiles" in caught.value.detail
    assert not is_readable(FOREIGN[name])


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_image_is_named(name: str) -> None:
    with pytest.raises(ImageError, match=rf"^not an image: .*{name}"):
        decode_rgb(OTHERS[name])


@pytest.mark.parametrize(("form", "feature"), [("JPEG2000", "jpg_2000"), ("AVIF", "avif")])
def test_what_pillow_writes_in_a_foreign_format_is_recognized(form: str, feature: str) -> None:
    if not features.check(feature):
        pytest.skip(f"Pillow was built without {form}")
    assert explain_foreign(encode(COLOR, form)).reason == "unsupported"


@pytest.mark.parametrize("name", FILES)
def test_every_format_that_is_read_is_recognized_by_its_first_bytes(name: str) -> None:
    assert is_readable(FILES[name][:4096])
    assert is_readable(npy(ramps()))


def test_a_whole_slide_image_is_named() -> None:
    content = encode(COLOR, "TIFF", description="Aperio Image Library v11\n46000x32914 JPEG/RGB Q=30")
    with pytest.raises(ImageError, match=r"^unsupported: a whole-slide image \(SVS\): cut tiles with OpenSlide"):
        decode_rgb(content)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("side", [None, 60.0])
def test_a_jpeg_that_is_cut_but_ends_properly_is_truncated(options: dict[str, int], mode: str, side: float) -> None:
    content = encode(COLOR.resize((330, 250)).convert(mode), "JPEG", quality=95, **options)
    assert decode_rgb(content, least_side=side).ndim == 3
    start = content.index(b"\xff\xda") + 20
    for share in (0.05, 0.3, 0.9):
        cut = content[: start + int(share * (len(content) - start))].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(ImageError, match=r"^(truncated|corrupt)"):
            decode_rgb(cut, least_side=side)


def test_bytes_that_the_decoder_passes_over_are_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    content = large("JPEG", quality=95)
    assert decode(content, CROP, None)[1].warning == ""
    padded = content[:-2] + b"\x55" * 300 + content[-2:]
    pixels, header = decode(padded, CROP, None)
    np.testing.assert_array_equal(pixels, decode(content, CROP, None)[0])
    assert "extraneous bytes before marker 0xd9" in header.warning
    assert capfd.readouterr().err == ""  # it is in the table, with the file's name, and not on the terminal


def test_other_messages_reach_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with catching_messages() as lines:
        os.write(2, b"from elsewhere\nCorrupt JPEG data: bad Huffman code\n")
    assert lines == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "from elsewhere\n"
    with pytest.raises(ImageError, match=r"^corrupt: Corrupt JPEG data: bad Huffman code"):
        check_messages(lines)
    with catching_messages() as lines:
        pass
    assert lines == []


def test_a_forked_process_has_its_own_file_of_messages() -> None:
    decode_rgb(FILES["jpeg"])
    cut = large("JPEG", quality=95)[:3000] + b"\xff\xd9"
    if not (child := os.fork()):
        os._exit(0 if reason_for(cut) == "truncated" else 1)
    assert decode_rgb(FILES["jpeg"]).ndim == 3
    assert os.waitpid(child, 0)[1] == 0


def png_with_idat(side: int, pieces: list[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    body = b"".join([packer.compress(piece) for piece in pieces]) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_png_with_much_data_behind_its_pixels_is_refused_before_it_is_inflated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = bytes(64 * 65)
    assert decode_rgb(png_with_idat(64, [rows])).shape == (64, 64, 3)
    content = png_with_idat(64, [rows, *[bytes(1 << 20)] * 100])
    monkeypatch.delattr(cv2, "imdecode")
    with pytest.raises(ImageError, match=r"^corrupt: more than the 4160 bytes of pixels of a PNG of 64 x 64"):
        decode_rgb(content)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    content = large("JPEG", quality=95, progressive=True)
    scans = count_scans(content)
    assert scans == content.count(b"\xff\xda") > 5
    start = content.rindex(b"\xff\xda")
    end = content.rindex(b"\xff\xd9")
    many = content[:end] + content[start:end] * 400 + content[end:]
    assert count_scans(many) == scans + 400
    with pytest.raises(ImageError, match=rf"^unsupported: a JPEG of {scans + 400} scans"):
        decode_rgb(many)
    some = content[:end] + content[start:end] * 30 + content[end:]
    # 330 x 250 pixels in 40 scans are 3.3 million; 20 times crop.max_pixels are allowed.
    with pytest.raises(ImageError, match=r"^unsupported: a JPEG of 40 scans; of this size 24 are allowed"):
        decode_rgb(some, max_pixels=100_000)


def test_scans_of_a_thumbnail_do_not_count() -> None:
    content = large("JPEG", quality=95)
    thumbnail = b"\xff\xda" * 200
    stuffed = content[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + content[2:]
    assert count_scans(stuffed) == 1
    np.testing.assert_array_equal(decode_rgb(stuffed), decode_rgb(content))


def test_more_bytes_than_allowed_are_refused() -> None:
    content = FILES["png"]
    assert decode_rgb(content, max_bytes=len(content)).ndim == 3
    assert reason_for(content, max_bytes=len(content) - 1) == "too many bytes"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory"),
        (cv2.error("(-215:Assertion failed) buf.checkVector(1, CV_8U) > 0"), "corrupt"),
    ],
)
def test_errors_of_memory_and_of_opencv_are_the_files_reason(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    if isinstance(error, cv2.error):
        error.code = cv2.Error.STS_ASSERT  # OpenCV keeps the code of its last error in the class
    monkeypatch.setattr(decode_module, "_decode_picture", fail)
    assert reason_for(FILES["png"]) == reason


def test_a_large_picture_is_converted_in_bands() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1500, 1400, 4), dtype=np.uint8)
    content = encode(Image.fromarray(picture), "PNG", compress_level=1)
    alpha = picture[..., 3:].astype(float) / 255
    pixels = decode_rgb(content, background=(10, 20, 250), max_pixels=10**7).astype(float)
    np.testing.assert_allclose(pixels, picture[..., :3] * alpha + (1 - alpha) * (10, 20, 250), atol=1)
    grey = np.arange(1500 * 1400, dtype=np.uint32).reshape(1500, 1400) % 4096
    deep = decode_rgb(encode(Image.fromarray(grey.astype(np.uint16)), "PNG"), max_pixels=10**7)
    np.testing.assert_array_equal(deep[..., 0], np.rint(grey * (255 / 4095)))
