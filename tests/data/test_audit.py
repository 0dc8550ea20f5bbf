"""The audit: which kinds of copies it joins, and how copies change labels, groups and given parts."""

from collections.abc import Sequence

import pytest

from tests.data.scenes import Pixels, images_of_scenes, reader_of, resized, scene
from tumorboard.base.errors import InputError
from tumorboard.base.params import Audit, Params, Split
from tumorboard.base.tables import Images, Manifest
from tumorboard.data.audit import AuditResult, audit_manifest, find_copies, picture_names
from tumorboard.data.near_duplicates import ReadCrops
from tumorboard.data.split import check_split, split_manifest


@pytest.fixture
def audit(params: Params) -> Audit:
    return params.audit.model_copy(update={"policy": "regroup", "label_conflicts": "quarantine", "mirror": True})


def audited(manifest: Manifest, images: Images, read_crops: ReadCrops, audit: Audit) -> AuditResult:
    return audit_manifest(manifest, find_copies(manifest, images, read_crops, audit), audit)


def test_without_near_only_equal_pixels_are_copies(audit: Audit) -> None:
    def unused(ids: Sequence[str]) -> Pixels:
        raise AssertionError(ids)

    manifest, images, _ = images_of_scenes(["a", "b"], pictures=[0, 0])
    pairs, faint = find_copies(manifest, images, unused, audit.model_copy(update={"near": None}))
    assert pairs["kind"].tolist() == ["pixels"]
    assert faint == []


def test_kinds_of_copies_join_through_one_another(audit: Audit) -> None:
    # 0 and 1 are one file, 2 has their pixels, 3 is re-saved from 2, 4 is another picture.
    made = images_of_scenes(["a"] * 5, [0, 0, 0, 9, 4], {3: 2}, ["s", "s", "t", "u", "v"])
    pairs, _ = find_copies(*made, audit)
    assert pairs.sort_values("second")[["first", "second", "kind"]].to_numpy().tolist() == [
        ["000", "001", "bytes"],
        ["000", "002", "pixels"],
        ["000", "003", "near"],
    ]
    assert picture_names(made[0]["id"], pairs).to_dict() == dict.fromkeys(["000", "001", "002", "003"], "000") | {
        "004": "004"
    }


def test_a_picture_under_two_labels_is_quarantined_with_all_its_copies(audit: Audit) -> None:
    made = images_of_scenes(["a", "b", "a", "b", "a"], [0, 1, 0, 0, 2], {3: 0})
    result = audited(*made, audit)
    assert result.manifest["id"].tolist() == ["001", "004"]
    assert result.quarantined[["path", "reason"]].to_numpy().tolist() == [
        [name, "label conflict"] for name in ("000", "002", "003")
    ]
    assert "'000' is 'a'" in result.quarantined["detail"][2]
    assert "'003' is 'b'" in result.quarantined["detail"][2]
    assert (result.counts["label_conflicts"], result.counts["quarantined"]) == (1, 3)
    (warning,) = result.warnings
    assert warning.startswith("1 pictures have two labels; all their copies are quarantined; the first: ")
    assert "'003' is 'b'" in warning
    kept = audited(*made, audit.model_copy(update={"label_conflicts": "keep"}))
    assert kept.manifest["id"].tolist() == made[0]["id"].tolist()
    assert (kept.counts["label_conflicts"], kept.counts["quarantined"]) == (1, 0)
    (warning,) = kept.warnings
    assert "they stay in the data (audit.label_conflicts)" in warning
    with pytest.raises(InputError, match=r"1 pictures .* two labels(.|\n)*'003' is 'b'"):
        audited(*made, audit.model_copy(update={"label_conflicts": "refuse"}))
    with pytest.raises(InputError, match="every picture of class 'b'"):
        audited(*images_of_scenes(["a", "b", "a"], [0, 0, 1]), audit)


def test_a_large_set_is_described_by_the_first_images_of_each_label(audit: Audit) -> None:
    made = images_of_scenes(["a"] * 300 + ["b", "a", "b"], [0] * 301 + [1, 2])
    result = audited(*made, audit)
    detail = "'000' is 'a', '001' is 'a', '002' is 'a', '003' is 'a', '300' is 'b' … and 296 more"
    assert set(result.quarantined["detail"]) == {detail}
    assert detail in result.warnings[0]
    with pytest.raises(InputError, match=r"… and 296 more$"):
        audited(*made, audit.model_copy(update={"label_conflicts": "refuse"}))


