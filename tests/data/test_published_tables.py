"""The tables of published sets: each is recognized, and the proposed lines for params.yaml read its images."""

from collections import Counter
from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tests.data.raw_folders import refusal, touch
from tumorboard.base.data_params import Data
from tumorboard.base.schema import parse, read_yaml
from tumorboard.data.label_columns import find_patient_column
from tumorboard.data.sources import list_images


def proposed(raw: Path, message: str, tmp_path: Path) -> Data:
    """The section `data` with the lines of a message."""
    lines = message.split("write in params.yaml:\n", 1)[1].splitlines()
    (tmp_path / "lines.yaml").write_text("\n".join(line for line in lines if line.startswith((" ", "data:"))))
    section = read_yaml(tmp_path / "lines.yaml")["data"]
    assert section["raw"] == str(raw)
    return parse(Data, data_section().model_dump() | section, "lines")


def test_ham10000(tmp_path: Path) -> None:
    raw = tmp_path / "ham"
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for n in range(12):
        touch(raw, f"HAM10000_images_part_{1 + n // 6}/ISIC_{n:07}.jpg")
        rows.append(f"HAM_{n // 2:07},ISIC_{n:07},{('nv', 'mel', 'bkl')[n // 4]},histo,45.0,male,back")
    (raw / "HAM10000_metadata.csv").write_text("\n".join(rows))
    data = proposed(raw, refusal(raw), tmp_path)
    images, ignored = list_images(raw, data)
    assert Counter(images["label"]) == {"nv": 4, "mel": 4, "bkl": 4}
    assert images["path"][7] == "HAM10000_images_part_2/ISIC_0000007.jpg"
    assert images["group"][7] == "HAM_0000003"
    assert ignored.empty


def test_isic_one_hot(tmp_path: Path) -> None:
    raw = tmp_path / "isic"
    classes = ("MEL", "NV", "BCC", "UNK")
    rows = [",".join(("image", *classes))]
    for n in range(12):
        touch(raw, f"ISIC_2019_Training_Input/ISIC_{n:07}.jpg")
        rows.append(",".join([f"ISIC_{n:07}", *("1.0" if index == n % 4 else "0.0" for index in range(4))]))
    (raw / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(rows))
    data = proposed(raw, refusal(raw), tmp_path)
    assert data.columns is not None
    assert data.columns.label == classes
    images, _ = list_images(raw, data)
    assert images["label"].tolist() == [classes[n % 4] for n in range(12)]


def test_chexpert(tmp_path: Path) -> None:
    raw = tmp_path / "CheXpert-v1.0-small"
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Pneumonia"]
    marks = (("1.0", "", "", ""), ("", "1.0", "1.0", ""), ("", "-1.0", "0.0", "1.0"), ("", "0.0", "1.0", ""))
    for n in range(12):
        path = f"train/patient{n // 2:05}/study1/view{1 + n % 2}_frontal.jpg"
        touch(raw, path)
        rows.append(f"CheXpert-v1.0-small/{path},Female,60,Frontal,AP,{','.join(marks[n % 4])}")
    (raw / "train.csv").write_text("\n".join(rows))
    message = refusal(raw)
    assert "No Finding, Cardiomegaly, Edema, Pneumonia mark several findings" in message
    data = proposed(raw, message, tmp_path)
    images, ignored = list_images(raw, data)
    assert data.prefix == "CheXpert-v1.0-small/"
    assert Counter(images["label"]) == {"Edema": 6, "no Edema": 3}
    assert set(ignored["reason"]) == {"not in data.classes"}
    assert images["group"][0] == "patient00000"
    # From the folder above, the paths are right as they are.
    above = proposed(tmp_path, refusal(tmp_path, data_section(table="CheXpert-v1.0-small/train.csv")), tmp_path)
    assert above.prefix is None
    assert list_images(tmp_path, above)[0]["label"].tolist() == images["label"].tolist()


def test_c_nmc_names_in_a_table(tmp_path: Path) -> None:
    raw = tmp_path / "C-NMC_test_prelim_phase_data"
    rows = ["Patient_ID,new_names,labels"]
    for n in range(1, 11):
        touch(raw, f"{n}.bmp")
        rows.append(f"UID_57_{n}_1_all.bmp,{n}.bmp,{n % 2}")
    (raw / "C-NMC_test_prelim_phase_data_labels.csv").write_text("\n".join(rows))
    data = proposed(raw, refusal(raw), tmp_path)
    images, _ = list_images(raw, data)
    assert dict(zip(images["path"], images["label"], strict=True)) == {f"{n}.bmp": str(n % 2) for n in range(1, 11)}
    assert set(images["group"]) == {""}  # Patient_ID has another value in each row


