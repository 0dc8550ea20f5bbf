"""The panel's fits: which rows each of them saw, and what they are worth on rows that none saw."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from tests.panel.small_panels import ROWS, applied, cells, fitting, groups, panel
from tumorboard.base.errors import InputError
from tumorboard.base.params import AtSensitivity
from tumorboard.evaluation.held_out import PARTS, assign_parts
from tumorboard.evaluation.operating_point import threshold_by_rule
from tumorboard.evaluation.temperature import apply_temperature, fit_temperature
from tumorboard.panel import fits
from tumorboard.panel.fits import cross_fit, fit_panel, fitting_of
from tumorboard.panel.fitted import Fit, apply_vote, calibrate_members
from tumorboard.panel.votes import POOLS, STACKING, TEMPERED, fit_weights


@pytest.mark.parametrize(
    ("vote", "positive", "rule", "stacks"),
    [
        ("auto", 1, "youden", True),
        ("stacking", 0, AtSensitivity(sensitivity=0.8), True),
        ("single", None, None, True),
        ("weighted", 1, "youden", False),
        ("hard", None, None, False),
    ],
)
def test_a_rows_label_changes_nothing_that_is_applied_to_it(vote, positive, rule, stacks):
    actual, versions = panel(1, versions=PARTS + 1)
    parts = assign_parts(groups())
    settings = fitting(vote=vote, positive=positive, rule=rule, stacks=stacks, columns=["age", "sex"])
    before = cross_fit(settings, versions, actual, parts, cells=cells())
    assert (STACKING in before.votes) == stacks
    for row in (0, 31):
        flipped = actual.copy()
        flipped[row] = 1 - flipped[row]
        after = cross_fit(settings, versions, flipped, parts, cells=cells())
        together = np.flatnonzero(parts == parts[row])
        assert len(together) == ROWS / PARTS
        assert all(applied(after, other) == applied(before, other) for other in together)
        others = np.flatnonzero(parts != parts[row])
        changed = [applied(after, other) != applied(before, other) for other in others]
        assert all(changed), "each other part is fitted with this row"
        assert after.final.temperatures != before.final.temperatures


def test_a_rows_part_has_the_outputs_of_the_epoch_that_was_chosen_without_it():
    """The versions differ in one row each; whatever stands at the other versions' places of a part is not applied."""
    actual, versions = panel(2, versions=4)
    parts = np.arange(ROWS) % 3
    settings = fitting(vote="soft", calibrate=False)
    result = cross_fit(settings, versions, actual, parts)
    own = versions[parts, :, np.arange(ROWS)].swapaxes(0, 1)
    assert (result.members == own).all()
    assert (result.heading == own.mean(0)).all()
    assert (calibrate_members(result.final, versions[-1]) == versions[-1]).all()
    assert list(result.final.weights.values()) == fit_weights(versions[-1], actual).tolist(), "of all rows' epochs"


def test_each_part_is_fitted_on_the_other_parts_alone():
    """By hand: temperature, weights and threshold by the functions that fit one of them."""
    actual, versions = panel(3, versions=4)
    parts = np.arange(ROWS) % 3
    result = cross_fit(fitting(vote="weighted", positive=1, rule="youden"), versions, actual, parts)
    for part in range(3):
        inside = parts == part
        outside, labels = versions[part][:, ~inside], actual[~inside]
        temperatures = [fit_temperature(member, labels) for member in outside]
        assert len({1.0, *temperatures}) == 4
        fitted_on = np.stack([apply_temperature(*pair) for pair in zip(outside, temperatures, strict=True)])
        weights = fit_weights(fitted_on, labels)
        pooled = np.tensordot(weights, fitted_on, 1)
        of_vote = fit_temperature(pooled, labels)
        threshold = threshold_by_rule(labels == 1, apply_temperature(pooled, of_vote)[:, 1], "youden")
        own = np.stack([apply_temperature(*pair) for pair in zip(versions[part][:, inside], temperatures, strict=True)])
        assert (result.members[:, inside] == own).all()
        expected = apply_temperature(np.tensordot(weights, own, 1), of_vote)
        assert (result.votes["weighted"][inside] == expected).all()
        assert (result.heading[inside] == expected).all()
        assert (result.uncalibrated[inside] == np.tensordot(weights, versions[part][:, inside], 1)).all()
        assert result.thresholds[inside].tolist() == [threshold] * inside.sum()