def test_a_refusal_lists_the_first_sets(audit: Audit) -> None:
    made = images_of_scenes(["a"] * 24, [n // 2 for n in range(24)])
    with pytest.raises(InputError, match=r"12 pictures (.|\n)*'019' is 'a'\n  … and 2 more$"):
        audited(*made, audit.model_copy(update={"policy": "refuse"}))


def test_a_class_lost_to_near_duplicates_names_the_threshold(audit: Audit) -> None:
    with pytest.raises(InputError, match=r"class 'b' .*as near duplicates, in a set of 3 images.*raise audit\.near"):
        audited(*images_of_scenes(["a", "b", "a", "a"], [0, 9, 0, 1], {1: 0}), audit)
    with pytest.raises(InputError, match=r"all were quarantined: correct"):
        audited(*images_of_scenes(["a", "b", "a"], [0, 0, 1]), audit)


def test_refuse_lists_the_copies_and_report_only_counts_them(audit: Audit) -> None:
    made = images_of_scenes(["a", "a", "b", "b"], [0, 0, 1, 2], {3: 2}, splits=["train", "test", "train", "train"])
    with pytest.raises(
        InputError, match=r"2 pictures .*more than once(.|\n)*'000' is 'a', '001'(.|\n)*'002' is 'b', '003'"
    ):
        audited(*made, audit.model_copy(update={"policy": "refuse"}))
    result = audited(*made, audit.model_copy(update={"policy": "report"}))
    assert result.manifest["id"].tolist() == made[0]["id"].tolist()
    assert result.counts["may_leak"] is True
    (warning,) = result.warnings
    assert "the copies of 2 pictures are neither kept on one side nor left out, so that the split may leak" in warning
    assert {key: result.counts[key] for key in ("images", "pictures", "sets", "sets_across_given_parts")} == {
        "images": 4,
        "pictures": 2,
        "sets": 2,
        "sets_across_given_parts": 1,
    }
    assert result.pairs[["first_split", "second_split"]].to_numpy().tolist() == [["train", "train"], ["train", "test"]]
    assert audited(*made, audit).counts["may_leak"] is False
    assert audited(*made, audit).warnings == []
    alone = images_of_scenes(["a", "b"], [0, 1])
    assert audited(*alone, audit.model_copy(update={"policy": "refuse"})).counts["sets"] == 0


def test_counts_by_hand(audit: Audit) -> None:
    """0, 1 and 2 are one picture (equal files, then equal pixels), 3 and 4 another one (near), 5 is alone."""
    files = ["s", "s", "t", "u", "v", "w"]
    splits = ["train", "test", "train", "train", "train", "test"]
    counts = audited(*images_of_scenes(["a"] * 6, [0, 0, 0, 1, 9, 2], {4: 3}, files, splits), audit).counts
    assert counts == {
        "policy": "regroup",
        "may_leak": False,
        "images": 6,
        "pictures": 3,
        "pairs_bytes": 1,
        "pairs_pixels": 1,
        "pairs_near": 1,
        "pairs_overlap": 0,
        "pairs_mirrored": 0,
        "sets": 2,
        "largest_set": 3,
        "sets_across_given_parts": 1,
        "too_faint_to_compare": 0,
        "label_conflicts": 0,
        "quarantined": 0,
    }


def overlapping(
    labels: list[str], splits: list[str] | None = None, groups: list[str] | None = None
) -> tuple[Manifest, Images, ReadCrops]:
    """Images 000 and 001 show 75 % of one field, 002 is a copy of 001, all others are different pictures."""
    manifest, images, _ = images_of_scenes(labels, [0, 1, 1, *range(3, len(labels))], splits=splits)
    field = scene(0, 192)
    crops = {"000": resized(field[32:160, 10:138]), "001": resized(field[32:160, 42:170])}
    crops["002"] = crops["001"]
    crops |= {name: resized(scene(int(name))) for name in manifest["id"][3:]}
    return manifest.assign(group=groups or manifest["group"]), images, reader_of(crops)


def test_overlaps_are_looked_for_where_asked_and_merge_groups(audit: Audit) -> None:
    made = overlapping(["a", "b", "b", "a", "b"], groups=["p9", "p2", "p7", "p9", "p5"])
    assert audited(*made, audit.model_copy(update={"overlap": None})).counts["pairs_overlap"] == 0
    asked = audit.model_copy(update={"overlap": 0.5})
    result = audited(*made, asked)
    kinds = result.pairs[["first", "second", "kind"]].to_numpy().tolist()
    assert kinds == [["000", "001", "overlap"], ["001", "002", "pixels"]]
    # The groups p9 and p2 share a field. The copies 001 and 002 are joined by the split, through their picture.
    assert result.manifest["group"].tolist() == ["p2", "p2", "p7", "p2", "p5"]
    # They are two pictures: two labels are no conflict, and no image is left out.
    assert result.pictures.to_dict() == {"000": "000", "001": "001", "002": "001", "003": "003", "004": "004"}
    assert {key: result.counts[key] for key in ("pairs_overlap", "sets", "pictures", "label_conflicts")} == {
        "pairs_overlap": 1,
        "sets": 1,
        "pictures": 4,
        "label_conflicts": 0,
    }
    assert result.warnings == []
    assert audited(*made, audit.model_copy(update={"overlap": 0.85})).counts["pairs_overlap"] == 0


def test_overlaps_under_the_other_policies(audit: Audit) -> None:
    manifest, images, crops = overlapping(["a", "b", "b", "a"])
    made = manifest.drop(2), images, crops
    asked = audit.model_copy(update={"overlap": 0.5})
    with pytest.raises(InputError, match=r"1 pairs of pictures show parts of one field, the first '000' and '001'"):
        audited(*made, asked.model_copy(update={"policy": "refuse"}))
    result = audited(*made, asked.model_copy(update={"policy": "report"}))
    assert result.counts["may_leak"] is True
    assert result.manifest["group"].tolist() == ["g0", "g1", "g3"]
    (warning,) = result.warnings
    assert "1 pairs of pictures show parts of one field and are not kept on one side" in warning
    assert "'000' and '001'" in warning


def test_a_quarantined_picture_merges_no_groups(audit: Audit) -> None:
    """001 and 002 are one picture under two labels."""
    result = audited(*overlapping(["a", "a", "b", "a", "b"]), audit.model_copy(update={"overlap": 0.5}))
    assert result.manifest["id"].tolist() == ["000", "003", "004"]
    assert result.manifest["group"].tolist() == ["g0", "g3", "g4"]


def test_a_training_image_whose_field_is_in_the_given_test_set_leaves_training(audit: Audit) -> None:
    labels, splits = ["a", "b"] * 12, ["train"] + ["test"] * 2 + ["train"] * 19 + ["test"] * 2
    made = overlapping([*labels[:1], "b", "b", *labels[3:]], splits)
    result = audited(*made, audit.model_copy(update={"overlap": 0.5}))
    divided, counts = split_manifest(
        result.manifest,
        result.pictures,
        split=Split(test=0.2, folds=3, fold_seed=None, leave_out=None, control=None, tolerance=0.05),
        folds=[0],
        seed=0,
    )
    assert set(made[0]["id"]) - set(divided["id"]) == {"000"}
    assert (counts["dropped_train_twins"], counts["dropped_train_patients"]) == (0, 1)
    check_split(divided, made[1], result.pairs, copies=True)


def test_under_the_policy_report_every_image_is_its_own_picture(audit: Audit) -> None:
    made = images_of_scenes(["a", "a", "b", "b"], [0, 0, 1, 2])
    assert audited(*made, audit).pictures.to_dict() == {"000": "000", "001": "000", "002": "002", "003": "003"}
    reported = audited(*made, audit.model_copy(update={"policy": "report"}))
    assert reported.pictures.to_dict() == {name: name for name in ("000", "001", "002", "003")}


def test_a_training_twin_that_is_only_near_leaves_training(audit: Audit) -> None:
    """Row 0 of training is re-saved in the test set; rows 2 and 4 of training are near each other."""
    labels, splits = ["a", "b"] * 12, ["train"] * 20 + ["test"] * 4
    made = images_of_scenes(labels, list(range(24)), {22: 0, 4: 2}, splits=splits)
    result = audited(*made, audit)
    divided, counts = split_manifest(
        result.manifest,
        result.pictures,
        split=Split(test=0.2, folds=3, fold_seed=None, leave_out=None, control=None, tolerance=0.05),
        folds=[0],
        seed=0,
    )
    assert set(made[0]["id"]) - set(divided["id"]) == {"000"}
    assert counts["dropped_train_twins"] == 1
    rows = divided.set_index("id")
    assert rows.loc["002", "group"] == rows.loc["004", "group"] == "g2"
    assert rows.loc["002", "fold"] == rows.loc["004", "fold"]
    check_split(divided, made[1], result.pairs, copies=True)


def test_names_that_are_not_utf8_survive(audit: Audit) -> None:
    ids = [f"\udcff,é\n{n}" for n in range(6)]
    result = audited(*images_of_scenes(list("ababab"), [0, 1, 0, 3, 4, 0], ids=ids), audit)
    assert result.quarantined["path"].tolist() == [ids[0], ids[2], ids[5]]
    assert result.manifest["id"].tolist() == [ids[1], ids[3], ids[4]]
    assert result.pairs["first_label"].tolist() == ["a", "a"]


def test_an_image_without_facts_is_refused(audit: Audit) -> None:
    manifest, images, crops = images_of_scenes(["a", "b"], [0, 1])
    with pytest.raises(InputError, match="'001'"):
        audited(manifest, images.head(1), crops, audit)
