import math

import numpy as np
import pandas as pd
import pytest
import sklearn
import statsmodels.api as sm
from packaging.version import parse
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.calibration import TOP_LABEL, calibration_scores, equal_bins, reliability_table
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.temperature import COLDEST, GRID, HOTTEST, apply_temperature, fit_temperature


def draw(n, classes, temperature, spread=2.0, seed=0):
    """Returns probabilities that are too sure by `temperature`, and the labels that were drawn from the right ones."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, classes)) * spread
    right = softmax(logits, axis=1)
    actual = (generator.uniform(size=(n, 1)) > right.cumsum(1)[:, :-1]).sum(1)
    return softmax(logits * temperature, axis=1), actual


def predictions(probabilities, actual, groups=None):
    names = [f"c{k}" for k in range(probabilities.shape[1])]
    ids = [f"i{k}" for k in range(len(actual))]
    rows = pd.DataFrame({"id": ids, "group": ids if groups is None else groups, "split": "val"})
    return make_predictions(rows.assign(label=[names[k] for k in actual]), probabilities, names, "digest")


class Logits(ClassifierMixin, BaseEstimator):
    """Takes logits for inputs and returns them as its decision function."""

    def fit(self, logits, actual):
        self.shape_, self.classes_ = logits.shape, np.unique(actual)
        return self

    def predict(self, logits):
        return logits.argmax(1)

    def decision_function(self, logits):
        # scikit-learn makes logits -x and x of the x of two classes.
        return (logits[:, 1] - logits[:, 0]) / 2 if logits.shape[1] == 2 else logits


@pytest.mark.skipif(parse(sklearn.__version__) < parse("1.8"), reason="scikit-learn scales by a temperature since 1.8")
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_without_a_prior_it_is_scikit_learns_temperature(classes, temperature):
    probabilities, actual = draw(400, classes, temperature)
    logits = np.log(probabilities)
    frozen = FrozenEstimator(Logits().fit(logits, actual))
    oracle = CalibratedClassifierCV(frozen, method="temperature").fit(logits, actual)
    fitted = fit_temperature(probabilities, actual, prior_spread=math.inf)
    # scikit-learn searches with a tolerance of its own.
    assert fitted == pytest.approx(1 / oracle.calibrated_classifiers_[0].calibrators[0].beta_, rel=2e-3)
    assert apply_temperature(probabilities, fitted) == pytest.approx(oracle.predict_proba(logits), abs=2e-3)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_prior_hardly_matters_with_many_rows(temperature):
    probabilities, actual = draw(20_000, 3, temperature)
    assert fit_temperature(probabilities, actual) == pytest.approx(temperature, rel=0.05)
    flat = fit_temperature(probabilities, actual, prior_spread=math.inf)
    assert fit_temperature(probabilities, actual) == pytest.approx(flat, rel=0.003)


@pytest.mark.parametrize(
    ("sure", "right", "spread"), [(0.99, 80, math.log(2)), (0.6, 99, math.log(2)), (0.99, 80, 0.1)]
)
def test_the_temperature_minimizes_the_penalized_loss(sure, right, spread):
    """By brute force: a hundred images of one probability, of which `right` are right."""
    log_temperatures = np.linspace(math.log(COLDEST), math.log(HOTTEST), 100_001)
    odds = logit(sure) / np.exp(log_temperatures)
    loss = -right * np.log(expit(odds)) - (100 - right) * np.log(expit(-odds)) + log_temperatures**2 / (2 * spread**2)
    fitted = fit_temperature(
        np.array([[sure, 1 - sure]] * 100), np.repeat([0, 1], [right, 100 - right]), prior_spread=spread
    )
    assert fitted == pytest.approx(np.exp(log_temperatures[loss.argmin()]), rel=1e-3)


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("spread", [math.inf, math.log(2)])
def test_it_is_the_search_with_scipys_log_softmax_to_the_last_digit(spread, zeros):
    """The same grid and the same refinement, with the logarithms of all classes' probabilities."""
    generator = np.random.default_rng(4)
    for classes, rows in ((2, 30), (7, 1), (60, 200)):
        probabilities, actual = draw(rows, classes, 0.5, seed=rows)
        probabilities[generator.random(probabilities.shape) < zeros] = 0

        def cost(log_temperature, probabilities=probabilities, actual=actual):
            logarithms = np.log(np.maximum(probabilities, np.finfo(float).tiny)) / math.exp(log_temperature)
            chosen = log_softmax(logarithms, axis=1)[np.arange(len(actual)), actual]
            return -chosen.sum() + log_temperature**2 / (2 * spread**2)

        grid = np.linspace(math.log(COLDEST), math.log(HOTTEST), GRID)
        best = int(np.argmin([cost(point) for point in grid]))
        bounds = (grid[max(0, best - 1)], grid[min(GRID - 1, best + 1)])
        refined = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-9})
        least = min((*bounds, refined.x), key=cost)
        assert fit_temperature(probabilities, actual, prior_spread=spread) == float(f"{math.exp(least):.6g}")


