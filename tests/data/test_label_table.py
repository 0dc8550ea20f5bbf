"""read_label_table: every value as it is written, in any usual CSV form, or an error that names the line."""

from pathlib import Path

import pytest

from tests.data.raw_folders import touch
from tumorboard.base.data_params import Columns
from tumorboard.base.errors import InputError
from tumorboard.data.label_table import (
    LABEL_COLUMNS,
    SPLIT_NAMES,
    Row,
    TableForm,
    check_text,
    read_label_table,
)
from tumorboard.data.sources import list_files
from tumorboard.data.table_paths import check_path


def read(raw: Path, content: str | bytes) -> list[Row]:
    """Reads labels.csv with this content."""
    (raw / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_label_table(raw / "labels.csv", raw)


def labels(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["path"], row["label"]) for row in rows]


def error_of(raw: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(raw, content)
    return str(caught.value)


def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "x/2.png", "3.png")
    lines = ["path;label;age;group;split;fold", "3.png;NA;7;P1;Training;1", "./x//2.png;None;7;001;train;", ""]
    rows = read(tmp_path, "\ufeff" + "\r\n".join([*lines, "1.png;001;;NA;TEST;", ""]))
    assert [tuple(row[column] for column in LABEL_COLUMNS) for row in rows] == [
        ("3.png", "NA", "P1", "train", "1"),
        ("x/2.png", "None", "001", "train", ""),
        ("1.png", "001", "NA", "test", ""),
    ]
    assert [row["attribute age"] for row in rows] == ["7", "7", ""]


