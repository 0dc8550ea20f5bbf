"""Files of many frames: a bound on their number and on what is decoded before the chosen one."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorboard.base.errors import ImageError
from tumorboard.base.params import Params
from tumorboard.images import frames as module
from tumorboard.images.decode import decode
from tumorboard.images.frames import _has_more_gif_frames


def pictures(count: int, side: int = 20) -> list[Image.Image]:
    """Frames whose grey levels are 10, 11, 12 …"""
    return [Image.new("L", (side, side), 10 + number) for number in range(count)]


def saved(kind: str, frames: list[Image.Image], **options: Any) -> bytes:
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], **options)
    return stream.getvalue()


def tiny_gif(count: int) -> bytes:
    """A GIF whose later frames have one pixel and 25 bytes each."""
    dot = saved("GIF", [Image.new("L", (1, 1))])
    frame = b"\x21\xf9\x04\x04\x05\0\0\0" + dot[dot.index(b",") : -1]
    return saved("GIF", pictures(1, 64))[:-1] + frame * (count - 1) + b";"


def endless_tiff() -> bytes:
    """A TIFF whose last page names the first one as the next."""
    content = bytearray(saved("TIFF", pictures(2, 64)))
    (first,) = struct.unpack_from("<I", content, 4)
    second_at = first + 2 + 12 * struct.unpack_from("<H", content, first)[0]
    (second,) = struct.unpack_from("<I", content, second_at)
    end = second + 2 + 12 * struct.unpack_from("<H", content, second)[0]
    struct.pack_into("<I", content, end, first)
    return bytes(content)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("palette", [False, True])
def test_gif_frames_are_counted_as_pillow_counts_them(count: int, palette: bool) -> None:
    frames = [Image.fromarray(np.full((20, 20), number, np.uint8)) for number in range(count)]
    content = saved("GIF", [frame.convert("P") if palette else frame for frame in frames], comment=b"x" * 700)
    assert Image.open(io.BytesIO(content)).n_frames == count
    assert _has_more_gif_frames(content, count - 1)
    assert not _has_more_gif_frames(content, count)


@pytest.mark.parametrize("cut", [0, 5, 10, 13, 14, 30, -5, -1])
def test_a_damaged_gif_is_counted_to_its_damage(cut: int) -> None:
    assert not _has_more_gif_frames(saved("GIF", pictures(5))[:cut], 5)


def test_more_frames_than_the_limit_are_unsupported_at_once(params: Params) -> None:
    crop = params.crop.model_copy(update={"min_side": 1})
    for frames in ("first", "middle", None):
        with pytest.raises(ImageError, match=r"^unsupported: more than 10000 frames: save"):
            decode(tiny_gif(10_001), crop, frames)
    assert decode(tiny_gif(10_000), crop, "first")[0].shape == (64, 64)
    with pytest.raises(ImageError, match=r"^multi-frame without a rule: 300 frames"):
        decode(tiny_gif(300), crop, None)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_limit_holds_for_every_format_of_several_frames(
    kind: str, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = params.crop.model_copy(update={"min_side": 1})
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(kind, [each.convert("RGB") for each in pictures(5)], **options)
    monkeypatch.setattr(module, "MAX_FRAMES", 5)
    assert decode(content, crop, "middle")[0].flat[0] == 12  # the third of five
    assert decode(content, crop, "first")[0].flat[0] == 10
    monkeypatch.setattr(module, "MAX_FRAMES", 4)
    with pytest.raises(ImageError, match=r"^unsupported: more than 4 frames"):
        decode(content, crop, "first")


def test_pages_of_a_tiff_that_go_round_in_a_circle_end(params: Params) -> None:
    """Pillow itself counts such pages once."""
    crop = params.crop.model_copy(update={"min_side": 1})
    assert decode(endless_tiff(), crop, "first")[0].flat[0] == 10
    assert decode(endless_tiff(), crop, "middle")[0].flat[0] == 11


def test_frames_that_would_be_decoded_before_the_chosen_one_are_bounded(params: Params) -> None:
    """Of 100 frames of 400 pixels, 50 come before the one in the middle: 20,000 pixels, 20 times 1000."""
    content = saved("GIF", pictures(100))
    crop = params.crop.model_copy(update={"min_side": 1, "max_pixels": 1000})
    assert decode(content, crop, "middle")[0].flat[0] == 60
    small = crop.model_copy(update={"max_pixels": 999})
    with pytest.raises(ImageError, match=r"^unsupported: 20000 pixels in the 50 frames before .* 20 times 999 \(crop"):
        decode(content, small, "middle")
    assert decode(content, small, "first")[0].flat[0] == 10
    pages = saved("TIFF", pictures(100))  # whose pages are read without those before
    assert decode(pages, small, "middle")[0].flat[0] == 60