def test_a_second_fit_finds_nothing_left_to_mend():
    probabilities, actual = draw(500, 4, 3.0)
    once = apply_temperature(probabilities, fit_temperature(probabilities, actual, prior_spread=math.inf))
    assert fit_temperature(once, actual, prior_spread=math.inf) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("probabilities", "actual"),
    [
        pytest.param([[0.8, 0.2]] * 50, [0] * 50, id="perfect and unsure"),
        pytest.param([[1.0, 0.0]] * 50, [0] * 50, id="perfect and saturated"),
        pytest.param([[1.0, 0.0]] * 50, [1] * 50, id="always wrong and saturated"),
        pytest.param([[0.7, 0.3]], [1], id="one row"),
        pytest.param([[0.5, 0.5]] * 9, [0, 1, 1] * 3, id="knows nothing"),
        pytest.param([[0.4, 0.3, 0.3]] * 9, [0] * 9, id="one class only"),
    ],
)
def test_extreme_rows_give_a_usable_temperature(probabilities, actual):
    probabilities = np.array(probabilities)
    temperature = fit_temperature(probabilities, np.array(actual))
    assert COLDEST <= temperature <= HOTTEST
    tempered = apply_temperature(probabilities, temperature)
    assert np.isfinite(tempered).all()
    assert tempered.sum(1) == pytest.approx(1)


def test_fifty_images_without_a_mistake_make_a_model_surer_but_not_certain():
    probabilities, actual = np.array([[0.8, 0.2]] * 50), np.zeros(50, dtype=int)
    assert fit_temperature(probabilities, actual, prior_spread=math.inf) == pytest.approx(COLDEST, rel=1e-6)
    surer = apply_temperature(probabilities, fit_temperature(probabilities, actual))[0, 0]
    assert 0.95 < surer < 0.999  # the rule of succession says 51 / 52


def test_a_saturated_model_without_a_mistake_stays_as_it_is():
    probabilities = softmax(np.array([[30.0, 0.0]] * 50), axis=1)
    assert fit_temperature(probabilities, np.zeros(50, dtype=int)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("rows", "sureness"), [(20, 2.5), (20, 1.0), (60, 1.0)])
def test_small_samples_lose_less_with_the_prior(rows, sureness):
    """Held-out loss, mean over 40 samples."""
    losses = {math.inf: 0.0, math.log(2): 0.0}
    for seed in range(40):
        probabilities, actual = draw(rows + 2000, 2, sureness, spread=5, seed=seed)
        for prior in losses:
            temperature = fit_temperature(probabilities[:rows], actual[:rows], prior_spread=prior)
            right = apply_temperature(probabilities[rows:], temperature)[np.arange(2000), actual[rows:]]
            losses[prior] -= np.log(np.maximum(right, 1e-300)).mean()
    assert losses[math.log(2)] < losses[math.inf] - 0.1


