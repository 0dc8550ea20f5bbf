"""Figures of tables: learning curves, ROC, precision-recall, confusion, scores with intervals, pictures.

Every function returns a matplotlib Figure for an 11-inch-wide column; `png` turns one into the same bytes every time.
Models keep their colour in all figures (after Okabe & Ito 2008, told apart by the colour-blind); the vote is black.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "figure.dpi": 110,
}
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("", "o", "s", "^", "x")
_VOTE = "#000000"
_WIDTH = 11.0


def png(figure: Figure) -> bytes:
    """A figure as PNG, without the metadata that would differ from one matplotlib to the next."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def short(name: str, width: int) -> str:
    """A name on one line of at most `width` characters, the middle left out, fit to be drawn whatever it holds."""
    name = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    return name if len(name) <= width else f"{name[: (width - 1) // 2]}…{name[len(name) - width // 2 :]}"


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def learning_curves(curves: pd.DataFrame) -> Figure:
    """Loss (on a log scale) and accuracy by epoch: a colour a model, training dashed, a dot at the kept epoch.

    Columns: model, fold, epoch, train_loss, val_loss, train_accuracy, val_accuracy, kept (bool); a line a fold.
    """
    figure = Figure((_WIDTH, 4.2), layout="constrained")
    panels = dict(zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True))
    models = list(dict.fromkeys(curves["model"]))
    styles = dict(zip(models, map(_style, range(len(models))), strict=True))
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
    panels["loss"].set_yscale("log")  # one bad epoch would flatten all others
    panels["loss"].yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panels["loss"].yaxis.set_major_formatter("{x:g}")
    panels["loss"].yaxis.set_minor_formatter("{x:g}")
    kinds = [Line2D([], [], color="#555555", linestyle=kind, linewidth=1.2) for kind in ("-", "--")]
    handles = [Line2D([], [], **styles[model]) for model in models] + kinds
    kept_dot = Line2D([], [], color="#555555", marker="o", linestyle="", markersize=6)
    _legend(figure, [*handles, kept_dot], [*models, "validation", "training", "kept epoch"])
    return figure


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def learning_rate_curve(curve: pd.DataFrame, marks: Mapping[str, float], title: str) -> Figure:
    """Loss over the learning rate, both as measured and smoothed, with a named line at each marked rate.

    Columns: lr, loss, smoothed; the losses above twice the first smoothed one's distance from the lowest are cut off.
    """
    figure = Figure((_WIDTH * 0.7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["lr"], curve["loss"], color="#bbbbbb", linewidth=1, label="loss of a step")
    axes.plot(curve["lr"], curve["smoothed"], color=_COLORS[0], linewidth=2, label="smoothed")
    for color, (name, lr) in zip(_COLORS[1:], marks.items(), strict=False):
        axes.axvline(lr, color=color, linewidth=1.2, label=f"{name}: {lr:.2g}")
    first, lowest = curve["smoothed"].iloc[0], min(curve["smoothed"].min(), curve["loss"].min())
    room = 0.1 * (first - lowest)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
    axes.set_ylim(lowest - room, first + 10 * room)
    axes.legend(loc="lower left")
    return figure


def roc_curves(curves: pd.DataFrame, vote: str) -> Figure:
    """ROC curves, a panel a class, a line a model and the vote; columns: model, class, fpr, tpr."""
    figure, panels = _class_panels(curves, vote, "fpr", "tpr")
    for axes in panels.values():
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, zorder=0)
    figure.supxlabel("false positive rate (1 − specificity)", fontsize=9.5)
    figure.supylabel("true positive rate (recall)", fontsize=9.5)
    return figure


