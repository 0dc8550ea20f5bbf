"""The split: for any table nothing is on two sides, given parts are kept, and impossible splits are refused."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from tests.data.cropping import data_section
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table, write_table
from tumorboard.base.params import Params, Split
from tumorboard.base.tables import MANIFEST, copy_id, read_manifest
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.parts import class_shares, count_table
from tumorboard.data.sources import list_images
from tumorboard.data.split import (
    check_split,
    draw_test,
    left_out,
    left_out_warning,
    merge_groups,
    missing_class_warning,
    split_manifest,
)

FOLDS = 3
SPLIT = Split(test=0.25, folds=FOLDS, fold_seed=None, leave_out=None, control=None, tolerance=0.05)


def tables(
    labels: list[str],
    groups: list[str] | None = None,
    splits: list[str] | None = None,
    folds: list[int | None] | None = None,
    pixels: list[str] | None = None,
    files: list[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns a Manifest with ids 000, 001, ... and the table of images; pictures differ unless `pixels` is given."""
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


def pictures_of(images: pd.DataFrame) -> pd.Series:
    """Returns the name of each image's picture, where only equal pixels make a copy."""
    return images.set_index("id")["pixels"]


NO_PAIRS = pd.DataFrame({"first": [], "second": []}, dtype=object)


def sides(manifest: pd.DataFrame, images: pd.DataFrame, column: str) -> dict[str, set[tuple[str, str]]]:
    """Returns the sides of each value of a column, counted without the code under test."""
    pixels = dict(zip(images["id"], images["pixels"], strict=True))
    by_value: dict[str, set[tuple[str, str]]] = {}
    for row in manifest.to_dict("records"):
        key = pixels[row["id"]] if column == "pixels" else row[column]
        by_value.setdefault(key, set()).add((row["split"], str(row["fold"])))
    return by_value


