"""Answers to reporting checklists that are about models and scores; what no file contains is left to the author."""

from tumorboard.base.errors import counted
from tumorboard.base.tables import classes_of
from tumorboard.evaluation.subgroups import ABOVE, BELOW, NOISE
from tumorboard.evaluation.summary import OF_PROBABILITIES, SUMMARY_SCORES
from tumorboard.panel.votes import STACKING
from tumorboard.report.checklist_data import NOT_KNOWN, balancing, partitions
from tumorboard.report.conclusions import Conclusions, sentence_of
from tumorboard.report.front import front_page, score_text
from tumorboard.report.results import Results, name_of_vote

FOR_AUTHOR = "For the author."

_STARTS = {
    "none": "random weights",
    "imagenet": "ImageNet weights of torchvision",
    "packaged": "ImageNet weights of a Python package",
}
_NAMES = {"loss": "cross-entropy", "brier": "Brier score", "f1": "macro F1", "auc": "AUC"}


def for_author(_results: Results, _conclusions: Conclusions) -> str:
    """Returns that no file of a run has the answer."""
    return FOR_AUTHOR


def models(results: Results, _: Conclusions) -> str:
    """Names architectures, inputs and outputs."""
    named = [
        f"{name}: {recipe['architecture']}, head {recipe['head']}, {_parameters(results, name):,} parameters"
        for name, recipe in results.recipes.items()
    ]
    classes = len(classes_of(results.shown.heading))
    side = f"{results.crop.side} × {results.crop.side} pixels"
    return f"{'; '.join(named)}. Input: {side}, RGB; output: {classes} probabilities."


def software(_results: Results, _conclusions: Conclusions) -> str:
    """Reports where the versions stand."""
    return "'Reproduce this report' has the versions of the libraries."


def initialization(results: Results, _: Conclusions) -> str:
    """Names the weights that each training starts from."""
    named = [
        f"{name}: {_STARTS.get(recipe['pretrained'], 'the file ' + str(recipe['pretrained']))}"
        for name, recipe in results.recipes.items()
    ]
    return f"{'; '.join(named)}."


def training(results: Results, _: Conclusions) -> str:
    """Reports the number of trainings and the place of their recipes."""
    folds = len(next(iter(results.evaluations.values())))
    trainings = folds * len(results.recipes)
    return (
        f"{counted(trainings, 'training')}: {counted(len(results.recipes), 'model')} on {counted(folds, 'fold')}. "
        f"'Recipes' has every hyper-parameter and random change. {balancing(results)}"
    )


def selection(results: Results, _: Conclusions) -> str:
    """Reports by which scores the epoch and the vote were chosen."""
    kept = {
        name: f"the epoch with the best validation {recipe['select']}" if recipe["keep"] == "best" else "the last epoch"
        for name, recipe in results.recipes.items()
    }
    text = f"Weights kept: {'; '.join(f'{name}, those of {epoch}' for name, epoch in kept.items())}."
    return f"{text} The vote was chosen by validation loss." if results.fit.losses else text


def ensembling(results: Results, _: Conclusions) -> str:
    """Describes the vote."""
    fit, folds = results.fit, len(next(iter(results.evaluations.values())))
    text = f"One model, {next(iter(fit.temperatures))}, under the name of the {name_of_vote(fit.vote)}"
    if len(fit.temperatures) > 1:
        text = f"The {name_of_vote(fit.vote)} of {len(fit.temperatures)} models"
    if fit.vote == STACKING and fit.stacking and fit.stacking.columns:
        names = " and ".join(column.name for column in fit.stacking.columns)
        models = counted(len(fit.temperatures), "model")
        text = f"The {name_of_vote(fit.vote)} of {models} and the columns {names} of the data's table"
    if fit.vote == "single":
        text += f" ({fit.single} alone)"
    if fit.vote == "weighted":
        text += f" ({', '.join(f'{model} {weight:.2f}' for model, weight in fit.weights.items())})"
    return f"{text}; on test images each model is the mean of its {folds} folds." if folds > 1 else f"{text}."


def measures(results: Results, _: Conclusions) -> str:
    """Names the scores."""
    left_out = OF_PROBABILITIES if "auc" not in results.shown.headline else ()
    names = [_NAMES.get(name, name.replace("_", " ")) for name in SUMMARY_SCORES if name not in left_out]
    if results.positive is not None:
        names += ["sensitivity", "specificity", "predictive values"]
    return f"Scores: {', '.join(names)}; docs/metrics.md defines each."


def uncertainty(results: Results, conclusions: Conclusions) -> str:
    """Reports how intervals and tests are made."""
    unit = results.unit or "group"
    text = (
        f"{100 * results.evaluate.confidence:g} % intervals that take the images of one {unit} together; where there "
        f"are too few {results.units} none is stated. Comparisons are paired; one is primary, the others are corrected "
        "by Holm's method."
    )
    if results.unit is None:
        text += f" {NOT_KNOWN}: whether a group is a patient."
    return f"{text} {_sentence(conclusions.concentration)}" if conclusions.concentration else text


def robustness(results: Results, conclusions: Conclusions) -> str:
    """Names the analyses that were made."""
    made = ["what facts of the files alone predict ('Shortcuts')"]
    if (folds := len(next(iter(results.evaluations.values())))) > 1:
        made.append(f"spread over {folds} folds")
    if columns := _columns(conclusions):
        made.append(f"scores by {columns}")
    return f"Made: {', '.join(made)}. Not made: altered or degraded test images."


