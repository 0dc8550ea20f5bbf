"""Draws tables as matplotlib figures: learning curves, confusion, score intervals, reliability, decisions.

A model has the same color in all figures; the chosen vote is black.
"""

import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from tumorboard.evaluation.calibration import Reliability
from tumorboard.evaluation.metrics import Confusion
from tumorboard.evaluation.operating_point import DecisionCurve
from tumorboard.report.lettering import distinct, shorten, text_width
from tumorboard.report.style import COLORS, OTHER_VOTE_COLOR, STYLE, VOTE_COLOR, WIDTH, add_legend, grid_of, line_style

LearningCurves: TypeAlias = pd.DataFrame  # one row per epoch of each model and fold
LrCurve: TypeAlias = pd.DataFrame  # one row per step: lr, loss, smoothed (the debiased running mean of the losses)
ScoreIntervals: TypeAlias = pd.DataFrame  # one row per member and vote

_MANY_CLASSES = 20  # with more classes, the numbers of a confusion matrix are too small and too many to be read
_LEAST_SHARE = 0.05  # smallest share of a row that is written into its cell
_PNG_LEVEL = 4  # compression level from 0 to 9; a higher one takes twice as long for a few percent fewer bytes
_NAME_HEIGHT = 0.13  # inches; height of a name beside a confusion matrix


