import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.evaluation.attribute_values import MAX_VALUES, values_of_column


def table(values, column="age"):
    return pd.DataFrame({"id": [f"i{k}" for k in range(len(values))], column: values})


def test_values_follow_the_ids_and_empty_cells_are_unknown():
    values, names = values_of_column(
        table(["F", "", "M", " F ", "unknown"], "sex"), "sex", ["i3", "i1", "i0", "i4", "i2"]
    )
    assert values.tolist() == ["F", "unknown", "F", "unknown", "M"]
    assert names == ["F", "M", "unknown"]


def test_only_values_of_the_given_images_are_named():
    values, names = values_of_column(table(["F", "M", ""], "sex"), "sex", ["i0"])
    assert (values.tolist(), names) == (["F"], ["F"])


def test_few_numbers_stay_and_are_sorted_by_size():
    _, names = values_of_column(table(["10", "9", "1.5", ""], "grade"), "grade", ["i0", "i1", "i2", "i3"])
    assert names == ["1.5", "9", "10", "unknown"]


def test_many_numbers_become_quarters_of_the_table():
    ages = [str(age) for age in range(20, 100)]
    values, names = values_of_column(table([*ages, ""]), "age", [f"i{k}" for k in range(81)])
    assert names == ["20 to 39", "40 to 59", "60 to 79", "80 to 99", "unknown"]
    assert pd.Series(values).value_counts().to_dict() == dict.fromkeys(names[:4], 20) | {"unknown": 1}
    assert (values[0], values[19], values[20], values[-1]) == ("20 to 39", "20 to 39", "40 to 59", "unknown")


def test_ranges_do_not_depend_on_which_images_are_scored():
    ages = [str(age) for age in range(20, 100)]
    values, names = values_of_column(table(ages), "age", ["i79", "i78"])
    assert (values.tolist(), names) == (["80 to 99"] * 2, ["80 to 99"])


def test_ranges_of_negative_and_repeated_numbers():
    numbers = ["-5"] * 60 + [str(k / 10) for k in range(40)]
    values, names = values_of_column(table(numbers), "age", [f"i{k}" for k in range(100)])
    assert names[0] == "-5 to -5"
    assert names == sorted(names, key=lambda name: float(name.split(" to ")[0]))
    for value, number in zip(values, numbers, strict=True):
        low, high = map(float, value.split(" to "))
        assert low <= float(number) <= high


def test_ranges_of_long_numbers_are_told_apart():
    """Dates of one month, of which six digits are the same, and serial numbers that differ in the eleventh digit."""
    days = [str(20230100 + day) for day in range(1, 25)]
    _, names = values_of_column(table([*days, ""], "day"), "day", [f"i{k}" for k in range(25)])
    assert names == [*(f"{20230101 + first} to {20230106 + first}" for first in (0, 6, 12, 18)), "unknown"]
    serials = [str(98765432100 + number) for number in range(24)]
    values, names = values_of_column(table(serials, "serial"), "serial", [f"i{k}" for k in range(24)])
    assert names[0] == "98765432100 to 98765432105"
    assert pd.Series(values).value_counts().tolist() == [6] * 4


def test_an_unknown_column_lists_those_that_there_are():
    with pytest.raises(InputError, match=r"names 'sx'.*sex.*it has sex, site"):
        values_of_column(pd.DataFrame({"id": ["a"], "sex": ["F"], "site": ["A"]}), "sx", ["a"])
    with pytest.raises(InputError, match="no columns beyond path, label, group, split and fold"):
        values_of_column(pd.DataFrame({"id": ["a"]}), "sex", ["a"])
    with pytest.raises(InputError, match="names 'id'"):
        values_of_column(pd.DataFrame({"id": ["a"], "sex": ["F"]}), "id", ["a"])


def test_too_many_texts_are_refused():
    names = [f"site {k}" for k in range(MAX_VALUES + 1)]
    with pytest.raises(InputError, match=f"column 'site' has {MAX_VALUES + 1} values, such as site 0"):
        values_of_column(table(names, "site"), "site", ["i0"])
    assert values_of_column(table(names[:-1], "site"), "site", ["i0"])[1] == ["site 0"]
    with pytest.raises(InputError, match="has 30 different numbers, but also about fifty, which is no number"):
        values_of_column(table([*map(str, range(30)), "about fifty"]), "age", ["i0"])
    with pytest.raises(InputError, match="but also nan"):
        values_of_column(table([*map(str, range(30)), "nan"]), "age", ["i0"])


def test_texts_among_many_numbers_are_told_from_a_column_of_texts():
    ages = [str(age) for age in range(20, 60)]
    for word in ("NA", "45Y", "45,5"):
        with pytest.raises(
            InputError, match=f"^evaluate.subgroups: column 'age' has 40 different numbers, but also {word}, "
        ):
            values_of_column(table([*ages, "", word]), "age", ["i0"])
    few = [str(age) for age in range(MAX_VALUES - 1)]
    assert "NA" in values_of_column(table([*few, "NA"]), "age", [f"i{k}" for k in range(MAX_VALUES)])[1]


def test_images_that_the_table_lacks_or_repeats_are_named():
    with pytest.raises(InputError, match="image 'z' is not in the table of attributes"):
        values_of_column(table(["1"]), "age", ["i0", "z"])
    twice = pd.concat([table(["1"])] * 2)
    with pytest.raises(InputError, match="image 'i0' in more than one row"):
        values_of_column(twice, "age", ["i0"])


def test_values_are_objects():
    assert values_of_column(table(["F", "M"], "sex"), "sex", ["i0"])[0].dtype == np.dtype(object)
