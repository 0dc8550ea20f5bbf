"""The vote that heads a panel, the single member and the regression of stacking: how they are chosen and fitted."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from tests.panel.small_panels import ROWS, few, fitting, groups, panel
from tumorboard.base.errors import InputError
from tumorboard.evaluation.held_out import assign_parts
from tumorboard.evaluation.temperature import apply_temperature, fit_temperature
from tumorboard.panel import fits
from tumorboard.panel.fits import TIE, TooFewImagesError, choose_vote, cross_fit, fit_panel
from tumorboard.panel.fitted import Fit, apply_vote, calibrate_members
from tumorboard.panel.stacking import FEWEST, PENALTIES, apply_stacking, fit_stacking
from tumorboard.panel.votes import PROBABILISTIC, STACKING, TEMPERED, VOTES


def test_stacking_of_noise_is_no_better_on_its_validation_rows_than_on_fresh_ones():
    """As above; in-sample 16 coefficients and a penalty would look better."""
    held_out, fresh = [], []
    for seed in range(4):
        actual, versions = panel(100 + seed, members=8, versions=1, skill=0)
        new_actual, new = panel(900 + seed, members=8, rows=1500, skill=0)
        parts = assign_parts(groups())
        result = cross_fit(fitting(8, "stacking"), np.repeat(versions, parts.max() + 2, 0), actual, parts)
        held_out.append(log_loss(actual, result.heading))
        new_calibrated = calibrate_members(result.final, new[0])
        fresh.append(log_loss(new_actual, apply_vote(result.final, "stacking", new_calibrated)))
    assert abs(np.mean(held_out) - np.mean(fresh)) < 0.02
    assert np.mean(held_out) < np.log(2) + 0.03, "nothing is known, and nothing is claimed"


def test_auto_takes_the_simplest_vote_whose_loss_is_within_a_tie_of_the_least():
    losses = {"single": 0.1, "soft": 0.5, "product": 0.4, "weighted": 0.3}
    assert choose_vote(losses) == "weighted", "a single member is not taken, and stacking need not be there"
    assert choose_vote(losses | {"stacking": 0.2}) == "stacking"
    assert choose_vote(losses | {"stacking": 0.3 - 0.9 * TIE}) == "weighted"
    assert choose_vote(losses | {"product": 0.3 + 0.9 * TIE}) == "product"
    assert choose_vote(losses | {"product": 0.3 + 1.1 * TIE}) == "weighted"
    assert choose_vote(losses | {"soft": 0.3, "product": 0.3}) == "soft"
    assert choose_vote(losses | {"soft": 0.29}) == "soft"
    assert choose_vote({}) == "soft"


def test_auto_compares_the_votes_on_rows_that_the_compared_fits_left_out():
    actual, (members,) = panel(5)
    parts = np.arange(ROWS) % 4
    fit = fit_panel(fitting(), members, actual, parts)
    held_out = {name: np.empty((ROWS, 2)) for name in ("single", *TEMPERED, *PENALTIES)}
    for part in range(4):
        inside = parts == part
        labels = actual[~inside]
        without = fit_panel(fitting(vote="soft", stacks=False), members[:, ~inside], labels, parts[~inside])
        outside, within = (calibrate_members(without, members[:, rows]) for rows in (~inside, inside))
        for vote in ("single", *TEMPERED):
            held_out[vote][inside] = apply_vote(without, vote, within)
        for penalty in PENALTIES:
            held_out[penalty][inside] = apply_stacking(fit_stacking(outside, labels, penalty), within)
    losses = {name: log_loss(actual, probabilities) for name, probabilities in held_out.items()}
    losses[STACKING] = min(losses.pop(penalty) for penalty in PENALTIES)
    assert fit.losses == pytest.approx(losses, rel=1e-12)
    assert list(fit.losses) == list(PROBABILISTIC)
    assert fit.vote == choose_vote(losses)


def test_the_penalty_of_stacking_is_the_one_with_the_least_held_out_loss_and_the_fit_is_of_all_rows():
    actual, (members,) = panel(21, rows=120)
    parts = np.arange(120) % 5
    fit = fit_panel(fitting(vote="stacking"), members, actual, parts)
    held_out = {penalty: np.empty((120, 2)) for penalty in PENALTIES}
    for part in range(5):
        inside = parts == part
        temperatures = [fit_temperature(member[~inside], actual[~inside]) for member in members]
        pairs = list(zip(members, temperatures, strict=True))
        outside, within = ([apply_temperature(one[rows], t) for one, t in pairs] for rows in (~inside, inside))
        for penalty, probabilities in held_out.items():
            one = fit_stacking(np.stack(outside), actual[~inside], penalty)
            probabilities[inside] = apply_stacking(one, np.stack(within))
    best = min(PENALTIES, key=lambda penalty: log_loss(actual, held_out[penalty]))
    assert fit.stacking == fit_stacking(calibrate_members(fit, members), actual, best)
    assert (fit.vote, fit.losses) == ("stacking", {})


def test_the_single_member_has_the_least_loss_after_its_temperature():
    """The first is overconfident, which a temperature cures; the second is not, but knows less."""
    generator = np.random.default_rng(3)
    actual = generator.integers(0, 2, 400)
    good = 3 * (generator.normal(size=(400, 2)) + 2 * np.eye(2)[actual])
    poor = generator.normal(size=(400, 2)) + 0.8 * np.eye(2)[actual]
    members = softmax(np.stack([9 * good, poor, poor]), axis=-1)
    assert log_loss(actual, members[0]) > log_loss(actual, members[1])
    assert fit_panel(fitting(vote="single"), members, actual, np.arange(400) % 5).single == "m0"
    assert fit_panel(fitting(vote="single", calibrate=False), members, actual, np.arange(400) % 5).single == "m1"


def test_a_single_vote_is_the_members_calibrated_probabilities_to_the_last_digit_and_chosen_without_the_part():
    actual, versions = panel(16, versions=4)
    parts = np.arange(ROWS) % 3
    versions[1] = versions[1][::-1]  # without part 1 the first member is the best
    result = cross_fit(fitting(vote="single"), versions, actual, parts)
    chosen = []
    for part in range(3):
        inside = parts == part
        fit = fit_panel(fitting(vote="single"), versions[part][:, ~inside], actual[~inside], parts[~inside])
        chosen.append(fit.single)
        member = int(fit.single[1:])
        assert (result.heading[inside] == result.members[member][inside]).all()
        assert (result.uncalibrated[inside] == versions[part][member][inside]).all()
    assert chosen == ["m2", "m0", "m2"]


def test_auto_takes_the_weighted_vote_where_one_member_alone_knows_something():
    """Seven members are sure of what they do not know, which spoils mean and product; the good one has the weight."""
    generator = np.random.default_rng(0)
    actual, (members,) = panel(6, members=8, skill=0)
    members = members**3 / (members**3).sum(-1, keepdims=True)
    members[3] = softmax(3 * np.eye(2)[actual] + generator.normal(size=(ROWS, 2)), axis=1)
    fit = fit_panel(fitting(8, calibrate=False), members, actual, np.arange(ROWS) % 5)
    assert (fit.vote, fit.single) == ("weighted", "m3")
    assert fit.weights["m3"] > fits.ALONE
    assert sum(fit.weights.values()) == pytest.approx(1)


def test_auto_takes_stacking_where_a_member_leans_to_a_class():
    """Both know the same; the second names the first class too often, which no weight and no temperature undoes."""
    generator = np.random.default_rng(1)
    actual = generator.integers(0, 2, 200)
    logits = 1.5 * np.eye(2)[actual] + generator.normal(size=(2, 200, 2))
    logits[1, :, 0] += 4
    fit = fit_panel(fitting(2), softmax(logits, axis=-1), actual, np.arange(200) % 5)
    assert fit.vote == "stacking"
    unbiased = softmax(logits - [[[0, 0]], [[4, 0]]], axis=-1)
    assert fit_panel(fitting(2), unbiased, actual, np.arange(200) % 5).vote != "stacking"


def test_the_choice_for_a_part_is_nested_and_does_not_see_the_part(monkeypatch):
    """Every fit for a part, the comparison of the votes included, is of rows outside it."""
    actual, (members,) = panel(7)
    parts = np.arange(ROWS) % 4
    members[0, :, 0] = np.linspace(0.01, 0.99, ROWS)  # identifies the row
    members[0, :, 1] = 1 - members[0, :, 0]
    seen = []
    fit_numbers = fits._fit_numbers

    def spy(settings, some, labels):
        seen.append(frozenset(np.searchsorted(members[0, :, 0], some[0, :, 0]).tolist()))
        return fit_numbers(settings, some, labels)

    monkeypatch.setattr(fits, "_fit_numbers", spy)
    cross_fit(fitting(), np.repeat(members[None], 5, 0), actual, parts)
    everything = frozenset(range(ROWS))
    of_part = [frozenset(np.flatnonzero(parts == part).tolist()) for part in range(4)]
    expected = []
    for part in range(4):
        outside = everything - of_part[part]
        expected += [outside, *(outside - of_part[other] for other in range(4) if other != part)]
    assert seen == [*expected, everything, *(everything - one for one in of_part)]


def test_a_hard_vote_has_no_threshold_which_would_overrule_a_majority():
    actual, (members,) = panel(4)
    parts = np.arange(ROWS) % 5
    thresholds = {
        vote: fit_panel(fitting(vote=vote, positive=1, rule="youden"), members, actual, parts).threshold
        for vote in VOTES
    }
    assert [vote for vote, threshold in thresholds.items() if threshold is None] == ["hard"]


def test_stacking_is_the_same_without_temperatures_of_which_it_has_none():
    actual, versions = panel(14, rows=120, versions=1)
    parts = np.arange(120) % 3
    result = cross_fit(fitting(vote="stacking"), np.repeat(versions, 4, 0), actual, parts)
    assert set(result.final.temperatures.values()) != {1.0}, "members are calibrated before the regression"
    assert (result.uncalibrated == result.heading).all()


def test_the_heading_is_the_vote_that_was_asked_for_and_losses_are_of_auto_alone():
    actual, versions = panel(13, versions=1)
    for vote in VOTES:
        result = cross_fit(fitting(vote=vote), np.repeat(versions, 4, 0), actual, np.arange(ROWS) % 3)
        assert (result.heading == result.votes[vote]).all()
        assert (result.final.vote, result.final.losses) == (vote, {})


def test_with_too_few_rows_of_a_class_auto_leaves_stacking_out_and_its_name_is_refused():
    """A fit without one of five parts has four fifths of the rows: 13 leave 10 or 11, 12 leave 9 or 10."""
    _, (members,) = panel(17)
    assert FEWEST == 10
    for count, stacked in ((13, True), (12, False)):
        actual, parts = few(count)
        versions = np.repeat(members[None], 6, 0)
        result = cross_fit(fitting(), versions, actual, parts)
        assert ("stacking" in result.votes, result.final.stacking is not None) == (stacked, stacked)
        assert ("stacking" in result.final.losses, "stacking" in result.final.votes) == (stacked, stacked)
        if not stacked:
            message = (
                "ensemble.vote is stacking, but a fit has 9 validation images of 'c1', it needs 10: choose another"
            )
            with pytest.raises(TooFewImagesError, match=message):
                cross_fit(fitting(vote="stacking"), versions, actual, parts)


def test_one_model_is_stacked_only_with_a_column():
    actual, (members,) = panel(18, members=1)
    parts = np.arange(ROWS) % 5
    with pytest.raises(
        InputError, match=r"is stacking, but there is one model, and ensemble\.stacking_columns names no"
    ):
        fit_panel(fitting(1, "stacking"), members, actual, parts)
    sexes = np.where(actual == 1, "f", "m").astype(object)[:, None]
    fit = fit_panel(fitting(1, "stacking", columns=["sex"]), members, actual, parts, cells=sexes)
    voted = apply_vote(fit, "stacking", calibrate_members(fit, members), sexes)
    assert log_loss(actual, voted) < 0.5 * log_loss(actual, calibrate_members(fit, members)[0]), "the sex is the label"


def test_a_vote_that_was_not_fitted_is_not_applied():
    fit = Fit(vote="soft", temperatures={"m": 1.0}, weights={"m": 1.0}, vote_temperatures={})
    assert fit.votes == ("single", "hard", "soft", "product", "weighted")
    with pytest.raises(ValueError, match="stacking was not fitted"):
        apply_vote(fit, "stacking", np.full((1, 3, 2), 0.5))