@pytest.mark.parametrize("calibrate", [True, False])
def test_a_panel_of_noise_is_no_better_on_its_validation_rows_than_on_fresh_ones(calibrate):
    """Eight members that know nothing, 60 rows of 20 groups; the mean over 20 draws of rows."""
    held_out, same_rows, fresh = [], [], []
    for seed in range(20):
        actual, versions = panel(100 + seed, members=8, versions=1, skill=0)
        new_actual, new = panel(900 + seed, members=8, rows=4000, skill=0)
        settings = fitting(8, "weighted", calibrate, stacks=False)
        parts = assign_parts(groups())
        result = cross_fit(settings, np.repeat(versions, parts.max() + 2, 0), actual, parts)
        held_out.append(log_loss(actual, result.heading))
        fresh.append(
            log_loss(new_actual, apply_vote(result.final, "weighted", calibrate_members(result.final, new[0])))
        )
        in_sample = apply_vote(result.final, "weighted", calibrate_members(result.final, versions[0]))
        same_rows.append(log_loss(actual, in_sample))
    assert abs(np.mean(held_out) - np.mean(fresh)) < 0.02
    assert np.mean(fresh) - np.mean(same_rows) > 0.02, "scored on the rows of the fit they look better"


def test_one_group_leaves_nothing_to_fit_on_but_the_final_fit():
    actual, versions = panel(8, versions=2)
    result = cross_fit(fitting(positive=1, rule="youden"), versions, actual, assign_parts(["p"] * ROWS))
    assert (result.members == versions[0]).all(), "a temperature of 1"
    assert result.heading == pytest.approx(versions[0].mean(0)), "equal weights and the simplest vote"
    assert result.votes["weighted"] == pytest.approx(versions[0].mean(0))
    assert np.isnan(result.thresholds).all()
    final = fit_panel(fitting(positive=1, rule="youden"), versions[1], actual, np.zeros(ROWS, np.int64))
    assert result.final == final
    assert (final.vote, final.losses, final.stacking) == ("soft", {}, None)
    assert "stacking" not in result.votes
    assert final.threshold is not None
    assert final.temperatures["m0"] == fit_temperature(versions[1, 0], actual)


def test_a_panel_of_one_member_is_the_member_in_every_vote():
    actual, versions = panel(9, members=1)
    result = cross_fit(fitting(1), np.repeat(versions, 4, 0), actual, np.arange(ROWS) % 3)
    assert result.final.weights == {"m0": 1.0}
    assert result.final.vote == "soft", "all votes are the same, and this one is the simplest"
    assert "stacking" not in result.votes, "there is nothing to stack"
    assert (result.votes["single"] == result.members[0]).all()
    for vote in TEMPERED:
        assert result.votes[vote] == pytest.approx(result.votes["soft"], abs=1e-12)
    assert (result.votes["hard"].argmax(1) == result.members[0].argmax(1)).all()


def test_temperatures_are_applied_before_the_votes_and_after_but_not_to_shares_of_votes():
    actual, (members,) = panel(10)
    fit = Fit(
        vote="soft",
        temperatures={"m0": 1.0, "m1": 2.0, "m2": 0.5},
        weights={"m0": 0.2, "m1": 0.3, "m2": 0.5},
        vote_temperatures={"soft": 2.0, "product": 3.0, "weighted": 0.5},
    )
    tempered = [softmax(np.log(member) / t, axis=1) for member, t in zip(members, (1.0, 2.0, 0.5), strict=True)]
    calibrated = calibrate_members(fit, members)
    assert calibrated == pytest.approx(np.stack(tempered), rel=1e-12)
    mean = np.mean(tempered, 0)
    assert apply_vote(fit, "soft", calibrated) == pytest.approx(np.sqrt(mean) / np.sqrt(mean).sum(1, keepdims=True))
    product = np.prod(tempered, 0) ** (1 / 3)
    assert apply_vote(fit, "product", calibrated) == pytest.approx(product / product.sum(1, keepdims=True))
    weighted = (0.2 * tempered[0] + 0.3 * tempered[1] + 0.5 * tempered[2]) ** 2
    assert apply_vote(fit, "weighted", calibrated) == pytest.approx(weighted / weighted.sum(1, keepdims=True))
    assert (apply_vote(replace(fit, single="m1"), "single", calibrated) == calibrated[1]).all()
    assert (apply_vote(fit, "hard", calibrated) == POOLS["hard"](calibrated, np.zeros(3))).all()
    assert (apply_vote(fit, "hard", calibrated).argmax(1) == POOLS["hard"](members, np.zeros(3)).argmax(1)).mean() > 0.9
    assert len(actual) == ROWS


