import dataclasses
import re

import pytest

from tests.report.finished_run import conclusions_of
from tumorboard.panel.stacking import Column, Stacking
from tumorboard.report.checklist import CHECKLISTS, CLAIM, TRIPOD_AI, fill_in
from tumorboard.report.checklist_answers import FOR_AUTHOR, fairness, for_author


def answers(results, name="CLAIM 2024"):
    """Returns the answers by number, with plain spaces."""
    filled = fill_in(results, conclusions_of(results))[name]
    return {row["number"]: row["answer"].replace("\N{NO-BREAK SPACE}", " ") for row in filled}


def change(results, section, **changes):
    return dataclasses.replace(results, **{section: getattr(results, section).model_copy(update=changes)})


def test_the_numbers_are_those_of_the_papers():
    assert [item["number"] for item in CLAIM] == list(range(1, 45))
    assert [item["number"] for item in TRIPOD_AI] == list(range(1, 28))


@pytest.mark.parametrize("name", CHECKLISTS)
def test_no_item_is_without_a_whole_answer(results, binary, unknown, name):
    for one in (results, binary, unknown, dataclasses.replace(results, test=None)):
        for number, answer in answers(one, name).items():
            assert answer.endswith("."), (number, answer)
            assert answer == answer.strip()
            assert not re.search(r"\bNone\b(?! in this run)|\bnan\b|\{|\}|\.\.|  |undefined", answer), (number, answer)


def test_what_no_file_can_know_is_for_the_author():
    """Aims, design, de-identification, acquisition, annotation, registration, funding; ethics, the public."""
    authors = {item["number"] for item in CLAIM if item["answer"] is for_author}
    assert authors == {1, 2, 3, 4, 5, 6, 11, 13, 14, 15, 16, 17, 18, 34, 44}
    assert {17, 19, 25} <= {item["number"] for item in TRIPOD_AI if item["answer"] is for_author}


def test_a_run_of_patients_states_them(binary):
    claim = answers(binary)
    assert claim[20] == "0 of 72 patients are divided between parts or folds."
    assert "216 images of 72 patients" in claim[35]
    assert "Not known" not in claim[29]


def test_a_run_without_patients_says_that_they_are_not_known(unknown):
    claim, tripod = answers(unknown), answers(unknown, "TRIPOD+AI")
    assert claim[20].startswith("Not known for patients: nobody said what a group is (data.unit).")
    assert "Not known: the number of patients." in claim[35]
    assert "Not known: whether a group is a patient." in claim[29]
    assert "Not known: the number of patients." in tripod[20]
    without = re.compile(r"(for|number of|is a|share) patients?|about a patient", re.IGNORECASE)
    for answer in [*claim.values(), *tripod.values()]:
        assert "patient" not in without.sub("", answer), answer


def test_another_unit_is_no_patient(binary):
    claim = answers(dataclasses.replace(binary, unit="slide"))
    assert claim[20] == (
        "0 of 72 slides are divided between parts or folds. Not known for patients: a group is a slide."
    )
    assert "Not known: the number of patients." in claim[35]


def test_a_patient_on_both_sides_is_counted(binary):
    """The table itself is looked at: what the split stage promises is no answer."""
    manifest = binary.manifest.copy()
    first = manifest.index[manifest["split"] == "test"][0]
    manifest.loc[first, "group"] = manifest["group"][manifest["split"] == "train"].iloc[0]
    assert answers(dataclasses.replace(binary, manifest=manifest))[20].startswith("1 of 72 patients are divided")
    leaking = dataclasses.replace(binary, audit_metrics={**binary.audit_metrics, "may_leak": True})
    assert answers(leaking)[20].endswith("Copies of pictures may be on both sides.")


