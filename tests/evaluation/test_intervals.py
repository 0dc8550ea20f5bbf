import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics

from tumorboard.base.params import Evaluate
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation import intervals
from tumorboard.evaluation.intervals import bootstrap_intervals, resampled_scores
from tumorboard.evaluation.metrics import scores

CLASSES = ["a", "b", "c"]


def predictions(n, groups, seed=0, classes=CLASSES):
    """Returns random rows whose probabilities have few different values, so that there are ties."""
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
@pytest.mark.parametrize("resamples_at_a_time", [1, 2, 3])
def test_every_resample_is_scored_as_its_rows_would_be(classes, resamples_at_a_time, monkeypatch):
    table = predictions(90, 7, classes=classes)
    monkeypatch.setattr(intervals, "CHUNK_CELLS", 90 * resamples_at_a_time)
    names, group = np.unique(table["group"].to_numpy(object), return_inverse=True)
    counts = np.array([[1] * len(names), [3, 0, 1, 0, 2, 1, 0], [0, 2, 2, 2, 0, 1, 0]])
    resampled = resampled_scores(table, group, counts)
    assert set(resampled) == {"accuracy", "balanced_accuracy", "f1", "auc"}
    for row, times in enumerate(counts):
        drawn = table.loc[np.repeat(np.arange(len(table)), times[group])]
        expected = scores(drawn)
        for score, values in resampled.items():
            assert values[row] == pytest.approx(expected[score]), score


def test_interval_of_independent_rows_agrees_with_scipy():
    table = predictions(300, 1)
    table["group"] = table["id"]
    interval = bootstrap_intervals(table, Evaluate(bootstrap=4000, confidence=0.9), seed=3)
    right = (table[["p_a", "p_b", "p_c"]].to_numpy().argmax(1) == table["label"].map(CLASSES.index)).to_numpy(float)
    exact = scipy.stats.bootstrap(
        (right,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile", random_state=0
    )
    low, high = exact.confidence_interval
    assert (interval["accuracy_low"], interval["accuracy_high"]) == pytest.approx((low, high), abs=0.005)
    assert interval["auc_low"] < sklearn.metrics.roc_auc_score(
        table["label"], table[["p_a", "p_b", "p_c"]], multi_class="ovr"
    )


def test_rows_of_one_group_are_no_independent_evidence():
    """Thirty copies of each of ten rows give the intervals of the ten rows."""
    ten = predictions(10, 1)
    ten["group"] = ten["id"]
    copies = pd.concat([ten.assign(id=ten["id"] + f"/{k}") for k in range(30)], ignore_index=True)
    settings = Evaluate(bootstrap=500, confidence=0.95)
    assert bootstrap_intervals(copies, settings, 0) == pytest.approx(bootstrap_intervals(ten, settings, 0), nan_ok=True)


def test_intervals_depend_on_the_seed_and_not_on_the_order_of_rows():
    table = predictions(200, 20)
    settings = Evaluate(bootstrap=300, confidence=0.95)
    first = bootstrap_intervals(table, settings, seed=1)
    assert bootstrap_intervals(table.sample(frac=1, random_state=0), settings, seed=1) == pytest.approx(first)
    assert bootstrap_intervals(table, settings, seed=2) != first


def test_a_single_group_has_undefined_intervals_and_0_resamples_give_no_keys():
    table = predictions(30, 1)
    of_one_group = bootstrap_intervals(table, Evaluate(bootstrap=50, confidence=0.9), 0)
    assert len(of_one_group) == 8
    assert all(math.isnan(end) for end in of_one_group.values())
    assert bootstrap_intervals(table, Evaluate(bootstrap=0, confidence=0.9), 0) == {}


def test_resamples_without_a_class_are_left_out():
    """One of four groups has all rows of a class; balanced accuracy is undefined in resamples without that group."""
    table = predictions(80, 3)
    table = table[table["label"] != "c"]
    rare = predictions(400, 1, seed=5).query("label == 'c'").assign(group="rare")
    rare["id"] = "r" + rare["id"]
    with_rare = bootstrap_intervals(pd.concat([table, rare]), Evaluate(bootstrap=200, confidence=0.9), 0)
    assert all(math.isfinite(end) for end in with_rare.values())
    missing = bootstrap_intervals(table, Evaluate(bootstrap=200, confidence=0.9), 0)
    assert math.isnan(missing["balanced_accuracy_low"])
    assert missing["accuracy_low"] < missing["accuracy_high"]
