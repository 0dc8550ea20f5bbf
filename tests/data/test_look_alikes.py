"""Texts that look the same: letters of other scripts, accents, widths, invisible characters."""

import pytest

from tumorboard.base.errors import InputError
from tumorboard.data.look_alikes import (
    _INVISIBLE,
    _LOOKS_LIKE,
    describe_difference,
    describe_twin,
    look_of,
    refuse_alike_groups,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("gli\u043ema", "glioma"),  # Cyrillic o
        ("\u0421\u0422", "CT"),  # Cyrillic
        ("\u039f\u0391", "OA"),  # Greek
        ("\u0445\u0443\u0440", "xyp"),
        ("\uff27\uff12", "G2"),  # full width
        ("no\xa0tumor", "no tumor"),
        ("no\u2011tumor", "no-tumor"),  # a hyphen that does not break
        ("Paget\u2019s", "Paget's"),
        ("a\u200b\u200d\ufeff\u00ad\ufe0fb", "ab"),
        ("e\u0301", "e\u0301"),
        ("\xe9", "e\u0301"),
        ("\u0451", "e\u0308"),  # Cyrillic io, and Latin e with diaeresis
        ("\u65e5\u672c", "\u65e5\u672c"),
    ],
)
def test_the_look_of_a_text(text: str, plain: str) -> None:
    assert look_of(text) == plain


def test_every_character_of_the_tables_looks_like_one_of_ascii_or_nothing() -> None:
    signs = "".join(_LOOKS_LIKE.values())
    assert len(set(signs)) == len(signs)
    assert not any(sign.isascii() for sign in signs)
    assert all(look_of(sign) == plain for plain, signs in _LOOKS_LIKE.items() for sign in signs)
    assert look_of("".join(_INVISIBLE)) == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [("glioma", "Glioma"), ("e", "\xe9"), ("\u0436", "x"), ("\u0438", "\u0439"), ("grade I", "grade l")],
)
def test_texts_that_look_different(first: str, second: str) -> None:
    assert look_of(first) != look_of(second)


def test_the_first_difference_is_named_by_code_points() -> None:
    assert describe_difference("caf\xe9", "cafe\u0301") == (
        "U+00E9 (LATIN SMALL LETTER E WITH ACUTE) against U+0065 (LATIN SMALL LETTER E) U+0301 (COMBINING ACUTE ACCENT)"
    )
    # A difference in case beside it is passed over.
    assert describe_difference("Gli\u043ema", "glioma").startswith("U+043E (CYRILLIC SMALL LETTER O) against U+006F")
    assert describe_difference("Glioma", "glioma") == ""
    assert describe_twin("path", ["path", "label"]) == ""
    assert "it looks like 'label', but has U+0430" in describe_twin("l\u0430bel", ["path", "label"])


@pytest.mark.parametrize("twin", ["\u042001", "P\u200b01", "\uff3001", "P0\uff11"])
def test_patients_that_look_the_same_are_refused(twin: str) -> None:
    with pytest.raises(InputError, match=r"the patients 'P01' \(of 'a'\) and .* \(of 'c'\) look the same.* U\+"):
        refuse_alike_groups([("a", "P01"), ("b", "P02"), ("c", twin)])
    refuse_alike_groups([("a", "P01"), ("b", "p01"), ("c", "P01"), ("d", "")])
