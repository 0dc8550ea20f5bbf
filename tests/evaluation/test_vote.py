import numpy as np
import pandas as pd
import pytest

from tumorboard.errors import InputError
from tumorboard.evaluation.vote import VOTES, fit_weights, hard, join_members, product, soft, weighted
from tumorboard.tables import check_predictions, make_predictions, probabilities_of


def table(rows, digest="digest", classes=("a", "b")):
    """Predictions of (id, split, label, probabilities...) tuples, each row a group of its own."""
    frame = pd.DataFrame([row[:3] for row in rows], columns=["id", "split", "label"])
    frame["group"] = "g " + frame["id"]
    return make_predictions(frame, np.array([row[3:] for row in rows], dtype=float), list(classes), digest)


def member(*first, classes=("a", "b", "c")):
    """A model's joined Predictions: test rows t0, t1 … of class a with these probabilities, one validation row."""
    rows = [(f"t{k}", "test", "a", *probabilities) for k, probabilities in enumerate(first)]
    certain = [1.0] + [0.0] * (len(classes) - 1)
    return table([*rows, ("v", "val", "a", *certain)], classes=classes)


def of_row(predictions, row=0):
    return probabilities_of(predictions)[row]


def test_members_are_joined_by_id_over_folds_and_models():
    joined = join_members(
        {
            "one": {
                0: table([("v2", "val", "b", 0.2, 0.8), ("t1", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.4, 0.6)]),
                3: table([("t2", "test", "b", 0.2, 0.8), ("t1", "test", "a", 0.5, 0.5), ("v1", "val", "a", 0.7, 0.3)]),
            },
            "two": {
                0: table([("t2", "test", "b", 0.0, 1.0), ("v2", "val", "b", 0.1, 0.9), ("t1", "test", "a", 1.0, 0.0)]),
                3: table([("v1", "val", "a", 1.0, 0.0), ("t1", "test", "a", 1.0, 0.0), ("t2", "test", "b", 0.0, 1.0)]),
            },
        }
    )
    for model, expected in (("one", [0.7, 0.3, 0.7, 0.2]), ("two", [1.0, 0.0, 1.0, 0.1])):
        found = joined[model]
        assert found["id"].tolist() == ["t1", "t2", "v1", "v2"]
        assert found["split"].tolist() == ["test", "test", "val", "val"]
        assert found["label"].tolist() == ["a", "b", "a", "b"]
        assert found["group"].tolist() == ["g t1", "g t2", "g v1", "g v2"]
        assert found["p_a"].tolist() == pytest.approx(expected)
        check_predictions(found, "joined")


GOOD = [("t1", "test", "a", 0.9, 0.1), ("v1", "val", "b", 0.2, 0.8)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table(GOOD, digest="other"), "model two, fold 0: predictions for manifest other, but model one"),
        (table(GOOD, classes=("b", "a")), r"model two, fold 0: classes \['b', 'a'\], but model one, fold 0"),
        (table([*GOOD, ("t2", "test", "a", 1, 0)]), "model one, fold 0 lacks id 't2'"),
        (table([GOOD[0], ("v2", "val", "b", 0.2, 0.8)]), "model two, fold 0 lacks id 'v1'"),
        (table([("t1", "test", "b", 1, 0), GOOD[1]]), "two, fold 0: id 't1' has label 'b', but .* has 'a'"),
        (table([("t1", "val", "a", 1, 0), ("v1", "test", "b", 1, 0)]), "id 't1' has split 'val'"),
        (table(GOOD[1:]), "model two, fold 0: no rows with split 'test'"),
    ],
)
def test_members_that_do_not_fit_are_named(other, message):
    with pytest.raises(InputError, match=message):
        join_members({"one": {0: table(GOOD)}, "two": {0: other}})


def test_folds_that_overlap_or_have_other_test_rows_are_named():
    with pytest.raises(InputError, match="model one, fold 4: id 'v1' is validation in fold 2 as well"):
        join_members({"one": {2: table(GOOD), 4: table(GOOD)}})
    other = table([("t9", "test", "a", 0.9, 0.1), ("v2", "val", "b", 0.2, 0.8)])
    with pytest.raises(InputError, match=r"model one, fold 4 and model one, fold 2 .* 't1'"):
        join_members({"one": {2: table(GOOD), 4: other}})


def test_soft_is_the_mean():
    members = {"x": member([0.5, 0.3, 0.2]), "y": member([0.1, 0.9, 0.0])}
    assert of_row(soft(members)) == pytest.approx([0.3, 0.6, 0.1])


def test_product_multiplies_and_normalises():
    members = {"x": member([0.5, 0.3, 0.2]), "y": member([0.2, 0.6, 0.2])}
    assert of_row(product(members)) == pytest.approx(np.array([0.10, 0.18, 0.04]) / 0.32)


