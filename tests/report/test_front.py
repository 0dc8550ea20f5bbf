import dataclasses

import numpy as np
import pytest

from tests.report.finished_run import CLASSES, conclusions_of
from tumorboard.base.tables import make_predictions
from tumorboard.panel.comparison import HEADING
from tumorboard.report.front import front_page, interval_text, percent, score_text


def front_of(results):
    return front_page(results, conclusions_of(results))


def replace_part(results, name, **changes):
    return dataclasses.replace(results, **{name: dataclasses.replace(getattr(results, name), **changes)})


def with_heading(scores, changes):
    votes = scores["votes"]
    return {**scores, "votes": {**votes, HEADING: {**votes[HEADING], **changes}}}


def replace_fit(results, **changes):
    return dataclasses.replace(results, fit=dataclasses.replace(results.fit, **changes))


def test_facts_say_what_the_study_is(results):
    assert front_of(results).facts | {"run": ""} == {
        "images": "90 of 30 patients in data/phantom",
        "classes": ", ".join(CLASSES),
        "crops": f"{results.crop.side} pixels",
        "models": "linear, cnn",
        "vote": "soft vote",
        "run": "",
    }


def test_patients_that_share_a_picture_are_counted_before_and_after(results):
    metrics = dict(results.split_metrics) | {"merged_groups": 2}
    facts = front_of(dataclasses.replace(results, split_metrics=metrics)).facts
    assert facts["images"] == "90 of 30 patients (32 before those that share a picture were merged) in data/phantom"


def test_a_weighted_vote_is_named_with_its_weights_and_a_chosen_one_as_chosen(results):
    weighted = replace_fit(
        results, vote="weighted", weights={"linear": 0.254, "cnn": 0.746}, losses={"soft": 0.5, "weighted": 0.4}
    )
    facts = front_page(weighted, conclusions_of(results)).facts
    assert facts["vote"] == "weighted vote (linear 0.25, cnn 0.75), chosen by validation loss"


def test_the_claim_has_the_share_its_interval_and_the_most_frequent_class(results):
    head = results.test.headline
    probe, *claim = front_of(results).claim
    assert probe.startswith(
        "A model that sees no image, only facts of the files (width), has a balanced accuracy of 50.0"
    )
    shares = [percent(head[name]) for name in ("accuracy", "accuracy_low", "accuracy_high")]
    assert claim[0] == (
        f"The soft vote classifies {shares[0]} of 36 test images of 12 patients as they are labeled, by the "
        f"most probable class (95 % interval {shares[1]} to {shares[2]})."
    )
    assert claim[1] == f"Always predicting the most frequent class would score {percent(1 / 3)}."
    assert claim[2].startswith("The soft vote against cnn, on the same images: ")
    assert claim[2].endswith(": within noise.")
    assert claim[3].startswith("12 patients: this run can tell differences of about ")
    assert len(claim) == 4


def test_the_claim_without_an_interval_says_why(judged):
    claim = front_of(judged(groups=18)).claim
    assert claim[0].endswith("as they are labeled, by the most probable class (too few patients: 6).")
    assert claim[3] == "6 patients: too few to tell any difference."


def test_a_positive_class_is_claimed_at_the_threshold_of_validation_images(binary):
    head = binary.test.headline
    (sentence,) = [sentence for sentence in front_of(binary).claim if "Deciding" in sentence]
    assert sentence.startswith(
        f"Deciding for b from a probability of {binary.fit.threshold:.3f} on, chosen on validation"
    )
    ends = f"{percent(head['decided_accuracy_low'])} to {percent(head['decided_accuracy_high'])}"
    assert f"{percent(head['decided_accuracy'])} ({ends}) of these decisions are right" in sentence
    (comparison,) = [sentence for sentence in front_of(binary).claim if "on the same images" in sentence]
    assert " points of accuracy by the most probable class (" in comparison
    assert f"its sensitivity is {percent(head['sensitivity'])} ({percent(head['sensitivity_low'])} to " in sentence
    assert f"its specificity {percent(head['specificity'])} (" in sentence
    assert binary.test.headline["images"] == 72


def test_without_a_rule_the_positive_class_has_no_threshold(judged):
    results = judged(changes={"data": {"positive": "b"}, "evaluate": {"threshold": None}})
    assert results.fit.threshold is None
    (sentence,) = [sentence for sentence in front_of(results).claim if "Deciding" in sentence]
    assert sentence.startswith("Deciding for b, as predict does: its sensitivity is ")


