"""Intervals of proportions of images, where images of one group (a patient) are not independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.clustered import Estimate
from tumorboard.evaluation.intervals import interval_of


class Rate(NamedTuple):
    """A proportion with its interval."""

    rate: float  # nan where there are no images
    low: float  # lower end of the interval; nan where there is none
    high: float  # upper end of the interval; nan where there is none
    method: str  # the method's name; without an interval the reason
    images: int  # the denominator
    groups: int  # number of groups of these images


def rate_by_group(
    hits: NDArray[np.bool_], groups: NDArray[np.object_], confidence: float, unit: str | None = None
) -> Rate:
    """Computes a proportion of images and the interval that `intervals.intervals` gives to proportions.

    Args:
        hits: bool[N], the event of each image.
        groups: object[N], the name of each image's group.
        confidence: confidence level of the interval.
        unit: the noun for a group; None: 'group'.

    >>> groups = np.repeat([f"p{number}" for number in range(20)], 5).astype(object)
    >>> one_of_five = rate_by_group(np.arange(100) % 5 > 0, groups, 0.95)  # each patient has one miss of five
    >>> round(one_of_five.low, 2), round(one_of_five.high, 2)
    (0.71, 0.87)
    >>> four_of_twenty = rate_by_group(np.arange(100) >= 20, groups, 0.95)  # four patients have nothing but misses
    >>> round(four_of_twenty.low, 2), round(four_of_twenty.high, 2)
    (0.54, 0.95)
    """
    _, index = np.unique(groups, return_inverse=True)
    images = len(hits)
    trials = np.bincount(index).astype(np.float64)
    if images == 0:
        estimate = Estimate("rate", "proportion", np.nan, 0, 0, 0, 0, 0)
    else:
        rate, held = float(hits.mean()), trials / images
        residuals = (np.bincount(index, weights=hits) - rate * trials) / images
        # The correction of `clustered`: the more of the images a group holds, the closer the rate is to its own.
        corrected = np.square(residuals) / np.maximum(1 - held, np.finfo(np.float64).eps)
        estimate = Estimate(
            score="rate",
            scale="proportion",
            value=rate,
            variance=float(corrected.sum()),
            simple_variance=rate * (1 - rate) / images,
            images=images,
            groups=len(trials),
            effective_groups=float(1 / np.square(held).sum()),
        )
    low, high, method = interval_of(estimate, confidence, unit)
    low, high = (np.nan if end is None else end for end in (low, high))
    return Rate(estimate.value, low, high, method, estimate.images, estimate.groups)
