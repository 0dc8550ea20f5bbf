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
from tumorboard.evaluation.metrics import scores
from tumorboard.report.figures import base_rates, pairs_to_review, replaced_names, worst_mistakes
from tumorboard.report.results import Counts, Results, Shortcuts

# The page states the installed version of each.
_LIBRARIES = ("tumorboard", "torch", "torchvision", "timm", "opencv-python", "numpy", "scikit-learn", "dvc")


def render_page(results: Results, pictures: Mapping[str, bytes]) -> str:
    """Returns the report as one HTML page that refers to no other file.

    Args:
        results: of the run.
        pictures: the figures of `draw_figures` as PNG, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tumorboard.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number}
    test = results.test_vote
    member_scores = results.comparison["members"]
    return environment.get_template("report.html.j2").render(
        results=results,
        headline=results.comparison["votes"][results.vote]["test"],
        class_scores=scores(test),
        shares=base_rates(test),
        groups=test["group"].nunique(),
        parts=list(dict.fromkeys(results.counts["part"])),
        count_rows=_count_rows(results.counts),
        quarantined=results.quarantined.to_dict("records"),
        training_images=int((results.manifest["split"] == "train").sum()),
        replaced_names=replaced_names(results),
        few_validation=few_validation_warning(results.manifest, list(next(iter(results.evaluations.values())))),
        held_out_images=int((next(iter(results.members.values()))["split"] == "val").sum()),
        pairs=pairs_to_review(results.duplicates).to_dict("records"),
        shortcut_rows=_shortcut_rows(results.shortcuts),
        members=[_member_row(results, model) for model in results.members],
        best_member=min(results.members, key=lambda model: member_scores[model]["val"]["loss"]),
        mistakes=worst_mistakes(test).to_dict("records"),
        recipes={model: _flatten(recipe) for model, recipe in results.recipes.items()},
        versions={"Python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        pictures={name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in pictures.items()},
    )


def summarize_scores(results: Results) -> str:
    """Returns the test scores of members and votes as lines of text, the chosen vote last."""
    test = results.test_vote
    votes = results.comparison["votes"]
    test_scores = {model: parts["test"] for model, parts in results.comparison["members"].items()}
    test_scores |= {f"{vote} vote": parts["test"] for vote, parts in votes.items() if vote != results.vote}
    test_scores[results.vote_name] = votes[results.vote]["test"]
    width = max(map(len, test_scores))
    lines = [f"{len(test):,} test images of {test['group'].nunique():,} groups:"]
    for name, row in test_scores.items():
        # An interval is null where it is undefined, and absent where none was computed.
        low, high = row.get("accuracy_low"), row.get("accuracy_high")
        interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        accuracy = f"accuracy {100 * row['accuracy']:.1f} %{interval}"
        lines.append(f"  {name:{width}}  {accuracy}  AUC {_number(row['auc'], 3)}")
    return "\n".join(lines)


def _count_rows(counts: Counts) -> list[dict[str, Any]]:
    """Returns one row per class: label, and the numbers of images and groups by part."""
    tables = {label: rows.set_index("part") for label, rows in counts.groupby("label", sort=False)}
    return [
        {"label": label, "parts": {part: (row["images"], row["groups"]) for part, row in table.iterrows()}}
        for label, table in tables.items()
    ]


def _shortcut_rows(shortcuts: Shortcuts) -> list[dict[str, Any]]:
    """Returns the rows with their scores as numbers; a score that could not be computed is nan."""
    numbers = shortcuts.drop(columns="facts").apply(pd.to_numeric)
    return shortcuts[["facts"]].join(numbers).to_dict("records")  # type: ignore[return-value]


def _member_row(results: Results, model: str) -> dict[str, Any]:
    """Returns a model's recipe, size, kept epochs and scores, its training time and its mean training speed."""
    evaluations, timings = results.evaluations[model].values(), results.timings[model].values()
    return {
        "name": model,
        "recipe": results.recipes[model],
        "parameters": next(iter(evaluations))["parameters"],
        "kept": ", ".join(str(fold["epoch"]) for fold in evaluations),
        "seconds": sum(fold["seconds"] for fold in timings),
        "images_per_second": float(np.mean([fold["images_per_second"] for fold in timings])),
        "test": results.comparison["members"][model]["test"],
        "val": results.comparison["members"][model]["val"],
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree of mappings by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _percent(value: float | None) -> str:
    """Returns a share as '94.3 %' with a no-break space; nan and None, which JSON makes of nan, as 'undefined'."""
    return "undefined" if value is None or not np.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _number(value: float | None, digits: int) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _version(name: str) -> str:
    """The version of a package; 'unknown' without metadata, as where PYTHONPATH takes the place of an installation."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