def test_nih_with_several_findings(tmp_path: Path) -> None:
    raw = tmp_path / "nih"
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,OriginalImage[Width,Height],"]
    findings = ("No Finding", "Effusion", "Atelectasis|Effusion")
    for n in range(12):
        touch(raw, f"images_{1 + n // 6:03}/images/{n // 2:08}_{n % 2:03}.png")
        rows.append(f"{n // 2:08}_{n % 2:03}.png,{findings[n % 3]},0,{n // 2},58,2682,2749,")
    rows[0] = rows[0].replace("[Width,Height]", "Width,OriginalImageHeight")
    (raw / "Data_Entry_2017.csv").write_text("\n".join(rows))
    data = proposed(raw, refusal(raw), tmp_path)
    images, ignored = list_images(raw, data)
    assert Counter(images["label"]) == {"No Finding": 4, "Effusion": 4}
    assert images["group"].tolist() == ["0", "0", "1", "2", "3", "3", "4", "5"]
    assert ignored["path"].tolist()[0] == "images_001/images/00000001_000.png"


def test_rsna_boxes(tmp_path: Path) -> None:
    raw = tmp_path / "rsna"
    rows = ["patientId,x,y,width,height,Target"]
    for n in range(10):
        touch(raw, f"stage_2_train_images/p{n}.dcm")
        rows += [f"p{n},{box},2.0,3.0,4.0,1" for box in range(2)] if n % 2 else [f"p{n},,,,,0"]
    (raw / "stage_2_train_labels.csv").write_text("\n".join(rows))
    data = proposed(raw, refusal(raw), tmp_path)
    images, _ = list_images(raw, data)
    assert images["label"].tolist() == [str(n % 2) for n in range(10)]  # a picture with two boxes is one image


def test_labels_csv_in_another_form_gets_the_lines_instead_of_the_nearest_column(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(raw, *(f"{n}.png" for n in range(6)))
    (raw / "labels.csv").write_text("img_id,diagnostic,age\n" + "".join(f"{n},{'ab'[n % 2]},{n}\n" for n in range(6)))
    message = refusal(raw)
    assert message.startswith(f"{raw}/labels.csv: line 1: no column 'path'")
    images, _ = list_images(raw, proposed(raw, message, tmp_path))
    assert images["label"].tolist() == ["a", "b"] * 3


def test_a_workbook_is_named_with_the_cure(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n}.png" for n in range(6)))
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04")
    assert "labels.xlsx is a spreadsheet's workbook, which is not read: save its sheet as 'CSV UTF-8'" in refusal(
        tmp_path
    )
    for name in ("labels.xlsx", "old.csv"):
        (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0 Excel")
        message = refusal(tmp_path, data_section(table=name))
        assert f"{name}: is a spreadsheet's workbook and not CSV: save its sheet as 'CSV UTF-8'" in message


def test_a_workbook_beside_folders_of_parts_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "Base11/1.tif", "Base12/2.tif", "Base11/Annotation.xls")
    assert "Base11/Annotation.xls is a spreadsheet's workbook" in refusal(tmp_path)


def test_a_table_beside_the_raw_folder_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "set" / "input"
    touch(raw, *(f"I{n}.jpg" for n in range(8)))
    (raw.parent / "truth.csv").write_text("image,dx\n" + "".join(f"I{n},{'ab'[n % 2]}\n" for n in range(8)))
    message = refusal(raw)
    assert proposed(raw.parent, message, tmp_path).table == "truth.csv"
    data = proposed(raw.parent, message, tmp_path)
    assert Counter(list_images(raw.parent, data)[0]["label"]) == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["p0", "p1", "p2", "p3"], "nearest: 'p0.PNG'\nlabels.csv names the files"),
        (["p0.png", "p1.PNG", "p2.PNG", "p3.PNG"], "there is no file 'p0.png' in data.raw; nearest: 'p0.PNG'"),
        (["p0.dcm", "p1.dcm", "p2.dcm", "p3.dcm"], "there is no file 'p0.dcm' in data.raw; nearest: 'p0.PNG'"),
        (["p0.PNG ", "p1.PNG", "p2.PNG", "p3.PNG"], "remove the spaces or quotes at its ends"),
        (["p0.PNG", "p1.PNG", "p2.PNG", "gone"], "1 of the table's 4 rows name no file here"),
    ],
)
def test_a_path_without_a_file_is_told_with_what_is_near(tmp_path: Path, cells: list[str], words: str) -> None:
    touch(tmp_path, *(f"p{n}.PNG" for n in range(4)))
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{cell},{n % 2}\n" for n, cell in enumerate(cells)))
    assert words in refusal(tmp_path)


