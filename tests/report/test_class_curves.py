import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from tumorboard.report import class_curves, plots

LONG = [f"a disease of a name that does not end soon, stage {k} of $x^2_{k}" for k in range(60)]


def curves(classes, models, x="fpr", y="tpr"):
    """A curve of three points per model and class: 0, 0.25 * (the model's number + 1) at 0.5, 1."""
    rows = [
        (model, name, across, up)
        for name in classes
        for number, model in enumerate(models)
        for across, up in ((0.0, 0.0), (0.5, 0.25 * (number + 1)), (1.0, 1.0))
    ]
    return pd.DataFrame(rows, columns=["model", "class", x, y])


def pieces(line):
    """The parts of a line between its gaps, one per panel that has any."""
    points = np.array(line.get_data()).T
    gaps = np.flatnonzero(np.isnan(points[:, 0]))
    parts = [part[~np.isnan(part[:, 0])] for part in np.split(points, gaps)]
    return [part for part in parts if len(part)]


def test_roc_has_one_panel_per_class_and_the_vote_in_black():
    figure = class_curves.roc_curves(curves(["a", "b"], ["m", "soft vote"]), "soft vote")
    (axes,) = figure.axes
    titles = {text.get_text(): text.get_position() for text in axes.texts}
    assert list(titles) == ["a", "b"]
    member, vote = axes.get_lines()
    for number, line in enumerate((member, vote), 1):
        for (left, high), part in zip(titles.values(), pieces(line), strict=True):
            corner = part[0]
            assert part == pytest.approx(corner + np.array([[0, 0], [0.5, 0.25 * number], [1, 1]]))
            assert left < corner[0] < left + 0.1, "the curve begins at the left edge of the panel below its title"
            assert high - 1.1 < corner[1] < high - 1
    chance = axes.collections[-1].get_segments()
    assert np.array(chance) == pytest.approx(np.array([part[[0, -1]] for part in pieces(vote)]))
    assert vote.get_linewidth() > member.get_linewidth()
    assert same_color(vote.get_color(), "black")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m", "soft vote"]


def test_a_model_without_a_curve_of_a_class_leaves_its_panel_empty():
    table = curves(["a", "b", "c"], ["m", "n"])
    table = table[(table["model"] == "m") | (table["class"] == "b")]
    every, one = class_curves.roc_curves(table, "soft vote").axes[0].get_lines()
    assert [part[0].tolist() for part in pieces(one)] == [pieces(every)[1][0].tolist()]
    assert len(pieces(every)) == 3


def test_markers_are_on_points_of_the_curves_and_not_in_the_gaps():
    models = [f"model {number}" for number in range(8)]
    line = class_curves.roc_curves(curves(["a", "b"], models), "soft vote").axes[0].get_lines()[6]
    assert line.get_marker() == "o", "models after the sixth are told apart by markers"
    assert np.isfinite(np.array(line.get_data())[:, line.get_markevery()]).all()


def test_precision_recall_draws_the_base_rate():
    table = curves(["a", "b"], ["m"], "recall", "precision")
    axes = class_curves.precision_recall_curves(table, "soft vote", {"a": 0.3, "b": 0.7}).axes[0]
    (line,) = axes.get_lines()
    for rate, part, segment in zip((0.3, 0.7), pieces(line), axes.collections[-1].get_segments(), strict=True):
        assert segment[:, 1] - part[0, 1] == pytest.approx(np.array([rate, rate]))
        assert segment[0, 0] < part[0, 0] < part[-1, 0] < segment[1, 0]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 60])
def test_panels_with_long_names_fill_the_figure_and_their_titles_stay_distinct_and_apart(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = class_curves.roc_curves(curves(LONG[:count], ["m"]), "soft vote")
        plots.to_png(figure)
    (axes,) = figure.axes
    sheet, box = figure.bbox.padded(1), axes.get_tightbbox()
    assert sheet.x0 <= box.x0 <= box.x1 <= sheet.x1
    assert sheet.y0 <= box.y0 <= box.y1 <= sheet.y1
    whole = axes.get_window_extent()
    assert whole.width * whole.height > 0.5 * figure.bbox.width * figure.bbox.height
    assert len({text.get_text() for text in axes.texts}) == count
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(sheet.x0 <= one.x0 <= one.x1 <= sheet.x1 and one.y1 <= sheet.y1 for one in boxes)
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[number + 1 :])
    numbers = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(numbers))
