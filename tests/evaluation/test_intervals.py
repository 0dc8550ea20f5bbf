import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.intervals import concentration_warning, intervals, precision_statement
from tumorboard.evaluation.metrics import scores

CLASSES = ["a", "b", "c"]


def predictions(n, groups, seed=0, classes=CLASSES):
    """Returns random rows whose probabilities have few different values, so that there are ties."""
    generator = np.random.default_rng(seed)
    actual = generator.choice(len(classes), n)
    odds = generator.normal(size=(n, len(classes))).round(0) + np.eye(len(classes))[actual]
    labels = np.array(classes, dtype=object)[actual]
    groups = [f"g{k}" for k in generator.integers(groups, size=n)]
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(n)], "group": groups, "split": "test", "label": labels})
    return make_predictions(rows, np.exp(odds) / np.exp(odds).sum(1, keepdims=True), classes, "digest")


def binary(labels, right, groups):
    """Returns rows of classes a and b; right rows have probability .8 for their label, the others .3."""
    labels, right = np.array(labels, dtype=object), np.array(right, dtype=bool)
    p = np.where(right, 0.8, 0.3)
    p_a = np.where(labels == "a", p, 1 - p)
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(len(labels))], "group": groups, "split": "test"})
    rows["label"] = labels
    return make_predictions(rows, np.stack([p_a, 1 - p_a], 1), ["a", "b"], "digest")


def ends(result, score):
    return result[f"{score}_low"], result[f"{score}_high"]


def test_values_are_those_of_scores_and_every_score_has_four_keys():
    table = predictions(200, 30)
    result, expected = intervals(table, bootstrap=20), scores(table)
    named = {name for name in expected if not name.startswith(("images", "support"))}
    assert set(result) == {f"{name}{end}" for name in named for end in ("", "_low", "_high", "_method")}
    for name in named:
        assert result[name] == pytest.approx(expected[name], abs=1e-12), name
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"], name


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_proportions_of_independent_images_have_clopper_and_pearsons_interval(confidence):
    table = predictions(173, 1)
    table["group"] = table["id"]
    result = intervals(table, confidence, bootstrap=0)
    decided = np.array(CLASSES)[table[["p_a", "p_b", "p_c"]].to_numpy().argmax(1)]
    actual = table["label"].to_numpy()
    for score, hits, images in (
        ("accuracy", (decided == actual).sum(), 173),
        ("recall_b", ((decided == "b") & (actual == "b")).sum(), (actual == "b").sum()),
        ("specificity_c", ((decided != "c") & (actual != "c")).sum(), (actual != "c").sum()),
        ("precision_a", ((decided == "a") & (actual == "a")).sum(), (decided == "a").sum()),
    ):
        exact = proportion_confint(hits, images, alpha=1 - confidence, method="beta")
        assert ends(result, score) == pytest.approx(exact, abs=1e-9), score
        low, high = scipy.stats.binomtest(int(hits), int(images)).proportion_ci(confidence)
        assert ends(result, score) == pytest.approx((low, high), abs=1e-9), score


def test_korn_and_graubards_interval_by_hand():
    """Ten patients with 4 images; two of them have no right image, the others no wrong one: variance p q / 9."""
    right = np.repeat([0, 0, 1, 1, 1, 1, 1, 1, 1, 1], 4)
    table = binary(["a", "a", "b", "b"] * 10, right, np.repeat([f"p{k}" for k in range(10)], 4))
    result = intervals(table, bootstrap=0)
    design_effect = (0.16 / 9) / (0.16 / 39)
    effective = 40 / design_effect * (scipy.stats.t.ppf(0.975, 39) / scipy.stats.t.ppf(0.975, 9)) ** 2
    low = scipy.stats.beta.ppf(0.025, 0.8 * effective, 0.2 * effective + 1)
    high = scipy.stats.beta.ppf(0.975, 0.8 * effective + 1, 0.2 * effective)
    assert ends(result, "accuracy") == pytest.approx((low, high))
    # Balanced accuracy has the same variance here: each patient has as many images of both classes.
    half = scipy.stats.t.ppf(0.975, 9) * math.sqrt(0.16 / 9) / 0.16
    expected = [1 / (1 + math.exp(-(math.log(4) + sign * half))) for sign in (-1, 1)]
    assert ends(result, "balanced_accuracy") == pytest.approx(tuple(expected))
    assert (result["accuracy_method"], result["balanced_accuracy_method"]) == ("Korn-Graubard", "logit-t")