def test_absolute_paths_get_the_prefix_that_reads_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(raw, *(f"p{n}.png" for n in range(4)))
    (raw / "labels.csv").write_text("path,label\n" + "".join(f"{raw}/p{n}.png,{n % 2}\n" for n in range(4)))
    data = proposed(raw, refusal(raw), tmp_path)
    assert data.prefix == f"{raw}/"
    assert list_images(raw, data)[0]["path"].tolist() == [f"p{n}.png" for n in range(4)]


def test_a_table_without_a_header_gets_no_lines_that_lose_its_first_row(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p{n}.png" for n in range(4)))
    (tmp_path / "labels.csv").write_text("".join(f"p{n}.png,{n % 2}\n" for n in range(4)))
    message = refusal(tmp_path)
    assert "first line names the file 'p0.png': write a line with the names of the columns above it" in message
    assert "params.yaml" not in message


@pytest.mark.parametrize(
    ("header", "cell", "groups"),
    [
        ("path,label,Group", "P{0}", 6),
        ("path,label,groups", "P{0}", 6),
        ("path,label,Group", "", 1),  # no values that could be patients
        ("path,label,patient,Fold", "P{0},{1}", 6),
        ("path,label,patient,Fold", "P{0},A", 6),
    ],
)
def test_lines_for_a_table_with_a_misspelled_column_read_it(
    tmp_path: Path, header: str, cell: str, groups: int
) -> None:
    raw = tmp_path / "raw"
    touch(raw, *(f"{n}.png" for n in range(12)))
    rows = [f"{n}.png,{'ab'[n % 2]},{cell.format(n // 2, n % 3)}" for n in range(12)]
    (raw / "labels.csv").write_text("\n".join([header, *rows]))
    images, _ = list_images(raw, proposed(raw, refusal(raw), tmp_path))
    assert len(set(images["group"])) == groups
    assert images["fold"].notna().all() == ("{1}" in cell)


def test_patients_that_are_unknown_in_some_rows_are_proposed_with_what_to_fill_in(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(raw, *(f"{n}.jpg" for n in range(12)))
    rows = [f"{n},{'ab'[n % 2]},{f'L{n // 2}' if n > 2 else ''}" for n in range(12)]
    (raw / "meta.csv").write_text("\n".join(["image,dx,lesion_id", *rows]))
    message = refusal(raw)
    assert "group: lesion_id" in message
    assert "'lesion_id' is empty in 3 of its 12 rows: give each of them" in message


@pytest.mark.parametrize("column", ["pat_id", "PatID", "Pat.-Nr.", "Patientennummer", "ID_paciente", "Pseudonym"])
def test_columns_of_patients_have_many_names(column: str) -> None:
    assert find_patient_column({"path": ["1", "2", "3", "4"], column: ["a", "a", "b", "c"]}, {"path"}) == column


def in_folder(raw: Path, header: str, rows: list[str], names: list[str], table: str = "data.csv") -> str:
    """The refusal of pictures in one folder beside a table that gives them labels."""
    touch(raw, *(f"img/{name}" for name in names))
    (raw / table).write_text("\n".join([header, *rows]) + "\n")
    return refusal(raw)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Image name,Retinopathy grade,,,", "p{0},{1},,,"),  # IDRiD ends its lines with empty columns
        ("filename,diagnosis,note,note", "p{0}.png,{1},x,y"),
        ("Image Data ID,Subject,Group,Sex", "p{0},{2},{1},M"),  # ADNI
        ("Bildname;Befund;Patientennummer", "p{0};{1};{2}"),
        ("imagen,Diagnóstico,edad", "p{0}.png,{1},{0}"),
        ("image,diagnosi,età", "p{0}.png,{1},{0}"),
        ("image_id,laterality,breast_birads", "p{0},L,{1}"),
    ],
)
def test_tables_of_many_forms_and_languages_get_lines_that_read_them(tmp_path: Path, header: str, row: str) -> None:
    raw = tmp_path / "raw"
    rows = [row.format(n, "ab"[n % 2], f"S{n // 3}") for n in range(12)]
    data = proposed(raw, in_folder(raw, header, rows, [f"p{n}.png" for n in range(12)]), tmp_path)
    images, _ = list_images(raw, data)
    assert [images["label"][images["path"] == f"img/p{n}.png"].item() for n in range(12)] == ["a", "b"] * 6


