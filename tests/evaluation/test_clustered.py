import numpy as np
import pytest
import sklearn.metrics
import statsmodels.api

from tumorboard.evaluation.clustered import Rows, estimate_scores, placements

CLASSES = ["a", "b", "c"]


def random_rows(count, group, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    actual = generator.choice(classes, count)
    odds = generator.normal(size=(count, classes)).round(1) + np.eye(classes)[actual]
    _, group = np.unique(group, return_inverse=True)
    return Rows(actual, np.exp(odds) / np.exp(odds).sum(1, keepdims=True), group, group.max() + 1)


def estimates(rows):
    return {estimate.score: estimate for estimate in estimate_scores(rows, CLASSES[: rows.probabilities.shape[1]])}


def pairwise_placements(positive, odds):
    """Returns each row's share of right pairs by comparing all pairs."""
    right = (odds[:, None] > odds[None, :]) + (odds[:, None] == odds[None, :]) / 2
    return np.where(positive, right[:, ~positive].mean(1), right[positive].mean(0))


def test_placements_agree_with_all_pairs():
    generator = np.random.default_rng(0)
    odds = np.append(generator.normal(size=80).round(1), [np.inf, np.inf, -np.inf])
    positive = generator.random(83) < 0.3
    place = placements(positive, odds)
    assert place == pytest.approx(pairwise_placements(positive, odds))
    assert place[positive].mean() == pytest.approx(place[~positive].mean())


def test_variance_of_auc_of_independent_rows_is_delongs():
    rows = random_rows(90, np.arange(90), classes=2)
    auc = estimates(rows)["auc"]
    odds, positive = np.log(rows.probabilities[:, 1] / rows.probabilities[:, 0]), rows.actual == 1
    place = pairwise_placements(positive, odds.round(9))
    delong = place[positive].var(ddof=1) / positive.sum() + place[~positive].var(ddof=1) / (~positive).sum()
    assert auc.variance == pytest.approx(delong)
    assert auc.value == pytest.approx(sklearn.metrics.roc_auc_score(positive, odds.round(9)))
    assert (auc.groups, auc.images) == (min(positive.sum(), (~positive).sum()),) * 2


def obuchowski(place, positive, group, value):
    """Returns the variance of Obuchowski 1997, equation by equation, for groups that all have both kinds of images."""
    names, total = np.unique(group), len(np.unique(group))
    ones, zeros = positive.sum(), (~positive).sum()
    first = np.array([(place[(group == g) & positive] - value).sum() for g in names])
    second = np.array([(place[(group == g) & ~positive] - value).sum() for g in names])
    s10 = total / ((total - 1) * ones) * (first**2).sum()
    s01 = total / ((total - 1) * zeros) * (second**2).sum()
    s11 = total / (total - 1) * (first * second).sum()
    return s10 / ones + s01 / zeros + 2 * s11 / (ones * zeros)


def test_variance_of_auc_is_obuchowskis_where_all_groups_are_alike():
    group = np.repeat(np.arange(12), 10)
    rows = random_rows(120, group, classes=2)
    actual = np.tile([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 12)
    auc = estimates(rows._replace(actual=actual))["auc"]
    odds, positive = np.log(rows.probabilities[:, 1] / rows.probabilities[:, 0]).round(9), actual == 1
    expected = obuchowski(pairwise_placements(positive, odds), positive, group, auc.value)
    assert auc.variance == pytest.approx(expected)
    assert (auc.groups, auc.images) == (12, 36)
    assert auc.effective_groups == pytest.approx(12)


def test_variance_of_auc_is_close_to_obuchowskis_with_many_unequal_groups():
    generator = np.random.default_rng(1)
    group = generator.integers(150, size=3000)
    rows = random_rows(3000, group, classes=2)
    auc = estimates(rows)["auc"]
    odds, positive = np.log(rows.probabilities[:, 1] / rows.probabilities[:, 0]).round(9), rows.actual == 1
    place = pairwise_placements(positive, odds)
    assert auc.variance == pytest.approx(obuchowski(place, positive, rows.group, auc.value), rel=0.01)


def test_variance_of_accuracy_is_that_of_a_regression_with_clustered_errors():
    group = np.repeat(np.arange(15), 8)
    rows = random_rows(120, group)
    right = (rows.probabilities.argmax(1) == rows.actual).astype(float)
    fit = statsmodels.api.OLS(right, np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": group, "use_correction": False}
    )
    assert estimates(rows)["accuracy"].variance == pytest.approx(fit.bse[0] ** 2 * 15 / 14)


def test_large_groups_are_corrected_more():
    """The residuals of three groups with 1, 2 and 7 of ten images, by hand."""
    group = np.array([0, 1, 1] + [2] * 7)
    right = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 0])
    rows = Rows(np.where(right, 0, 1), np.tile([0.9, 0.1], (10, 1)), group, 3)
    accuracy = estimates(rows)["accuracy"]
    residuals = np.array([1 - 0.7, 1 - 1.4, 5 - 4.9]) / 10
    assert accuracy.variance == pytest.approx((residuals**2 / (1 - np.array([0.1, 0.2, 0.7]))).sum())
    assert accuracy.simple_variance == pytest.approx(0.7 * 0.3 / 10)
    assert accuracy.effective_groups == pytest.approx(1 / (0.01 + 0.04 + 0.49))


