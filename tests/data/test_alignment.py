"""Alignment: frames follow what a picture shows, and shifts and scales are undone before details are correlated."""

import cv2
import numpy as np
import pytest

from tests.data.scenes import Pixels, scene
from tumorboard.data.alignment import SIDE, correlate, correlation_by_shift, detail_frames, details


def grey(picture: Pixels) -> Pixels:
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def with_margins(picture: Pixels, top: int, bottom: int, left: int, right: int) -> Pixels:
    return np.pad(picture, ((top, bottom), (left, right), (0, 0)))


def correlation_of(one: Pixels, other: Pixels, *, mirrored: bool = False) -> float:
    thumbs = np.stack([grey(one), grey(other)])
    return float(correlate(thumbs, np.array([0]), np.array([1]), np.array([mirrored]))[0])


def round_scene(seed: int) -> Pixels:
    """Returns a scene in a disc, black outside, as a head in a scan is."""
    y, x = np.mgrid[:192, :192] - 95.5
    return np.where((y**2 + x**2 < 90**2)[..., None], scene(seed, 192), 0).astype(np.uint8)


def test_the_frame_of_a_rectangle_of_equal_detail() -> None:
    """10 % of its rows and columns lie beyond each side: rows 8 to 28 leave 10 to 26, of 48 pixels."""
    detail = np.zeros((1, SIDE, SIDE), np.float32)
    detail[0, 8:28, 4:44] = 3
    assert detail_frames(detail)[0] == pytest.approx([10 / 24 - 1, 26 / 24 - 1, 8 / 24 - 1, 40 / 24 - 1])


def test_a_picture_without_detail_has_a_frame_too() -> None:
    assert np.isfinite(detail_frames(np.zeros((2, SIDE, SIDE), np.float32))).all()


@pytest.mark.parametrize(
    "margins", [(0, 0, 0, 0), (40, 40, 40, 40), (0, 60, 0, 60), (30, 0, 50, 10)], ids=["none", "all", "two", "uneven"]
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_margins_are_undone(margins: tuple[int, int, int, int], mirrored: bool) -> None:
    """A copy with black margins shows its content smaller, at another place and, with uneven ones, in another shape."""
    copy = with_margins(round_scene(0), *margins)
    shown = np.ascontiguousarray(copy[:, ::-1]) if mirrored else copy
    assert correlation_of(round_scene(0), shown, mirrored=mirrored) > 0.97
    assert correlation_of(shown, round_scene(0), mirrored=mirrored) > 0.97
    assert correlation_of(round_scene(1), shown, mirrored=mirrored) < 0.8


def test_pairs_do_not_depend_on_their_neighbors_in_a_batch() -> None:
    thumbs = np.stack([grey(scene(n)) for n in range(50)] + [grey(scene(n)[2:-3, 4:]) for n in range(50)])
    first, second = np.arange(50), np.arange(50, 100)
    second[::3] = np.roll(second[::3], 1)
    together = correlate(thumbs, first, second, np.zeros(50, bool))
    alone = [correlate(thumbs, first[[n]], second[[n]], np.zeros(1, bool))[0] for n in range(50)]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert correlate(thumbs, first[:0], second[:0], np.zeros(0, bool)).shape == (0,)


def test_the_correlation_by_shift_is_that_of_numpy() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(10, 3, (2, 1, 12, 12)).astype(np.float32)
    surface = correlation_by_shift(one, other, 4)[0]
    assert surface.shape == (9, 9)
    for y, x in ((0, 0), (3, -2), (-4, 4), (1, 0)):
        rows, columns = ([(row, row - s) for row in range(12) if 0 <= row - s < 12] for s in (y, x))
        mine = one[0][np.ix_([r for r, _ in rows], [c for c, _ in columns])]
        theirs = other[0][np.ix_([r for _, r in rows], [c for _, c in columns])]
        assert surface[4 + y, 4 + x] == pytest.approx(np.corrcoef(mine.ravel(), theirs.ravel())[0, 1], abs=1e-4)


def test_parts_without_detail_have_no_correlation() -> None:
    flat = np.full((1, 12, 12), 7, np.float32)
    assert (correlation_by_shift(flat, details(flat), 3) == -1).all()
