"""Measures which share of the test images a panel calls unlike its training images.

A test part from another scanner, hospital or archive than the training part gives other scores than validation, and no
validation score tells. No choice depends on this share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.tables import Predictions
from tumorboard.evaluation.clustered import estimate_proportion
from tumorboard.evaluation.intervals import interval_of
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
    scores: Array, test: Predictions, *, limit: float, confidence: float, unit: str | None
) -> dict[str, Any]:
    """Returns the share of test images that are unlike the training images, with its interval.

    Args:
        scores: float64[N], the panel's score of each row.
        test: N rows with their groups.
        limit: the score from which `tumorboard predict` calls an image unlike.
        confidence: confidence level of the interval.
        unit: the noun for a group; None: 'group'.

    Returns:
        `unlike`, `unlike_low` and `unlike_high`; where these are None, `unlike_method` is the reason.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"group": [f"p{number // 2}" for number in range(24)]})
    >>> share = share_unlike(np.arange(24) / 24, rows, limit=0.75, confidence=0.95, unit="patient")
    >>> share["unlike"], round(share["unlike_low"], 2), round(share["unlike_high"], 2)
    (0.25, 0.04, 0.6)
    """
    unlike = scores >= limit
    interval = interval_of(estimate_proportion(unlike, test["group"].to_numpy(object)), confidence, unit)
    share: dict[str, Any] = {"unlike": float(unlike.mean())}
    share |= {"unlike_low": interval.low, "unlike_high": interval.high}
    return share if interval.low is not None else share | {"unlike_method": interval.method}
