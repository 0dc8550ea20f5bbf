"""The fitted numbers of a panel, and the votes with them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tumorboard.evaluation.temperature import apply_temperature
from tumorboard.panel.stacking import Cells, Stacking, apply_stacking
from tumorboard.panel.votes import POOLS, STACKING, VOTES, Array


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The fitted numbers of a panel."""

    vote: str  # the vote that heads the report, a key of VOTES
    temperatures: Mapping[str, float]  # temperature of each model
    weights: Mapping[str, float]  # weight of each model in the weighted vote
    vote_temperatures: Mapping[str, float]  # temperature of each vote in TEMPERED
    losses: Mapping[str, float] = field(default_factory=dict)  # held-out loss of each vote, in nats; 'auto' compares it
    threshold: float | None = None  # the heading vote's threshold of the positive class, if any
    single: str | None = None  # the model that votes alone in the vote 'single'
    stacking: Stacking | None = None  # regression of the vote 'stacking'; None: not fitted

    @property
    def votes(self) -> tuple[str, ...]:
        """The votes that can be applied."""
        return tuple(vote for vote in VOTES if vote != STACKING or self.stacking is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as plain dicts."""
        return asdict(self)


def calibrate_members(fit: Fit, members: Array) -> Array:
    """Applies the members' temperatures to their probabilities float64[M, N, K]."""
    pairs = zip(members, fit.temperatures.values(), strict=True)
    return np.stack([apply_temperature(member, temperature) for member, temperature in pairs])


def apply_vote(fit: Fit, vote: str, calibrated: Array, cells: Cells | None = None) -> Array:
    """Returns a vote's probabilities float64[N, K].

    Args:
        fit: the fitted numbers.
        vote: one of `fit.votes`.
        calibrated: float64[M, N, K], the members' calibrated probabilities.
        cells: object[N, J], the columns that the vote `stacking` uses; None without any.
    """
    return apply_temperature(_pool(fit, vote, calibrated, cells), fit.vote_temperatures.get(vote, 1.0))


def vote_uncalibrated(fit: Fit, members: Array, cells: Cells | None = None) -> Array:
    """Returns the heading vote without any temperature, by the members' uncalibrated probabilities float64[M, N, K].

    The vote 'stacking' is returned as it is: its regression is fitted to calibrated members, and has no temperature.
    """
    if fit.vote == STACKING:
        members = calibrate_members(fit, members)
    return _pool(fit, fit.vote, members, cells)


def _pool(fit: Fit, vote: str, members: Array, cells: Cells | None) -> Array:
    if vote == STACKING:
        if fit.stacking is None:
            raise ValueError("the vote stacking was not fitted")
        return apply_stacking(fit.stacking, members, cells)
    weights = {fit.single: 1.0} if vote == "single" else fit.weights
    return POOLS[vote](members, np.array([weights.get(model, 0.0) for model in fit.temperatures]))
