import pytest

from tests.panel.tables import predictions_of
from tumorboard.base.errors import InputError
from tumorboard.base.tables import check_predictions
from tumorboard.panel.members import join_members


def test_folds_of_a_model_are_joined_by_id_and_test_probabilities_averaged():
    joined = join_members(
        {
            "one": {
                0: predictions_of(
                    [("v2", "val", "b", 0.2, 0.8), ("t1", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.4, 0.6)]
                ),
                3: predictions_of(
                    [("t2", "test", "b", 0.2, 0.8), ("t1", "test", "a", 0.5, 0.5), ("v1", "val", "a", 0.7, 0.3)]
                ),
            },
            "two": {
                0: predictions_of(
                    [("t2", "test", "b", 0.0, 1.0), ("v2", "val", "b", 0.1, 0.9), ("t1", "test", "a", 1.0, 0.0)]
                ),
                3: predictions_of(
                    [("v1", "val", "a", 1.0, 0.0), ("t1", "test", "a", 1.0, 0.0), ("t2", "test", "b", 0.0, 1.0)]
                ),
            },
        }
    )
    assert list(joined) == ["one", "two"]
    for model, expected in (("one", [0.7, 0.3, 0.7, 0.2]), ("two", [1.0, 0.0, 1.0, 0.1])):
        table = joined[model]
        assert table["id"].tolist() == ["t1", "t2", "v1", "v2"]
        assert table["split"].tolist() == ["test", "test", "val", "val"]
        assert table["label"].tolist() == ["a", "b", "a", "b"]
        assert table["group"].tolist() == ["g t1", "g t2", "g v1", "g v2"]
        assert table["p_a"].tolist() == pytest.approx(expected)
        check_predictions(table, "joined")


GOOD = [("t1", "test", "a", 0.9, 0.1), ("v1", "val", "b", 0.2, 0.8)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            predictions_of(GOOD, digest="other"),
            "^model two, fold 0: predictions for manifest other, but those of model one, fold 0 are for digest$",
        ),
        (predictions_of(GOOD, classes=("b", "a")), r"model two, fold 0: classes \['b', 'a'\], but model one, fold 0"),
        (predictions_of([*GOOD, ("t2", "test", "a", 1, 0)]), "model one, fold 0 lacks id 't2'"),
        (predictions_of([GOOD[0], ("v2", "val", "b", 0.2, 0.8)]), "model two, fold 0 lacks id 'v1'"),
        (predictions_of([("t1", "test", "b", 1, 0), GOOD[1]]), "two, fold 0: id 't1' has label 'b', but .* has 'a'"),
        (predictions_of([GOOD[0], GOOD[1]]).assign(group="g"), "two, fold 0: id 't1' has group 'g', but .* has 'g t1'"),
        (predictions_of([("t1", "val", "a", 1, 0), ("v1", "test", "b", 1, 0)]), "id 't1' has split 'val'"),
        (predictions_of(GOOD[1:]), "model two, fold 0: no rows with split 'test'"),
        (predictions_of(GOOD[:1]), "model two, fold 0: no rows with split 'val'"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(other, message):
    with pytest.raises(InputError, match=message):
        join_members({"one": {0: predictions_of(GOOD)}, "two": {0: other}})


def test_a_validation_image_in_two_folds_is_refused():
    with pytest.raises(InputError, match="model one, fold 4: id 'v1' is a validation image of fold 2 as well"):
        join_members({"one": {2: predictions_of(GOOD), 4: predictions_of(GOOD)}})


def test_folds_with_different_test_images_are_refused():
    other = predictions_of([("t9", "test", "a", 0.9, 0.1), ("v2", "val", "b", 0.2, 0.8)])
    with pytest.raises(InputError, match=r"model one, fold 4 and model one, fold 2 .* 't1'"):
        join_members({"one": {2: predictions_of(GOOD), 4: other}})