def test_groups_without_differences_are_not_more_exact_than_independent_images():
    """Each patient has one mistake in five images, so no variance is seen between patients."""
    table = binary(["a", "b", "a", "b", "a"] * 20, [1, 1, 1, 1, 0] * 20, np.repeat([f"p{k}" for k in range(20)], 5))
    result = intervals(table, bootstrap=0)
    assert ends(result, "accuracy") == pytest.approx(proportion_confint(80, 100, method="beta"))
    low, high = ends(result, "f1")
    assert high - low > 0.1


def test_the_lower_end_of_an_auc_allows_for_an_image_ranked_by_chance():
    """40 images of their own patients, 20 of each class; one of class a is ranked below all but four of class b."""
    score = np.append(np.linspace(2, 3, 20), np.linspace(0, 1, 20))
    score[0] = 0.19  # above the 4 lowest of b, of which 16 lie above it
    rows = pd.DataFrame({"id": [f"i{k}" for k in range(40)], "group": [f"p{k}" for k in range(40)], "split": "test"})
    rows["label"] = ["a"] * 20 + ["b"] * 20
    p = 1 / (1 + np.exp(-score))
    result = intervals(make_predictions(rows, np.stack([p, 1 - p], 1), ["a", "b"], "digest"), bootstrap=0)
    places = [np.array([4 / 20] + [1.0] * 19), np.array([1.0] * 4 + [19 / 20] * 16)]
    auc = 1 - 16 / 400
    assert result["auc"] == pytest.approx(auc)
    variances = np.array([place.var(ddof=1) / 20 for place in places])
    simple = sum(np.square(place - auc).sum() / 400 for place in places)
    degrees = variances.sum() ** 2 / (variances**2 / 19).sum()
    half = scipy.stats.t.ppf(0.975, degrees) * math.sqrt(variances.sum())

    def end(center, sign):
        return scipy.special.expit(scipy.special.logit(center) + sign * half / (center * (1 - center)))

    lowered = auc - 0.5 / 20 * variances.sum() / simple
    assert result["auc_high"] == pytest.approx(end(auc, 1))
    assert result["auc_low"] == pytest.approx(min(end(auc, -1), end(lowered, -1)))


def test_copies_of_an_image_in_its_group_are_no_further_evidence():
    ten = predictions(60, 1)
    ten["group"] = ten["id"]
    copies = pd.concat([ten.assign(id=ten["id"] + f"/{k}") for k in range(30)], ignore_index=True)
    result, single = intervals(copies, bootstrap=0), intervals(ten, bootstrap=0)
    for score in ("balanced_accuracy", "f1", "f1_b", "precision", "auc", "auc_c", "brier", "loss"):
        assert ends(result, score) == pytest.approx(ends(single, score)), score
    low, high = ends(single, "accuracy")
    assert result["accuracy_low"] < low < high < result["accuracy_high"]


def test_order_of_rows_and_of_classes_do_not_matter_and_the_seed_does():
    table = predictions(240, 12)
    table["group"] = [f"p{k // 20}" for k in range(240)]
    # Without ties, which the order of the classes decides.
    noise = 1 + np.random.default_rng(0).uniform(0, 1e-4, (240, 3))
    table[["p_a", "p_b", "p_c"]] *= noise
    first = intervals(table, seed=1, bootstrap=100)
    numbers = {name: value for name, value in first.items() if isinstance(value, float)}
    shuffled = intervals(table.sample(frac=1, random_state=0), seed=1, bootstrap=100)
    turned = table[["id", "group", "split", "label", "p_c", "p_a", "p_b", "manifest"]]
    for other in (shuffled, intervals(turned, seed=1, bootstrap=100)):
        assert {name: other[name] for name in numbers} == pytest.approx(numbers)
    second = intervals(table, seed=2, bootstrap=100)
    differing = {name for name in first if first[name] != second[name]}
    assert {name.split("_")[0] for name in differing} <= {"loss", "brier"}
    assert "loss_high" in differing


