"""Everything that a panel fits to validation rows, and how each row is kept out of the fits that are applied to it.

Fitted are a temperature per member, the member that votes alone, the weights of the weighted vote, the regression of
the vote `stacking`, a temperature per vote, the choice of the vote and the decision threshold. `cross_fit` fits them
once per part of the validation rows, on the rows outside the part, and applies them to the part: a row's label changes
nothing that is applied to the row. `CrossFit.final`, fitted on all validation rows, is for test rows and new images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Threshold
from tumorboard.evaluation.operating_point import threshold_by_rule
from tumorboard.evaluation.temperature import fit_temperature
from tumorboard.panel.fitted import Fit, apply_vote, calibrate_members, vote_uncalibrated
from tumorboard.panel.stacking import PENALTIES, Cells, apply_stacking, fit_stacking, why_not_stacked
from tumorboard.panel.votes import AUTOMATIC, POOLS, PROBABILISTIC, STACKING, TEMPERED, VOTES, Array, fit_weights

Labels: TypeAlias = NDArray[np.int64]  # [N], class indices

TIE = 1e-3  # nats: votes whose mean losses differ by less are equal, and the simpler one is chosen
ALONE = 0.95  # a weight from which a weighted vote is one member's


class TooFewImagesError(InputError):
    """The vote that `ensemble.vote` names cannot be fitted to so few validation images."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What is fitted and how."""

    models: Sequence[str]  # names of the M members
    classes: Sequence[str]  # names of the K classes
    vote: str  # `ensemble.vote`: a key of VOTES, or 'auto'
    calibrate: bool  # whether temperatures are fitted; else all are 1
    positive: int | None  # column of the class that is to be detected, of two
    rule: Threshold  # rule that chooses its threshold; None: the more probable class decides
    stacking_columns: Sequence[str] = ()  # columns of the data's table that the vote `stacking` uses
    stacks: bool = True  # whether the vote `stacking` is fitted where the rows allow it


def fitting_of(params: Params, classes: Sequence[str]) -> Fitting:
    """Returns what is fitted in a study.

    Args:
        params: the study's parameters.
        classes: the class names, in the order of the probabilities.

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
        classes=classes,
        vote=params.ensemble.vote,
        calibrate=params.ensemble.calibrate,
        positive=None if positive is None else list(classes).index(positive),
        rule=params.evaluate.threshold,
        stacking_columns=params.ensemble.stacking_columns,
    )


def fit_panel(
    fitting: Fitting, members: Array, actual: Labels, parts: NDArray[np.int64], *, cells: Cells | None = None
) -> Fit:
    """Fits a panel to validation rows.

    Args:
        fitting: what is fitted.
        members: float64[M, N, K], the members' probabilities, uncalibrated.
        actual: int64[N], the labels.
        parts: int64[N]; the candidates of 'auto', and the penalties of the vote 'stacking', are compared by fits that
            leave out one part at a time.
        cells: object[N, J], the columns that the vote 'stacking' uses; None without any.

    Raises:
        TooFewImagesError: the vote is 'stacking', and it cannot be fitted.
    """
    obstacle = _why_not_stacked(fitting, actual, parts)
    if fitting.vote == STACKING and obstacle:
        raise TooFewImagesError(f"ensemble.vote is stacking, but {obstacle}: choose another vote, or auto")
    fit = _fit_numbers(fitting, members, actual)
    losses, penalty = _compare(fitting, members, actual, parts, cells)
    calibrated = calibrate_members(fit, members)
    if penalty is not None:
        stacking = fit_stacking(calibrated, actual, penalty, names=fitting.stacking_columns, cells=cells)
        fit = replace(fit, stacking=stacking)
    vote = choose_vote(losses) if fitting.vote == "auto" else fitting.vote
    threshold = None
    if vote in PROBABILISTIC:  # a share of votes says how many members agree, and a threshold would overrule them
        threshold = _fit_threshold(fitting, apply_vote(fit, vote, calibrated, cells), actual)
    return replace(fit, vote=vote, losses=losses, threshold=threshold)


def _why_not_stacked(fitting: Fitting, actual: Labels, parts: NDArray[np.int64]) -> str:
    """Returns why the vote 'stacking' is not fitted, as a clause; '' where it is."""
    if not fitting.stacks:
        return "it was left out"
    if len(fitting.models) == 1 and not fitting.stacking_columns:
        return "there is one model, and ensemble.stacking_columns names no column to use beside it"
    return why_not_stacked(actual, parts, fitting.classes)


def _fit_threshold(fitting: Fitting, probabilities: Array, actual: Labels) -> float | None:
    """Returns the threshold of the positive class; None without a rule, or where one of the two classes has no row."""
    if fitting.positive is None or fitting.rule is None or len(np.unique(actual)) < 2:
        return None
    return threshold_by_rule(actual == fitting.positive, probabilities[:, fitting.positive], fitting.rule)


def _fit_temperatures(fitting: Fitting, members: Array, actual: Labels) -> Fit:
    """Fits the members' temperatures alone."""
    temperatures = [_fit_temperature(fitting, member, actual) for member in members]
    by_model = dict(zip(fitting.models, temperatures, strict=True))
    return Fit(vote="soft", temperatures=by_model, weights={}, vote_temperatures={})


