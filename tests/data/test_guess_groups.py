"""Groups guessed from names: only where every name fits, and some group has several images."""

import pytest

from tumorboard.data.group_pattern import extract_groups
from tumorboard.data.guess_groups import guess_groups


@pytest.mark.parametrize(
    ("paths", "groups", "unit"),
    [
        (["a/patient01_1.png", "a/patient01_2.png", "b/patient2-1.png"], {"patient01", "patient2"}, "patient"),
        (["a/UID_H14_1_1_hem.bmp", "a/UID_H14_2_1_hem.bmp", "b/UID_7_1.bmp"], {"UID_H14", "UID_7"}, "patient"),
        (["x/BloodImage_00001_0.png", "x/BloodImage_00001_1.png", "y/BloodImage_00002_0.png"], None, "smear"),
        (["a/P1_x.png", "b/P1_y.png", "b/p2_x.png"], {"P1", "p2"}, "patient"),
        (["a/slide 3_1.png", "a/slide 3_2.png", "b/slide 4_1.png"], {"slide 3", "slide 4"}, "slide"),
        (["a/K17_1.png", "a/K17_2.png", "b/L3_9.png"], {"K17", "L3"}, ""),
        (["a/OAS1_01_MR1_1.jpg", "a/OAS1_01_MR1_2.jpg", "b/OAS1_02_MR1_1.jpg"], {"OAS1_01", "OAS1_02"}, ""),
        (["a/Patient (1)/s0.png", "a/Patient (1)/s1.png", "b/Patient (2)/s0.png"], None, "patient"),
        (["a/s3_jpg.rf.0a1.jpg", "a/s3_jpg.rf.1bc.jpg", "b/s4_jpg.rf.0.jpg"], {"s3_jpg", "s4_jpg"}, "picture"),
    ],
)
def test_names_that_have_a_patient(paths: list[str], groups: set[str] | None, unit: str) -> None:
    guess = guess_groups(paths)
    assert guess is not None
    found = extract_groups(paths, guess.pattern)
    assert found[0] == found[1] != found[2] or groups == {"P1", "p2"}
    assert groups is None or set(found) == groups
    assert (guess.groups, guess.unit) == (2, unit)
    assert guess.example == f"{paths[0]} is of {found[0]}"


@pytest.mark.parametrize(
    "paths",
    [
        ["a/1.png", "a/2.png", "b/3.png"],  # each image would be its own group
        ["a/P1_1.png", "a/P1_2.png", "b/P1_3.png"],  # one group only
        ["a/P1_1.png", "a/P1_2.png", "b/other.png"],  # a name without a patient
        ["a/image(1).jpg", "a/image(2).jpg", "b/image(1).jpg"],
        [],
    ],
)
def test_names_that_have_none(paths: list[str]) -> None:
    assert guess_groups(paths) is None


@pytest.mark.parametrize("name", ["{:03}", "13713{}", "C{:03}", "P{}", "{}", "case_{}", "TCGA-A{:03}-x"])
def test_folders_below_the_classes_that_are_named_as_patients(name: str) -> None:
    paths = [f"{'ab'[n % 2]}/{name.format(n)}/slice_{image}.png" for n in range(6) for image in range(3)]
    guess = guess_groups(paths)
    assert guess is not None
    assert guess.groups == 6
    assert extract_groups(paths, guess.pattern) == [name.format(n) for n in range(6) for _ in range(3)]


@pytest.mark.parametrize(
    "paths",
    [
        [f"{label}/{zoom}X/{n}.png" for label in "ab" for zoom in (40, 100, 200, 400) for n in range(3)],  # few
        [f"{label}/grade {grade}/{n}.png" for label in "ab" for grade in range(4) for n in range(3)],
        [f"a/{n:03}/1.png" for n in range(9)],  # one image each
        [f"{n:03}/{image}.png" for n in range(9) for image in range(2)],  # the classes themselves
    ],
)
def test_folders_that_are_no_patients(paths: list[str]) -> None:
    assert guess_groups(paths) is None


def test_as_few_groups_as_classes_may_be_the_classes() -> None:
    paths = [f"train/{label:03}/{image}.png" for label in range(7) for image in range(2)]
    assert guess_groups(paths, 7) is None
    assert guess_groups(paths, 6) is not None
