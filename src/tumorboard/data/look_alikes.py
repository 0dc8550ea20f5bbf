"""Recognizes texts that look the same but have different characters, and names these by their code points."""

import unicodedata
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from tumorboard.base.errors import InputError

SHOWN = 4  # code points in a message

_LOOKS_LIKE = {  # by the Latin letter or the sign: Cyrillic, Greek and other letters, dashes, apostrophes
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "C": "\u0421",
    "E": "\u0415\u0395",
    "H": "\u041d\u0397",
    "I": "\u0406\u04c0\u0399",
    "J": "\u0408",
    "K": "\u041a\u039a",
    "M": "\u041c\u039c",
    "N": "\u039d",
    "O": "\u041e\u039f",
    "P": "\u0420\u03a1",
    "Q": "\u051a",
    "S": "\u0405",
    "T": "\u0422\u03a4",
    "W": "\u051c",
    "X": "\u0425\u03a7",
    "Y": "\u0423\u03a5",
    "Z": "\u0396",
    "a": "\u0430\u03b1\u0251",
    "c": "\u0441",
    "d": "\u0501",
    "e": "\u0435",
    "g": "\u0261",
    "h": "\u04bb",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458",
    "k": "\u03ba",
    "l": "\u04cf",
    "o": "\u043e\u03bf",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "s": "\u0455",
    "u": "\u03c5",
    "v": "\u03bd",
    "w": "\u051d",
    "x": "\u0445",
    "y": "\u0443",
    "'": "\u2019\u2018\u02bc\u02b9\u00b4",
    "-": "\u2010\u2011\u2012\u2013\u2212",
}
_PLAIN = str.maketrans({sign: plain for plain, signs in _LOOKS_LIKE.items() for sign in signs})
# Characters without a width that are not in the category Cf: a joiner, fillers of Hangul, variation selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}


def look_of(text: str) -> str:
    r"""Returns a text that is equal for all texts that look like this one.

    Letters of other scripts become the Latin letters that they look like, accents are decomposed, full-width and other
    variants become plain characters, and invisible ones are removed.

    Source: Unicode Technical Standard 39, section 4 (confusable detection), for the letters of _LOOKS_LIKE only.

    >>> look_of("gli\u043ema") == look_of("glioma"), look_of("\uff30\u200b01"), look_of("e\u0301") == look_of("\xe9")
    (True, 'P01', True)
    """
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text.translate(_PLAIN)).translate(_PLAIN)
    return "".join(sign for sign in plain if sign not in _INVISIBLE and unicodedata.category(sign) != "Cf")


def describe_difference(first: str, second: str) -> str:
    r"""Returns where two texts that look the same first differ, by code points; '' if they do not look the same.

    >>> describe_difference("gli\u043ema", "glioma")
    'U+043E (CYRILLIC SMALL LETTER O) against U+006F (LATIN SMALL LETTER O)'
    >>> describe_difference("P1\u200b", "P1"), describe_difference("P1", "P2")
    ('U+200B (ZERO WIDTH SPACE) against nothing', '')
    """
    if look_of(first) != look_of(second):
        first, second = first.casefold(), second.casefold()
    if first == second or look_of(first) != look_of(second):
        return ""
    changes = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    start, end, other, other_end = next(change[1:] for change in changes if change[0] != "equal")
    return f"{_code_points(first[start:end])} against {_code_points(second[other:other_end])}"


def describe_twin(text: str, known: Collection[str]) -> str:
    r"""Returns a clause about the known text that a text looks like, but does not equal; '' if there is none.

    >>> describe_twin("tr\u0430in", ["train", "test"])
    "; it looks like 'train', but has U+0430 (CYRILLIC SMALL LETTER A) against U+0061 (LATIN SMALL LETTER A)"
    """
    for other in known:
        if difference := describe_difference(text, other):
            return f"; it looks like {other!r}, but has {difference}"
    return ""


def name_character(sign: str) -> str:
    r"""Returns a character's code point, and its name if it has one.

    >>> name_character("\xa0"), name_character("\n")
    ('U+00A0 (NO-BREAK SPACE)', 'U+000A')
    """
    name = unicodedata.name(sign, "")
    return f"U+{ord(sign):04X} ({name})" if name else f"U+{ord(sign):04X}"


def _code_points(text: str) -> str:
    more = " …" if len(text) > SHOWN else ""
    return " ".join(map(name_character, text[:SHOWN])) + more or "nothing"


def refuse_alike_groups(groups: Sequence[tuple[str, str]]) -> None:
    """Raises InputError if two groups (patients) look the same, since one patient would then count as two.

    Args:
        groups: path and group of each image; '' where no group is given.
    """
    first_of: dict[str, tuple[str, str]] = {}
    for path, group in groups:
        first_path, first = first_of.setdefault(look_of(group), (path, group))
        if first != group:
            raise InputError(
                f"data.raw: the patients {first!r} (of {first_path!r}) and {group!r} (of {path!r}) look the same, but "
                f"the first has {describe_difference(first, group)}: one patient would count as two; give both images "
                "one group"
            )
