"""explain_unlabeled: images without class folders."""

from pathlib import Path

import cv2
import numpy as np

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
