import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.paired import FIRST, NOISE, SECOND, SHARES, compare

CLASSES = ["a", "b", "c"]


def pair(n=120, groups=12, *, classes=CLASSES, seed=0, skills=(1.0, 1.0), digits=1, by_group=False):
    """Random predictions of two models for the same rows, with ties."""
    generator = np.random.default_rng(seed)
    group = np.arange(n) % groups
    actual = (group if by_group else generator.integers(len(classes), size=n)) % len(classes)
    rows = pd.DataFrame({"id": [f"i{k:04}" for k in range(n)], "group": [f"g{k:03}" for k in group], "split": "test"})
    rows["label"] = np.array(classes, dtype=object)[actual]
    tables = []
    for skill in skills:
        effect = generator.normal(0, 0.5, (groups, len(classes)))[group]
        odds = np.exp(
            (generator.normal(size=(n, len(classes))) + effect + skill * np.eye(len(classes))[actual]).round(digits)
        )
        tables.append(make_predictions(rows, odds / odds.sum(1, keepdims=True), classes, "digest"))
    return tables


def exchanged(first, second, chosen):
    """The two tables with the models exchanged in the chosen groups."""
    columns = [column for column in first if column.startswith("p_")]
    swapped = [first.copy(), second.copy()]
    rows = first["group"].isin(chosen)
    swapped[0].loc[rows, columns], swapped[1].loc[rows, columns] = second.loc[rows, columns], first.loc[rows, columns]
    return swapped


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
@pytest.mark.parametrize("by_group", [False, True])
def test_every_score_is_tested_by_exchanging_the_models_within_groups(classes, by_group):
    """p is that of the scores of all 2^7 exchanged pairs of tables, scored one by one."""
    first, second = pair(84, 7, classes=classes, skills=(1.6, 0.8), by_group=by_group)
    names = sorted(set(first["group"]))
    flips = [[names[k] for k in range(7) if signs[k]] for signs in itertools.product([False, True], repeat=7)]
    tables = [[scores(table) for table in exchanged(first, second, chosen)] for chosen in flips]
    for row in compare(first, second).query("score != 'auc'").to_dict("records"):
        differences = np.array([one[row["score"]] - other[row["score"]] for one, other in tables])
        assert row["difference"] == pytest.approx(differences[0])
        if np.isnan(row["p"]):
            assert row["verdict"].startswith("too few groups")
            continue
        distance = np.abs(differences[:64]) - abs(differences[0])  # the other 64 are the same with the sides exchanged
        equal = int((np.abs(distance) < 1e-9).sum()) - 1  # besides the observed one, which counts whole
        assert row["p"] == pytest.approx(((distance >= 1e-9).sum() + equal / 2 + 1) / 64), row["score"]


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_values_are_those_of_the_metrics(classes):
    first, second = pair(classes=classes)
    table = compare(first, second)
    recalls = [f"recall_{name}" for name in classes]
    assert table["score"].tolist() == ["accuracy", "balanced_accuracy", *recalls, "brier", "auc"]
    for side, predictions in (("first", first), ("second", second)):
        expected = scores(predictions)
        for score, value in zip(table["score"], table[side], strict=True):
            assert value == pytest.approx(expected[score]), score
    assert (table["difference"] - (table["first"] - table["second"])).abs().max() < 1e-12


def delong_variance(actual, first, second):
    """DeLong, DeLong and Clarke-Pearson 1988: the variance of the difference of two AUCs of independent rows."""
    placements = []
    for values in (first, second):
        psi = (values[actual][:, None] > values[~actual]) + 0.5 * (values[actual][:, None] == values[~actual])
        placements.append((psi.mean(1), psi.mean(0)))
    s10, s01 = (np.cov(placements[0][k], placements[1][k]) for k in (0, 1))
    contrast = np.array([1, -1])
    return contrast @ (s10 / actual.sum() + s01 / (~actual).sum()) @ contrast


def test_auc_of_independent_rows_agrees_with_delong():
    first, second = pair(600, 600, classes=["a", "b"], skills=(1.2, 0.9), digits=3)
    row = compare(first, second).set_index("score").loc["auc"]
    actual = (first["label"] == "b").to_numpy()
    values = [table["p_b"].round(12).to_numpy() for table in (first, second)]  # equal ones are equal
    difference = roc_auc_score(actual, values[0]) - roc_auc_score(actual, values[1])
    error = np.sqrt(delong_variance(actual, *values))
    assert row["difference"] == pytest.approx(difference)
    assert row["p"] == pytest.approx(2 * scipy.stats.norm.sf(abs(difference) / error), abs=0.02)
    assert (row["low"], row["high"]) == pytest.approx(
        (difference - 1.96 * error, difference + 1.96 * error), abs=0.12 * error
    )


