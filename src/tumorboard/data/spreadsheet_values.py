"""Finds values that a spreadsheet program has changed: rounded numbers, dates, lost zeros, and errors of formulas."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tumorboard.base.errors import InputError

EXACT_DIGITS = 15  # decimal digits of a number that a spreadsheet program keeps
_FEWEST_LONG = 3  # distinct long numbers that must all end in zeros before they count as rounded
_AS_TEXT = "export the table again, from the program that first held it, with this column formatted as text"

# A number as spreadsheet programs and pandas write it beyond 11 or 16 digits; both always write the exponent's sign.
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE][+-]\d+")
_MONTH = (
    "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mrz|Mär|Mai|Okt|Dez|janv|févr|mars|avr|juin|juil|août|déc)"
)
# Dates in the forms that Excel and LibreOffice give to cells such as MAR1, 3-1 and SEPT2.
_DATE = re.compile(rf"\d{{1,2}}\.?[- ]{_MONTH}\.?(?:[- ]\d{{2,4}})?|{_MONTH}\.?[- ]\d{{2,4}}")
_ERROR = re.compile(r"#(?:N/A|REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!|NV|WERT!|BEZUG!|ZAHL!)|#{3,}")
_FLOAT = re.compile(r"\d+[.,]0")  # a whole number in a column that was read as floating point


def is_date(text: str) -> bool:
    """Returns whether a text has the form that spreadsheet programs give to a date.

    >>> [is_date(text) for text in ("Mar-01", "1-Mar", "01-Sep-24", "2. Mrz", "2024-03-01", "MAR1", "P-01")]
    [True, True, True, True, False, False, False]
    """
    return _DATE.fullmatch(text) is not None


def refuse_formula_error(name: str, text: str, where: str) -> None:
    """Raises InputError if a cell is the error of a formula.

    Args:
        name: name of the value, such as 'label', for the message.
        text: the cell.
        where: file and line, for the message.
    """
    if _ERROR.fullmatch(text):
        raise InputError(f"{where}: {name} is {text!r}, an error of a spreadsheet program: correct the cell")


def refuse_changed_groups(table: Path, groups: Sequence[tuple[int, str]]) -> None:
    """Raises InputError if groups (patients) are rounded numbers or dates, since several may have become one value.

    Args:
        table: the file, for the message.
        groups: line number and group of each row; '' where none is given.
    """
    known = [(line, group) for line, group in groups if group]
    wrong = [(line, group) for line, group in known if _SCIENTIFIC.fullmatch(group)]
    _refuse(table, wrong, known, "is a number that a spreadsheet program has rounded")
    long = {group for _, group in known if re.fullmatch(r"\d{16,}", group)}
    if len(long) >= _FEWEST_LONG and all(set(group[EXACT_DIGITS:]) == {"0"} for group in long):
        wrong = [(line, group) for line, group in known if group in long]
        _refuse(table, wrong, known, f"is a number that a spreadsheet program has rounded to {EXACT_DIGITS} digits")
    dates = [(line, group) for line, group in known if is_date(group)]
    if len(dates) < len(known):
        _refuse(table, dates, known, "is a date among other names, as a spreadsheet program makes it of MAR1 or 3-1")


def _refuse(table: Path, wrong: Sequence[tuple[int, str]], known: Sequence[tuple[int, str]], what: str) -> None:
    if wrong:
        line, group = wrong[0]
        raise InputError(
            f"{table}: line {line}: group {group!r} {what} (in {len(wrong)} of {len(known)} rows), so that several "
            f"patients may have become one: {_AS_TEXT}"
        )


def describe_changed_values(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """Returns warnings about labels and patients that a spreadsheet program may have changed.

    Args:
        rows: path, label and group of each image; the group is '' where none is given.
    """
    rows = list(rows)
    labels, groups = {label for _, label, _ in rows}, {group for _, _, group in rows if group}
    warnings = []
    dates = sorted(filter(is_date, labels))
    if dates and len(dates) < len(labels):
        warnings.append(
            f"the label {dates[0]!r} is a date among other names, as a spreadsheet program makes it of 3-1 or MAR1: "
            "correct it in the table"
        )
    if groups and all(map(is_date, groups)):
        warnings.append(
            f"all patients are dates such as {min(groups)!r}: if a spreadsheet program made them of names such as 3-1 "
            f"or MAR1, {_AS_TEXT}"
        )
    if groups and all(map(_FLOAT.fullmatch, groups)):
        warnings.append(
            f"all patients are decimal numbers such as {min(groups)!r}, as a program writes whole numbers of a column "
            "with empty cells: leading zeros are lost, so that '007' and '07' have become one. If the patients had "
            f"any, {_AS_TEXT}"
        )
    for group, forms in _forms_by_group(rows).items():
        if len(forms) > 1:
            (one, path), (other, second) = sorted(forms.items(), key=lambda form: (-len(form[0]), form[1]))[:2]
            warnings.append(
                f"the patient {group!r} is {one!r} in the name {path!r} and {other!r} in {second!r}: if these are two "
                f"patients whose leading zeros a spreadsheet program has removed, {_AS_TEXT}"
            )
            break
    return warnings


def _forms_by_group(rows: Iterable[tuple[str, str, str]]) -> Mapping[str, Mapping[str, str]]:
    """Returns the first path by each form, with leading zeros or without, in which paths have their group's number.

    Groups of which some path lacks the number, or has it in several forms, are left out: the match may be chance.
    """
    forms: dict[str, dict[str, str]] = {}
    unclear: set[str] = set()
    for path, _, group in rows:
        if not (number := re.fullmatch(r"([1-9]\d*)([.,]0)?", group)):
            continue
        here = {digits for digits in re.findall(r"\d+", path) if digits.lstrip("0") == number[1]}
        if len(here) == 1:
            forms.setdefault(group, {}).setdefault(here.pop(), path)
        else:
            unclear.add(group)
    return {group: each for group, each in forms.items() if group not in unclear}


def explain_missing_name(name: str, others: Iterable[str]) -> str:
    """Returns a clause about a file's name that a spreadsheet program has changed; '' for other names.

    Args:
        name: a name that no file has, perhaps without its ending.
        others: the names of the files in its folder.

    >>> explain_missing_name("123.png", ["00123.png", "7.png"])[:77]
    "; nearest: '00123.png'; a spreadsheet program removes leading zeros and adds "
    >>> explain_missing_name("123.0", ["0123.png", "00123.png"])[:43]
    "; it may be '00123.png' or '0123.png': a sp"
    """
    stem = re.sub(r"\.[A-Za-z]\w{0,4}$", "", name)
    if _SCIENTIFIC.fullmatch(stem):
        return f"; {stem!r} is a number that a spreadsheet program has rounded: {_AS_TEXT}"
    if is_date(stem):
        return f"; {stem!r} is a date, as a spreadsheet program makes it of 3-1 or MAR1: {_AS_TEXT}"
    plain = without_zeros(name)
    alike = sorted(other for other in others if plain and without_zeros(other) == plain)
    if not alike:
        return ""
    if len(alike) > 1:
        return (
            f"; it may be {alike[0]!r} or {alike[1]!r}: a spreadsheet program removes leading zeros and adds '.0': "
            f"{_AS_TEXT}"
        )
    return f"; nearest: {alike[0]!r}; a spreadsheet program removes leading zeros and adds '.0': {_AS_TEXT}"


def without_zeros(name: str) -> str:
    """Returns a name without ending, '.0' and leading zeros of numbers, in lower case; '' if it has no number."""
    stem = re.sub(r"[.,]0$", "", re.sub(r"\.[A-Za-z]\w{0,4}$", "", name.casefold()))
    return re.sub(r"(?<!\d)0+(?=\d)", "", stem) if re.search(r"\d", stem) else ""
