"""What all figures have in common: fonts and lines, the color of each model, the legend."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from tumorboard.report.lettering import shorten, text_width

STYLE: Any = {
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
# The palette of Okabe & Ito (2008), which color-blind readers can distinguish.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("", "o", "s", "^", "x")
VOTE_COLOR = "#000000"
OTHER_VOTE_COLOR = "#7a7a7a"
WIDTH = 11.0  # inches; width of a figure that fills the page


def line_style(index: int) -> dict[str, Any]:
    """Returns the line style of a model by its position; models after the sixth reuse colors with other markers."""
    marker = MARKERS[index // len(COLORS) % len(MARKERS)]
    return {"color": COLORS[index % len(COLORS)], "marker": marker, "markersize": 4}


def add_legend(figure: Figure, handles: list[Line2D], names: Sequence[str], width: float = WIDTH) -> Legend:
    """Adds a legend above the panels of a figure that is `width` inches wide, and returns it."""
    names = [shorten(name, 24) for name in names]
    # A character is about 0.08 inches wide, a line sample with the space around it 0.6.
    columns = max(1, min(len(handles), int(width / (0.6 + 0.08 * max(map(text_width, names))))))
    legend = figure.legend(handles, ["name"] * len(handles), loc="outside upper left", ncols=columns, fontsize=9)
    # Set only now, because matplotlib leaves out labels that begin with an underscore.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


def grid_of(panels: int, most: int) -> tuple[int, int]:
    """Returns the numbers of rows and of columns, at most `most`, that hold the panels with few empty places."""
    rows = max(1, -(-panels // most))
    return rows, max(1, -(-panels // rows))
