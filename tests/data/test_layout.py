"""explain_layout: folders that are parts, archives or splits are refused, and folders of classes are not."""

from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tests.data.raw_folders import refusal, touch
from tumorboard.base.errors import InputError
from tumorboard.data.sources import list_images
from tumorboard.data.tables_beside import find_tables

PARTS = {
    "numbered": ["HAM10000_images_part_1", "HAM10000_images_part_2"],
    "numbered without words": ["scan001", "scan002", "scan010"],
    "one without a number": ["images", "images (2)"],
    "lettered": ["part_a", "part_b"],
    "two among others": ["batch1", "batch2", "normal"],
    "patients": ["patient1", "patient02", "patient3"],
    "splits": ["C-NMC_training_data", "C-NMC_test_prelim_phase_data", "C-NMC_test_final_phase_data"],
    "ISIC": ["ISIC_2019_Training_Input", "ISIC_2019_Test_Input"],
    "years": ["train2017", "val2017"],
    "one split among classes": ["normal", "blast", "test_images"],
    "splits and classes in one name": ["train_normal", "test_normal", "train_blast", "test_blast"],
    "camel case": ["trainImages", "testImages"],
    "archives": ["normal.zip", "blast.zip"],
    "empty words": ["images", "masks"],
    "masks beside a class": ["Benign", "Malignant", "masks"],
    "originals and what was made of them": ["originals", "annotated", "augmented"],
    "sides": ["left", "Right"],
    "a copy by Windows": ["glioma", "glioma - Copy", "none"],
    "a copy by macOS": ["glioma", "glioma copy 2", "none"],
    "a copy by a browser": ["glioma", "none", "none (2)"],
    "a copy by Linux": ["glioma", "none", "none (copy)"],
    "parts in Spanish": ["entrenamiento", "prueba"],
    "parts in French": ["Entraînement", "Essai"],
    "pictures and masks in German": ["Bilder", "Masken"],
    "pictures and masks in Spanish": ["imágenes", "máscaras"],
    "pictures and texts about them": ["Images", "Descriptions"],
    "dates": ["2019-01-03", "2019-01-04"],
    "dates of Europe": ["3.1.2019", "14.1.2019"],
    "resolutions": ["low_res", "high_res"],
    "renderings": ["RGB", "grayscale"],
    "thumbnails": ["full", "thumbnails"],
    "what was made of pictures beside classes": ["benign", "malignant", "processed"],
    "results beside classes": ["benign", "malignant", "results"],
    "altered copies beside a class": ["benign", "malignant", "benign_augmented"],
    "masks of a class beside it": ["benign", "malignant", "benign masks"],
    "patients' numbers": ["8863", "8864", "10253"],
    "patients' numbers in names": [f"Mass_P_{n:05}_{side}" for n in range(5) for side in ("LEFT_CC", "RIGHT_CC")],
}


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_folders_named_as_parts_are_refused_unless_params_say_that_they_are_classes(
    tmp_path: Path, names: list[str]
) -> None:
    touch(tmp_path, *(f"{name}/{n}.png" for name in names for n in "ab"))
    message = refusal(tmp_path)
    assert "do not look like classes" in message
    assert message.endswith("write data.layout: folders")
    rows, _ = list_images(tmp_path, data_section(layout="folders"))
    assert set(rows["label"]) == set(names)


CLASSES = {
    "plain": ["glioma", "meningioma"],
    "numbers": ["0", "1", "2"],
    "grades": ["grade_1", "grade_2"],
    "stages": ["Stage I", "Stage II"],
    "BI-RADS": ["BIRADS_3", "BIRADS_4"],
    "short codes": ["G1", "G2", "G3"],
    "types": ["type A", "type B"],
    "labels": ["label0", "label1"],
    "a number and a name": ["0_normal", "1_benign"],
    "a test's outcome": ["test_positive", "test_negative"],
    "labels of one digit and a word": ["label 0", "label 1", "original lesion"],
    "other scripts": ["正常", "異常"],
    "viruses": ["HPV16", "HPV18"],
    "eyes": ["left_eye", "right_eye"],
    "views": ["AP", "PA"],
    "low and high grade": ["low", "high"],
    "a part of the body and its tumor": ["brain", "brain_tumor"],
    "a hand": ["index", "thumb"],
    "a class beside a longer one": ["neutrophil", "segmented neutrophil"],
}


