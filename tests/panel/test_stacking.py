"""The vote stacking: its optimum by an independent search, its features by hand, rows one by one, columns of texts."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tumorboard.evaluation.temperature import softmax as own_softmax
from tumorboard.panel.stacking import (
    FEWEST,
    LOWEST,
    Column,
    Stacking,
    apply_stacking,
    describe_column,
    fit_stacking,
    number_of,
    why_not_stacked,
)


def panel(seed, members=2, rows=80, classes=3):
    generator = np.random.default_rng(seed)
    actual = generator.integers(0, classes, rows)
    logits = generator.normal(size=(members, rows, classes)) * 1.5
    logits[..., np.arange(rows), actual] += np.linspace(0.5, 1.5, members)[:, None]
    return actual, softmax(logits, axis=-1)


def texts(*columns):
    """Cells object[N, J] of J columns."""
    return np.array(columns, dtype=object).T


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_the_fit_has_the_least_penalized_loss_by_an_independent_search(classes, penalty):
    """Sum of the cross-entropy and, per coefficient, half its square over C; intercepts are free. Of two classes the
    second's coefficients alone are penalized, as those of the first are zero."""
    actual, members = panel(1, classes=classes)
    ages = [str(20 + row % 50) for row in range(80)]
    cells = texts(ages)
    stacking = fit_stacking(members, actual, penalty, names=["age"], cells=cells)
    logs = np.log(members)
    numbers = np.array(ages, dtype=float)
    columns = [
        *(one - one.mean(1, keepdims=True) for one in logs),
        ((numbers - numbers.mean()) / numbers.std())[:, None],
    ]
    features = np.column_stack([*columns, np.zeros(80)])
    width, free = features.shape[1], classes - 1 if classes == 2 else classes

    def probabilities_of(flat):
        weights = flat.reshape(free, width + 1)
        odds = features @ weights[:, :-1].T + weights[:, -1]
        return np.column_stack([np.zeros(80), odds]) if classes == 2 else odds

    def cost(flat):
        chosen = log_softmax(probabilities_of(flat), axis=1)[np.arange(80), actual]
        return -chosen.sum() + (flat.reshape(free, width + 1)[:, :-1] ** 2).sum() / (2 * penalty)

    best = minimize(cost, np.zeros(free * (width + 1)), method="BFGS", options={"gtol": 1e-6})
    expected = softmax(probabilities_of(best.x), axis=1)
    assert apply_stacking(stacking, members, cells) == pytest.approx(expected, abs=2e-4)
    assert (np.shape(stacking.coefficients), np.shape(stacking.intercepts)) == ((classes, width), (classes,))
    assert stacking.penalty == penalty


def test_application_by_hand():
    """One member and two classes; a number, and a text with two values."""
    stacking = Stacking(
        coefficients=((0.0,) * 7, (-1.0, 1.0, 0.5, 2.0, 3.0, -3.0, 4.0)),
        intercepts=(0.0, 0.25),
        penalty=1.0,
        columns=(Column("age", (), 50.0, 10.0), Column("sex", ("f", "m"), None, None)),
    )
    members = np.array([[[0.2, 0.8]] * 5])
    log_odds = 0.25 + np.log(0.8 / 0.2)  # centered, the two logarithms are minus and plus half the log-odds
    cells = texts(["60", "", "unknown", "old", "50"], ["f", "m", "x", "", "unknown"])
    expected = [0.5 + 3, 2 - 3, 2 + 0, 2 + 4, 0 + 4]
    voted = apply_stacking(stacking, members, cells)
    assert np.log(voted[:, 1] / voted[:, 0]) == pytest.approx(log_odds + np.array(expected, dtype=float))
    assert voted.sum(1) == pytest.approx(1)


def test_sure_members_have_a_finite_logarithm_and_a_member_is_centered():
    actual, members = panel(2)
    sure = members.copy()
    sure[0] = np.eye(3)[actual]
    stacking = fit_stacking(sure, actual, 0.1)
    assert np.isfinite(stacking.coefficients).all()
    assert np.isfinite(apply_stacking(stacking, sure)).all()
    assert (apply_stacking(stacking, sure) == apply_stacking(stacking, np.maximum(sure, LOWEST))).all()
    scaled = apply_stacking(fit_stacking(7 * members, actual, 0.1), 7 * members)
    assert scaled == pytest.approx(apply_stacking(fit_stacking(members, actual, 0.1), members), abs=1e-6)


