"""split_manifest: whatever the table, nothing is on two sides; what is given is kept; what cannot be is refused."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from tumorboard.data.crop import crop_images
from tumorboard.data.sources import list_images
from tumorboard.data.split import check_split, count_table, draw_test, merge_groups, split_manifest
from tumorboard.errors import InputError
from tumorboard.params import Data, Params, Split
from tumorboard.tables import MANIFEST, copy_id, read_manifest, read_table, write_table

FOLDS = 3
SPLIT = Split(test=0.25, folds=FOLDS)


def tables(
    labels: list[str],
    groups: list[str] | None = None,
    splits: list[str] | None = None,
    folds: list[int | None] | None = None,
    pixels: list[str] | None = None,
    files: list[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A Manifest with the row numbers as ids, 000, 001 ..., and the table of images; pictures differ unless given."""
    ids = [f"{n:03d}" for n in range(len(labels))]
    pixels = pixels or ids
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": ids,
            "label": labels,
            "group": groups or ids,
            "split": splits or [""] * len(ids),
            "fold": None,
            "source_id": ids,
            "sha256": files or [f"{picture}/{i}" for picture, i in zip(pixels, ids, strict=True)],
        },
        dtype=object,
    )
    manifest["fold"] = pd.array(folds or [None] * len(ids), dtype="Int64")
    return manifest, pd.DataFrame({"id": ids, "pixels": pixels}, dtype=object)


def sides(manifest: pd.DataFrame, images: pd.DataFrame, column: str) -> dict[str, set[tuple[str, str]]]:
    """By value of a column, the sides on which it is; counted without the code under test."""
    pixels = dict(zip(images["id"], images["pixels"], strict=True))
    found: dict[str, set[tuple[str, str]]] = {}
    for row in manifest.to_dict("records"):
        key = pixels[row["id"]] if column == "pixels" else row[column]
        found.setdefault(key, set()).add((row["split"], str(row["fold"])))
    return found