def test_a_plain_run_of_patients_has_no_caution(binary):
    """Its members are weak and equal, so that the vote is better than each; its audit found no shortcut."""
    binary = dataclasses.replace(binary, audit_metrics={**binary.audit_metrics, "shortcuts": 0})
    tree = binary.validation.scores
    members = {name: scores | {"loss": 9.0} for name, scores in tree["members"].items()}
    assert front_of(replace_part(binary, "validation", scores=tree | {"members": members})).cautions == []


def test_a_control_is_the_first_caution_and_has_no_suspects(binary):
    control = dataclasses.replace(binary, split=binary.split.model_copy(update={"control": 7}))
    assert front_of(control).cautions[0] == (
        "This is a control: labels were shuffled over patients, so that every score should be at chance."
    )
    assert conclusions_of(control).suspects.empty
    assert not conclusions_of(binary).suspects.empty


def test_an_unscored_test_part_is_said_and_the_claim_is_of_validation_images(judged):
    front = front_of(judged(changes={"evaluate": {"test": False}}))
    assert "The test part is not scored (evaluate.test: false): by these validation scores the choices are made." in (
        front.cautions
    )
    assert " validation images of 48 patients " in front.claim[0]
    assert all("test image" not in sentence for sentence in [*front.claim, *front.failures])


def test_a_patient_with_many_images_is_named(judged):
    """Of 24 test patients the first twelve are one: 36 of 72 images."""
    cautions = front_of(judged(giant=True)).cautions
    assert "One patient has 50 % of the images: its images decide the scores." in cautions


def test_a_split_that_may_leak_is_a_caution(binary):
    leaking = dataclasses.replace(binary, audit_metrics={**binary.audit_metrics, "may_leak": True})
    assert "Copies of pictures may be on both sides of the split (audit.policy: report)." in front_of(leaking).cautions


@pytest.mark.parametrize(("member", "named"), [(0.1, True), (9.0, False)])
def test_a_member_that_is_better_than_the_vote_by_validation_loss_is_named(binary, member, named):
    tree = binary.validation.scores
    members = {"linear": tree["members"]["linear"] | {"loss": 9.0}, "cnn": tree["members"]["cnn"] | {"loss": member}}
    cautions = front_of(replace_part(binary, "validation", scores=tree | {"members": members})).cautions
    sentence = (
        f"cnn alone has a lower validation loss ({member:.4f}) than the vote ({tree['votes'][HEADING]['loss']:.4f})."
    )
    assert (sentence in cautions) == named


@pytest.mark.parametrize(
    ("vote", "weight", "named"), [("weighted", 0.96, True), ("weighted", 0.94, False), ("soft", 0.96, False)]
)
def test_a_weighted_vote_that_is_one_member_is_named(binary, vote, weight, named):
    conclusions = conclusions_of(binary)
    fitted = replace_fit(binary, vote=vote, weights={"linear": 1 - weight, "cnn": weight})
    sentence = f"This vote is cnn alone: its weight is {weight:.2f}."
    assert (sentence in front_page(fitted, conclusions).cautions) == named


@pytest.mark.parametrize(("looks", "named"), [(4, False), (5, True)])
def test_more_looks_at_the_test_part_than_this_run_has_models_are_counted(binary, looks, named):
    """Two models of two folds are four looks of their own."""
    counted = dataclasses.replace(binary, looks=looks)
    sentence = (
        f"Scores on this test part were computed for {looks} sets of weights so far: the best of many looks better "
        "than it is."
    )
    assert (sentence in front_of(counted).cautions) == named


def test_a_run_whose_groups_nobody_named_says_so_and_claims_no_patients(unknown):
    front = front_of(unknown)
    assert front.cautions[-1].startswith("Nobody said what a group is (data.unit)")
    assert " test images of 24 groups " in front.claim[0]
    assert "patient" not in " ".join([*front.claim, *front.failures, *front.facts.values()])


def heading_of(results, right):
    """Returns the results with a heading vote that is right where `right` says so, and sure of each image."""
    table = results.test.heading
    actual = table["label"].map(["a", "b"].index).to_numpy()
    decided = np.where(right, actual, 1 - actual)
    digest = table["manifest"][0]
    return replace_part(
        results,
        "test",
        votes={**results.test.votes, HEADING: make_predictions(table, np.eye(2)[decided], ["a", "b"], digest)},
    )


