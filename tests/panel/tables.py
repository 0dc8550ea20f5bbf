"""Small Predictions tables for the tests of members, votes and comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tumorboard.base.tables import Predictions, make_predictions


def predictions_of(
    rows: Sequence[tuple[Any, ...]], digest: str = "digest", classes: Sequence[str] = ("a", "b")
) -> Predictions:
    """Returns Predictions of (id, split, label, probabilities...) tuples, each row in a group of its own."""
    frame = pd.DataFrame([row[:3] for row in rows], columns=["id", "split", "label"])
    frame["group"] = "g " + frame["id"]
    return make_predictions(frame, np.array([row[3:] for row in rows], dtype=float), list(classes), digest)