def test_the_order_of_rows_does_not_matter():
    probabilities, actual = draw(300, 3, 2.0)
    order = np.random.default_rng(1).permutation(300)
    assert fit_temperature(probabilities[order], actual[order]) == fit_temperature(probabilities, actual)


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no images to fit a temperature"):
        fit_temperature(np.empty((0, 2)), np.empty(0, dtype=int))


def test_temperature_one_changes_no_digit_and_returns_a_copy():
    probabilities, _ = draw(100, 3, 2.0)
    same = apply_temperature(probabilities, 1.0)
    assert (same == probabilities).all()
    same[0, 0] = 7
    assert probabilities[0, 0] != 7


def test_temperature_by_hand_with_a_zero():
    """At T = 2 each probability becomes its square root, normalized."""
    tempered = apply_temperature(np.array([[0.64, 0.36], [1.0, 0.0]]), 2.0)
    assert tempered[0] == pytest.approx([0.8 / 1.4, 0.6 / 1.4])
    assert tempered[1] == pytest.approx([1.0, np.sqrt(np.finfo(float).tiny)])
    assert tempered[1, 1] > 0


def test_reliability_agrees_with_scikit_learn():
    probabilities, actual = draw(500, 2, 2.0)
    table = reliability_table(predictions(probabilities, actual), positive="c1", bins=10)
    assert set(table["probability_of"]) == {TOP_LABEL, "c1"}
    mine = table[table["probability_of"] == "c1"]
    observed, stated = calibration_curve(actual == 1, probabilities[:, 1], n_bins=10, strategy="quantile")
    assert mine["images"].tolist() == [50] * 10
    assert mine["probability"].to_numpy() == pytest.approx(stated)
    assert mine["observed"].to_numpy() == pytest.approx(observed)
    right = probabilities.argmax(1) == actual
    observed, stated = calibration_curve(right, probabilities.max(1), n_bins=10, strategy="quantile")
    top = table[table["probability_of"] == TOP_LABEL]
    assert top["probability"].to_numpy() == pytest.approx(stated)
    assert top["observed"].to_numpy() == pytest.approx(observed)
    assert (mine["observed_low"] < mine["observed"]).all()
    assert (mine["observed_high"] >= mine["observed"]).all()


def test_the_positive_class_may_be_the_first():
    probabilities, actual = draw(200, 2, 2.0)
    table = reliability_table(predictions(probabilities, actual), positive="c0", bins=1)
    first = table[table["probability_of"] == "c0"].iloc[0]
    assert (first["probability"], first["observed"]) == pytest.approx(
        (probabilities[:, 0].mean(), (actual == 0).mean())
    )


def test_bins_of_few_groups_have_no_interval():
    probabilities, actual = draw(100, 2, 1.0)
    table = reliability_table(predictions(probabilities, actual, groups=[f"g{k % 4}" for k in range(100)]))
    assert table["groups"].le(4).all()
    assert table["observed_low"].isna().all()
    assert table["observed"].notna().all()


def test_equal_values_are_in_one_bin_and_few_values_in_few_bins():
    values = np.array([0.5] * 70 + [0.6] * 10 + [0.7] * 20)
    assert [sorted(set(values[equal_bins(values, 10) == k])) for k in np.unique(equal_bins(values, 10))] == [
        [0.5],
        [0.6],
        [0.7],
    ]
    assert set(equal_bins(np.arange(29) / 29, 10)) == {0, 1}
    # Five values of eight images each in four bins of ten: the middle image of each decides.
    assert equal_bins(np.repeat(np.arange(5.0), 8), 4)[::8].tolist() == [0, 1, 2, 2, 3]
    assert set(equal_bins(np.arange(3) / 3, 10)) == {0}