def test_failures_name_the_weakest_class_and_the_few_patients_with_half_of_the_mistakes(binary):
    """Class b has 36 test images, 27 of them right; the nine mistakes are three patients', two of whom have six."""
    table = binary.test.heading
    of_b = table["label"] == "b"
    groups = table["group"][of_b].unique()[:3]
    failures = front_of(heading_of(binary, ~table["group"].isin(groups).to_numpy())).failures
    assert failures[:2] == [
        f"Of b, {percent(0.75)} of 36 test images are recognized, the least of all classes.",
        "Half of its 9 mistakes are on images of 2 of 24 patients.",
    ]


def test_without_mistakes_no_patient_is_named(binary):
    right = heading_of(binary, np.ones(len(binary.test.heading), bool))
    images = len(binary.test.heading)
    assert front_of(right).failures == [
        f"Every one of the {images} test images is recognized: they do not show where it fails."
    ]


def test_the_only_class_of_the_test_images_is_not_the_weakest_of_all(binary):
    table = binary.test.heading
    one = table[table["label"] == "a"].assign(p_a=[0.2, *[0.9] * (int((table["label"] == "a").sum()) - 1)])
    one = one.assign(p_b=1 - one["p_a"])
    failures = front_of(replace_part(binary, "test", votes={**binary.test.votes, HEADING: one})).failures
    assert failures[0].startswith("Of a, ")
    assert failures[0].endswith(f"of {len(one)} test images are recognized; no test image is of another class.")


def test_one_patient_is_counted_in_the_singular(binary):
    head = {"groups": 1}
    one = replace_part(binary, "test", scores=with_heading(binary.test.scores, head))
    assert any("test images of 1 patient as they are labeled" in sentence for sentence in front_of(one).claim)


def test_a_weak_site_is_a_failure(binary):
    conclusions = dataclasses.replace(conclusions_of(binary), subgroup_warnings=["site north: 60.0 % of 36 images"])
    assert front_page(binary, conclusions).failures[-1] == "Site north: 60.0 % of 36 images."


def test_shares_and_intervals_as_text():
    nbsp = "\N{NO-BREAK SPACE}%"
    assert [percent(value) for value in (0.9434, 1.0, None, float("nan"))] == [
        f"94.3{nbsp}",
        f"100.0{nbsp}",
        "undefined",
        "undefined",
    ]
    scores = {"accuracy_low": 0.9, "accuracy_high": 0.95, "auc_low": None, "auc_high": None}
    scores |= {"auc_method": "too few smears for an interval (3)"}
    assert interval_text(scores, "accuracy") == f"90.0{nbsp} to 95.0{nbsp}"
    assert interval_text(scores, "accuracy", 2) == "0.90 to 0.95"
    assert interval_text(scores, "auc", 4) == "too few smears: 3"
    assert interval_text(scores, "f1") == ""
    scores["auc_method"] = "too few smears of 'blast (L1)' to rank held-out images (6)"
    assert interval_text(scores, "auc", 4) == "too few smears of 'blast (L1)' to rank held-out images: 6"


def test_the_run_is_that_of_the_control_in_params(judged):
    results = judged(changes={"split": {"control": 3}})
    assert results.control == 3


@pytest.mark.parametrize("skill", ["0.99", "-0.5", ""])
def test_a_probe_that_beats_the_vote_without_seeing_an_image_is_the_first_sentence(binary, skill):
    """Of two classes, a skill of 0.99 is a balanced accuracy of 0.995."""
    probe = binary.test_shortcuts.assign(skill=[skill, ""])
    first = front_of(dataclasses.replace(binary, test_shortcuts=probe)).claim[0]
    claimed = "only facts of the files (width), has a balanced accuracy of 99.5\N{NO-BREAK SPACE}%" in first
    assert claimed == (skill == "0.99")


def test_a_shortcut_is_a_caution_with_its_scores_unless_the_claim_begins_with_one(binary):
    """Of two classes, skills of 0.567 and 0.3 are balanced accuracies of 0.7835 and 0.65."""
    assert binary.audit_metrics["shortcuts"] == 1
    for skill, cautions in (("0.3", 1), ("0.99", 0), ("", 1)):
        probe = binary.test_shortcuts.assign(skill=[skill, "0.1"])
        front = front_of(dataclasses.replace(binary, test_shortcuts=probe))
        about = [sentence for sentence in front.cautions if "sees no image" in sentence]
        assert len(about) == cautions
        of_test = f"{percent(0.65)} on test images" if skill else "undefined on test images"
        scored = f"(width), has a balanced accuracy of {percent(0.7835)} on training images ({of_test}):"
        assert all(scored in sentence for sentence in about)