def test_a_row_alone_is_what_it_is_among_others_to_the_last_digit():
    actual, members = panel(3, members=5, rows=200)
    cells = texts([str(row % 7) for row in range(200)], ["a", "", "b", "c"] * 50)
    stacking = fit_stacking(members, actual, 1.0, names=["n", "t"], cells=cells)
    together = apply_stacking(stacking, members, cells)
    for row in (0, 3, 199):
        alone = apply_stacking(stacking, np.ascontiguousarray(members[:, row : row + 1]), cells[row : row + 1])
        assert (alone[0] == together[row]).all()
    assert (apply_stacking(stacking, members[:, ::-1], cells[::-1])[::-1] == together).all()
    assert apply_stacking(stacking, members[:, :0], cells[:0]).shape == (0, 3)


@pytest.mark.parametrize("at_once", [1, 700, 10**9])
def test_rows_are_summed_in_blocks_to_the_last_digit(monkeypatch, at_once):
    """Equal to all products at once, whatever is left for the last block."""
    _, members = panel(3, members=4, rows=45, classes=6)
    generator = np.random.default_rng(0)
    stacking = Stacking(
        coefficients=tuple(map(tuple, generator.normal(size=(6, 24)).tolist())),
        intercepts=tuple(generator.normal(size=6).tolist()),
        penalty=1.0,
    )
    logs = np.log(members)
    features = np.concatenate(list(logs - logs.mean(2, keepdims=True)), axis=1)
    odds = (features[:, None, :] * np.array(stacking.coefficients)).sum(-1) + np.array(stacking.intercepts)
    monkeypatch.setattr("tumorboard.panel.stacking.PRODUCTS", at_once)
    assert apply_stacking(stacking, members).tolist() == own_softmax(odds).tolist()


def test_columns_by_their_cells():
    assert describe_column("n", texts(["1", "3", "", "unknown", "1e1"])[:, 0]) == Column(
        "n", (), pytest.approx(14 / 3), pytest.approx(np.std([1, 3, 10]))
    )
    assert describe_column("n", texts(["5", "5"])[:, 0]).scale == 1.0, "equal numbers are all 0"
    assert describe_column("t", texts(["5", "five", "5"])[:, 0]) == Column("t", ("5", "five"), None, None)
    assert describe_column("t", texts(["inf", "1"])[:, 0]).values == ("1", "inf"), (
        "infinity is no number to standardize"
    )
    assert describe_column("t", texts(["", "unknown"])[:, 0]) == Column("t", (), None, None)
    assert [number_of(cell) for cell in (" 7", "-1.5")] == [7.0, -1.5]
    assert np.isnan([number_of(cell) for cell in ("", "nan", "inf", "7 years")]).all()


def test_a_column_that_tells_the_label_helps_and_one_whose_value_is_missing_where_it_is_ill_too():
    actual, members = panel(4, rows=400, classes=2)
    for cells in (np.where(actual == 1, "f", "m"), np.where(actual == 1, "", "42"), np.where(actual == 1, "9", "3")):
        column = cells.astype(object)[:, None]
        stacking = fit_stacking(members, actual, 1.0, names=["c"], cells=column)
        assert (apply_stacking(stacking, members, column).argmax(1) == actual).all()


def test_why_a_regression_is_not_fitted():
    parts = np.arange(40) % 5
    even = np.array([0, 1] * 20)
    assert why_not_stacked(even, parts, ["a", "b"]) == ""
    assert why_not_stacked(even, parts, ["a", "b", "c"]) == "a fit has 0 validation images of 'c', it needs 10"
    assert why_not_stacked(even[: 2 * FEWEST - 1], parts[: 2 * FEWEST - 1], ["a", "b"]).startswith("a fit has 9 valid")
    assert why_not_stacked(even, np.zeros(40, np.int64), ["a", "b"]) == (
        "a fit has the validation images of one group only"
    )
    assert why_not_stacked(even, even, ["a", "b"]).startswith("all validation images of 'a' are of one group")
    assert why_not_stacked(even[:0], parts[:0], ["a", "b"]).startswith("a fit has 0 validation images of 'a'")