def test_slope_and_intercept_agree_with_statsmodels():
    probabilities, actual = draw(400, 2, 2.0)
    positive = logit(probabilities[:, 1])
    slope = sm.Logit(actual, sm.add_constant(positive)).fit(disp=0).params[1]
    intercept = sm.Logit(actual, np.ones(400), offset=positive).fit(disp=0).params[0]
    result = calibration_scores(predictions(probabilities, actual))
    assert result["calibration_slope"] == pytest.approx(slope, rel=1e-5)
    assert result["calibration_intercept"] == pytest.approx(intercept, abs=1e-6)
    of_first = calibration_scores(predictions(probabilities, actual), positive="c0")
    assert of_first["calibration_slope"] == pytest.approx(slope, rel=1e-5)
    assert of_first["calibration_intercept"] == pytest.approx(-intercept, abs=1e-6)


def test_several_classes_recalibrate_the_most_probable_one():
    probabilities, actual = draw(400, 4, 2.0)
    right, x = probabilities.argmax(1) == actual, logit(probabilities.max(1))
    result = calibration_scores(predictions(probabilities, actual))
    slope = sm.Logit(right.astype(int), sm.add_constant(x)).fit(disp=0).params[1]
    assert result["calibration_slope"] == pytest.approx(slope, rel=1e-5)
    assert expit(x + result["calibration_intercept"]).sum() == pytest.approx(right.sum())


def test_the_temperature_mends_slope_and_brier():
    probabilities, actual = draw(3000, 2, 3.0)
    before = calibration_scores(predictions(probabilities, actual))
    mended = apply_temperature(probabilities, fit_temperature(probabilities[:1000], actual[:1000]))
    after = calibration_scores(predictions(mended, actual))
    assert before["calibration_slope"] == pytest.approx(1 / 3, abs=0.05)
    assert after["calibration_slope"] == pytest.approx(1, abs=0.15)
    assert after["brier"] < before["brier"]
    assert after["ece"] < before["ece"] / 3
    assert before["brier"] == pytest.approx(scores(predictions(probabilities, actual))["brier"])


def test_expected_calibration_error_by_hand():
    """Ten images said 0.6 and were right in 8; ten said 0.9 and were right in 7: (0.2 + 0.2) / 2."""
    top = np.repeat([0.6, 0.9], 10)
    actual = np.array([0] * 8 + [1] * 2 + [0] * 7 + [1] * 3)
    result = calibration_scores(predictions(np.stack([top, 1 - top], 1), actual))
    assert result["ece"] == pytest.approx(0.2)


def test_errors_within_a_bin_do_not_hide_each_other_across_bins():
    top = np.repeat([0.6, 0.9], 10)
    actual = np.array([0] * 8 + [1] * 2 + [0] * 7 + [1] * 3)
    pooled = abs((actual == 0).mean() - top.mean())
    assert pooled == pytest.approx(0)
    assert calibration_scores(predictions(np.stack([top, 1 - top], 1), actual))["ece"] > 0.1


def test_what_has_no_finite_answer_is_undefined():
    separated = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    result = calibration_scores(predictions(separated, [0, 0, 1]))
    assert math.isnan(result["calibration_slope"])
    assert math.isfinite(result["calibration_intercept"])
    one_class = calibration_scores(predictions(separated, [0, 0, 0]))
    assert math.isnan(one_class["calibration_slope"])
    assert math.isnan(one_class["calibration_intercept"])
    constant = calibration_scores(predictions(np.full((4, 2), 0.5), [0, 1, 0, 1]))
    assert math.isnan(constant["calibration_slope"])
    assert constant["calibration_intercept"] == pytest.approx(0, abs=1e-9)


def test_saturated_probabilities_have_a_slope():
    saturated = np.array([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 30)
    result = calibration_scores(predictions(saturated, [0] * 27 + [1] * 3 + [1] * 27 + [0] * 3))
    assert result["calibration_slope"] == pytest.approx(np.log(9) / logit(1 - np.finfo(float).eps), rel=1e-3)


def test_a_positive_class_that_is_none_is_named():
    table = predictions(*draw(20, 2, 1.0))
    for function in (reliability_table, calibration_scores):
        with pytest.raises(InputError, match=r"data.positive is 'tumor'.*c0, c1"):
            function(table, positive="tumor")