def test_missing_columns_are_empty(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    assert read(tmp_path, "label,path\na,1.png\n") == [
        {"path": "1.png", "label": "a", "group": "", "split": "", "fold": ""}
    ]


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_each_name_of_a_split_counts_in_any_case(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "1.png")
    expected = {"tr": "train", "va": "val", "te": "test"}[name[:2]]
    for spelling in (name, name.upper(), name.title()):
        assert read(tmp_path, f"path,label,split\n1.png,a,{spelling}\n")[0]["split"] == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_usual_form_is_read(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    touch(tmp_path, "1.png", "a,b;c\td.png", "é.png", "4.png")
    rows = [
        ("path", "label", "note; of, all"),
        ("1.png", "001", ""),
        ("", "", ""),
        ("a,b;c\td.png", "NA", 'he said "no"'),
        (" ", "", ""),
        ("é.png", "Übel, schlimm", "x"),
        ("4.png", "1", ""),
    ]
    quoted = (delimiter.join('"{}"'.format(cell.replace('"', '""')) for cell in row) for row in rows)
    text = end.join([*quoted, "", " ", ""])
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    assert labels(read(tmp_path, (mark + text).encode(encoding))) == [
        ("1.png", "001"),
        ("a,b;c\td.png", "NA"),
        ("é.png", "Übel, schlimm"),
        ("4.png", "1"),
    ]


def test_a_space_behind_each_delimiter_belongs_to_no_cell(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", " 2.png")
    assert labels(read(tmp_path, 'path, label, note\n1.png, "a, b", x\n')) == [("1.png", "a, b")]
    assert labels(read(tmp_path, "label,path\na, 2.png\n")) == [(" 2.png", "a")]  # the header has no spaces


def test_empty_rows_and_the_line_sep_of_excel_may_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "3.png")
    for begin in ("\n", "\r\n \r\n", ";;\n", "sep=;\n", '\n"SEP=;"\r\n'):
        # A delimiter guessed from this header would be the comma.
        odd = '"a, b, c, d"' if "=" in begin else ""
        assert labels(read(tmp_path, f"{begin}path;label;{odd}\n1.png;u;\n2.png;v;\n")) == [
            ("1.png", "u"),
            ("2.png", "v"),
        ]
    assert labels(read(tmp_path, ",path,label\n0,1.png,u\n1,2.png,v\n")) == [("1.png", "u"), ("2.png", "v")]
    content = "\r\n\r\nsep=,\r\npath,label\r\n1.png,a\r\nnone.png,b\r\n"
    assert "labels.csv: line 6: there is no file" in error_of(tmp_path, content)
    assert "labels.csv: line 3: no column 'label'" in error_of(tmp_path, "\n,\nclass,path\n")
    assert "labels.csv: line 5: not readable as CSV" in error_of(tmp_path, '\n\npath,label\n1.png,a\n"2.png,b\n')
    assert "the file is empty" in error_of(tmp_path, "\n \n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\n1.png,a\n2.png,zürich\n".encode("latin-1"), ["line 3", "label", "not UTF-8"]),
        ("path,label,group\n1.png,a,zürich\n2.png,b,c\n".encode("latin-1"), ["line 2", "group", "not UTF-8"]),
        ("path,label\n1.png,a\nü.png,b\n".encode("latin-1"), ["line 3", "no file", "not UTF-8"]),
        ("path,label\n1.png,a\n2.png,b\n".encode("utf-16-le"), ["line 1", "zero byte", "UTF-8"]),
        ("path,label\n1.png,a\n2.png,b\n".encode("utf-32"), ["line 1", "zero byte"]),
        ("path,label\n1.png,a\n2.png,b\n".encode("utf-16")[:-1], ["line 3", "UTF-16"]),
        (b"path,label\n1.png,a\n2.png,b\0\n", ["line 3", "zero byte"]),
        (b"path,label,Label\n1.png,a,b\n", ["line 1", "'label', 'Label'", "twice"]),
        (b"path,label, PATH\n1.png,a,b\n", ["line 1", "'path', ' PATH'", "twice"]),
        (b'path,label\n1.png,a\n2.png,"b\nc"\n', ["line 3", "control character"]),
    ],
)
def test_damaged_bytes_and_control_characters_are_refused(tmp_path: Path, content: bytes, words: list[str]) -> None:
    touch(tmp_path, "1.png", "2.png")
    message = error_of(tmp_path, content)
    assert [word for word in [*words, "labels.csv"] if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["line 1", "'path'", "path and label are required", "empty"]),
        ("path,class\n1.png,a\n", ["line 1", "'label'", "nearest: 'class'"]),
        ("Path,label\n1.png,a\n", ["line 1", "'path'", "nearest: 'Path'"]),
        ("path,label,groups\n1.png,a,P\n", ["line 1", "'group'", "nearest: 'groups'"]),
        ("path,label,label\n1.png,a,b\n", ["line 1", "'label'", "twice"]),
        ("path,label\n1.png,a\n2.png\n", ["line 3", "1 values for 2 columns"]),
        ('path,label\n1.png,a\n"2.png,b\n', ["line 3", "not readable as CSV"]),
        ('path,label\n"1.png,a\n2.png,b\nx/2.png,a\n', ["line 2", "is a quote left open?"]),
        ("path,label\n1.png,a\nnone.png,b\n", ["line 3", "'none.png'", "no file"]),
        ("path,label\nx\\2.png,a\n", ["line 2", "'/'"]),
        ("path,label\n/etc/passwd,a\n", ["line 2", "absolute"]),
        ("path,label\n1.png,a\nx/../../out.png,b\n", ["line 3", "leads out"]),
        ("path,label\n1.png,a\nlink.png,b\n", ["line 3", "leads out"]),
        ("path,label\n1.png,a\nx,b\n", ["line 3", "folder"]),
        ("path,label\n1.png,a\n,b\n", ["line 3", "path is empty"]),
        ("path,label\n1.png,\n", ["line 2", "label is empty", "data.classes"]),
        ("path,label\n1.png, a\n", ["line 2", "' a'", "white space"]),
        ("path,label,group\n1.png,a,\n", ["line 2", "group is empty", "such as the path"]),
        ("path,label,group\n1.png,a,P1 \n", ["line 2", "'P1 '", "white space"]),
        (
            'path,label,note\n1.png,a,"two\nlines"\n2.png,b,\nx/../1.png,b,\n',
            ["lines 2 and 5", "'1.png'", "'a' and 'b'"],
        ),
        ("path,label\n1.png,a\n1.png,a\n", ["lines 2 and 3", "same path"]),
        ("path,label,split\n1.png,a,dev\n", ["line 2", "'dev'", "validation"]),
        ("path,label,split\n1.png,a,train\n2.png,b,\n", ["line 3", "all or none"]),
        ("path,label,split\n1.png,a,\n2.png,b,test\n", ["line 3", "all or none"]),
        ("path,label,fold\n1.png,a,one\n", ["line 2", "'one'"]),
        ("path,label,split,fold\n1.png,a,test,0\n", ["line 2", "'test'"]),
        ("path,label,split,fold\n1.png,a,val,0\n", ["line 2", "'val'"]),
        ("Study\npath,label\n1.png,a\n", ["labels.csv: line 1 is not a header", "line 2 has the columns path, label"]),
        ("path,l\u0430bel\n1.png,a\n", ["line 1: no column 'label'", "U+0430 (CYRILLIC SMALL LETTER A)"]),
        ("path,label,gr\u043eup\n1.png,a,P\n", ["no column 'group'", "U+043E"]),  # patients would be lost
        ("path,label,\uff47roup\n1.png,a,P\n", ["no column 'group'", "U+FF47"]),
        ("path,label,l\u0430bel\n1.png,a,b\n", ["'label' is there twice", "U+0430"]),
        ("path,label,split\n1.png,a,tr\u0430in\n", ["line 2", "it looks like 'train'", "U+0430"]),
        ("path,label\n1.png,a\u200bb\n", ["line 2", "U+200B (ZERO WIDTH SPACE)"]),
        ("path,label\n1.png,a\xa0b\n", ["line 2", "U+00A0 (NO-BREAK SPACE)"]),
        ("path,label\n01.png,a\n", ["line 2", "nearest: '1.png'", "leading zeros"]),
        ("path,label\nx/\uff12.png,a\n", ["line 2", "nearest: '2.png'", "looks the same", "U+FF12"]),
        ("path,label\nC:\\x\\2.png,a\n", ["line 2", "absolute"]),
        ("path,label,group\n1.png,a,P\n2.png,b,1.2E+10\n", ["line 3", "'1.2E+10'", "rounded"]),
        ("path,label,group\n1.png,a,#REF!\n", ["line 2", "group is '#REF!'"]),
        ("path,label\n1.png,#N/A\n", ["line 2", "label is '#N/A'"]),
    ],
)
def test_wrong_tables_are_refused_with_the_line(tmp_path: Path, text: str, words: list[str]) -> None:
    raw = tmp_path / "raw"
    touch(raw, "1.png", "2.png", "x/2.png")
    touch(tmp_path, "out.png")
    (raw / "link.png").symlink_to(tmp_path / "out.png")
    message = error_of(raw, text)
    assert [word for word in words if word not in message] == []


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read: No such file"):
        read_label_table(tmp_path / "none.csv", tmp_path)


