import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from tumorboard.base.errors import InputError
from tumorboard.base.params import AtCost, AtSensitivity, AtSpecificity, Cost
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.operating_point import choose_threshold, decide, decision_curve, operating_scores


def predictions(positive, probability, groups=None, first=False):
    """Returns Predictions of the classes 'ill' and 'well'; `first`: whether ill is the first of them."""
    ids = [f"i{k}" for k in range(len(probability))]
    rows = pd.DataFrame({"id": ids, "group": ids if groups is None else groups, "split": "val"})
    rows["label"] = np.where(positive, "ill", "well")
    ill = np.array(probability, dtype=float)
    columns, names = ([ill, 1 - ill], ["ill", "well"]) if first else ([1 - ill, ill], ["well", "ill"])
    return make_predictions(rows, np.stack(columns, 1), names, "digest")


LABELS = [0, 0, 1, 0, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.6, 0.8, 0.9]


def cost(false_negative, false_positive):
    return AtCost(cost=Cost(false_negative=false_negative, false_positive=false_positive))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, 0.5),
        # J by threshold: 0: 0; .15: 1/3; .25: 2/3; .45: 1/3; .7: 2/3; .85: 1/3. At the tie the lower one.
        ("youden", 0.25),
        (AtSensitivity(sensitivity=0.99), 0.25),
        (AtSensitivity(sensitivity=2 / 3), 0.7),
        (AtSensitivity(sensitivity=0.5), 0.7),
        (AtSensitivity(sensitivity=0.01), 0.85),
        (AtSpecificity(specificity=0.99), 0.7),
        (AtSpecificity(specificity=2 / 3), 0.25),
        (AtSpecificity(specificity=0.01), 0.15),
        (cost(10, 1), 0.25),  # one false alarm
        (cost(1, 10), 0.7),  # one miss
        (cost(1, 1), 0.25),  # one mistake at .25 as at .7
        (cost(0.1, 0.3), 0.7),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_thresholds_by_hand(rule, expected, first):
    table = predictions(LABELS, SCORES, first=first)
    assert choose_threshold(table, "ill", rule) == pytest.approx(expected)
    shuffled = table.sample(frac=1, random_state=3)
    assert choose_threshold(shuffled, "ill", rule) == choose_threshold(table, "ill", rule)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["youden", AtSensitivity(sensitivity=0.8), AtSpecificity(specificity=0.8), cost(3, 1)])
def test_no_other_threshold_is_better(rule, seed):
    generator = np.random.default_rng(seed)
    positive = generator.uniform(size=50) < 0.4
    score = (generator.uniform(size=50) / 2 + positive * 0.3).round(1)  # with ties
    threshold = choose_threshold(predictions(positive, score), "ill", rule)

    def rates(cut):
        called = score >= cut
        return (
            called[positive].mean(),
            (~called[~positive]).mean(),
            (~called & positive).sum(),
            (called & ~positive).sum(),
        )

    sensitivity, specificity, misses, alarms = rates(threshold)
    for cut in np.arange(-0.05, 1.2, 0.1):
        other = rates(cut)
        if rule == "youden":
            assert other[0] + other[1] <= sensitivity + specificity + 1e-12
        elif isinstance(rule, AtSensitivity):
            assert sensitivity >= 0.8
            assert other[0] < 0.8 or other[1] <= specificity
        elif isinstance(rule, AtSpecificity):
            assert specificity >= 0.8
            assert other[1] < 0.8 or other[0] <= sensitivity
        else:
            assert other[2] * 3 + other[3] >= misses * 3 + alarms
    assert not (score == threshold).any()


@pytest.mark.parametrize(("sensitivity", "positives"), [(0.95, 20), (0.95, 60), (0.55, 20), (0.07, 100)])
def test_whole_numbers_of_images_reach_a_sensitivity_exactly(sensitivity, positives):
    """0.55 * 20 is 11.000000000000002 in floating point, and 11 of 20 are enough."""
    labels = [1] * positives + [0]
    score = np.linspace(0.9, 0.1, positives + 1)
    rule = AtSensitivity(sensitivity=sensitivity)
    threshold = choose_threshold(predictions(labels, score), "ill", rule)
    assert decide(score[:positives], threshold).sum() == round(sensitivity * positives)
    healthy = predictions([0] * positives + [1], 1 - score)
    threshold = choose_threshold(healthy, "ill", AtSpecificity(specificity=sensitivity))
    assert (~decide(1 - score[:positives], threshold)).sum() == round(sensitivity * positives)


def test_ends_call_all_or_no_image_positive():
    reversed_labels = predictions([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9])
    assert choose_threshold(reversed_labels, "ill", "youden") == 0  # worse than chance everywhere else
    assert choose_threshold(reversed_labels, "ill", AtSpecificity(specificity=0.9)) == pytest.approx(0.95)
    saturated = predictions([1, 0, 0], [0.0, 1.0, 1.0])
    above = choose_threshold(saturated, "ill", AtSpecificity(specificity=0.9))
    assert not decide(np.array([1.0]), above).any()
    assert decide(np.array([0.0]), choose_threshold(saturated, "ill", AtSensitivity(sensitivity=0.9))).all()


def test_neighboring_floats_are_separated():
    low = 0.7
    high = np.nextafter(low, 1)
    threshold = choose_threshold(predictions([0, 1], [low, high]), "ill", "youden")
    assert decide(np.array([low, high]), threshold).tolist() == [False, True]
    tiny = np.nextafter(0.0, 1.0)
    threshold = choose_threshold(predictions([0, 1], [0.0, tiny]), "ill", "youden")
    assert decide(np.array([0.0, tiny]), threshold).tolist() == [False, True]