@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_folders_named_as_classes_are_accepted(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *(f"{name}/{n}.png" for name in names for n in "ab"))
    assert set(list_images(tmp_path, data_section())[0]["label"]) == set(names)


def test_parts_below_a_class_folder_are_named_with_the_folder_to_use(tmp_path: Path) -> None:
    for fold in ("fold_0", "fold_1"):
        touch(tmp_path, f"C-NMC_training_data/{fold}/all/1.bmp", f"C-NMC_training_data/{fold}/hem/2.bmp")
    touch(tmp_path, "C-NMC_test_final_phase_data/1.bmp")
    message = refusal(tmp_path)
    assert "'C-NMC_training_data' contains the parts 'fold_0', 'fold_1'" in message
    assert f"data.raw: {tmp_path}/C-NMC_training_data, with the classes 'all', 'hem'" in message
    rows, _ = list_images(tmp_path / "C-NMC_training_data", data_section())
    assert set(rows["label"]) == {"all", "hem"}


def test_classes_one_level_down_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "sites", *(f"{site}/{label}/1.png" for site in ("Bonn", "Köln") for label in ("normal", "blast")))
    message = refusal(tmp_path / "sites")
    assert "'Bonn', 'Köln' contain the same folders 'blast', 'normal'" in message
    assert f"data.raw: {tmp_path}/sites/Bonn, with the classes 'blast', 'normal'" in message
    touch(tmp_path / "nested", "set/normal/1.png", "set/blast/1.png")
    assert f"data.raw: {tmp_path}/nested/set, with the classes 'blast', 'normal'" in refusal(tmp_path / "nested")
    touch(tmp_path / "again", "yes/1.png", "no/1.png", "set/yes/1.png", "set/no/1.png")
    assert "'set' contains folders with the names of classes beside it, 'no', 'yes'" in refusal(tmp_path / "again")
    touch(tmp_path / "inside", *(f"{label}/{part}/1.png" for label in ("yes", "no") for part in ("train", "test")))
    assert "'no' contains the parts 'test', 'train'; 'yes' contains" in refusal(tmp_path / "inside")
    touch(tmp_path / "masks", *(f"{label}/{kind}/1.png" for label in ("yes", "no") for kind in ("images", "masks")))
    message = refusal(tmp_path / "masks")
    assert "contain the same folders 'images', 'masks'; 'no/masks', 'yes/masks' would count as pictures" in message
    touch(tmp_path / "one", "no/1.png", "yes/1.png", "yes/2.png", "yes/Annotations/1.png")
    assert "'yes/Annotations' would count as pictures of their class: move them out of data.raw" in refusal(
        tmp_path / "one"
    )
    touch(tmp_path / "deep", *(f"data/v2/sorted/{label}/1.png" for label in ("yes", "no")), "data/v2/sorted/README")
    message = refusal(tmp_path / "deep")
    assert "the classes seem to lie 3 levels down" in message
    assert f"data.raw: {tmp_path}/deep/data/v2/sorted, with the classes 'no', 'yes'" in message


def test_findings_below_folders_of_another_kind_are_named(tmp_path: Path) -> None:
    studies = [f"patient{n}/study1_{('positive', 'negative')[n % 2]}" for n in range(4)]
    touch(tmp_path / "mura", *(f"train/{limb}/{study}/1.png" for limb in ("ELBOW", "WRIST") for study in studies))
    message = refusal(tmp_path / "mura")
    assert "folders below them, 'study1_negative', 'study1_positive', are named as findings" in message
    touch(tmp_path / "good", *(f"{label}/P{n}/benign_cases/1.png" for label in ("a", "b") for n in range(3)))
    assert len(list_images(tmp_path / "good", data_section())[0]) == 6  # one finding alone says nothing
    touch(tmp_path / "named", *(f"{label}/P1/{name}/1.png" for label in ("benign", "x") for name in ("pos", "neg")))
    assert len(list_images(tmp_path / "named", data_section())[0]) == 4


def test_parts_of_one_set_are_to_be_renamed(tmp_path: Path) -> None:
    parts = ("Test Set", "Training Set", "Validation Set")
    touch(tmp_path, *(f"{part}/{label}/1.png" for part in parts for label in ("yes", "no")))
    message = refusal(tmp_path)
    assert "rename 'Test Set' to test, 'Training Set' to train, 'Validation Set' to val" in message
    assert "data.raw: " + str(tmp_path / "Test Set") not in message
    for part, name in zip(parts, ("test", "train", "val"), strict=True):
        (tmp_path / part).rename(tmp_path / name)
    assert set(list_images(tmp_path, data_section())[0]["split"]) == {"train", "val", "test"}


