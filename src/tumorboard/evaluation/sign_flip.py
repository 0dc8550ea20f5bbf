"""The sign-flip test of a paired difference, and the interval that is the test's inverse; whole groups are flipped.

Where two models are equally good, they could have changed places in any patient. The difference of a score is a sum of
one contribution per patient, and changing places there flips the sign of that contribution. The test compares the
difference with the sums of all flips; the interval has the differences that the test does not reject.

Example:
    >>> names = ["P01", "P02", "P03", "P04", "P05", "P06", "P07"]
    >>> gains = np.array([0.02, 0.01, 0.03, 0.01, 0.02, 0.01, 0.02])  # 1 flip of 64 has a sum as large
    >>> flip_signs(gains, np.full(7, 1 / 7), names, confidence=0.95, seed=0, permutations=9999).p
    0.015625
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # which imports scipy.special when that is first used
from numpy.typing import NDArray

from tumorboard.base.randomness import keys_of, uniforms

STREAM = 1 << 20  # the first counter of the draws, apart from those of other uses of the same seed and names
MANY_GROUPS = 1000  # more groups are merged into as many sets, which are flipped
CHUNK_CELLS = 4_000_000  # flips times groups in memory at a time: 32 MB of float64
ROUNDING = 1e-12  # differences that differ by less are equal but for rounding


class Flipped(NamedTuple):
    """What `flip_signs` returns."""

    difference: float  # the sum of the contributions
    low: float  # lower end of the interval; nan where there are too few groups
    high: float  # upper end of the interval; nan where there are too few groups
    p: float  # two-sided p-value; nan where there are too few groups
    groups: int  # number of groups that have a weight


def flip_signs(
    contributions: NDArray[np.float64],
    weights: NDArray[np.float64],
    groups: Sequence[str],
    *,
    confidence: float,
    seed: int,
    permutations: int,
) -> Flipped:
    """Tests whether a sum of one contribution per group differs from 0, and inverts the test.

    All 2^(G-1) flips are taken, or `permutations` of them where there are more. p is the share of flips whose sum is at
    least as far from 0 as the observed one, which counts among them; equal sums count half (mid-p), since the sums of
    few images take few values and p would be too large. A difference d is in the interval where the contributions minus
    d times the weights give a p of at least 1 - confidence. Where almost no group differs, the interval is widened by
    what the groups that did not differ leave open (`_limits_of_few`).

    Args:
        contributions: float64[G], what each group adds to the difference.
        weights: float64[G], the part of a difference that each group would have by its number of images; not negative,
            with the sum 1. Groups without a weight are left out.
        groups: the G group names, by which flips are drawn.
        confidence: confidence level of the interval.
        seed: seed of the drawn flips.
        permutations: number of flips to draw.

    Returns:
        The test, without interval and p where no flip of so few groups can have a p below 1 - confidence.

    Source:
        Fisher 1935; Pitman 1937; Hartigan 1969 for the inverse: the ends are order statistics of the differences in
        random halves of the groups. Lancaster 1961 for mid-p; Phipson and Smyth 2010 for drawn flips.
    """
    weighted = weights > 0
    count = int(weighted.sum())
    difference = float(contributions.sum())
    names = [name for name, has in zip(groups, weighted, strict=True) if has]
    contributions, weights, keys = _merge(contributions[weighted], weights[weighted], keys_of(names))
    exact = 2.0 ** (len(keys) - 1) <= permutations + 1
    total = 2 ** (len(keys) - 1) if exact and count else permutations + 1  # the observed signs included
    # A difference is rejected where fewer than `needed` flips besides the observed one are as far from 0.
    needed = math.ceil((1 - confidence) * total - 1e-9) - 1
    if count == 0 or needed < 1:
        return Flipped(difference, math.nan, math.nan, math.nan, count)
    flips = _all_flips(len(keys)) if exact else _drawn_flips(tuple(keys.tolist()), seed, permutations)
    columns = np.stack([contributions, weights], 1)
    sums, shares = np.concatenate([np.where(chunk, -1.0, 1.0) @ columns for chunk in flips]).T
    p = _mid_p(difference, sums, total)
    low, high = _inverse(difference, sums, shares, needed)
    few = 0.5 ** (int((np.abs(contributions) > ROUNDING).sum()) - 1) >= 1 - confidence
    if few and p >= 1 - confidence:
        least, largest = _limits_of_few(contributions, weights, confidence)
        low, high = min(low, least), max(high, largest)
    return Flipped(difference, low, high, p, count)


def _mid_p(difference: float, sums: NDArray[np.float64], total: int) -> float:
    """Returns the share of flips whose sum is at least as far from 0 as the observed one; equal sums count half.

    Args:
        difference: the observed sum.
        sums: float64[F], the sums of the flips besides the observed one.
        total: number of flips, the observed one included.
    """
    if abs(difference) <= ROUNDING:
        return 1.0
    distance = np.abs(sums) - abs(difference)
    beyond, equal = (distance > ROUNDING).sum(), (np.abs(distance) <= ROUNDING).sum()
    return float((1 + beyond + equal / 2) / total)


def fewest_groups(confidence: float) -> int:
    """Returns the least number of groups for which a flip can have a p below 1 - confidence.

    >>> fewest_groups(0.95), fewest_groups(0.9)  # one of 2^5 = 32 flips, one of 2^4 = 16
    (6, 5)
    """
    return next(count for count in range(1, 64) if (1 - confidence) * 2.0 ** (count - 1) - 1e-9 > 1)


def _inverse(
    difference: float, sums: NDArray[np.float64], shares: NDArray[np.float64], needed: int
) -> tuple[float, float]:
    """Returns the ends of the interval: the `needed`-th lowest and highest difference in halves of the groups.

    Args:
        difference: the difference over all groups.
        sums: float64[F], sums of the contributions with the signs of each flip.
        shares: float64[F], sums of the weights with the signs of each flip.
        needed: rank of either end, from 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # the halves of a flip that leaves all or none as they are
        halves = np.stack([(difference - sums) / (1 - shares), (difference + sums) / (1 + shares)])
    whole = np.abs(shares) > 1 - ROUNDING
    lows = np.sort(np.where(whole, -np.inf, halves.min(0)))
    highs = np.sort(np.where(whole, np.inf, halves.max(0)))[::-1]
    low, high = (0.0 if abs(end) <= ROUNDING else float(end) for end in (lows[needed - 1], highs[needed - 1]))
    return low, high


