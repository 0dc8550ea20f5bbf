"""Finds images whose label may be wrong: a model that was not trained on them is sure of another class."""

import warnings
from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.tables import Predictions, classes_of
from tumorboard.evaluation.metrics import labels_and_probabilities

Suspects: TypeAlias = pd.DataFrame  # one row per image whose label may be wrong: SUSPECT_COLUMNS

SUSPECT_COLUMNS = ("rank", "id", "group", "label", "suggested", "p_label", "p_suggested")


def find_suspects(predictions: Predictions) -> Suspects:
    """Finds images whose label may be wrong, by confident learning.

    The number of images of class a that have the label b is estimated from the images for which the model is at least
    as sure of class a as it is on average; as many are listed. The list is for a person to look at: it also has
    difficult images, the more the weaker the model, and a mistake that the model makes too is not on it.

    Args:
        predictions: rows that all have a label, each predicted by a model that was not trained on it (validation rows).

    Returns:
        One row per suspect, the likeliest mistake first: `rank` from 1, `id`, `group`, `label`, `suggested` (the most
        probable class), `p_label`, `p_suggested` (the probabilities of these two). No rows where the labels are of one
        class only.

    Raises:
        InputError: there are no rows, or one has no label.

    Source:
        Northcutt, Jiang and Chuang 2021; cleanlab's `find_label_issues(filter_by="prune_by_noise_rate")`, ranked by
        self-confidence.
    """
    from cleanlab.filter import find_label_issues  # it takes a second to import

    rows = predictions.sort_values("id", kind="stable", ignore_index=True)  # cleanlab breaks ties by the order of rows
    actual, probabilities = labels_and_probabilities(rows)
    if len(np.unique(actual)) < 2:
        return pd.DataFrame(columns=list(SUSPECT_COLUMNS))
    # cleanlab wants images of every class: classes without any are left out, and the others share their probability.
    present = np.unique(actual)
    shares = np.maximum(probabilities[:, present], np.finfo(np.float64).tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab warns of classes with few images
        listed = find_label_issues(
            np.searchsorted(present, actual),
            shares / shares.sum(1, keepdims=True),
            n_jobs=1,
            filter_by="prune_by_noise_rate",
        )
    classes = np.array(classes_of(rows), dtype=object)
    suggested = present[shares.argmax(1)]
    numbers = np.arange(len(rows))
    columns = {
        "id": rows["id"],
        "group": rows["group"],
        "label": rows["label"],
        "suggested": classes[suggested],
        "p_label": probabilities[numbers, actual],
        "p_suggested": probabilities[numbers, suggested],
    }
    table: Suspects = pd.DataFrame(columns)[listed].sort_values("p_label", kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table
