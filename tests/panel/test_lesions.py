"""Scores of maps by boxes: which images count, for which class, and that batches change nothing."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tumorboard.data.boxes import CropBox
from tumorboard.evaluation.places import CENTER
from tumorboard.evaluation.summary import judging_of
from tumorboard.panel import lesions
from tumorboard.panel.lesions import score_lesions

SIDE = 16
CORNER, MIDDLE = CropBox(0, 0, 4, 4), CropBox(6, 6, 10, 10)


@pytest.fixture
def score(monkeypatch, params):
    """Scores 24 images of 12 patients: the model `a` is warm in the upper left corner, the vote in the middle."""
    asked = []

    def explain_by_fold(panel, ids, classes, content, *, crops, manifest):
        del panel, content, crops, manifest
        asked.extend(zip(ids, classes, strict=True))
        corner, middle = (np.zeros((len(ids), SIDE, SIDE), np.float32) for _ in range(2))
        corner[:, :4, :4] = 1
        middle[:, 6:10, 6:10] = 1
        return {"a": corner}, middle

    monkeypatch.setattr(lesions, "explain_by_fold", explain_by_fold)
    panel = SimpleNamespace(card=SimpleNamespace(crop=SimpleNamespace(side=SIDE)))
    rows = pd.DataFrame({"id": [f"i{number}" for number in range(24)], "label": ["x", "y"] * 12})
    rows["group"] = [f"p{number // 2}" for number in range(24)]

    def run(placed, rows=rows):
        asked.clear()
        result = score_lesions(panel, rows, placed, None, crops=None, manifest=None, judging=judging_of(params))
        return result, list(asked)

    return run


def test_maps_are_scored_for_the_label_on_the_images_that_have_a_box(score):
    placed = {f"i{number}": [CORNER] for number in range(20)} | {"i20": [], "elsewhere": [CORNER]}
    result, asked = score(placed)
    assert [result[key] for key in ("images", "groups", "boxes", "outside")] == [20, 10, 20, 1]
    assert asked == [(f"i{number}", "xy"[number % 2]) for number in range(20)]
    scores = {name: (one["pointing"], one["iou"]) for name, one in result["maps"].items()}
    assert scores["a"] == (1, 1)
    assert scores["vote"] == (0, 0)
    assert scores[CENTER][0] == 0
    assert result["maps"]["a"]["pointing_gain"] == 1
    assert result["maps"]["vote"]["pointing_gain"] == 0


def test_batches_change_nothing(score, monkeypatch):
    placed = {f"i{number}": [CORNER if number % 3 else MIDDLE] for number in range(24)}
    together, _ = score(placed)
    monkeypatch.setattr(lesions, "BATCH", 5)
    assert score(placed)[0] == together


def test_a_part_without_boxes_and_a_part_without_images_have_no_scores(score):
    assert score({}) == ({}, [])
    assert score({"i0": []}) == ({}, [])
    empty = pd.DataFrame({"id": [], "label": [], "group": []}, dtype=object)
    assert score({"i0": [CORNER]}, empty) == ({}, [])