def _limits_of_few(
    contributions: NDArray[np.float64], weights: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """Returns how far the difference may reach in either direction where almost no group differs.

    That is the Clopper-Pearson limit of the share of groups that differ in this direction, times the mean difference in
    a group that differs; where none does, that mean may be as large as 1.
    """
    differs = np.abs(contributions) > ROUNDING
    size = float(np.mean(np.abs(contributions[differs]) / weights[differs])) if differs.any() else 1.0
    counts = [int((sign * contributions > ROUNDING).sum()) for sign in (-1, 1)]
    level, groups = (1 + confidence) / 2, len(weights)
    less, more = (
        size * float(scipy.special.betaincinv(seen + 1, groups - seen, level)) if seen < groups else size
        for seen in counts
    )
    return -less, more


def _merge(
    contributions: NDArray[np.float64], weights: NDArray[np.float64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint64]]:
    """Merges more than MANY_GROUPS groups into as many sets, by their keys."""
    if len(keys) <= MANY_GROUPS:
        return contributions, weights, keys
    numbers, member = np.unique(keys % np.uint64(MANY_GROUPS), return_inverse=True)
    contributions, weights = (np.bincount(member, values).astype(np.float64) for values in (contributions, weights))
    return contributions, weights, numbers


def _all_flips(groups: int) -> list[NDArray[np.bool_]]:
    """Returns which groups each flip but the observed one changes, bool[F, G]; the first group keeps its sign."""
    numbers = np.arange(1, 2 ** (groups - 1))
    changed = ((numbers[:, None] >> np.arange(groups - 1)) & 1) == 1
    return [np.hstack([np.zeros((len(numbers), 1), dtype=np.bool_), changed])]


@lru_cache(maxsize=1)  # a report compares all its pairs of models on the same groups, and drawing takes most time
def _drawn_flips(keys: tuple[int, ...], seed: int, permutations: int) -> list[NDArray[np.bool_]]:
    """Returns which groups each drawn flip changes, in chunks bool[F, G]."""
    step = max(1, CHUNK_CELLS // len(keys))
    groups = np.array(keys, dtype=np.uint64)
    return [
        uniforms(seed, groups, STREAM + number, min(step, permutations - first)).T < 0.5
        for number, first in enumerate(range(0, permutations, step))
    ]
