"""Class shares of the parts of a split, counted by hand, and their explanations."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stages.split
from tumorboard.base.files import write_table
from tumorboard.base.params import Params, Split
from tumorboard.base.tables import MANIFEST
from tumorboard.data.parts import (
    class_shares,
    count_tree,
    few_validation_warning,
    rows_by_part,
    shares_warning,
    summarize_shares,
)
from tumorboard.data.store import write_store

SPLIT = Split(test=0.25, folds=2, fold_seed=None, leave_out=None, control=None, tolerance=0.1)
ImageGroups = list[tuple[str, str, str, int | None, int]]


def manifest_of(images: ImageGroups) -> pd.DataFrame:
    """Returns a Manifest of images given as (label, group, split, fold, number)."""
    rows = [(*image[:4], n) for image in images for n in range(image[4])]
    frame = pd.DataFrame(rows, columns=["label", "group", "split", "fold", "n"], dtype=object)
    frame["id"] = [f"{row.label}/{row.group}/{row.n}/{number}" for number, row in enumerate(frame.itertuples())]
    frame["fold"] = pd.array([None if pd.isna(fold) else int(fold) for fold in frame["fold"]], dtype="Int64")
    frame = frame.assign(path=frame["id"], source_id=frame["id"], sha256=frame["id"])
    return frame[list(MANIFEST)]


def undivided(manifest: pd.DataFrame) -> pd.DataFrame:
    return manifest.assign(split="", fold=pd.array([None] * len(manifest), dtype="Int64"))


# 40 images, a half of each class; test has 3 of b in 10, fold 0 one of b in 10.
DRAWN: ImageGroups = [
    ("a", "A1", "test", None, 7),
    ("b", "B1", "test", None, 3),
    ("a", "A2", "train", 0, 9),
    ("b", "B2", "train", 0, 1),
    ("a", "A3", "train", 1, 4),
    ("b", "B3", "train", 1, 16),
]


def test_shares_are_counted_and_those_far_from_wanted_are_explained() -> None:
    manifest = manifest_of(DRAWN)
    table = class_shares(manifest, undivided(manifest), SPLIT).set_index(["part", "label"])
    expected = {
        ("train", ""): (0.75, 30 / 40),
        ("train", "a"): (20 / 40, 13 / 30),
        ("train", "b"): (20 / 40, 17 / 30),
        ("test", ""): (0.25, 10 / 40),
        ("test", "a"): (20 / 40, 7 / 10),
        ("test", "b"): (20 / 40, 3 / 10),
        ("fold_0", ""): (1 / 2, 10 / 30),
        ("fold_0", "a"): (13 / 30, 9 / 10),
        ("fold_0", "b"): (17 / 30, 1 / 10),
        ("fold_1", ""): (1 / 2, 20 / 30),
        ("fold_1", "a"): (13 / 30, 4 / 20),
        ("fold_1", "b"): (17 / 30, 16 / 20),
    }
    assert table.index.tolist() == list(expected)
    for key, (wanted, got) in expected.items():
        assert tuple(table.loc[key, ["wanted", "got"]]) == pytest.approx((wanted, got)), key
        assert bool(table.loc[key, "why"]) == (abs(got - wanted) > 0.1), key
    assert table.loc[("test", "b"), "why"] == (
        "groups stay whole, and of the 20 images of class 'b' in 3 groups, the largest, 'B3', has 16, in a part of 10"
    )
    # Of the training set's b, B3 has 16 of 17.
    assert "of the 17 images of class 'b' in 2 groups, the largest, 'B3', has 16" in table.loc[("fold_1", "b"), "why"]


@pytest.mark.parametrize(("size", "explained"), [(1, False), (2, True)])
def test_a_share_just_at_the_tolerance_is_within_it(size: int, explained: bool) -> None:
    """Of 10 test images 5 + 1 or 5 + 2 are of a, which is a half of all."""
    few: ImageGroups = [("a", "x", "test", None, 5 + size), ("b", "y", "test", None, 5 - size)]
    manifest = manifest_of([*few, ("a", "u", "train", None, 25 - size), ("b", "v", "train", None, 25 + size)])
    table = class_shares(manifest, undivided(manifest), SPLIT).set_index(["part", "label"])
    assert bool(table.loc[("test", "a"), "why"]) == explained


def test_a_class_of_small_groups_is_moved_by_a_large_group_of_another_or_by_chance() -> None:
    large: ImageGroups = [("b", "B", "test", None, 50), *(("a", f"A{n}", "train", None, 1) for n in range(50))]
    manifest = manifest_of(large)
    table = class_shares(manifest, undivided(manifest), SPLIT).set_index(["part", "label"])
    assert table.loc[("test", "a"), ["wanted", "got"]].tolist() == [0.5, 0.0]
    assert "of the 100 images of all classes in 51 groups, the largest, 'B', has 50" in table.loc[("test", "a"), "why"]
    assert "of all classes" in table.loc[("test", ""), "why"]
    single = [("a", f"A{n}", "test", None, 1) for n in range(20)] + [
        ("b", f"B{n}", "train", None, 1) for n in range(20)
    ]
    manifest = manifest_of(single)
    table = class_shares(manifest, undivided(manifest), SPLIT).set_index(["part", "label"])
    assert table.loc[("test", "a"), "why"] == "no draw that was tried came closer; another seed may"


def test_given_parts_are_named_as_the_reason_and_have_no_size_to_keep() -> None:
    manifest = manifest_of(DRAWN)
    given_test = manifest.assign(split=["test" if split == "test" else "train" for split in manifest["split"]])
    table = class_shares(manifest, given_test.assign(fold=undivided(manifest)["fold"]), SPLIT)
    table = table.set_index(["part", "label"])
    assert table.loc[("test", "b"), "why"] == "given with the data"
    assert pd.isna(table.loc[("test", ""), "wanted"])
    assert table.loc[("fold_0", ""), "wanted"] == 0.5
    assert table.loc[("fold_0", "b"), "why"].startswith("groups stay whole")
    given = class_shares(manifest, manifest, SPLIT).set_index(["part", "label"])
    assert set(given["why"]) == {"", "given with the data"}
    assert given["wanted"][given.index.get_level_values("label") == ""].isna().all()


def test_the_summary_has_every_explanation_and_the_warning_names_the_farthest_share() -> None:
    manifest = manifest_of(DRAWN)
    table = class_shares(manifest, undivided(manifest), SPLIT)
    summary = summarize_shares(table)
    assert summary["shares"]["test"] == {"a": 0.7, "b": 0.3}
    assert summary["outside_tolerance"] == len(summary["explanations"]) == 8
    assert {(entry["part"], entry["label"]) for entry in summary["explanations"]} == {
        (part, label)
        for part in ("test", "fold_0", "fold_1")
        for label in ("a", "b", "")
        if (part, label) != ("test", "")
    }
    warning = shares_warning(table, SPLIT.tolerance)
    assert warning.startswith("8 shares are more than 0.1 (split.tolerance)")
    assert "in fold_0, class 'a' has 90.0% of the images instead of 43.3%" in warning
    even = manifest_of([(name, name + part, part, None, 10) for name in "ab" for part in ("train", "test")])
    table = class_shares(even, even, SPLIT)
    summary = summarize_shares(table)
    assert (summary["outside_tolerance"], summary["explanations"]) == (0, [])
    assert shares_warning(table, SPLIT.tolerance) == ""


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 1, 400, 400), "fold 0 has 2 images, 1 of them of class 'a'"),
        ((25, 4, 400, 400), "fold 0 has 29 images, 4 of them of class 'b'"),
        ((26, 4, 400, 400), "fold 0 has 30 images, 4 of them of class 'b'"),
        ((40, 0, 400, 400), "fold 0 has 40 images, 0 of them of class 'b'"),
        ((25, 5, 400, 400), ""),
    ],
)
def test_a_validation_part_of_a_handful_is_told_with_the_cure(counts: tuple[int, ...], words: str) -> None:
    parts = [("a", 0), ("b", 0), ("a", None), ("b", None)]
    images = [(label, f"{label}{fold}", "train", fold, n) for (label, fold), n in zip(parts, counts, strict=True) if n]
    given = few_validation_warning(manifest_of([*images, ("a", "T", "test", None, 1)]), [0])
    assert words in given
    assert bool(words) == bool(given)
    if words:
        assert "write train instead of val in the table's column split" in given
    drawn = [(label, group, split, 1 if fold is None else fold, n) for label, group, split, fold, n in images]
    told = few_validation_warning(manifest_of(drawn), [0])
    assert words in told
    assert bool(words) == ("lower split.folds, or add images" in told)
    assert few_validation_warning(manifest_of(drawn), [1]) == ""


def test_of_several_small_validation_parts_the_worst_is_told_whatever_its_number() -> None:
    images = [
        ("a", "n", "train", 0, 13),
        ("b", "o", "train", 0, 14),
        ("a", "s", "train", 1, 30),
        ("b", "t", "train", 1, 3),
    ]
    assert "fold 1 has 33 images, 3 of them of class 'b'" in few_validation_warning(manifest_of(images), [0, 1])
    assert "fold 0 has 27 images, 13 of them of class 'a'" in few_validation_warning(manifest_of(images), [0])


def test_the_cure_of_a_small_left_out_value_is_not_split_folds() -> None:
    images = [(label, f"{label}{fold}", "train", fold, n) for fold, n in ((0, 40), (1, 2)) for label in "ab"]
    told = few_validation_warning(manifest_of(images), [0, 1], "site")
    assert "fold 1 has 4 images, 2 of them of class 'a'" in told
    assert "the values of the column 'site' (split.leave_out)" in told
    assert "split.folds" not in told


def test_counts_of_the_parts_by_hand() -> None:
    manifest = manifest_of(DRAWN)
    assert {part: len(rows) for part, rows in rows_by_part(manifest).items()} == {
        "train": 30,
        "test": 10,
        "fold_0": 10,
        "fold_1": 20,
    }
    assert count_tree(manifest) == {
        "images": {
            "train": {"a": 13, "b": 17},
            "test": {"a": 7, "b": 3},
            "fold_0": {"a": 9, "b": 1},
            "fold_1": {"a": 4, "b": 16},
        },
        "groups": {"train": 4, "test": 2, "fold_0": 2, "fold_1": 2},
    }


def write_crops(folder: Path, manifest: pd.DataFrame) -> None:
    """Writes what the crop stage writes: pictures of noise, all different, and facts that do not predict the class."""
    facts = {"width": 64, "height": 64, "bytes": 1, "format": "PNG", "red": 9.5, "green": 9.5, "blue": 9.5, "border": 0}
    ids = manifest["id"].tolist()
    pictures = np.random.default_rng(0).integers(0, 256, (len(ids), 16, 16, 3), dtype=np.uint8)
    write_table(manifest, folder / "manifest.csv")
    write_table(pd.DataFrame({"id": ids, "pixels": ids}).assign(**facts), folder / "images.csv")
    write_table(manifest[["id"]], folder / "attributes.csv")
    write_table(pd.DataFrame(columns=["path", "reason", "detail"]), folder / "quarantined.csv")
    write_store(folder / "store", ids, pictures, 2)


def run_split(params: Params, folder: Path) -> None:
    stages.split.main(
        params,
        crop=folder / "crop",
        out=folder / "out",
        metrics=folder / "split.json",
        audit_metrics=folder / "audit.json",
        test_metrics=folder / "test_shortcuts.json",
    )


def test_stage_writes_shares_and_explanations(tmp_path: Path, params: Params) -> None:
    """A patient has most of the images of class a, so that some part must have too many of them."""
    images: ImageGroups = [("b", f"B{n}", "", None, 5) for n in range(12)] + [
        ("a", f"A{n}", "", None, 2) for n in range(12)
    ]
    manifest = manifest_of([*images, ("a", "Alarge", "", None, 40)])
    write_crops(tmp_path / "crop", manifest)
    run_split(params, tmp_path)
    summary = json.loads((tmp_path / "split.json").read_text())
    assert summary["outside_tolerance"] == len(summary["explanations"]) > 0
    for part, counts in summary["images"].items():
        shares = {label: round(count / sum(counts.values()), 4) for label, count in counts.items()}
        assert summary["shares"][part] == pytest.approx(shares)
    assert any("'Alarge', has 40" in entry["why"] for entry in summary["explanations"])


def test_folds_alone_are_drawn_again_by_their_own_seed(params: Params, tmp_path: Path) -> None:
    manifest = manifest_of([(label, f"{label}{n}", "", None, 1) for label in "ab" for n in range(60)])
    write_crops(tmp_path / "crop", manifest)
    tables = []
    for seed in (None, params.seed, 1):
        changed = params.model_copy(update={"split": params.split.model_copy(update={"fold_seed": seed})})
        run_split(changed, tmp_path)
        tables.append(pd.read_csv(tmp_path / "out" / "manifest.csv"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert tables[0]["split"].tolist() == tables[2]["split"].tolist()
    training = tables[0]["split"] == "train"
    assert (tables[0]["fold"] != tables[2]["fold"])[training].mean() > 0.5