def test_the_skill_on_test_images_is_that_among_the_classes_that_they_have(judged):
    """Of two of three classes, a skill of 0.4 is a balanced accuracy of 1/2 + 0.4 / 2; of all three 1/3 + 0.4 * 2/3."""
    results = judged(classes=["a", "b", "c"])
    probe = results.shortcuts.assign(skill=["0.4", ""])
    lacks = results.manifest[(results.manifest["split"] != "test") | (results.manifest["label"] != "c")]
    audit = {**results.audit_metrics, "shortcuts": 1}
    for manifest, of_test in ((results.manifest, 0.6), (lacks, 0.7)):
        changed = dataclasses.replace(
            results, manifest=manifest, shortcuts=probe, test_shortcuts=probe, audit_metrics=audit
        )
        changed = replace_part(changed, "test", scores=with_heading(results.test.scores, {"balanced_accuracy": 0.9}))
        (about,) = (sentence for sentence in front_of(changed).cautions if "sees no image" in sentence)
        assert f"balanced accuracy of {percent(0.6)} on training images ({percent(of_test)} on test images)" in about


@pytest.mark.parametrize(("low", "high", "named"), [(0.8, 0.79, True), (0.8, 0.8, False), (None, 0.1, False)])
def test_validation_scores_beyond_the_test_interval_are_a_caution(binary, low, high, named):
    validation, test = binary.validation.scores, binary.test.scores
    head = {"accuracy": 0.85, "accuracy_low": low, "accuracy_high": 0.9, "accuracy_method": "too few patients"}
    both = replace_part(binary, "validation", scores=with_heading(validation, head))
    cautions = front_of(replace_part(both, "test", scores=with_heading(test, {"accuracy_high": high}))).cautions
    sentence = "Of validation images the vote classifies 85.0\N{NO-BREAK SPACE}% as they are labeled (80.0"
    assert any(caution.startswith(sentence) for caution in cautions) == named


@pytest.mark.parametrize(
    ("scores", "digits", "text"),
    [
        ({"auc": None, "auc_low": None, "auc_high": None, "auc_method": "undefined"}, 3, "undefined"),
        ({"auc": float("nan")}, None, "undefined"),
        (
            {"auc": None, "auc_low": None, "auc_high": None, "auc_method": "too few smears of 'a' to rank images (6)"},
            3,
            "undefined (too few smears of 'a' to rank images: 6)",
        ),
        ({"auc": 0.5}, 3, "0.500"),
        ({"auc": 0.5, "auc_low": 0.25, "auc_high": 0.75}, 2, "0.50 (0.25 to 0.75)"),
        (
            {"auc": 1.0, "auc_low": None, "auc_high": None, "auc_method": "too few groups for an interval (4)"},
            3,
            "1.000 (too few groups: 4)",
        ),
    ],
)
def test_a_score_has_its_interval_in_brackets_and_an_undefined_one_is_named_once(scores, digits, text):
    assert score_text(scores, "auc", digits) == text


def test_an_undefined_sensitivity_is_named_once_on_the_front_page(binary):
    none = {"sensitivity": None, "sensitivity_low": None, "sensitivity_high": None, "sensitivity_method": "undefined"}
    changed = replace_part(binary, "test", scores=with_heading(binary.test.scores, none))
    claim = front_page(changed, conclusions_of(binary)).claim
    assert any("its sensitivity is undefined, its specificity " in sentence for sentence in claim)


@pytest.mark.parametrize(
    ("low", "said"), [(0.051, True), (0.05, False), (0.01, False), (None, False)], ids=["more", "equal", "few", "none"]
)
def test_a_test_part_of_another_kind_is_named(results, low, said):
    share = {"unlike": 0.123, "unlike_low": low, "unlike_high": 0.2}
    changed = replace_part(results, "test", scores={**results.test.scores, **share})
    cautions = front_page(changed, conclusions_of(results)).cautions
    expected = (
        "12.3\N{NO-BREAK SPACE}% (5.1\N{NO-BREAK SPACE}% to 20.0\N{NO-BREAK SPACE}%) of the test images are unlike the "
        "training images, where at most 5.0\N{NO-BREAK SPACE}% of new images of the same source would be: the test "
        "part is of another kind, and validation scores say little about it."
    )
    assert (expected in cautions) == said
    assert any("unlike" in caution for caution in cautions) == said


def test_an_unscored_test_part_is_not_called_unlike(results):
    cautions = front_page(dataclasses.replace(results, test=None), conclusions_of(results)).cautions
    assert not any("unlike" in caution for caution in cautions)