@st.composite
def random_tables(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Up to 60 images of 2 to 4 classes: patients of 1 to 5 images, twins, equal files, and what a user may give."""
    classes, patients = draw(st.integers(2, 4)), draw(st.integers(12, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = random.integers(1, 6, patients)
    owner = np.repeat(np.arange(patients), counts)[:60]
    mixed = draw(st.booleans())
    # Each class has patients; where they are mixed, a patient has images of two classes.
    labels = [str((p + (n % 2 if mixed else 0)) % classes) for n, p in enumerate(owner)]
    pixels = [f"x{n}" for n in range(len(owner))]
    for _ in range(draw(st.integers(0, 5))):
        one, other = random.integers(0, len(owner), 2)
        pixels[one] = pixels[other]
    files = [f"{picture}/{random.integers(0, 2)}" for picture in pixels]
    gives = draw(st.sampled_from(["nothing", "test", "val", "test and val", "folds", "test and folds"]))
    names = ["train"] * 4 + [part for part in ("test", "val") if part in gives]
    # Most patients are on one side and in one fold, as they should be.
    part, fold = random.choice(names, patients)[owner], random.integers(0, FOLDS, patients)[owner]
    stray = np.flatnonzero(random.random(len(owner)) < draw(st.sampled_from([0.0, 0.1])))
    part[stray], fold[stray] = random.choice(names, len(stray)), random.integers(0, FOLDS, len(stray))
    splits = part.tolist() if len(names) > 4 else None
    folds = [int(f) if p == "train" else None for p, f in zip(part, fold, strict=True)] if "folds" in gives else None
    return tables(labels, [f"P{p}" for p in owner], splits, folds, pixels, files)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_random_tables_are_split_as_promised_or_refused(examples: int) -> None:
    """Refused are tables that leave a class too few groups, or whose given folds part a group: at most two in three."""
    accepted = []

    @settings(max_examples=examples)
    @given(random_tables(), st.integers(0, 2**40), st.randoms(use_true_random=False))
    def holds(made: tuple[pd.DataFrame, pd.DataFrame], seed: int, random: Random) -> None:
        manifest, images = made
        order = list(range(len(manifest)))
        random.shuffle(order)
        shuffled = manifest.iloc[order], pictures_of(images.iloc[order[::-1]])
        try:
            result, counts = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=seed)
        except InputError as error:
            with pytest.raises(InputError, match=re.escape(str(error))):
                split_manifest(*shuffled, split=SPLIT, folds=[0], seed=seed)
            return
        accepted.append(1)
        again, counts_again = split_manifest(*shuffled, split=SPLIT, folds=[0], seed=seed)
        pd.testing.assert_frame_equal(result, again)
        assert counts == counts_again
        _check_sides(result, images)
        _check_kept(result, manifest, counts)
        _check_given(result, manifest)
        shares = class_shares(result, manifest, SPLIT)
        assert ((shares["got"] - shares["wanted"]).abs() > SPLIT.tolerance + 1e-9).equals(shares["why"] != "")

    holds()
    assert len(accepted) >= examples / 3


def _check_sides(result: pd.DataFrame, images: pd.DataFrame) -> None:
    for column in ("group", "source_id", "sha256", "pixels"):
        assert [value for value, places in sides(result, images, column).items() if len(places) > 1] == []
    check_split(result, images, NO_PAIRS, copies=True)
    assert set(result["split"]) <= {"train", "test"}
    assert result["fold"][result["split"] == "test"].isna().all()


def _check_kept(result: pd.DataFrame, manifest: pd.DataFrame, counts: dict[str, int]) -> None:
    """Every row is there, changed in group, split and fold alone, or counted as dropped from its given part."""
    was = manifest.set_index("id")
    lost = Counter(was["split"].loc[sorted(set(manifest["id"]) - set(result["id"]))])
    for part in ("train", "val"):
        assert lost.pop(part, 0) == counts[f"dropped_{part}_twins"] + counts[f"dropped_{part}_patients"]
    assert not lost
    untouched = [column for column in MANIFEST if column not in ("id", "group", "split", "fold")]
    pd.testing.assert_frame_equal(result.set_index("id")[untouched], was.loc[result["id"], untouched])
    # Old groups stay whole in the new ones.
    assert result.groupby(was.loc[result["id"], "group"].to_numpy())["group"].nunique().max() == 1


def _check_given(result: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Given parts and folds are kept; a test set that is drawn has every class, and each drawn fold has images."""
    was = manifest.set_index("id").loc[result["id"]]
    training = (result["split"] == "train").to_numpy()
    if "test" in set(manifest["split"]):
        assert ((was["split"] == "test").to_numpy() == ~training).all()
    else:
        assert set(result["label"][~training]) == set(manifest["label"])
        assert not (was["split"] == "val").to_numpy()[~training].any()
    fold, given = (table["fold"].fillna(-1).to_numpy(int)[training] for table in (result, was))
    if "val" in set(manifest["split"]):
        assert (fold == np.where((was["split"] == "val").to_numpy()[training], 0, -1)).all()
    elif manifest["fold"].notna().any():
        assert (fold == given).all()
    else:
        assert set(fold) == set(range(FOLDS))


def test_the_drawn_test_set_has_its_share_of_every_class() -> None:
    labels = ["a"] * 400 + ["b"] * 100 + ["c"] * 12
    manifest, images = tables(labels)
    result, counts = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=7)
    assert counts["images"]["test"] == {"a": 100, "b": 25, "c": 3}
    assert counts["images"]["train"] == {"a": 300, "b": 75, "c": 9}
    assert counts["images"]["fold_1"] == {"a": 100, "b": 25, "c": 3}
    assert counts["groups"] == {"train": 384, "test": 128, "fold_0": 128, "fold_1": 128, "fold_2": 128}
    manifest, images = tables(labels)
    other, _ = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=8)
    assert (result["split"] != other["split"]).sum() > 50