def test_an_unscored_test_part_has_no_test_scores(judged):
    results = judged(changes={"evaluate": {"test": False}})
    claim, tripod = answers(results), answers(results, "TRIPOD+AI")
    accuracy = f"{100 * results.validation.headline['accuracy']:.1f} %"
    assert claim[32].startswith("The test part is not scored (evaluate.test: false). Soft vote, 144 validation images:")
    assert accuracy in claim[32]
    assert " test images" not in claim[37] + claim[38] + claim[39] + tripod[23]
    assert "shown" not in claim[39]


def test_a_scored_test_part_has_its_interval(binary):
    head = binary.test.headline
    low, high = (f"{100 * head[f'accuracy_{end}']:.1f} %" for end in ("low", "high"))
    assert answers(binary)[37].startswith(
        f"Soft vote, 72 test images: accuracy {100 * head['accuracy']:.1f} % ({low} to {high}), AUC {head['auc']:.3f} ("
    )


def test_too_few_patients_are_said_in_place_of_an_interval(judged):
    assert "(too few patients: 6)" in answers(judged(groups=18))[37]


def test_diagnostic_accuracy_needs_a_positive_class(results, binary):
    assert answers(results)[38].startswith("No class is positive (data.positive)")
    claim = answers(binary)
    assert claim[38].startswith(
        f"For b, on test images: sensitivity {100 * binary.test.headline['sensitivity']:.1f} % ("
    )
    assert "sensitivity" in claim[28]
    assert "sensitivity" not in answers(results)[28]
    threshold = f"b is decided from a probability of {binary.fit.threshold:.3f}"
    assert threshold in answers(binary, "TRIPOD+AI")[15]
    assert "the most probable class is decided" in answers(results, "TRIPOD+AI")[15]


def test_folds_are_counted(results, judged):
    claim = answers(results)
    assert claim[25].startswith("4 trainings: 2 models on 2 folds.")
    assert "spread over 2 folds" in claim[30]
    assert "mean of its 2 folds" in claim[27]
    one = answers(judged(changes={"models": ("cnn",), "folds": (1,)}))
    assert one[25].startswith("1 training: 1 model on 1 fold.")
    assert "folds" not in one[30]
    assert one[27] == "One model, cnn, under the name of the soft vote."


@pytest.mark.parametrize(
    ("pretrained", "text"),
    [
        ("none", "random weights"),
        ("packaged", "ImageNet weights of a Python package"),
        ("weights/mine.pth", "the file weights/mine.pth"),
    ],
)
def test_initial_weights_are_those_of_the_recipe(results, pretrained, text):
    recipes = {name: {**recipe, "pretrained": pretrained} for name, recipe in results.recipes.items()}
    assert answers(dataclasses.replace(results, recipes=recipes))[24] == f"linear: {text}; cnn: {text}."


def test_the_choice_of_the_epoch_and_of_the_vote(results):
    epochs = (
        "linear, those of the epoch with the best validation auc; cnn, those of the epoch with the best validation loss"
    )
    assert answers(results)[26] == f"Weights kept: {epochs}."
    recipes = {name: {**recipe, "keep": "last"} for name, recipe in results.recipes.items()}
    fit = dataclasses.replace(results.fit, losses={"soft": 0.5})
    changed = dataclasses.replace(results, recipes=recipes, fit=fit)
    assert answers(changed)[26] == (
        "Weights kept: linear, those of the last epoch; cnn, those of the last epoch. "
        "The vote was chosen by validation loss."
    )


def test_a_hard_vote_has_no_measures_of_probabilities(hard):
    claim = answers(hard)
    assert claim[28].startswith("Scores: accuracy, balanced accuracy, macro F1; ")
    assert "AUC" not in claim[37]
    assert answers(hard, "TRIPOD+AI")[15].startswith("Shares of votes, no probabilities;")


