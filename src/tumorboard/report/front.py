"""The front page of a report: facts of the study, its claim, the cautions against it, its failures."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import classes_of, probabilities_of
from tumorboard.panel.comparison import best_member
from tumorboard.panel.fits import ALONE
from tumorboard.report.conclusions import Conclusions, sentence_of
from tumorboard.report.decisions import BY_CLASS, rule_of
from tumorboard.report.results import Part, Results, name_of_vote


class Front(NamedTuple):
    """Texts of the front page."""

    facts: dict[str, str]  # facts about the study, by title
    claim: list[str]  # sentences
    cautions: list[str]  # sentences that qualify the claim, most serious first
    failures: list[str]  # sentences: where the panel is weakest


def front_page(results: Results, conclusions: Conclusions) -> Front:
    """Returns the texts of the front page."""
    return Front(
        _facts(results),
        list(_claim(results, conclusions)),
        list(_cautions(results, conclusions)),
        list(_failures(results, conclusions)),
    )


def percent(value: float | None) -> str:
    """Returns a share as '94.3 %' with a no-break space; nan and None, which JSON makes of nan, as 'undefined'."""
    return "undefined" if value is None or not np.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def interval_text(scores: Mapping[str, Any], name: str, digits: int | None = None) -> str:
    """Returns an interval as '91.0 % to 95.6 %', the reason why there is none, or '' where none was computed.

    Args:
        scores: have `<name>_low`, `<name>_high` and, where these are None, `<name>_method`.
        name: the name of the score.
        digits: decimals of a number; None: a share in percent.
    """
    if f"{name}_low" not in scores:
        return ""
    ends = scores[f"{name}_low"], scores[f"{name}_high"]
    if None in ends:
        # The text may stand in brackets: 'too few patients for an interval (7)' becomes 'too few patients: 7'.
        reason = str(scores.get(f"{name}_method", "undefined"))
        return re.sub(r"(?: for an interval)? \((\d+)\)$", r": \1", reason)
    low, high = (percent(end) if digits is None else f"{end:.{digits}f}" for end in ends)
    return f"{low} to {high}"


def score_text(scores: Mapping[str, Any], name: str, digits: int | None = None) -> str:
    """Returns a score with its interval, or the reason why there is none, in brackets.

    Args:
        scores: have `<name>`, and what `interval_text` reads.
        name: the name of the score.
        digits: decimals of a number; None: a share in percent.
    """
    value, ends = scores[name], interval_text(scores, name, digits)
    if value is None or not np.isfinite(value):
        text = "undefined"
    else:
        text = percent(value) if digits is None else f"{value:.{digits}f}"
    return f"{text} ({ends})" if ends and ends != text else text


def _facts(results: Results) -> dict[str, str]:
    manifest, fit = results.manifest, results.fit
    weights = ", ".join(f"{model} {weight:.2f}" for model, weight in fit.weights.items())
    details = {"weighted": f" ({weights})", "single": f" ({fit.single})"}
    vote = name_of_vote(fit.vote) + details.get(fit.vote, "")
    if fit.losses:
        vote += ", chosen by validation loss"
    groups, merged = manifest["group"].nunique(), results.split_metrics["merged_groups"]
    before = f" ({groups + merged:,} before those that share a picture were merged)" if merged and results.unit else ""
    return {
        "images": f"{len(manifest):,} of {results.counted_groups(groups)}{before} in {results.raw}",
        "classes": ", ".join(classes_of(results.shown.heading)),
        "crops": f"{results.crop.side} pixels",
        "models": ", ".join(results.fit.temperatures),
        "vote": vote,
        "run": results.run,
    }


def _claim(results: Results, conclusions: Conclusions) -> Iterator[str]:
    part, head = results.shown, results.shown.headline
    yield from _against_shortcuts(results)  # first, since with a shortcut nothing below is a claim about images
    text = interval_text(head, "accuracy")
    if head.get("accuracy_low") is not None:
        text = f"{100 * results.evaluate.confidence:g} % interval {text}"
    yield (
        f"The {name_of_vote(part.vote)} classifies {percent(head['accuracy'])} of {head['images']:,} {part.name} "
        f"images of {results.counted_groups(head['groups'])} as they are labeled, {BY_CLASS}"
        + (f" ({text})." if text else ".")
    )
    most_frequent = float(part.heading["label"].value_counts(normalize=True).max())
    yield f"Always predicting the most frequent class would score {percent(most_frequent)}."
    if results.positive is not None:
        rates = [score_text(head, name) for name in ("sensitivity", "specificity")]
        threshold = results.fit.threshold
        chosen = "" if threshold is None else f" from a probability of {threshold:.3f} on, chosen on validation images"
        right = ""
        if threshold is not None:
            right = f"{score_text(head, 'decided_accuracy')} of these decisions are right, "
        yield (
            f"Deciding for {results.positive}{chosen}, as predict does: {right}its sensitivity is {rates[0]}, its "
            f"specificity {rates[1]}."
        )
    for row in conclusions.comparisons[part.name].primary.to_dict("records"):
        yield sentence_of(row, BY_CLASS if rule_of(results, part) else "")
    yield f"{conclusions.precision[0].upper()}{conclusions.precision[1:]}."


def _cautions(results: Results, conclusions: Conclusions) -> Iterator[str]:
    if results.control is not None:
        yield f"This is a control: labels were shuffled over {results.units}, so that every score should be at chance."
    if results.test is None:
        yield "The test part is not scored (evaluate.test: false): by these validation scores the choices are made."
    if conclusions.concentration:
        yield f"{conclusions.concentration[0].upper()}{conclusions.concentration[1:]}: its images decide the scores."
    if results.audit_metrics["may_leak"]:
        yield "Copies of pictures may be on both sides of the split (audit.policy: report)."
    yield from _unlike_test_images(results)
    yield from _against_validation(results)
    yield from _shortcuts(results)
    yield from _against_members(results)
    if results.test is not None and results.looks > sum(map(len, results.evaluations.values())):
        yield (
            f"Scores on this test part were computed for {results.looks} sets of weights so far: the best of many "
            "looks better than it is."
        )
    if results.unit is not None and results.manifest["group"].nunique() == len(results.manifest):
        yield (
            f"Each image is its own {results.unit} here: if a {results.unit} has several, set data.group_pattern or a "
            "column group, else all intervals are too narrow."
        )
    if results.unit is None:
        yield (
            "Nobody said what a group is (data.unit): if images share patients beyond the groups, all intervals are "
            "too narrow."
        )


def _against_shortcuts(results: Results) -> Iterator[str]:
    """Yields a caution where facts of the files alone predict the class better than the vote."""
    accuracies = _accuracies(results, of_test=results.test is not None)
    best = max(accuracies, key=lambda facts: accuracies[facts], default="")
    of_vote = results.shown.headline["balanced_accuracy"]
    if best and of_vote is not None and accuracies[best] > of_vote:
        yield (
            f"A model that sees no image, only facts of the files ({best}), has a balanced accuracy of "
            f"{percent(accuracies[best])}, more than the vote's {percent(of_vote)}: the vote may not go by the images."
        )


def _shortcuts(results: Results) -> Iterator[str]:
    """Yields a caution where the audit found shortcuts and the claim does not begin with them."""
    accuracies = _accuracies(results, of_test=False)
    best = max(accuracies, key=lambda facts: accuracies[facts], default="")
    if not results.audit_metrics["shortcuts"] or not best or list(_against_shortcuts(results)):
        return
    of_test = ""
    if results.test is not None:
        of_test = f" ({percent(_accuracies(results, of_test=True).get(best))} on test images)"
    yield (
        f"A model that sees no image, only facts of the files ({best}), has a balanced accuracy of "
        f"{percent(accuracies[best])} on training images{of_test}: the vote may go by such shortcuts instead of the "
        "disease."
    )


def _accuracies(results: Results, *, of_test: bool) -> dict[str, float]:
    """Returns the balanced accuracy of each probe that has one, on test or on other images, by the probe's facts.

    A skill is rescaled from guessing among the classes that the images have; a given test set may lack some.
    """
    probe = results.test_shortcuts if of_test else results.shortcuts
    labels = results.manifest["label"][(results.manifest["split"] == "test") == of_test]
    guess = 1 / max(1, labels.nunique())
    skills = pd.to_numeric(probe["skill"])
    return {
        str(facts): guess + float(skill) * (1 - guess)
        for facts, skill in zip(probe["facts"], skills, strict=True)
        if np.isfinite(skill)
    }


def _unlike_test_images(results: Results) -> Iterator[str]:
    """Yields a caution where more test images are unlike the training images than images of the same source are."""
    share = results.test.scores if results.test is not None else {}
    expected, low = results.evaluate.unlike, share.get("unlike_low")
    if low is not None and low > expected:
        yield (
            f"{score_text(share, 'unlike')} of the test images are unlike the training images, where at most "
            f"{percent(expected)} of new images of the same source would be: the test part is of another kind, and "
            "validation scores say little about it."
        )


def _against_validation(results: Results) -> Iterator[str]:
    """Yields a caution where the vote is right more often on validation images by both intervals."""
    validation = results.validation.headline
    low, high = validation.get("accuracy_low"), results.shown.headline.get("accuracy_high")
    if results.test is not None and low is not None and high is not None and low > high:
        yield (
            f"Of validation images the vote classifies {percent(validation['accuracy'])} as they are labeled "
            f"({interval_text(validation, 'accuracy')}): test images are of another kind, or validation images share "
            f"more with training images than their {results.units} tell."
        )


def _against_members(results: Results) -> Iterator[str]:
    """Yields a caution where a vote is needless: a member has a lower validation loss, or all the weight."""
    tree = results.validation.scores
    best = best_member(tree)
    member, vote = tree["members"][best]["loss"], results.validation.headline.get("loss")
    if vote is not None and member is not None and len(tree["members"]) > 1 and member < vote:
        yield f"{best} alone has a lower validation loss ({member:.4f}) than the vote ({vote:.4f})."
    if results.fit.vote == "single" and len(results.fit.weights) > 1:
        yield f"This vote is {results.fit.single} alone."
    heaviest = max(results.fit.weights, key=lambda model: results.fit.weights[model])
    if results.fit.vote == "weighted" and results.fit.weights[heaviest] > ALONE and len(results.fit.weights) > 1:
        yield f"This vote is {heaviest} alone: its weight is {results.fit.weights[heaviest]:.2f}."


def _failures(results: Results, conclusions: Conclusions) -> Iterator[str]:
    part = results.shown
    decided = _decisions(results)
    labels = part.heading["label"].to_numpy(object)
    recalls = {
        name: float((decided[labels == name] == name).mean()) for name in classes_of(part.heading) if name in labels
    }
    if recalls and min(recalls.values()) == 1:
        yield f"Every one of the {len(labels):,} {part.name} images is recognized: they do not show where it fails."
    elif recalls:
        weakest = min(recalls, key=lambda name: recalls[name])
        least = ", the least of all classes" if len(recalls) > 1 else f"; no {part.name} image is of another class"
        yield (
            f"Of {weakest}, {percent(recalls[weakest])} of {int((labels == weakest).sum()):,} {part.name} images are "
            f"recognized{least}."
        )
    yield from _weak_groups(part, decided, results.unit or "group")
    if conclusions.sites is not None:
        yield conclusions.sites.spread
    for warning in conclusions.subgroup_warnings:
        yield f"{warning[0].upper()}{warning[1:]}."


def _decisions(results: Results) -> NDArray[np.object_]:
    """Returns the class that the panel decides for each shown image; test images by its threshold, as in `predict`.

    Each validation image has a threshold of its own part, which no table has; there the more probable class decides.
    """
    table, threshold = results.shown.heading, results.fit.threshold
    names, probabilities = np.array(classes_of(table), dtype=object), probabilities_of(table)
    choice = probabilities.argmax(1)
    if results.test is not None and results.positive is not None and threshold is not None:
        positive = classes_of(table).index(results.positive)
        choice = np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
    decided: NDArray[np.object_] = names[choice]
    return decided


def _weak_groups(part: Part, decided: NDArray[np.object_], unit: str) -> Iterator[str]:
    """Yields how the mistakes are distributed over the groups."""
    wrong = decided != part.heading["label"].to_numpy(object)
    per_group = part.heading.assign(wrong=wrong).groupby("group")["wrong"].sum().sort_values(ascending=False)
    if len(per_group) < len(wrong) and (mistakes := int(per_group.sum())):
        few = int(np.searchsorted(per_group.cumsum().to_numpy(), mistakes / 2) + 1)
        yield f"Half of its {mistakes} mistakes are on images of {few} of {len(per_group):,} {unit}s."
