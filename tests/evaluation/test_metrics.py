import math
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.metrics import (
    HEADLINE_SCORES,
    confusion_table,
    curve_tables,
    log_odds,
    scores,
)


def predictions(labels, probabilities, classes):
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(len(labels))], "group": "g", "split": "test", "label": labels})
    return make_predictions(rows, np.array(probabilities, dtype=float).reshape(len(labels), -1), classes, "digest")


@pytest.fixture(scope="module")
def many():
    """Returns 600 random rows of four unequal classes: as Predictions, and as the arrays that scikit-learn takes."""
    generator = np.random.default_rng(1)
    classes = ["a", "b", "c d", "<&>"]
    actual = generator.choice(4, 600, p=[0.5, 0.3, 0.15, 0.05])
    odds = generator.normal(size=(600, 4)) + 1.5 * np.eye(4)[actual]
    probabilities = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    table = predictions(np.array(classes, dtype=object)[actual], probabilities, classes)
    return table, actual, probabilities


def test_scores_of_a_binary_case_by_hand():
    table = predictions(["n", "n", "n", "p"], [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], ["n", "p"])
    computed = scores(table)
    assert computed["images"] == 4
    assert computed["accuracy"] == 3 / 4
    assert computed["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.7)) / 4)
    assert computed["brier"] == pytest.approx(2 * (0.01 + 0.04 + 0.36 + 0.09) / 4)
    assert (computed["precision_n"], computed["precision_p"], computed["precision"]) == (1, 1 / 2, 3 / 4)
    assert (computed["recall_n"], computed["recall_p"]) == pytest.approx((2 / 3, 1))
    assert computed["recall"] == computed["balanced_accuracy"] == pytest.approx(5 / 6)
    assert (computed["specificity_n"], computed["specificity_p"]) == pytest.approx((1, 2 / 3))
    assert (computed["f1_n"], computed["f1_p"], computed["f1"]) == pytest.approx((4 / 5, 2 / 3, 11 / 15))
    assert computed["auc"] == computed["auc_n"] == computed["auc_p"] == 1
    assert (computed["support_n"], computed["support_p"]) == (3, 1)


def test_scores_agree_with_sklearn(many):
    table, actual, probabilities = many
    computed, decided = scores(table), probabilities.argmax(1)
    for score, function in (
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        assert computed[score] == pytest.approx(function(actual, decided, average="macro"))
        assert computed[f"{score}_c d"] == pytest.approx(function(actual == 2, decided == 2))
    assert computed["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(actual, decided))
    assert computed["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(actual, decided))
    assert computed["specificity_<&>"] == pytest.approx(sklearn.metrics.recall_score(actual != 3, decided != 3))
    assert computed["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(actual, probabilities, multi_class="ovr"))
    assert computed["auc_b"] == pytest.approx(sklearn.metrics.roc_auc_score(actual == 1, probabilities[:, 1]))
    assert computed["loss"] == pytest.approx(sklearn.metrics.log_loss(actual, probabilities))


@pytest.mark.parametrize("seed", range(40))
def test_scores_are_equal_to_sklearns_to_the_bit(seed):
    """With ties, probabilities rounded to 0 and 1, and classes without images."""
    random = np.random.default_rng(seed)
    classes, rows = int(random.integers(2, 6)), int(random.integers(1, 400))
    logits = random.normal(size=(rows, classes)) * random.choice([0.5, 5, 60])
    logits = logits.round(int(random.integers(0, 4)))
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponents / exponents.sum(1, keepdims=True)
    actual = random.integers(0, random.integers(1, classes + 1), rows)
    names = [f"c{number}" for number in range(classes)]
    computed = scores(predictions([names[label] for label in actual], probabilities, names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about renamed arguments
        assert computed["loss"] == sklearn.metrics.log_loss(actual, probabilities, labels=range(classes))
    for column, name in enumerate(names):
        side = 1 if classes == 2 else column  # of two classes both have the second one's
        positive, odds = actual == side, log_odds(probabilities)[:, side]
        defined = positive.any() and not positive.all()
        ranks = np.unique(odds, return_inverse=True)[1]
        expected = sklearn.metrics.roc_auc_score(positive, ranks) if defined else np.nan
        np.testing.assert_array_equal(computed[f"auc_{name}"], expected)
    counts = sklearn.metrics.confusion_matrix(actual, probabilities.argmax(1), labels=range(classes))
    table = confusion_table(predictions([names[label] for label in actual], probabilities, names))
    assert table["count"].tolist() == counts.ravel().tolist()


def test_scores_do_not_depend_on_the_order_of_rows_or_of_classes(many):
    table, _, probabilities = many
    shuffled = table.sample(frac=1, random_state=0)
    assert scores(shuffled) == pytest.approx(scores(table))
    turned = predictions(table["label"], probabilities[:, ::-1], ["<&>", "c d", "b", "a"])
    assert scores(turned) == pytest.approx(scores(table))


def test_probabilities_belong_to_classes_by_column_not_by_sorted_name():
    table = predictions(["z", "a"], [[0.8, 0.2], [0.1, 0.9]], ["z", "a"])
    assert scores(table)["accuracy"] == 1
    assert scores(table)["loss"] == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 2)


def test_a_class_that_is_never_predicted_has_no_precision_but_an_f1_of_0():
    computed = scores(predictions(["a", "a", "b"], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], ["a", "b"]))
    assert math.isnan(computed["precision_b"])
    assert math.isnan(computed["precision"])
    assert computed["precision_a"] == pytest.approx(2 / 3)
    assert (computed["recall_b"], computed["f1_b"]) == (0, 0)
    assert (computed["balanced_accuracy"], computed["f1"]) == pytest.approx((1 / 2, 2 / 5))
    assert computed["auc"] == 1


def test_a_class_without_images_is_undefined_and_so_are_means_over_classes():
    computed = scores(predictions(["a", "b"], [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]], ["a", "b", "c"]))
    undefined = {key for key, value in computed.items() if math.isnan(value)}
    assert undefined == {
        *("recall_c", "precision_c", "f1_c", "auc_c"),
        *("recall", "balanced_accuracy", "precision", "f1", "auc"),
    }
    assert (computed["support_c"], computed["specificity_c"], computed["accuracy"], computed["recall_a"]) == (
        0,
        1,
        1,
        1,
    )


def test_one_class_present_leaves_accuracy_and_loss():
    computed = scores(predictions(["a"], [[1.0, 0.0]], ["a", "b"]))
    assert (computed["accuracy"], computed["recall_a"], computed["loss"]) == pytest.approx((1, 1, 0))
    assert math.isnan(computed["auc_a"])
    assert math.isnan(computed["specificity_a"])


def test_a_certain_mistake_costs_the_clipped_logarithm():
    computed = scores(predictions(["b", "a"], [[1.0, 0.0], [1.0, 0.0]], ["a", "b"]))
    assert computed["loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2, abs=1e-9)


def test_a_tie_goes_to_the_first_class():
    computed = scores(predictions(["a", "b"], [[0.5, 0.5], [0.5, 0.5]], ["a", "b"]))
    assert (computed["recall_a"], computed["recall_b"], computed["auc"]) == (1, 0, 0.5)


def test_headline_scores_are_scores(many):
    assert set(HEADLINE_SCORES) <= set(scores(many[0]))
    assert len(set(HEADLINE_SCORES)) == len(HEADLINE_SCORES) == 8


def test_empty_tables_and_unlabeled_rows_are_refused():
    table = predictions(["a", "b"], [[1, 0], [0, 1]], ["a", "b"])
    with pytest.raises(InputError, match="no rows"):
        scores(table[:0])
    table.loc[1, "label"] = ""
    with pytest.raises(InputError, match="id 'i1' has no label"):
        scores(table)


def test_roc_by_hand():
    table = predictions(["n", "p", "n", "p"], [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]], ["n", "p"])
    curve = curve_tables(table)[0].query("`class` == 'p'")
    assert curve[["fpr", "tpr", "threshold"]].to_numpy().tolist() == [
        [0, 0, math.inf],
        [0, 0.5, 0.8],
        [0.5, 1, 0.4],
        [1, 1, 0.1],
    ]


def test_precision_recall_by_hand():
    table = predictions(["n", "p", "n", "p"], [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], ["n", "p"])
    curve = curve_tables(table)[1].query("`class` == 'p'")
    assert curve[["recall", "precision"]].to_numpy() == pytest.approx(
        np.array([[0, 1], [0.5, 1], [0.5, 0.5], [1, 2 / 3], [1, 0.5]])
    )
    assert curve["threshold"].tolist() == [math.inf, 0.8, 0.4, 0.3, 0.1]


def test_thinned_curves_keep_their_area():
    generator = np.random.default_rng(2)
    labels = generator.choice(["n", "p"], 20_000)
    p = generator.uniform(size=20_000)
    long = predictions(labels, np.stack([1 - p, p], 1), ["n", "p"])
    curve = curve_tables(long)[0].query("`class` == 'p'")
    assert 150 < len(curve) <= 200
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(scores(long)["auc_p"], abs=0.002)
    assert curve.iloc[[0, -1]][["fpr", "tpr"]].to_numpy().tolist() == [[0, 0], [1, 1]]
    curve = curve_tables(long)[1].query("`class` == 'p'")
    assert 100 < len(curve) <= 200
    exact = sklearn.metrics.average_precision_score(labels == "p", p)
    assert np.trapezoid(curve["precision"], curve["recall"]) == pytest.approx(exact, abs=0.01)


def saturated():
    """Returns a table of which six rows have p_p = 1 exactly, which only p_n tells apart, and two rows below."""
    p_n = np.array([1e-20, 1e-22, 1e-24, 1e-26, 1e-28, 0, 0.5, 0.75])
    p_p = np.array([1, 1, 1, 1, 1, 1, 0.5, 0.25])
    return predictions(list("nnpnpppn"), np.stack([p_n, p_p], 1), ["n", "p"])


def test_auc_and_curves_of_a_saturated_model_use_both_columns():
    """By hand: of the positives, two are above all four negatives, one above three, one above one: 12 of 16 pairs."""
    table = saturated()
    assert scores(table)["auc"] == scores(table)["auc_n"] == scores(table)["auc_p"] == 12 / 16
    assert sklearn.metrics.roc_auc_score(table["label"] == "p", table["p_p"]) != 12 / 16
    curve = curve_tables(table)[0]
    for name in ("n", "p"):
        drawn = curve[curve["class"] == name]
        assert np.trapezoid(drawn["tpr"], drawn["fpr"]) == pytest.approx(12 / 16)
        assert drawn[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert curve.query("`class` == 'p'")["threshold"].iloc[-1] == 0.25
    assert curve.query("`class` == 'p'")["threshold"].is_monotonic_decreasing
    precision = curve_tables(table)[1].query("`class` == 'p'")
    assert precision["precision"].iloc[:3].tolist() == [1, 1, 1]  # the first two positives come before a negative


def test_log_odds_are_exact_near_0_and_1_and_keep_ties():
    odds = log_odds(np.array([[1.0, 1e-30, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]]))
    assert odds[0] == pytest.approx([30 * math.log(10), -30 * math.log(10), -math.inf])
    assert odds[1] == pytest.approx([-math.log(3), 0, -math.log(3)])
    assert odds[2].tolist() == [-math.inf, -math.inf, math.inf]
    shares = np.array([[0.2, 0.2, 0.2, 0.2, 0.2], [0.2, 0.4, 0.4, 0, 0], [0.2, 0, 0, 0.2, 0.6], [0.2, 0.8, 0, 0, 0]])
    assert len(set(log_odds(shares)[:, 0])) == 1  # sums of the others differ in the last digit
    binary = np.random.default_rng(0).random((50, 1))
    both = log_odds(np.hstack([binary, 1 - binary]))
    assert (both[:, 0] == -both[:, 1]).all()


def test_curves_leave_out_classes_without_images():
    table = predictions(["a", "b"], [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]], ["a", "b", "c"])
    assert set(curve_tables(table)[0]["class"]) == set(curve_tables(table)[1]["class"]) == {"a", "b"}
    alone = predictions(["a"], [[0.6, 0.4]], ["a", "b"])
    assert curve_tables(alone)[0].empty
    assert curve_tables(alone)[1].columns.tolist() == ["class", "recall", "precision", "threshold"]


def test_confusion_counts_and_shares():
    table = predictions(["a", "a", "a", "b"], [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], ["a", "b", "c"])
    confusion = confusion_table(table).set_index(["actual", "predicted"])
    assert confusion.loc[("a", "a"), "count"] == 2
    assert confusion.loc[("a", "b"), "share"] == pytest.approx(1 / 3)
    assert confusion.loc[("b", "b"), "share"] == 1
    assert confusion.loc[("c", "a"), "count"] == 0
    assert math.isnan(confusion.loc[("c", "a"), "share"])
    assert len(confusion) == 9