def test_a_path_through_a_link_and_back_is_refused_if_it_is_ambiguous(tmp_path: Path) -> None:
    touch(tmp_path, ".deep/er/2.png", ".deep/1.png", "1.png", "same/2.png")
    (tmp_path / "link").symlink_to(tmp_path / ".deep/er")
    rows = read(tmp_path, "path,label\nsame/../1.png,a\nlink/2.png,b\n")
    assert [row["path"] for row in rows] == ["1.png", "link/2.png"]
    message = error_of(tmp_path, "path,label\nsame/2.png,a\nlink/../1.png,b\n")
    assert "line 3: path 'link/../1.png' goes through a link and back by '..'" in message


def test_a_path_gets_its_shortest_form(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    for path in ("a/1.png", "./a/1.png", "a//1.png", "a/./1.png", "a/../a/1.png"):
        assert check_path(path, tmp_path.resolve(), "here") == "a/1.png"


def test_spaces_inside_a_text_and_letters_of_any_script_are_allowed() -> None:
    for text in ("two words", "é", "日本語", "NA", "-x"):
        check_text("label", text, "here")
    for text in ("", " a", "a\t", "a\nb", "a\x1b[31m", "\udcff"):
        with pytest.raises(InputError, match=r"^here: label "):
            check_text("label", text, "here")


def read_as(raw: Path, content: str, **form: object) -> list[Row]:
    """Reads labels.csv with this content in a form of published tables."""
    (raw / "labels.csv").write_text(content)
    columns = form.pop("columns", {})
    described = TableForm(columns=Columns(**columns), **form)  # type: ignore[arg-type]
    return read_label_table(raw / "labels.csv", raw, form=described, files=list_files(raw))


def test_columns_of_other_names_with_prefix_and_extension(tmp_path: Path) -> None:
    touch(tmp_path, "part_1/img/a.jpg", "part_2/img/b.jpg", "c.d.jpg", "own/img/a.jpg")
    columns = {"path": "image", "label": "dx", "group": "Patient ID"}
    rows = read_as(
        tmp_path, "image,dx,Patient ID\na,x,1\nb,y,1\n", columns=columns, prefix="part_*/img/", extension=".jpg"
    )
    assert [row["path"] for row in rows] == ["part_1/img/a.jpg", "part_2/img/b.jpg"]
    assert [row["group"] for row in rows] == ["1", "1"]
    for prefix in ("own/img/", "own/img"):  # with the slash or without
        assert read_as(tmp_path, "path,label\na,x\n", prefix=prefix, extension=".jpg")[0]["path"] == "own/img/a.jpg"
    removed = read_as(tmp_path, "path,label\nset/v1/own/img/a.jpg,x\n", prefix="set/v1/")
    assert removed[0]["path"] == "own/img/a.jpg"
    assert read_as(tmp_path, "path,label\nc.d,x\n", extension=".jpg")[0]["path"] == "c.d.jpg"
    joined = read_as(
        tmp_path, "site,kind,id,label\nown,img,a,x\n", columns={"path": ("site", "kind", "id")}, extension=".jpg"
    )
    assert joined[0]["path"] == "own/img/a.jpg"
    for prefix, words in (("*/img/", r"2 files in data\.raw are '\*/img/a\.jpg'"), ("x*/", "no files in data.raw")):
        with pytest.raises(InputError, match=words):
            read_as(tmp_path, "path,label\na,x\n", prefix=prefix, extension=".jpg")
    with pytest.raises(InputError, match=r"no column 'image_id', which data\.columns\.path names; nearest: 'image'"):
        read_as(tmp_path, "image,label\na,x\n", columns={"path": "image_id"})
    with pytest.raises(InputError, match="path is empty"):
        read_as(tmp_path, "path,label,y\n,x,\n", extension=".jpg")


def test_one_hot_columns(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    columns = {"label": ("MEL", "NV", "BCC")}
    for row, words in (
        ("1,0,0", "MEL"),
        ("0.0,1.0,0.0", "NV"),
        (",,1", "BCC"),
        ("False,True,False", "NV"),
        ("1,1,0", r"line 2: '1\.png' has several classes, 'MEL', 'NV': images with several labels \(multi-label\)"),
        ("0,0,0", r"line 2: '1\.png' has none of the classes MEL, NV, BCC"),
        ("1,U,0", "line 2: column 'NV' is 'U', expected 1 or 0"),
        ("no,Yes,NO", "NV"),
        ("x,,", "MEL"),
        ("n,y,maybe", "line 2: column 'BCC' is 'maybe', expected 1 or 0"),
        ("-1.0,1,0", r"line 2: column 'MEL' is '-1\.0', expected 1 or 0 .*: with uncertain values, take one column"),
        ("0.3,0.7,0", r"line 2: column 'MEL' is '0\.3'"),
    ):
        content = f"path,MEL,NV,BCC\n1.png,{row}\n"
        if words in columns["label"]:
            assert labels(read_as(tmp_path, content, columns=columns)) == [("1.png", words)]
        else:
            with pytest.raises(InputError, match=words):
                read_as(tmp_path, content, columns=columns)


def test_equal_lines_are_one_image_in_a_published_table_only(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    boxes = "id,x,Target\n1.png,5,1\n1.png,7,1\n"
    columns = {"path": "id", "label": "Target"}
    assert labels(read_as(tmp_path, boxes, columns=columns)) == [("1.png", "1")]
    with pytest.raises(InputError, match="lines 2 and 3 have the same path"):
        read_as(tmp_path, boxes.replace("7,1", "7,0"), columns=columns)
    with pytest.raises(InputError, match="lines 2 and 3 have the same path"):
        read_as(tmp_path, "path,label\n1.png,1\n1.png,1\n")


def test_values_that_are_not_used_may_be_empty(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    content = "path,label\n1.png,1.0\n2.png,\n"
    assert labels(read_as(tmp_path, content, values=["1.0", "0.0"])) == [("1.png", "1.0"), ("2.png", "")]
    with pytest.raises(InputError, match="line 3: label is empty"):
        read_as(tmp_path, content)


def test_a_column_that_is_named_for_something_else_is_no_misspelling(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "labels.csv").write_text("path,Group\n1.png,AD\n2.png,CN\n")
    form = TableForm(columns=Columns(label="Group"))
    rows = read_label_table(tmp_path / "labels.csv", tmp_path, form=form)
    assert [(row["label"], row["group"]) for row in rows] == [("AD", ""), ("CN", "")]


def test_a_title_above_the_columns_of_another_name_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    columns = {"path": "image", "label": ("NV", "MEL")}
    with pytest.raises(InputError, match=r"line 1 is not a header.*; line 3 has the columns image, NV, MEL: delete"):
        read_as(tmp_path, "Title\n\nimage,MEL,NV\n1.png,1,0\n", columns=columns)
    with pytest.raises(InputError, match=r"no column 'dx'.*nearest: 'd\u0445'; it looks like 'dx', but has U\+0445"):
        read_as(tmp_path, "path,d\u0445\n1.png,a\n", columns={"label": "dx"})
