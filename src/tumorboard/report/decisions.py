"""The decisions of the vote that heads the report by its threshold, beside the decisions by the most probable class."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tumorboard.base.tables import classes_of
from tumorboard.report.results import Part, Results

BY_CLASS = "by the most probable class"


class Decisions(NamedTuple):
    """The decisions by the threshold for the images of one part of the data."""

    rule: str  # the rule, such as 'by the threshold 0.230 of ill'
    classes: tuple[str, str]  # the positive class and the other
    rows: list[dict[str, Any]]  # the confusion matrix: label, images, and the numbers called each of `classes`


def decisions_of(results: Results, part: Part) -> Decisions | None:
    """Returns the decisions by the threshold; None where no threshold is set, so that the more probable class decides.

    Args:
        results: the run's results.
        part: the part whose images are decided.
    """
    rule = rule_of(results, part)
    if not rule:
        return None
    positive = str(results.positive)
    (other,) = (name for name in classes_of(part.heading) if name != positive)
    counts: Mapping[str, int] = part.headline["decisions"]
    called = {
        positive: (counts["true_positives"], counts["false_negatives"]),
        other: (counts["false_positives"], counts["true_negatives"]),
    }
    rows = [{"label": label, "images": sum(numbers), "called": numbers} for label, numbers in called.items()]
    return Decisions(rule, (positive, other), rows)


def rule_of(results: Results, part: Part) -> str:
    """Returns the rule of the heading vote's decisions: 'by the threshold 0.230 of ill'; '' where no threshold is set.

    Each validation image has the threshold that was fitted without it, so there are several.
    """
    if results.positive is None or results.fit.threshold is None:
        return ""
    number = f"{results.fit.threshold:.3f}"
    if part.name == "test":
        return f"by the threshold {number} of {results.positive}"
    return f"by the thresholds of {results.positive} that were chosen without each image ({number} on all)"