def test_without_a_mistake_the_interval_is_one_sided_by_group():
    groups = np.repeat([f"p{k}" for k in range(15)], 6)
    table = binary(["a", "b"] * 45, [1] * 90, groups)
    result = intervals(table, unit="patient")
    for score in ("accuracy", "balanced_accuracy", "recall_a", "specificity_b", "precision", "f1_b", "auc"):
        assert result[score] == 1
        assert ends(result, score) == pytest.approx((0.05 ** (1 / 15), 1)), score
        assert result[f"{score}_method"] == "one-sided, by patient"
    assert result["loss_low"] is None
    assert result["loss_method"] == "no interval: the images of each class do not differ"
    wrong = intervals(binary(["a", "b"] * 45, [0] * 90, groups), confidence=0.9)
    assert ends(wrong, "accuracy") == pytest.approx((0, 1 - 0.1 ** (1 / 15)))
    assert wrong["accuracy_method"] == "one-sided, by group"
    assert wrong["auc"] == 0
    share = 1 - 0.1 ** (1 / 15)  # right ones of 100 images that are or are called a: F1 = 2 * 14.2 / (100 + 14.2)
    assert ends(wrong, "f1_a") == pytest.approx((0, 2 * share / (1 + share)))
    assert ends(wrong, "f1_a")[1] == pytest.approx(0.2492, abs=1e-4)
    assert ends(wrong, "f1") == pytest.approx((0, share))


def test_the_one_sided_bound_counts_the_groups_of_the_class():
    """Three patients in ten have class b: its sensitivity has no interval, the other class's the bound of ten."""
    labels = np.array(["a", "a"] * 10)
    labels[[1, 3, 5]] = "b"
    result = intervals(binary(labels, [1] * 20, np.repeat([f"p{k}" for k in range(10)], 2)), unit="patient")
    assert ends(result, "recall_a") == pytest.approx((0.05**0.1, 1))
    assert ends(result, "specificity_b") == pytest.approx((0.05**0.1, 1))
    for score in ("recall_b", "precision_b", "f1_b", "auc", "f1", "balanced_accuracy"):
        assert ends(result, score) == (None, None)
        assert result[f"{score}_method"] == "too few patients for an interval (3)"
        assert result[score] == 1


@pytest.mark.parametrize(("unit", "text"), [("smear", "smears"), (None, "groups")])
def test_few_groups_have_no_interval(unit, text):
    result = intervals(predictions(400, 9), unit=unit)
    for name, value in result.items():
        if name.endswith("_method"):
            assert value == f"too few {text} for an interval (9)"
        elif name.endswith(("_low", "_high")):
            assert value is None
        else:
            assert math.isfinite(value)


def test_a_single_group_and_a_single_image_have_values_only():
    for table in (predictions(30, 1), predictions(1, 1)):
        result = intervals(table)
        assert result["accuracy"] == scores(table)["accuracy"]
        assert result["accuracy_low"] is result["loss_high"] is None
        assert not any(isinstance(value, float) and math.isnan(value) for value in result.values())


def test_an_absent_class_leaves_its_scores_and_the_means_undefined():
    table = predictions(300, 30).query("label != 'c'")
    result = intervals(table, bootstrap=0)
    for score in ("recall_c", "auc_c", "recall", "balanced_accuracy", "auc"):
        assert [result[f"{score}{end}"] for end in ("", "_low", "_high", "_method")] == [None, None, None, "undefined"]
    assert result["specificity_c_low"] < result["specificity_c"]
    assert result["accuracy_low"] < result["accuracy"] < result["accuracy_high"]


def test_one_class_alone_leaves_accuracy_recall_brier_and_loss():
    table = predictions(100, 20).query("label == 'a'")
    result = intervals(table)
    defined = {name for name in result if name.endswith("_low") and result[name] is not None}
    assert {"accuracy_low", "recall_a_low", "loss_low", "brier_low"} <= defined
    assert result["specificity_a"] is result["auc_a"] is None


def test_constant_predictions_have_no_interval_of_auc_or_loss():
    table = predictions(100, 20, classes=["a", "b"]).assign(p_a=0.5, p_b=0.5)
    result = intervals(table)
    for score in ("auc", "loss", "brier", "balanced_accuracy"):
        assert ends(result, score) == (None, None)
        assert result[f"{score}_method"] == "no interval: the images of each class do not differ"
    assert result["accuracy_low"] is not None


def test_an_unequal_share_of_the_images_widens_the_interval():
    generator = np.random.default_rng(0)
    right = generator.random(600) < 0.8
    equal = np.arange(600) % 30
    giant = np.where(np.arange(600) < 260, 0, 1 + np.arange(600) % 29)
    widths = []
    for groups in (equal, giant):
        low, high = ends(intervals(binary(["a", "b"] * 300, right, [f"p{k}" for k in groups])), "balanced_accuracy")
        widths.append(high - low)
    assert widths[1] > 1.3 * widths[0]