def test_masks_beside_their_pictures_are_refused(tmp_path: Path) -> None:
    names = [f"{label}/{label} ({n}){end}.png" for label in ("yes", "no") for n in range(3) for end in ("", "_mask")]
    touch(tmp_path, *names, "no/no (1)_mask_1.png")
    message = refusal(tmp_path)
    assert "7 files are named after another one, such as no/no (0)_mask.png after no/no (0).png" in message
    for name in names:
        if "_mask" not in name:
            (tmp_path / name).unlink()
    assert len(list_images(tmp_path, data_section())[0]) == 7  # a mask alone is somebody's picture


@pytest.mark.parametrize(
    ("paths", "aside"),
    [
        (("COVID/images/1.png", "COVID/infection masks/1.png", "Normal/images/2.png"), "COVID/infection masks"),
        (("a/a/1.bmp", "a/a/CROPPED/1_1.bmp", "b/b/2.bmp"), "a/a/CROPPED"),
        (("train/a/1.bmp", "train/a/crops/1.bmp", "train/b/2.bmp", "test/a/3.bmp", "test/b/4.bmp"), "train/a/crops"),
    ],
)
def test_folders_of_masks_and_crops_beside_pictures_are_refused(
    tmp_path: Path, paths: tuple[str, ...], aside: str
) -> None:
    touch(tmp_path, *paths)
    assert f"{aside!r} would count as pictures of their class: move them out of data.raw" in refusal(tmp_path)


def test_crops_alone_are_the_pictures_of_their_class(tmp_path: Path) -> None:
    touch(tmp_path, "a/CROPPED/1.bmp", "b/CROPPED/2.bmp", "b/no_mask/3.bmp")
    (tmp_path / "b/CROPPED/2.bmp").unlink()
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"a", "b"}


def test_sets_of_organs_are_named_with_their_classes(tmp_path: Path) -> None:
    names = (
        "colon_image_sets/colon_aca",
        "colon_image_sets/colon_n",
        "lung_image_sets/lung_aca",
        "lung_image_sets/l_n",
    )
    touch(tmp_path, *(f"{name}/1.png" for name in names))
    message = refusal(tmp_path)
    assert "'colon_image_sets', 'lung_image_sets' are named as sets, and hold folders of their own" in message
    assert f"data.raw: {tmp_path}/colon_image_sets, with the classes 'colon_aca', 'colon_n'" in message
    touch(tmp_path / "good", *(f"{name}/1.png" for name in ("benign set/x", "benign set/y", "other/z", "other/w")))
    assert set(list_images(tmp_path / "good", data_section())[0]["label"]) == {"benign set", "other"}


def test_a_folder_that_would_be_refused_is_not_proposed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/study{n}/1.png" for n in range(4)))
    message = refusal(tmp_path)
    assert "only one class, 'images'" in message
    assert "Probably meant" not in message


def test_folders_of_texts_about_the_pictures_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "Descriptions/1", "Images/1.png")
    (tmp_path / "Images/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "'Descriptions' hold no images, but files such as Descriptions/1: if these have the labels" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("place", ["truth", "meta/v2"])
def test_a_table_in_a_folder_of_its_own_is_named(tmp_path: Path, place: str) -> None:
    touch(tmp_path, *(f"Input/p{n}.jpg" for n in range(8)))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "t.csv").write_text("image,dx\n" + "".join(f"p{n},{'ab'[n % 2]}\n" for n in range(8)))
    message = refusal(tmp_path)
    assert f"table: {place}/t.csv" in message
    assert "prefix: Input/\n  extension: .jpg" in message


def test_a_table_in_a_class_folder_is_no_sign_against_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{n}.jpg" for label in ("yes", "no") for n in range(8)))
    (tmp_path / "yes/t.csv").write_text("image,dx\n" + "".join(f"yes/{n}.jpg,{'ab'[n % 2]}\n" for n in range(8)))
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"yes", "no"}


@pytest.mark.parametrize(
    "below", [("P1", "P2"), ("left", "right"), ("40X", "100X"), ("SOB",), ("axial", "coronal", "sagittal")]
)
def test_patients_and_views_below_the_classes_are_accepted(tmp_path: Path, below: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{label}/{name}/1.png" for label in ("benign", "malignant") for name in below))
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"benign", "malignant"}


