"""The limit of quarantined images, at its edge, and what its message names."""

import pandas as pd
import pytest

from tumorboard.data.quarantine import check_count, check_usable
from tumorboard.errors import InputError


def _quarantined(count: int) -> pd.DataFrame:
    rows = [(f"a/{number}.png", "truncated", "it ends\x1b[31m early") for number in range(count)]
    return pd.DataFrame(rows, columns=["path", "reason", "detail"], dtype=object)


def test_as_many_as_allowed_pass_and_one_more_stops() -> None:
    check_count(_quarantined(0), 0, 0)
    check_count(_quarantined(3), 40, 3)
    with pytest.raises(InputError, match=r"^4 of 40 files cannot be used, but data\.max_quarantined .* allows 3;"):
        check_count(_quarantined(4), 40, 3)


def test_the_first_are_named_fit_for_a_terminal() -> None:
    with pytest.raises(InputError) as raised:
        check_count(_quarantined(12), 40, 3)
    lines = str(raised.value).splitlines()[1:]
    assert lines[0] == r"  'a/0.png': truncated ('it ends\x1b[31m early')"
    assert len(lines) == 11
    assert lines[-1] == "  ..."


def test_a_class_that_loses_all_its_images_stops() -> None:
    rows = pd.DataFrame({"path": ["a/0.png", "b/0.png", "b/1.png"], "label": ["a", "b", "b"]}, dtype=object)
    check_usable(_quarantined(0), rows, 3)
    with pytest.raises(InputError, match=r"class 'a' has no image that can be used; quarantined were:\n  'a/0.png'"):
        check_usable(_quarantined(1), rows, 3)
