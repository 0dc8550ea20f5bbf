"""The documented lists are the code's."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tumorboard.base.errors import Reason
from tumorboard.data.sources import IgnoreReason

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/quarantine.md").read_text(encoding="utf-8")
TROUBLES = (ROOT / "docs/troubles.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("section", "reasons"), [("Quarantined", Reason), ("Ignored", IgnoreReason)])
def test_the_page_lists_every_reason_in_order(section: str, reasons: object) -> None:
    body = PAGE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `([^`]+)` \|", body, flags=re.M) == list(get_args(reasons))


def test_every_trouble_has_a_test_that_exists() -> None:
    rows = [line for line in TROUBLES.splitlines() if line.startswith("| ") and not line.startswith("| trouble")]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", row.split(" | ")[-1])
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_a_trouble_is_marked_slow_where_its_test_is() -> None:
    for file, test, mark in re.findall(r"`(tests/\S+\.py)::(test_\w+)`( \((?:partly )?slow\))?", TROUBLES):
        text = (ROOT / file).read_text(encoding="utf-8")
        before = text.split(f"def {test}(")[0].rsplit("\n\n\n", 1)[-1]
        slow = "pytest.mark.slow" in before or "pytestmark = pytest.mark.slow" in text
        assert slow == bool(mark), f"{file}::{test}"
