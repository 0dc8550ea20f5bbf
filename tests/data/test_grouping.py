"""Codes of values, and the sets that pairs connect, against counting by hand."""

import numpy as np
import pandas as pd
import pytest

from tumorboard.data.grouping import connected_sets, factorize


def test_codes_follow_the_sorted_values_of_names_that_are_not_utf8() -> None:
    values, codes = factorize(pd.Series(["b\udcff", "a", "b", "b\udcff"], dtype=object))
    assert values.tolist() == ["a", "b", "b\udcff"]
    assert codes.tolist() == [2, 0, 1, 2]


def test_no_pairs_make_sets_of_one() -> None:
    empty = np.empty(0, np.int64)
    assert connected_sets(3, empty, empty).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_sets_are_those_of_relabeling_until_nothing_changes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 40, (2, 25))
    smallest = list(range(40))
    for _ in range(40):
        for one, other in zip(first, second, strict=True):
            smallest[one] = smallest[other] = min(smallest[one], smallest[other])
    assert connected_sets(40, first, second).tolist() == smallest
