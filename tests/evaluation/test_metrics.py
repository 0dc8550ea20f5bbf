import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import confusion_table, precision_recall_table, roc_table, scores
from tumorboard.tables import make_predictions


def predictions(labels, probabilities, classes):
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(len(labels))], "group": "g", "split": "test", "label": labels})
    return make_predictions(rows, np.array(probabilities, dtype=float).reshape(len(labels), -1), classes, "digest")


@pytest.fixture(scope="module")
def many():
    """600 random rows of four unequal classes, and the same as sklearn takes them."""
    generator = np.random.default_rng(1)
    classes = ["a", "b", "c d", "<&>"]
    actual = generator.choice(4, 600, p=[0.5, 0.3, 0.15, 0.05])
    odds = generator.normal(size=(600, 4)) + 1.5 * np.eye(4)[actual]
    probabilities = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    table = predictions(np.array(classes, dtype=object)[actual], probabilities, classes)
    return table, actual, probabilities


def test_scores_of_a_binary_case_by_hand():
    table = predictions(["n", "n", "n", "p"], [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], ["n", "p"])
    found = scores(table)
    assert found["images"] == 4
    assert found["accuracy"] == 3 / 4
    assert found["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.7)) / 4)
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.04 + 0.36 + 0.09) / 4)
    assert (found["precision_n"], found["precision_p"], found["precision"]) == (1, 1 / 2, 3 / 4)
    assert (found["recall_n"], found["recall_p"]) == pytest.approx((2 / 3, 1))
    assert found["recall"] == found["balanced_accuracy"] == pytest.approx(5 / 6)
    assert (found["specificity_n"], found["specificity_p"]) == pytest.approx((1, 2 / 3))
    assert (found["f1_n"], found["f1_p"], found["f1"]) == pytest.approx((4 / 5, 2 / 3, 11 / 15))
    assert found["auc"] == found["auc_n"] == found["auc_p"] == 1
    assert (found["support_n"], found["support_p"]) == (3, 1)


def test_scores_agree_with_sklearn(many):
    table, actual, probabilities = many
    found, decided = scores(table), probabilities.argmax(1)
    for score, function in (
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        assert found[score] == pytest.approx(function(actual, decided, average="macro"))
        assert found[f"{score}_c d"] == pytest.approx(function(actual == 2, decided == 2))
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(actual, decided))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(actual, decided))
    assert found["specificity_<&>"] == pytest.approx(sklearn.metrics.recall_score(actual != 3, decided != 3))
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(actual, probabilities, multi_class="ovr"))
    assert found["auc_b"] == pytest.approx(sklearn.metrics.roc_auc_score(actual == 1, probabilities[:, 1]))
    assert found["loss"] == pytest.approx(sklearn.metrics.log_loss(actual, probabilities))


def test_scores_do_not_depend_on_the_order_of_rows_or_of_classes(many):
    table, _, probabilities = many
    shuffled = table.sample(frac=1, random_state=0)
    assert scores(shuffled) == pytest.approx(scores(table))
    turned = predictions(table["label"], probabilities[:, ::-1], ["<&>", "c d", "b", "a"])
    assert scores(turned) == pytest.approx(scores(table))


def test_the_order_of_columns_not_of_names_gives_meaning_to_a_probability():
    table = predictions(["z", "a"], [[0.8, 0.2], [0.1, 0.9]], ["z", "a"])
    assert scores(table)["accuracy"] == 1
    assert scores(table)["loss"] == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 2)


def test_a_class_that_is_never_predicted_has_no_precision_but_an_f1_of_0():
    found = scores(predictions(["a", "a", "b"], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], ["a", "b"]))
    assert math.isnan(found["precision_b"])
    assert math.isnan(found["precision"])
    assert found["precision_a"] == pytest.approx(2 / 3)
    assert (found["recall_b"], found["f1_b"]) == (0, 0)
    assert (found["balanced_accuracy"], found["f1"]) == pytest.approx((1 / 2, 2 / 5))
    assert found["auc"] == 1


