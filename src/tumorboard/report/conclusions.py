"""Conclusions from the predictions of a run: comparisons, subgroups, suspected labels, detectable differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tumorboard.evaluation.comparisons import PanelComparison, compare_panel
from tumorboard.evaluation.intervals import concentration_warning, precision_statement
from tumorboard.evaluation.paired import FIRST, SECOND
from tumorboard.evaluation.subgroups import Subgroups, p_text, subgroup_scores, subgroups_warnings
from tumorboard.evaluation.suspects import SUSPECT_COLUMNS, Suspects, find_suspects
from tumorboard.panel.comparison import best_member
from tumorboard.panel.votes import VOTES
from tumorboard.report.disagreement import Disagreement, find_disagreement
from tumorboard.report.results import Part, Results, name_of_vote
from tumorboard.report.sites import Sites, site_spread

VOTE = "vote"  # the name of the vote that heads the report in `evaluate.primary`


@dataclass(frozen=True)
class Conclusions:
    """The conclusions from the predictions of a run."""

    comparisons: Mapping[str, PanelComparison]  # the heading vote against members and votes, by part
    precision: str  # a sentence on how large a difference the shown part can detect; '' where unknown
    concentration: str  # a sentence where one group has a large share of the images, else ''
    subgroups: Subgroups  # on the shown part; without rows where no column is named
    subgroup_warnings: list[str]  # sentences
    disagreements: Mapping[str, Disagreement]  # agreement of the members by name of the part
    suspects: Suspects  # training images whose label may be wrong, by validation predictions
    sites: Sites | None  # validation scores per left-out value; None: no column's values were left out


def draw_conclusions(results: Results) -> Conclusions:
    """Draws the conclusions from the predictions of a run.

    Columns of `evaluate.subgroups` that the data does not have are left out with a warning.

    Raises:
        InputError: a column of `evaluate.subgroups` has too many values.
    """
    part, evaluate = results.shown, results.evaluate
    subgroups, warnings = pd.DataFrame(), list[str]()
    if columns := [name for name in evaluate.subgroups if name in results.attributes.columns and name != "id"]:
        subgroups = subgroup_scores(
            part.heading,
            results.attributes,
            columns,
            confidence=evaluate.confidence,
            seed=results.seed,
            unit=results.unit,
            probabilities=part.has_probabilities,
        )
        warnings = subgroups_warnings(subgroups)
    if missing := [name for name in evaluate.subgroups if name not in results.attributes.columns]:
        warnings.append(f"no subgroups by {', '.join(missing)}: the data's table has no such column")
    suspects = pd.DataFrame(columns=list(SUSPECT_COLUMNS))
    if results.control is None:
        suspects = find_suspects(results.validation.heading)
    parts = [part for part in (results.validation, results.test) if part is not None]
    return Conclusions(
        comparisons={part.name: compare_part(part, results) for part in parts},
        precision=precision_statement(part.headline, part.headline["groups"], results.unit),
        concentration=concentration_warning(part.heading, results.unit),
        subgroups=subgroups,
        subgroup_warnings=warnings,
        disagreements={part.name: find_disagreement(part) for part in parts},
        suspects=suspects,
        sites=site_spread(results),
    )


def conclusion_tables(results: Results, conclusions: Conclusions) -> dict[str, pd.DataFrame]:
    """Returns the tables of the conclusions from validation images by name: suspects, agreement, splits."""
    disagreement = conclusions.disagreements[results.validation.name]
    return {
        "suspects": conclusions.suspects,
        "agreement": disagreement.agreement,
        "splits": disagreement.splits,
    }


def compare_part(part: Part, results: Results) -> PanelComparison:
    """Compares the vote that heads the report with members and other votes on the images of one part.

    The primary pair is `evaluate.primary`, else the heading vote and the best member by validation loss. The
    more probable class decides, also where a class is to be detected: its sensitivity and specificity are then compared
    at a probability of one half. A panel of one model has no comparison.
    """
    if len(part.members) == 1:  # every vote is its only member
        return PanelComparison(pd.DataFrame(), pd.DataFrame())
    votes = {name_of_vote(vote): part.votes[vote] for vote in part.listed_votes}
    primary = results.evaluate.primary
    return compare_panel(
        {**part.members, **votes},
        primary=None if primary is None else (_name_in_tables(primary[0], part), _name_in_tables(primary[1], part)),
        heading=name_of_vote(part.vote),
        best_member=best_member(results.validation.scores),
        confidence=results.evaluate.confidence,
        seed=results.seed,
        positive=results.positive,
        unit=results.unit,
        without_probabilities=(name_of_vote("hard"),),
    )


def _name_in_tables(name: str, part: Part) -> str:
    if name == VOTE:
        return name_of_vote(part.vote)
    return name_of_vote(name) if name in VOTES and name not in part.members else name


def sentence_of(row: Mapping[Any, Any], rule: str = "") -> str:
    """Returns a paired comparison as a sentence.

    Args:
        row: one row of a table of comparisons.
        rule: the rule by which images are decided; '' leaves it out of the sentence.
    """
    points = [100 * row[key] for key in ("difference", "low", "high")]
    ends = "" if pd.isna(points[1]) else f" ({points[1]:+.1f} to {points[2]:+.1f}, p {p_text(row['p'])})"
    return (
        f"{_with_article(row['first_name'])} against {row['second_name']}, on the same images: {points[0]:+.1f} points "
        f"of {row['score'].replace('_', ' ')}{rule and f' {rule}'}{ends}: {verdict_text(row)}."
    )


def _with_article(name: str) -> str:
    """Returns a member's or a vote's name as the beginning of a sentence; only a vote's name has a space."""
    return f"The {name}" if " " in name else name


def verdict_text(row: Mapping[Any, Any]) -> str:
    """Returns the verdict of a comparison with the names of the members and votes that it compares."""
    ahead = {FIRST: row["first_name"], SECOND: row["second_name"]}.get(row["verdict"])
    return str(row["verdict"]) if ahead is None else f"{ahead} is ahead"
