"""Measures which share of the test images a panel calls unlike its training images.

A test part from another scanner, hospital or archive than the training part gives other scores than validation, and no
validation score tells. No choice depends on this share.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.tables import Predictions
from tumorboard.evaluation.clustered import estimate_proportion
from tumorboard.evaluation.intervals import interval_of
from tumorboard.evaluation.summary import Judging
from tumorboard.panel.unlike import Array, panel_scores


def read_test_unlike(files: Sequence[Path], ids: Sequence[str]) -> Array:
    """Reads how unlike each test image is by each model file, and returns the panel's scores float64[N].

    Args:
        files: CSV files with the columns id and unlike, as the stage evaluate writes them.
        ids: the test images, in the order of the result.

    Raises:
        InputError: a file is of other images.
    """
    scores = []
    for file in files:
        table = read_table(file, number_prefix="unlike")
        if sorted(table["id"]) != sorted(ids):
            raise InputError(
                f"{file}: has {len(table)} images that are not the {len(ids)} test images: run `dvc repro`"
            )
        scores.append(table.set_index("id")["unlike"].loc[list(ids)].to_numpy(np.float64))
    return panel_scores(scores)


def share_unlike(
    files: Mapping[tuple[str, int], Path], test: Predictions, limit: float, judging: Judging
) -> dict[str, Any]:
    """Returns the share of test images that are unlike the training images, with its interval.

    Args:
        files: what `read_test_unlike` reads, by model and fold.
        test: predictions of the test images, with their groups.
        limit: the score from which `tumorboard predict` calls an image unlike.
        judging: its confidence and unit are used.

    Returns:
        `unlike`, `unlike_low` and `unlike_high`; where these are None, `unlike_method` is the reason.

    Raises:
        InputError: a file is of other images.
    """
    unlike = read_test_unlike(list(files.values()), test["id"].tolist()) >= limit
    estimate = estimate_proportion(unlike, test["group"].to_numpy(object))
    interval = interval_of(estimate, judging.evaluate.confidence, judging.unit)
    share: dict[str, Any] = {"unlike": float(unlike.mean())}
    share |= {"unlike_low": interval.low, "unlike_high": interval.high}
    return share if interval.low is not None else share | {"unlike_method": interval.method}