def test_fitted_temperatures_are_the_best_by_an_independent_search():
    """Many rows, so that the prior does not matter; each vote's temperature is that of the calibrated members' vote."""
    actual, (members,) = panel(11, rows=4000, skill=4)
    fit = fit_panel(fitting(vote="product"), members, actual, np.zeros(4000, np.int64))

    def best(probabilities):
        def loss(temperature):
            return -log_softmax(np.log(probabilities) / temperature, axis=1)[np.arange(4000), actual].mean()

        return minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x

    for member, temperature in zip(members, fit.temperatures.values(), strict=True):
        assert temperature == pytest.approx(best(member), rel=0.02)
    product = POOLS["product"](calibrate_members(fit, members), np.zeros(3))
    assert fit.vote_temperatures["product"] == pytest.approx(best(product), rel=0.02)


def test_without_calibration_all_temperatures_are_1_and_the_votes_are_those_of_the_members_as_they_are():
    actual, versions = panel(12, versions=4)
    parts = np.arange(ROWS) % 3
    result = cross_fit(fitting(vote="product", calibrate=False), versions, actual, parts)
    assert set(result.final.temperatures.values()) == set(result.final.vote_temperatures.values()) == {1.0}
    own = versions[parts, :, np.arange(ROWS)].swapaxes(0, 1)
    for vote in ("hard", "soft", "product"):
        assert (result.votes[vote] == POOLS[vote](own, np.zeros(3))).all()
    assert (result.heading == result.votes["product"]).all()
    final = result.final
    for vote, function in (pair for pair in POOLS.items() if pair[0] != "single"):
        plain = function(versions[-1], fit_weights(versions[-1], actual))
        assert (apply_vote(final, vote, calibrate_members(final, versions[-1])) == plain).all()


def test_a_part_whose_other_rows_are_of_one_class_has_no_threshold():
    actual, versions = panel(14)
    actual[:] = 0
    parts = np.arange(ROWS) % 3
    actual[parts == 0] = 1
    result = cross_fit(fitting(positive=1, rule="youden"), np.repeat(versions, 4, 0), actual, parts)
    assert np.isnan(result.thresholds[parts == 0]).all()
    assert np.isfinite(result.thresholds[parts != 0]).all()
    without = cross_fit(fitting(positive=1, rule=None), np.repeat(versions, 4, 0), actual, parts)
    assert np.isnan(without.thresholds).all()
    assert without.final.threshold is None


def test_members_that_are_sure_and_wrong_give_finite_probabilities():
    actual, (members,) = panel(15, classes=3)
    members[0] = np.eye(3)[(actual + 1) % 3]
    members[1] = np.eye(3)[actual]
    result = cross_fit(fitting(classes=3), np.repeat(members[None], 6, 0), actual, assign_parts(groups()))
    for table in (*result.votes.values(), result.heading, *result.members):
        assert np.isfinite(table).all()
        assert table.sum(1) == pytest.approx(1)
    assert result.final.weights["m1"] > fits.ALONE
    assert result.final.weights["m0"] < 1e-3


def test_what_is_fitted_follows_from_params(params):
    def with_data(positive):
        return params.model_copy(update={"data": params.data.model_copy(update={"positive": positive})})

    settings = fitting_of(with_data("yes"), ["no", "yes"])
    assert (settings.positive, settings.rule, settings.vote) == (1, params.evaluate.threshold, params.ensemble.vote)
    assert list(settings.models) == list(params.models)
    assert fitting_of(with_data(None), ["a", "b", "c"]).positive is None
    for positive, classes in (("maybe", ["no", "yes"]), ("a", ["a", "b", "c"])):
        with pytest.raises(InputError, match=f"data.positive is '{positive}', expected one of two classes; there are"):
            fitting_of(with_data(positive), classes)


def test_a_fit_is_written_as_plain_numbers():
    fit = Fit(vote="soft", temperatures={"m": 1.5}, weights={"m": 1.0}, vote_temperatures={"soft": 1.0})
    assert fit.to_json() == dataclasses.asdict(fit)
    assert fit.to_json()["threshold"] is None
