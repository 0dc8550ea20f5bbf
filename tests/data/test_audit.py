"""The audit: made copies are found, what only looks alike is not; what follows for groups, labels and given parts."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tumorboard.data import audit as auditing
from tumorboard.data.audit import Findings, audit_manifest, correlate, find_copies, near_duplicates, picture_names
from tumorboard.data.split import check_split, split_manifest
from tumorboard.errors import InputError
from tumorboard.params import Audit, Params, Split
from tumorboard.tables import MANIFEST

Pixels = NDArray[np.uint8]
Crops = Callable[[Sequence[str]], Pixels]


def scene(seed: int, side: int = 96) -> Pixels:
    """A picture of blobs of many sizes, unlike that of any other seed."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    layers = [cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4, 9)]
    grey = np.sum(layers, axis=0).mean(2, keepdims=True) + 0.1 * layers[1]
    return np.clip(120 + 45 * grey / grey.std(), 0, 255).astype(np.uint8)


def small(pixels: Pixels, side: int = 64) -> Pixels:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def saved(pixels: Pixels, quality: int) -> Pixels:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)  # type: ignore[return-value]


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "re-saved": lambda p: saved(p, 50),
    "smaller": lambda p: saved(cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA), 80),  # type: ignore[arg-type]
    "larger": lambda p: cv2.resize(p, (200, 200), interpolation=cv2.INTER_CUBIC),  # type: ignore[return-value]
    "cropped": lambda p: p[3:-4, 4:-2],
    "shifted": lambda p: np.roll(p, (4, -3), (0, 1)),
    "brighter": lambda p: np.clip(p * 0.7 + 40, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),  # type: ignore[return-value]
}


def store(pictures: dict[str, Pixels]) -> Crops:
    return lambda ids: np.stack([pictures[name] for name in ids])


@pytest.fixture
def audit(params: Params) -> Audit:
    return params.audit.model_copy(update={"policy": "regroup", "label_conflicts": "quarantine", "mirror": True})


def audited(manifest: pd.DataFrame, images: pd.DataFrame, crops: Crops, audit: Audit) -> Findings:
    return audit_manifest(manifest, find_copies(manifest, images, crops, audit), audit)


def sets_of(ids: Sequence[str], pairs: pd.DataFrame) -> set[frozenset[str]]:
    names = picture_names(ids, pairs)
    return {frozenset(names.index[names == name]) for name in set(names) if (names == name).sum() > 1}


# Few pictures are compared all with all, more are looked up in cells.
@pytest.mark.parametrize("count", [20, 300])
def test_made_copies_are_found_and_nothing_else(count: int, audit: Audit) -> None:
    pictures = {f"{n:03d}": small(scene(n)) for n in range(count)}
    expected = set()
    for number, alter in enumerate(COPIES.values()):
        pictures[f"copy{number}"] = small(alter(scene(number)))
        expected.add(frozenset([f"{number:03d}", f"copy{number}"]))
    pictures["flipped"] = small(np.ascontiguousarray(saved(scene(9), 80)[:, ::-1]))
    pairs, faint = near_duplicates(list(pictures), store(pictures), audit)
    assert faint == []
    assert sets_of(list(pictures), pairs) == expected | {frozenset(["009", "flipped"])}
    assert pairs["mirrored"].tolist() == [second == "flipped" for second in pairs["second"]]
    assert (pairs["first"] < pairs["second"]).all()
    assert pairs["correlation"].between(audit.near, 1).all()
    unmirrored, _ = near_duplicates(list(pictures), store(pictures), audit.model_copy(update={"mirror": False}))
    assert sets_of(list(pictures), unmirrored) == expected


def test_the_order_of_the_ids_does_not_matter(audit: Audit) -> None:
    pictures = {f"{n:03d}": small(scene(n % 90)) for n in range(100)}
    pairs, _ = near_duplicates(list(pictures), store(pictures), audit)
    again, _ = near_duplicates(list(pictures)[::-1], store(pictures), audit)
    assert len(pairs) == 10
    pd.testing.assert_frame_equal(pairs, again)


def test_the_correlation_is_that_of_numpy_where_nothing_need_be_aligned(audit: Audit) -> None:
    pictures = {"a": small(scene(1), 48), "b": small(saved(scene(1), 60), 48)}
    pairs, _ = near_duplicates(["a", "b"], store(pictures), audit)
    blurred = []
    for picture in pictures.values():
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
        places = np.arange(48)
        kernel = np.exp(-0.5 * ((places[:, None] - places) / auditing.DETAIL) ** 2)
        kernel /= kernel.sum(1, keepdims=True)
        blurred.append((grey - kernel @ grey @ kernel.T).ravel())
    still = np.corrcoef(blurred)[0, 1]
    # Alignment can only add to it, here next to nothing.
    assert still - 1e-3 <= pairs["correlation"].iloc[0] <= still + 5e-3


def test_a_structure_that_all_share_makes_no_copies(audit: Audit) -> None:
    """Discs of one size with a grain of their own, as cells are; a hash of 8 x 8 bits takes them for one."""
    y, x = np.mgrid[:96, :96]
    disc = np.where((x - 48) ** 2 + (y - 48) ** 2 < 30**2, 90.0, 0.0)[..., None]
    pictures = {f"{n:02d}": small(np.clip(disc + 0.6 * scene(n), 0, 255).astype(np.uint8)) for n in range(80)}
    assert near_duplicates(list(pictures), store(pictures), audit)[0].empty


def test_pictures_without_detail_are_not_chained_but_named(audit: Audit) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    pictures = {"black": np.zeros((64, 64, 3), np.uint8), "white": np.full((64, 64, 3), 255, np.uint8)}
    pictures |= {"dim": np.ones((64, 64, 3), np.uint8), "ramp": ramp // 8, "one": small(scene(1))}
    pairs, faint = near_duplicates(list(pictures), store(pictures), audit)
    assert pairs.empty
    assert faint == ["black", "dim", "ramp", "white"]


def test_hundreds_of_copies_of_one_picture_become_one_set(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "PENDING", 1000)
    monkeypatch.setattr(auditing, "JUDGED", 100)
    monkeypatch.setattr(auditing, "BLOCK", 5000)
    judged: list[int] = []

    def counting(thumbs: Pixels, *pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        judged.append(len(pairs[0]))
        return correlate(thumbs, *pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(auditing, "correlate", counting)
    base, noise = scene(0), np.random.default_rng(0)
    pictures = {
        f"{n:03d}": small(np.clip(base + noise.normal(0, 3, base.shape), 0, 255).astype(np.uint8)) for n in range(300)
    }
    pictures |= {f"x{n:03d}": small(scene(n + 1)) for n in range(100)}
    pairs, _ = near_duplicates(list(pictures), store(pictures), audit)
    assert sets_of(list(pictures), pairs) == {frozenset(f"{n:03d}" for n in range(300))}
    # 44,850 pairs are alike; those within a set that is already joined are not judged.
    assert sum(judged) < 20000


@pytest.mark.parametrize("side", [16, 31, 200])
def test_crops_of_any_size(side: int, audit: Audit) -> None:
    pictures = {f"{n:02d}": small(scene(n), side) for n in range(10)} | {"copy": small(saved(scene(3), 80), side)}
    assert sets_of(list(pictures), near_duplicates(list(pictures), store(pictures), audit)[0]) == {
        frozenset(["03", "copy"])
    }


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
