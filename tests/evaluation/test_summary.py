"""All scores of a table: which it has, whose threshold decides, what has no interval and why, and groups."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.params import Evaluate, Params
from tumorboard.base.tables import Predictions, make_predictions
from tumorboard.evaluation.by_group import group_predictions
from tumorboard.evaluation.calibration import calibration_scores
from tumorboard.evaluation.intervals import intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.proportions import rate_by_group
from tumorboard.evaluation.summary import (
    OF_PROBABILITIES,
    OPERATING_SCORES,
    SUMMARY_SCORES,
    Judging,
    judging_of,
    mean_and_spread,
    summarize,
)


@pytest.fixture
def judging(params: Params) -> Judging:
    evaluate = Evaluate(**dict(params.evaluate) | {"bootstrap": 30, "confidence": 0.9, "by_patient": "mean"})
    return Judging(evaluate=evaluate, seed=4, unit="patient", positive="ill")


def table(seed: int = 0, groups: int = 30, size: int = 3, classes: tuple[str, ...] = ("well", "ill")) -> Predictions:
    """Rows of `groups` patients, each of one class, whose probabilities are right three times in four."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups) % len(classes), size)
    logits = generator.normal(size=(len(labels), len(classes))) + 1.3 * np.eye(len(classes))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = pd.DataFrame({"id": [f"i{row:03d}" for row in range(len(labels))]})
    rows["group"] = [f"p{row // size}" for row in range(len(labels))]
    rows = rows.assign(split="val", label=[classes[label] for label in labels])
    return make_predictions(rows, probabilities, list(classes), "digest")


def test_scores_and_intervals_are_those_of_the_functions_that_compute_them(judging: Judging) -> None:
    rows = table()
    summary = summarize(rows, judging)
    every = intervals(rows, 0.9, 4, bootstrap=30, unit="patient")
    for name in SUMMARY_SCORES:
        assert summary[name] == pytest.approx(scores(rows)[name])
        assert (summary[f"{name}_low"], summary[f"{name}_high"]) == (every[f"{name}_low"], every[f"{name}_high"])
        assert summary[f"{name}_low"] < summary[name] < summary[f"{name}_high"]
    assert (summary["images"], summary["groups"]) == (90, 30)
    calibration = calibration_scores(rows, positive="ill")
    assert summary["calibration_slope"] == calibration["calibration_slope"]
    assert summary["calibration_intercept"] == calibration["calibration_intercept"]
    assert not [name for name in summary if name.endswith("_method")], "each has an interval"
    other = summarize(rows, dataclasses.replace(judging, seed=5))
    assert other["accuracy_low"] == summary["accuracy_low"]
    assert other["brier_low"] != summary["brier_low"] or other["brier_high"] != summary["brier_high"], "bootstrap"


def test_a_vote_of_shares_has_no_scores_of_probabilities(judging: Judging) -> None:
    at_half = np.full(90, 0.5)
    summary = summarize(table(), judging, probabilities=False, thresholds=at_half)
    full = summarize(table(), judging, thresholds=at_half)
    assert not [name for name in summary if name.startswith((*OF_PROBABILITIES, "calibration"))]
    assert summary.items() >= {name: full[name] for name in ("accuracy", "f1", "sensitivity", "npv_low")}.items()
    assert not set(OF_PROBABILITIES) & set(summary["by_group"])
    assert "accuracy" in summary["by_group"]


def test_the_threshold_of_each_row_decides_sensitivity_and_specificity_alone(judging: Judging) -> None:
    rows = table()
    thresholds = np.where(np.arange(90) % 2, 0.3, 0.7)
    thresholds[:10] = np.nan
    summary = summarize(rows, judging, thresholds=thresholds)
    plain = summarize(rows, judging, thresholds=np.full(90, np.nan))
    assert not set(OPERATING_SCORES) & set(summarize(rows, judging)), "a table that no threshold decides"
    ill, p = (rows["label"] == "ill").to_numpy(), rows["p_ill"].to_numpy()
    called = p >= np.where(np.isnan(thresholds), 0.5, thresholds)
    assert summary["sensitivity"] == pytest.approx(called[ill].mean())
    assert summary["specificity"] == pytest.approx((~called)[~ill].mean())
    assert summary["ppv"] == pytest.approx(ill[called].mean())
    assert summary["npv"] == pytest.approx((~ill)[~called].mean())
    changed = {name for name in plain if plain[name] != summary[name] and not isinstance(plain[name], dict)}
    assert {name.removesuffix("_low").removesuffix("_high") for name in changed} <= {
        *OPERATING_SCORES,
        "decided_accuracy",
    }
    assert summary["decided_accuracy"] == pytest.approx((called == ill).mean())
    hits = rate_by_group(called == ill, rows["group"].to_numpy(object), judging.evaluate.confidence, judging.unit)
    assert (summary["decided_accuracy_low"], summary["decided_accuracy_high"]) == (hits.low, hits.high)
    assert summary["decisions"] == {
        "true_positives": int((called & ill).sum()),
        "false_negatives": int((~called & ill).sum()),
        "false_positives": int((called & ~ill).sum()),
        "true_negatives": int((~called & ~ill).sum()),
    }
    assert "sensitivity" in changed
    assert plain["sensitivity"] == pytest.approx((p >= 0.5)[ill].mean())
    turned = summarize(rows, dataclasses.replace(judging, positive="well"), thresholds=np.full(90, np.nan))
    assert turned["sensitivity"] == pytest.approx(plain["specificity"])


