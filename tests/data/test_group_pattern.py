"""Groups out of paths: as Python's `re` matches them, and no pattern keeps a run waiting."""

import re
import time
from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tumorboard.base.errors import InputError
from tumorboard.data import group_pattern
from tumorboard.data.group_pattern import extract_groups
from tumorboard.data.sources import list_images


def test_groups_are_those_of_re_for_each_path() -> None:
    paths = [f"été/P{n:02d}_胶.png" for n in range(3000)] + ["odd/P7_\udcff.png", "line/P8_\n.png"]
    pattern = r"/(P\d+)_|(é)"
    expected = [match[1] or "" for path in paths if (match := re.search(r"/(P\d+)_", path))]
    assert extract_groups(paths, r"/(P\d+)_") == expected
    assert extract_groups([], pattern) == []


@pytest.mark.parametrize(
    "pattern", [r"(a+)+b$", r"(?:x|a|aa)*(b)\d", r"^((a|a)*)*$\d", r"(\w+\s?)*$!", r"(a*)*(a*)*(a*)*b(c)"]
)
def test_a_pattern_that_takes_without_end_is_named_with_the_path(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pattern, "MATCH_SECONDS", 1.0)
    slow = "a" * 60 + "/1.png"
    began = time.monotonic()
    with pytest.raises(InputError) as raised:
        extract_groups(["b1", slow], pattern)
    message = str(raised.value)
    assert message.startswith(f"data.group_pattern: '{pattern}' was not done after 1.002 seconds, at the path 'aaa")
    assert time.monotonic() - began < 10


def test_the_listing_ends_where_a_pattern_would_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pattern, "MATCH_SECONDS", 1.0)
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        (tmp_path / label / ("a" * 60 + ".png")).touch()
    data = data_section(group_pattern="(a+)+b$")
    with pytest.raises(InputError, match="was not done after"):
        list_images(tmp_path, data)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression: missing"),
        ("(a{99999999999999999999})", "is not a regular expression: the repetition number is too large"),
        ("(" * 5000 + ")" * 5000, "is not a regular expression"),
        ("P", "has no group"),
        ("(Q)", r"matches no group in the path 'P1\.png'"),
        ("P(Q)?", r"matches no group in the path 'P1\.png'"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_named(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract_groups(["P1.png"], pattern)
