"""Chooses the images of a part of the data that a report shows one by one."""

from typing import TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.tables import Predictions, classes_of, probabilities_of

Examples: TypeAlias = pd.DataFrame  # one row per image: EXAMPLES

EXAMPLES = ("kind", "id", "label", "decided", "probability")  # the last two: the vote's class and its probability
MISTAKE, UNCERTAIN, TYPICAL = "mistake", "uncertain", "typical"
MOST = 8  # images per kind; at least one typical image per class, for at most twelve classes
PER_GROUP = 2  # images per kind (and class) of one group, so that no single patient fills the page
_MOST_CLASSES = 12  # classes that have typical images


def choose_examples(predictions: Predictions) -> Examples:
    """Returns the images to show: the most confident mistakes, the least certain images, typical right ones by class.

    At most two images of one group are shown per kind, and per class among the typical ones. An image is decided for
    its most probable class. A typical image is one whose probability is nearest to the median of its class's rightly
    decided images. An image may be both a mistake and an uncertain one. Equal probabilities are ordered by id, so that
    the choice does not depend on the order of the rows.

    Args:
        predictions: the vote's predictions; each row has a label and a group.

    Returns:
        EXAMPLES, mistakes first: the surest mistake, the least certain image and each class's most typical one lead.

    >>> rows = {"id": ["u", "v", "w", "x"], "label": ["a", "a", "b", "b"], "p_a": [0.9, 0.7, 0.6, 0.2]}
    >>> table = pd.DataFrame(rows | {"group": rows["id"]}).assign(p_b=lambda table: 1 - table["p_a"])
    >>> table = choose_examples(table)
    >>> table[table["kind"] == "mistake"]["id"].tolist(), table[table["kind"] == "uncertain"]["id"].tolist()
    (['w'], ['w', 'v', 'x', 'u'])
    """
    probabilities = probabilities_of(predictions)
    classes = np.array(classes_of(predictions), dtype=object)
    if not len(predictions):
        return pd.DataFrame(columns=list(EXAMPLES)).astype({"probability": np.float64})
    rows = predictions[["id", "label", "group"]].assign(
        decided=classes[probabilities.argmax(1)], probability=probabilities.max(1)
    )
    right = rows["decided"] == rows["label"]
    mistakes = _first(rows[~right].sort_values(["probability", "id"], ascending=[False, True]), MOST)
    uncertain = _first(rows.sort_values(["probability", "id"]), MOST)
    shown = classes[:_MOST_CLASSES]
    each = max(1, MOST // len(shown))
    typical = [_first(_by_typicality(rows[right & (rows["label"] == name)]), each) for name in shown]
    kinds = {MISTAKE: mistakes, UNCERTAIN: uncertain, TYPICAL: pd.concat(typical)}
    tables = [table.assign(kind=kind) for kind, table in kinds.items()]
    return pd.concat(tables, ignore_index=True)[list(EXAMPLES)]


def _first(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Returns the first rows, at most PER_GROUP of one group."""
    return rows.groupby("group", sort=False).head(PER_GROUP).head(most)


def _by_typicality(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a class with those nearest to their median probability first."""
    distance = (rows["probability"] - rows["probability"].median()).abs()
    return rows.assign(distance=distance).sort_values(["distance", "id"])
