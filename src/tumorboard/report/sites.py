"""The spread of the scores over the values of the column whose values were left out one by one, such as sites."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tumorboard.base.errors import counted
from tumorboard.base.tables import Predictions
from tumorboard.evaluation.intervals import intervals
from tumorboard.report.results import Results

SITE_SCORES = ("accuracy", "balanced_accuracy", "auc")


class Sites(NamedTuple):
    """The validation scores of the heading vote per left-out value."""

    column: str  # name of the column, from `split.leave_out`
    rows: pd.DataFrame  # one per fold: fold, value, images, groups; SITE_SCORES with _low, _high and _method
    spread: str  # spread of the accuracy, in sentences that name the lowest and the highest value


def site_spread(results: Results) -> Sites | None:
    """Scores the vote that heads the report on each value that was left out; None where no column is left out.

    Each value's images are predicted by the models of its fold, which were trained on the other values.
    """
    column = results.split.leave_out
    if column is None:
        return None
    heading = results.validation.heading
    rows = _rows(heading, _values_of(results, column, heading), results)
    return Sites(column, rows, _describe(rows, column, results.unit or "group"))


def _values_of(results: Results, column: str, heading: Predictions) -> pd.DataFrame:
    """Returns the fold and the value of each row of the heading vote."""
    folds = results.manifest.set_index("id")["fold"].reindex(heading["id"])
    values = results.attributes.set_index("id")[column].reindex(heading["id"])
    return pd.DataFrame({"fold": folds.to_numpy(), "value": values.to_numpy(object)})


def _rows(heading: Predictions, values: pd.DataFrame, results: Results) -> pd.DataFrame:
    table: list[dict[str, Any]] = []
    scores = [score for score in SITE_SCORES if score != "auc" or results.validation.has_probabilities]
    for fold, value in sorted(set(zip(values["fold"], values["value"], strict=True))):
        rows = heading[((values["fold"] == fold) & (values["value"] == value)).to_numpy(bool)]
        every = intervals(rows, results.evaluate.confidence, results.seed, bootstrap=0, unit=results.unit)
        cells = {
            f"{score}{end}": every[f"{score}{end}"] for score in scores for end in ("", "_low", "_high", "_method")
        }
        counts = {"images": len(rows), "groups": rows["group"].nunique()}
        table.append({"fold": int(fold), "value": value, **counts, **cells})
    return pd.DataFrame(table)


def _describe(rows: pd.DataFrame, column: str, unit: str) -> str:
    """Returns the spread of the accuracy in sentences.

    >>> rows = pd.DataFrame({"value": ["north", "south", "west"], "accuracy": [0.7, 0.8, 0.9], "groups": [1, 4, 5]})
    >>> _describe(rows, "site", "patient").split("; ")[1]
    'lowest 70.0 % on north (1 patient), highest 90.0 % on west (5 patients).'
    """
    accuracy = rows["accuracy"].to_numpy(np.float64)
    lowest, highest = rows.iloc[int(accuracy.argmin())], rows.iloc[int(accuracy.argmax())]
    ends = [
        f"{word} {100 * row['accuracy']:.1f} % on {row['value']} ({counted(row['groups'], unit)})"
        for word, row in (("lowest", lowest), ("highest", highest))
    ]
    if len(rows) < 2:
        return f"Accuracy on the only scored {column}, {lowest['value']}: {100 * accuracy[0]:.1f} %."
    return (
        f"Accuracy per {column}: {100 * accuracy.mean():.1f} % in the mean, standard deviation "
        f"{100 * accuracy.std(ddof=1):.1f} points; {', '.join(ends)}."
    )
