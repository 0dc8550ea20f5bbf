"""The tolerance limit against its published sample sizes, and its coverage with groups."""

import numpy as np
import pytest
from scipy.stats import beta

from tumorboard.evaluation.tolerance import tolerance_limit


@pytest.mark.parametrize(("number", "from_the_top"), [(58, 1), (59, 1), (92, 1), (93, 2), (123, 2), (124, 3)])
def test_the_rank_is_that_of_the_tables_for_95_percent(number: int, from_the_top: int) -> None:
    """59, 93 and 124 are the smallest samples for the first, second and third largest value (Wilks 1941)."""
    assert tolerance_limit(np.arange(float(number)), np.arange(number), share=0.05) == number - from_the_top


def test_groups_of_equal_images_count_as_one_image_each() -> None:
    values = np.repeat(np.arange(200.0), 10)
    assert tolerance_limit(values, np.arange(2000), share=0.05) < tolerance_limit(
        values, np.repeat(np.arange(200), 10), share=0.05
    )


def test_the_order_of_rows_and_the_numbers_of_groups_do_not_matter() -> None:
    random = np.random.default_rng(0)
    values, groups = random.normal(size=500), random.integers(0, 30, 500)
    order = random.permutation(500)
    limit = tolerance_limit(values, groups, share=0.1)
    assert tolerance_limit(values[order], groups[order] * 7 + 3, share=0.1) == limit
    assert limit > np.quantile(values, 0.9)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_few_values_one_group_and_ties_give_the_largest(number: int) -> None:
    values = np.arange(float(number))
    assert tolerance_limit(values, np.zeros(number, np.int64), share=0.05) == number - 1
    assert tolerance_limit(np.ones(number), np.arange(number), share=0.05) == 1


def test_at_most_the_share_of_new_images_exceeds_it_in_nine_of_ten_samples_of_patients() -> None:
    """Patients shift their images by half of the images' own spread."""
    random = np.random.default_rng(0)
    kept = []
    for _ in range(400):
        groups = np.repeat(np.arange(25), 20)
        values = 0.5 * random.normal(size=25)[groups] + random.normal(size=500)
        limit = tolerance_limit(values, groups, share=0.05)
        exceeding = (0.5 * random.normal(size=20_000) + random.normal(size=20_000) > limit).mean()
        kept.append(exceeding <= 0.05)
    assert np.mean(kept) >= 0.85
    plain = beta.cdf(0.95, 475, 26)  # the quantile of 500 independent images fails half of the time
    assert 0.4 < plain < 0.6
