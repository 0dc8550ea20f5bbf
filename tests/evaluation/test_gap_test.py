import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.contingency_tables import StratifiedTable

from tumorboard.evaluation import gap_test
from tumorboard.evaluation.gap_test import blocks_of, compare_sides


def draw(seed, groups=30, per_group=6, gap=0.0, mixed=False, classes=2):
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), generator.integers(1, per_group + 1, groups))
    inside = generator.uniform(size=len(group)) < 0.5 if mixed else group < groups // 2
    actual = generator.integers(classes, size=len(group))
    ability = generator.normal(0.8, 0.1, groups)[group] - gap * inside
    names = np.array([f"p{k:03}" for k in group], dtype=object)
    return names, actual, generator.uniform(size=len(group)) < ability, inside


def compare(rows, seed=0, stream="test", confidence=0.95):
    return compare_sides(blocks_of(*rows), confidence=confidence, seed=seed, stream=stream)


def test_the_gap_is_mantel_and_haenszels_risk_difference():
    """By hand: 4 of 8 against 6 of 8 in class 0, 9 of 10 against 38 of 40 in class 1, with weights 4 and 8."""
    actual = np.repeat([0, 0, 1, 1], [8, 8, 10, 40])
    inside = np.repeat([True, False, True, False], [8, 8, 10, 40])
    right = np.concatenate([np.arange(n) < hits for n, hits in ((8, 4), (8, 6), (10, 9), (40, 38))])
    names = np.array([f"p{k}" for k in range(66)], dtype=object)
    gap = compare((names, actual, right, inside))
    assert gap.gap == pytest.approx((4 * (4 / 8 - 6 / 8) + 8 * (9 / 10 - 38 / 40)) / 12)
    oracle = StratifiedTable([[[4, 4], [6, 2]], [[9, 1], [38, 2]]])
    assert math.copysign(1, oracle.logodds_pooled) == math.copysign(1, gap.gap)


def test_more_images_of_the_difficult_class_are_no_gap():
    """90 % of one class and half of the other are right on both sides, which have different shares of the two."""
    actual = np.repeat([0, 1, 0, 1], [20, 180, 180, 20])
    inside = np.repeat([True, True, False, False], [20, 180, 180, 20])
    right = np.concatenate([np.arange(20) < 18, np.arange(180) < 90, np.arange(180) < 162, np.arange(20) < 10])
    names = np.array([f"p{k}" for k in range(400)], dtype=object)
    gap = compare((names, actual, right, inside))
    assert right[inside].mean() - right[~inside].mean() == pytest.approx(-0.32)
    assert gap.gap == pytest.approx(0)
    assert gap.p == 1


def test_the_interval_counts_groups_and_not_images():
    rows = draw(0)
    copies = tuple(np.tile(column, 50) for column in rows)
    assert compare(copies) == pytest.approx(compare(rows))
    own = (np.array([f"i{k}" for k in range(len(rows[0]) * 50)], dtype=object), *copies[1:])
    assert compare(own).high - compare(own).low < (compare(rows).high - compare(rows).low) / 4


def test_standard_error_of_one_class_is_that_of_two_ratios():
    """With one image per group and one class: the two binomial variances, times G / (G - 1)."""
    inside = np.arange(100) < 40
    right = np.concatenate([np.arange(40) < 20, np.arange(60) < 45])
    names = np.array([f"p{k}" for k in range(100)], dtype=object)
    gap = compare((names, np.zeros(100, dtype=int), right, inside))
    error = math.sqrt((0.25 / 40 + 0.75 * 0.25 / 60) * 100 / 99)
    assert gap.gap == pytest.approx(-0.25)
    assert (gap.low, gap.high) == pytest.approx((-0.25 - t.ppf(0.975, 39) * error, -0.25 + t.ppf(0.975, 39) * error))