@pytest.mark.parametrize(
    ("cell", "name", "words"),
    [
        ("img\\{0}.png", "{0}.png", "'img\\\\1.png' is 'img/1.png' here"),
        ("{0}.0", "{0}.png", "'1.0' is 'img/1.png' here"),
        ("{0}", "{0:04}.png", "'1' is 'img/0001.png' here"),
    ],
)
def test_names_that_a_program_has_changed_are_told(tmp_path: Path, cell: str, name: str, words: str) -> None:
    rows = [f"{cell.format(n)},{'ab'[n % 2]}" for n in range(1, 13)]
    message = in_folder(tmp_path, "id,diagnosis", rows, [name.format(n) for n in range(1, 13)])
    assert f"data.csv names the files, but by other names or folders than there are: {words}" in message


def test_numbers_that_several_files_may_have_without_zeros_are_no_names(tmp_path: Path) -> None:
    rows = [f"{n},{'ab'[n % 2]}" for n in range(1, 5)]
    names = [f"{zeros}{n}.png" for n in range(1, 5) for zeros in ("0", "00")]
    assert "data.csv" not in in_folder(tmp_path, "number,diagnosis", rows, names)


@pytest.mark.parametrize("row", ["p{0},{1}", "p{0}.png,{1}", "p{0}.png,{1},{1}"])
def test_a_published_table_without_a_header_loses_no_row(tmp_path: Path, row: str) -> None:
    rows = [row.format(n, "ab"[n % 2]) for n in range(12)]
    message = in_folder(tmp_path, rows[0], rows[1:], [f"p{n}.png" for n in range(12)])
    assert f"data.csv names the files, but its first line names the file {rows[0].split(',')[0]!r}: write a" in message
    assert "params.yaml" not in message


def test_a_list_between_spaces_is_named_with_what_is_missing(tmp_path: Path) -> None:
    names = [f"p{n}.png" for n in range(12)]
    rows = [f"{n // 2} {name} {'ab'[n % 2]} rsna" for n, name in enumerate(names)]
    message = in_folder(tmp_path / "bare", rows[0], rows[1:], names, "train.txt")
    assert "train.txt names the files, but its columns are separated by spaces: separate them by commas" in message
    assert "its first line names the file 'p0.png': write a line with the names" in message
    rows = [f"img/{name} {'ab'[n % 2]}" for n, name in enumerate(names)]
    message = in_folder(tmp_path / "own", "path label", rows, names, "labels.csv")
    assert "no column 'path'" in message
    assert "labels.csv names the files, but its columns are separated by spaces" in message


def test_names_that_several_files_have_need_their_folder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"set/{part}/{n}.png" for part in ("x", "y") for n in range(6)))
    rows = [f"{n}.png,{label},{n // 2}{label}" for label in "ab" for n in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["filename,class,patient_id", *rows]))
    message = refusal(tmp_path)
    assert "t.csv names the files, but by names that several files have, such as set/x/0.png and set/y/0.png" in message
    assert "params.yaml" not in message.split("t.csv")[1]
    # Masks of the same names in another folder leave each row one picture, and so do rows of one picture and one label.
    for file in (tmp_path / "set/y").iterdir():
        file.rename(tmp_path / "set/x" / f"1{file.name}")
    touch(tmp_path, *(f"set/y/{file.name}" for file in (tmp_path / "set/x").iterdir()))
    rows = [f"{n}.png,{'ab'[n % 2]},P{n}" for n in [*range(6), *range(10, 16)] for _ in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["filename,class,patient_id", *rows]))
    assert "t.csv names the files. To use it, write" in refusal(tmp_path)


def test_a_few_repeated_groups_are_classes_and_many_are_not(tmp_path: Path) -> None:
    names = [f"p{n}.png" for n in range(24)]
    rows = [f"{name},{n},G{n // 2}" for n, name in enumerate(names)]
    assert "has no column with classes" in in_folder(tmp_path, "image,age,Group", rows, names)