def test_interval_of_the_loss_by_hand_and_what_the_bootstrap_adds():
    table = predictions(240, 12)
    table["group"] = [f"p{k // 20}" for k in range(240)]  # equally large
    alone, both = intervals(table, bootstrap=0), intervals(table, bootstrap=400)
    chosen = table[["p_a", "p_b", "p_c"]].to_numpy()[np.arange(240), table["label"].map(CLASSES.index)]
    by_group = (-np.log(chosen)).reshape(12, 20).mean(1)
    error = by_group.std(ddof=1) / math.sqrt(12) / by_group.mean() * scipy.stats.t.ppf(0.975, 11)
    independent = np.log(chosen).std() / math.sqrt(240) / by_group.mean() * scipy.stats.t.ppf(0.975, 239)
    assert error > independent
    center = math.log(by_group.mean())
    assert ends(alone, "loss") == pytest.approx((math.exp(center - error), math.exp(center + error)))
    assert both["loss_low"] <= alone["loss_low"] < alone["loss_high"] <= both["loss_high"]
    assert math.log(both["loss_high"]) - center <= 1.5 * error + 1e-9
    assert ends(both, "loss") != ends(alone, "loss")
    assert (alone["loss_method"], both["brier_method"]) == ("log-t", "logit-t and bootstrap")
    assert ends(alone, "accuracy") == ends(both, "accuracy")


def test_brier_score_keeps_its_range_of_0_to_2():
    generator = np.random.default_rng(0)
    right = generator.random(120) < 0.02
    table = binary(["a", "b"] * 60, right, [f"p{k}" for k in range(120)])
    table[["p_a", "p_b"]] = (table[["p_a", "p_b"]] > 0.5).astype(float)
    result = intervals(table, bootstrap=50)
    assert result["brier"] == pytest.approx(2 * (1 - right.mean()))
    assert result["brier_low"] > 1.5
    assert result["brier"] < result["brier_high"] < 2


def test_intervals_contain_the_truth_as_often_as_they_claim():
    """15 patients with 12 images and an effect of .6 on the logit scale; the mean accuracy is known from quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    truth = (weights / weights.sum()) @ scipy.special.expit(1.2 + 0.6 * points)
    generator = np.random.default_rng(5)
    groups = np.repeat([f"p{k:02}" for k in range(15)], 12)
    missed = []
    for _ in range(120):
        chance = scipy.special.expit(1.2 + np.repeat(generator.normal(0, 0.6, 15), 12))
        result = intervals(binary(["a", "b"] * 90, generator.random(180) < chance, groups), bootstrap=0)
        missed.append(
            [not result[f"{s}_low"] <= truth <= result[f"{s}_high"] for s in ("accuracy", "balanced_accuracy")]
        )
    share = np.mean(missed, axis=0)
    assert (share < 0.09).all()
    assert share.min() > 0


def test_empty_tables_and_unlabeled_rows_are_refused():
    table = predictions(20, 10)
    with pytest.raises(InputError, match="no rows"):
        intervals(table[:0])
    table.loc[3, "label"] = ""
    with pytest.raises(InputError, match="id 'i3' has no label"):
        intervals(table)


def test_precision_statement():
    result = {"accuracy": 0.97, "accuracy_low": 0.956, "accuracy_high": 0.98}
    assert precision_statement(result, 400) == "400 groups: this run can tell differences of about 1.2 points"
    none = {"accuracy": 0.97, "accuracy_low": None, "accuracy_high": None}
    assert precision_statement(none, 7, "patient") == "7 patients: too few to tell any difference"
    assert precision_statement(none, 1, "smear") == "1 smear: too few to tell any difference"


def test_concentration_is_named_from_a_third_up():
    def table(largest, others):
        return pd.DataFrame({"group": ["p"] * largest + [f"q{k}" for k in range(others)]})

    assert concentration_warning(table(10, 20), "slide") == "one slide has 33 % of the images"
    assert concentration_warning(table(10, 21)) == ""
    assert concentration_warning(table(5, 0)) == "one group has 100 % of the images"
    assert concentration_warning(table(0, 0)) == ""
