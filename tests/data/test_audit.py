"""The audit: which kinds of copies it joins, and what follows from them for groups, labels and given parts."""

from collections.abc import Sequence

import pandas as pd
import pytest

from tests.data.scenes import Crops, Pixels, saved, scene, small, store
from tumorboard.data.audit import Findings, audit_manifest, find_copies, picture_names
from tumorboard.data.split import check_split, split_manifest
from tumorboard.errors import InputError
from tumorboard.params import Audit, Params, Split
from tumorboard.tables import MANIFEST


@pytest.fixture
def audit(params: Params) -> Audit:
    return params.audit.model_copy(update={"policy": "regroup", "label_conflicts": "quarantine", "mirror": True})


def audited(manifest: pd.DataFrame, images: pd.DataFrame, crops: Crops, audit: Audit) -> Findings:
    return audit_manifest(manifest, find_copies(manifest, images, crops, audit), audit)


def test_null_looks_for_equal_pixels_only(audit: Audit) -> None:
    def unused(ids: Sequence[str]) -> Pixels:
        raise AssertionError(ids)

    manifest, images, _ = data(["a", "b"], pictures=[0, 0])
    pairs, faint = find_copies(manifest, images, unused, audit.model_copy(update={"near": None}))
    assert pairs["kind"].tolist() == ["pixels"]
    assert faint == []