@pytest.mark.parametrize(
    ("labels", "rule", "missing"),
    [
        ([1, 1], "youden", "well"),
        ([0, 0], "youden", "ill"),
        ([0, 0], AtSensitivity(sensitivity=0.9), "ill"),
        ([1, 1], AtSpecificity(specificity=0.9), "well"),
        ([1, 1], cost(1, 1), "well"),
    ],
)
def test_a_class_without_images_is_named(labels, rule, missing):
    with pytest.raises(InputError, match=f"no image of class '{missing}' to choose evaluate.threshold on"):
        choose_threshold(predictions(labels, [0.4, 0.6]), "ill", rule)


def test_rules_need_only_the_class_that_they_count():
    assert choose_threshold(predictions([1, 1], [0.4, 0.6]), "ill", AtSensitivity(sensitivity=0.5)) == pytest.approx(
        0.5
    )
    assert choose_threshold(predictions([0, 0], [0.4, 0.6]), "ill", AtSpecificity(specificity=0.9)) == pytest.approx(
        0.8
    )


def test_a_positive_class_is_one_of_two():
    rows = pd.DataFrame({"id": ["1"], "group": ["1"], "split": "val", "label": ["a"]})
    three = make_predictions(rows, np.full((1, 3), 1 / 3), ["a", "b", "c"], "digest")
    with pytest.raises(InputError, match="there are 3 classes \\(a, b, c\\)"):
        choose_threshold(three, "a", "youden")
    with pytest.raises(InputError, match=r"data.positive is 'x'.*a, b, c"):
        decision_curve(three, "x")


def test_scores_by_hand():
    result = operating_scores(predictions(LABELS, SCORES, first=True), "ill", 0.7)
    counts = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    assert [result[name] for name in counts] == [2, 1, 0, 3]
    assert result["sensitivity"] == pytest.approx(2 / 3)
    assert (result["specificity"], result["ppv"], result["npv"]) == (1, 1, 0.75)
    assert [result[f"{score}_images"] for score in ("sensitivity", "specificity", "ppv", "npv")] == [3, 3, 2, 4]
    assert result["threshold"] == 0.7
    assert result["sensitivity_low"] is None
    assert result["sensitivity_method"] == "too few groups for an interval (3)"


def test_scores_agree_with_scikit_learn_and_have_intervals():
    generator = np.random.default_rng(0)
    positive = generator.uniform(size=400) < 0.3
    score = np.clip(generator.normal(0.3, 0.2, 400) + positive * 0.3, 0, 1)
    groups = [f"p{k}" for k in generator.integers(80, size=400)]
    result = operating_scores(predictions(positive, score, groups), "ill", 0.45)
    (tn, fp), (fn, tp) = confusion_matrix(positive, score >= 0.45)
    assert result["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert result["specificity"] == pytest.approx(tn / (tn + fp))
    assert result["ppv"] == pytest.approx(tp / (tp + fp))
    assert result["npv"] == pytest.approx(tn / (tn + fn))
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
    ill_groups = {group for group, ill in zip(groups, positive, strict=True) if ill}
    assert result["sensitivity_groups"] == len(ill_groups)


def test_thresholds_may_differ_by_row():
    table = predictions([1, 1, 0, 0], [0.3, 0.6, 0.3, 0.6])
    result = operating_scores(table, "ill", np.array([0.2, 0.7, 0.4, 0.7]))
    assert (result["true_positives"], result["false_negatives"]) == (1, 1)
    assert (result["true_negatives"], result["false_positives"]) == (2, 0)
    assert result["threshold"] is None
    same = operating_scores(table, "ill", np.full(4, 0.5))
    assert same["threshold"] == 0.5


def test_what_has_no_denominator_is_undefined():
    result = operating_scores(predictions([1, 1], [0.1, 0.2]), "ill", 0.5)
    assert result["sensitivity"] == 0
    assert result["specificity"] is None
    assert result["ppv"] is None
    assert result["npv"] == 0


def test_an_image_on_the_threshold_is_positive():
    assert decide(np.array([0.4, 0.5, 0.6]), 0.5).tolist() == [False, True, True]
    assert decide(np.array([0.4, 0.5]), np.array([0.4, 0.6])).tolist() == [True, False]


def test_decision_curve_by_hand():
    """Six images, three ill. At t = 0.25, with a weight of 1/3: three detected and one false alarm: (3 - 1/3) / 6."""
    curve = decision_curve(predictions(LABELS, SCORES, first=True), "ill").set_index("threshold")
    assert curve.index.tolist() == [k / 100 for k in range(1, 100)]
    assert curve.loc[0.25, "model"] == pytest.approx((3 - 1 / 3) / 6)
    assert curve.loc[0.25, "all"] == pytest.approx((3 - 3 / 3) / 6)
    assert curve.loc[0.5, "model"] == pytest.approx((2 - 1) / 6)
    assert curve.loc[0.5, "all"] == pytest.approx(0)
    assert curve.loc[0.7, "model"] == pytest.approx(2 / 6)
    assert curve.loc[0.9, "model"] == pytest.approx(1 / 6)  # 0.9 itself is positive
    assert curve.loc[0.95, "model"] == 0
    assert curve.loc[0.8, "all"] == pytest.approx((3 - 3 * 4) / 6)
    assert curve["none"].eq(0).all()


def test_a_perfect_model_has_the_prevalence_as_benefit_throughout():
    curve = decision_curve(predictions([1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0]), "ill")
    assert curve["model"].to_numpy() == pytest.approx(np.full(99, 0.25))
