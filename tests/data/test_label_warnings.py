"""describe_listing and describe_placeholders: labels and patients that are probably not meant, each with its cure."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.data.cropping import data_section
from tumorboard.base.data_params import Columns, Data
from tumorboard.base.errors import InputError
from tumorboard.data.label_warnings import describe_listing, describe_placeholders
from tumorboard.data.sources import list_images


def table(raw: Path, header: str, rows: Sequence[str], data: Data | None = None) -> list[str]:
    """The warnings about a labels.csv whose rows are those given, each with another file in front."""
    raw.mkdir(exist_ok=True)
    for n in range(len(rows)):
        (raw / f"{n}.png").write_bytes(b"x")
    (raw / "labels.csv").write_text(f"path,{header}\n" + "".join(f"{n}.png,{row}\n" for n, row in enumerate(rows)))
    data = data or data_section()
    return describe_listing(list_images(raw, data)[0], raw, data)


@pytest.mark.parametrize(
    "labels",
    [
        *[("a|b", "a", "c"), ('"a,b"', "a", "b"), ("a;b", "b", "a"), ("a & b", "a", "b"), ("x|y", "z", "w")],
        *[("a with b", "a", "b"), ("a und b", "a", "b"), ("a et b", "a", "b")],
        *[("a and b", "a", "b"), ("a_b", "a", "b"), ("a-b", "a", "b"), ("a b", "b", "a"), ("a^b", "a", "b")],
        ("\"['a', 'b']\"", "['a']", "['b']"),
    ],
)
def test_several_findings_in_one_cell_are_refused_with_the_lines_that_leave_them_out(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    combined, *single = (label.strip('"') for label in labels)
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "label", [*labels[1:], *labels])
    message, lines = str(refusal.value).split("write in params.yaml:\n")
    assert message.startswith(f"{tmp_path / 'labels.csv'}: line 4: the label {combined!r} looks like several findings")
    assert "1 of 5 rows; images with several labels (multi-label) are not supported" in message
    classes = yaml.safe_load(lines)["data"]["classes"]
    assert classes == {label: label for label in single}
    # With these lines the row is left out, and nothing is told of it.
    assert table(tmp_path, "label", [*labels[1:], *labels], data_section(classes=classes)) == []
    images, ignored = list_images(tmp_path, data_section(classes=classes))
    assert sorted(images["label"]) == sorted(2 * single)
    assert ignored.to_dict("records") == [{"path": "2.png", "reason": "not in data.classes"}]


@pytest.mark.parametrize("labels", [["non small", "small"], ["a-b", "a"], ["ER+", "ER"], ["grade_1", "grade_2", "1"]])
def test_labels_that_hold_another_one_are_no_several_findings(tmp_path: Path, labels: list[str]) -> None:
    assert not [text for text in table(tmp_path, "label", labels * 2) if "several" in text]


def test_a_combination_that_the_classes_list_is_a_class(tmp_path: Path) -> None:
    classes = {"a": "a", "a|b": "a with b"}
    assert table(tmp_path, "label", ["a", "a|b", "b"], data_section(classes=classes)) == []
    assert list_images(tmp_path, data_section(classes=classes))[0]["label"].tolist() == ["a", "a with b"]


def test_findings_that_never_stand_alone_are_refused_without_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: .*3 of 4 rows.* Keep one finding per row in a copy of the table"):
        table(tmp_path, "label", ["a|b", "b|c", "a|c", "d"])


def test_more_classes_than_fit_in_a_message_are_the_commonest(tmp_path: Path) -> None:
    names = [f"{n:02}" for n in range(40)]
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "label", [*names, *names[10:], "00|01"])
    assert list(yaml.safe_load(str(refusal.value).split("params.yaml:\n")[1])["data"]["classes"]) == names[10:]


def test_class_folders_that_look_like_several_findings_are_told(tmp_path: Path) -> None:
    for name in ("a", "b", "a+b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    (warning,) = describe_listing(list_images(tmp_path, data_section())[0], tmp_path, data_section())
    assert warning.startswith("1 image has a label that looks like several findings, such as 'a+b'")
    assert warning.endswith("write in params.yaml:\ndata:\n  classes:\n    a: a\n    b: b")


def test_labels_with_signs_that_are_one_finding_are_not_told(tmp_path: Path) -> None:
    assert table(tmp_path, "label", ["squamous/basal", "ER+", '"benign, other"', "T1-T2", "normal"]) == []


@pytest.mark.parametrize(
    ("labels", "alike"),
    [
        (("1", "1.0", "01", "2"), ("01", "1", "1.0")),
        (("grade 1", "grade_01", "grade 2"), ("grade 1", "grade_01")),
        (("no-finding", "no finding", "x"), ("no finding", "no-finding")),
        (("0.50", "0.5", "1"), None),  # decimals are not rounded
        (("-1", "1", "10"), None),
        (("1-2", "12", "1 3"), None),
    ],
)
def test_labels_that_differ_only_in_their_form_are_reported(
    tmp_path: Path, labels: tuple[str, ...], alike: tuple[str, ...] | None
) -> None:
    warnings = table(tmp_path, "label", labels)
    if alike is None:
        assert warnings == []
        return
    (warning,) = warnings
    named = ", ".join(f"{label!r} (1 images)" for label in alike)
    assert warning.startswith(f"the labels {named} differ only in the form of a number, case, spaces or signs: write")
    classes = dict.fromkeys(sorted(labels), "")  # the proposed classes give those that are alike one name
    lines = warning.split("classes:\n")[1].splitlines()
    assert len(lines) == len(classes)
    assert len({line.split(": ")[1] for line in lines}) == len(labels) - len(alike) + 1


@pytest.mark.parametrize("labels", [("No Finding", "no finding"), ("No  Finding", "NoFinding"), ("é", "e\u0301")])
def test_labels_that_differ_only_in_case_spaces_or_unicode_form_are_refused(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match=r"differ only in case, spaces or spelling of letters.*\(data\.classes\)"):
        table(tmp_path, "label", [*labels, "other"])


@pytest.mark.parametrize("label", ["nan", "N/A", "?", "unknown"])
def test_a_label_that_stands_for_not_known_is_told_with_the_lines_that_leave_it_out(tmp_path: Path, label: str) -> None:
    (warning,) = table(tmp_path, "label", ["a", "b", label])
    assert warning.startswith("1 image has a label that looks like a placeholder for 'not known'")
    assert warning.endswith("write in params.yaml:\ndata:\n  classes:\n    a: a\n    b: b")
    assert table(tmp_path, "label", ["a", "b", label], data_section(classes={"a": "a", "b": "b"})) == []
    assert table(tmp_path, "label", ["none", "x", "0", "*"]) == []


@pytest.mark.parametrize(("parts", "given"), [(("train",), "train"), (("Training", "validation"), "train and val")])
def test_given_parts_without_a_test_part_are_told(tmp_path: Path, parts: tuple[str, ...], given: str) -> None:
    (told,) = table(tmp_path, "label,split", [f"{label},{part}" for label in ("ill", "well") for part in parts])
    assert told.startswith(
        f"the data gives {given} images and no test images: a share of the train images (split.test)"
    )


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("label,split", ["a,train", "b,train", "a,test", "b,test"]),
        ("label", ["a", "b"]),
        ("label,fold", ["a,0", "b,1"]),
    ],
)
def test_a_given_test_part_no_parts_and_folds_are_not_told(tmp_path: Path, header: str, rows: list[str]) -> None:
    assert table(tmp_path, header, rows) == []


def test_altered_copies_are_told_unless_groups_hold_them_together(tmp_path: Path) -> None:
    for name in ("a/p1.png", "a/p1_rot90.png", "a/aug_2_p1.png", "b/p2.png", "b/rotated.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = data_section()
    (warning,) = describe_listing(list_images(tmp_path, data)[0], tmp_path, data)
    assert warning.startswith(
        "2 files are named after another one, such as a/aug_2_p1.png after a/p1.png, as an altered"
    )
    data = data_section(group_pattern=r"(p\d|rotated)")
    assert describe_listing(list_images(tmp_path, data)[0], tmp_path, data) == []


def test_patients_that_differ_only_in_their_form_are_reported(tmp_path: Path) -> None:
    (warning,) = table(tmp_path, "label,group", ["a,7", "b,007", "a,8", "b,P8"])
    assert warning.startswith("the patients '007' (1 images), '7' (1 images) differ only in")


@pytest.mark.parametrize(
    "column",
    [
        "Patient ID",
        "patient_id",
        "PatientNumber",
        "subject",
        "lesion_id",
        "Case",
        "MRN",
        "ID_patient",
        "PatientenNr",
        "PTID",
        "patient_hash",
        "StudyInstanceUID",
    ],
)
def test_a_column_of_patients_that_is_passed_over_is_reported_with_the_line(tmp_path: Path, column: str) -> None:
    rows = ["a,1", "b,1", "a,2", "b,2", "a,3"]
    (warning,) = table(tmp_path, f"label,{column}", rows)
    assert warning.startswith(f"the column {column!r} of labels.csv names patients, but is not used")
    assert warning.endswith(f"write in params.yaml:\ndata:\n  columns:\n    group: {column}")
    data = data_section(columns=Columns(group=column))
    assert table(tmp_path, f"label,{column}", rows, data) == []
    assert list_images(tmp_path, data)[0]["group"].tolist() == ["1", "1", "2", "2", "3"]
    assert table(tmp_path, f"label,{column}", ["a,1", "b,2", "a,3", "b,4"]) == []  # says nothing about groups
    assert table(tmp_path, f"label,{column}", ["a,1", "b,1", "a,2", "b,2"]) == []  # two values: sides, or yes and no
    assert table(tmp_path, f"label,{column}", rows, data_section(group_pattern=r"(\d)")) == []


def test_a_column_of_patients_with_empty_cells_is_reported_with_what_to_fill_in(tmp_path: Path) -> None:
    (warning,) = table(tmp_path, "label,pat_id", ["a,1", "b,1", "a,2", "b,3", "a,"])
    assert "1 of its 5 cells are empty: give each of them, in a copy of the table, its patient or a value" in warning
    assert warning.endswith("group: pat_id")


def test_patients_in_a_table_beside_the_class_folders_are_reported(tmp_path: Path) -> None:
    rows = ["file,class,patient_id"]
    for n in range(8):
        file = tmp_path / "ab"[n % 2] / f"{n}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
        rows.append(f"{n}.png,{'ab'[n % 2]},{n // 2}")
    (tmp_path / "meta.csv").write_text("\n".join(rows))
    (warning,) = describe_listing(list_images(tmp_path, data_section())[0], tmp_path, data_section())
    assert "meta.csv beside the folders has a column 'patient_id' that names patients, but is not used" in warning
    assert "    group: patient_id\n" in warning
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    warnings = describe_listing(list_images(tmp_path, data_section())[0], tmp_path, data_section())
    assert warnings[1].startswith("labels.xlsx is a spreadsheet's workbook, which is not read")


def groups(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"group": names})


@pytest.mark.parametrize(
    "name", ["unknown", "NA", "n/a", "-", "?", "None", "ANONYMOUS", "Not available", "anonymized", "xxx", "unbekannt"]
)
def test_a_placeholder_that_images_share_is_reported(name: str) -> None:
    warning = describe_placeholders(groups(name, name, "P1", "P2"))
    assert warning.startswith(f"2 of 4 images have the patient {name!r}, which looks like a placeholder")
    assert describe_placeholders(groups(name, "P1", "P2")) == ""


@pytest.mark.parametrize("name", ["0", "000", "-1", "999", "0.0"])
def test_a_number_is_a_placeholder_only_where_it_is_far_more_frequent_than_the_others(name: str) -> None:
    others = ["7", "7", "8", "8", "12", "12"]
    assert describe_placeholders(groups(*[name] * 9, *others)).startswith(f"9 of 15 images have the patient {name!r}")
    assert describe_placeholders(groups(*[name] * 3, *others)) == ""


def test_patients_and_paths_are_no_placeholders() -> None:
    assert describe_placeholders(groups(*["P1"] * 50, "a/na.png", "a/na.png", "Anna", "Anna", "Nils", "Nils")) == ""


@pytest.mark.parametrize(
    "labels",
    [
        *[("a，b", "a", "b"), ("a；b", "a", "b"), ("肺炎、气胸", "气胸", "肺炎"), ("a｜b", "c", "d")],
        *[("['a' 'b']", "['a']", "['b']"), ("[1 1]", "[0 1]", "[1 0]"), ('"[1, 0, 1]"', '"[0, 1, 0]"', '"[1, 0, 0]"')],
    ],
)
def test_several_findings_of_other_scripts_and_of_numpy_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    combined, *single = (label.strip('"') for label in labels)
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "label", [*labels[1:], *labels])
    message, lines = str(refusal.value).split("write in params.yaml:\n")
    assert f"line 4: the label {combined!r} looks like several findings, as do those of 1 of 5 rows" in message
    assert yaml.safe_load(lines)["data"]["classes"] == {label: label for label in single}


def test_vectors_with_one_1_are_classes(tmp_path: Path) -> None:
    assert table(tmp_path, "label", ['"[1, 0]"', '"[0, 1]"'] * 3) == []


def test_decimal_commas_are_named_with_lines_that_read_them(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "label", ['"0,0"', '"1,0"', '"0,0"'])
    message, lines = str(refusal.value).split("write in params.yaml:\n")
    assert message.startswith(
        f"{tmp_path / 'labels.csv'}: line 2: the label '0,0' has a decimal comma, as those of all"
    )
    classes = yaml.safe_load(lines)["data"]["classes"]
    assert classes == {"0,0": "0", "1,0": "1"}
    assert table(tmp_path, "label", ['"0,0"', '"1,0"', '"0,0"'], data_section(classes=classes)) == []
    with pytest.raises(InputError, match="looks like several findings"):
        table(tmp_path, "label", ['"1,0"', "1", "0"])


@pytest.mark.parametrize("label", ["unlabeled", "Not_labelled", "no label"])
def test_pictures_that_nobody_labeled_are_told(tmp_path: Path, label: str) -> None:
    (warning,) = table(tmp_path, "label", ["a", "b", label])
    assert warning.startswith("1 image has a label that looks like a placeholder for 'not known'")


def folders(raw: Path, *names: str, data: Data | None = None) -> list[str]:
    """The warnings about files in class folders."""
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()
    data = data or data_section()
    return describe_listing(list_images(raw, data)[0], raw, data)


@pytest.mark.parametrize("names", [("left_eye", "right_eye"), ("AP", "PA"), ("axial view", "sagittal view")])
def test_folders_of_sides_and_views_are_told_unless_params_say_that_they_are_classes(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    paths = [f"{name}/{number}.png" for name in names for number in range(2)]
    (warning,) = folders(tmp_path, *paths)
    assert warning.startswith(f"the classes {names[0]!r}, {names[1]!r} are sides or views of a body part")
    assert warning.endswith("write in params.yaml:\ndata:\n  layout: folders")
    assert folders(tmp_path, *paths, data=data_section(layout="folders")) == []
    assert folders(tmp_path / "more", "left ventricle/1.png", "right atrium/1.png", "normal/1.png") == []
    assert table(tmp_path / "table", "label", list(names)) == []


def test_pictures_of_one_name_with_two_endings_are_told(tmp_path: Path) -> None:
    names = [f"{label}/{n}.{ending}" for label in "ab" for n in range(5) for ending in ("jpg", "png")]
    (warning,) = folders(tmp_path, *names)
    assert warning.startswith(
        "10 files are named after another one, such as a/0.png after a/0.jpg, with another ending"
    )
    others = [name for name in names if not name.endswith(("0.png", "1.png"))]
    assert folders(tmp_path / "some", *others) == []
    assert folders(tmp_path / "texts", *(name.replace("png", "json") for name in names)) == []


@pytest.mark.parametrize("group", ["G{0}", "L{1}"])
def test_patients_with_several_groups_are_told_with_the_line(tmp_path: Path, group: str) -> None:
    rows = [f"{'ab'[n % 2]},{group.format(n, n // 2)},P{n // 4}" for n in range(12)]
    (warning,) = table(tmp_path, "label,group,patient_id", rows)
    assert warning.startswith(
        "the column 'patient_id' of labels.csv names patients, but is not used, and images of one"
    )
    assert warning.endswith("write in params.yaml:\ndata:\n  columns:\n    group: patient_id")
    data = data_section(columns=Columns(group="patient_id"))
    assert table(tmp_path, "label,group,patient_id", rows, data) == []
    assert list_images(tmp_path, data)[0]["group"].nunique() == 3
    passed_over = data_section(columns=Columns(group=None), group_pattern="(.*)")
    assert table(tmp_path, "label,group,patient_id", rows, passed_over) == []
    for other in ("P{1}", "S{2}"):  # the groups are the patients, or hold several of them
        rows = [f"{'ab'[n % 2]},{other.format(n, n // 4, n // 8)},P{n // 4}" for n in range(16)]
        assert table(tmp_path, "label,group,patient_id", rows) == []
    rows = [f"{'ab'[n % 2]},P{n // 4},{n % 3}" for n in range(12)]
    assert table(tmp_path, "label,group,slide", rows) == []  # slides that each patient counts anew


def test_an_empty_name_of_the_column_of_groups_makes_each_image_its_own_group(tmp_path: Path) -> None:
    data = data_section(columns=Columns(group=None))
    assert table(tmp_path, "label,group", ["a,P1", "b,P1", "a,P2"], data) == []
    assert set(list_images(tmp_path, data)[0]["group"]) == {""}