@st.composite
def random_tables(draw: st.DrawFn, given_parts: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    classes = draw(st.integers(2, 4))
    patients = draw(st.integers(25, 40))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = seed.integers(1, 6, patients)
    groups = [f"P{p}" for p in range(patients) for _ in range(counts[p])]
    mixed = draw(st.booleans())
    # The first patients go round the classes, so that each has enough of them.
    labels = [str((p + (n % 2 if mixed else 0)) % classes) for p in range(patients) for n in range(counts[p])]
    pixels = [f"x{n}" for n in range(len(groups))]
    for _ in range(draw(st.integers(0, 5))):
        one, other = seed.integers(0, len(groups), 2)
        pixels[one] = pixels[other]
    files = [f"{picture}/{seed.integers(0, 2)}" for picture in pixels]
    splits = None
    if given_parts:
        splits = [str(name) for name in seed.choice(["train", "train", "train", "val", "test"], len(groups))]
        for n in range(len(groups)):
            # Most patients are on one side, as they ought to be.
            splits[n] = splits[groups.index(groups[n])] if seed.random() < 0.9 else splits[n]
    return tables(labels, groups, splits, None, pixels, files)


@settings(max_examples=60, deadline=None)
@given(random_tables(), st.integers(0, 2**40))
def test_nothing_is_on_two_sides_and_no_image_is_lost(made: tuple[pd.DataFrame, pd.DataFrame], seed: int) -> None:
    manifest, images = made
    result, counts = split_manifest(manifest, images, SPLIT, range(FOLDS), seed)
    for column in ("group", "source_id", "sha256", "pixels"):
        assert [key for key, found in sides(result, images, column).items() if len(found) > 1] == []
    check_split(result, images)
    untouched = [column for column in MANIFEST if column not in ("group", "split", "fold")]
    pd.testing.assert_frame_equal(result[untouched], manifest[untouched])
    # Old groups stay whole in the new ones.
    assert result.groupby(manifest["group"])["group"].nunique().max() == 1
    classes = set(manifest["label"])
    assert set(result["label"][result["split"] == "test"]) == classes
    assert set(result["split"]) == {"train", "test"}
    assert set(result["fold"][result["split"] == "train"]) == set(range(FOLDS))
    assert result["fold"][result["split"] == "test"].isna().all()
    assert sum(counts[f"dropped_{part}_{why}"] for part in ("train", "val") for why in ("twins", "patients")) == 0


@settings(max_examples=30, deadline=None)
@given(random_tables(), st.integers(0, 100), st.randoms())
def test_the_order_of_the_rows_does_not_matter(
    made: tuple[pd.DataFrame, pd.DataFrame], seed: int, random: object
) -> None:
    manifest, images = made
    result, counts = split_manifest(manifest, images, SPLIT, [0], seed)
    order = list(range(len(manifest)))
    random.shuffle(order)  # type: ignore[attr-defined]
    again, counts_again = split_manifest(manifest.iloc[order], images.iloc[order[::-1]], SPLIT, [0], seed)
    pd.testing.assert_frame_equal(result, again)
    assert counts == counts_again


@settings(max_examples=60, deadline=None)
@given(random_tables(given_parts=True))
def test_given_parts_are_kept_and_what_crosses_them_is_counted(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    manifest, images = made
    try:
        result, counts = split_manifest(manifest, images, SPLIT, [0], 0)
    except InputError as error:
        # A random table may leave a class nothing to train on, or nothing to validate on.
        assert re.search("class '.' has .* to train on|folds lists 0, but no image is left", str(error))  # noqa: PT017
        return
    for column in ("group", "source_id", "sha256", "pixels"):
        assert [key for key, found in sides(result, images, column).items() if len(found) > 1] == []
    was = manifest.set_index("id")["split"]
    assert set(manifest["id"][manifest["split"] == "test"]) == set(result["id"][result["split"] == "test"])
    assert (was.loc[result["id"][(result["fold"] == 0).fillna(False)]] == "val").all()
    assert (was.loc[result["id"][(result["split"] == "train").to_numpy() & result["fold"].isna()]] == "train").all()
    lost = Counter(was.loc[sorted(set(manifest["id"]) - set(result["id"]))])
    for part in ("train", "val"):
        assert lost[part] == counts[f"dropped_{part}_twins"] + counts[f"dropped_{part}_patients"]


def test_the_drawn_test_part_has_its_share_of_every_class() -> None:
    labels = ["a"] * 400 + ["b"] * 100 + ["c"] * 12
    result, counts = split_manifest(*tables(labels), SPLIT, [0], 7)
    assert counts["images"]["test"] == {"a": 100, "b": 25, "c": 3}
    assert counts["images"]["train"] == {"a": 300, "b": 75, "c": 9}
    assert counts["images"]["fold_1"] == {"a": 100, "b": 25, "c": 3}
    assert counts["groups"] == {"train": 384, "test": 128, "fold_0": 128, "fold_1": 128, "fold_2": 128}
    other, _ = split_manifest(*tables(labels), SPLIT, [0], 8)
    assert (result["split"] != other["split"]).sum() > 50


def test_large_groups_bring_the_test_part_as_close_as_they_can() -> None:
    labels = ["a"] * 200 + ["b"] * 100
    groups = [f"{n // 10}" for n in range(300)]
    manifest, _ = tables(labels, groups)
    for seed in range(5):
        drawn = draw_test(manifest, 0.25, FOLDS, seed)
        # 5 of 20 groups are the aim itself; 2 or 3 of 10 are equally near, and a step there is no gain.
        assert Counter(manifest["label"][manifest["group"].isin(drawn)]) == {"a": 50, "b": 20}


def test_the_test_part_leaves_a_group_for_each_fold() -> None:
    manifest, _ = tables(["a"] * 4 + ["b"] * 40)
    for seed in range(20):
        drawn = draw_test(manifest, 0.5, FOLDS, seed)
        # Half would be two of the four groups of a, but three folds are still to come.
        assert Counter(manifest["label"][manifest["group"].isin(drawn)]) == {"a": 1, "b": 20}


def test_folds_are_those_of_scikit_learn() -> None:
    labels = list("aabbabbbaabbabab" * 4)
    groups = [f"g{n // 3:02d}" for n in range(64)]
    manifest, images = tables(labels, groups, ["train"] * 50 + ["test"] * 14)
    result, _ = split_manifest(manifest, images, SPLIT, [0], 5)
    training = manifest[(manifest["split"] == "train") & (manifest["group"] != "g16")]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=5)
    got = result[result["split"] == "train"].reset_index(drop=True)
    assert got["id"].tolist() == training["id"].tolist()
    for fold, (_, rows) in enumerate(splitter.split(training, training["label"], training["group"])):
        assert np.flatnonzero(got["fold"] == fold).tolist() == rows.tolist()


def test_groups_with_a_common_file_or_picture_become_one() -> None:
    rows = pd.DataFrame(
        {
            "group": ["p9", "p1", "p1", "p5", "p7", "p8", "p0"],
            "sha256": ["s1", "s1", "s2", "s3", "s4", "s5", "p1"],
            "pixels": ["x1", "x1", "x2", "x2", "x3", "x4", "x5"],
        },
        dtype=object,
    )
    # p9 and p1 share a file, p1 and p5 a picture; that p0's file is called like a group joins nothing.
    assert merge_groups(rows).tolist() == ["p1", "p1", "p1", "p1", "p7", "p8", "p0"]


GIVEN = ["a", "b"] * 12
TRAIN = ["train"] * 22 + ["test"] * 2
HALVES = [n // 2 % 2 for n in range(22)] + [None] * 2


def test_twins_and_patients_across_given_parts_leave_the_training_side(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = [f"x{n}" for n in range(24)]
    groups = [f"P{n}" for n in range(24)]
    splits = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    pixels[0] = pixels[20]  # training picture in the test part
    groups[1] = groups[21]  # training patient in the test part
    groups[2] = groups[0]  # patient of a training picture that is in the test part
    pixels[3] = pixels[17]  # training picture in the validation part
    pixels[16] = pixels[22]  # validation picture in the test part
    groups[18] = groups[23]  # validation patient in the test part
    manifest, images = tables(GIVEN, groups, splits, None, pixels)
    result, counts = split_manifest(manifest, images, SPLIT, [0], 0)
    assert sorted(set(manifest["id"]) - set(result["id"])) == ["000", "001", "002", "003", "016", "018"]
    assert {key: value for key, value in counts.items() if key.startswith("dropped")} == {
        "dropped_train_twins": 2,
        "dropped_train_patients": 2,
        "dropped_val_twins": 1,
        "dropped_val_patients": 1,
    }
    assert result["id"][(result["fold"] == 0).fillna(False)].tolist() == ["017", "019"]
    said = capsys.readouterr().err
    assert "6 images are left out" in said
    assert "'000'" in said


def test_a_given_validation_part_is_fold_0_and_a_test_part_is_drawn_beside_it() -> None:
    manifest, images = tables(GIVEN, None, ["train"] * 20 + ["val"] * 4)
    result, counts = split_manifest(manifest, images, SPLIT, [0], 0)
    assert result["id"][(result["fold"] == 0).fillna(False)].tolist() == ["020", "021", "022", "023"]
    # A quarter of 10 a class: 2 and 3 are equally near.
    assert counts["images"]["test"] == {"a": 2, "b": 2}
    assert counts["images"]["train"] == {"a": 10, "b": 10}
    with pytest.raises(InputError, match=r"set folds to \[0\], not \[0, 1\]"):
        split_manifest(manifest, images, SPLIT, [0, 1], 0)


def test_given_folds_are_kept() -> None:
    folds = [n // 2 % 3 if n < 18 else None for n in range(24)]
    manifest, images = tables(GIVEN, None, ["train"] * 20 + ["test"] * 4, folds)
    result, _ = split_manifest(manifest, images, SPLIT, [0, 1, 2], 0)
    assert result["fold"].tolist() == [n if n is not None else pd.NA for n in folds]
    manifest["split"] = ""
    drawn, counts = split_manifest(manifest, images, SPLIT, [0], 0)
    kept = [pd.NA if split == "test" else fold for split, fold in zip(drawn["split"], result["fold"], strict=True)]
    assert drawn["fold"].tolist() == kept
    assert counts["images"]["test"] == {"a": 3, "b": 3}


def test_one_picture_under_two_labels_is_counted_named_and_kept_together(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = [f"x{n}" for n in range(24)]
    pixels[3] = pixels[5] = pixels[8] = "twice"
    manifest, images = tables(GIVEN, None, None, None, pixels)
    result, counts = split_manifest(manifest, images, SPLIT, [0], 0)
    assert counts["label_conflicts"] == 1
    assert result["group"][[3, 5, 8]].tolist() == ["003"] * 3
    said = capsys.readouterr().err
    assert "'003' is 'b', '008' is 'a'" in said
    check_split(result, images)


def test_counts_by_class_and_part() -> None:
    manifest, _ = tables(
        list("aabbab"), ["P", "P", "P", "Q", "R", "S"], ["train"] * 4 + ["test"] * 2, [0, 0, 0, None, None, None]
    )
    assert count_table(manifest).to_numpy().tolist() == [
        ["train", "a", 2, 1],
        ["train", "b", 2, 2],
        ["test", "a", 1, 1],
        ["test", "b", 1, 1],
        ["fold_0", "a", 2, 1],
        ["fold_0", "b", 1, 1],
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["a"] * 21 + ["b"] * 3}, ["class 'b'", "3 groups", "the 4 ", "split.folds", "split.test"]),
        (
            {"groups": [f"{n % 2}{n // 2 % 3}" for n in range(24)]},
            ["class 'a'", "3 groups", "split.folds", "split.test"],
        ),
        ({"splits": ["train"] * 4 + ["test"] * 20}, ["class 'a'", "2 groups", "the 3 ", "split.folds"]),
        ({"splits": ["test"] * 24}, ["class 'a'", "0 groups"]),
        ({"splits": ["train"] * 20 + [""] * 4}, ["for all or for none"]),
        ({"splits": TRAIN, "folds": [3] * 22 + [None] * 2}, ["fold 3", "0 to 2", "split.folds"]),
        ({"splits": TRAIN, "folds": [1] * 22 + [None] * 2}, ["folds lists 0", "[1]"]),
        ({"folds": [0] * 20 + [None] * 4, "splits": ["train"] * 20 + ["val"] * 4}, ["both"]),
        ({"splits": TRAIN, "folds": [n % 2 for n in range(22)] + [None] * 2}, ["fold 0", "class 'a'"]),
        (
            {"splits": TRAIN, "folds": HALVES, "groups": ["P"] * 4 + [f"Q{n}" for n in range(20)]},
            ["'P'", "'000'", "'003'"],
        ),
        (
            {"splits": TRAIN, "folds": HALVES, "pixels": ["x"] * 4 + [f"y{n}" for n in range(20)]},
            ["'000'", "same picture"],
        ),
    ],
)
def test_what_cannot_be_split_is_refused(changes: dict[str, list[str]], words: list[str]) -> None:
    manifest, images = tables(**({"labels": GIVEN} | changes))  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        split_manifest(manifest, images, SPLIT, [0], 0)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_class_that_no_small_enough_group_holds_is_refused() -> None:
    # Each image of b comes with a quarter of a and of c, far more than the test part is to have.
    labels = [*"acacacac", *("b" + "a" * 9 + "c" * 9) * 4]
    groups = [f"s{n}" for n in range(8)] + [f"large{n // 19}" for n in range(76)]
    with pytest.raises(InputError, match="class 'b'"):
        split_manifest(*tables(labels, groups), Split(test=0.01, folds=FOLDS), [0], 0)


def test_an_image_without_facts_is_refused() -> None:
    manifest, images = tables(GIVEN)
    with pytest.raises(InputError, match="'023'"):
        split_manifest(manifest, images.head(23), SPLIT, [0], 0)


@pytest.mark.parametrize("column", ["group", "source_id", "sha256", "pixels"])
@pytest.mark.parametrize("other", [("test", None), ("train", 1), ("train", None)])
def test_check_split_finds_what_is_on_two_sides(column: str, other: tuple[str, int | None]) -> None:
    manifest, images = tables(list("aabb"), None, ["train", "train", "train", other[0]], [0, 0, 1, other[1]])
    check_split(manifest, images)
    table = images if column == "pixels" else manifest
    table.loc[3, column] = table.loc[0, column]
    with pytest.raises(InputError, match=rf"the {column} .* two sides: train, fold 0 and .*'003'"):
        check_split(manifest, images)


def test_check_split_knows_the_pictures_of_copies() -> None:
    manifest, images = tables(list("aabb"), None, ["train", "train", "train", "test"], [0, 0, 1, None])
    copy = manifest.head(1).assign(id=copy_id("000", 1))
    check_split(pd.concat([manifest, copy]), images)
    with pytest.raises(InputError, match="000"):
        check_split(pd.concat([manifest, copy.assign(fold=pd.array([1], dtype="Int64"))]), images)


def test_ugly_groups_survive() -> None:
    groups = [f"\udcff,é\n{n}" for n in range(24)]
    result, _ = split_manifest(*tables(GIVEN, groups), SPLIT, [0], 0)
    assert result["group"].tolist() == groups


def test_real_images_with_their_given_parts(shared: Path, params: Params, tmp_path: Path) -> None:
    raw = shared / "brain_mri_small"
    rows, ignored = list_images(raw, Data(raw="", table=None, group_pattern=None, max_rejected=0))
    assert ignored.empty
    counts = crop_images(rows, ignored, raw, params.crop, tmp_path / "crop", tmp_path / "cache", 1, 0)
    assert (counts["images"], set(counts["classes"].values())) == (320, {80})
    images = read_table(tmp_path / "crop/images.csv")
    result, counts = split_manifest(read_manifest(tmp_path / "crop/manifest.csv"), images, params.split, [0], 0)
    check_split(result, images)
    assert set(counts["images"]["test"].values()) == {20}

    def picture(path: str) -> str:
        pixels = np.asarray(Image.open(raw / path).convert("RGB"))
        return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    pictures = {path: picture(path) for path in rows["path"]}
    tested = {pictures[path] for path in pictures if path.startswith("Testing/")}
    twins = {path for path in pictures if path.startswith("Training/") and pictures[path] in tested}
    assert twins
    assert counts["dropped_train_twins"] == len(twins)
    assert set(result["id"]) == set(rows["path"]) - twins
    assert {path.split("/")[0] for path in result["id"][result["split"] == "test"]} == {"Testing"}
    write_table(result, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.csv"), result)