def test_accuracy_of_independent_rows_agrees_with_mcnemar():
    first, second = pair(200, 200, skills=(1.6, 1.1))
    right = [
        table[["p_a", "p_b", "p_c"]].to_numpy().argmax(1) == table["label"].map(CLASSES.index)
        for table in (first, second)
    ]
    counts = [
        [(right[0] & right[1]).sum(), (right[0] & ~right[1]).sum()],
        [(~right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum()],
    ]
    smaller, total = min(counts[0][1], counts[1][0]), counts[0][1] + counts[1][0]
    mid = mcnemar(counts, exact=True).pvalue - scipy.stats.binom.pmf(smaller, total, 0.5)
    assert compare(first, second).set_index("score").loc["accuracy", "p"] == pytest.approx(mid, abs=0.015)


def test_rows_of_one_group_are_no_independent_evidence():
    """Ten copies of each row give the table of the rows themselves."""
    first, second = pair(40, 10)
    copied = [
        pd.concat([table.assign(id=table["id"] + f"/{k}") for k in range(10)], ignore_index=True)
        for table in (first, second)
    ]
    pd.testing.assert_frame_equal(compare(*copied), compare(first, second))


def test_the_order_of_rows_and_classes_is_nothing():
    first, second = pair()
    shuffled = second.sample(frac=1, random_state=0)
    columns = ["id", "group", "split", "label", "p_c", "p_a", "p_b", "manifest"]
    expected = compare(first, second)
    pd.testing.assert_frame_equal(compare(first.sample(frac=1, random_state=1), shuffled[columns]), expected)


def test_exchanging_the_two_sides_changes_signs_only():
    first, second = pair(skills=(2.0, 0.6))
    one, other = compare(first, second), compare(second, first)
    assert one["difference"].tolist() == pytest.approx((-other["difference"]).tolist())
    assert one["low"].tolist() == pytest.approx((-other["high"]).tolist())
    assert one["p"].tolist() == pytest.approx(other["p"].tolist())
    assert one.set_index("score").loc[["accuracy", "brier", "auc"], "verdict"].tolist() == [FIRST] * 3
    assert other.set_index("score").loc[["accuracy", "brier", "auc"], "verdict"].tolist() == [SECOND] * 3


def test_a_model_against_itself_is_within_noise_and_has_no_width():
    first, _ = pair()
    table = compare(first, first)
    assert set(table["verdict"]) == {NOISE}
    assert table[["difference", "low", "high"]].abs().to_numpy().max() == 0


def test_equal_decisions_of_different_models_are_not_equal_accuracy():
    first, _ = pair()
    columns = ["p_a", "p_b", "p_c"]
    second = first.copy()
    second[columns] = 0.5 * first[columns] + 0.5 / 3
    row = compare(first, second).set_index("score").loc["accuracy"]
    assert row["difference"] == 0
    assert row["low"] == pytest.approx(-row["high"])
    assert row["high"] == pytest.approx(1 - 0.025 ** (1 / 12))
    assert row["verdict"] == NOISE


def test_shares_of_votes_have_no_scores_of_probabilities():
    first, second = pair()
    full, table = (compare(first, second, probabilities=known).set_index("score") for known in (True, False))
    assert table.index.tolist() == full.index.tolist()
    assert table.loc[["brier", "auc"], "verdict"].tolist() == [SHARES] * 2
    assert table.loc[["brier", "auc"]].drop(columns="verdict").isna().to_numpy().all()
    others = full.index.drop(["brier", "auc"])
    pd.testing.assert_frame_equal(table.loc[others], full.loc[others])


def test_the_verdict_on_auc_follows_its_interval():
    verdicts = set()
    for seed in range(30):
        row = compare(*pair(skills=(1.2, 0.8), seed=seed), permutations=99).set_index("score").loc["auc"]
        assert (row["verdict"] == NOISE) == (row["low"] <= 0 <= row["high"])
        verdicts.add(row["verdict"])
    assert verdicts == {NOISE, FIRST}


def test_the_positive_class_gives_sensitivity_and_specificity():
    first, second = pair(classes=["a", "b"])
    plain = compare(first, second).set_index("score")
    for positive, negative in (("a", "b"), ("b", "a")):
        table = compare(first, second, positive=positive)
        assert table["score"].tolist()[2:4] == ["sensitivity", "specificity"]
        table = table.set_index("score")
        for own, recall in (("sensitivity", positive), ("specificity", negative)):
            assert table.loc[own].tolist() == plain.loc[f"recall_{recall}"].tolist()


@pytest.mark.parametrize(("classes", "positive"), [(CLASSES, "a"), (["a", "b"], "ill")])
def test_a_positive_class_that_is_none_of_two_is_refused(classes, positive):
    with pytest.raises(InputError, match=r"^data.positive is '(a|ill)', expected one of two classes; there are a, b"):
        compare(*pair(classes=classes), positive=positive)


def test_too_few_groups_are_counted_by_what_the_score_needs():
    """Class a is in 2 of 14 patients, b in 12."""
    first, second = pair(140, 14, classes=["a", "b"])
    label = np.where(first["group"].isin(["g000", "g001"]), "a", "b")
    table = compare(first.assign(label=label), second.assign(label=label), unit="patient").set_index("score")
    assert table["verdict"].loc[["balanced_accuracy", "recall_a", "auc"]].tolist() == ["too few patients (2)"] * 3
    assert table.loc[["balanced_accuracy", "recall_a", "auc"], ["low", "high", "p"]].isna().to_numpy().all()
    assert table.loc[["accuracy", "recall_b", "brier"], ["low", "high", "p"]].notna().to_numpy().all()
    assert compare(*pair(20, 5), unit="slide")["verdict"].tolist()[0] == "too few slides (5)"
    assert compare(*pair(20, 1))["verdict"].tolist()[0] == "too few groups (1)"


def test_a_class_without_images_leaves_its_scores_undefined():
    first, second = (table[table["label"] != "c"] for table in pair())
    table = compare(first, second).set_index("score")
    undefined = ["balanced_accuracy", "recall_c", "auc"]
    assert table.loc[undefined, "verdict"].tolist() == ["undefined"] * 3
    assert table.loc[["recall_a", "recall_b"], "p"].notna().all()
    one_class = [table[table["label"] == "a"] for table in (first, second)]
    assert compare(*one_class).set_index("score").loc["auc", "verdict"] == "undefined"


def message_of(first, second, **settings):
    with pytest.raises(InputError) as caught:
        compare(first, second, **settings)
    return str(caught.value)


def test_other_images_labels_groups_and_classes_are_named():
    first, second = pair(10, 5)
    names = ("cnn.csv", "vit.csv")
    others = pd.concat([second[2:], second[:1].assign(id="new")])
    assert message_of(first, others, names=names) == (
        "cnn.csv and vit.csv were made of different data: 2 of 10 ids are only in cnn.csv, such as id 'i0000'; 1 of 9 "
        "ids are only in vit.csv, such as id 'new': compare the same test images (data, seed and split must be equal)"
    )
    other = second["label"].map({"a": "b", "b": "c", "c": "a"})
    relabeled = second.assign(label=second["label"].where(~second["id"].isin(["i0003", "i0007"]), other))
    label, wrong = second["label"][3], other[3]
    assert message_of(first, relabeled, names=names) == (
        f"cnn.csv and vit.csv were made of different data: id 'i0003' has the label '{label}' in one, '{wrong}' in the "
        "other; 2 of 10 ids differ"
    )
    regrouped = second.assign(group=second["group"].where(second["id"] != "i0009", "gx"))
    assert message_of(first, regrouped, unit="patient").endswith(
        "id 'i0009' has the patient 'g004' in one, 'gx' in the other; 1 of 10 ids differ"
    )
    assert "1 of 3 classes are only in cnn.csv, such as class 'c'; 1 of 3 classes are only in vit.csv" in message_of(
        first, second.rename(columns={"p_c": "p_d"}), names=names
    )


def test_ugly_tables_are_refused():
    first, second = pair(10, 5)
    with pytest.raises(InputError, match="no rows"):
        compare(first[:0], second[:0])
    with pytest.raises(InputError, match="has no label"):
        compare(first.assign(label=""), second.assign(label=""))
    twice = pd.concat([first, first.assign(split="val")])
    message = message_of(twice, second, names=("cnn", "vit"))
    assert message == "cnn: id 'i0000' is in more than one part: compare one part at a time"


def test_chosen_scores_have_the_rows_that_they_have_among_all():
    """A score that there is not is left out; the order is that of all scores."""
    first, second = pair(skills=(1.6, 0.8))
    every = compare(first, second)
    some = compare(first, second, only=("auc", "sensitivity", "accuracy", "recall_b"))
    assert some["score"].tolist() == ["accuracy", "recall_b", "auc"]
    expected = every[every["score"].isin(some["score"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, check_exact=True)
