"""Decisions by the threshold stand beside those by the most probable class, and each says which it is."""

import dataclasses
import re

import pytest

from tumorboard.base.tables import probabilities_of
from tumorboard.report.conclusions import draw_conclusions
from tumorboard.report.decisions import decisions_of, rule_of
from tumorboard.report.front import front_page, percent
from tumorboard.report.page import summarize_scores
from tumorboard.report.results import Results


@pytest.fixture(scope="module")
def strict(binary: Results) -> Results:
    """The run with a threshold of .9, by which fewer images are called b than by the more probable class."""
    fit = dataclasses.replace(binary.fit, threshold=0.9)
    table = binary.test.heading
    p, label = probabilities_of(table)[:, 1], table["label"].to_numpy()
    called = p >= 0.9
    decisions = {
        "true_positives": int((called & (label == "b")).sum()),
        "false_negatives": int((~called & (label == "b")).sum()),
        "false_positives": int((called & (label == "a")).sum()),
        "true_negatives": int((~called & (label == "a")).sum()),
    }
    right = decisions["true_positives"] + decisions["true_negatives"]
    scores = binary.test.scores
    head = scores["votes"]["heading"] | {"decisions": decisions, "decided_accuracy": right / len(table)}
    test = dataclasses.replace(binary.test, scores=scores | {"votes": scores["votes"] | {"heading": head}})
    return dataclasses.replace(binary, fit=fit, test=test)


def test_the_confusion_matrix_of_decisions_is_that_of_the_threshold(strict: Results) -> None:
    decided = decisions_of(strict, strict.test)
    assert decided is not None
    assert decided.classes == ("b", "a")
    p, label = probabilities_of(strict.test.heading)[:, 1], strict.test.heading["label"]
    expected = [
        {
            "label": name,
            "images": 36,
            "called": (int((p[label == name] >= 0.9).sum()), int((p[label == name] < 0.9).sum())),
        }
        for name in ("b", "a")
    ]
    assert decided.rows == expected
    assert decided.rows[0]["called"][0] != int((p[label == "b"] >= 0.5).sum()), "not the more probable class"


def test_the_counts_of_a_run_add_up_to_its_accuracy_by_the_threshold(binary: Results) -> None:
    for part in (binary.test, binary.validation):
        decided = decisions_of(binary, part)
        (right_b, _), (_, right_a) = (row["called"] for row in decided.rows)
        images = sum(row["images"] for row in decided.rows)
        assert images == len(part.heading)
        assert (right_a + right_b) / images == pytest.approx(part.headline["decided_accuracy"])
        assert right_b / decided.rows[0]["images"] == pytest.approx(part.headline["sensitivity"])
        assert right_a / decided.rows[1]["images"] == pytest.approx(part.headline["specificity"])


def test_the_rule_is_named_by_its_number_and_its_class(strict: Results) -> None:
    assert rule_of(strict, strict.test) == "by the threshold 0.900 of b"
    assert rule_of(strict, strict.validation) == (
        "by the thresholds of b that were chosen without each image (0.900 on all)"
    )


def test_without_a_threshold_there_is_one_accuracy(results: Results, binary: Results) -> None:
    without = dataclasses.replace(binary, fit=dataclasses.replace(binary.fit, threshold=None))
    for one in (results, without):
        assert decisions_of(one, one.test) is None
        assert "threshold" not in summarize_scores(one)


def test_front_page_and_summary_name_both_accuracies(strict: Results) -> None:
    head = strict.test.headline
    claim = front_page(strict, draw_conclusions(strict)).claim
    assert claim[0].startswith(f"The soft vote classifies {percent(head['accuracy'])} of 72 test images")
    assert "by the most probable class" in claim[0]
    assert any(f"{percent(head['decided_accuracy'])} (" in sentence and "0.900" in sentence for sentence in claim)
    right = percent(strict.validation.headline["decided_accuracy"]).replace("\N{NO-BREAK SPACE}", " ")
    assert summarize_scores(strict).splitlines()[-2] == (
        "Accuracies are by the most probable class; by the thresholds of b that were chosen without each image (0.900 "
        f"on all), {right} of the heading vote's decisions are right."
    )
    assert not re.search(r"accuracy(?! by)[^.]*threshold 0\.900", claim[0])
