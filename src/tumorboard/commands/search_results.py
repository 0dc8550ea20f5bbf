"""The output of `tumorboard search`: a table of the best, all of them as CSV, a picture, and advice."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from tumorboard.base.params import Params
from tumorboard.base.search_params import Dimension, Value, position
from tumorboard.commands.search_space import Point, describe_value, present_point
from tumorboard.commands.search_study import TrialRecord

SHOWN = 10  # trials in the printed table
TRIALS_PER_KEY = 3  # fewest trials per searched key for which importances are shown
FOLDS = 5
TREES = 40  # trees per forest
REPEATS = 10  # other values per unseen trial and key
EDGE = 0.05  # share of a range that counts as its end


def best_record(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Returns the finished trial with the least loss, the earlier one at a tie; None where none was finished."""
    complete = [record for record in records if record.state == "complete" and record.loss is not None]
    return min(complete, key=lambda record: (record.loss, record.number), default=None)


def trials_table(records: Sequence[TrialRecord], dimensions: Mapping[str, Dimension]) -> pd.DataFrame:
    """Returns one row per trial: trial (from 1), experiment, state, loss, epochs, seconds, reason, and each key."""
    rows = []
    for record in records:
        row = dict(vars(record))
        point: Point = row.pop("point")
        keys = {key: describe_exactly(point[key]) if key in point else "" for key in dimensions}
        rows.append({"trial": row.pop("number") + 1} | row | keys)
    columns = ["trial", "experiment", "state", "loss", "epochs", "seconds", "reason", *dimensions]
    return pd.DataFrame(rows, columns=columns)


def describe_exactly(value: Value) -> str:
    """Returns a value with all its digits."""
    return repr(value) if isinstance(value, float) else describe_value(value)


def print_trials(records: Sequence[TrialRecord], params: Params, model: str, console: Console) -> None:
    """Prints the SHOWN best trials, each with its distance from the present recipe where this was tried."""
    dimensions = params.search.dimensions
    complete = sorted(
        (record for record in records if record.state == "complete"), key=lambda record: (record.loss, record.number)
    )
    present = present_record(complete, params, model)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("experiment", "loss", *(["difference"] if present else []), *dimensions):
        table.add_column(name.removeprefix("train."), justify="left" if name == "experiment" else "right", no_wrap=True)
    for record in complete[:SHOWN]:
        assert record.loss is not None
        cells = [describe_value(record.point[key]) for key in dimensions]
        change = [_change(record, present)] if present else []
        style = "bold" if record is complete[0] else ""
        table.add_row(record.experiment, f"{record.loss:.4f}", *change, *cells, style=style)
    console.print(table)


def _change(record: TrialRecord, present: TrialRecord) -> str:
    assert record.loss is not None
    assert present.loss is not None
    return "present" if record is present else f"{record.loss - present.loss:+.4f}"


def present_record(records: Sequence[TrialRecord], params: Params, model: str) -> TrialRecord | None:
    """Returns the first finished trial of the present recipe; None where there is none."""
    point = present_point(params, model)
    return next((record for record in records if record.point == point), None)


def advise(records: Sequence[TrialRecord], params: Params) -> list[str]:
    """Returns lines about a search with a finished trial: how it went, what its loss is worth, where to look next."""
    counts = {state: sum(record.state == state for record in records) for state in ("complete", "pruned", "failed")}
    best = best_record(records)
    assert best is not None
    lines = [
        f"{counts['complete']} trials finished, {counts['pruned']} stopped early"
        + (f", {counts['failed']} failed" if counts["failed"] else "")
    ]
    for key, end in ends_reached(best.point, params.search.dimensions).items():
        lines.append(
            f"the best {key.removeprefix('train.')} is at the {end} end of its range: widen search.space.{key}"
        )
    lines.append(
        f"the least of {counts['complete']} losses was chosen by these images and flatters the trial; after the last "
        "line below: tumorboard compare HEAD workspace --part validation"
    )
    return lines


