"""Statistics of training images that nobody has seen, for panels that are not trained."""

import numpy as np
from numpy.typing import ArrayLike

from tumorboard.panel.unlike import UnlikeStatistics


def made_up_statistics(
    features: int = 1, *, held_out: ArrayLike = (0, 0.25, 0.5, 0.75, 1), per_group: int = 1
) -> UnlikeStatistics:
    """Returns statistics of networks with some features.

    Args:
        features: number of the network's features.
        held_out: scores of the held-out images.
        per_group: how many of these make a group, in their order.
    """
    scores = np.asarray(held_out, np.float64)
    return UnlikeStatistics(
        feature_mean=np.zeros(features, np.float32),
        directions=np.eye(1, features, dtype=np.float32),
        variances=np.ones(1),
        residual=np.ones(1),
        image_mean=np.zeros(15),
        image_precision=np.eye(15),
        center=np.zeros(2),
        spread=np.ones(2),
        held_out=scores,
        held_out_groups=np.arange(len(scores)) // per_group,
    )
