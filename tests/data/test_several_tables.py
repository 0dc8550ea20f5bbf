"""Several tables in one folder: which one is proposed, and what is told of the others."""

from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tests.data.raw_folders import refusal
from tumorboard.data.label_warnings import describe_listing
from tumorboard.data.sources import list_images

IDS = [f"I{number:02d}" for number in range(12)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve files in a folder that is no class."""
    for name in IDS:
        (tmp_path / "raw/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"raw/images/{name}.jpg").write_bytes(b"x")
    return tmp_path / "raw"


def write(file: Path, header: str, *columns: list[str]) -> None:
    file.write_text("\n".join([header, *map(",".join, zip(*columns, strict=True))]) + "\n")


def classes(count: int, every: int = 2) -> list[str]:
    return ["mel" if number % every else "nv" for number in range(count)]


def test_tables_of_one_form_that_share_the_files_are_to_be_joined(raw: Path) -> None:
    write(raw / "test.csv", "image_id,dx", IDS[:4], classes(4))
    write(raw / "train.csv", "image_id,dx", IDS[4:], classes(8))
    message = refusal(raw)
    assert "train.csv names the files. To use it, write" in message  # it names more of them
    assert message.endswith("test.csv has the same columns and names 4 other files: join both to one table to use all.")


def test_patients_in_another_table_than_the_classes_are_told(raw: Path) -> None:
    marks = [["1.0" if number % 3 == kind else "0.0" for number in range(12)] for kind in range(3)]
    write(raw / "groundtruth.csv", "image,MEL,NV,BCC", IDS, *marks)
    write(raw / "metadata.csv", "image,age,lesion_id", IDS, ["50", "60"] * 6, [f"L{n // 2}" for n in range(12)])
    message = refusal(raw)
    assert "groundtruth.csv names the files. To use it, write" in message
    assert "metadata.csv names patients in its column 'lesion_id': add that column to groundtruth.csv" in message


def test_tables_with_classes_of_their_own_are_a_choice(raw: Path) -> None:
    write(raw / "reader1.csv", "image_id,diagnosis", IDS, classes(12))
    write(raw / "reader2.csv", "image_id,diagnosis", IDS, classes(12, 3))
    assert refusal(raw).endswith("reader2.csv names the files and has classes too: choose one of the tables.")


def test_a_table_without_classes_does_not_hide_one_that_has_them(raw: Path) -> None:
    write(raw / "a_predictions.csv", "image_id,p_a,p_b", IDS, ["0.3"] * 12, ["0.7"] * 12)
    write(raw / "meta.csv", "image_id,dx", IDS, classes(12))
    message = refusal(raw)
    assert "meta.csv names the files. To use it, write" in message
    assert "a_predictions.csv" not in message


def test_patients_beside_the_table_that_is_used_are_told(raw: Path) -> None:
    write(raw / "labels.csv", "path,label", [f"images/{name}.jpg" for name in IDS], classes(12))
    write(raw / "patients.csv", "image_id,Patient ID", IDS, [f"P{number // 3}" for number in range(12)])
    data = data_section()
    images, _ = list_images(raw, data)
    (warning,) = describe_listing(images, raw, data)
    assert warning.startswith("patients.csv beside labels.csv has a column 'Patient ID' that names patients")
    assert "add it to labels.csv as the column group" in warning
    groups = [f"P{number // 3}" for number in range(12)]
    write(raw / "labels.csv", "path,label,group", [f"images/{name}.jpg" for name in IDS], classes(12), groups)
    images, _ = list_images(raw, data)
    assert describe_listing(images, raw, data) == []
