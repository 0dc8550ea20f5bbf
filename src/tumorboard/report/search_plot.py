"""Draws the trials of a hyper-parameter search: their losses, which key matters, and the loss over each key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tumorboard.report.lettering import shorten
from tumorboard.report.style import COLORS, STYLE, WIDTH

COLUMNS = 3  # panels side by side
_ROOM = 0.08  # space beyond each end of the range, as a share of the range
_PRUNED: dict[str, Any] = {"marker": "x", "color": "#9a9a9a", "linestyle": "none", "markersize": 5}
_COMPLETE: dict[str, Any] = {"marker": "o", "color": COLORS[0], "linestyle": "none", "markersize": 5}
_BEST: dict[str, Any] = {"marker": "*", "color": COLORS[1], "linestyle": "none", "markersize": 13}


class Axis(NamedTuple):
    """The range of one key."""

    key: str
    log: bool
    low: float | None  # None: the axis has labels
    high: float | None
    labels: tuple[str, ...] = ()  # labels of the choices; a trial's value is a position among them


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def search_figure(trials: pd.DataFrame, keys: Sequence[Axis], importances: Mapping[str, float], title: str) -> Figure:
    """Draws one panel for the trials in their order, one for the importances, and one per key.

    A dot is a finished trial, a cross one that was stopped early, at its loss until then; the star is the best one.

    Args:
        trials: number (from 1), complete (bool), loss, and a column of numbers per key; one row per trial with a loss,
            one of them complete.
        keys: the searched keys with their ranges.
        importances: share of the loss's variance by key, 0 to 1; empty where too few trials were finished.
        title: title of the figure.
    """
    rows = 1 + math.ceil((len(keys) + 2 - COLUMNS) / COLUMNS) if len(keys) + 2 > COLUMNS else 1
    figure = Figure((WIDTH, 0.5 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten().tolist()
    limits = _loss_limits(trials)
    _draw_order(panels[0], trials)
    _draw_importances(panels[1], importances, keys)
    for axes, key in zip(panels[2:], keys, strict=False):
        _draw_key(axes, trials, key)
    for number, axes in enumerate(panels):
        if number >= len(keys) + 2:
            axes.remove()
        elif number != 1:
            axes.set_ylim(*limits)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    marks = [Line2D([], [], **style) for style in (_BEST, _COMPLETE, _PRUNED)]
    figure.legend(marks, ["best", "finished", "stopped early"], loc="outside upper right", ncols=3, fontsize=9)
    return figure


def _loss_limits(trials: pd.DataFrame) -> tuple[float, float]:
    """Returns the ends of the loss axis; losses far above the others, which only flatten the picture, are cut off."""
    low = float(trials["loss"].min())
    high = min(float(trials["loss"].max()), low + 3 * max(float(trials["loss"].median()) - low, 0.01 * abs(low), 1e-6))
    room = max(_ROOM * (high - low), 1e-6)
    return low - room, high + room


def _marks(axes: Axes, trials: pd.DataFrame, x: pd.Series) -> None:
    loss = trials["loss"].clip(upper=_loss_limits(trials)[1])  # losses beyond the limit are drawn at the upper edge
    complete = trials["complete"].to_numpy(dtype=bool)
    best = np.arange(len(trials)) == int(trials["loss"].where(complete).argmin())
    for chosen, style in ((~complete, _PRUNED), (complete & ~best, _COMPLETE), (best, _BEST)):
        if chosen.any():  # empty, unclipped marks have no extent that the layout could use
            axes.plot(x[chosen], loss[chosen], clip_on=False, zorder=3, **style)


def _draw_order(axes: Axes, trials: pd.DataFrame) -> None:
    _marks(axes, trials, trials["number"])
    running = trials["loss"].where(trials["complete"]).cummin().ffill()
    axes.step(trials["number"], running, where="post", color=COLORS[1], linewidth=1, zorder=1)
    axes.set(title="trials in their order", xlabel="trial", ylabel="held-out loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_importances(axes: Axes, importances: Mapping[str, float], keys: Sequence[Axis]) -> None:
    axes.set(title="importance of each key, roughly", xlim=(0, 1))
    if not importances:
        axes.text(0.5, 0.5, "too few trials to tell", transform=axes.transAxes, ha="center", color="#777777")
        axes.set(xticks=[], yticks=[])
        return
    names = sorted((axis.key for axis in keys), key=lambda key: importances.get(key, 0.0))
    values = [importances.get(name, 0.0) for name in names]
    bars = axes.barh(range(len(names)), values, color=COLORS[0], height=0.6)
    axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, fontsize=8.5)
    axes.set_yticks(range(len(names)), [shorten(name.removeprefix("train."), 22) for name in names])
    axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.grid(axis="y", visible=False)


def _draw_key(axes: Axes, trials: pd.DataFrame, key: Axis) -> None:
    _marks(axes, trials, trials[key.key])
    axes.set(title=key.key.removeprefix("train."), ylabel="held-out loss")
    if key.low is None or key.high is None:
        axes.set_xticks(range(len(key.labels)), [shorten(label, 14) for label in key.labels])
        axes.set_xlim(-0.5, len(key.labels) - 0.5)
        return
    if key.log:
        axes.set_xscale("log")
        room = (key.high / key.low) ** _ROOM
        axes.set_xlim(key.low / room, key.high * room)
    else:
        room = _ROOM * (key.high - key.low)
        axes.set_xlim(key.low - room, key.high + room)
