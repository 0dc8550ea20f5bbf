"""The sections `evaluate` and `ensemble` of params.yaml: how predictions are judged, and how the members vote."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from tumorboard.base.schema import EXPECTED, Section, expecting

Pair = Annotated[tuple[str, str], expecting("two names, such as [vote, cnn]")]
OpenShare = Annotated[float, Field(gt=0, lt=1), expecting("a number above 0 and below 1")]


class Cost(Section):
    """The costs of wrong decisions, in any unit."""

    false_negative: Annotated[float, Field(gt=0)]
    false_positive: Annotated[float, Field(gt=0)]


class AtSensitivity(Section):
    """The highest threshold that reaches a sensitivity."""

    sensitivity: OpenShare


class AtSpecificity(Section):
    """The lowest threshold that reaches a specificity."""

    specificity: OpenShare


class AtCost(Section):
    """The threshold with the least cost."""

    cost: Cost


def _form_of(threshold: Any) -> str | None:
    """Returns which form a value of `evaluate.threshold` has; None: no known one."""
    if threshold == "youden":
        return "word"
    keys = list(threshold) if isinstance(threshold, Mapping) else list(getattr(threshold, "model_fields_set", ()))
    known = len(keys) == 1 and keys[0] in ("sensitivity", "specificity", "cost")
    return f"at {keys[0]}" if known else None


Threshold = (
    Annotated[
        Annotated[Literal["youden"], Tag("word")]
        | Annotated[AtSensitivity, Tag("at sensitivity")]
        | Annotated[AtSpecificity, Tag("at specificity")]
        | Annotated[AtCost, Tag("at cost")],
        Discriminator(
            _form_of,
            custom_error_type=EXPECTED,
            custom_error_message="youden, {sensitivity: 0.95}, {specificity: 0.95}, "
            "{cost: {false_negative: 10, false_positive: 1}} or an empty value",
        ),
    ]
    | None
)


class Evaluate(Section):
    test: bool  # whether the test part is scored
    confidence: OpenShare
    bootstrap: Annotated[int, Field(ge=0)]
    primary: Pair | None  # names of the two members or votes that are compared
    threshold: Threshold
    by_patient: Literal["mean", "worst"]
    subgroups: tuple[str, ...]  # columns of the data's table
    unlike: Annotated[float, Field(gt=0, le=0.5)]  # share of the panel's own held-out images that count as unlike
    abstain: Annotated[float, Field(ge=0, lt=1)]  # probability below which an image stays undecided

    @model_validator(mode="after")
    def _differ(self) -> "Evaluate":
        if self.primary and self.primary[0] == self.primary[1]:
            raise ValueError(f"primary compares '{self.primary[0]}' with itself: name two members or votes")
        return self


class Ensemble(Section):
    vote: Literal["auto", "single", "hard", "soft", "product", "weighted", "stacking"]
    calibrate: bool
    stacking_columns: tuple[str, ...]  # columns of the data's table

    @model_validator(mode="after")
    def _twice(self) -> "Ensemble":
        if twice := [name for name in self.stacking_columns if self.stacking_columns.count(name) > 1]:
            raise ValueError(f"stacking_columns names '{twice[0]}' twice: name it once")
        return self
