"""The limit of quarantined images at its edge, and the files that the message lists."""

import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.data.quarantine import check_quarantine_limit, check_usable_images


def _quarantined(count: int) -> pd.DataFrame:
    rows = [(f"a/{number}.png", "truncated", "it ends\x1b[31m early") for number in range(count)]
    return pd.DataFrame(rows, columns=["path", "reason", "detail"], dtype=object)


def test_the_allowed_number_passes_and_one_more_raises() -> None:
    check_quarantine_limit(_quarantined(0), 0, 0)
    check_quarantine_limit(_quarantined(3), 40, 3)
    with pytest.raises(InputError, match=r"^4 of 40 files cannot be used, but data\.max_quarantined .* allows 3;"):
        check_quarantine_limit(_quarantined(4), 40, 3)


def test_the_first_ten_are_listed_with_control_characters_escaped() -> None:
    with pytest.raises(InputError) as raised:
        check_quarantine_limit(_quarantined(12), 40, 3)
    lines = str(raised.value).splitlines()[1:]
    assert lines[0] == r"  'a/0.png': truncated ('it ends\x1b[31m early')"
    assert [line.split("'")[1] for line in lines[:-1]] == [f"a/{number}.png" for number in range(10)]
    assert lines[-1] == "  ..."
    with pytest.raises(InputError) as raised:
        check_quarantine_limit(_quarantined(10), 40, 3)
    assert "..." not in str(raised.value)


def test_a_class_without_usable_images_raises() -> None:
    images = pd.DataFrame({"path": ["a/0.png", "b/0.png", "b/1.png"], "label": ["a", "b", "b"]}, dtype=object)
    check_usable_images(_quarantined(0), images, 3)
    with pytest.raises(InputError, match=r"class 'a' has no usable image; quarantined are:\n  'a/0.png'"):
        check_usable_images(_quarantined(1), images, 3)
    with pytest.raises(InputError, match=r"^1 of 3 files cannot be used"):
        check_usable_images(_quarantined(1), images, 0)