def _fit_temperature(fitting: Fitting, probabilities: Array, actual: Labels) -> float:
    return fit_temperature(probabilities, actual) if fitting.calibrate and len(actual) else 1.0


def _fit_numbers(fitting: Fitting, members: Array, actual: Labels) -> Fit:
    """Fits temperatures, the single member and weights; the vote is not chosen yet."""
    fit = _fit_temperatures(fitting, members, actual)
    calibrated = calibrate_members(fit, members)
    weights = fit_weights(calibrated, actual)
    pooled = {vote: POOLS[vote](calibrated, weights) for vote in TEMPERED}
    return replace(
        fit,
        weights=dict(zip(fitting.models, weights.tolist(), strict=True)),
        vote_temperatures={vote: _fit_temperature(fitting, one, actual) for vote, one in pooled.items()},
        single=fitting.models[int(np.argmin([_loss(member, actual) for member in calibrated]))],
    )


def _loss(probabilities: Array, actual: Labels) -> float:
    """Returns the mean cross-entropy in nats of probabilities float64[N, K]."""
    of_label = probabilities[np.arange(len(actual)), actual]
    return float(-np.log(np.maximum(of_label, np.finfo(np.float64).eps)).sum() / max(len(actual), 1))


def _compare(
    fitting: Fitting, members: Array, actual: Labels, parts: NDArray[np.int64], cells: Cells | None
) -> tuple[dict[str, float], float | None]:
    """Compares votes, and penalties of the vote 'stacking', on rows that their fits left out.

    Returns:
        The mean cross-entropy by vote, empty unless the vote is 'auto' and there are rows that are left out; and the
        penalty of 'stacking' with the least cross-entropy, which is its loss, None where 'stacking' is not fitted.
    """
    penalties: Sequence[float] = () if _why_not_stacked(fitting, actual, parts) else PENALTIES
    votes = [vote for vote in PROBABILISTIC if vote != STACKING] if fitting.vote == "auto" else []
    left_out = np.unique(parts)
    if len(left_out) < 2 or not (votes or penalties):
        return {}, None
    names: list[str | float] = [*votes, *penalties]
    held_out = {name: np.empty(members.shape[1:]) for name in names}
    for part in left_out:
        inside = parts == part
        fit = (_fit_numbers if votes else _fit_temperatures)(fitting, members[:, ~inside], actual[~inside])
        outside, within = (calibrate_members(fit, members[:, rows]) for rows in (~inside, inside))
        cells_outside, cells_within = (None, None) if cells is None else (cells[~inside], cells[inside])
        for vote in votes:
            held_out[vote][inside] = apply_vote(fit, vote, within)
        for penalty in penalties:
            stacking = fit_stacking(
                outside, actual[~inside], penalty, names=fitting.stacking_columns, cells=cells_outside
            )
            held_out[penalty][inside] = apply_stacking(stacking, within, cells_within)
    losses = {one: _loss(probabilities, actual) for one, probabilities in held_out.items()}
    by_vote = {vote: losses[vote] for vote in votes}
    if not penalties:
        return by_vote, None
    best = min(penalties, key=lambda penalty: losses[penalty])
    return by_vote | ({STACKING: losses[best]} if votes else {}), best


