"""The scores that README.md and docs/phantom.md state are those of the committed run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A row: name, validation loss (empty for the hard vote), test accuracy with its interval.
ROW = re.compile(
    r"^\| (?P<name>[^|]+) \| (?P<loss>[\d.]*) ?\| (?P<accuracy>[\d.]+ % \([\d.]+ to [\d.]+\)) \|", re.MULTILINE
)


def read_scores(file: str) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((ROOT / "metrics" / file).read_text(encoding="utf-8"))
    return scores


def find_row(scores: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the scores of a row such as `cnn`, **soft vote** or single vote (`cnn`)."""
    vote = re.match(r"\**(\w+) vote", name)
    row: dict[str, Any] = scores["votes"][vote[1]] if vote else scores["members"][name.strip("`")]
    return row


@pytest.mark.docs  # another processor rounds differently, so that after `make` there the scores are others
@pytest.mark.parametrize(("page", "rows"), [("README.md", 5), ("docs/phantom.md", 10)])
def test_the_stated_scores_are_those_of_the_committed_metrics(page: str, rows: int) -> None:
    validation, test = read_scores("votes.json"), read_scores("test/votes.json")
    found = list(ROW.finditer((ROOT / page).read_text(encoding="utf-8")))
    assert len(found) == rows
    for one in found:
        own, later = find_row(validation, one["name"]), find_row(test, one["name"])
        assert one["loss"] == (f"{own['loss']:.3f}" if "loss" in own else ""), one["name"]
        low, high = (100 * later[f"accuracy_{end}"] for end in ("low", "high"))
        assert one["accuracy"] == f"{100 * later['accuracy']:.1f} % ({low:.1f} to {high:.1f})", one["name"]
    assert any("**" in one["name"] for one in found)