def test_without_a_positive_class_there_is_no_sensitivity(judging: Judging) -> None:
    summary = summarize(table(classes=("a", "b", "c")), dataclasses.replace(judging, positive=None))
    assert not set(OPERATING_SCORES) & set(summary)
    assert not {"precision", "recall"} & set(summary), "means over classes would pose as a decision's"
    assert set(SUMMARY_SCORES) <= set(summary)


def test_where_there_is_no_interval_the_method_says_why(judging: Judging) -> None:
    summary = summarize(table(groups=8), judging, thresholds=np.full(24, 0.5))
    for name in ("accuracy", "auc", "sensitivity", "npv"):
        assert summary[name] is not None
        assert summary[f"{name}_low"] is summary[f"{name}_high"] is None
        assert re.fullmatch(r"too few patients for an interval \(\d\)", summary[f"{name}_method"])
    nobody_said = summarize(table(groups=8), dataclasses.replace(judging, unit=None))
    assert nobody_said["accuracy_method"] == "too few groups for an interval (8)"


def test_an_undefined_score_is_none_and_says_so(judging: Judging) -> None:
    rows = table()
    one_class = rows[rows["label"] == "well"].reset_index(drop=True)
    summary = summarize(one_class, judging, thresholds=np.full(len(one_class), 0.5))
    assert summary["auc"] is summary["sensitivity"] is None
    assert summary["auc_method"] == "undefined"
    assert "sensitivity_method" in summary
    assert summary["specificity"] is not None
    assert summary["by_group"] == {"reason": "every patient has an image of 'well'"}


def test_held_out_rows_have_no_auc_where_a_class_has_fewer_than_ten_patients(judging: Judging) -> None:
    for rows, ranked in ((table(groups=20), True), (table(groups=19), False)):  # 10 and 9 patients are ill
        alike, held_out = summarize(rows, judging), summarize(rows, judging, held_out=True)
        lost = {} if ranked else {"auc": None, "auc_low": None, "auc_high": None}
        if not ranked:
            lost["auc_method"] = "too few patients of 'ill' to rank held-out images (9)"
        assert alike["auc"] > 0.5
        assert alike.pop("by_group") | lost == held_out.pop("by_group")
        assert alike | lost == held_out
        spread = mean_and_spread([table(), rows], held_out=True)
        assert (spread["auc_mean"] > 0.5, spread["accuracy_mean"] > 0.5) == (ranked, True)
    one_class = table(groups=19).query("label == 'well'")
    assert summarize(one_class, judging, held_out=True)["auc_method"] == summarize(one_class, judging)["auc_method"]
    shares = summarize(table(groups=19), judging, probabilities=False, held_out=True)
    assert not [name for name in shares if name.startswith("auc")]


def test_groups_are_scored_as_rows_where_their_images_can_be_taken_together(judging: Judging) -> None:
    rows = table()
    summary = summarize(rows, judging)["by_group"]
    by_patient = group_predictions(rows, "mean", positive="ill", unit="patient")
    assert summary["groups"] == 30
    assert summary["accuracy"] == pytest.approx(scores(by_patient)["accuracy"])
    assert summary["auc_low"] == intervals(by_patient, 0.9, 4, bootstrap=30, unit="patient")["auc_low"]
    worst = dataclasses.replace(judging, evaluate=judging.evaluate.model_copy(update={"by_patient": "worst"}))
    expected = scores(group_predictions(rows, "worst", positive="ill"))
    assert summarize(rows, worst)["by_group"]["accuracy"] == pytest.approx(expected["accuracy"])


def test_images_that_cannot_be_taken_together_have_a_reason_and_no_scores(judging: Judging) -> None:
    alone = summarize(table(size=1), judging)["by_group"]
    assert alone == {"reason": "each image is its own patient"}
    rows = table(classes=("a", "b", "c"))
    rows.loc[0, "label"] = "b"
    mixed = summarize(rows, dataclasses.replace(judging, positive=None, unit="smear"))["by_group"]
    assert list(mixed) == ["reason"]
    assert mixed["reason"].startswith("1 of 30 smears have images of several classes, such as p0: no smear has a label")
    of_one = table().assign(group="p0")
    assert summarize(of_one, judging)["by_group"] == {"reason": "every patient has an image of 'ill'"}


