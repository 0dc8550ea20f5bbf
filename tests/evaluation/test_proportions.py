import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.intervals import intervals
from tumorboard.evaluation.proportions import rate_by_group


def names(numbers):
    return np.array([f"p{number}" for number in numbers], dtype=object)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_interval_of_accuracy_and_recall(seed):
    generator = np.random.default_rng(seed)
    groups = names(generator.integers(25, size=150) ** 2 // 30)  # of different sizes
    positive, hits = generator.uniform(size=150) < 0.6, generator.uniform(size=150) < 0.8
    rows = pd.DataFrame({"id": names(range(150)), "group": groups, "split": "test"})
    called = np.where(hits == positive, 0.9, 0.1)
    table = make_predictions(
        rows.assign(label=np.where(positive, "ill", "well")),
        np.stack([called, 1 - called], 1),
        ["ill", "well"],
        "digest",
    )
    expected = intervals(table, 0.9, bootstrap=0, unit="patient")
    for score, among in (("accuracy", np.full(150, True)), ("recall_ill", positive)):
        rate = rate_by_group(hits[among], groups[among], 0.9, "patient")
        assert rate.rate == pytest.approx(expected[score])
        assert (rate.low, rate.high) == pytest.approx(
            (expected[f"{score}_low"], expected[f"{score}_high"]), nan_ok=True
        )
        assert rate.method == expected[f"{score}_method"]
        assert (rate.images, rate.groups) == (among.sum(), len(set(groups[among])))


def test_images_of_their_own_groups_give_clopper_and_pearsons_interval():
    rate = rate_by_group(np.arange(60) < 45, names(range(60)), 0.95)
    assert (rate.rate, rate.images, rate.groups) == (0.75, 60, 60)
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(45, 60, method="beta"), abs=0.002)


def test_whole_groups_that_are_wrong_count_as_one_image_each():
    """Forty patients with 25 images each, all right or all wrong: the interval is that of about 40 images."""
    rate = rate_by_group(np.repeat(np.arange(40) < 30, 25), names(np.repeat(np.arange(40), 25)), 0.9)
    low, high = proportion_confint(30, 40, alpha=0.1, method="beta")
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize("all_right", [True, False])
def test_no_variance_leaves_one_side_by_group(all_right):
    rate = rate_by_group(np.full(500, all_right), names(np.repeat(np.arange(20), 25)), 0.95, "patient")
    limit = 0.05 ** (1 / 20)  # twenty right of twenty have a chance of 5 %
    assert (rate.low, rate.high) == pytest.approx((limit, 1) if all_right else (0, 1 - limit))
    assert rate.method == "one-sided, by patient"


def test_nine_groups_are_too_few_and_no_images_have_no_rate():
    nine = rate_by_group(np.arange(90) > 10, names(np.repeat(np.arange(9), 10)), 0.95)
    assert nine.rate == pytest.approx(79 / 90)
    assert np.isnan([nine.low, nine.high]).all()
    assert nine[3:] == ("too few groups for an interval (9)", 90, 9)
    none = rate_by_group(np.zeros(0, dtype=bool), np.zeros(0, dtype=object), 0.95)
    assert np.isnan(none[:3]).all()
    assert none[3:] == ("undefined", 0, 0)