def to_png(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a PNG file, the same on each call and without the version of matplotlib."""
    buffer = io.BytesIO()
    draw_pixels(figure).save(buffer, format="png", dpi=(figure.dpi, figure.dpi), compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def draw_pixels(figure: Figure) -> Image.Image:
    """Draws an opaque figure once; `savefig` would draw one with a layout twice, and keep its transparency."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def learning_curves(curves: LearningCurves) -> Figure:
    """Draws loss (log scale) and accuracy per epoch: one color per model, one line per fold, a dot at the kept epoch.

    Training is dashed, validation solid.

    Args:
        curves: model, fold, epoch, train_loss, val_loss, train_accuracy, val_accuracy, kept (bool).
    """
    figure = Figure((WIDTH, 4.2), layout="constrained")
    panels = dict(zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True))
    models = list(dict.fromkeys(curves["model"]))
    styles = dict(zip(models, map(line_style, range(len(models))), strict=True))
    for score, axes in panels.items():
        for (model, _), line in curves.groupby(["model", "fold"], sort=False):
            style = styles[str(model)]
            dashed = {"linestyle": "--", "linewidth": 1, "alpha": 0.6} | ({"marker": "x"} if len(line) == 1 else {})
            axes.plot(line["epoch"], line[f"train_{score}"], **style | dashed)
            axes.plot(line["epoch"], line[f"val_{score}"], **style)
            kept = line[line["kept"]]
            axes.plot(kept["epoch"], kept[f"val_{score}"], "o", color=style["color"], markersize=6)
        axes.set(xlabel="epoch", title=score)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels["loss"].set_yscale("log")  # on a linear scale one bad epoch would flatten all others
    panels["loss"].yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panels["loss"].yaxis.set_major_formatter("{x:g}")
    panels["loss"].yaxis.set_minor_formatter("{x:g}")
    kinds = [Line2D([], [], color="#555555", linestyle=kind, linewidth=1.2) for kind in ("-", "--")]
    handles = [Line2D([], [], **styles[model]) for model in models] + kinds
    kept_dot = Line2D([], [], color="#555555", marker="o", linestyle="", markersize=6)
    add_legend(figure, [*handles, kept_dot], [*models, "validation", "training", "kept epoch"])
    return figure


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def learning_rate_curve(curve: LrCurve, marks: Mapping[str, float], title: str) -> Figure:
    """Draws loss over the learning rate, as measured and smoothed, with a labeled line at each marked rate.

    The axis ends as far above the first smoothed loss as the lowest loss is below it: where the loss explodes, the
    curve is cut off.

    Args:
        curve: lr, loss, smoothed; one row per step.
        marks: learning rates by label.
        title: title of the figure.
    """
    figure = Figure((WIDTH * 0.7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["lr"], curve["loss"], color="#bbbbbb", linewidth=1, label="loss per step")
    axes.plot(curve["lr"], curve["smoothed"], color=COLORS[0], linewidth=2, label="smoothed loss")
    for color, (name, lr) in zip(COLORS[1:], marks.items(), strict=False):
        axes.axvline(lr, color=color, linewidth=1.2, label=f"{name}: {lr:.2g}")
    first, lowest = curve["smoothed"].iloc[0], min(curve["smoothed"].min(), curve["loss"].min())
    room = 0.1 * (first - lowest)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
    axes.set_ylim(lowest - room, first + 10 * room)
    axes.legend(loc="lower left")
    return figure


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def confusion_matrices(tables: Mapping[str, Confusion], *, normalized: bool) -> Figure:
    """Draws one confusion matrix per model; the color of a cell is its share of the actual class.

    Args:
        tables: by model, columns actual, predicted, count, share, as `evaluation.metrics.confusion_table` returns them.
        normalized: write the share in percent into each cell, else the count; with many classes, only into cells
            that have at least `_LEAST_SHARE` of their row.
    """
    classes = list(dict.fromkeys(next(iter(tables.values()))["actual"]))
    least = _LEAST_SHARE if len(classes) > _MANY_CLASSES else 0.0
    rows, columns = grid_of(len(tables), int(WIDTH / min(max(1.9, 0.8 + 0.3 * len(classes)), WIDTH / 2)))
    side = WIDTH / columns if columns > 2 else WIDTH / 2
    names = distinct(classes, 14 if columns > 2 else 22)
    # A character is about 0.075 inches wide, and the matrix takes three quarters of its panel.
    longest = 0.075 * (max(map(text_width, names)) + 1)
    upright = longest * len(classes) > 0.75 * side
    width, height = WIDTH, rows * (0.85 * side + 0.3)
    if (needed := len(classes) * _NAME_HEIGHT) > 0.75 * side:  # many classes: one matrix per row, as large as its names
        rows, columns, width = len(tables), 1, max(WIDTH, needed + longest + 0.6)
        side, height = needed, rows * (needed + 0.4)
    figure = Figure((width, height + 1.1 + longest * upright), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(tables) :]:
        axes.set_axis_off()
    for axes, (name, table) in zip(grid, tables.items(), strict=False):
        shape = (len(classes), len(classes))
        share, count = (table[column].to_numpy().reshape(shape) for column in ("share", "count"))
        axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(share):
            text = f"{100 * value:.0f}" if normalized else f"{count[row, column]}"
            if np.isfinite(value) and value >= least and (count[row, column] or len(classes) <= 6):
                color = "white" if value > 0.55 else "#333333"
                size = float(np.interp(len(classes), [2, 20, 40], [10, 6.5, 4.5]))
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size, in_layout=False)
        axes.grid(visible=False)
        axes.tick_params(length=0, left=False, bottom=False)
        axes.set_xticks(range(len(classes)), names, rotation=90 if upright else 0, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
        axes.set_title(shorten(name, int(12 * side)), y=1)
        # Places for title and (empty) labels are given: matplotlib would measure all names once more to find each.
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_label_coords(0, 0)
        axes.spines[:].set_visible(False)
    figure.supxlabel("predicted", fontsize=9.5)
    numbers = ("% of the row" if normalized else "images") + (
        f", from {100 * least:g} % of the row on" if least else ""
    )
    figure.supylabel(f"actual (numbers: {numbers})", fontsize=9.5)
    return figure


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def score_intervals(scores: ScoreIntervals, vote: str, base_rate: float, part: str) -> Figure:
    """Draws accuracy with its interval, one row per member and vote, the chosen vote in black.

    Args:
        scores: model, kind ('member' or 'vote'), accuracy, accuracy_low, accuracy_high (nan: no interval).
        vote: the value of `model` that is the chosen vote.
        base_rate: the accuracy of always predicting the most frequent class, drawn as a grey line.
        part: the part of the data, validation or test.
    """
    figure = Figure((WIDTH, 0.7 + 0.32 * (len(scores) + 1)), layout="constrained")
    axes = figure.subplots()
    members = int((scores["kind"] == "member").sum())
    heights = [row + (row >= members) * 0.6 for row in range(len(scores))]
    rows = scores.to_dict("records")
    for index, (height, row) in enumerate(zip(heights, rows, strict=True)):
        vote_color = VOTE_COLOR if row["model"] == vote else OTHER_VOTE_COLOR
        color = line_style(index)["color"] if row["kind"] == "member" else vote_color
        ends = [row["accuracy_low"], row["accuracy_high"]]
        axes.plot(ends, [height, height], color=color, linewidth=2.5, alpha=0.45)
        axes.plot(row["accuracy"], height, "o", color=color, markersize=7)
        text = f"{100 * row['accuracy']:.1f} %"
        axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=color)
    axes.axvline(base_rate, color="#bbbbbb", linewidth=1.2, zorder=0)
    names = [shorten(row["model"], 30) + (" (vote)" if row["kind"] == "vote" else "") for row in rows]
    axes.set_yticks(heights, names)
    axes.set(xlabel=f"accuracy on {part} images; grey line: always predicting the most frequent class")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def reliability_diagram(table: Reliability, vote: str) -> Figure:
    """Draws how often a model is right over how sure it is: one line per model, the vote in black with its intervals.

    Args:
        table: model, probability, observed, observed_low, observed_high (nan: none), images; by rising probability.
        vote: the value of `model` for the vote that heads the report; `<vote>, uncalibrated`: without temperatures.
    """
    figure = Figure((WIDTH * 0.6, 4.9), layout="constrained")
    axes = figure.subplots()
    models = [model for model in dict.fromkeys(table["model"]) if model != vote]
    styles = dict(zip(models, map(line_style, range(len(models))), strict=True))
    uncalibrated = f"{vote}, uncalibrated"
    models_drawn = set(table["model"])
    if uncalibrated in models_drawn:
        styles |= {uncalibrated: {"color": OTHER_VOTE_COLOR, "linestyle": "--"}}
    if vote in models_drawn:  # a hard vote has no probabilities
        styles |= {vote: {"color": VOTE_COLOR}}
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    for model, style in styles.items():
        line = table[table["model"] == model]
        axes.plot(line["probability"], line["observed"], **{"marker": "o", "markersize": 4} | style)
        if model == vote:
            axes.vlines(line["probability"], line["observed_low"], line["observed_high"], color=VOTE_COLOR, alpha=0.4)
    lowest = min(table["probability"].min(), table["observed"].min())
    axes.set(xlim=(lowest - 0.03, 1.02), ylim=(max(-0.02, lowest - 0.08), 1.02), aspect="equal")
    axes.set(xlabel="stated probability of the predicted class", ylabel="share of images where it is right")
    names = ["vote, uncalibrated" if name == uncalibrated else name for name in styles]
    add_legend(figure, [Line2D([], [], **style) for style in styles.values()], names, 0.6 * WIDTH)
    return figure