def test_a_table_that_names_the_files_is_named_unless_it_agrees_with_the_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{label}{n}.png" for label in ("early", "late") for n in range(6)))
    names = [f"{label}{n}.png" for label in ("early", "late") for n in range(6)]
    (tmp_path / "truth.csv").write_text(
        "file,diagnosis\n" + "".join(f"{name},{'ab'[n % 2]}\n" for n, name in enumerate(names))
    )
    message = refusal(tmp_path)
    assert "truth.csv lies beside them and names their files" in message
    assert "    path: file\n    label: diagnosis\n  prefix: '*/'\n" in message
    for content in (
        "file,diagnosis\n" + "".join(f"{name},{name[0].upper()}\n" for name in names),  # the folders, by other names
        "file,age\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)),  # no classes
        "file,diagnosis\n" + "".join(f"other{n}.png,{'ab'[n % 2]}\n" for n in range(12)),  # other files
        "",
        "just a note\n",
    ):
        (tmp_path / "truth.csv").write_text(content)
        assert set(list_images(tmp_path, data_section())[0]["label"]) == {"early", "late"}


def write_table(file: Path, header: str, rows: list[str]) -> None:
    file.write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize("column", ["site", "hospital", "Patient ID", "subject"])
def test_folders_of_sites_and_patients_agree_with_no_labels(tmp_path: Path, column: str) -> None:
    folders = ("Aarau", "Bern", "Chur")
    touch(tmp_path, *(f"{folder}/{folder}{n}.png" for folder in folders for n in range(4)))
    rows = [f"{folder}{n}.png,{folder},{'ab'[n % 2]}" for folder in folders for n in range(4)]
    write_table(tmp_path / "t.csv", f"image,{column},diagnosis", rows)
    assert "    label: diagnosis\n" in refusal(tmp_path)


@pytest.mark.parametrize(
    "header", ["image,diagnosis,note", "image,condition,diagnosis_code", "image,condition,diagnosis_confirm"]
)
def test_a_table_that_has_the_folders_as_labels_agrees(tmp_path: Path, header: str) -> None:
    folders = ("nevus", "melanoma")
    touch(tmp_path, *(f"{folder}/{folder}{n}.png" for folder in folders for n in range(4)))
    rows = [f"{folder}{n}.png,{folder.title()},{'ab'[n % 2]}" for folder in folders for n in range(4)]
    write_table(tmp_path / "t.csv", header, rows)
    assert set(list_images(tmp_path, data_section())[0]["label"]) == set(folders)


def test_columns_of_0_and_1_agree_together(tmp_path: Path) -> None:
    folders = ("nv", "mel", "bcc")
    touch(tmp_path, *(f"{folder}/{folder}{n}.png" for folder in folders for n in range(4)))
    marks = {"nv": "1,0,0", "mel": "0,1,0", "bcc": "0,0,1"}
    rows = [f"{folder}{n},{marks[folder]}" for folder in folders for n in range(4)]
    write_table(tmp_path / "t.csv", "image,NV,MEL,BCC", rows)
    assert set(list_images(tmp_path, data_section())[0]["label"]) == set(folders)


@pytest.mark.parametrize(
    ("header", "marks"),
    [("image,melanoma,male", ("1,0", "1,1", "0,1")), ("image,MEL,NV,male", ("1,0,1", "1,0,0", "0,1,1"))],
)
def test_a_column_of_0_and_1_about_something_else_does_not_disturb(
    tmp_path: Path, header: str, marks: tuple[str, ...]
) -> None:
    touch(tmp_path, *(f"mel/m{n}.png" for n in range(8)), *(f"nv/v{n}.png" for n in range(8)))
    rows = [f"m{n}.png,{marks[n % 2]}" for n in range(8)] + [f"v{n}.png,{marks[2]}" for n in range(8)]
    write_table(tmp_path / "t.csv", header, rows)
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"mel", "nv"}


