"""Files that are named as a mask of a picture beside them, and files that are not."""

from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tests.data.raw_folders import refusal, touch
from tumorboard.data.sources import list_images


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("p{}.jpg", "p{}_lesion.png"),
        ("p{}.jpg", "p{}_label.png"),
        ("p{}.jpg", "p{}_manual1.png"),
        ("p{}.jpg", "p{}-tumor.png"),
        ("p{}.jpg", "p{}.mask.png"),
        ("img_{}.png", "mask_{}.png"),
        ("IMG{}.png", "Mask{}.png"),
        ("{}_image.png", "{}_seg.png"),
        ("p{}.bmp", "p{}-d.bmp"),
    ],
)
def test_masks_have_many_names(tmp_path: Path, picture: str, mask: str) -> None:
    names = [f"{label}/{form.format(n)}" for label in ("yes", "no") for n in range(3) for form in (picture, mask)]
    touch(tmp_path, *names)
    assert f"6 files are named after another one, such as no/{mask.format(0)} after no/" in refusal(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("1.png", "1-a.png", "1-d.png"),  # views of one picture, not a mask of each
        ("1.png", "2.png", "2-d.png"),
        ("scan_1.png", "lesion_1.png"),
        ("brain.png", "brain tumor.png"),
    ],
)
def test_names_of_pictures_are_no_names_of_masks(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{label}/{name}" for label in ("yes", "no") for name in names))
    assert len(list_images(tmp_path, data_section())[0]) == 2 * len(names)
