"""Limits the frames of a file: a small file may have millions, and an animation's are decoded one after another."""

from PIL import Image

from tumorboard.base.errors import ImageError

MAX_FRAMES = 10_000  # frames of a file
MAX_PASSED = 20  # pixels decoded before the chosen frame of an animation, as a multiple of crop.max_pixels
_ANIMATED = ("GIF", "PNG", "WEBP")  # each frame is a change of the one before it


def check_frame_count(picture: Image.Image, content: bytes) -> None:
    """Raises ImageError if a file has more than MAX_FRAMES frames, whose count alone would take minutes.

    Args:
        picture: the opened file, in a format of FORMATS.
        content: the bytes of its file.
    """
    if picture.format == "GIF":
        many = _has_more_gif_frames(content, MAX_FRAMES)
    elif picture.format == "TIFF":
        many = _has_page(picture, MAX_FRAMES)
    else:
        many = int(getattr(picture, "n_frames", 1)) > MAX_FRAMES  # the header states it
    if many:
        raise ImageError("unsupported", f"more than {MAX_FRAMES} frames: save those to be used as files of their own")


def check_passed_frames(picture: Image.Image, frame: int, max_pixels: int) -> None:
    """Raises ImageError if the frames before the chosen one have too many pixels to be decoded.

    Args:
        picture: the opened file; only animated formats decode the frames before.
        frame: index of the chosen frame.
        max_pixels: `crop.max_pixels`.
    """
    passed = frame * picture.width * picture.height
    if picture.format in _ANIMATED and passed > MAX_PASSED * max_pixels:
        raise ImageError(
            "unsupported",
            f"{passed} pixels in the {frame} frames before the chosen one, expected at most {MAX_PASSED} times "
            f"{max_pixels} (crop.max_pixels): set data.frames to first, or save the frame as a file of its own",
        )


def _has_page(picture: Image.Image, number: int) -> bool:
    """Returns whether a TIFF has the page `number`, counted from 0; returns to the first page."""
    try:
        for page in range(1, number + 1):  # after a seek beyond the end, Pillow counts wrongly
            picture.seek(page)
    except EOFError:
        return False
    finally:
        picture.seek(0)
    return True


def _has_more_gif_frames(content: bytes, limit: int) -> bool:
    """Returns whether a GIF has more frames than a limit; a damaged one has as many as are found before the damage.

    Source: GIF89a specification, sections 17 to 26.
    """
    place = 13 + _color_table_bytes(content[10:11])
    frames = 0
    while (kind := content[place : place + 1]) in (b"!", b","):
        if kind == b",":
            frames += 1
            if frames > limit:
                return True
            place += 11 + _color_table_bytes(content[place + 9 : place + 10])
        else:
            place += 2
        while place < len(content) and content[place]:  # sub-blocks, each after its length
            place += 1 + content[place]
        place += 1
    return False


def _color_table_bytes(flags: bytes) -> int:
    """Returns the length of the color table that a byte of flags states."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
