"""Which images a report shows one by one: order, one patient's share, classes."""

import pandas as pd
import pytest

from tumorboard.panel.examples import EXAMPLES, MISTAKE, MOST, TYPICAL, UNCERTAIN, choose_examples


def table(rows):
    """Returns Predictions of (id, group, label, p_a)."""
    frame = pd.DataFrame(rows, columns=["id", "group", "label", "p_a"])
    return frame.assign(split="val", p_b=1 - frame["p_a"], manifest="m")


def ids(examples, kind):
    return examples["id"][examples["kind"] == kind].tolist()


def test_mistakes_are_the_surest_first_and_the_uncertain_the_least_sure_whether_right_or_not():
    predictions = table(
        [
            ("sure and wrong", "p1", "a", 0.02),
            ("wrong", "p2", "b", 0.8),
            ("barely wrong", "p3", "a", 0.45),
            ("barely right", "p4", "a", 0.51),
            ("right", "p5", "b", 0.1),
        ]
    )
    examples = choose_examples(predictions)
    assert list(examples) == list(EXAMPLES)
    assert ids(examples, MISTAKE) == ["sure and wrong", "wrong", "barely wrong"]
    assert ids(examples, UNCERTAIN) == ["barely right", "barely wrong", "wrong", "right", "sure and wrong"]
    first = examples.iloc[0]
    assert (first["label"], first["decided"], first["probability"]) == ("a", "b", pytest.approx(0.98))


def test_typical_ones_are_right_and_at_the_middle_of_their_class():
    """Of class a 0.6, 0.8 and 0.95 are right: 0.8 is the median; the wrong 0.1 does not move it."""
    predictions = table(
        [
            *(("a1", "p1", "a", 0.6), ("a2", "p2", "a", 0.8), ("a3", "p3", "a", 0.95), ("a4", "p4", "a", 0.1)),
            *(("b1", "p5", "b", 0.4), ("b2", "p6", "b", 0.9)),
        ]
    )
    assert ids(choose_examples(predictions), TYPICAL) == ["a2", "a3", "a1", "b1"]


def test_one_patient_does_not_fill_a_sheet():
    rows = [(f"x{number:02d}", "P1", "a", 0.01 * number) for number in range(20)]
    rows += [("y", "P2", "a", 0.4), ("z", "P3", "a", 0.45)]
    examples = choose_examples(table(rows))
    assert ids(examples, MISTAKE) == ["x00", "x01", "y", "z"]


def test_a_sheet_ends_at_its_size_and_many_classes_have_one_image_each():
    rows = [(f"i{number:02d}", f"p{number}", "a", 0.2 + 0.01 * number) for number in range(30)]
    assert len(ids(choose_examples(table(rows)), MISTAKE)) == MOST
    names = [f"c{number:02d}" for number in range(20)]
    many = pd.DataFrame({"id": [f"{name}-{n}" for name in names for n in range(2)], "split": "val", "manifest": "m"})
    many["group"], many["label"] = many["id"], [name for name in names for _ in range(2)]
    for name in names:
        many[f"p_{name}"] = (many["label"] == name) * 0.81 + 0.01
    assert ids(choose_examples(many), TYPICAL) == [f"{name}-0" for name in names[:12]]


def test_the_order_of_the_rows_does_not_count_and_none_are_none():
    predictions = table([(f"i{number}", f"p{number}", "ab"[number % 2], 0.5) for number in range(20)])
    turned = choose_examples(predictions[::-1])
    pd.testing.assert_frame_equal(choose_examples(predictions), turned)
    empty = choose_examples(predictions[:0])
    assert (len(empty), list(empty)) == (0, list(EXAMPLES))
