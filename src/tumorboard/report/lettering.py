"""Finds fonts for names of any script, replaces names that no installed font can draw, and shortens long ones."""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib import font_manager, ft2font

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib
# Fonts of boxes, of symbols and of other encodings, which do not draw letters.
_NO_LETTERS = ("Last Resort", "STIX", "cm", "DejaVu Math")
# Scripts whose letters join, reorder or run from right to left; matplotlib draws these only if it has libraqm.
_SHAPED = ((0x0590, 0x109F), (0x1780, 0x18AF), (0xA840, 0xABFF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFE))


def drawable_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the text that stands for each name in pictures: the name itself, or `class <n>` if no font draws it.

    Args:
        names: names of the classes; n counts them from 1.

    >>> drawable_names(["glioma", "two\\x00"])
    {'glioma': 'glioma', 'two\\x00': 'class 2'}
    """
    texts = {}
    for number, name in enumerate(names, 1):
        composed = unicodedata.normalize("NFC", name)
        text = composed if _missing(composed, font_families(names)) == set() else f"class {number}"
        while text != composed and text in names:
            text += "*"
        texts[name] = text
    return texts


def is_replaced(name: str, text: str) -> bool:
    """Returns whether a text of `drawable_names` is another one than the name itself."""
    return text != unicodedata.normalize("NFC", name)


def font_families(names: Sequence[str]) -> list[str]:
    """Returns the font families that draw these names together, as `font.family` of matplotlib takes them."""
    return list(_families(unicodedata.normalize("NFC", "".join(sorted(set("".join(names)))))))


def text_width(text: str) -> int:
    """Returns the width of a text in letters: 2 for each Chinese, Japanese or Korean one, 0 for a combining mark.

    >>> text_width("e\\u0301"), text_width("\\u80f6\\u8d28")
    (1, 4)
    """
    return sum(map(_letter_width, text))


def clusters(text: str) -> list[str]:
    """Returns the letters of a text, each with the combining marks that follow it."""
    parts: list[str] = []
    for letter in text:
        if parts and _letter_width(letter) == 0:
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def _letter_width(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@cache
def _families(letters: str) -> tuple[str, ...]:
    """Adds to the default family, one by one, the family that draws the most of the letters still missing."""
    families = [DEFAULT_FAMILY]
    missing = _missing(letters, families)
    while missing:
        best = min(_other_families(), key=lambda name: (-len(missing & _letters_of(name)), name), default=None)
        if best is None or not missing & _letters_of(best):
            break
        families.append(best)
        missing -= _letters_of(best)
    return tuple(families)


def _missing(text: str, families: Sequence[str]) -> set[str]:
    """Returns the letters of a text that no family draws."""
    known: set[str] = set().union(*map(_letters_of, families))
    return {letter for letter in text if letter not in known or not _can_shape(letter) or not letter.isprintable()}


def _can_shape(letter: str) -> bool:
    shaped = any(first <= ord(letter) <= last for first, last in _SHAPED)
    return not shaped or bool(getattr(ft2font, "__libraqm_version__", None))


@cache
def _other_families() -> tuple[str, ...]:
    return tuple(name for name in _files() if name != DEFAULT_FAMILY and not name.startswith(_NO_LETTERS))


@cache
def _files() -> dict[str, str]:
    """Returns the file of an upright font of nearly normal weight by family, sorted by name."""
    fonts = [font for font in font_manager.fontManager.ttflist if font.style == "normal"]
    fonts.sort(key=lambda font: (font.name, abs(_weight(font.weight) - 400), font.fname))
    return {font.name: font.fname for font in reversed(fonts)}


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(weight, 400)


@cache
def _letters_of(family: str) -> frozenset[str]:
    try:
        font = font_manager.get_font(_files()[family])
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError, KeyError):  # a font of bitmaps, such as those of emoji, or a removed one
        return frozenset()


def shorten(name: str, width: int) -> str:
    """Returns a name on one line of at most `width` characters, with its middle replaced by '…' where it is longer.

    A Chinese, Japanese or Korean letter counts twice, a combining mark not at all. Line breaks and tabs become spaces;
    characters that cannot be drawn become '?'.

    >>> shorten("pigmented keratosis", 9)
    'pigm…osis'
    """
    name = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    if text_width(name) <= width:
        return name
    letters = clusters(name)
    return f"{_fitting(letters, (width - 1) // 2)}…{_fitting(letters[::-1], width // 2, -1)}"


def _fitting(letters: list[str], width: int, step: int = 1) -> str:
    """Returns the first letters that fit into a width, in reverse order with the step -1."""
    ends = np.cumsum([text_width(letter) for letter in letters])
    return "".join(letters[: int(np.searchsorted(ends, width, "right"))][::step])


def distinct(names: Sequence[str], width: int) -> list[str]:
    """Returns the names shortened to a width, and numbered where two would otherwise look the same."""
    cut = [shorten(name, width) for name in names]
    if len(set(cut)) == len(cut):
        return cut
    return [f"{number} {shorten(name, width - 3)}" for number, name in enumerate(names, 1)]
