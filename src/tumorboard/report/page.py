"""Renders the report of a run as one self-contained HTML page, and its scores as text."""

import base64
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from tumorboard.data.parts import few_validation_warning
from tumorboard.evaluation.comparisons import PanelComparison
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.paired import SHARES
from tumorboard.evaluation.subgroups import p_text
from tumorboard.panel.comparison import UNCALIBRATED
from tumorboard.panel.fits import TIE
from tumorboard.panel.votes import STACKING
from tumorboard.report.checklist import fill_in
from tumorboard.report.conclusions import Conclusions, verdict_text
from tumorboard.report.decisions import BY_CLASS, decisions_of, rule_of
from tumorboard.report.explained import Explained
from tumorboard.report.figures import base_rates, pairs_to_review, replaced_names, worst_mistakes
from tumorboard.report.front import front_page, interval_text, percent, score_text
from tumorboard.report.generated import count_alike
from tumorboard.report.results import Counts, Part, Results, name_of_vote

# The page states the installed version of each.
_LIBRARIES = ("tumorboard", "torch", "torchvision", "timm", "opencv-python", "numpy", "scikit-learn", "dvc")


def render_page(
    results: Results,
    conclusions: Conclusions,
    pictures: Mapping[str, bytes],
    test_pictures: Mapping[str, bytes],
    *,
    explained: Explained,
) -> str:
    """Returns the report as one HTML page that refers to no other file.

    Args:
        results: the run's results.
        conclusions: the conclusions from these results.
        pictures: the figures of `draw_figures` as PNG, by name.
        test_pictures: the figures of `draw_test_figures` as PNG, by name.
        explained: the heat maps and filters of `draw_explained`.
    """
    return (
        _environment(results)
        .get_template("report.html.j2")
        .render(
            results=results,
            front=front_page(results, conclusions),
            comparisons={name: _comparison_rows(one) for name, one in conclusions.comparisons.items()},
            subgroups=conclusions.subgroups.to_dict("records"),
            disagreements=conclusions.disagreements,
            no_probabilities=SHARES,
            tie=TIE,
            sites=conclusions.sites,
            suspects=conclusions.suspects.to_dict("records"),
            shares=base_rates(results.shown.heading),
            parts=list(dict.fromkeys(results.counts["part"])),
            count_rows=_count_rows(results.counts),
            quarantined=results.quarantined.to_dict("records"),
            training_images=int((results.manifest["split"] == "train").sum()),
            replaced_names=replaced_names(results),
            few_validation=few_validation_warning(
                results.manifest, list(next(iter(results.evaluations.values()))), results.split.leave_out
            ),
            held_out_images=len(results.validation.heading),
            pairs=pairs_to_review(results.duplicates).to_dict("records"),
            shortcut_rows=_shortcut_rows(results),
            members=[_member_row(results, model) for model in results.recipes],
            mistakes=worst_mistakes(results.test.heading).to_dict("records") if results.test else [],
            checklists=fill_in(results, conclusions),
            explained=explained,
            alike=count_alike(results.generated, results.near) if results.generated else 0,
            recipes={model: _flatten(recipe) for model, recipe in results.recipes.items()},
            versions={"Python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
            pictures={name: _data_url(png) for name, png in pictures.items()},
            test_pictures={name: _data_url(png) for name, png in test_pictures.items()},
        )
    )


def _environment(results: Results) -> jinja2.Environment:
    """Returns the template's environment, whose filters turn values of the results into text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tumorboard.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": _number,
        "p_value": p_text,
        "interval": interval_text,
        "with_interval": score_text,
        "ends": _ends,
        "signed": lambda value: "undefined" if pd.isna(value) else f"{value:+z.4f}",
        "gain": "{:+.2f}".format,
        "class_scores": scores,
        "calibration_rows": _calibration_rows,
        "decisions": lambda part: decisions_of(results, part),
        "webp": lambda picture: _data_url(picture, "webp"),
    }
    return environment


def _ends(row: Mapping[str, Any], name: str, digits: int | None) -> str:
    """Returns the interval of a score in a row of a table, where a missing one is nan."""
    ends = {key: None if pd.isna(row[key]) else row[key] for key in (f"{name}_low", f"{name}_high")}
    return interval_text({**row, **ends}, name, digits)


def _comparison_rows(comparison: PanelComparison) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of the two tables, with verdicts that name members and votes."""
    return {
        key: table.assign(verdict=[verdict_text(row) for row in table.to_dict("records")]).to_dict("records")  # type: ignore[misc]
        for key, table in (("primary", comparison.primary), ("exploratory", comparison.exploratory))
    }


def _data_url(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def summarize_scores(results: Results) -> str:
    """Returns the validation scores of members and votes as lines of text, the vote that heads the report last.

    Each experiment prints them, so that no test score is in view where one chooses.
    """
    part = results.validation
    rows = dict(part.scores["members"])
    rows |= {name_of_vote(vote): row for vote, row in part.listed_votes.items() if vote != part.vote}
    rows[name_of_vote(part.vote)] = part.headline
    rule = rule_of(results, part)
    width = max(map(len, rows))
    images, groups = len(part.heading), part.heading["group"].nunique()
    lines = [f"{images:,} {part.name} images of {results.counted_groups(groups)}:"]
    for name, row in rows.items():
        text = interval_text(row, "accuracy").replace("\N{NO-BREAK SPACE}%", "")
        accuracy = f"accuracy {100 * row['accuracy']:.1f} %" + (f" ({text})" if text else "")
        auc = f"AUC {_number(row['auc'], 3)}" if "auc" in row else ""
        lines.append(f"  {name:{width}}  {accuracy}  {auc}".rstrip())
    if rule:
        right = percent(part.headline["decided_accuracy"]).replace("\N{NO-BREAK SPACE}", " ")
        lines.append(f"Accuracies are {BY_CLASS}; {rule}, {right} of the heading vote's decisions are right.")
    has_test = "" if results.test is None else ", which has the test scores"
    lines.append(f"Choose by these. The {name_of_vote(part.vote)} heads the report{has_test}.")
    return "\n".join(lines)


def _calibration_rows(part: Part, results: Results) -> list[dict[str, Any]]:
    """Returns one row per member and, with probabilities, the heading vote: temperature, scores before and after.

    The vote 'stacking' has neither a temperature nor scores before it: its regression is fitted to calibrated members.
    """
    fit = results.fit
    rows: list[tuple[str, float | None, Mapping[str, Any], Mapping[str, Any]]] = []
    for model, scores_after in part.scores["members"].items():
        rows.append((model, fit.temperatures[model], part.scores["uncalibrated"][model], scores_after))
    if part.has_probabilities:
        if fit.vote == STACKING:
            rows.append((name_of_vote(fit.vote), None, {}, part.headline))
        else:
            temperature = fit.vote_temperatures.get(fit.vote, 1.0)
            rows.append((name_of_vote(fit.vote), temperature, part.scores["votes"][UNCALIBRATED], part.headline))
    keys = ("calibration_slope", "calibration_intercept", "brier")
    return [
        {
            "name": name,
            "temperature": temperature,
            "before": before and {key: before.get(key) for key in keys},
            "after": {key: after.get(key) for key in keys},
        }
        for name, temperature, before, after in rows
    ]


def _count_rows(counts: Counts) -> list[dict[str, Any]]:
    """Returns one row per class: label, and the numbers of images and groups by part."""
    tables = {label: rows.set_index("part") for label, rows in counts.groupby("label", sort=False)}
    return [
        {"label": label, "parts": {part: (row["images"], row["groups"]) for part, row in table.iterrows()}}
        for label, table in tables.items()
    ]


def _shortcut_rows(results: Results) -> list[dict[str, Any]]:
    """Returns facts, skill, p and test_skill of the probe; what could not be computed is nan."""
    rows = results.shortcuts[["facts", "skill", "p"]].assign(test_skill=results.test_shortcuts["skill"])
    numbers = rows.drop(columns="facts").apply(pd.to_numeric)
    return rows[["facts"]].join(numbers).to_dict("records")  # type: ignore[return-value]


def _member_row(results: Results, model: str) -> dict[str, Any]:
    """Returns a model's recipe, size, kept epochs, training time and mean training speed."""
    evaluations, timings = results.evaluations[model].values(), results.timings[model].values()
    return {
        "name": model,
        "recipe": results.recipes[model],
        "parameters": next(iter(evaluations))["parameters"],
        "kept": ", ".join(str(fold["epoch"]) for fold in evaluations),
        "seconds": sum(fold["seconds"] for fold in timings),
        "images_per_second": float(np.mean([fold["images_per_second"] for fold in timings])),
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree of mappings by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _number(value: float | None, digits: int) -> str:
    """Returns a number with its digits; nan and None as 'undefined'."""
    return "undefined" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _version(name: str) -> str:
    """The version of a package; 'unknown' without metadata, as where PYTHONPATH takes the place of an installation."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
