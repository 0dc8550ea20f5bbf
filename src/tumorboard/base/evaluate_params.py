"""The sections `evaluate` and `ensemble` of params.yaml: how predictions are judged, and how the members vote."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tumorboard.base.schema import Section

OpenShare = Annotated[float, Field(gt=0, lt=1)]


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


Threshold = Literal["youden"] | AtSensitivity | AtSpecificity | AtCost | None


class Evaluate(Section):
    test: bool  # whether the test part is scored
    confidence: OpenShare
    bootstrap: Annotated[int, Field(ge=0)]
    primary: tuple[str, str] | None  # names of the two members or votes that are compared
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
