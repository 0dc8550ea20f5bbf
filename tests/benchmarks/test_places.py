"""Fields of cells whose places are known."""

import numpy as np
import pytest

from benchmarks.committed import intraclass_correlation
from benchmarks.places import SIDE, Place, compose, draw_place


def test_the_cell_is_where_its_box_is() -> None:
    """A red cell on a grey ground: its middle has its color, the ground that of its edge, up to noise of 3 levels."""
    cell = np.full((40, 40, 3), 100, np.uint8)
    cell[5:35, 5:35] = (0, 0, 200)
    other = np.full((30, 30, 3), 100, np.uint8)
    field, place = compose(cell, [other], np.random.default_rng(1))
    assert field.shape == (SIDE, SIDE, 3)
    assert (place.side, 0 <= place.left <= SIDE - 40, 0 <= place.top <= SIDE - 40) == (40, True, True)
    middle = field[place.top + 20, place.left + 20]
    assert middle.tolist() == [0, 0, 200]
    red = np.argwhere(field[..., 2] > 150)
    x, y, width, height = place.without_margin()
    assert (red.min(0) >= [y - 1, x - 1]).all()
    assert (red.max(0) <= [y + height + 1, x + width + 1]).all()
    corners = field[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert ((corners >= 100) & (corners <= 103)).all()


def test_squares_do_not_overlap_and_a_full_field_has_no_place() -> None:
    generator = np.random.default_rng(2)
    taken: list[Place] = []
    while place := draw_place(40, taken, generator):
        assert not any(place.overlaps(other) for other in taken)
        taken.append(place)
    assert 4 <= len(taken) <= 16
    assert draw_place(SIDE, taken, generator) is None


def test_the_intraclass_correlation_is_that_of_the_analysis_of_variance() -> None:
    """By hand: means 2/3 and 1/4, sizes 3 and 4; mean squares between .297619 and within .283333; typical size 24/7."""
    values = np.array([1.0, 1, 0, 1, 0, 0, 0])
    groups = np.array(["a"] * 3 + ["b"] * 4, dtype=object)
    between, within, size = 25 / 84, 17 / 60, 24 / 7
    assert intraclass_correlation(values, groups) == pytest.approx((between - within) / (between + (size - 1) * within))
