import io
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from PIL import Image

from tumorboard.report import plots

LONG = [f"a disease of a name that does not end soon, stage {k} of $x^2_{k}" for k in range(20)]


def lines_of(axes, style):
    return [list(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == style]


def curves():
    rows = [("_m", 0, 1), ("_m", 0, 2), ("$n$", 0, 1), ("$n$", 0, 2), ("$n$", 1, 1), ("$n$", 1, 2)]
    table = pd.DataFrame(rows, columns=["model", "fold", "epoch"])
    for number, column in enumerate(("train_loss", "val_loss", "train_accuracy", "val_accuracy")):
        table[column] = np.arange(6) + 10.0 * number
    return table.assign(kept=[False, True, True, False, False, True])


def test_learning_curves_draw_each_fold_and_mark_the_kept_epoch():
    figure = plots.learning_curves(curves())
    loss, accuracy = figure.axes
    assert lines_of(loss, "--") == [[0, 1], [2, 3], [4, 5]]
    assert lines_of(loss, "-") == [[10, 11], [12, 13], [14, 15]]
    assert lines_of(loss, "None") == [[11], [12], [15]]
    assert lines_of(accuracy, "-") == [[30, 31], [32, 33], [34, 35]]
    colors = [line.get_color() for line in loss.get_lines()]
    assert colors[0] == colors[1] != colors[3] == colors[6], "one color per model, not per fold"
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["_m", "$n$"]


def test_loss_is_on_a_log_scale_and_a_single_training_epoch_has_a_marker():
    one = curves()[lambda table: table["epoch"] == 1]
    loss, accuracy = plots.learning_curves(one).axes
    assert loss.get_yscale() == "log"
    assert accuracy.get_yscale() == "linear"
    assert {line.get_marker() for line in loss.get_lines() if line.get_linestyle() == "--"} == {"x"}
    loss, _ = plots.learning_curves(curves()).axes
    assert {line.get_marker() for line in loss.get_lines() if line.get_linestyle() == "--"} == {""}


def test_a_figure_is_the_same_bytes_twice_and_names_no_software():
    first, second = (plots.to_png(plots.learning_curves(curves())) for _ in range(2))
    assert first == second
    assert "Software" not in Image.open(io.BytesIO(first)).info


def confusion(classes, counts):
    index = pd.MultiIndex.from_product([classes, classes], names=["actual", "predicted"])
    counts = np.array(counts)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    return pd.DataFrame({"count": counts.ravel(), "share": shares.ravel()}, index=index).reset_index()


def test_confusion_cells_hold_percent_of_the_actual_class_or_counts():
    tables = {"m": confusion(["a", "b"], [[30, 10], [1, 3]])}
    cells = plots.confusion_matrices(tables, normalized=True).axes[0].texts
    assert [(cell.get_position(), cell.get_text()) for cell in cells] == [
        ((0, 0), "75"),
        ((1, 0), "25"),
        ((0, 1), "25"),
        ((1, 1), "75"),
    ]
    cells = plots.confusion_matrices(tables, normalized=False).axes[0].texts
    assert [cell.get_text() for cell in cells] == ["30", "10", "1", "3"]


def test_confusion_colors_are_the_shares_of_the_actual_class_from_0_to_1():
    """Rows are actual classes from top to bottom, columns predicted classes."""
    tables = {"m": confusion(["a", "b"], [[30, 10], [0, 4]])}
    for normalized in (True, False):
        (image,) = plots.confusion_matrices(tables, normalized=normalized).axes[0].get_images()
        assert image.get_array().tolist() == [[0.75, 0.25], [0, 1]]
        assert image.get_clim() == (0, 1)


def test_confusion_of_a_class_without_images_has_empty_cells():
    cells = plots.confusion_matrices({"m": confusion(["a", "b"], [[4, 0], [0, 0]])}, normalized=True).axes[0].texts
    assert [cell.get_text() for cell in cells] == ["100", "0"]


@pytest.mark.parametrize(("count", "models"), [(2, 3), (5, 2), (8, 5), (20, 3)])
def test_long_names_leave_room_for_the_figures(count, models):
    """All that is drawn is inside the figure, the panels keep most of the area, and shortened names stay distinct."""
    classes = LONG[:count]
    tables = {f"model {k}": confusion(classes, np.eye(count, dtype=int) + 1) for k in range(models)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.confusion_matrices(tables, normalized=True)
        plots.to_png(figure)
    drawn = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title("left") for axes in drawn]
    assert len(set(titles)) == len(titles)
    sheet = figure.bbox.padded(1)
    for axes in drawn:
        box = axes.get_tightbbox()
        assert sheet.x0 <= box.x0 <= box.x1 <= sheet.x1
        assert sheet.y0 <= box.y0 <= box.y1 <= sheet.y1
    area = sum(axes.get_window_extent().width * axes.get_window_extent().height for axes in drawn)
    assert area > 0.3 * figure.bbox.width * figure.bbox.height
    labels = [label.get_text() for label in plots.confusion_matrices(tables, normalized=True).axes[0].get_yticklabels()]
    assert len(set(labels)) == count


def test_of_many_classes_only_large_shares_of_a_row_are_written():
    """Of 21 classes each cell of one row in twenty or more has its number; the axis says so. Of 20 all have one."""
    for count, written in ((20, ["95", "5", "97", "3"]), (21, ["95", "5", "97"])):
        counts = np.zeros((count, count), dtype=int)
        counts[0, :2] = 95, 5
        counts[1, 1:3] = 97, 3
        figure = plots.confusion_matrices({"m": confusion([f"c{k}" for k in range(count)], counts)}, normalized=False)
        assert [cell.get_text() for cell in figure.axes[0].texts] == written
        assert ("from 5 % of the row on" in figure.get_supylabel()) == (count > 20)


def test_sixty_long_names_do_not_overlap():
    names = [f"a long name of a disease, number {number:02d} xyz" for number in range(60)]
    figure = plots.confusion_matrices({m: confusion(names, np.eye(60, dtype=int)) for m in "mn"}, normalized=True)
    plots.to_png(figure)
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    boxes = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_intervals_are_drawn_where_there_are_any_and_the_chosen_vote_in_black():
    rows = [("m", "member", 0.5, 0.4, 0.6), ("hard", "vote", 0.7, np.nan, np.nan), ("soft", "vote", 0.8, 0.7, 0.9)]
    table = pd.DataFrame(rows, columns=["model", "kind", "accuracy", "accuracy_low", "accuracy_high"])
    axes = plots.score_intervals(table, "soft", 0.25, "validation").axes[0]
    spans = [line.get_xdata() for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert [list(span) for span in spans if np.isfinite(span).all()] == [[0.4, 0.6], [0.7, 0.9], [0.25, 0.25]]
    points = {line.get_xdata()[0]: line.get_color() for line in axes.get_lines() if line.get_marker() == "o"}
    assert set(points) == {0.5, 0.7, 0.8}
    assert [value for value, color in points.items() if same_color(color, "black")] == [0.8]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["m", "hard (vote)", "soft (vote)"]
    assert axes.get_xlabel().startswith("accuracy on validation images")


def reliability(rows):
    columns = ["model", "probability", "observed", "observed_low", "observed_high", "images"]
    return pd.DataFrame([(*row, 30) for row in rows], columns=columns)


def test_reliability_has_the_vote_in_black_with_its_intervals_and_dashed_before_calibration():
    table = reliability(
        [
            ("m", 0.6, 0.5, 0.4, 0.7),
            ("m", 0.9, 0.8, 0.7, 0.9),
            ("soft vote, uncalibrated", 0.7, 0.6, 0.5, 0.7),
            ("soft vote", 0.8, 0.75, 0.7, 0.85),
            ("soft vote", 0.95, 0.9, np.nan, np.nan),
        ]
    )
    figure = plots.reliability_diagram(table, "soft vote")
    (axes,) = figure.axes
    lines = {tuple(line.get_xdata()): line for line in axes.get_lines()}
    assert list(lines[(0.8, 0.95)].get_ydata()) == [0.75, 0.9]
    assert same_color(lines[(0.8, 0.95)].get_color(), "black")
    assert lines[(0.7,)].get_linestyle() == "--"
    assert lines[(0.6, 0.9)].get_linestyle() == "-"
    assert list(lines[(0, 1)].get_ydata()) == [0, 1], "the line on which probabilities are right"
    (spans,) = axes.collections
    drawn = [segment[:, 1].tolist() for segment in spans.get_segments() if np.size(segment) == 4]
    assert drawn == [[0.7, 0.85]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["m", "vote, uncalibrated", "soft vote"]


def test_a_vote_without_temperatures_has_no_uncalibrated_line():
    table = reliability([("m", 0.6, 0.5, 0.4, 0.6), ("stacking vote", 0.8, 0.75, 0.7, 0.85)])
    figure = plots.reliability_diagram(table, "stacking vote")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m", "stacking vote"]
    assert "--" not in [line.get_linestyle() for line in figure.axes[0].get_lines()]


def test_all_that_the_reliability_diagram_draws_is_inside_its_axes():
    axes = plots.reliability_diagram(reliability([("soft vote", 0.55, 0.1, 0.0, 0.4)]), "soft vote").axes[0]
    assert axes.get_ylim()[0] < 0.1
    assert axes.get_xlim()[0] < 0.1


def test_decision_curves_show_the_vote_all_and_none():
    table = pd.DataFrame({"threshold": [0.1, 0.5], "model": [0.4, 0.3], "all": [0.45, -2.0], "none": [0.0, 0.0]})
    figure = plots.decision_curves(table, "soft vote", "blast")
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[0.4, 0.3], [0.45, -2.0], [0.0, 0.0]]
    assert axes.get_ylim() == pytest.approx((-0.0675, 0.486)), "a steep fall of 'all' must not flatten the others"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["soft vote", "call all blast", "call none"]
    assert "blast" in axes.get_xlabel()


@pytest.mark.filterwarnings("error")
def test_decision_curves_are_drawn_where_calling_none_is_best():
    """Of a class with 5 of 1,000 images, a model that finds none of them has no net benefit above 0."""
    table = pd.DataFrame({"threshold": [0.01, 0.5], "model": [-0.005, 0.0], "all": [-0.005, -1.0], "none": [0.0, 0.0]})
    low, high = plots.decision_curves(table, "soft vote", "blast").axes[0].get_ylim()
    assert low < 0 < high


def test_a_learning_rate_curve_marks_the_rates_and_cuts_off_the_explosion():
    curve = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2, 1e-1], "loss": [2.0, 1.5, 1, 90], "smoothed": [2.0, 1.8, 1.4, 50]})
    axes = plots.learning_rate_curve(curve, {"steepest fall": 0.001}, "cnn").axes[0]
    raw, smoothed, mark = axes.get_lines()
    assert list(raw.get_ydata()) == [2, 1.5, 1, 90]
    assert list(smoothed.get_ydata()) == [2, 1.8, 1.4, 50]
    assert list(mark.get_xdata()) == [0.001, 0.001]
    assert mark.get_label() == "steepest fall: 0.001"
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == pytest.approx((0.9, 3))