def test_rows_without_a_label_and_no_rows_are_refused(judging: Judging) -> None:
    rows = table()
    rows.loc[3, "label"] = ""
    with pytest.raises(InputError, match="id 'i003' has no label"):
        summarize(rows, judging)
    with pytest.raises(InputError, match="the table has no rows"):
        summarize(rows[:0], judging)


def test_the_order_of_rows_changes_nothing(judging: Judging) -> None:
    rows, thresholds = table(), np.linspace(0.2, 0.8, 90)
    order = np.random.default_rng(1).permutation(90)
    one = summarize(rows, judging, thresholds=thresholds)
    two = summarize(rows.iloc[order].reset_index(drop=True), judging, thresholds=thresholds[order])
    by_group = one.pop("by_group"), two.pop("by_group")
    assert one.pop("decisions") == two.pop("decisions")
    assert two == pytest.approx(one, rel=1e-9)
    assert by_group[1] == pytest.approx(by_group[0], rel=1e-9)


def test_how_a_study_is_judged_follows_from_params(params: Params) -> None:
    judging = judging_of(params)
    assert (judging.evaluate, judging.seed) == (params.evaluate, params.seed)
    assert (judging.unit, judging.positive) == (params.data.unit, params.data.positive)


def test_folds_have_a_mean_and_a_spread() -> None:
    folds = [table(seed) for seed in range(3)]
    spread = mean_and_spread(folds)
    assert list(spread) == [f"{name}_{statistic}" for name in SUMMARY_SCORES for statistic in ("mean", "sd")]
    for name in SUMMARY_SCORES:
        values = [scores(fold)[name] for fold in folds]
        assert spread[f"{name}_mean"] == pytest.approx(np.mean(values))
        assert spread[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1))
    one_class = folds[0][folds[0]["label"] == "ill"]
    undefined = mean_and_spread([folds[1], one_class])
    assert np.isnan([undefined["auc_mean"], undefined["auc_sd"]]).all()
    assert np.isfinite(undefined["accuracy_sd"])
    shares = mean_and_spread(folds, probabilities=False)
    assert shares == {name: value for name, value in spread.items() if not name.startswith(OF_PROBABILITIES)}
    assert len(shares) == 6


@pytest.mark.parametrize("positive", ["well", "ill"])
def test_without_a_threshold_a_tie_is_decided_for_the_first_class_as_in_the_accuracy(
    judging: Judging, positive: str
) -> None:
    """Two of four images of either class are even: 'well', which comes first, gets them."""
    labels = ["well"] * 4 + ["ill"] * 4
    rows = pd.DataFrame({"id": list("abcdefgh"), "group": list("abcdefgh"), "split": "val", "label": labels})
    well = np.array([0.9, 0.9, 0.5, 0.5, 0.1, 0.1, 0.5, 0.5])
    even = make_predictions(rows, np.stack([well, 1 - well], 1), ["well", "ill"], "digest")
    summary = summarize(even, dataclasses.replace(judging, positive=positive), thresholds=np.full(8, np.nan))
    assert summary["accuracy"] == summary["decided_accuracy"] == 0.75
    rates = {"well": 1.0, "ill": 0.5}
    assert (summary["sensitivity"], summary["specificity"]) == (rates.pop(positive), *rates.values())


def test_decisions_by_hand_beside_those_by_the_more_probable_class(judging: Judging) -> None:
    """Four ill images of p .9 .6 .35 .32 and four well ones of p .8 .4 .2 .05; the threshold is .3, then .7.

    By the more probable class 2 + 3 of 8 are right, by the thresholds 4 + 2 and 1 + 3.
    """
    p = np.array([0.9, 0.6, 0.35, 0.32, 0.8, 0.4, 0.2, 0.05])
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(8)], "group": [f"g{k}" for k in range(8)], "split": "test"})
    rows["label"] = ["ill"] * 4 + ["well"] * 4
    predictions = make_predictions(rows, np.stack([p, 1 - p], 1), ["ill", "well"], "digest")
    low, high = (summarize(predictions, judging, thresholds=np.full(8, threshold)) for threshold in (0.3, 0.7))
    assert [*low["decisions"].values()] == [4, 0, 2, 2]
    assert [*high["decisions"].values()] == [1, 3, 1, 3]
    assert (low["accuracy"], low["decided_accuracy"], low["sensitivity"], low["specificity"]) == (
        5 / 8,
        6 / 8,
        1,
        2 / 4,
    )
    assert (high["accuracy"], high["decided_accuracy"]) == (5 / 8, 4 / 8)
    assert low["decided_accuracy_method"] == "too few patients for an interval (8)"