@pytest.mark.parametrize("header", ["file,age_at_diagnosis", "file,Date of diagnosis", "file,age"])
def test_ages_and_dates_are_no_labels(tmp_path: Path, header: str) -> None:
    touch(tmp_path, *(f"{folder}/{folder}{n}.png" for folder in ("mel", "nv") for n in range(8)))
    rows = [f"{folder}{n}.png,{40 + n % 3}" for folder in ("mel", "nv") for n in range(8)]
    write_table(tmp_path / "t.csv", header, rows)
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"mel", "nv"}
    write_table(
        tmp_path / "t.csv", f"{header},stage_label", [f"{row},{'I' * (1 + n % 2)}" for n, row in enumerate(rows)]
    )
    assert "    label: stage_label\n" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.txt", ["0 glioma", "1 pituitary", "2 normal"]),
        ("classes.txt", ["0\tglioma", "1\tpituitary", "2\tnormal"]),
        ("map.csv", ["id,name", "0,glioma", "1,pituitary", "2,normal"]),
    ],
)
def test_a_list_of_the_classes_is_no_table_of_labels(tmp_path: Path, name: str, lines: list[str]) -> None:
    folders = ("glioma", "pituitary", "normal")
    touch(tmp_path, *(f"{folder}/{n}.png" for folder in folders for n in range(8)))
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert set(list_images(tmp_path, data_section())[0]["label"]) == set(folders)


def test_boxes_beside_the_pictures_are_no_tables(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{n}.png" for folder in "ab" for n in range(4)))
    for n in range(4):
        (tmp_path / f"a/{n}.txt").write_text("0 0.5 0.5 0.1 0.2\n1 0.25 0.5 0.1 2e-1\n")
    assert list(find_tables(tmp_path, sorted(f"a/{n}.{end}" for n in range(4) for end in ("png", "txt")))) == []


def test_names_that_recur_in_each_folder_agree_where_each_label_has_those_of_one_folder(tmp_path: Path) -> None:
    for folders, labels, agrees in (
        (("benignx", "malignantx"), ("benign", "malignant"), True),
        (("Aarau", "Bern"), ("benign", "malignant"), False),
    ):
        raw = tmp_path / folders[0]
        touch(raw, *(f"{folder}/{n}.png" for folder in folders for n in range(8)))
        rows = [f"{n}.png,{labels[index if agrees else n % 2]}" for index in range(2) for n in range(8)]
        write_table(raw / "t.csv", "filename,class", rows)
        if agrees:
            assert set(list_images(raw, data_section())[0]["label"]) == set(folders)
        else:
            assert "t.csv lies beside them and names their files" in refusal(raw)


def test_a_list_of_boxes_between_spaces_is_no_sign_against_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{label}{n}.jpg" for label in ("yes", "no") for n in range(8)))
    rows = [f"{label}{n}.jpg {n} {3 * n} 224" for label in ("yes", "no") for n in range(8)]
    write_table(tmp_path / "boxes.txt", "name left top side", rows)
    assert set(list_images(tmp_path, data_section())[0]["label"]) == {"yes", "no"}


def test_named_classes_are_an_explicit_word(tmp_path: Path) -> None:
    touch(tmp_path, "images_1/1.png", "images_2/1.png", "masks/1.png")
    rows, ignored = list_images(tmp_path, data_section(classes={"images_1": "one", "images_2": "two"}))
    assert list(zip(rows["path"], rows["label"], strict=True)) == [("images_1/1.png", "one"), ("images_2/1.png", "two")]
    assert ignored.to_dict("records") == [{"path": "masks/1.png", "reason": "not in data.classes"}]
    with pytest.raises(InputError, match=r"data\.classes: no label in .* is 'image'; there are 'images_1'"):
        list_images(tmp_path, data_section(classes={"images_1": "one", "image": "two"}))


@pytest.mark.parametrize("form", ["scan_{}.dcm", "SCAN_{}", " scan_{} ", "old/scan_{}.tif"])
def test_a_table_that_names_the_files_in_another_form_is_named(tmp_path: Path, form: str) -> None:
    touch(tmp_path, *(f"{'Berlin' if n < 6 else 'Paris'}/scan_{n}.png" for n in range(12)))
    rows = [f"{form.format(n)},{'ab'[n % 2]}" for n in range(12)]
    (tmp_path / "meta.csv").write_text("\n".join(["image,diagnosis", *rows]))
    message = refusal(tmp_path)
    assert "meta.csv names the files, but by other names or folders than there are" in message
    assert f"{form.format(0)!r} is 'Berlin/scan_0.png' here" in message


def test_parts_inside_a_part_are_named_with_the_folder_that_holds_all(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/fold_{fold}/{label}/{fold}.png" for fold in range(3) for label in ("all", "hem")))
    message = refusal(tmp_path)
    assert f"Probably meant: data.raw: {tmp_path}/train, with the parts 'fold_0', 'fold_1', 'fold_2'" in message
    assert f"{tmp_path}/train/fold_0" not in message
