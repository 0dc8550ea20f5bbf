"""Maps against boxes: values by hand, ties, maps without evidence, patients that count as one."""

import numpy as np
import pytest

from tumorboard.evaluation.places import (
    CENTER,
    PlaceScores,
    box_of_map,
    center_prior,
    judge_places,
    overlap,
    score_map,
)


def warm(side, *squares):
    """A map with values in squares (left, top, right, bottom, value)."""
    values = np.zeros((side, side), np.float32)
    for left, top, right, bottom, value in squares:
        values[top:bottom, left:right] = value
    return values


def test_the_warmest_place_is_in_a_box_or_not_and_x_is_not_y():
    values = warm(10, (7, 2, 8, 3, 1.0))
    assert score_map(values, [(6, 1, 9, 4)]).pointing
    assert not score_map(values, [(1, 6, 4, 9)]).pointing
    assert score_map(values, [(1, 6, 4, 9), (6, 1, 9, 4)]).pointing, "any box of the image counts"
    # The pixel (7, 2) reaches from 7 to 8: its middle is at 7.5.
    assert score_map(values, [(7.4, 2.4, 9, 9)]).pointing
    assert not score_map(values, [(7.6, 2.4, 9, 9)]).pointing


def test_of_equal_maxima_the_middle_counts():
    """An upsampled map has a plateau at the edge; its corner would miss what it marks."""
    values = warm(10, (0, 0, 4, 4, 1.0))
    assert score_map(values, [(1.5, 1.5, 3, 3)]).pointing
    assert not score_map(values, [(0, 0, 1, 1)]).pointing


def test_the_overlap_is_that_of_the_largest_warm_part_with_the_best_box():
    values = warm(10, (1, 1, 5, 5, 0.6), (8, 8, 9, 9, 1.0), (1, 8, 3, 9, 0.49))
    assert box_of_map(values) == (1, 1, 5, 5)
    scores = score_map(values, [(8, 8, 10, 10), (3, 1, 7, 5)])
    assert scores.iou == pytest.approx(8 / 24)
    assert scores.pointing
    assert score_map(values, [(1, 1, 5, 5)]).iou == 1


def test_boxes_that_do_not_touch_have_no_overlap():
    assert overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert overlap((0, 0, 2, 2), (3, 3, 4, 4)) == 0  # two negative lengths are no positive area
    assert overlap((0, 0, 4, 4), (1, 1, 3, 3)) == pytest.approx(4 / 16)


def test_a_map_without_evidence_points_nowhere():
    assert score_map(np.zeros((4, 4), np.float32), [(0, 0, 4, 4)]) == PlaceScores(False, 0.0)


def test_the_baseline_looks_at_the_middle():
    for side in (16, 17):
        prior = center_prior(side)
        middle = side / 2
        assert score_map(prior, [(middle - 0.6, middle - 0.6, middle + 0.6, middle + 0.6)]).pointing
        left, top, right, bottom = box_of_map(prior)
        assert (left, top) == (side - right, side - bottom)


def judged(scores, groups):
    return judge_places(scores, groups, confidence=0.95, seed=0, flips=999, unit="patient")


def test_shares_means_and_what_a_map_is_ahead_of_the_center():
    groups = [f"P{number // 2}" for number in range(24)]
    center = [PlaceScores(number % 4 == 0, 0.2) for number in range(24)]
    model = [PlaceScores(number % 4 != 3, 0.2 + 0.02 * (number % 5)) for number in range(24)]
    table = judged({CENTER: center, "cnn": model}, groups)
    assert table[CENTER]["pointing"] == 0.25
    assert table["cnn"]["pointing"] == 0.75
    assert table["cnn"]["pointing_gain"] == pytest.approx(0.5)
    assert table["cnn"]["iou_gain"] == pytest.approx(np.mean([0.02 * (number % 5) for number in range(24)]))
    assert table["cnn"]["pointing_low"] < 0.75 < table["cnn"]["pointing_high"]
    assert 0 < table["cnn"]["iou_gain_low"] < table["cnn"]["iou_gain"] < table["cnn"]["iou_gain_high"]
    assert table["cnn"]["pointing_gain_p"] < 0.01
    assert "pointing_gain" not in table[CENTER]


def test_images_of_one_patient_do_not_count_as_many():
    """Twelve patients whose four images are alike: the interval is as wide as that of twelve images, or wider."""
    twelve = [PlaceScores(number % 3 > 0, 0.5 * (number % 3 > 0)) for number in range(12)]
    many = [scores for scores in twelve for _ in range(4)]
    alike = judged({CENTER: many}, [f"P{number // 4}" for number in range(48)])[CENTER]
    single = judged({CENTER: twelve}, [f"P{number}" for number in range(12)])[CENTER]
    separate = judged({CENTER: many}, [f"P{number}" for number in range(48)])[CENTER]
    for score in ("pointing", "iou"):
        widths = [table[f"{score}_high"] - table[f"{score}_low"] for table in (alike, single, separate)]
        assert widths[0] > 0.98 * widths[1] > 1.5 * widths[2]


def test_few_patients_have_scores_without_intervals():
    table = judged({CENTER: [PlaceScores(True, 0.4)] * 3, "cnn": [PlaceScores(False, 0.1)] * 3}, ["a", "b", "c"])
    assert table["cnn"]["pointing"] == 0
    assert table["cnn"]["pointing_gain"] == -1
    assert table["cnn"]["pointing_low"] is None
    assert table["cnn"]["pointing_method"] == "too few patients for an interval (3)"
    assert table["cnn"]["pointing_gain_p"] is None