def derivatives(score, rows):
    """Returns how much a score changes with the weight of each row, by numerical differentiation of scikit-learn."""
    result, step = [], 1e-5
    for row in range(len(rows.actual)):
        ends = []
        for sign in (-1, 1):
            weights = np.ones(len(rows.actual))
            weights[row] += sign * step
            ends.append(score(rows, weights))
        result.append((ends[1] - ends[0]) / (2 * step))
    return np.array(result)


def decided(function, **options):
    return lambda rows, weights: function(rows.actual, rows.probabilities.argmax(1), sample_weight=weights, **options)


SKLEARN = {
    "balanced_accuracy": decided(sklearn.metrics.balanced_accuracy_score),
    "precision": decided(sklearn.metrics.precision_score, average="macro"),
    "f1": decided(sklearn.metrics.f1_score, average="macro"),
    "f1_b": decided(sklearn.metrics.f1_score, average=None, labels=[1]),
    "auc_c": lambda rows, w: sklearn.metrics.roc_auc_score(rows.actual == 2, rows.probabilities[:, 2], sample_weight=w),
    "auc": lambda rows, w: np.mean(
        [sklearn.metrics.roc_auc_score(rows.actual == k, rows.probabilities[:, k], sample_weight=w) for k in range(3)]
    ),
    "loss": lambda rows, w: sklearn.metrics.log_loss(rows.actual, rows.probabilities, sample_weight=w),
    "brier": lambda rows, w: np.average(np.square(rows.probabilities - np.eye(3)[rows.actual]).sum(1) / 2, weights=w),
}


@pytest.mark.parametrize("score", SKLEARN)
def test_influence_of_each_row_is_the_derivative_of_the_score(score):
    rows = random_rows(28, np.arange(28) % 14, seed=4)
    change = np.ravel(derivatives(SKLEARN[score], rows))
    estimate = estimates(rows)[score]
    assert estimate.value == pytest.approx(float(np.ravel(SKLEARN[score](rows, np.ones(28)))[0]))
    assert estimate.simple_variance == pytest.approx((change**2).sum(), rel=1e-4)
    between = np.square(np.bincount(rows.group, change)).sum()
    # The correction divides the 14 groups' squares by 1 - their share, which differs by class.
    assert between * 1.03 < estimate.variance < between * 1.25


def test_counts_are_of_the_rarer_class():
    actual = np.array([0] * 50 + [1] * 6)
    group = np.append(np.arange(50) % 25, [0, 0, 1, 1, 2, 2])
    rows = random_rows(56, group, classes=2)._replace(actual=actual)
    named = estimates(rows)
    assert (named["recall_a"].groups, named["recall_b"].groups) == (25, 3)
    assert named["balanced_accuracy"].groups == named["auc"].groups == 3
    assert named["specificity_a"].groups == 3
    assert named["accuracy"].groups == 25
    assert (named["recall_b"].images, named["accuracy"].images) == (6, 56)
    assert named["recall_b"].effective_groups == pytest.approx(3)


def test_degrees_of_freedom_of_auc_lie_between_those_of_one_mean_and_welchs():
    """Sixteen groups; all with both kinds: 15. Each with one kind: Welch's, computed again from the two variances."""
    generator = np.random.default_rng(3)
    group = np.repeat(np.arange(16), 6)
    odds = generator.normal(size=96)
    p = 1 / (1 + np.exp(-odds))
    rows = Rows(np.tile([0, 0, 0, 1, 1, 1], 16), np.stack([1 - p, p], 1), group, 16)
    assert estimates(rows)["auc"].effective_groups == pytest.approx(16)
    actual = (group < 6).astype(int)
    positive, place = actual == 1, pairwise_placements(actual == 1, odds.round(9))
    auc = place[positive].mean()
    sums = np.bincount(group, np.where(positive, place - auc, auc - place))
    variances = np.array([sums[:6].var(ddof=1) * 6 / 36**2, sums[6:].var(ddof=1) * 10 / 60**2])
    welch = variances.sum() ** 2 / (variances**2 / np.array([5, 9])).sum()
    estimate = estimates(rows._replace(actual=actual))["auc"]
    assert estimate.variance == pytest.approx(variances.sum())
    assert estimate.effective_groups - 1 == pytest.approx(welch)
    assert 5 < welch < 14


def test_the_weight_of_an_image_is_that_of_the_rarer_class_in_the_mean_over_classes():
    actual = np.repeat([0, 1, 2], [30, 20, 10])
    rows = random_rows(60, np.arange(60))._replace(actual=actual)
    named = estimates(rows)
    assert [named[f"auc_{name}"].weight for name in CLASSES] == pytest.approx([1 / 30, 1 / 20, 1 / 10])
    assert named["auc"].weight == pytest.approx(1 / 30)
    assert named["recall_a"].weight == named["loss"].weight == 0
    two = random_rows(60, np.arange(60), classes=2)._replace(actual=np.repeat([0, 1], [42, 18]))
    assert estimates(two)["auc"].weight == estimates(two)["auc_a"].weight == pytest.approx(1 / 18)


def test_scores_can_be_estimated_alone():
    rows = random_rows(60, np.arange(60) % 20)
    alone = {estimate.score: estimate for estimate in estimate_scores(rows, CLASSES, only=("auc",))}
    assert list(alone) == ["auc_a", "auc_b", "auc_c", "auc"]
    assert alone == {name: estimates(rows)[name] for name in alone}
