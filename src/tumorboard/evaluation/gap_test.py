"""Tests whether a model is right equally often on two kinds of images: by groups, and at equal shares of classes."""

import math
from typing import NamedTuple

import numpy as np
import scipy  # which imports scipy.special when that is first used
from numpy.typing import NDArray

from tumorboard.base.randomness import keys_of, uniforms

Counts = NDArray[np.float64]  # [G, K], images per group and class

PERMUTATIONS = 1999  # number of permutations; the smallest p is 1 in 2,000
CHUNK_CELLS = 2_000_000  # permutations times groups in memory at a time: 16 MB per array of float64
MIN_GROUPS = 3  # the fewest groups on either side that are tested
MANY_GROUPS = 200  # groups on either side from which the statistic is compared with the normal distribution
ROUNDING = 1e-9  # statistics that differ by less are equal


class Gap(NamedTuple):
    """The difference between the images inside a subset and those outside it."""

    gap: float  # share of right images inside minus outside, at equal shares of classes; nan: no class in common
    low: float  # lower end of the interval
    high: float  # upper end of the interval
    p: float  # two-sided p-value


class Blocks(NamedTuple):
    """Images by group, in the two halves between which a permutation exchanges them.

    A group with images on both sides has its inside images in `a` and the others in `b`; a group on one side has all
    its images in `a` and none in `b`.
    """

    names: list[str]  # names of the G groups, sorted
    mixed: NDArray[np.bool_]  # [G], whether the group has images on both sides
    inside: NDArray[np.bool_]  # [G], whether block `a` is inside
    images_a: Counts
    right_a: Counts
    images_b: Counts
    right_b: Counts

    @property
    def sides(self) -> tuple[int, int]:
        """The number of groups with images inside, and with images outside."""
        return int(self.inside.sum()), int((self.mixed | ~self.inside).sum())

    @property
    def arrangements(self) -> int:
        """The number of ways to exchange blocks, the one that was observed included."""
        single = int((~self.mixed).sum())
        exchanged: int = 2 ** int(self.mixed.sum())
        return exchanged * math.comb(single, int((self.inside & ~self.mixed).sum()))


def blocks_of(
    groups: NDArray[np.object_],
    actual: NDArray[np.int64],
    right: NDArray[np.bool_],
    inside: NDArray[np.bool_],
) -> Blocks:
    """Counts N images by group, class and side.

    Args:
        groups: object[N], names.
        actual: int64[N], classes from 0.
        right: bool[N], whether the prediction is the label.
        inside: bool[N], whether the image is in the subset.
    """
    names, group = np.unique(groups, return_inverse=True)
    shape = (2, len(names), int(actual.max()) + 1)
    images, hits = np.zeros(shape), np.zeros(shape)
    np.add.at(images, (inside.astype(int), group, actual), 1)
    np.add.at(hits, (inside.astype(int), group, actual), right)
    has = images.sum(2) > 0
    is_inside = has[1]
    first = np.where(is_inside[:, None], images[1], images[0]), np.where(is_inside[:, None], hits[1], hits[0])
    mixed = has.all(0)
    second = np.where(mixed[:, None], images[0], 0), np.where(mixed[:, None], hits[0], 0)
    return Blocks(names.tolist(), mixed, is_inside, *first, *second)