@pytest.mark.parametrize("mixed", [False, True])
def test_p_is_that_of_all_arrangements(mixed, monkeypatch):
    """Eight groups: every exchange of whole groups, or of halves of groups, is enumerated with the formulas again."""
    names, actual, right, inside = draw(3, groups=8, per_group=5, gap=0.3, mixed=mixed, classes=1)
    unique = np.unique(names)
    both = {name for name in unique if len(set(inside[names == name])) == 2}
    assert len(both) >= (4 if mixed else 0)

    def statistic(side):
        if side.all() or not side.any():
            return math.inf
        rate, other = right[side].mean(), right[~side].mean()
        influence = [
            (right[side & (names == n)] - rate).sum() / side.sum()
            - (right[~side & (names == n)] - other).sum() / (~side).sum()
            for n in unique
        ]
        error = math.sqrt(np.square(influence).sum() * 8 / 7)
        return abs(rate - other) / error if error > 0 else math.inf

    single = [name for name in unique if name not in both]
    count = sum(inside[names == name][0] for name in single)
    statistics = []
    for swaps in itertools.product([False, True], repeat=len(both)):
        swapped = {name for name, swap in zip(sorted(both), swaps, strict=True) if swap}
        for chosen in itertools.combinations(single, count):
            side = np.array(
                [i != (n in swapped) if n in both else n in chosen for n, i in zip(names, inside, strict=True)]
            )
            statistics.append(statistic(side))
    exact = np.mean(np.array(statistics) >= statistic(inside) - 1e-9)
    blocks = blocks_of(names, actual, right, inside)
    assert blocks.arrangements == len(statistics)
    monkeypatch.setattr(gap_test, "PERMUTATIONS", 9999)
    assert compare((names, actual, right, inside)).p == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("mixed", [False, True])
def test_sides_are_each_others_mirror(mixed):
    names, actual, right, inside = draw(1, gap=0.2, mixed=mixed)
    one, other = compare((names, actual, right, inside)), compare((names, actual, right, ~inside))
    assert (one.gap, one.low, one.high) == pytest.approx((-other.gap, -other.high, -other.low))
    assert one.p == pytest.approx(other.p, abs=0.03)


def test_the_order_of_rows_does_not_matter_and_seed_and_stream_do():
    rows = draw(2, gap=0.1)
    order = np.random.default_rng(0).permutation(len(rows[0]))
    assert compare(tuple(column[order] for column in rows)) == pytest.approx(compare(rows))
    assert compare(rows, seed=1).p != compare(rows).p
    assert compare(rows, stream="another").p != compare(rows).p


@pytest.mark.parametrize("cells", [1, 300])
def test_permutations_in_chunks_are_as_many_different_ones(cells, monkeypatch):
    monkeypatch.setattr(gap_test, "PERMUTATIONS", 499)
    rows = draw(2, gap=0.1)
    together = compare(rows).p
    assert 0.05 < together < 0.95
    monkeypatch.setattr(gap_test, "CHUNK_CELLS", cells)
    assert compare(rows).p == pytest.approx(together, abs=0.1)


def test_a_group_with_images_on_both_sides_is_compared_with_itself():
    """Patients differ a lot; within each, one more image in ten is wrong inside. Whole patients could not show that."""
    names = np.repeat([f"p{k:02}" for k in range(20)], 40).astype(object)
    inside = np.tile(np.arange(40) < 20, 20)
    hits = np.repeat(np.linspace(6, 20, 20).round(), 40)
    right = np.tile(np.arange(40) % 20, 20) < hits - 2 * inside
    within = compare((names, np.zeros(800, dtype=int), right, inside))
    assert within.gap == pytest.approx(-0.1)
    assert within.p < 0.001
    assert (within.low, within.high) == pytest.approx((-0.1, -0.1))
    apart = np.array([f"{name}/{side}" for name, side in zip(names, inside, strict=True)], dtype=object)
    assert compare((apart, np.zeros(800, dtype=int), right, inside)).p > 0.1


def test_no_mistake_is_no_gap():
    names, actual, right, inside = draw(0)
    perfect = compare((names, actual, np.ones_like(right), inside))
    assert (perfect.gap, perfect.low, perfect.high, perfect.p) == (0, 0, 0, 1)


def test_all_right_against_all_wrong_is_as_rare_as_its_arrangements():
    names, actual, _, inside = draw(0, groups=12)
    apart = compare((names, np.zeros_like(actual), ~inside, inside))
    assert apart.gap == -1
    assert apart.p < 0.01  # 2 of 924 arrangements
    names, actual, _, inside = draw(0, groups=40)
    assert compare((names, np.zeros_like(actual), ~inside, inside)).p == 1 / 2000  # never 0


def test_too_few_groups_or_no_class_in_common_have_no_p():
    names, actual, right, inside = draw(0)
    two = np.isin(names, ["p000", "p001"])
    few = compare((names, actual, right, two))
    assert math.isfinite(few.gap)
    assert np.isnan(few[1:]).all()
    assert np.isnan(compare((names, inside.astype(int), right, inside))).all()


def test_many_groups_are_compared_with_the_normal_distribution(monkeypatch):
    rows = draw(5, groups=400, gap=0.08)
    normal = compare(rows)
    error = (normal.high - normal.low) / 2 / t.ppf(0.975, 199)
    assert normal.p == pytest.approx(2 * norm.sf(abs(normal.gap) / error))
    monkeypatch.setattr(gap_test, "MANY_GROUPS", 10**9)
    assert compare(rows).p == pytest.approx(normal.p, abs=0.015)