def test_a_class_without_images_is_undefined_and_so_are_means_over_classes():
    found = scores(predictions(["a", "b"], [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]], ["a", "b", "c"]))
    undefined = {key for key, value in found.items() if math.isnan(value)}
    assert undefined == {
        *("recall_c", "precision_c", "f1_c", "auc_c"),
        *("recall", "balanced_accuracy", "precision", "f1", "auc"),
    }
    assert (found["support_c"], found["specificity_c"], found["accuracy"], found["recall_a"]) == (0, 1, 1, 1)


def test_one_class_present_leaves_accuracy_and_loss():
    found = scores(predictions(["a"], [[1.0, 0.0]], ["a", "b"]))
    assert (found["accuracy"], found["recall_a"], found["loss"]) == pytest.approx((1, 1, 0))
    assert math.isnan(found["auc_a"])
    assert math.isnan(found["specificity_a"])


def test_a_certain_mistake_costs_the_clipped_logarithm():
    found = scores(predictions(["b", "a"], [[1.0, 0.0], [1.0, 0.0]], ["a", "b"]))
    assert found["loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2, abs=1e-9)


def test_a_tie_goes_to_the_first_class():
    found = scores(predictions(["a", "b"], [[0.5, 0.5], [0.5, 0.5]], ["a", "b"]))
    assert (found["recall_a"], found["recall_b"], found["auc"]) == (1, 0, 0.5)


def test_nothing_to_score_and_unlabelled_rows_are_refused():
    table = predictions(["a", "b"], [[1, 0], [0, 1]], ["a", "b"])
    with pytest.raises(InputError, match="no rows"):
        scores(table[:0])
    table.loc[1, "label"] = ""
    with pytest.raises(InputError, match="id 'i1' has no label"):
        scores(table)


def test_roc_by_hand():
    table = predictions(["n", "p", "n", "p"], [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]], ["n", "p"])
    found = roc_table(table).query("`class` == 'p'")
    assert found[["fpr", "tpr", "threshold"]].to_numpy().tolist() == [
        [0, 0, math.inf],
        [0, 0.5, 0.8],
        [0.5, 1, 0.4],
        [1, 1, 0.1],
    ]


def test_precision_recall_by_hand():
    table = predictions(["n", "p", "n", "p"], [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], ["n", "p"])
    found = precision_recall_table(table).query("`class` == 'p'")
    assert found[["recall", "precision"]].to_numpy() == pytest.approx(
        np.array([[0, 1], [0.5, 1], [0.5, 0.5], [1, 2 / 3], [1, 0.5]])
    )


def test_thinned_curves_keep_their_area():
    generator = np.random.default_rng(2)
    labels = generator.choice(["n", "p"], 20_000)
    p = generator.uniform(size=20_000)
    long = predictions(labels, np.stack([1 - p, p], 1), ["n", "p"])
    curve = roc_table(long).query("`class` == 'p'")
    assert len(curve) <= 200
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(scores(long)["auc_p"], abs=0.002)
    assert curve.iloc[[0, -1]][["fpr", "tpr"]].to_numpy().tolist() == [[0, 0], [1, 1]]
    curve = precision_recall_table(long).query("`class` == 'p'")
    assert len(curve) <= 200
    exact = sklearn.metrics.average_precision_score(labels == "p", p)
    assert np.trapezoid(curve["precision"], curve["recall"]) == pytest.approx(exact, abs=0.01)


def test_curves_leave_out_classes_without_images():
    table = predictions(["a", "b"], [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1]], ["a", "b", "c"])
    assert set(roc_table(table)["class"]) == set(precision_recall_table(table)["class"]) == {"a", "b"}
    alone = predictions(["a"], [[0.6, 0.4]], ["a", "b"])
    assert roc_table(alone).empty
    assert precision_recall_table(alone).columns.tolist() == ["class", "recall", "precision", "threshold"]


def test_confusion_counts_and_shares():
    table = predictions(["a", "a", "a", "b"], [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], ["a", "b", "c"])
    found = confusion_table(table).set_index(["actual", "predicted"])
    assert found.loc[("a", "a"), "count"] == 2
    assert found.loc[("a", "b"), "share"] == pytest.approx(1 / 3)
    assert found.loc[("b", "b"), "share"] == 1
    assert found.loc[("c", "a"), "count"] == 0
    assert math.isnan(found.loc[("c", "a"), "share"])
    assert len(found) == 9