def compare_sides(blocks: Blocks, *, confidence: float, seed: int, stream: str) -> Gap:
    """Tests the difference in the share of right predictions between the images inside a subset and outside it.

    The difference is taken within each class and averaged with Mantel and Haenszel's weights, so that a site with more
    images of the difficult class is no worse for it. Its standard error counts groups, not images. A group on one side
    is exchanged with other groups as a whole (permutation); a group with images on both sides exchanges its own two
    halves, so it is compared with itself. The statistic is the difference over its standard error.

    Args:
        blocks: the images by group, class and side.
        confidence: confidence level of the interval.
        seed: seed of the permutations, which depend on the groups' names and not on the order of rows.
        stream: name of the test; each name has permutations of its own.

    Returns:
        The difference with its interval (t with one degree of freedom less than the smaller side has groups) and its p.

    Source:
        Greenland and Robins 1985 (Mantel-Haenszel risk difference); Chung and Romano 2013 (studentized permutation);
        Phipson and Smyth 2010 (p is never 0).
    """
    observed = blocks.inside.astype(np.float64)[None]
    gap, error = (float(values[0]) for values in _gap_and_error(blocks, observed))
    fewest = min(blocks.sides)
    if math.isnan(gap) or fewest < MIN_GROUPS:
        return Gap(gap, math.nan, math.nan, math.nan)
    reach = float(scipy.special.stdtrit(fewest - 1, (1 + confidence) / 2)) * error
    statistic = _statistic(np.array([gap]), np.array([error]))[0]
    many = fewest >= MANY_GROUPS
    p = float(2 * scipy.special.ndtr(-statistic)) if many else _permutation_p(blocks, statistic, seed, stream)
    return Gap(gap, max(-1.0, gap - reach), min(1.0, gap + reach), p)


def _permutation_p(blocks: Blocks, statistic: float, seed: int, stream: str) -> float:
    keys = keys_of([f"{stream}//{name}" for name in blocks.names])
    step = max(1, CHUNK_CELLS // len(keys))
    extreme = 0
    for number, first in enumerate(range(0, PERMUTATIONS, step)):
        draws = uniforms(seed, keys, number, min(step, PERMUTATIONS - first)).T
        gap, error = _gap_and_error(blocks, _exchange(blocks, draws))
        extreme += int((_statistic(gap, error) >= statistic - ROUNDING).sum())
    return (1 + extreme) / (1 + PERMUTATIONS)


def _exchange(blocks: Blocks, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns whether block `a` of each group is inside, 0 or 1 [R, G], by uniform draws [R, G]."""
    exchanged = (draws < 0.5).astype(np.float64)
    single = np.flatnonzero(~blocks.mixed)
    rank = draws[:, single].argsort(axis=1).argsort(axis=1)
    exchanged[:, single] = rank < blocks.inside[single].sum()
    return exchanged


def _statistic(gap: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns |gap| / error; 0 where both are 0, and infinity where a gap has no error or is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(gap) / error
    return np.where(np.abs(gap) < ROUNDING, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))


def _gap_and_error(blocks: Blocks, inside: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the difference and its standard error, each [R], for R assignments [R, G] of the blocks `a`."""
    outside = 1 - inside
    images_in = inside @ blocks.images_a + outside @ blocks.images_b  # [R, K]
    images_out = outside @ blocks.images_a + inside @ blocks.images_b
    right_in = inside @ blocks.right_a + outside @ blocks.right_b
    right_out = outside @ blocks.right_a + inside @ blocks.right_b
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.nan_to_num(images_in * images_out / (images_in + images_out))
        weight = weight / weight.sum(1, keepdims=True)  # nan throughout where no class is on both sides
        rate_in = np.nan_to_num(right_in / images_in)
        rate_out = np.nan_to_num(right_out / images_out)
        scale_in = np.where(images_in > 0, weight / images_in, 0)
        scale_out = np.where(images_out > 0, weight / images_out, 0)
    gap = (weight * (rate_in - rate_out)).sum(1)
    # Sums over the classes of (right - rate * images) * scale, [R, G], as matrix products: many classes take no loop.
    of_a, of_b = (blocks.right_a.T, blocks.images_a.T), (blocks.right_b.T, blocks.images_b.T)
    sides = (scale_in, scale_in * rate_in), (scale_out, scale_out * rate_out)
    a_in, a_out = (scale @ of_a[0] - scaled @ of_a[1] for scale, scaled in sides)
    influence = inside * a_in - outside * a_out
    if blocks.mixed.any():
        b_in, b_out = (scale @ of_b[0] - scaled @ of_b[1] for scale, scaled in sides)
        influence += outside * b_in - inside * b_out
    groups = len(blocks.names)
    error = np.sqrt(np.square(influence).sum(1) * groups / max(1, groups - 1))
    return gap, error