@mpl.rc_context(STYLE)  # type: ignore[untyped-decorator]
def decision_curves(table: DecisionCurve, vote: str, positive: str) -> Figure:
    """Draws the net benefit of deciding by the vote, of treating all and of treating none (Vickers and Elkin 2006).

    Args:
        table: threshold, model, all, none.
        vote: name of the vote.
        positive: name of the positive class.
    """
    figure = Figure((WIDTH * 0.6, 3.8), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, tuple[str, str, Any]] = {
        vote: ("model", VOTE_COLOR, "-"),
        f"call all {positive}": ("all", COLORS[0], "--"),
    }
    for column, color, style in [*lines.values(), ("none", "#888888", ":")]:
        axes.plot(table["threshold"], table[column], color=color, linestyle=style)
    # Of a rare class, calling none may be best at every threshold, with a net benefit of 0.
    highest = max(table["model"].max(), table["all"].max())
    highest = highest if highest > 0 else 0.01
    axes.set(ylim=(-0.15 * highest, 1.08 * highest), xlim=(0, 1), ylabel="net benefit per image")
    axes.set(xlabel=f"probability of {shorten(positive, 30)} from which one would act")
    handles = [Line2D([], [], color=color, linestyle=style) for _, color, style in lines.values()]
    handles.append(Line2D([], [], color="#888888", linestyle=":"))
    add_legend(figure, handles, [*lines, "call none"], 0.6 * WIDTH)
    return figure
