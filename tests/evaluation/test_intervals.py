import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics

from tumorboard.evaluation.intervals import _resampled_scores, bootstrap_intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.params import Evaluate
from tumorboard.tables import make_predictions

CLASSES = ["a", "b", "c"]


def predictions(n, groups, seed=0, classes=CLASSES):
    """Random rows whose probabilities come in few values, so that there are ties."""
    generator = np.random.default_rng(seed)
    actual = generator.choice(len(classes), n)
    odds = generator.normal(size=(n, len(classes))).round(0) + np.eye(len(classes))[actual]
    rows = pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(n)],
            "group": [f"g{k}" for k in generator.integers(groups, size=n)],
            "split": "test",
            "label": np.array(classes, dtype=object)[actual],
        }
    )
    return make_predictions(rows, np.exp(odds) / np.exp(odds).sum(1, keepdims=True), classes, "digest")


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_every_resample_is_scored_as_its_rows_would_be(classes):
    table = predictions(90, 7, classes=classes)
    names, group = np.unique(table["group"].to_numpy(object), return_inverse=True)
    weights = np.array([[1] * len(names), [3, 0, 1, 0, 2, 1, 0], [0, 2, 2, 2, 0, 1, 0]])
    found = _resampled_scores(table, group, weights)
    for row, times in enumerate(weights):
        drawn = table.loc[np.repeat(np.arange(len(table)), times[group])]
        expected = scores(drawn)
        for score, values in found.items():
            assert values[row] == pytest.approx(expected[score]), score


def test_interval_of_independent_rows_agrees_with_scipy():
    table = predictions(300, 1)
    table["group"] = table["id"]
    found = bootstrap_intervals(table, Evaluate(bootstrap=4000, confidence=0.9), seed=3)
    right = (table[["p_a", "p_b", "p_c"]].to_numpy().argmax(1) == table["label"].map(CLASSES.index)).to_numpy(float)
    exact = scipy.stats.bootstrap(
        (right,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile", random_state=0
    )
    low, high = exact.confidence_interval
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((low, high), abs=0.005)
    assert found["auc_low"] < sklearn.metrics.roc_auc_score(
        table["label"], table[["p_a", "p_b", "p_c"]], multi_class="ovr"
    )


def test_rows_of_one_group_are_no_independent_evidence():
    """Thirty copies of each of ten rows tell no more than the ten rows do."""
    ten = predictions(10, 1)
    ten["group"] = ten["id"]
    copies = pd.concat([ten.assign(id=ten["id"] + f"/{k}") for k in range(30)], ignore_index=True)
    settings = Evaluate(bootstrap=500, confidence=0.95)
    assert bootstrap_intervals(copies, settings, 0) == pytest.approx(bootstrap_intervals(ten, settings, 0), nan_ok=True)


def test_intervals_depend_on_the_seed_and_not_on_the_order_of_rows():
    table = predictions(200, 20)
    settings = Evaluate(bootstrap=300, confidence=0.95)
    found = bootstrap_intervals(table, settings, seed=1)
    assert bootstrap_intervals(table.sample(frac=1, random_state=0), settings, seed=1) == pytest.approx(found)
    assert bootstrap_intervals(table, settings, seed=2) != found


def test_a_single_group_has_no_interval_and_0_resamples_no_keys():
    table = predictions(30, 1)
    found = bootstrap_intervals(table, Evaluate(bootstrap=50, confidence=0.9), 0)
    assert len(found) == 8
    assert all(math.isnan(end) for end in found.values())
    assert bootstrap_intervals(table, Evaluate(bootstrap=0, confidence=0.9), 0) == {}


def test_resamples_without_a_class_do_not_count():
    """One of four groups holds all rows of a class; resamples without it leave balanced accuracy undefined."""
    table = predictions(80, 3)
    table = table[table["label"] != "c"]
    rare = predictions(400, 1, seed=5).query("label == 'c'").assign(group="rare")
    rare["id"] = "r" + rare["id"]
    found = bootstrap_intervals(pd.concat([table, rare]), Evaluate(bootstrap=200, confidence=0.9), 0)
    assert all(math.isfinite(end) for end in found.values())
    missing = bootstrap_intervals(table, Evaluate(bootstrap=200, confidence=0.9), 0)
    assert math.isnan(missing["balanced_accuracy_low"])
    assert missing["accuracy_low"] < missing["accuracy_high"]
