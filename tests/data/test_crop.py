"""crop_images: its tables and crops equal those made by hand; quarantine, groups, splits."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data.cropping import build, data_section, hashes, job_of, picture, save
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Crop
from tumorboard.base.tables import read_manifest
from tumorboard.data.crop import crop_images
from tumorboard.data.sources import list_images
from tumorboard.data.store import CropStore
from tumorboard.images.crop import crop_image


def test_the_tables_and_crops_equal_those_made_by_hand(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "README").write_text("not an image, not in a class")
    before = hashes(raw)
    counts = build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert hashes(raw) == before
    assert counts == {
        "images": 11,
        "classes": {"a": 5, "b": 6},
        "groups": 11,
        "quarantined": 0,
        "ignored": 1,
        "equal_files": 1,
        "equal_pixels": 2,
        "own_range": 0,
        "decoder_warnings": 0,
    }
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest["id"].tolist() == sorted(set(before) - {"README"})
    assert (manifest["id"] == manifest["path"]).all()
    assert (manifest["id"] == manifest["source_id"]).all()
    assert manifest["sha256"].tolist() == [before[path] for path in manifest["path"]]
    store = CropStore(tmp_path / "out/store")
    facts = read_table(tmp_path / "out/images.csv").set_index("id")
    for path in manifest["id"]:
        upright = np.asarray(Image.open(raw / path).convert("RGB"))
        np.testing.assert_array_equal(store[[path]][0], crop_image(upright, crop))
        size = (str(upright.shape[1]), str(upright.shape[0]), str((raw / path).stat().st_size))
        assert tuple(facts.loc[path, ["width", "height", "bytes"]]) == size
        color = facts.loc[path, ["red", "green", "blue"]].astype(float)
        np.testing.assert_allclose(color, upright.mean((0, 1)), atol=0.006)
        assert facts.loc[path, "border"] == "0.0"
    assert facts.loc["b/resaved.bmp", "format"] == "BMP"
    assert facts.loc["b/again.png", "format"] == "PNG"
    same = facts.groupby("pixels").groups.values()
    assert sorted(list(ids) for ids in same if len(ids) > 1) == [
        ["a/P0, é 0.png", "b/again.png"],
        ["a/P1, é 1.png", "b/resaved.bmp"],
    ]
    assert read_table(tmp_path / "out/ignored.csv").to_numpy().tolist() == [["README", "outside the class folders"]]


@pytest.mark.parametrize("removed", [True, False])
def test_the_dark_border_is_measured_whether_or_not_it_is_cut_off(tmp_path: Path, crop: Crop, removed: bool) -> None:
    framed = np.zeros((40, 50, 3), np.uint8)
    framed[5:35, 10:40] = 200
    save(tmp_path / "raw/a/framed.png", framed)
    save(tmp_path / "raw/b/black.png", np.zeros((40, 50, 3), np.uint8))
    build(tmp_path / "raw", tmp_path / "out", crop.model_copy(update={"border": removed}), tmp_path / "cache")
    facts = read_table(tmp_path / "out/images.csv").set_index("id")
    # 900 of 2,000 pixels are left; a black picture stays whole.
    assert facts["border"].to_dict() == {"a/framed.png": "0.55", "b/black.png": "0.0"}
    assert float(facts.loc["a/framed.png", "green"]) == 90.0


def test_a_grey_picture_has_its_mean_level_in_each_color(tmp_path: Path, crop: Crop) -> None:
    for label, levels in (("a", [10, 21]), ("b", [0, 255])):
        grey = np.tile(np.array(levels, np.uint8), (30, 15))
        (tmp_path / "raw" / label).mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / "raw" / label / "1.png")
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    colors = read_table(tmp_path / "out/images.csv")[["red", "green", "blue"]]
    assert colors.to_numpy().tolist() == [["15.5"] * 3, ["127.5"] * 3]


def test_the_same_pixels_in_another_shape_are_another_picture(tmp_path: Path, crop: Crop) -> None:
    flat = picture(0, 24, 48)
    save(tmp_path / "raw/a/1.png", flat)
    save(tmp_path / "raw/b/1.png", flat.reshape(48, 24, 3))
    assert build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")["equal_pixels"] == 0


def write_jpeg(path: Path, height: int, width: int, orientation: int = 1) -> None:
    y, x = np.mgrid[:height, :width]
    waves = 128 + 90 * np.sin(x / 9) * np.cos(y / 7)
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([waves, 255 - waves, waves / 2], -1).astype(np.uint8)).save(path, quality=95, exif=exif)


def test_a_jpeg_decoded_at_a_reduced_size_is_listed_at_its_full_size(tmp_path: Path, crop: Crop) -> None:
    write_jpeg(tmp_path / "raw/a/wide.jpg", 200, 301)
    write_jpeg(tmp_path / "raw/a/turned.jpg", 200, 301, 6)
    write_jpeg(tmp_path / "raw/a/nearly square, turned.jpg", 1000, 1001, 8)
    write_jpeg(tmp_path / "raw/b/small.jpg", 30, 24)
    (tmp_path / "raw/b/untagged.jpg").write_bytes((tmp_path / "raw/a/wide.jpg").read_bytes() + b"a note")
    for name, scaled in (("scaled", 2.0), ("plain", None)):
        counts = build(
            tmp_path / "raw",
            tmp_path / name,
            crop.model_copy(update={"scaled_decoding": scaled}),
            tmp_path / "cache",
        )
        assert (counts["equal_files"], counts["equal_pixels"]) == (0, 1)
        facts = read_table(tmp_path / name / "images.csv")
        assert facts[["id", "width", "height"]].to_numpy().tolist() == [
            ["a/nearly square, turned.jpg", "1000", "1001"],
            ["a/turned.jpg", "200", "301"],
            ["a/wide.jpg", "301", "200"],
            ["b/small.jpg", "24", "30"],
            ["b/untagged.jpg", "301", "200"],
        ]
    stores = [CropStore(tmp_path / name / "store") for name in ("scaled", "plain")]
    scaled_crops, plain_crops = (store.take(np.arange(5)).astype(float) for store in stores)
    error = ((scaled_crops - plain_crops) ** 2).mean(axis=(1, 2, 3))
    assert error[3] == 0
    assert (error[[0, 1, 2, 4]] > 0).all()
    assert (error < 255**2 / 10**3).all()  # 30 dB


def test_files_that_cannot_be_used_are_listed_with_their_reasons(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "a/empty.png").touch()
    (raw / "a/notes.txt").write_text("no picture")
    jpeg = cv2.imencode(".jpg", picture(3, 300, 300))[1].tobytes()
    (raw / "b/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (raw / "b/nowhere.png").symlink_to(raw / "gone.png")
    (raw / "b/pipe.png").unlink(missing_ok=True)
    os.mkfifo(raw / "b/pipe.png")
    save(raw / "b/large.png", np.zeros((1000, 1001, 3), np.uint8))
    small = crop.model_copy(update={"max_pixels": 1_000_000})
    counts = build(raw, tmp_path / "out", small, tmp_path / "cache", max_quarantined=6)
    assert (counts["images"], counts["quarantined"]) == (11, 6)
    quarantined = read_table(tmp_path / "out/quarantined.csv")
    assert quarantined.set_index("path")["reason"].to_dict() == {
        "a/empty.png": "empty",
        "a/notes.txt": "not an image",
        "b/cut.jpg": "truncated",
        "b/large.png": "too many pixels",
        "b/nowhere.png": "broken or outward link",
        "b/pipe.png": "unreadable",
    }
    assert (quarantined["detail"] != "").all()
    assert not set(quarantined["path"]) & set(read_manifest(tmp_path / "out/manifest.csv")["path"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_quarantined(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "b/-0.png").chmod(0)
    assert build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=1)["quarantined"] == 1


def test_a_file_that_vanished_is_quarantined(tmp_path: Path, raw: Path, crop: Crop) -> None:
    rows, ignored = list_images(raw, data_section(max_quarantined=1))
    (raw / "b/-0.png").unlink()
    counts = crop_images(rows, ignored, job_of(raw, crop, tmp_path, max_quarantined=1)).counts
    assert (counts["images"], counts["quarantined"]) == (10, 1)


def test_a_patient_of_dicom_files_is_their_group_unless_another_is_given(tmp_path: Path, crop: Crop) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    for number, patient in enumerate(["P1", "P1", "", "P2"]):
        for label in "ab":
            (tmp_path / f"raw/{label}").mkdir(parents=True, exist_ok=True)
            content = dicom(picture(number)[..., 0].copy(), PatientID=patient)
            (tmp_path / f"raw/{label}/{number}.dcm").write_bytes(content)
    groups = []
    for pattern in (None, r"(\d)\.dcm", "(.*)"):
        rows, ignored = list_images(tmp_path / "raw", data_section(group_pattern=pattern))
        for _ in range(2):  # the second time from the crop cache
            crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path))
            groups.append(read_manifest(tmp_path / "out/manifest.csv")["group"].tolist())
    by_patient = ["P1", "P1", "a/2.dcm", "P2", "P1", "P1", "b/2.dcm", "P2"]
    own = [f"{label}/{number}.dcm" for label in "ab" for number in range(4)]
    assert groups == [by_patient, by_patient, [*"01230123"], [*"01230123"], own, own]
    facts = read_table(tmp_path / "out/images.csv")
    assert set(facts["format"]) == {"DICOM"}
    assert "patient" not in facts.columns


def test_patients_of_dicom_files_that_differ_only_in_their_form_are_told(tmp_path: Path, crop: Crop) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    for number, patient in enumerate(["P-01", "p 1", "P2", "", "p 1"]):
        (tmp_path / f"raw/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"raw/{'ab'[number % 2]}/{number}.dcm").write_bytes(
            dicom(picture(number)[..., 0].copy(), PatientID=patient)
        )
    told = {}
    for pattern in (None, r"(\d)\.dcm"):
        rows, ignored = list_images(tmp_path / "raw", data_section(group_pattern=pattern))
        summary = crop_images(rows, ignored, job_of(tmp_path / "raw", crop, tmp_path))
        told[pattern] = [text for text in summary.warnings if "patient" in text]
    text, without = told[None] if told[None][0].startswith("the") else told[None][::-1]
    assert text.startswith("the patients 'P-01' (1 images), 'p 1' (2 images) differ only in the form of a number, case")
    assert without.startswith("1 of 5 images name no patient (PatientID), such as b/3.dcm, while the others do")
    assert told[r"(\d)\.dcm"] == []


def test_dicom_files_of_which_some_have_no_patient_are_told(tmp_path: Path, crop: Crop) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    told = []
    for patients in (["P1", "", "P2", ""], ["", "", "", ""], ["P1", "P2", "P1", "P2"]):
        raw = tmp_path / "".join(patients) / "raw"
        for number, patient in enumerate(patients):
            (raw / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            content = dicom(picture(number)[..., 0].copy(), PatientID=patient)
            (raw / "ab"[number % 2] / f"{number}.dcm").write_bytes(content)
        rows, ignored = list_images(raw, data_section())
        warnings = crop_images(rows, ignored, job_of(raw, crop, raw.parent)).warnings
        told.append([text for text in warnings if "PatientID" in text])
    ((text,), no_patients, all_patients) = told
    assert text.startswith(
        "2 of 4 images name no patient (PatientID), such as b/1.dcm, while the others do: each counts"
    )
    assert no_patients == all_patients == []


def test_a_patient_with_a_carriage_return_and_a_table_that_makes_each_image_its_own_group(
    tmp_path: Path, crop: Crop
) -> None:
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    paths = [f"{label}/{number}.dcm" for label in "ab" for number in range(2)]
    for number, path in enumerate(paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        content = dicom(picture(number)[..., 0].copy(), PatientID=f"P{path[0]}\rX")
        (tmp_path / "raw" / path).write_bytes(content)
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest["group"].tolist() == ["Pa\rX", "Pa\rX", "Pb\rX", "Pb\rX"]
    table = "path,label,group\n" + "".join(f"{path},{path[0]},{path}\n" for path in paths)
    (tmp_path / "raw/labels.csv").write_text(table)
    build(tmp_path / "raw", tmp_path / "out", crop, tmp_path / "cache")
    assert read_manifest(tmp_path / "out/manifest.csv")["group"].tolist() == paths


def test_too_many_quarantined_files_raise_with_nothing_written(tmp_path: Path, raw: Path, crop: Crop) -> None:
    for number in range(12):
        (raw / f"a/{number:02d}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"12 of 23 files .*data\.max_quarantined") as caught:
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=11)
    assert "'a/00.png': not an image" in str(caught.value)
    assert "'a/09.png'" in str(caught.value)
    assert "'a/10.png'" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_class_without_any_usable_image_is_an_error(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "c").mkdir()
    (raw / "c/1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"class 'c' has no usable image(.|\n)*'c/1.png': not an image"):
        build(raw, tmp_path / "out", crop, tmp_path / "cache", max_quarantined=5)
    assert not (tmp_path / "out").exists()


def test_splits_and_folds_of_a_table_are_in_the_manifest(tmp_path: Path, raw: Path, crop: Crop) -> None:
    (raw / "labels.csv").write_text(
        "path,label,group,split,fold\nb/-0.png,y,G,train,2\nb/-1.png,x,H,test,\nb/-2.png,x,H,train,\n"
    )
    counts = build(raw, tmp_path / "out", crop, tmp_path / "cache")
    assert list(counts["classes"].items()) == [("x", 2), ("y", 1)]
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert manifest[["label", "group", "split"]].to_numpy().tolist() == [
        ["y", "G", "train"],
        ["x", "H", "test"],
        ["x", "H", "train"],
    ]
    assert manifest["fold"].tolist() == [2, pd.NA, pd.NA]