def test_large_groups_bring_the_test_set_as_close_as_they_can() -> None:
    labels = ["a"] * 200 + ["b"] * 100
    groups = [f"{n // 10}" for n in range(300)]
    manifest, _ = tables(labels, groups)
    for seed in range(5):
        drawn = draw_test(manifest, 0.25, FOLDS, seed)
        # 5 of 20 groups are the aim itself; 2 or 3 of 10 are equally near, and a step there is no gain.
        assert Counter(manifest["label"][manifest["group"].isin(drawn)]) == {"a": 50, "b": 20}


def test_of_few_groups_the_closest_of_many_draws_is_taken() -> None:
    """A quarter of 20 images is 5: the group of 5, or those of 3 and 2. A draw that starts with P6 misses it."""
    groups = [f"P{size}" for size in (6, 5, 4, 3, 2) for _ in range(size)]
    manifest, _ = tables(["a"] * 20, groups)
    for seed in range(10):
        assert draw_test(manifest, 0.25, 1, seed) in ({"P5"}, {"P3", "P2"})


def test_the_test_set_leaves_a_group_for_each_fold() -> None:
    manifest, _ = tables(["a"] * 4 + ["b"] * 40)
    for seed in range(20):
        drawn = draw_test(manifest, 0.5, FOLDS, seed)
        # Half would be two of the four groups of a, but three folds are still to come.
        assert Counter(manifest["label"][manifest["group"].isin(drawn)]) == {"a": 1, "b": 20}


def test_folds_are_those_of_scikit_learn() -> None:
    labels = list("aabbabbbaabbabab" * 4)
    groups = [f"g{n // 3:02d}" for n in range(64)]
    manifest, images = tables(labels, groups, ["train"] * 50 + ["test"] * 14)
    result, _ = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=5)
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
    assert merge_groups(rows, ["sha256", "pixels"]).tolist() == ["p1", "p1", "p1", "p1", "p7", "p8", "p0"]


GIVEN = ["a", "b"] * 12
TRAIN = ["train"] * 22 + ["test"] * 2
HALVES = [n // 2 % 2 for n in range(22)] + [None] * 2


def test_a_given_column_with_one_fold_is_named_as_the_cause() -> None:
    manifest, images = tables(["a", "b"] * 8, None, ["train"] * 12 + ["test"] * 4, [0] * 12 + [None] * 4)
    with pytest.raises(InputError, match="the data gives all images fold 0: give some another, or none"):
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)


def test_twins_and_patients_across_given_parts_leave_the_training_side() -> None:
    pixels = [f"x{n}" for n in range(24)]
    groups = [f"P{n}" for n in range(24)]
    splits = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    pixels[0] = pixels[20]  # training picture in the test set
    groups[1] = groups[21]  # training patient in the test set
    groups[2] = groups[0]  # patient of a training picture that is in the test set
    pixels[3] = pixels[17]  # training picture in the validation set
    pixels[16] = pixels[22]  # validation picture in the test set
    groups[18] = groups[23]  # validation patient in the test set
    manifest, images = tables(GIVEN, groups, splits, None, pixels)
    result, counts = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    assert sorted(set(manifest["id"]) - set(result["id"])) == ["000", "001", "002", "003", "016", "018"]
    assert left_out(manifest, pictures_of(images)).to_numpy().tolist() == [
        ["000", "picture in the given test set"],
        ["001", "patient in the given test set"],
        ["002", "patient in the given test set"],
        ["003", "picture in the given validation set"],
        ["016", "picture in the given test set"],
        ["018", "patient in the given test set"],
    ]
    assert {key: value for key, value in counts.items() if key.startswith("dropped")} == {
        "dropped_train_twins": 2,
        "dropped_train_patients": 2,
        "dropped_val_twins": 1,
        "dropped_val_patients": 1,
    }
    assert result["id"][(result["fold"] == 0).fillna(False)].tolist() == ["017", "019"]
    assert left_out_warning(left_out(manifest, pictures_of(images))) == (
        "6 images are left out of the given training and validation sets: 3 with the same picture, 3 with the same "
        "group (patient) as an image on the other side; the first: '000'"
    )


