"""The section `search` of params.yaml: the hyper-parameters that `tumorboard search` varies, and its trials."""

import math
from typing import TypeAlias

from pydantic import model_validator

from tumorboard.base.run_params import Count, Several
from tumorboard.base.schema import Section

Value: TypeAlias = bool | int | float | str | tuple["Value", ...]  # value of a key of params.yaml


class Dimension(Section):
    """The values that one key may have: a number from `low` to `high`, or one of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False  # whether equal ratios are equally likely, instead of equal differences
    choices: tuple[bool | int | float | str | tuple[bool | int | float | str, ...], ...] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "Dimension":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("has choices, beside which low, high and log have no meaning: leave one of them out")
            if len(self.choices) < 2:
                raise ValueError(f"has {len(self.choices)} choices: name two or more")
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("lists a choice twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError(
                "has neither low and high nor choices: {low: 0.001, high: 0.1, log: true}, or {choices: [16, 32]}"
            )
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm: it must be above 0 with log, or log must be false")
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values at the ends of the range, or all choices."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


class Search(Section):
    """A search of one model's hyper-parameters; no stage depends on it."""

    space: dict[str, Dimension | None]  # dimension by key of `train`; None: the key is not searched
    trials: Count  # trials per search, those of earlier calls included
    startup: Several  # trials that are drawn at random; none is pruned before as many are finished
    warmup: Several  # first epochs of each training, in which it is not stopped

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The keys that are searched, in the order of the file."""
        return {key: dimension for key, dimension in self.space.items() if dimension is not None}


def position(dimension: Dimension, value: float) -> float:
    """Returns where a number lies in its range, from 0 (low) to 1 (high), on the scale on which it is drawn.

    >>> round(position(Dimension(low=0.001, high=0.1, log=True), 0.01), 3)
    0.5
    """
    assert dimension.low is not None
    assert dimension.high is not None
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)
