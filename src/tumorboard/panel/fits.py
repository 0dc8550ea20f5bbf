"""Everything that a panel fits to validation rows, and how each row is kept out of the fits that are applied to it.

Fitted are a temperature per member, the weights of the weighted vote, a temperature per vote, the choice of the vote
and the decision threshold. `cross_fit` fits them once per part of the validation rows, on the rows outside the part,
and applies them to the part: a row's label changes nothing that is applied to the row. `CrossFit.final`, fitted on all
validation rows, is for test rows and new images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Threshold
from tumorboard.evaluation.calibration import apply_temperature, fit_temperature
from tumorboard.evaluation.operating_point import threshold_by_rule
from tumorboard.panel.votes import PROBABILISTIC, VOTES, Array, fit_weights

Labels: TypeAlias = NDArray[np.int64]  # [N], class indices

TIE = 1e-3  # nats: votes whose losses differ by less are equal, and the simpler one is chosen
ALONE = 0.95  # a weight from which a weighted vote is one member's


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What is fitted and how."""

    models: Sequence[str]  # names of the M members
    vote: str  # `ensemble.vote`: a key of VOTES, or 'auto'
    calibrate: bool  # whether temperatures are fitted; else all are 1
    positive: int | None  # column of the class that is to be detected, of two
    rule: Threshold  # by which its threshold is chosen; None: the more probable class decides


def fitting_of(params: Params, classes: Sequence[str]) -> Fitting:
    """Returns what is fitted in a study.

    Args:
        params: of the study.
        classes: names, in the order of the probabilities.

    Raises:
        InputError: `data.positive` is not one of two classes.
    """
    positive = params.data.positive
    if positive is not None and (positive not in classes or len(classes) != 2):
        raise InputError(
            f"data.positive is '{positive}', expected one of two classes; there are {', '.join(classes)}: name one of "
            "two, or leave it empty"
        )
    return Fitting(
        models=params.models,
        vote=params.ensemble.vote,
        calibrate=params.ensemble.calibrate,
        positive=None if positive is None else list(classes).index(positive),
        rule=params.evaluate.threshold,
    )


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The fitted numbers of a panel."""

    vote: str  # the vote that heads the report, a key of VOTES
    temperatures: Mapping[str, float]  # by model
    weights: Mapping[str, float]  # of the weighted vote, by model
    vote_temperatures: Mapping[str, float]  # by vote in PROBABILISTIC
    losses: Mapping[str, float] = field(default_factory=dict)  # by vote, held out: what 'auto' compared
    threshold: float | None = None  # of the heading vote

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as plain dicts."""
        return asdict(self)


def calibrate_members(fit: Fit, members: Array) -> Array:
    """Applies the members' temperatures to their probabilities float64[M, N, K]."""
    pairs = zip(members, fit.temperatures.values(), strict=True)
    return np.stack([apply_temperature(member, temperature) for member, temperature in pairs])


def apply_vote(fit: Fit, vote: str, calibrated: Array) -> Array:
    """Returns a vote's probabilities float64[N, K] from the calibrated members' float64[M, N, K]."""
    pooled = VOTES[vote](calibrated, _weights(fit))
    return apply_temperature(pooled, fit.vote_temperatures.get(vote, 1.0))


def vote_uncalibrated(fit: Fit, members: Array) -> Array:
    """Returns the heading vote of the members' uncalibrated probabilities float64[M, N, K]."""
    return VOTES[fit.vote](members, _weights(fit))


def _weights(fit: Fit) -> Array:
    return np.array([fit.weights.get(model, 0.0) for model in fit.temperatures])


def fit_panel(fitting: Fitting, members: Array, actual: Labels, parts: NDArray[np.int64]) -> Fit:
    """Fits a panel to validation rows.

    Args:
        fitting: what is fitted.
        members: float64[M, N, K], the members' probabilities, uncalibrated.
        actual: int64[N], the labels.
        parts: int64[N]; the candidates of 'auto' are compared by fits that leave out a part at a time.
    """
    fit = _fit_numbers(fitting, members, actual)
    losses = _held_out_losses(fitting, members, actual, parts) if fitting.vote == "auto" else {}
    vote = choose_vote(losses) if fitting.vote == "auto" else fitting.vote
    threshold = _fit_threshold(fitting, apply_vote(fit, vote, calibrate_members(fit, members)), actual)
    return Fit(**{**vars(fit), "vote": vote, "losses": losses, "threshold": threshold})


