"""Judging a panel: which rows each row's results owe nothing to, test rows by the final fit, and the tree of scores."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from tests.panel.tables import outputs_of, panel_outputs, predictions_of, rows_of
from tumorboard.base.errors import InputError
from tumorboard.base.params import Evaluate
from tumorboard.base.tables import make_predictions, probabilities_of
from tumorboard.evaluation.calibration import calibration_scores
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.summary import SUMMARY_SCORES, Judging, summarize
from tumorboard.evaluation.temperature import apply_temperature
from tumorboard.panel import comparison
from tumorboard.panel.comparison import (
    HEADING,
    UNCALIBRATED,
    best_member,
    headline,
    judge_panel,
    vote_on,
)
from tumorboard.panel.fits import Fitting
from tumorboard.panel.fitted import apply_vote, calibrate_members
from tumorboard.panel.votes import VOTES

MODELS = ["one", "two", "three"]
# Fold 2 has 20 rows of 10 groups, hence five parts; fold 0 six rows of three; neither is sorted by id.
FOLDS = {
    2: [f"v{number:02d}" for number in (3, 0, 19, *range(4, 19), 2, 1)],
    0: ["v25", "v22", "v20", "v21", "v24", "v23"],
}


def judging(params, positive="b"):
    changes = {"bootstrap": 20, "confidence": 0.9, "by_patient": "mean"}
    evaluate = Evaluate(**dict(params.evaluate) | changes)
    return Judging(evaluate=evaluate, seed=0, unit="patient", positive=positive)


def fitting(vote="auto", calibrate=True, models=MODELS, positive=1):
    return Fitting(models=models, classes=["a", "b"], vote=vote, calibrate=calibrate, positive=positive, rule="youden")


@pytest.fixture
def unscored(monkeypatch):
    """Panels are judged without the scores, which take most of the time."""
    monkeypatch.setattr(comparison, "score_part", lambda *_, **__: {})


def applied(part, row):
    """All that is applied to one row of a part, to the last bit."""
    tables = [*part.raw_members.values(), *part.members.values(), *part.votes.values()]
    return [probabilities_of(table)[row].tobytes() for table in tables] + [part.thresholds[row].tobytes()]


@pytest.mark.parametrize("vote", ["auto", "product"])
@pytest.mark.usefixtures("unscored")
def test_a_rows_label_changes_nothing_that_is_applied_to_it_in_any_part_of_any_fold(params, vote, monkeypatch):
    parts = {}
    cross_fit = comparison.cross_fit

    def spy(settings, versions, actual, part_of_row, *, cells=None):
        parts.setdefault(len(actual), part_of_row)
        return cross_fit(settings, versions, actual, part_of_row, cells=cells)

    monkeypatch.setattr(comparison, "cross_fit", spy)
    before = judge_panel(panel_outputs(1, FOLDS), fitting(vote), judging(params)).validation
    ids = before.votes[HEADING]["id"].tolist()
    assert ids == [f"v{number:02d}" for number in range(26)]
    for flipped in ("v07", "v23"):
        after = judge_panel(panel_outputs(1, FOLDS, flipped=flipped), fitting(vote), judging(params)).validation
        assert (after.votes["soft"]["label"] != before.votes["soft"]["label"]).tolist() == [
            one == flipped for one in ids
        ]
        own = parts[26] == parts[26][ids.index(flipped)]
        assert 2 <= own.sum() < 26
        for row in range(26):
            assert (applied(after, row) == applied(before, row)) == own[row], ids[row]


@pytest.mark.usefixtures("unscored")
def test_members_are_compared_by_their_outputs_without_each_part_also_where_folds_have_other_numbers_of_parts(
    params, monkeypatch
):
    """A fold with fewer parts has, in the parts that it lacks, the outputs of the epoch that all its rows chose."""
    given = []
    cross_fit = comparison.cross_fit
    monkeypatch.setattr(
        comparison, "cross_fit", lambda *arguments, **_: given.append(arguments) or cross_fit(*arguments)
    )
    outputs = panel_outputs(2, FOLDS)
    judge_panel(outputs, fitting(), judging(params))
    _, versions, actual, parts = given[0]
    ids = [f"v{number:02d}" for number in range(26)]
    assert versions.shape == (6, 3, 26, 2)
    for member, folds in enumerate(outputs.values()):
        for one in folds.values():
            own_choices = len(one.held_out.logits)
            for row, id_ in enumerate(one.validation["id"]):
                place = ids.index(id_)
                assert parts[place] == one.held_out.parts[row]
                assert "ab"[actual[place]] == one.validation["label"][row]
                for choice in range(6):
                    logits = one.held_out.logits[choice if choice < own_choices - 1 else -1, row]
                    assert versions[choice, member, place] == pytest.approx(softmax(logits.astype(np.float64)))
                stated = probabilities_of(one.validation)[row]
                assert (versions[parts[place], member, place] == stated).all()


@pytest.mark.usefixtures("unscored")
def test_the_order_of_rows_changes_no_bit(params):
    outputs = panel_outputs(3, FOLDS)
    turned = {}
    for model, folds in outputs.items():
        turned[model] = {}
        for fold, one in folds.items():
            order = np.random.default_rng(fold).permutation(len(one.validation))
            held_out = dataclasses.replace(
                one.held_out, parts=one.held_out.parts[order], logits=one.held_out.logits[:, order]
            )
            validation = one.validation.iloc[order].reset_index(drop=True)
            turned[model][fold] = comparison.MemberOutputs(validation, held_out, one.test.iloc[::-1])
    one, two = (judge_panel(each, fitting(), judging(params)) for each in (outputs, turned))
    assert one.fit == two.fit
    for part, other in ((one.validation, two.validation), (one.test, two.test)):
        for table, same in zip(part.votes.values(), other.votes.values(), strict=True):
            pd.testing.assert_frame_equal(table, same, check_exact=True)


@pytest.mark.usefixtures("unscored")
def test_test_rows_have_the_mean_over_folds_of_calibrated_probabilities_and_the_final_fit(params):
    outputs = panel_outputs(4, FOLDS)
    results = judge_panel(outputs, fitting("product"), judging(params))
    fit = results.fit
    assert len({1.0, *fit.temperatures.values()}) == 4
    by_hand = {
        model: np.mean(
            [
                apply_temperature(probabilities_of(one.test.sort_values("id")), fit.temperatures[model])
                for one in folds.values()
            ],
            axis=0,
        )
        for model, folds in outputs.items()
    }
    for model, expected in by_hand.items():
        assert (probabilities_of(results.test.members[model]) == expected).all()
    stacked = np.stack(list(by_hand.values()))
    for vote in fit.votes:
        assert (probabilities_of(results.test.votes[vote]) == apply_vote(fit, vote, stacked)).all()
    pd.testing.assert_frame_equal(results.test.votes[HEADING], results.test.votes["product"])
    raw = [[probabilities_of(one.test.sort_values("id")) for one in folds.values()] for folds in outputs.values()]
    product = np.prod(np.mean(raw, axis=1), axis=0)
    assert probabilities_of(results.test.votes[UNCALIBRATED]) == pytest.approx(product / product.sum(1, keepdims=True))
    assert fit.threshold is not None
    assert results.test.thresholds.tolist() == [fit.threshold] * 16
    assert list(results.test.votes) == [*(vote for vote in VOTES if vote != "stacking"), HEADING, UNCALIBRATED]


@pytest.mark.usefixtures("unscored")
def test_without_calibration_all_is_as_the_members_said(params):
    outputs = panel_outputs(5, FOLDS)
    results = judge_panel(outputs, fitting("soft", calibrate=False), judging(params))
    for model, table in results.validation.members.items():
        said = pd.concat([one.validation for one in outputs[model].values()]).sort_values("id", ignore_index=True)
        pd.testing.assert_frame_equal(table, said, check_exact=True)
    soft = np.mean([probabilities_of(table) for table in results.validation.members.values()], axis=0)
    for vote in ("soft", HEADING, UNCALIBRATED):
        assert (probabilities_of(results.validation.votes[vote]) == soft).all()


def test_noise_in_the_test_part_changes_nothing_but_the_test_part(params):
    outputs = panel_outputs(6, FOLDS)
    results = judge_panel(outputs, fitting(), judging(params))
    generator = np.random.default_rng(0)
    rows = rows_of([f"t{number}" for number in range(30)], "test", generator.choice(["a", "b"], 30))
    noisy = {
        model: {
            fold: one._replace(test=make_predictions(rows, generator.dirichlet([1, 1], 30), ["a", "b"], "digest"))
            for fold, one in folds.items()
        }
        for model, folds in outputs.items()
    }
    other = judge_panel(noisy, fitting(), judging(params))
    assert other.fit == results.fit
    assert str(other.validation_scores) == str(results.validation_scores)
    for name, table in results.validation.votes.items():
        pd.testing.assert_frame_equal(other.validation.votes[name], table, check_exact=True)
    assert other.test_scores["votes"][HEADING]["images"] == 30


def test_scores_are_those_of_the_tables_and_the_heading_has_its_thresholds(params):
    settings = judging(params)
    results = judge_panel(panel_outputs(7, FOLDS), fitting("weighted"), settings)
    for part, tree, held_out in (
        (results.validation, results.validation_scores, True),
        (results.test, results.test_scores, False),
    ):
        assert (list(tree), list(tree["votes"])) == (
            ["members", "votes", "uncalibrated", "folds"],
            [*results.fit.votes, HEADING, UNCALIBRATED],
        )
        for model, table in part.members.items():
            assert str(tree["members"][model]) == str(summarize(table, settings, held_out=held_out))
            raw = part.raw_members[model]
            assert tree["uncalibrated"][model] == calibration_scores(raw, positive="b")
            assert tree["uncalibrated"][model] != calibration_scores(table, positive="b")
        for vote in ("soft", "weighted", UNCALIBRATED):
            assert str(tree["votes"][vote]) == str(summarize(part.votes[vote], settings, held_out=held_out))
        expected = summarize(part.votes[HEADING], settings, thresholds=part.thresholds, held_out=held_out)
        assert str(tree["votes"][HEADING]) == str(expected)
        assert not {"loss", "auc", "brier", "calibration_slope"} & set(tree["votes"]["hard"])
        table = part.votes["hard"]
        assert tree["votes"]["hard"]["accuracy"] == pytest.approx(scores(table)["accuracy"])
    assert results.validation_scores["members"]["three"]["images"] == 26
    assert results.test_scores["members"]["three"]["images"] == 16
    patients = results.validation_scores["members"]["three"]["by_group"]
    assert patients["auc_method"] == "too few patients of 'a' to rank held-out images (2)"
    assert results.validation_scores["members"]["three"]["auc"] > 0, "nearly all patients have images of both classes"
    at = results.fit.threshold
    called = results.test.votes[HEADING]["p_b"] >= at
    ill = results.test.votes[HEADING]["label"] == "b"
    assert results.test_scores["votes"][HEADING]["sensitivity"] == pytest.approx((called & ill).sum() / ill.sum())


def test_a_hard_vote_that_heads_the_report_has_no_scores_of_probabilities(params):
    results = judge_panel(panel_outputs(8, FOLDS), fitting("hard"), judging(params))
    for vote in ("hard", HEADING, UNCALIBRATED):
        assert not {"loss", "auc", "brier", "calibration_slope"} & set(results.validation_scores["votes"][vote])
    assert "loss" in results.validation_scores["votes"]["soft"]
    flat = headline(results.validation_scores, results.fit)
    assert flat["vote"] == "hard"
    assert "auc" not in flat
    assert "accuracy_mean" in flat
    for spread in (flat, *(results.test_scores["folds"]["votes"][vote] for vote in ("hard", HEADING, UNCALIBRATED))):
        assert not [name for name in spread if name.startswith(("loss", "auc", "brier"))]
    assert "auc_mean" in results.test_scores["folds"]["votes"]["soft"]
    soft = judge_panel(panel_outputs(8, FOLDS), fitting("soft"), judging(params)).validation_scores["folds"]["votes"]
    assert "loss_mean" in soft[HEADING]
    assert "loss_mean" not in soft["hard"]


def fold_of(*, right, validation):
    """Ten test images, the first `right` of which a model gets right, and two validation images that it gets wrong."""
    ids = [f"t{number}" for number in range(10)]
    of_label = np.where(np.arange(10) < right, 0.8, 0.4)
    p_a = np.where(np.arange(10) % 2, 1 - of_label, of_label)
    test = make_predictions(rows_of(ids, "test", "ab" * 5), np.stack([p_a, 1 - p_a], 1), ["a", "b"], "digest")
    logits = np.zeros((3, 2, 2))
    logits[..., 1] = 0.4
    return outputs_of(rows_of([f"{validation}1", f"{validation}2"], "val", "aa", size=1), logits, test)


def test_several_folds_have_a_mean_and_a_spread(params):
    outputs = {
        "one": {0: fold_of(right=6, validation="v1"), 1: fold_of(right=8, validation="v2")},
        "two": {0: fold_of(right=10, validation="v1"), 1: fold_of(right=9, validation="v2")},
    }
    results = judge_panel(outputs, fitting("soft", False, ["one", "two"]), judging(params))
    spread = results.test_scores["folds"]["members"]["one"]
    assert (spread["accuracy_mean"], spread["accuracy_sd"]) == pytest.approx((0.7, 0.1 * np.sqrt(2)))
    of_validation = results.validation_scores["folds"]["members"]["one"]
    assert (of_validation["accuracy_mean"], of_validation["accuracy_sd"]) == (0, 0)
    assert np.isnan(of_validation["auc_mean"])
    # In each fold the mean of both models is right where one of them is sure: 10 and 9 of 10.
    for vote in ("soft", HEADING):
        of_vote = results.test_scores["folds"]["votes"][vote]
        assert (of_vote["accuracy_mean"], of_vote["accuracy_sd"]) == pytest.approx((0.95, 0.05 * np.sqrt(2)))
    assert results.test_scores["members"]["one"]["accuracy"] == pytest.approx(0.8), "the mean of 0.8, 0.4 is above half"
    flat = headline(results.test_scores, results.fit)
    assert not any(isinstance(value, dict) for value in flat.values())
    assert (flat["vote"], flat["accuracy_mean"], flat["accuracy"]) == ("soft", pytest.approx(0.95), 0.9)
    assert {f"{score}_sd" for score in SUMMARY_SCORES} <= set(flat)


def test_one_fold_has_no_spread(params):
    results = judge_panel(panel_outputs(9, {3: FOLDS[2]}), fitting(), judging(params))
    for tree in (results.validation_scores, results.test_scores):
        assert tree["folds"] == {"votes": {}, "members": {}}
        flat = headline(tree, results.fit)
        expected = {name: value for name, value in tree["votes"][HEADING].items() if not isinstance(value, dict)}
        assert str(flat) == str({"vote": results.fit.vote} | expected)


@pytest.mark.parametrize("folds", [FOLDS, {3: FOLDS[2]}])
def test_a_test_part_that_is_not_scored_has_empty_tables_and_no_scores(params, folds):
    outputs = panel_outputs(10, folds)
    empty = {m: {f: one._replace(test=one.test[:0]) for f, one in folds.items()} for m, folds in outputs.items()}
    results, expected = (judge_panel(each, fitting(), judging(params)) for each in (empty, outputs))
    assert results.test_scores == {}
    assert [len(table) for table in (*results.test.members.values(), *results.test.votes.values())] == [0] * 10
    assert [len(table) for table in results.test.raw_members.values()] == [0] * 3
    assert results.fit == expected.fit
    assert str(results.validation_scores) == str(expected.validation_scores)


@pytest.mark.usefixtures("unscored")
def test_columns_are_joined_by_id_and_a_fold_with_too_few_images_has_no_heading(params, monkeypatch):
    """Fold 0 has 60 images, fold 1 eight: alone these are too few for stacking."""
    folds = {0: [f"v{number}" for number in range(100, 160)], 1: [f"v{number}" for number in range(160, 168)]}
    outputs = panel_outputs(13, folds)
    labels = pd.concat([one.validation for one in outputs["one"].values()] + [outputs["one"][0].test])
    attributes = labels[["id"]].assign(site="north", mark=np.where(labels["label"] == "b", "x", "y"))[::-1]
    settings = dataclasses.replace(fitting("stacking"), stacking_columns=["mark"])
    tables = []
    monkeypatch.setattr(comparison, "score_part", lambda part, folds, *_, **__: tables.append((part, folds)))
    results = judge_panel(outputs, settings, judging(params), attributes)
    for part in (results.validation, results.test):
        heading = part.votes[HEADING]
        assert (np.where(heading["p_b"] > 0.5, "b", "a") == heading["label"]).mean() > 0.95, "the mark is the label"
    for part, by_fold in tables:
        assert {"stacking", HEADING, UNCALIBRATED} <= set(part.votes)
        assert [HEADING in one.votes for one in by_fold] == [True, False]
        assert ["soft" in one.votes for one in by_fold] == [True, True]
    with pytest.raises(InputError, match=r"image 'v10.' is not in the table of attributes"):
        judge_panel(outputs, settings, judging(params), attributes[attributes["id"].str.startswith("t")])


def test_members_of_different_images_are_refused(params):
    outputs = panel_outputs(11, FOLDS)
    outputs["two"][0] = panel_outputs(11, FOLDS, flipped="v24")["two"][0]
    with pytest.raises(InputError, match="model two, fold 0: id 'v24' has label"):
        judge_panel(outputs, fitting(), judging(params))


@pytest.mark.usefixtures("unscored")
def test_a_vote_on_tables_takes_members_in_the_order_of_the_fit(params):
    results = judge_panel(panel_outputs(12, FOLDS), fitting(), judging(params))
    turned = dict(reversed(results.test.members.items()))
    for vote, table in vote_on(turned, results.fit).items():
        pd.testing.assert_frame_equal(table, results.test.votes[vote], check_exact=True)
    raw = np.stack([probabilities_of(table) for table in results.test.members.values()])
    assert calibrate_members(results.fit, raw).shape == raw.shape


def test_the_best_member_has_the_least_loss():
    tree = {"members": {"x": {"loss": 0.5}, "y": {"loss": 0.4}, "z": {"loss": 0.4}}}
    assert best_member(tree) == "y"
    assert predictions_of([("v", "val", "a", 1, 0)])["group"].tolist() == ["g v"]