def choose_vote(losses: Mapping[str, float]) -> str:
    """Returns the vote of AUTOMATIC that 'auto' takes: the simplest one whose loss is within TIE of their least loss.

    Args:
        losses: the mean held-out cross-entropy by vote; 'stacking' is missing where it was not fitted. Empty: 'soft'
            is returned.

    >>> choose_vote({"single": 0.2, "soft": 0.3104, "product": 0.31, "weighted": 0.3096})
    'soft'
    >>> choose_vote({"soft": 0.35, "product": 0.31, "weighted": 0.3096, "stacking": 0.29})
    'stacking'
    """
    if not losses:
        return AUTOMATIC[0]
    candidates = [vote for vote in AUTOMATIC if vote in losses]
    least = min(losses[vote] for vote in candidates)
    return next(vote for vote in candidates if losses[vote] <= least + TIE)


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """What `cross_fit` returns: probabilities of N validation rows, none of them fitted to its own label."""

    members: Array  # [M, N, K], calibrated
    votes: Mapping[str, Array]  # [N, K] by vote; 'stacking' only where it was fitted for all parts
    heading: Array  # [N, K], probabilities of the vote that was chosen without the row
    uncalibrated: Array  # [N, K], the same vote without any temperature
    thresholds: Array  # [N], threshold of the positive class in `heading`; nan without a rule
    final: Fit  # the fit to all rows


def cross_fit(
    fitting: Fitting, versions: Array, actual: Labels, parts: NDArray[np.int64], *, cells: Cells | None = None
) -> CrossFit:
    """Fits a panel without each part of its validation rows in turn, and on all of them.

    Args:
        fitting: what is fitted.
        versions: float64[P + 1, M, N, K], the members' probabilities; index p: from the epochs that were chosen without
            part p; index P: from the epochs that all rows chose.
        actual: int64[N], the labels.
        parts: int64[N], the part of each row, 0 to P - 1.
        cells: object[N, J], the columns that the vote 'stacking' uses; None without any.

    Raises:
        TooFewImagesError: the vote is 'stacking', and it cannot be fitted.
    """
    _, members, rows, classes = versions.shape
    calibrated = np.empty((members, rows, classes))
    votes = {vote: np.empty((rows, classes)) for vote in VOTES}
    heading, uncalibrated = np.empty((rows, classes)), np.empty((rows, classes))
    thresholds = np.full(rows, np.nan)
    for part in np.unique(parts):
        inside = parts == part
        own = None if cells is None else cells[inside]
        others = None if cells is None else cells[~inside]
        fit = fit_panel(fitting, versions[part][:, ~inside], actual[~inside], parts[~inside], cells=others)
        calibrated[:, inside] = calibrate_members(fit, versions[part][:, inside])
        votes = {vote: table for vote, table in votes.items() if vote in fit.votes}
        for vote, probabilities in votes.items():
            probabilities[inside] = apply_vote(fit, vote, calibrated[:, inside], own)
        heading[inside] = apply_vote(fit, fit.vote, calibrated[:, inside], own)
        uncalibrated[inside] = vote_uncalibrated(fit, versions[part][:, inside], own)
        thresholds[inside] = np.nan if fit.threshold is None else fit.threshold
    # A stacking vote that was not held out for every row is not applied to new images either.
    final = fit_panel(replace(fitting, stacks=STACKING in votes), versions[-1], actual, parts, cells=cells)
    return CrossFit(
        members=calibrated,
        votes=votes,
        heading=heading,
        uncalibrated=uncalibrated,
        thresholds=thresholds,
        final=final,
    )