def _fit_threshold(fitting: Fitting, probabilities: Array, actual: Labels) -> float | None:
    """Returns the threshold of the positive class; None without a rule, or where one of the two classes has no row."""
    if fitting.positive is None or fitting.rule is None or len(np.unique(actual)) < 2:
        return None
    return threshold_by_rule(actual == fitting.positive, probabilities[:, fitting.positive], fitting.rule)


def _fit_numbers(fitting: Fitting, members: Array, actual: Labels) -> Fit:
    """Fits temperatures and weights; the vote is not chosen yet."""

    def temperature_of(probabilities: Array) -> float:
        return fit_temperature(probabilities, actual) if fitting.calibrate and len(actual) else 1.0

    temperatures = [temperature_of(member) for member in members]
    calibrated = np.stack([apply_temperature(*pair) for pair in zip(members, temperatures, strict=True)])
    weights = fit_weights(calibrated, actual)
    return Fit(
        vote=PROBABILISTIC[0],
        temperatures=dict(zip(fitting.models, temperatures, strict=True)),
        weights=dict(zip(fitting.models, weights.tolist(), strict=True)),
        vote_temperatures={vote: temperature_of(VOTES[vote](calibrated, weights)) for vote in PROBABILISTIC},
    )


def _held_out_losses(fitting: Fitting, members: Array, actual: Labels, parts: NDArray[np.int64]) -> dict[str, float]:
    """Returns the cross-entropy of each probabilistic vote on rows that its fit left out; empty without such rows."""
    left_out = np.unique(parts)
    if len(left_out) < 2:
        return {}
    held_out = {vote: np.empty(members.shape[1:]) for vote in PROBABILISTIC}
    for part in left_out:
        inside = parts == part
        fit = _fit_numbers(fitting, members[:, ~inside], actual[~inside])
        calibrated = calibrate_members(fit, members[:, inside])
        for vote, probabilities in held_out.items():
            probabilities[inside] = apply_vote(fit, vote, calibrated)
    labels = range(members.shape[2])
    return {vote: float(log_loss(actual, probabilities, labels=labels)) for vote, probabilities in held_out.items()}


def choose_vote(losses: Mapping[str, float]) -> str:
    """Returns the simplest vote whose loss is within TIE of the least one; the simplest of all without losses.

    >>> choose_vote({"soft": 0.3104, "product": 0.31, "weighted": 0.3096})
    'soft'
    >>> choose_vote({"soft": 0.35, "product": 0.31, "weighted": 0.3096})
    'product'
    """
    return next((vote for vote in PROBABILISTIC if losses and losses[vote] <= min(losses.values()) + TIE), "soft")


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """What `cross_fit` returns: probabilities of N validation rows, none of which its own label had a part in."""

    members: Array  # [M, N, K], calibrated
    votes: Mapping[str, Array]  # [N, K] by vote
    heading: Array  # [N, K], of the vote that was chosen without the row
    uncalibrated: Array  # [N, K], the same vote without any temperature
    thresholds: Array  # [N], of the positive class in `heading`; nan without a rule
    final: Fit  # on all rows


def cross_fit(fitting: Fitting, versions: Array, actual: Labels, parts: NDArray[np.int64]) -> CrossFit:
    """Fits a panel without each part of its validation rows in turn, and on all of them.

    Args:
        fitting: what is fitted.
        versions: float64[P + 1, M, N, K], the members' probabilities: at p those of the epochs that were chosen without
            part p, at P those of the epochs that all rows chose.
        actual: int64[N], the labels.
        parts: int64[N], 0 to P - 1.
    """
    _, members, rows, classes = versions.shape
    calibrated = np.empty((members, rows, classes))
    votes = {vote: np.empty((rows, classes)) for vote in VOTES}
    heading, uncalibrated = np.empty((rows, classes)), np.empty((rows, classes))
    thresholds = np.full(rows, np.nan)
    for part in np.unique(parts):
        inside = parts == part
        fit = fit_panel(fitting, versions[part][:, ~inside], actual[~inside], parts[~inside])
        calibrated[:, inside] = calibrate_members(fit, versions[part][:, inside])
        for vote, probabilities in votes.items():
            probabilities[inside] = apply_vote(fit, vote, calibrated[:, inside])
        heading[inside] = votes[fit.vote][inside]
        uncalibrated[inside] = vote_uncalibrated(fit, versions[part][:, inside])
        thresholds[inside] = np.nan if fit.threshold is None else fit.threshold
    return CrossFit(
        members=calibrated,
        votes=votes,
        heading=heading,
        uncalibrated=uncalibrated,
        thresholds=thresholds,
        final=fit_panel(fitting, versions[-1], actual, parts),
    )
