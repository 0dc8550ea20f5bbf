"""Joining the folds of members: by id, averaged for test rows, and refused where tables do not belong together."""

import numpy as np
import pandas as pd
import pytest

from tests.panel.tables import predictions_of
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.tables import check_predictions, probabilities_of, read_predictions
from tumorboard.panel.members import join_test, join_validation, replace_probabilities

VALIDATION = {
    "one": {
        0: [("v4", "val", "b", 0.2, 0.8), ("v1", "val", "a", 0.9, 0.1)],
        3: [("v3", "val", "b", 0.4, 0.6), ("v2", "val", "a", 0.7, 0.3)],
    },
    "two": {
        0: [("v1", "val", "a", 1.0, 0.0), ("v4", "val", "b", 0.1, 0.9)],
        3: [("v3", "val", "b", 0.0, 1.0), ("v2", "val", "a", 1.0, 0.0)],
    },
}
TEST = {
    "one": {
        0: [("t1", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.4, 0.6)],
        3: [("t2", "test", "b", 0.2, 0.8), ("t1", "test", "a", 0.5, 0.5)],
    },
    "two": {
        0: [("t2", "test", "b", 0.0, 1.0), ("t1", "test", "a", 1.0, 0.0)],
        3: [("t1", "test", "a", 1.0, 0.0), ("t2", "test", "b", 0.0, 1.0)],
    },
}


def tables(rows):
    return {model: {fold: predictions_of(one) for fold, one in folds.items()} for model, folds in rows.items()}


def test_validation_rows_of_all_folds_are_one_table_sorted_by_id():
    joined = join_validation(tables(VALIDATION))
    assert list(joined) == ["one", "two"]
    for model, expected in (("one", [0.9, 0.7, 0.4, 0.2]), ("two", [1.0, 1.0, 0.0, 0.1])):
        table = joined[model]
        assert table["id"].tolist() == ["v1", "v2", "v3", "v4"]
        assert table["split"].tolist() == ["val"] * 4
        assert table["label"].tolist() == ["a", "a", "b", "b"]
        assert table["group"].tolist() == ["g v1", "g v2", "g v3", "g v4"]
        assert table["p_a"].tolist() == expected
        check_predictions(table, "joined")


def test_test_probabilities_are_averaged_over_folds_by_id():
    joined = join_test(tables(TEST))
    for model, expected in (("one", [0.7, 0.3]), ("two", [1.0, 0.0])):
        table = joined[model]
        assert table["id"].tolist() == ["t1", "t2"]
        assert table["label"].tolist() == ["a", "b"]
        assert table["p_a"].tolist() == pytest.approx(expected)
        check_predictions(table, "joined")


def test_tables_without_test_rows_are_joined_to_one_without_rows(tmp_path):
    """As `evaluate.test: false` leaves them, after a round trip through files."""
    empty = predictions_of(TEST["one"][0])[:0]
    write_table(empty, tmp_path / "empty.csv")
    read = read_predictions(tmp_path / "empty.csv")
    joined = join_test({"one": {0: read, 3: read}, "two": {0: read, 3: empty}})
    for table in joined.values():
        assert (len(table), list(table)) == (0, list(empty))
    with pytest.raises(InputError, match="two, fold 0 and model one, fold 0 have different images"):
        join_test({"one": {0: read}, "two": {0: predictions_of(TEST["two"][0])}})


GOOD = [("v1", "val", "a", 0.9, 0.1), ("v2", "val", "b", 0.2, 0.8)]


@pytest.mark.parametrize("join", [join_validation, join_test])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            predictions_of(GOOD, digest="other"),
            "^model two, fold 0: predictions for manifest other, but those of model one, fold 0 are for digest$",
        ),
        (predictions_of(GOOD, classes=("b", "a")), r"model two, fold 0: classes \['b', 'a'\], but model one, fold 0"),
        (predictions_of([*GOOD, ("v3", "val", "a", 1, 0)]), "model one, fold 0 lacks id 'v3'"),
        (predictions_of([GOOD[0], ("v9", "val", "b", 0.2, 0.8)]), "model two, fold 0 lacks id 'v2'"),
        (predictions_of(GOOD[:1]), "model two, fold 0 lacks id 'v2'"),
        (predictions_of(GOOD)[:0], "model two, fold 0 lacks id 'v1'"),
        (predictions_of([("v1", "val", "b", 1, 0), GOOD[1]]), "two, fold 0: id 'v1' has label 'b', but .* has 'a'"),
        (predictions_of(GOOD).assign(group="g"), "two, fold 0: id 'v1' has group 'g', but .* has 'g v1'"),
        (predictions_of([("v1", "test", "a", 1, 0), GOOD[1]]), "id 'v1' has split 'test'"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(join, other, message):
    with pytest.raises(InputError, match=message):
        join({"one": {0: predictions_of(GOOD)}, "two": {0: other}})


def test_folds_of_another_manifest_are_refused():
    other = predictions_of([("v3", "val", "a", 1, 0)], digest="other")
    with pytest.raises(InputError, match="model one, fold 4: predictions for manifest other, but those of model one, "):
        join_validation({"one": {2: predictions_of(GOOD), 4: other}})


def test_a_fold_without_validation_rows_is_refused():
    empty = predictions_of(GOOD)[:0]
    with pytest.raises(InputError, match=r"^model one, fold 4: no validation rows$"):
        join_validation({"one": {2: predictions_of(GOOD), 4: empty}})


def test_a_validation_image_in_two_folds_is_refused():
    with pytest.raises(InputError, match="model one, fold 4: id 'v1' is a validation image of fold 2 as well"):
        join_validation({"one": {2: predictions_of(GOOD), 4: predictions_of(GOOD)}})


def test_folds_with_different_test_images_are_refused():
    other = predictions_of([("t9", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.2, 0.8)])
    with pytest.raises(InputError, match=r"model one, fold 3 and model one, fold 0 .* 't1'"):
        join_test({"one": {0: predictions_of(TEST["one"][0]), 3: other}})


def test_other_probabilities_leave_the_rest_of_a_table_as_it_is():
    table = predictions_of(GOOD)
    changed = replace_probabilities(table, np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert probabilities_of(changed).tolist() == [[0.5, 0.5], [0.25, 0.75]]
    pd.testing.assert_frame_equal(changed.drop(columns=["p_a", "p_b"]), table.drop(columns=["p_a", "p_b"]))
    assert table["p_a"].tolist() == [0.9, 0.2], "a copy"
    with pytest.raises(InputError, match="not probabilities"):
        replace_probabilities(table, np.array([[0.5, 0.6], [0.25, 0.75]]))
