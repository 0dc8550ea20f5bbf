"""The answers of the server: the cells of `predict`, as values and as a line of its table."""

from dataclasses import replace

import numpy as np
import pytest

from tumorboard.commands.server_answers import image_answer
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.opinion import Opinion
from tumorboard.panel.predict import Outputs, join_decisions


@pytest.mark.parametrize(
    ("problem", "threshold", "cells"),
    [("", 0.3, "b,0.400000,0 of 1,0.400000,0.600000,0.300000"), ("empty: no bytes", None, ",,,,,")],
)
def test_a_row_has_the_threshold_that_decided_it(problem: str, threshold: float | None, cells: str) -> None:
    deciding = Deciding(fit=replace(unfitted(["m"]), threshold=0.3), vote="soft", positive="b", abstain=0.0)
    outputs = [] if problem else [Outputs(np.array([[[0.4, 0.6]]]), np.full(1, np.nan))]
    rows = [{"path": "x.png", "known": "", "problem": problem}]
    answer = image_answer(Opinion(join_decisions(rows, outputs, deciding, ("b", "a")), {}, None), ("b", "a"))
    assert answer.row.threshold == threshold
    assert answer.csv_header == "path,decided,probability,agreeing,p_b,p_a,threshold,unlike,known,problem\n"
    assert answer.csv_line == f"x.png,{cells},,,{problem}\n"
