"""Values that a spreadsheet program has changed: rounded numbers, dates, lost zeros, errors of formulas."""

from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.data.spreadsheet_values import (
    describe_changed_values,
    explain_missing_name,
    is_date,
    refuse_changed_groups,
    refuse_formula_error,
)

TABLE = Path("labels.csv")


def refused(*groups: str) -> str:
    """Returns the message about groups that stand in lines 2, 3 ..., '' if they are accepted."""
    try:
        refuse_changed_groups(TABLE, list(enumerate(groups, 2)))
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("group", ["1.2E+10", "1,23E+09", "1E+15", "1e+16", "1.2345678901234567e+18", "-4.5E-05"])
def test_numbers_in_scientific_notation_are_refused_with_the_line(group: str) -> None:
    message = refused("P1", group, group, "P2")
    assert message.startswith(f"labels.csv: line 3: group {group!r} is a number that a spreadsheet program has rounded")
    assert "(in 2 of 4 rows), so that several patients may have become one: export the table again" in message


@pytest.mark.parametrize("group", ["1E5", "E+10", "12E", "1.2.840.10008", "A1.2E+10", "1.5", "2E+", "3D+10"])
def test_names_that_only_resemble_scientific_notation_are_accepted(group: str) -> None:
    assert refused("P1", group) == ""


def test_long_numbers_that_all_end_in_zeros_after_15_digits_are_refused() -> None:
    rounded = ["1234567890123450", "12345678901234500", "1234567890123460"]
    assert "line 3: group '1234567890123450' is a number that a spreadsheet program has rounded to 15" in refused(
        "7", *rounded
    )
    assert refused(*rounded[:2]) == ""  # two may end so by chance
    assert refused(*rounded, "1234567890123451") == ""
    assert refused("100000000000000", "200000000000000", "300000000000000") == ""  # 15 digits are exact


@pytest.mark.parametrize(
    "date", ["Mar-01", "1-Mar", "01-Mar-24", "Sep-02", "Sept-02", "01. Mrz", "12-Dez", "1-May-2024"]
)
def test_a_date_among_other_patients_is_refused(date: str) -> None:
    assert is_date(date)
    assert f"line 4: group {date!r} is a date among other names" in refused("P1", "P2", date)
    assert refused(date, date) == ""  # all are dates: perhaps they are meant


@pytest.mark.parametrize("name", ["MAR1", "2024-03-01", "may-12", "Mars-X", "P-01", "1-3", "Marie-01", "32Mar"])
def test_names_that_are_no_dates(name: str) -> None:
    assert not is_date(name)


def test_empty_groups_are_passed_over() -> None:
    assert refused("", "") == refused() == ""


def test_errors_of_formulas_alone_are_refused() -> None:
    errors = ["#N/A", "#REF!", "#NAME?", "#DIV/0!", "#WERT!", "###", "########"]
    messages = {}
    for cell in [*errors, "N/A", "#1", "#", "##", "#n", "C#"]:
        try:
            refuse_formula_error("label", cell, "labels.csv: line 7")
        except InputError as error:
            messages[cell] = str(error)
    cure = "an error of a spreadsheet program: correct the cell"
    assert messages == {cell: f"labels.csv: line 7: label is {cell!r}, {cure}" for cell in errors}


def test_a_date_among_labels_and_dates_as_patients_are_warned_of() -> None:
    (warning,) = describe_changed_values([("1.png", "1-Feb", ""), ("2.png", "0", "")])
    assert warning.startswith("the label '1-Feb' is a date among other names")
    assert describe_changed_values([("1.png", "Jan-01", ""), ("2.png", "Feb-01", "")]) == []  # classes of months
    (warning,) = describe_changed_values([("1.png", "a", "1-Mar"), ("2.png", "b", "2-Mar")])
    assert warning.startswith("all patients are dates such as '1-Mar'")


def test_patients_as_decimal_numbers_are_warned_of() -> None:
    (warning,) = describe_changed_values([("a.png", "a", "12.0"), ("b.png", "b", "7.0")])
    assert warning.startswith("all patients are decimal numbers such as '12.0'")
    assert describe_changed_values([("a.png", "a", "12.0"), ("b.png", "b", "P7")]) == []


def test_a_patient_whose_number_has_other_zeros_in_two_names_is_warned_of() -> None:
    rows = [("00123_1.png", "a", "123"), ("0123_2.png", "b", "123"), ("0007_1.png", "a", "7")]
    (warning,) = describe_changed_values(rows)
    assert warning.startswith("the patient '123' is '00123' in the name '00123_1.png' and '0123' in '0123_2.png'")
    for second in ("00123_2.png", "x_2.png", "0123/00123_2.png"):  # one form, none, two in one name
        assert describe_changed_values([rows[0], (second, "b", "123")]) == []
    assert describe_changed_values([("01231.png", "a", "123"), ("123.png", "b", "123")]) == []  # another number


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("123.png", "; nearest: '00123.png'; a spreadsheet program removes leading zeros"),
        ("123", "; nearest: '00123.png'"),
        ("123.0", "; nearest: '00123.png'"),
        ("123.0.png", "; nearest: '00123.png'"),
        ("7.png", "; it may be '007.png' or '07.png'"),
        ("p_4_x5.jpg", "; nearest: 'P_04_x05.jpg'"),
        ("1.23E+12.png", "; '1.23E+12' is a number that a spreadsheet program has rounded"),
        ("1.23E+12", "; '1.23E+12' is a number"),
        ("Mar-01.png", "; 'Mar-01' is a date"),
        ("a.png", ""),
        ("1230.png", ""),
    ],
)
def test_a_missing_file_is_explained(name: str, words: str) -> None:
    hint = explain_missing_name(name, ["00123.png", "07.png", "007.png", "P_04_x05.jpg", "b.png"])
    assert hint.startswith(words)
    assert bool(hint) == bool(words)
