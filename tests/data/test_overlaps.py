"""Overlaps: pictures of one field are found in spite of shift and focus; textures and blank pictures are not paired."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from tests.data.scenes import Pixels, reader_of, resized, scene
from tumorboard.data import overlaps
from tumorboard.data.overlaps import Overlaps, find_overlaps

FIELD, PICTURE = 320, 128  # pixels


def cut(field: Pixels, top: int, left: int) -> Pixels:
    return field[top : top + PICTURE, left : left + PICTURE]


def refocused(picture: Pixels) -> Pixels:
    """Returns a picture out of focus and darker."""
    blurred = cv2.GaussianBlur(picture, (0, 0), 2.0).astype(np.float64)
    return np.clip(0.85 * blurred + 5, 0, 255).astype(np.uint8)


def overlaps_of(pictures: dict[str, Pixels], share: float = 0.5) -> Overlaps:
    crops = {name: resized(picture) for name, picture in pictures.items()}
    return find_overlaps(list(crops), reader_of(crops), share)


def ends(pairs: Overlaps) -> set[tuple[str, str]]:
    return set(zip(pairs["first"], pairs["second"], strict=True))


# The shares that the shifts in y and x leave: 0.5 * 1, 0.75 * 0.8, (1 - 13 / 128) * (1 - 14 / 128).
SHIFTS = {0.5: [(64, 0), (0, -64), (38, 37)], 0.6: [(32, 26), (-51, 0)], 0.8: [(13, -14), (0, 25)], 1.0: [(0, 0)]}


# Few pictures are compared all with all; of more, only candidates.
@pytest.mark.parametrize("others", [0, 150])
@pytest.mark.parametrize("share", SHIFTS)
def test_two_pictures_of_one_field_are_found(share: float, others: int) -> None:
    pictures = {f"x{n:03d}": scene(1000 + n, PICTURE) for n in range(others)}
    expected = set()
    for number, (y, x) in enumerate(SHIFTS[share]):
        field = scene(number, FIELD)
        pictures[f"a{number}"] = cut(field, 96, 96)
        pictures[f"b{number}"] = refocused(cut(field, 96 + y, 96 + x))
        expected.add((f"a{number}", f"b{number}"))
    pairs = overlaps_of(pictures)
    assert ends(pairs) == expected
    assert pairs["correlation"].between(overlaps.CORRELATION, 1).all()


def test_a_smaller_share_than_asked_for_is_no_overlap() -> None:
    field = scene(0, FIELD)
    pictures = {"a": cut(field, 96, 96), "b": cut(field, 96 + 52, 96)}  # 59 % of the area
    assert ends(overlaps_of(pictures, 0.5)) == {("a", "b")}
    assert overlaps_of(pictures, 0.7).empty
    apart = {"a": cut(field, 96, 96), "b": cut(field, 96 + 90, 96)}  # 30 %
    assert overlaps_of(apart, 0.5).empty


def test_a_row_of_fields_is_paired_with_its_neighbors_only() -> None:
    field = scene(3, 600)
    pictures = {f"{n}": cut(field, 200, 50 * n) for n in range(5)}  # neighbors share 61 %, the next ones 22 %
    assert ends(overlaps_of(pictures)) == {("0", "1"), ("1", "2"), ("2", "3"), ("3", "4")}


def stripes(period: float, phase: float) -> Pixels:
    wave = 120 + 80 * np.sin(2 * np.pi * (np.arange(PICTURE) + phase) / period)
    return np.repeat(np.tile(wave[None, :, None], (PICTURE, 1, 1)), 3, 2).astype(np.uint8)


def checks(period: int, phase: int) -> Pixels:
    y, x = np.mgrid[:PICTURE, :PICTURE]
    board = (((y + phase) // period + x // period) % 2 * 200).astype(np.uint8)
    return np.repeat(board[..., None], 3, 2)


@pytest.mark.parametrize("others", [0, 80])
@pytest.mark.parametrize("draw", [stripes, checks], ids=["stripes", "checks"])
def test_periodic_textures_are_no_overlap(draw: Callable[[int, int], Pixels], others: int) -> None:
    """They correlate by 1 at many shifts."""
    pictures = {f"p{n}": draw(16, 5 * n) for n in range(4)}
    pictures |= {f"x{n:02d}": scene(n, PICTURE) for n in range(others)}
    assert overlaps_of(pictures).empty


def test_textures_of_one_kind_are_no_overlap() -> None:
    assert overlaps_of({f"{n:03d}": scene(n, PICTURE) for n in range(200)}).empty


def test_pictures_that_are_blank_or_blank_where_they_meet_are_no_overlap() -> None:
    """In two of them a half has detail, each time another half, so that only blank halves could be laid together."""
    left, right = scene(0, PICTURE).copy(), scene(1, PICTURE).copy()
    left[:, : PICTURE // 2 + 20] = 120
    right[:, PICTURE // 2 - 20 :] = 120
    blank = {f"blank{n}": np.full((PICTURE, PICTURE, 3), 40 * n, np.uint8) for n in range(3)}
    assert overlaps_of({"left": left, "right": right, **blank}).empty
    assert overlaps_of({f"{n:03d}": blank["blank1"] for n in range(100)}).empty


def test_one_or_no_picture() -> None:
    assert list(overlaps_of({"a": scene(0)})) == ["first", "second", "correlation"]
    assert overlaps_of({"a": scene(0)}).empty


def test_the_order_of_the_ids_does_not_matter() -> None:
    field = scene(0, FIELD)
    pictures = {f"x{n:03d}": scene(1000 + n, PICTURE) for n in range(100)}
    pictures |= {"a": cut(field, 96, 96), "b": cut(field, 96, 140)}
    pairs = overlaps_of(pictures)
    assert ends(pairs) == {("a", "b")}
    assert pairs.equals(overlaps_of(dict(reversed(pictures.items()))))
