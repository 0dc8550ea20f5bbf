"""The model card: whether columns of a table are inputs of the vote is said, with their values."""

from typing import Any

import pytest

from tests.report.stacked_panel import panel
from tumorboard.base.params import Params
from tumorboard.panel.stacking import Column
from tumorboard.report.model_card import Run, column_words, render_cards

HEAD = {"images": 20, "groups": 6, "accuracy": 0.75}


def card(params: Params, vote: str, *, columns: bool = True, may_leak: bool = False) -> str:
    audit: dict[str, Any] = dict.fromkeys(
        ("pairs_bytes", "pairs_pixels", "pairs_near", "label_conflicts", "quarantined"), 0
    )
    votes: dict[str, Any] = {"votes": {"heading": HEAD}, "members": {}}
    run = Run(
        params=params,
        content=panel(vote, columns=columns),
        members=[],
        crop={"images": 3, "quarantined": 0},
        split={"images": {}, "groups": {}},
        audit=audit | {"policy": "report" if may_leak else "regroup", "may_leak": may_leak},
        validation=votes,
        test=votes,
        version="1",
        study="study",
    )
    return render_cards(run)["MODEL_CARD.md"]


def test_a_vote_by_columns_says_so_with_their_values_and_what_a_missing_one_means(params: Params) -> None:
    text = card(params, "stacking")
    factors = text.split("## Factors")[1].split("## Metrics")[0]
    assert (
        "The vote uses age (a number; mean 50, standard deviation 8 in the fit), sex (a text: F, M) of each image: its "
        "probabilities and decisions depend on them; the members use the image alone. An empty cell or `unknown` is a "
        "missing value: it counts as the mean, or as none of the texts, and has a coefficient of its own, fitted on "
        "the images without the value (0 where there were none). A text that is not listed counts as none of those "
        "listed."
    ) in factors
    assert factors.strip().endswith("columns; nothing else about them is assumed here.")
    assert "- Vote: stacking vote (a regression on the members' probabilities and on age, sex)" in text


@pytest.mark.parametrize(("vote", "columns"), [("soft", True), ("stacking", False)])
def test_a_vote_by_images_alone_names_no_column(params: Params, vote: str, columns: bool) -> None:
    text = card(params, vote, columns=columns)
    factors = text.split("## Factors")[1].split("## Metrics")[0]
    assert "The vote uses" not in factors
    assert "standard deviation" not in factors
    assert factors.strip().endswith("columns; nothing about them is assumed here.")
    assert f"- Vote: {vote} vote.\n" in text


def test_copies_that_were_kept_apart_by_nothing_are_not_said_to_be_on_one_side(params: Params) -> None:
    apart, leaking = card(params, "soft"), card(params, "soft", may_leak=True)
    assert "No patient and no copy of a picture that was found is on two sides." in apart
    assert "No patient is on two sides." in leaking
    assert ("kept apart by nothing" in apart, "kept apart by nothing" in leaking) == (False, True)


def test_names_and_texts_are_shown_as_they_are() -> None:
    assert column_words(Column("a_b", ("<x>", "y|"), None, None)) == r"a\_b (a text: \<x\>, y\|)"
    assert column_words(Column("site", (), None, None)) == "site (a text: no value in the fit)"