def test_heat_maps_are_named_where_there_are_any(results):
    """`linear` has none; 31 is about methods to interpret what a model does."""
    maps = results.explained["test"]
    assert list(maps.members) == ["cnn"]
    limits = "They show where the evidence is, not that it is right."
    start = f"Heat maps (Grad-CAM) of cnn for {len(maps.examples)} images"
    assert answers(results)[31] == f"{start}; not compared with the places of lesions. {limits}"
    boxed = dataclasses.replace(results, places={**results.places, "test": {"images": 4}})
    assert answers(boxed)[31] == f"{start}, compared with the boxes of data.boxes. {limits}"
    without = {name: dataclasses.replace(one, members={}, vote=None) for name, one in results.explained.items()}
    assert answers(dataclasses.replace(results, explained=without))[31].startswith("No heat map was computed: ")


def test_columns_that_the_vote_uses_are_named(results):
    assert answers(results, "TRIPOD+AI")[9].endswith("; no column of the data's table is used.")
    column = Column("age", (), mean=50.0, scale=10.0)
    stacking = Stacking(penalty=1.0, columns=(column,), coefficients=((0.0,),), intercepts=(0.0,))
    changed = dataclasses.replace(results, fit=dataclasses.replace(results.fit, stacking=stacking))
    assert answers(changed, "TRIPOD+AI")[9].endswith(
        ". The stacking vote also uses the columns age of the data's table."
    )


def test_leaving_a_site_out_is_the_partition_and_the_external_test(results):
    left_out = change(results, "split", leave_out="site")
    assert "one fold per value of site" in answers(left_out)[19]
    assert answers(left_out)[33].startswith("Each fold validates on a value of site that its models never saw.")
    assert answers(results)[33].startswith("Not known: all images are in data/phantom.")
    assert "drawn with seed 0" in answers(results)[19]


def test_a_control_says_so_wherever_it_states_a_score(results):
    control = answers(change(results, "split", control=3))
    assert control[37].startswith("Control with shuffled labels. ")
    assert control[32].startswith("Control with shuffled labels. ")


def test_fairness_is_answered_where_a_column_is_scored(results):
    start, none = "Scores by site on test images.", "none is below the others beyond noise; a gap may be missed."
    assert answers(results, "TRIPOD+AI")[14] == f"{start} Of values that could be compared {none}"
    drawn = conclusions_of(results)
    few = "too few patients to compare (2)"
    for verdicts, answer in (
        ([few, few], f"{start} No value could be compared with the others: {few}."),
        (["within noise", few], f"{start} Of values that could be compared {none} 1 value could not be compared."),
    ):
        changed = dataclasses.replace(drawn, subgroups=drawn.subgroups.assign(verdict=verdicts))
        assert fairness(results, changed) == answer
    warned = dataclasses.replace(drawn, subgroup_warnings=["site north: 60.0 % of 36 images are right"])
    assert fairness(results, warned) == f"{start} Site north: 60.0 % of 36 images are right."
    without = change(results, "evaluate", subgroups=())
    assert answers(without, "TRIPOD+AI")[14] == f"No column is scored by its values (evaluate.subgroups). {FOR_AUTHOR}"
    assert "site" not in answers(without)[30]


def test_imbalance_is_that_of_the_training_labels(results):
    assert answers(results, "TRIPOD+AI")[13].endswith("Classes are balanced by balance.strategy: augment.")
    few = results.manifest[(results.manifest["label"] != "ordinary") | (results.manifest["split"] == "test")]
    changed = dataclasses.replace(results, manifest=few, balance="none")
    answer = answers(changed, "TRIPOD+AI")[13]
    assert answer.endswith("ordinary 0.0 %. Classes are not balanced.")


def test_preprocessing_is_that_of_the_params(results):
    crop = change(results, "crop", side=224, border=False, window=(-100.0, 300.0))
    assert answers(crop)[9] == (
        "Each image is cropped to a square of 224 pixels; grey values beyond 8 bits by crop.window: (-100.0, 300.0); "
        "the same for all parts."
    )
    assert answers(change(results, "crop", border=True))[9].startswith("A dark border is removed, then each image")


def test_limitations_are_the_cautions_of_the_front_page(unknown):
    assert "Nobody said what a group is (data.unit)" in answers(unknown)[40]
    assert answers(unknown)[40].endswith(FOR_AUTHOR)