def test_a_given_validation_set_is_fold_0_and_a_test_set_is_drawn_beside_it() -> None:
    manifest, images = tables(GIVEN, None, ["train"] * 20 + ["val"] * 4)
    result, counts = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    assert result["id"][(result["fold"] == 0).fillna(False)].tolist() == ["020", "021", "022", "023"]
    # A quarter of 10 a class: 2 and 3 are equally near.
    assert counts["images"]["test"] == {"a": 2, "b": 2}
    assert counts["images"]["train"] == {"a": 10, "b": 10}
    with pytest.raises(InputError, match=r"set folds to \[0\], not \[0, 1\]"):
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0, 1], seed=0)


def test_a_given_validation_set_of_which_nothing_is_left_is_refused() -> None:
    pixels = [f"x{n}" for n in range(24)]
    pixels[18:21] = pixels[21:]
    manifest, images = tables(GIVEN, None, ["train"] * 18 + ["val"] * 3 + ["test"] * 3, None, pixels)
    with pytest.raises(InputError, match="no image of the given validation set is left"):
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)


def test_given_folds_are_kept() -> None:
    folds = [n // 2 % 3 if n < 18 else None for n in range(24)]
    manifest, images = tables(GIVEN, None, ["train"] * 20 + ["test"] * 4, folds)
    result, _ = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0, 1, 2], seed=0)
    assert result["fold"].tolist() == [n if n is not None else pd.NA for n in folds]
    manifest["split"] = ""
    drawn, counts = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    kept = [pd.NA if split == "test" else fold for split, fold in zip(drawn["split"], result["fold"], strict=True)]
    assert drawn["fold"].tolist() == kept
    assert counts["images"]["test"] == {"a": 3, "b": 3}


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
        ({"splits": ["test"] * 24}, ["class 'a'", "no images to train on: all are in another given part"]),
        (
            {"splits": ["train"] * 12 + ["test"] * 12, "pixels": [f"{n % 12}" for n in range(24)]},
            ["class 'a'", "no images to train on: all 6 are left out"],
        ),
        (
            {"groups": ["P", "Q"] * 12},
            ["class 'a' has 1 group of", "12 images", "PatientID", "'(?s)(.*)'", "data.columns: {group: null}"],
        ),
        (
            {"pixels": ["x", "y"] * 12},
            ["class 'a' has 1 group of", "Its 12 images are copies of 1 picture, and copies"],
        ),
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
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_way_out_is_named_only_where_it_is_one() -> None:
    manifest, images = tables(GIVEN, splits=["train"] * 4 + ["test"] * 20)
    with pytest.raises(InputError, match=r"need: lower split\.folds, or add images$"):
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)


@pytest.mark.parametrize(
    ("groups", "cure"), [(1, "add images of more groups"), (2, "lower split.folds, give the test")]
)
def test_a_class_of_one_group_is_not_told_to_lower_the_folds(groups: int, cure: str) -> None:
    """Two folds are the least, and each needs a group."""
    names = [*(f"b{n % groups}" for n in range(4)), *(f"a{n}" for n in range(20))]
    manifest, images = tables(["b"] * 4 + ["a"] * 20, names)
    with pytest.raises(InputError, match=rf"class 'b' has {groups} groups? .* need: {cure}"):
        split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)


def test_a_class_that_a_given_test_set_lacks_is_warned_of() -> None:
    manifest, images = tables([*"ab" * 10, *"aaaa"], splits=["train"] * 20 + ["test"] * 4)
    result, _ = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    assert missing_class_warning(result).startswith("the given test set has no image of 'b': ")
    assert missing_class_warning(result[result["label"] == "a"]) == ""


def test_nothing_left_out_is_not_warned_of() -> None:
    manifest, images = tables(GIVEN, splits=TRAIN)
    assert left_out_warning(left_out(manifest, pictures_of(images))) == ""


