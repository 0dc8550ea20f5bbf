"""Draws ROC and precision-recall curves with a panel per class.

All panels share one pair of axes, moved beside and below each other: with sixty classes, a pair of axes per panel takes
much longer to lay out and to draw than the curves.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tumorboard.evaluation.metrics import Curves
from tumorboard.report.lettering import distinct
from tumorboard.report.style import STYLE, VOTE_COLOR, WIDTH, add_legend, grid_of, line_style

_MOST_COLUMNS = 5
_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_FEW_TICKS = (0, 0.5, 1)  # for many panels
_MANY = 20  # panels, from which a figure has many
_ROOM = 0.02  # space around a panel, whose sides are 1 long
_MOST_SIDE = 4.2  # inches; the longest side of a panel
_GAP = 0.22  # inches between two panels side by side
_TITLE = 0.3  # inches above each panel
_LEFT = 0.65  # inches left of the panels, for numbers and a name
_BELOW = 0.62  # inches below the panels, for the same
_RIGHT = 0.12  # inches right of the panels
_MARKERS = 7  # markers per curve


class Panel(NamedTuple):
    """A class and where its panel begins, in the coordinates of the axes."""

    name: str
    left: float
    low: float


def roc_curves(curves: Curves, vote: str) -> Figure:
    """Draws ROC curves: one panel per class, one line per model.

    Args:
        curves: model, class, fpr, tpr.
        vote: the value of `model` that is the chosen vote.
    """
    figure, axes, panels = _draw_panels(curves, vote, "fpr", "tpr")
    _draw_below(axes, [((panel.left, panel.low), (panel.left + 1, panel.low + 1)) for panel in panels])
    axes.set(xlabel="false positive rate (1 − specificity)", ylabel="true positive rate (recall)")
    return figure


def precision_recall_curves(curves: Curves, vote: str, base_rates: Mapping[str, float]) -> Figure:
    """Draws precision over recall: one panel per class, one line per model.

    Args:
        curves: model, class, recall, precision.
        vote: the value of `model` that is the chosen vote.
        base_rates: share of the images by class, drawn as a grey line.
    """
    figure, axes, panels = _draw_panels(curves, vote, "recall", "precision")
    heights = [panel.low + base_rates[panel.name] for panel in panels]
    _draw_below(
        axes,
        [
            ((panel.left - _ROOM, height), (panel.left + 1 + _ROOM, height))
            for panel, height in zip(panels, heights, strict=True)
        ],
    )
    axes.set(xlabel="recall", ylabel="precision")
    return figure


def _draw_below(axes: Axes, lines: Sequence[Any]) -> None:
    axes.add_collection(LineCollection(lines, colors="#bbbbbb", linewidths=0.8, zorder=0.9), autolim=False)


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def _draw_panels(curves: Curves, vote: str, x: str, y: str) -> tuple[Figure, Axes, list[Panel]]:
    """Draws the column `y` over the column `x` with one panel per class."""
    models = [model for model in curves["model"].unique() if model != vote]
    styles = dict(zip(models, map(line_style, range(len(models))), strict=True))
    if (curves["model"] == vote).any():  # a hard vote has no curve
        styles[vote] = {"color": VOTE_COLOR}
    classes = curves["class"].unique().tolist()
    rows, columns = grid_of(len(classes), _MOST_COLUMNS)
    room = WIDTH - _LEFT - _RIGHT - (columns - 1) * _GAP
    side = min(room / columns / (1 + 2 * _ROOM), _MOST_SIDE)
    across, down = 1 + 2 * _ROOM + _GAP / side, 1 + 2 * _ROOM + _TITLE / side
    panels = [
        Panel(name, place % columns * across, (rows - 1 - place // columns) * down)
        for place, name in enumerate(classes)
    ]
    figure, axes = _make_axes(columns * across * side - _GAP, rows * down * side, styles)
    _draw_frames(axes, panels, distinct(classes, 110 // columns))
    points, rows_of = curves[[x, y]].to_numpy(np.float64), curves.groupby(["model", "class"], sort=False).indices
    for model, style in styles.items():
        line, marked = _join([points[rows_of.get((model, panel.name), [])] for panel in panels], panels)
        axes.plot(*line.T, **style, markevery=marked, linewidth=2.2 if model == vote else 1.3)
    axes.set(ylim=(-_ROOM, rows * down - _ROOM))
    return figure, axes, panels


def _make_axes(width: float, height: float, styles: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, Axes]:
    """Returns axes of a size in inches below a legend; a layout engine would draw it all once more to measure it."""
    whole = _LEFT + width + _RIGHT
    figure = Figure((whole, 1))
    legend = add_legend(figure, [Line2D([], [], **style) for style in styles.values()], list(styles), whole)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    total = _BELOW + height + legend.get_window_extent(renderer).height / figure.dpi + _GAP / 2
    figure.set_size_inches(whole, total)
    return figure, figure.add_axes((_LEFT / whole, _BELOW / total, width / whole, height / total))


def _join(curves: Sequence[NDArray[np.float64]], panels: Sequence[Panel]) -> tuple[NDArray[np.float64], list[int]]:
    """Returns the curves float64[n, 2] of all panels as one line with gaps, and the points that have a marker."""
    parts: list[NDArray[np.float64]] = []
    marked: list[int] = []
    begin = 0
    for curve, panel in zip(curves, panels, strict=True):
        parts += [curve + np.array([panel.left, panel.low]), np.full((1, 2), np.nan)]
        if len(curve):
            marked += (begin + np.linspace(0, len(curve) - 1, _MARKERS).astype(int)).tolist()
        begin += len(curve) + 1
    return np.concatenate(parts), marked


def _draw_frames(axes: Axes, panels: Sequence[Panel], titles: Sequence[str]) -> None:
    """Draws the panels without their curves: grid, left and lower edge, title; and the numbers at the outer edges."""
    ticks = _TICKS if len(panels) <= _MANY else _FEW_TICKS
    grid: list[Any] = []
    edges: list[Any] = []
    for panel, title in zip(panels, titles, strict=True):
        left, right, low, high = panel.left - _ROOM, panel.left + 1 + _ROOM, panel.low - _ROOM, panel.low + 1 + _ROOM
        grid += [((left, panel.low + tick), (right, panel.low + tick)) for tick in ticks]
        grid += [((panel.left + tick, low), (panel.left + tick, high)) for tick in ticks]
        edges.append(((left, high), (left, low), (right, low)))
        axes.text(left, high + _ROOM, title, va="bottom", fontsize=mpl.rcParams["axes.titlesize"])
    axes.add_collection(LineCollection(grid, colors=mpl.rcParams["grid.color"], linewidths=0.8, zorder=0.5))
    axes.add_collection(LineCollection(edges, colors=mpl.rcParams["axes.edgecolor"], linewidths=0.8, zorder=2.5))
    lefts, lows = (sorted({getattr(panel, side) for panel in panels}) for side in ("left", "low"))
    numbers = [f"{tick:g}" for tick in ticks]
    axes.set_xticks([left + tick for left in lefts for tick in ticks], numbers * len(lefts))
    axes.set_yticks([low + tick for low in lows for tick in ticks], numbers * len(lows))
    axes.set(xlim=(-_ROOM, lefts[-1] + 1 + _ROOM))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