def precision_recall_curves(curves: pd.DataFrame, vote: str, base_rates: Mapping[str, float]) -> Figure:
    """Precision over recall, a panel a class with its share of the images as a grey line.

    Columns: model, class, recall, precision; a line a model and the vote.
    """
    figure, panels = _class_panels(curves, vote, "recall", "precision")
    for name, axes in panels.items():
        axes.axhline(base_rates[name], color="#bbbbbb", linewidth=0.8, zorder=0)
    figure.supxlabel("recall", fontsize=9.5)
    figure.supylabel("precision", fontsize=9.5)
    return figure


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def _class_panels(curves: pd.DataFrame, vote: str, x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    models = [model for model in dict.fromkeys(curves["model"]) if model != vote]
    styles = dict(zip(models, map(_style, range(len(models))), strict=True)) | {vote: {"color": _VOTE}}
    classes = list(dict.fromkeys(curves["class"]))
    rows, columns = _grid(len(classes), 5)
    figure = Figure((_WIDTH, rows * min(_WIDTH / columns, 4.2) + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    panels = dict(zip(classes, grid, strict=False))
    for axes in grid[len(classes) :]:
        axes.set_axis_off()
    titles = _distinct(classes, 110 // columns)
    for title, (name, axes) in zip(titles, panels.items(), strict=True):
        for model, style in styles.items():
            line = curves[(curves["class"] == name) & (curves["model"] == model)]
            axes.plot(line[x], line[y], **style, markevery=0.15, linewidth=2.2 if model == vote else 1.3)
        axes.set(title=title, aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(figure, [Line2D([], [], **style) for style in styles.values()], list(styles))
    return figure, panels


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def confusion_matrices(tables: Mapping[str, pd.DataFrame], *, normalised: bool) -> Figure:
    """A confusion matrix a model and vote, from tables as `metrics.confusion_table` makes them.

    The colour is the share of the actual class; the number that share in percent (`normalised`), or the count.
    """
    classes = list(dict.fromkeys(next(iter(tables.values()))["actual"]))
    rows, columns = _grid(len(tables), int(_WIDTH / min(max(1.9, 0.8 + 0.3 * len(classes)), _WIDTH / 2)))
    side = _WIDTH / columns if columns > 2 else _WIDTH / 2
    names = _distinct(classes, 14 if columns > 2 else 22)
    # A character is about 0.075 inches wide, the matrix three quarters of its panel.
    longest = 0.075 * (max(map(len, names)) + 1)
    upright = longest * len(classes) > 0.75 * side
    figure = Figure((_WIDTH, rows * (0.85 * side + 0.3) + 1.1 + longest * upright), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(tables) :]:
        axes.set_axis_off()
    for axes, (name, table) in zip(grid, tables.items(), strict=False):
        shape = (len(classes), len(classes))
        share, count = (table[column].to_numpy().reshape(shape) for column in ("share", "count"))
        axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(share):
            text = f"{100 * value:.0f}" if normalised else f"{count[row, column]}"
            if np.isfinite(value) and (count[row, column] or len(classes) <= 6):
                color = "white" if value > 0.55 else "#333333"
                size = float(np.interp(len(classes), [2, 20], [10, 6.5]))
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
        axes.set_xticks(range(len(classes)), names, rotation=90 if upright else 0, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
        axes.set_title(short(name, int(12 * side)))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    figure.supxlabel("predicted", fontsize=9.5)
    figure.supylabel("actual (numbers: % of the row)" if normalised else "actual (numbers: images)", fontsize=9.5)
    return figure


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def score_intervals(scores: pd.DataFrame, vote: str, base_rate: float) -> Figure:
    """Accuracy with its interval, a row a member and vote, the heading vote in black; a grey line at the base rate.

    Columns: model, kind ('member' or 'vote'), accuracy, accuracy_low, accuracy_high (nan: no interval).
    """
    figure = Figure((_WIDTH, 0.7 + 0.32 * (len(scores) + 1)), layout="constrained")
    axes = figure.subplots()
    members = int((scores["kind"] == "member").sum())
    heights = [row + (row >= members) * 0.6 for row in range(len(scores))]
    rows = scores.to_dict("records")
    for index, (height, row) in enumerate(zip(heights, rows, strict=True)):
        color = _style(index)["color"] if row["kind"] == "member" else _VOTE if row["model"] == vote else "#7a7a7a"
        ends = [row["accuracy_low"], row["accuracy_high"]]
        axes.plot(ends, [height, height], color=color, linewidth=2.5, alpha=0.45)
        axes.plot(row["accuracy"], height, "o", color=color, markersize=7)
        text = f"{100 * row['accuracy']:.1f} %"
        axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=color)
    axes.axvline(base_rate, color="#bbbbbb", linewidth=1.2, zorder=0)
    names = [short(row["model"], 30) + (" (vote)" if row["kind"] == "vote" else "") for row in rows]
    axes.set_yticks(heights, names)
    axes.set(xlabel="accuracy on the test part; grey line: always naming the commonest class")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


@mpl.rc_context(_STYLE)  # type: ignore[untyped-decorator]
def contact_sheet(images: NDArray[np.uint8], captions: Sequence[str], columns: int) -> Figure:
    """Pictures uint8[N, S, S, 3] in rows of `columns`, each below its caption of up to two lines."""
    count, side = images.shape[:2]
    rows = -(-count // columns)
    gap, head = side * 0.06, side * 0.34
    cell = _WIDTH / columns
    width, height = columns * (side + gap), rows * (side + head)
    figure = Figure((_WIDTH, cell * height / (side + gap)))
    axes = figure.add_axes((0, 0, 1, 1))
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = index % columns * (side + gap), index // columns * (side + head) + head
        axes.imshow(image, extent=(left, left + side, top + side, top), interpolation="lanczos")
        axes.text(left, top - side * 0.04, caption, fontsize=8, va="bottom", ha="left", linespacing=1.1)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def _style(index: int) -> dict[str, Any]:
    """The colour of a model by its place in the list; models after the sixth share colours and differ in markers."""
    marker = _MARKERS[index // len(_COLORS) % len(_MARKERS)]
    return {"color": _COLORS[index % len(_COLORS)], "marker": marker, "markersize": 4}


def _grid(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most`, that hold a number of panels with few places left."""
    rows = max(1, -(-panels // most))
    return rows, max(1, -(-panels // rows))


def _distinct(names: Sequence[str], width: int) -> list[str]:
    """Names cut to a width, numbered where they would look the same."""
    cut = [short(name, width) for name in names]
    if len(set(cut)) == len(cut):
        return cut
    return [f"{number} {short(name, width - 3)}" for number, name in enumerate(names, 1)]


def _legend(figure: Figure, handles: list[Line2D], names: Sequence[str]) -> None:
    """A legend above; the names are set afterwards because matplotlib drops those that begin with an underscore."""
    names = [short(name, 24) for name in names]
    # A character is about 0.08 inches wide, a line and the space about it 0.6.
    columns = min(len(handles), int(_WIDTH / (0.6 + 0.08 * max(map(len, names)))))
    legend = figure.legend(handles, ["name"] * len(handles), loc="outside upper left", ncols=columns, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
