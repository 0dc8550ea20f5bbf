"""The bootstrap of groups: resamples draw whole patients, because images of one patient are not independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.randomness import uniforms

# Counter of the first draws. `uniforms` gives equal numbers for equal (seed, group, counter), and the split of the data
# uses the small counters: with these the first resample would repeat the draw of the test part.
FIRST_COUNTER = 1 << 40
CHUNK_CELLS = 2_000_000  # resamples times groups in memory at a time: 16 MB per array of float64


class Means(NamedTuple):
    """The mean over all images in R resamples of groups."""

    values: NDArray[np.float64]  # [R]
    errors: NDArray[np.float64]  # [R], standard errors, as `clustered` estimates them within the resample


def resample_means(
    totals: NDArray[np.float64], images: NDArray[np.float64], keys: NDArray[np.uint64], *, resamples: int, seed: int
) -> Means:
    """Computes the mean over the images in resamples that draw as many groups as there are, with replacement.

    Args:
        totals: float64[G], the sum over the images of each group.
        images: float64[G], the number of images of each group, at least 1.
        keys: uint64[G], the key of each group's name.
        resamples: R, the number of resamples.
        seed: seed of the draws.

    Source:
        Davison and Hinkley 1997, section 3.8.

    >>> means = resample_means(np.array([1.0, 3.0]), np.ones(2), np.arange(2, dtype=np.uint64), resamples=400, seed=0)
    >>> np.unique(means.values).tolist()  # the first group twice, each once, the second twice
    [1.0, 2.0, 3.0]
    """
    groups = len(totals)
    values, errors = np.empty(resamples), np.empty(resamples)
    step = max(1, CHUNK_CELLS // groups)
    for chunk, first in enumerate(range(0, resamples, step)):
        size = min(step, resamples - first)
        drawn = (uniforms(seed, keys, FIRST_COUNTER + chunk, size) * groups).astype(np.int64)
        total, count = totals[drawn], images[drawn]  # [G, size]
        all_images = count.sum(0)
        mean = total.sum(0) / all_images
        held = np.minimum(count / all_images, 1 - np.finfo(np.float64).eps)
        spread = np.square((total - mean * count) / all_images) / (1 - held)
        values[first : first + size], errors[first : first + size] = mean, np.sqrt(spread.sum(0))
    return Means(values, errors)
