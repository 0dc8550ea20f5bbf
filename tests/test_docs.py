"""The documented lists are the code's."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tumorboard.base.errors import Reason
from tumorboard.data.sources import IgnoreReason

PAGE = (Path(__file__).parents[1] / "docs/quarantine.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("section", "reasons"), [("Quarantined", Reason), ("Ignored", IgnoreReason)])
def test_the_page_lists_every_reason_in_order(section: str, reasons: object) -> None:
    body = PAGE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `([^`]+)` \|", body, flags=re.M) == list(get_args(reasons))