def data(
    labels: list[str],
    pictures: list[int],
    near: dict[int, int] | None = None,
    files: list[str] | None = None,
    splits: list[str] | None = None,
    ids: list[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, Crops]:
    """A Manifest, the table of images and the crops; `near` re-saves another row's picture for a row."""
    near = near or {}
    ids = ids or [f"{n:03d}" for n in range(len(labels))]
    columns = {"id": ids, "path": ids, "label": labels, "group": [f"g{n}" for n in range(len(ids))]}
    columns |= {"split": splits or [""] * len(ids), "fold": [None] * len(ids), "source_id": ids}
    manifest = pd.DataFrame(columns | {"sha256": files or [f"s{n}" for n in range(len(ids))]}, dtype=object)
    manifest = manifest[list(MANIFEST)]
    manifest["fold"] = pd.array([None] * len(ids), dtype="Int64")
    pixels = [f"{pictures[n]}" if n not in near else f"{pictures[near[n]]} again {n}" for n in range(len(ids))]
    made = {
        name: small(saved(scene(pictures[near[n]]), 85)) if n in near else small(scene(pictures[n]))
        for n, name in enumerate(ids)
    }
    return manifest, pd.DataFrame({"id": ids, "pixels": pixels}, dtype=object), store(made)


def test_kinds_of_copies_join_through_one_another(audit: Audit) -> None:
    # 0 and 1 are one file, 2 has their pixels, 3 is re-saved from 2, 4 has nothing to do with them.
    made = data(["a"] * 5, [0, 0, 0, 9, 4], {3: 2}, ["s", "s", "t", "u", "v"])
    pairs, _ = find_copies(*made, audit)
    found = pairs.sort_values("second")[["first", "second", "kind"]].to_numpy().tolist()
    assert found == [["000", "001", "bytes"], ["000", "002", "pixels"], ["000", "003", "near"]]
    assert picture_names(made[0]["id"], pairs).to_dict() == dict.fromkeys(["000", "001", "002", "003"], "000") | {
        "004": "004"
    }


def test_a_picture_under_two_labels_is_quarantined_with_all_its_copies(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    made = data(["a", "b", "a", "b", "a"], [0, 1, 0, 0, 2], {3: 0})
    found = audited(*made, audit)
    assert found.manifest["id"].tolist() == ["001", "004"]
    assert found.quarantined[["path", "reason"]].to_numpy().tolist() == [
        [name, "label conflict"] for name in ("000", "002", "003")
    ]
    assert "'000' is 'a'" in found.quarantined["detail"][2]
    assert "'003' is 'b'" in found.quarantined["detail"][2]
    assert (found.counts["label_conflicts"], found.counts["quarantined"]) == (1, 3)
    assert "'003' is 'b'" in capsys.readouterr().err
    kept = audited(*made, audit.model_copy(update={"label_conflicts": "keep"}))
    assert kept.manifest["id"].tolist() == made[0]["id"].tolist()
    assert (kept.counts["label_conflicts"], kept.counts["quarantined"]) == (1, 0)
    with pytest.raises(InputError, match=r"1 pictures .* two labels(.|\n)*'003' is 'b'"):
        audited(*made, audit.model_copy(update={"label_conflicts": "refuse"}))
    with pytest.raises(InputError, match="every picture of class 'b'"):
        audited(*data(["a", "b", "a"], [0, 0, 1]), audit)


def test_the_first_of_each_label_stand_for_a_large_set(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    made = data(["a"] * 300 + ["b", "a", "b"], [0] * 301 + [1, 2])
    found = audited(*made, audit)
    detail = "'000' is 'a', '001' is 'a', '002' is 'a', '003' is 'a', '300' is 'b' … and 296 more"
    assert set(found.quarantined["detail"]) == {detail}
    assert detail in capsys.readouterr().err
    with pytest.raises(InputError, match=r"… and 296 more$"):
        audited(*made, audit.model_copy(update={"label_conflicts": "refuse"}))


def test_a_refusal_lists_the_first_sets(audit: Audit) -> None:
    made = data(["a"] * 24, [n // 2 for n in range(24)])
    with pytest.raises(InputError, match=r"12 pictures (.|\n)*'019' is 'a'\n  … and 2 more$"):
        audited(*made, audit.model_copy(update={"policy": "refuse"}))


def test_a_class_lost_to_near_duplicates_names_what_made_them_so(audit: Audit) -> None:
    with pytest.raises(InputError, match=r"class 'b' .*as near duplicates, in a set of 3 images.*raise audit\.near"):
        audited(*data(["a", "b", "a", "a"], [0, 9, 0, 1], {1: 0}), audit)
    with pytest.raises(InputError, match=r"all were quarantined: mend"):
        audited(*data(["a", "b", "a"], [0, 0, 1]), audit)


def test_refuse_lists_the_copies_and_report_only_counts_them(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    made = data(["a", "a", "b", "b"], [0, 0, 1, 2], {3: 2}, splits=["train", "test", "train", "train"])
    with pytest.raises(
        InputError, match=r"2 pictures .*several times(.|\n)*'000' is 'a', '001'(.|\n)*'002' is 'b', '003'"
    ):
        audited(*made, audit.model_copy(update={"policy": "refuse"}))
    found = audited(*made, audit.model_copy(update={"policy": "report"}))
    assert found.manifest["id"].tolist() == made[0]["id"].tolist()
    assert found.counts["may_leak"] is True
    assert "may leak" in capsys.readouterr().err
    assert {key: found.counts[key] for key in ("images", "pictures", "sets", "sets_across_given_parts")} == {
        "images": 4,
        "pictures": 2,
        "sets": 2,
        "sets_across_given_parts": 1,
    }
    assert found.pairs[["first_split", "second_split"]].to_numpy().tolist() == [["train", "train"], ["train", "test"]]
    assert audited(*made, audit).counts["may_leak"] is False
    alone = data(["a", "b"], [0, 1])
    assert audited(*alone, audit.model_copy(update={"policy": "refuse"})).counts["sets"] == 0


def test_a_training_twin_that_is_only_near_leaves_training(audit: Audit) -> None:
    """Row 0 of training is re-saved in the test part; rows 2 and 4 of training are near each other."""
    labels, splits = ["a", "b"] * 12, ["train"] * 20 + ["test"] * 4
    made = data(labels, list(range(24)), {22: 0, 4: 2}, splits=splits)
    found = audited(*made, audit)
    result, counts = split_manifest(
        found.manifest, found.pictures, Split(test=0.2, folds=3, fold_seed=None, tolerance=0.05), [0], 0
    )
    assert set(made[0]["id"]) - set(result["id"]) == {"000"}
    assert counts["dropped_train_twins"] == 1
    rows = result.set_index("id")
    assert rows.loc["002", "group"] == rows.loc["004", "group"] == "g2"
    assert rows.loc["002", "fold"] == rows.loc["004", "fold"]
    check_split(result, made[1], found.pairs, copies=True)


def test_names_that_are_not_utf8_survive(audit: Audit) -> None:
    ids = [f"\udcff,é\n{n}" for n in range(6)]
    found = audited(*data(list("ababab"), [0, 1, 0, 3, 4, 0], ids=ids), audit)
    assert found.quarantined["path"].tolist() == [ids[0], ids[2], ids[5]]
    assert found.manifest["id"].tolist() == [ids[1], ids[3], ids[4]]
    assert found.pairs["first_label"].tolist() == ["a", "a"]


def test_an_image_without_facts_is_refused(audit: Audit) -> None:
    manifest, images, crops = data(["a", "b"], [0, 1])
    with pytest.raises(InputError, match="'001'"):
        audited(manifest, images.head(1), crops, audit)
