"""list_images and read_content: the folders and tables that are listed, and those that are refused with a reason."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from tests.data.cropping import data_section
from tests.data.raw_folders import touch
from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.params import Data
from tumorboard.data.sources import list_images, read_content


def data(table: str | None = None, pattern: str | None = None) -> Data:
    return data_section(table=table, group_pattern=pattern)


def columns(frame: pd.DataFrame, *names: str) -> list[tuple[str, ...]]:
    return list(frame[list(names)].itertuples(index=False, name=None))


def write_labels(raw: Path, text: str | bytes, name: str = "labels.csv") -> None:
    raw.mkdir(exist_ok=True)
    (raw / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def error_of(raw: Path, settings: Data | None = None) -> str:
    with pytest.raises(InputError) as caught:
        list_images(raw, settings or data())
    return str(caught.value)


def test_one_folder_per_class_at_any_depth(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/2.png",
        "b/deep/er/1.png",
        "a/1.png",
        "a/notes.txt",
        "README.txt",
        "a/.hidden",
        ".git/x",
        "a/Thumbs.db",
        "__MACOSX/a/x.png",
        "$RECYCLE.BIN/x.png",
        "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "lost+found/x.png",
    )
    rows, ignored = list_images(tmp_path, data())
    assert columns(rows, "path", "label", "group", "split") == [
        ("a/1.png", "a", "", ""),
        ("a/notes.txt", "a", "", ""),
        ("b/2.png", "b", "", ""),
        ("b/deep/er/1.png", "b", "", ""),
    ]
    assert rows["fold"].isna().all()
    assert columns(ignored, "path", "reason") == [
        ("$RECYCLE.BIN", "system file"),
        (".git", "hidden"),
        ("README.txt", "outside the class folders"),
        ("__MACOSX", "system file"),
        ("a/.hidden", "hidden"),
        ("a/@eaDir", "system file"),
        ("a/Thumbs.db", "system file"),
        ("lost+found", "system file"),
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("TRAIN", "train"),
        ("val", "val"),
        ("Valid", "val"),
        ("validation", "val"),
        ("Testing", "test"),
    ],
)
def test_part_folders(tmp_path: Path, name: str, split: str) -> None:
    touch(tmp_path, f"{name}/a/train/1.png", f"{name}/b/1.png", "test/b/1.png", f"{name}/loose.png")
    rows, ignored = list_images(tmp_path, data())
    assert sorted(columns(rows, "path", "label", "split")) == sorted(
        [(f"{name}/a/train/1.png", "a", split), (f"{name}/b/1.png", "b", split), ("test/b/1.png", "b", "test")]
    )
    assert columns(ignored, "path", "reason") == [(f"{name}/loose.png", "outside the class folders")]


def test_fold_folders(tmp_path: Path) -> None:
    touch(tmp_path, "fold0/a/1.png", "Fold_10/b/1.png", "fold-2/fold1/1.png")
    expected = [("Fold_10/b/1.png", "b", "", 10), ("fold-2/fold1/1.png", "fold1", "", 2), ("fold0/a/1.png", "a", "", 0)]
    assert columns(list_images(tmp_path, data())[0], "path", "label", "split", "fold") == expected
    # Beside a test set they are the training set; what is in none of them is in no fold.
    touch(tmp_path, "Testing/b/1.png", "train/a/1.png")
    parts = columns(list_images(tmp_path, data())[0], "path", "split", "fold")
    assert parts == [
        ("Fold_10/b/1.png", "train", 10),
        ("Testing/b/1.png", "test", pd.NA),
        ("fold-2/fold1/1.png", "train", 2),
        ("fold0/a/1.png", "train", 0),
        ("train/a/1.png", "train", pd.NA),
    ]
    touch(tmp_path, "folds/a/1.png")
    assert "'folds'" in error_of(tmp_path)


def test_part_folders_beside_others_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "normal/1.png", "blast/1.png")
    text = error_of(tmp_path)
    assert "'train'" in text
    assert "'blast', 'normal'" in text


UNUSUAL_NAMES = [
    "-x.png",
    "two words.png",
    'quo"te.png',
    "a,b;c.png",
    "new\nline.png",
    "re\rturn.png",
    "日本語.png",
    "NA",
    b"\xff\xfe.png",
]


def test_unusual_names_survive_in_folders_and_in_a_table(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in UNUSUAL_NAMES]
    touch(tmp_path, *(f"{label}/{name}" for label in ("-a b", "ä") for name in names))
    expected = sorted((f"{label}/{name}", label) for label in ("-a b", "ä") for name in names)
    rows, _ = list_images(tmp_path, data())
    assert columns(rows, "path", "label") == expected
    lines = ['"{}",{}'.format(path.replace('"', '""'), label) for path, label in expected]
    write_labels(tmp_path, b"path,label\n" + os.fsencode("\n".join(lines)))
    rows, ignored = list_images(tmp_path, data())
    assert columns(rows, "path", "label") == expected
    assert ignored.empty


def test_the_icon_of_a_macos_folder_is_a_system_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/Icon\r", "a/1.png", "b/1.png")
    assert columns(list_images(tmp_path, data())[1], "path", "reason") == [("a/Icon\r", "system file")]


def test_folders_without_an_image_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/deep/1.png", "hid/.x", "sys/Thumbs.db")
    for folder in ("void", "b/void/deeper", ".git/void", "a/hid"):
        (tmp_path / folder).mkdir(parents=True)
    rows, ignored = list_images(tmp_path, data())
    assert set(rows["label"]) == {"a", "b"}
    assert columns(ignored, "path", "reason") == [
        (".git", "hidden"),
        ("a/hid", "empty folder"),
        ("b/void", "empty folder"),
        ("hid", "empty folder"),
        ("hid/.x", "hidden"),
        ("sys", "empty folder"),
        ("sys/Thumbs.db", "system file"),
        ("void", "empty folder"),
    ]


@pytest.mark.parametrize("part", ["", "Training/"])
def test_a_broken_link_in_place_of_a_class_folder_is_listed_and_not_read(tmp_path: Path, part: str) -> None:
    raw = tmp_path / "raw"
    touch(raw, f"{part}a/1.png", f"{part}b/2.png", f"{part}notes.txt")
    (raw / f"{part}c").symlink_to(tmp_path / "unmounted")
    (raw / f"{part}.d").symlink_to(tmp_path / "unmounted")
    (raw / f"{part}README").symlink_to(raw / f"{part}notes.txt")
    rows, ignored = list_images(raw, data())
    assert dict(columns(rows, "path", "label")) == {
        f"{part}a/1.png": "a",
        f"{part}b/2.png": "b",
        f"{part}c": "c",
    }
    assert sorted(ignored["path"]) == sorted([f"{part}.d", f"{part}README", f"{part}notes.txt"])
    with pytest.raises(ImageError, match="which does not exist"):
        read_content(raw, f"{part}c")


def test_files_in_a_table_and_the_table_itself_are_not_ignored(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden/1.png", ".other/3.png", "2.png")
    write_labels(tmp_path, "path,label\n.hidden/1.png,a\n2.png,b\n")
    for table in (None, tmp_path / "labels.csv", tmp_path / ".hidden/../labels.csv"):
        assert columns(list_images(tmp_path, data(), table)[1], "path", "reason") == [(".other", "hidden")]


@pytest.mark.parametrize("fold", ["9" * 20, "1" * 200])
def test_a_fold_of_too_many_digits_is_refused(tmp_path: Path, fold: str) -> None:
    touch(tmp_path / "folders", f"fold{fold}/a/1.png", "fold0/b/1.png")
    message = error_of(tmp_path / "folders")
    assert f"{len(fold)} digits" in message
    touch(tmp_path / "table", "1.png", "2.png")
    write_labels(tmp_path / "table", f"path,label,fold\n1.png,a,000\n2.png,b,{fold * 30}\n")
    message = error_of(tmp_path / "table")
    assert "'2.png'" in message
    assert f"{len(fold) * 30} digits" in message


def test_a_fold_of_nine_digits_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "fold999999999/a/1.png", "fold000/b/1.png")
    assert list_images(tmp_path, data())[0]["fold"].tolist() == [0, 999_999_999]


def test_a_label_table_beside_a_medmnist_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").touch()
    assert "'t.csv' would be ignored" in error_of(tmp_path / "x.npz", data("t.csv"))
    with pytest.raises(InputError, match=r"mine\.csv' would be ignored"):
        list_images(tmp_path / "x.npz", data(), Path("mine.csv"))


def test_links_inside_the_folder_are_followed_and_a_circle_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a/1.png", ".store/2.png")
    (tmp_path / "raw" / "b").symlink_to(tmp_path / "raw" / ".store")
    rows, _ = list_images(tmp_path / "raw", data())
    assert columns(rows, "path", "label") == [("a/1.png", "a"), ("b/2.png", "b")]
    assert read_content(tmp_path / "raw", "b/2.png") == b"x"
    (tmp_path / "raw" / "a" / "up").symlink_to(tmp_path / "raw")
    assert "are the same folder" in error_of(tmp_path / "raw")


def test_broken_and_outward_links_are_listed_and_not_read(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(raw, "a/1.png", "b/2.png")
    touch(tmp_path, "elsewhere/3.png")
    for link, target in {
        "a/out.png": tmp_path / "elsewhere/3.png",
        "a/folder": tmp_path / "elsewhere",
        "a/gone.png": raw / "nothing",
        "a/circle.png": raw / "a/circle.png",
        "c": tmp_path / "elsewhere",
        "b/in.png": raw / "a/1.png",
    }.items():
        (raw / link).symlink_to(target)
    (tmp_path / "alias").symlink_to(raw)
    for folder in (raw, tmp_path / "alias"):
        rows, ignored = list_images(folder, data())
        labels = dict(columns(rows, "path", "label"))
        assert ignored.empty
        assert labels.pop("c") == "c"
        assert labels == {path: path[0] for path in labels}
        for path in ("a/out.png", "a/folder", "a/gone.png", "a/circle.png", "c"):
            with pytest.raises(ImageError) as caught:
                read_content(folder, path)
            assert caught.value.reason == "broken or outward link"
        assert read_content(folder, "b/in.png") == b"x"


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], ["no images", "Training and Testing", "labels.csv"]),
        (["1.png", "2.png"], ["no images", "folder per class"]),
        (["a/1.png", "a/2.png"], ["only one class, 'a'", "folder per class"]),
        (["a /1.png", "b/1.png"], ["white space", "'a /1.png'"]),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, paths: list[str], words: list[str]) -> None:
    touch(tmp_path, *paths)
    text = error_of(tmp_path)
    assert [word for word in words if word not in text] == []


def test_a_missing_raw_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in error_of(tmp_path / "none")
    (tmp_path / "brain_mri").mkdir()
    assert f"'{tmp_path}' has no 'brain_mr1'; nearest: 'brain_mri'" in error_of(tmp_path / "brain_mr1" / "Training")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "link' is a link to nothing" in error_of(tmp_path / "link")
    (tmp_path / "circle").symlink_to("circle")
    assert "cannot be opened: Too many levels of symbolic links" in error_of(tmp_path / "circle")
    assert "cannot be opened: File name too long" in error_of(tmp_path / ("x" * 300))


def test_patients_that_look_the_same_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    write_labels(tmp_path, "path,label,group\n1.png,a,P01\n2.png,b,\u042001\n")
    assert "the patients 'P01' (of '1.png')" in error_of(tmp_path)


def test_a_class_in_params_that_looks_like_a_label_is_explained(tmp_path: Path) -> None:
    touch(tmp_path, "glioma/1.png", "none/2.png")
    message = error_of(tmp_path, data().model_copy(update={"classes": {"gli\u043ema": "x", "none": "y"}}))
    assert "it looks like 'glioma', but has U+043E" in message


def test_a_part_folder_of_other_letters_is_explained(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "t\u0435st/b/2.png")
    assert "it looks like 'test', but has U+0435" in error_of(tmp_path)


def test_the_rows_of_a_table_are_sorted_by_path_and_other_files_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "x/2.png", "3.png", "4.png")
    lines = ["path;label;age;group;split;fold", "3.png;NA;7;P1;Training;1", "./x//2.png;None;7;001;train;", ""]
    write_labels(tmp_path, "\ufeff" + "\r\n".join([*lines, "1.png;001;;NA;TEST;", ""]))
    rows, ignored = list_images(tmp_path, data())
    assert columns(rows, "path", "label", "group", "split") == [
        ("1.png", "001", "NA", "test"),
        ("3.png", "NA", "P1", "train"),
        ("x/2.png", "None", "001", "train"),
    ]
    assert rows["fold"].tolist() == [pd.NA, 1, pd.NA]
    assert columns(ignored, "path", "reason") == [("4.png", "not in the table")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\n1.png,Glioma\n2.png,glioma\n", ["'Glioma'", "'glioma'", "'1.png'", "'2.png'", "case"]),
        (
            "path,label\n1.png,\u00fcbel\n2.png,u\u0308bel\n",
            ["spelling", r"'\xfcbel' (as of '1.png')", r"'u\u0308bel'", "'2.png'"],
        ),
        ("path,label\n1.png,T2\n2.png,T\u00b2\n", ["spelling", "'T2'", r"'T\xb2'"]),
        (
            "path,label\n1.png,glioma\n2.png,gli\u043ema\n",
            ["look the same", "U+006F (LATIN SMALL LETTER O) against U+043E (CYRILLIC SMALL LETTER O)", "'2.png'"],
        ),
        ("path,label\n1.png,\u0391\n2.png,A\n", ["U+0041", "U+0391 (GREEK CAPITAL LETTER ALPHA)"]),
        ("path,label\n1.png,G1\n2.png,\uff27\uff11\n", ["look the same", "U+FF27"]),
        ("path,label\n1.png,a\n2.png,a\ufe0f\n", ["look the same", "nothing against U+FE0F"]),
    ],
)
def test_classes_that_look_alike_in_a_table_are_refused(tmp_path: Path, content: str, words: list[str]) -> None:
    touch(tmp_path, "1.png", "2.png")
    write_labels(tmp_path, content)
    message = error_of(tmp_path)
    assert [word for word in [*words, "labels.csv"] if word not in message] == []


def test_class_folders_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "Glioma/1.png", "glioma/2.png", "none/3.png")
    message = error_of(tmp_path)
    assert "'Glioma'" in message
    assert "'glioma/2.png'" in message


def test_a_class_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"\xfc/1.png"), "b/2.png")
    assert "not UTF-8" in error_of(tmp_path)


def test_a_table_given_by_argument_replaces_all_others(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a/1.png", "b/2.png")
    write_labels(tmp_path / "raw", "path,label\na/1.png,x\nb/2.png,y\n")
    write_labels(tmp_path / "other", "path,label\na/1.png,u\nb/2.png,v\n", "mine.csv")
    rows, ignored = list_images(tmp_path / "raw", data(), tmp_path / "other/mine.csv")
    assert rows["label"].tolist() == ["u", "v"]
    assert columns(ignored, "path", "reason") == [("labels.csv", "not in the table")]
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        list_images(tmp_path / "raw", data(), tmp_path / "none.csv")


def test_the_table_in_params_replaces_folders_and_labels_csv(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png", "labels.csv")
    write_labels(tmp_path, "path,label\na/1.png,x\nb/2.png,y\n", "other.csv")
    rows, ignored = list_images(tmp_path, data("other.csv"))
    assert rows["label"].tolist() == ["x", "y"]
    assert ignored["path"].tolist() == ["labels.csv"]
    for name, word in [
        ("other2.csv", "no file"),
        ("a", "folder"),
        ("", "empty"),
        (str(tmp_path / "other.csv"), "absolute"),
    ]:
        message = error_of(tmp_path, data(name))
        assert "data.table" in message
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\n", ["no images", "labels.csv"]),
        ("path,label\n1.png,a\n2.png,a\n", ["only one class", "labels.csv"]),
    ],
)
def test_a_table_needs_two_classes(tmp_path: Path, text: str, words: list[str]) -> None:
    touch(tmp_path, "1.png", "2.png")
    write_labels(tmp_path, text)
    message = error_of(tmp_path)
    assert [word for word in words if word not in message] == []


def test_groups_are_extracted_by_the_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a/P7_1.png", "a/P7_2.png", "b/P8_1.png")
    rows, _ = list_images(tmp_path, data(pattern=r"(P\d+)_"))
    assert rows["group"].tolist() == ["P7", "P7", "P8"]
    assert list_images(tmp_path, data(pattern="(.*)"))[0]["group"].tolist() == rows["path"].tolist()
    for pattern, word in [
        ("(P", "regular expression"),
        (r"P\d+", "parentheses"),
        (r"(P7)_", "'b/P8_1.png'"),
        ("(Q)?", "a/P7_1"),
    ]:
        message = error_of(tmp_path, data(pattern=pattern))
        assert word in message
        assert "data.group_pattern" in message


def test_the_group_in_a_table_replaces_the_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    write_labels(tmp_path, "path,label,group\n1.png,a,G\n2.png,b,H\n")
    rows, _ = list_images(tmp_path, data(pattern="(png)"))
    assert rows["group"].tolist() == ["G", "H"]


def test_an_image_is_not_blamed_for_too_many_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"x")

    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(number, "from the system")

    monkeypatch.setattr("tumorboard.data.sources.read_image_bytes", refuse)
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        with pytest.raises(OSError, match="from the system") as caught:
            read_content(tmp_path, "a.png")
        assert caught.value.errno == number
    number = errno.EACCES
    with pytest.raises(ImageError, match="unreadable: from the system"):
        read_content(tmp_path, "a.png")


@pytest.mark.parametrize(
    ("name", "words"), [("set.zip", "unpack it"), ("labels.csv", "data.table"), ("1.png", "no folder")]
)
def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"{name}' is a file, .*{words}"):
        list_images(tmp_path / name, data_section())
