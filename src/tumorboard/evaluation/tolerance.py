"""A limit that a stated share of new images will not exceed, from a sample in which images of one group are alike."""

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95  # chance that at most the stated share of new images exceeds the limit


def tolerance_limit(values: NDArray[np.float64], groups: NDArray[np.int64], *, share: float) -> float:
    """Returns the smallest value of a sample that, with 95 % confidence, at most `share` of new images exceed.

    The plain quantile is exceeded by more than `share` of new images half of the time. This is an order statistic above
    it, for the effective number of images: images of one group resemble each other, so they count less. Where the
    images are too few for the confidence, it is the largest value. With few groups that differ much the confidence is
    less: 80 % in simulations of 12 groups that have 60 % of the variance between them (docs/control.md).

    Args:
        values: float64[N], at least one.
        groups: int64[N], the number of each image's group.
        share: share of the new images, above 0 and below 1.

    Source:
        Wilks 1941; Hahn and Meeker 1991. Korn and Graubard 1998 for the effective number.

    >>> tolerance_limit(np.arange(93.0), np.arange(93), share=0.05)  # the second largest of 93 values
    91.0
    >>> tolerance_limit(np.arange(92.0), np.arange(92), share=0.05)
    91.0
    """
    rising = np.sort(values)
    number = len(rising)
    effective = _effective_number(values > np.quantile(values, 1 - share), groups)
    # The share of new images below the k-th of n values has the distribution Beta(k, n + 1 - k).
    ranks = np.arange(1, number + 1)
    from scipy.special import betainc  # here, since prediction imports this module and needs no scipy

    falling_short = betainc(ranks * effective / number, (number + 1 - ranks) * effective / number, 1 - share)
    enough = np.flatnonzero(falling_short <= 1 - CONFIDENCE)
    return float(rising[enough[0]] if len(enough) else rising[-1])


def _effective_number(exceeds: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Returns the number of independent images for which the mean of `exceeds` would vary as it does between groups."""
    number, share = len(exceeds), float(exceeds.mean())
    index = np.unique(groups, return_inverse=True)[1]
    count = int(index.max()) + 1
    if count < 2 or share in (0, 1):
        return float(count)
    excess = np.bincount(index, exceeds - share)
    variance = float((excess**2).sum()) * count / (count - 1) / number**2
    independent = share * (1 - share) / (number - 1)  # the mean's variance if no two images were alike
    return number * min(1.0, independent / variance) if variance > 0 else float(number)
