"""Tables with a title above the header, and files that are no tables."""

from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.data.table_text import describe_title, read_table_text


def title(tmp_path: Path, text: str, *needed: str) -> str:
    (tmp_path / "t.csv").write_bytes(text.encode())
    return describe_title(tmp_path / "t.csv", needed or ("path", "label"))


HAS = "has the columns path, label: delete"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My study\npath,label\n1,a\n", f"line 1 is not a header ('My study'); line 2 {HAS} line 1"),
        ("# a, b\n# c\nid;label;path\n", f"line 1 is not a header ('# a, b'); line 3 {HAS} lines 1 to 2"),
        ("\n\r\nTitle;;\r\n\r\nPath\tLabel\r\n", f"line 3 is not a header ('Title;;'); line 5 {HAS} lines 3 to 4"),
        (
            "Title\nimage,dx,sex\n1,a,m\n",
            "line 1 has one cell ('Title'), and line 2 has 3 cells ('image,dx,sex'): if line 2 is the header, delete "
            "what stands above it",
        ),
        ('"path,label"\n"1,a"\n', 'line 1 is in quotes as a whole, "path,label": remove the quotes around whole lines'),
        ("image,dx\n1,a\n", ""),
        ("path\n1\n2\n", ""),  # a table of one column
        ("Title\n", ""),
        ("", ""),
        ("x\n" * 20 + "path,label\n", ""),  # too far below
    ],
)
def test_a_title_above_the_header_is_described(tmp_path: Path, text: str, expected: str) -> None:
    assert title(tmp_path, text) == expected


def test_a_long_title_is_cut(tmp_path: Path) -> None:
    assert len(title(tmp_path, "t" * 5000 + "\npath,label\n")) < 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n", "a pointer of Git LFS"),
        ("\n<!DOCTYPE html>\n<p>path,label\n", "a web page"),
        ('[{"path": "1.png", "label": "a"}]', "JSON"),
        ('{"path": ["1.png"]}', "JSON"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=rf"t\.csv: is {words}"):
        read_table_text(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b;c\n1;2;3\n1,2,3\n", "line 3: 1 values for 3 columns; the row has ',' between its values, the header ';'"),
        ("a,b\n1,2,5\n", "line 2: 3 values for 2 columns; a cell that contains ',' needs quotes"),
        ("a,b\n1\n", "line 2: 1 values for 2 columns$"),
    ],
)
def test_a_row_of_another_length_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_table_text(tmp_path / "t.csv").rows)