def test_a_class_that_no_small_enough_group_holds_is_refused() -> None:
    # Each image of b comes with a quarter of a and of c, far more than the test set is to have.
    labels = [*"acacacac", *("b" + "a" * 9 + "c" * 9) * 4]
    groups = [f"s{n}" for n in range(8)] + [f"large{n // 19}" for n in range(76)]
    manifest, images = tables(labels, groups)
    with pytest.raises(InputError, match="class 'b'"):
        split_manifest(manifest, pictures_of(images), split=SPLIT.model_copy(update={"test": 0.01}), folds=[0], seed=0)


def test_an_image_without_facts_is_refused() -> None:
    manifest, images = tables(GIVEN)
    with pytest.raises(InputError, match="'023'"):
        split_manifest(manifest, pictures_of(images.head(23)), split=SPLIT, folds=[0], seed=0)


@pytest.mark.parametrize("column", ["group", "source_id", "sha256", "pixels"])
@pytest.mark.parametrize("other", [("test", None), ("train", 1), ("train", None)])
def test_check_split_finds_what_is_on_two_sides(column: str, other: tuple[str, int | None]) -> None:
    manifest, images = tables(list("aabb"), None, ["train", "train", "train", other[0]], [0, 0, 1, other[1]])
    check_split(manifest, images, NO_PAIRS, copies=True)
    table = images if column == "pixels" else manifest
    table.loc[3, column] = table.loc[0, column]
    with pytest.raises(InputError, match=rf"the {column} .* two sides: train, fold 0 and .*'003'"):
        check_split(manifest, images, NO_PAIRS, copies=True)


def test_check_split_knows_the_pictures_of_copies() -> None:
    manifest, images = tables(list("aabb"), None, ["train", "train", "train", "test"], [0, 0, 1, None])
    copy = manifest.head(1).assign(id=copy_id("000", 1))
    check_split(pd.concat([manifest, copy]), images, NO_PAIRS, copies=True)
    elsewhere = copy.assign(fold=pd.array([1], dtype="Int64"))
    with pytest.raises(InputError, match="000"):
        check_split(pd.concat([manifest, elsewhere]), images, NO_PAIRS, copies=True)


def test_check_split_knows_near_duplicates_and_may_let_them_be() -> None:
    manifest, images = tables(list("aabb"), None, ["train", "train", "train", "test"], [0, 0, 1, None])
    pairs = pd.DataFrame({"first": ["000", "000", "002"], "second": ["001", "gone", "003"]}, dtype=object)
    check_split(manifest, images, pairs.head(2), copies=True)
    check_split(manifest, images, pairs, copies=False)
    with pytest.raises(InputError, match=r"near duplicates '002' and '003' .* train, fold 1 and test"):
        check_split(manifest, images, pairs, copies=True)


def test_ugly_groups_survive() -> None:
    groups = [f"\udcff,é\n{n}" for n in range(24)]
    manifest, images = tables(GIVEN, groups)
    result, _ = split_manifest(manifest, pictures_of(images), split=SPLIT, folds=[0], seed=0)
    assert result["group"].tolist() == groups


def test_real_images_with_their_given_parts(shared: Path, params: Params, tmp_path: Path) -> None:
    raw = shared / "brain_mri_small"
    rows, ignored = list_images(raw, data_section())
    assert ignored.empty
    job = CropJob(
        raw=raw, out=tmp_path / "crop", cache=tmp_path / "cache", crop=params.crop, frames=None, max_quarantined=0
    )
    counts = crop_images(rows, ignored, job).counts
    assert (counts["images"], set(counts["classes"].values())) == (320, {80})
    images = read_table(tmp_path / "crop/images.csv")
    manifest = read_manifest(tmp_path / "crop/manifest.csv")
    result, counts = split_manifest(manifest, pictures_of(images), split=params.split, folds=[0], seed=0)
    check_split(result, images, NO_PAIRS, copies=True)
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
