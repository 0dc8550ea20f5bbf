"""The further columns of a label table: which are kept, as what text, and the table that the stage crop writes."""

from pathlib import Path

import pandas as pd
import pytest

from tests.data.cropping import build, data_section, picture, save
from tumorboard.base.data_params import Columns
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Params
from tumorboard.data.attributes import MAX_ATTRIBUTES, attribute_table, check_names, choose_columns, unkept_warnings
from tumorboard.data.label_warnings import describe_listing
from tumorboard.data.sources import list_images


def make(raw: Path, header: str, *cells: str, encoding: str = "utf-8", errors: str = "strict") -> None:
    """Writes a table with one line per entry of cells, which follow the path and the label, and empty images."""
    lines = [f"path,label,{header}"]
    for number, text in enumerate(cells):
        (raw / f"{number}.png").touch()
        lines.append(f"{number}.png,{'ab'[number % 2]},{text}")
    (raw / "labels.csv").write_text("\n".join(lines), encoding=encoding, errors=errors, newline="")


def attributes(raw: Path, **data: object) -> pd.DataFrame:
    return attribute_table(list_images(raw, data_section(**data))[0])


def test_a_name_that_is_no_column_is_refused_with_the_known_ones() -> None:
    table = pd.DataFrame(columns=["id", "age", "sex", "site"])
    check_names(table, ["site", "age"], "here")
    check_names(table, [], "here")
    for name, end in (
        ("agee", "'agee'; did you mean age?"),
        ("weight", "'weight'; known: age, sex, site"),
        ("id", "'id'; known: age, sex, site"),  # the path of the image, no attribute
    ):
        with pytest.raises(InputError) as raised:
            check_names(table, ["sex", name], "p.yaml: key")
        assert str(raised.value) == f"p.yaml: key: the data has no column {end}"
    with pytest.raises(InputError, match=r"no column 'sex' beside path, label, group, split and fold: delete the name"):
        check_names(table[["id"]], ["sex"], "p.yaml: key")


def test_every_further_column_is_kept_as_it_is_written(tmp_path: Path) -> None:
    make(tmp_path, "group,sex,Alter in Jahren,0,split", "P1,f,007,NA,", "P2,,nan,1e3,")
    table = attributes(tmp_path)
    assert table.to_dict("list") == {
        "id": ["0.png", "1.png"],
        "sex": ["f", ""],
        "Alter in Jahren": ["007", "nan"],
        "0": ["NA", "1e3"],
    }


def test_names_of_the_pipelines_own_columns_and_signs_are_kept_apart(tmp_path: Path) -> None:
    make(tmp_path, 'id,sha256,"a,b",=1+1,source_id,attribute x', "1,2,3,4,5,6", "7,8,9,10,11,12")
    table = attributes(tmp_path)
    assert list(table.columns) == ["id", "id of the table", "sha256", "a,b", "=1+1", "source_id", "attribute x"]
    assert table.iloc[1].tolist() == ["1.png", "7", "8", "9", "10", "11", "12"]


def test_columns_that_data_columns_names_are_not_repeated(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text("image_id,dx,lesion_id,sex,label\n0,mel,L1,f,x\n1,nv,L2,m,y\n")
    columns = Columns(path="image_id", label="dx", group="lesion_id")
    table = attributes(tmp_path, table="t.csv", columns=columns, extension=".png")
    assert table.to_dict("list") == {"id": ["0.png", "1.png"], "sex": ["f", "m"], "label": ["x", "y"]}


def test_one_hot_columns_are_labels_and_no_attributes(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text("path,MEL,NV,sex\n0.png,1,0,f\n1.png,0,1,m\n")
    assert list(attributes(tmp_path, table="t.csv", columns=Columns(label=("MEL", "NV"))).columns) == ["id", "sex"]


def test_a_value_on_which_the_lines_of_an_image_differ_is_unknown(tmp_path: Path) -> None:
    """Such as one line per box in the picture."""
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text("file,label,x,sex\n0.png,a,10,f\n0.png,a,20,f\n0.png,a,10,f\n1.png,b,30,m\n")
    table = attributes(tmp_path, table="t.csv", columns=Columns(path="file"))
    assert table.to_dict("list") == {"id": ["0.png", "1.png"], "x": ["", "30"], "sex": ["f", "m"]}


def test_line_breaks_control_characters_and_bytes_of_another_encoding_become_plain_text(tmp_path: Path) -> None:
    make(
        tmp_path,
        '"site\nname"',
        '"upper\r\n  lobe "',
        "a\x1bb",
        "M\udce4nner",
        encoding="utf-8",
        errors="surrogateescape",
    )
    assert attributes(tmp_path)["site name"].tolist() == ["upper lobe", "a�b", "M�nner"]


def test_a_zero_byte_is_refused_with_its_line(tmp_path: Path) -> None:
    make(tmp_path, "sex", "f", "m\0")
    with pytest.raises(InputError, match=r"labels\.csv: line 3: a zero byte"):
        attributes(tmp_path)


def test_columns_without_a_name_or_with_the_same_name_are_not_kept_and_the_latter_are_named(tmp_path: Path) -> None:
    make(tmp_path, ",sex,age,sex ,", "0,f,1,m,", "1,m,2,m,")
    assert list(attributes(tmp_path).columns) == ["id", "age"]
    images, _ = list_images(tmp_path, data_section())
    (warning,) = [text for text in describe_listing(images, tmp_path, data_section()) if "columns" in text]
    assert warning.startswith("several columns of the table have the same name, 'sex': none of them is kept")


def test_of_thousands_of_columns_the_first_hundred_are_kept_and_a_warning_says_so(tmp_path: Path) -> None:
    names = [f"gene {number}" for number in range(3000)]
    make(tmp_path, ",".join(names), ",".join(["1"] * 3000), ",".join(["2"] * 3000))
    assert list(attributes(tmp_path).columns) == ["id", *names[:100]]
    images, _ = list_images(tmp_path, data_section())
    (warning,) = describe_listing(images, tmp_path, data_section())
    assert "has 3000 columns" in warning
    assert "the first 100 are kept" in warning
    assert "'gene 103' and 2896 more: move the columns that are needed to the front" in warning


def test_a_table_within_the_limits_has_no_warning() -> None:
    header = ["path", "label", *(f"x{number}" for number in range(MAX_ATTRIBUTES))]
    assert unkept_warnings(choose_columns(header, ["path", "label"])) == []


def test_class_folders_have_no_attributes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert attributes(tmp_path).to_dict("list") == {"id": ["a/1.png", "b/1.png"]}


def test_the_crop_stage_writes_one_row_per_usable_image_in_the_order_of_the_manifest(
    tmp_path: Path, params: Params
) -> None:
    raw = tmp_path / "raw"
    for number, name in enumerate(("2.png", "1.png", "3.png")):
        save(raw / name, picture(number))
    (raw / "broken.png").write_bytes(b"no image")
    lines = ["2.png,a,south,", "broken.png,a,east,9", '1.png,b,"no, rth",NA', "3.png,b,south,=1"]
    (raw / "labels.csv").write_text("path,label,site,age\n" + "\n".join(lines))
    build(raw, tmp_path / "out", params.crop, tmp_path / "cache", max_quarantined=1)
    table = read_table(tmp_path / "out" / "attributes.csv")
    assert table.to_dict("list") == {
        "id": read_table(tmp_path / "out" / "manifest.csv")["id"].tolist(),
        "site": ["no, rth", "south", "south"],
        "age": ["NA", "", "=1"],
    }
