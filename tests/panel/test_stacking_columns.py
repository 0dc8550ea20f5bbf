"""Cells of the vote stacking: the data's table by id, and a user's table by path; what is wrong is named."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.panel.stacking import Column, Stacking
from tumorboard.panel.stacking_columns import cells_of, columns_of_vote, read_cells, unusual_cells

AGE, SEX = Column("age", (), 50.0, 10.0), Column("sex", ("f", "m"), None, None)


def table(**columns):
    return pd.DataFrame({"id": ["x", "y", "z"], **columns})


def test_cells_are_in_the_order_of_the_ids_and_of_the_columns():
    attributes = table(sex=["f", " m ", ""], site=["n", "s", "n"], age=["40", "", "7"])
    assert cells_of(attributes, ["age", "sex"], ["z", "x"]).tolist() == [["7", ""], ["40", "f"]]
    assert cells_of(attributes, ["sex"], []).shape == (0, 1)


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(InputError, match=r"^params\.yaml: ensemble\.stacking_columns: .* 'agee'; did you mean age\?$"):
        cells_of(table(age="1", sex="f"), ["sex", "agee"], ["x"])
    with pytest.raises(InputError, match="no column 'age' beside path, label, group, split and fold: delete the name"):
        cells_of(table(), ["age"], ["x"])
    with pytest.raises(InputError, match="no column 'id'"):
        cells_of(table(age="1"), ["id"], ["x"])


def test_a_column_with_too_many_texts_and_an_image_that_is_not_there():
    many = pd.DataFrame({"id": [f"i{row}" for row in range(40)], "name": [f"p{row}" for row in range(40)]})
    with pytest.raises(InputError, match="column 'name' has 40 values, such as p0: name fewer than 21"):
        cells_of(many, ["name"], ["i0"])
    ages = many.assign(age=[*(f"{row + 20}" for row in range(39)), "NA"])
    with pytest.raises(InputError, match="stacking_columns: column 'age' has 39 different numbers, but also NA, which"):
        cells_of(ages, ["age"], ["i0"])
    numbers = many.assign(name=[f"{row / 3}" for row in range(40)])
    assert cells_of(numbers, ["name"], ["i3"]).tolist() == [["1.0"]], "numbers may be many"
    with pytest.raises(InputError, match="image 'q' is not in the table of attributes: run `dvc repro`"):
        cells_of(numbers, ["name"], ["i0", "q"])


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [tmp_path / "new" / name for name in ("1.png", "2.png")]


def write(folder, text):
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "t.csv").write_text(text, "utf-8")
    return folder / "tables" / "t.csv"


def test_paths_are_relative_to_the_current_folder_or_to_the_tables(tmp_path, images):
    text = "sex;path;age;other\nf;new/1.png;41;x\n;../tables/../new/2.png;;y\nm;new/of somebody else.png;old;z\n"
    file = write(tmp_path, text.replace("../tables/../new", str(tmp_path / "new")))
    expected = {images[0]: ["41", "f"], images[1]: ["", ""]}
    assert read_cells(file, [AGE, SEX], images) == expected
    beside = images[0].parent / "t.csv"
    beside.parent.mkdir()
    beside.write_text("path,age\n1.png,41\n2.png,unknown\n")
    assert read_cells(beside, [AGE], [image.relative_to(tmp_path) for image in images]) == {
        images[0]: ["41"],
        images[1]: ["unknown"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\nnew/1.png,4\n", ": has no column 'path': it has file, age"),
        ("Export\npath,age\nnew/1.png,4\n", r": line 1 is not a header \('Export'\); line 2 has the columns path, age"),
        ("path,sex\nnew/1.png,f\n", ": has no column 'age': it has path, sex"),
        ("path,age\nnew/1.png,4\n", ": has no row for .*2.png: add it, with a path relative to the current folder or"),
        ("path,age\n3.png,4\n", ": has no row for .*1.png and 1 other image: add it"),
        ("path,age\nnew/1.png,4\nnew/1.png,5\n", ": line 3: a second row for new/1.png"),
        ("path,age\nnew/1.png,4\nnew/2.png,old\n", ": line 3: age is old, expected a number or nothing"),
        ("path,age\nnew/1.png\n", ": line 2: 1 values for 2 columns"),
        ("path,age, age\nnew/1.png,4,5\n", ": has two columns 'age'"),
    ],
)
def test_a_table_that_lacks_something_is_one_message(tmp_path, images, text, message):
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}{message}"):
        read_cells(file, [AGE], images)


def test_other_columns_may_share_a_name(tmp_path, images):
    """As the empty ones that a spreadsheet writes behind the others."""
    file = write(tmp_path, "path,,age,\nnew/1.png,x,41,\nnew/2.png,,7,y\n")
    assert read_cells(file, [AGE], images) == {images[0]: ["41"], images[1]: ["7"]}


def test_an_image_may_be_given_by_a_way_through_the_folder_above(tmp_path, images):
    file = write(tmp_path, "".join(["path,age\n", *(f"{image},4\n" for image in images)]))
    given = [tmp_path / "tables" / ".." / image.relative_to(tmp_path) for image in images]
    cells = read_cells(file, [AGE], given)
    assert cells == {image: ["4"] for image in images}
    assert unusual_cells([AGE], cells, given) == []


def test_a_text_that_the_fit_did_not_see_is_no_mistake(tmp_path, images):
    file = write(tmp_path, "path,sex\nnew/1.png,diverse\nnew/2.png,f\n")
    assert read_cells(file, [SEX], images)[images[0]] == ["diverse"]


FILES = [Path("new/1.png"), Path("new/2.png"), Path("new/3.png"), Path("new/4.png")]


def unusual(column, *cells):
    """The sentences on one column, whose cells are those of the first files."""
    files = FILES[: len(cells)]
    by_file = {file.absolute(): [cell] for file, cell in zip(files, cells, strict=True)}
    return unusual_cells([column], by_file, files)


def test_texts_that_the_fit_lacks_are_counted_and_the_first_is_named():
    assert unusual(SEX, "f", "m", "", "unknown") == []
    assert unusual(SEX, "m", "female", "f", "M") == [
        "sex of 2 images, the first new/2.png: 'female' is none of f, m, the values of the training table that the "
        "vote was fitted on; it counts as none of them"
    ]
    empty = unusual(Column("site", (), None, None), "", "north")
    assert empty == [
        "site of 1 image, the first new/2.png: 'north' has no effect, since no image that the vote was fitted on had "
        "a value"
    ]


def test_numbers_beyond_six_standard_deviations_are_counted_and_the_first_is_named():
    """The mean is 50 and the standard deviation 10: usual are -10 to 110."""
    assert unusual(AGE, "110", "-10", "", "unknown") == []
    assert unusual(AGE, "40", "-10.5", "110", "4000") == [
        "age of 2 images, the first new/2.png: -10.5 is more than 6 standard deviations from the mean of the training "
        "table's numbers that the vote was fitted on (mean 50, standard deviation 10); it is used as it is"
    ]


def test_each_column_has_its_own_cells_and_its_own_sentence():
    cells = {FILES[0].absolute(): ["4000", "f"], FILES[1].absolute(): ["40", "female"]}
    first, second = unusual_cells([AGE, SEX], cells, FILES[:2])
    assert first.startswith("age of 1 image, the first new/1.png: 4000 ")
    assert second.startswith("sex of 1 image, the first new/2.png: 'female' ")


def test_the_stacking_vote_alone_uses_columns():
    stacking = Stacking(coefficients=((0.0,) * 9,) * 2, intercepts=(0.0, 0.0), penalty=1.0, columns=(AGE, SEX))
    assert columns_of_vote("stacking", stacking) == (AGE, SEX)
    assert columns_of_vote("soft", stacking) == ()
    assert columns_of_vote("soft", None) == ()
