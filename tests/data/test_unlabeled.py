"""explain_unlabeled: images without class folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.cropping import data_section
from tumorboard.base.errors import InputError
from tumorboard.data.sources import list_images
from tumorboard.data.unlabeled import explain_unlabeled


def test_images_without_classes_are_counted_and_predict_is_named(tmp_path: Path) -> None:
    assert explain_unlabeled(tmp_path) == ""
    for name in ("1.png", "2.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "1.png").read_bytes())
    told = explain_unlabeled(tmp_path)
    assert told.startswith(f"2 images lie directly in '{tmp_path}', without a class")
    assert f"`tumorboard predict {tmp_path}`" in told


def test_images_in_part_folders_without_classes_are_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.png").write_bytes(b"\x89PNG")
    assert explain_unlabeled(tmp_path).startswith(f"2 images lie directly in '{tmp_path}', in test, train, without a")


def test_a_table_is_no_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n", encoding="utf-8")
    assert explain_unlabeled(tmp_path / "labels.csv") == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["normal.zip", "tumor.zip"], "\nUnpack normal.zip, tumor.zip"),
        ([f"images_{n:03}.tar.gz" for n in range(6)], "images_003.tar.gz and 2 more"),
        (["normal/1.png", "tumor.zip"], "only one class, 'normal'"),
        (["normal/1.png", "tumor.zip"], "\nUnpack tumor.zip"),
        (["train_x.h5", "train_y.h5"], "\ntrain_x.h5 is a container of data, which is not read: write its images as"),
        (["data/train-0.parquet"], "\ndata/train-0.parquet is a container of data"),
        (["bloodmnist.npz"], "\nFor the images in bloodmnist.npz, write data.raw: {raw}/bloodmnist.npz"),
    ],
)
def test_archives_and_containers_in_place_of_images_are_named(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        list_images(tmp_path, data_section())
    assert words.format(raw=tmp_path) in str(caught.value)


def test_a_container_as_data_raw_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"x")
    with pytest.raises(
        InputError, match="is a file, a container of data, which is not read: write its images as files"
    ):
        list_images(tmp_path / "x.h5", data_section())