def explanations(results: Results, _: Conclusions) -> str:
    """Names the models with heat maps, and whether the maps were compared with known places."""
    explained = results.explained.get(results.shown.name)
    if explained is None or not explained.members:
        return "No heat map was computed: no model has a layer that keeps the places of the image."
    text = f"Heat maps (Grad-CAM) of {', '.join(explained.members)} for {counted(len(explained.examples), 'image')}"
    if results.places.get(results.shown.name):
        return f"{text}, compared with the boxes of data.boxes. They show where the evidence is, not that it is right."
    return f"{text}; not compared with the places of lesions. They show where the evidence is, not that it is right."


def internal(results: Results, conclusions: Conclusions) -> str:
    """States the scores on images of the same data."""
    if results.test is None:
        return f"The test part is not scored (evaluate.test: false). {performance(results, conclusions)}"
    return performance(results, conclusions)


def performance(results: Results, _: Conclusions) -> str:
    """States accuracy and AUC of the shown part with their intervals."""
    part, head = results.shown, results.shown.headline
    control = "Control with shuffled labels. " if results.control is not None else ""
    text = f"{control}{name_of_vote(part.vote).capitalize()}, {head['images']:,} {part.name} images: accuracy"
    text += f" {score_text(head, 'accuracy')}"
    if head.get("auc") is not None:
        text += f", AUC {score_text(head, 'auc', 3)}"
    return f"{text}."


def diagnostic_accuracy(results: Results, _: Conclusions) -> str:
    """States sensitivity and specificity, if one class is to be detected."""
    head, part = results.shown.headline, results.shown.name
    if results.positive is None:
        return f"No class is positive (data.positive): 'By class' has recall and precision of each, {part} images."
    rates = [f"{name} {score_text(head, name)}" for name in ("sensitivity", "specificity", "ppv", "npv")]
    return f"For {results.positive}, on {part} images: {', '.join(rates)}."


def failures(results: Results, conclusions: Conclusions) -> str:
    """States where the vote fails."""
    pictures = "Its most confident mistakes are shown with their labels." if results.test is not None else ""
    return " ".join([*front_page(results, conclusions).failures, pictures]).strip()


def limitations(results: Results, conclusions: Conclusions) -> str:
    """States the objections to the claim."""
    return " ".join([*front_page(results, conclusions).cautions, FOR_AUTHOR])


def use(_results: Results, _conclusions: Conclusions) -> str:
    """States the uses that the panel is not meant for."""
    return f"For research, not for decisions about a patient. {FOR_AUTHOR}"


def technical_details(results: Results, _: Conclusions) -> str:
    """Reports the files from which the run can be repeated."""
    return f"params.yaml and dvc.lock repeat this run ({results.run}). For the author: the study's protocol."


def availability(results: Results, _: Conclusions) -> str:
    """Reports which state of the software this is."""
    return f"This run: {results.run}. For the author: where software, models and data can be had."


def analysis(results: Results, conclusions: Conclusions) -> str:
    """Joins the answers on partitions, selection, votes and scores."""
    answers = (partitions, selection, ensembling, measures, uncertainty)
    return " ".join(answer(results, conclusions) for answer in answers)


def fairness(results: Results, conclusions: Conclusions) -> str:
    """States the scores by subgroup."""
    if not (columns := _columns(conclusions)):
        return f"No column is scored by its values (evaluate.subgroups). {FOR_AUTHOR}"
    worse = " ".join(map(_sentence, conclusions.subgroup_warnings))
    verdicts = conclusions.subgroups["verdict"]
    compared = verdicts.isin([BELOW, ABOVE, NOISE])
    verdict = worse or "Of values that could be compared none is below the others beyond noise; a gap may be missed."
    if not compared.any():
        verdict = f"No value could be compared with the others: {verdicts.iloc[0]}."
    elif not compared.all():
        verdict += f" {counted(int((~compared).sum()), 'value')} could not be compared."
    return f"Scores by {columns} on {results.shown.name} images. {verdict}"


def output(results: Results, _: Conclusions) -> str:
    """Reports the contents of a prediction."""
    threshold = results.fit.threshold
    if results.positive is not None and threshold is not None:
        decides = f"{results.positive} is decided from a probability of {threshold:.3f}, chosen on validation images"
    else:
        decides = "the most probable class is decided"
    kind = "Shares of votes, no probabilities" if results.fit.vote == "hard" else "A probability per class"
    return f"{kind}; {decides}."


def specification(results: Results, _: Conclusions) -> str:
    """Reports where the whole model is."""
    return f"models/ has the weights of {len(results.recipes)} models and in panel.json all that the vote needs."


def performance_and_spread(results: Results, conclusions: Conclusions) -> str:
    """Joins performance, the primary comparison and subgroups."""
    compared = conclusions.comparisons[results.shown.name].primary.to_dict("records")
    answers = [internal(results, conclusions), *map(sentence_of, compared), fairness(results, conclusions)]
    return " ".join(answers)


def open_science(results: Results, _: Conclusions) -> str:
    """Reports which state of the software this is; the rest is for the author."""
    return f"This run: {results.run}. For the author: funding, protocol, registration, and where all can be had."


def updating(_results: Results, _conclusions: Conclusions) -> str:
    """Reports that a run updates no model."""
    return "None in this run."


def usability(_results: Results, _conclusions: Conclusions) -> str:
    """Reports how unusable input is handled."""
    return f"`tumorboard predict` names files that it cannot use and images unlike the training images. {FOR_AUTHOR}"


def _parameters(results: Results, model: str) -> int:
    return int(next(iter(results.evaluations[model].values()))["parameters"])


def _columns(conclusions: Conclusions) -> str:
    """Returns the columns that have scores per value."""
    return "" if conclusions.subgroups.empty else ", ".join(dict.fromkeys(conclusions.subgroups["column"]))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