def ends_reached(point: Point, dimensions: Mapping[str, Dimension]) -> dict[str, str]:
    """Returns 'lower' or 'upper' for each key whose number lies within EDGE of an end of its range.

    >>> space = {"train.lr": Dimension(low=0.001, high=0.1, log=True), "train.epochs": Dimension(low=2, high=40)}
    >>> ends_reached({"train.lr": 0.099, "train.epochs": 20}, space)
    {'train.lr': 'upper'}
    """
    reached = {}
    for key, value in point.items():
        dimension = dimensions[key]
        if dimension.choices is None and isinstance(value, int | float):
            place = position(dimension, value)
            if min(place, 1 - place) < EDGE:
                reached[key] = "lower" if place < EDGE else "upper"
    return reached


def importances(records: Sequence[TrialRecord], dimensions: Mapping[str, Dimension]) -> dict[str, float]:
    """Returns each key's share, 0 to 1, in explaining the trials' order; {} where there are too few trials.

    Forests learn the rank of a trial's loss from its values, and predict the rank of unseen trials; a
    key's share is the error that other values of the key add to this. Trials that were stopped early count, at their
    loss until then. In searches of twenty trials whose loss depends on one of three keys, this key has a share of 0.9
    to 1; by fANOVA, which knows no unseen trials and leaves the stopped ones out, it has 0.3 to 0.7.

    Source: Breiman, "Random forests" (2001), section 10, with cross-validation; scikit-learn.
    """
    ranked = [record for record in records if record.state in ("complete", "pruned") and record.loss is not None]
    losses = np.array([record.loss for record in ranked], dtype=np.float64)
    if len(ranked) < TRIALS_PER_KEY * max(2, len(dimensions)) or len(np.unique(losses)) < 2:
        return {}
    from sklearn.ensemble import RandomForestRegressor  # slow to import
    from sklearn.model_selection import KFold

    # Trees use only the order of values, so a logarithm would change nothing.
    values = np.array([[_place(dimensions[key], record.point[key]) for key in dimensions] for record in ranked])
    ranks, added = rankdata(losses), np.zeros(len(dimensions))
    draw = np.random.default_rng(0)
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=0).split(values):
        forest = RandomForestRegressor(TREES, random_state=0).fit(values[seen], ranks[seen])
        rows, truth = np.tile(values[unseen], (REPEATS, 1)), np.tile(ranks[unseen], REPEATS)
        error = ((forest.predict(rows) - truth) ** 2).sum()
        for key in range(len(dimensions)):
            other = rows.copy()
            other[:, key] = draw.choice(values[:, key], len(rows))
            added[key] += ((forest.predict(other) - truth) ** 2).sum() - error
    shares = added.clip(0)
    return (
        {key: float(share) for key, share in zip(dimensions, shares / shares.sum(), strict=True)}
        if shares.any()
        else {}
    )


def draw_trials(records: Sequence[TrialRecord], params: Params, model: str) -> bytes:
    """Returns a PNG of all trials that have a loss."""
    from tumorboard.report.plots import to_png  # matplotlib is slow to import
    from tumorboard.report.search_plot import Axis, search_figure

    axes = []
    for key, dimension in params.search.dimensions.items():
        if dimension.choices is None:
            assert dimension.low is not None
            assert dimension.high is not None
            axes.append(Axis(key, dimension.log, float(dimension.low), float(dimension.high)))
        else:
            axes.append(Axis(key, False, None, None, tuple(map(describe_value, dimension.choices))))
    rows = [
        {"number": record.number + 1, "complete": record.state == "complete", "loss": record.loss}
        | {key: _place(params.search.dimensions[key], value) for key, value in record.point.items()}
        for record in records
        if record.state in ("complete", "pruned") and record.loss is not None
    ]
    return to_png(
        search_figure(
            pd.DataFrame(rows),
            axes,
            importances(records, params.search.dimensions),
            f"search of {model}: held-out loss, lower is better",
        )
    )


def _place(dimension: Dimension, value: Value) -> float:
    """Returns the position of a value on its axis: the number itself, or the position of a choice."""
    if dimension.choices is not None:
        return float(dimension.choices.index(value))  # type: ignore[arg-type]
    assert isinstance(value, int | float)
    return float(value)