def test_product_survives_vetoes_and_many_small_factors():
    members = {"x": member([1.0, 0.0, 0.0]), "y": member([0.0, 1.0, 0.0])}
    assert of_row(product(members)) == pytest.approx([0.5, 0.5, 0])
    members = {f"m{k}": member([1e-200, 2e-200, 1 - 3e-200]) for k in range(5)}
    assert of_row(product(members)) == pytest.approx([0, 0, 1])


def test_hard_counts_decisions_and_lets_the_mean_break_ties():
    members = {"x": member([0.6, 0.4, 0.0], [0.51, 0.49, 0.0]), "y": member([0.1, 0.9, 0.0], [0.51, 0.49, 0.0])}
    members["z"] = member([0.2, 0.0, 0.8], [0.0, 1.0, 0.0])
    found = hard(members)
    assert of_row(found, 0) == pytest.approx((np.array([1, 1, 1]) + np.array([0.9, 1.3, 0.8]) / 3) / 4)
    assert of_row(found, 0).argmax() == 1
    assert of_row(soft(members), 1).argmax() == 1
    assert of_row(found, 1).argmax() == 0, "two votes against one, whatever their certainty"


@pytest.mark.parametrize("name", VOTES)
def test_one_member_decides_alone_and_votes_are_predictions(name):
    alone = {"x": member([0.2, 0.5, 0.3], [0.7, 0.2, 0.1])}
    found = VOTES[name](alone)
    assert probabilities_of(found).argmax(1).tolist() == [1, 0, 0]
    check_predictions(found, name)
    assert found["manifest"].unique().tolist() == ["digest"]
    assert found["id"].tolist() == ["t0", "t1", "v"]


@pytest.mark.parametrize("name", VOTES)
def test_votes_do_not_depend_on_the_order_of_members(name):
    random = np.random.default_rng(4)
    members = {f"m{k}": random_member(random) for k in range(4)}
    turned = dict(reversed(members.items()))
    assert probabilities_of(VOTES[name](members)) == pytest.approx(probabilities_of(VOTES[name](turned)), abs=1e-4)


def random_member(generator, n=150, sharpness=1.0):
    odds = generator.normal(size=(n, 3))
    odds[:, 0] += sharpness
    p = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    return table([(f"v{k}", "val", "a", *row) for k, row in enumerate(p)], classes=("a", "b", "c"))


def test_weights_are_the_best_on_validation_by_exhaustive_search():
    generator = np.random.default_rng(0)
    members = {"weak": random_member(generator, sharpness=0.5), "good": random_member(generator, sharpness=1.5)}
    members["bad"] = random_member(generator, sharpness=-2.0)
    found = fit_weights(members)
    given = np.stack([members[name]["p_a"] for name in members])
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401)), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1]
    grid = np.column_stack([grid, 1 - grid.sum(1)])
    losses = -np.log(np.maximum(grid @ given, 1e-12)).mean(1)
    assert list(found.values()) == pytest.approx(grid[losses.argmin()], abs=0.005)
    assert -np.log(np.array(list(found.values())) @ given).mean() <= losses.min() + 1e-9
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    expected = np.tensordot(list(found.values()), [probabilities_of(m) for m in members.values()], 1)
    assert probabilities_of(weighted(members)) == pytest.approx(expected)


def test_weights_among_members_that_are_sure_and_wrong_leave_nothing_to_gain():
    """By the optimality condition of a pool: where one weighs more, no member's mean ratio to the pool exceeds 1."""
    generator = np.random.default_rng(14)
    actual = generator.integers(0, 3, 250)
    members = {}
    for name in "abcdef":
        odds = generator.normal(size=(250, 3)) * 60
        odds[np.arange(250), actual] += 120 * (generator.random(250) < generator.uniform(0.3, 0.95))
        p = np.exp(odds - odds.max(1, keepdims=True))
        rows = [(f"v{k}", "val", "xyz"[actual[k]], *row) for k, row in enumerate(p / p.sum(1, keepdims=True))]
        members[name] = table(rows, classes=("x", "y", "z"))
    found = np.array(list(fit_weights(members).values()))
    given = np.stack([probabilities_of(member)[np.arange(250), actual] for member in members.values()])
    given = np.maximum(given, np.finfo(float).eps)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (given / (found @ given)).mean(1).max() < 1.00011


def test_weights_see_no_test_row():
    good, bad = ("v", "val", "a", 0.9, 0.1), ("v", "val", "a", 0.2, 0.8)
    members = {
        "right on validation": table([good, ("t", "test", "b", 1.0, 0.0)]),
        "right on test": table([bad, ("t", "test", "b", 0.0, 1.0)]),
    }
    assert list(fit_weights(members).values()) == pytest.approx([1, 0], abs=1e-6)


def test_weights_of_equals_are_equal_and_certain_mistakes_do_not_break_the_fit():
    same = table([("v", "val", "a", 0.0, 1.0), ("w", "val", "b", 0.3, 0.7)])
    assert list(fit_weights({"x": same, "y": same}).values()) == pytest.approx([0.5, 0.5])
