"""Shuffled labels: what stays, what moves together, and that a model on them is at chance."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tests.data.scenes import images_of_scenes
from tumorboard.base.params import Params
from tumorboard.base.tables import Manifest, make_predictions
from tumorboard.data.audit import find_copies
from tumorboard.data.control import TOLERANCE, control_warning, shuffle_labels
from tumorboard.data.prepare import prepare_data
from tumorboard.data.split import draw_test
from tumorboard.evaluation.intervals import intervals


def manifest_of(groups: list[str], labels: list[str], splits: list[str] | str = "") -> Manifest:
    ids = [f"{number:04d}.png" for number in range(len(groups))]
    rows = pd.DataFrame({"id": ids, "path": ids, "label": labels, "group": groups, "split": splits}, dtype=object)
    return rows.assign(fold=pd.array([None] * len(ids), dtype="Int64"), source_id=ids, sha256=ids)


def own_pictures(manifest: Manifest) -> pd.Series:
    return pd.Series(manifest["id"].to_numpy(object), index=manifest["id"])


def shuffled(manifest: Manifest, seed: int, pictures: pd.Series | None = None) -> Manifest:
    return shuffle_labels(manifest, own_pictures(manifest) if pictures is None else pictures, seed)


def patients(sizes: list[int], labels: list[str]) -> Manifest:
    groups = [f"P{number:02d}" for number, size in enumerate(sizes) for _ in range(size)]
    return manifest_of(groups, [label for label, size in zip(labels, sizes, strict=True) for _ in range(size)])


def test_groups_move_as_a_whole_and_as_many_have_each_class() -> None:
    manifest = patients([5] * 30, ["a"] * 10 + ["b"] * 20)
    for seed in range(10):
        rows = shuffled(manifest, seed)
        by_group = rows.groupby("group")["label"]
        assert (by_group.nunique() == 1).all()
        assert by_group.first().value_counts().to_dict() == {"a": 10, "b": 20}
        assert rows.drop(columns="label").equals(manifest.drop(columns="label"))
        assert list(rows.columns) == list(manifest.columns)


def test_images_that_are_their_own_groups_keep_the_exact_counts() -> None:
    manifest = manifest_of([f"g{number}" for number in range(100)], ["a"] * 90 + ["b"] * 7 + ["c"] * 3)
    rows = shuffled(manifest, 1)
    assert rows["label"].value_counts().to_dict() == {"a": 90, "b": 7, "c": 3}
    assert 0.7 < (rows["label"] == manifest["label"]).mean() < 0.9  # by chance .9**2 + .07**2 + .03**2 = .816


def test_class_shares_of_groups_of_many_sizes_stay_within_the_tolerance() -> None:
    random = np.random.default_rng(0)
    sizes = np.maximum(1, random.lognormal(2, 1, 60).astype(int))
    manifest = patients(sizes.tolist(), ["a"] * 15 + ["b"] * 45)
    before = (manifest["label"] == "a").mean()
    gaps = [abs((shuffled(manifest, seed)["label"] == "a").mean() - before) for seed in range(20)]
    assert max(gaps) <= TOLERANCE
    # Where all large groups are of one class, no permutation may reach it: the closest one is taken.
    sizes = np.sort(sizes)[::-1]
    manifest = patients(sizes.tolist(), ["a"] * 15 + ["b"] * 45)
    before = (manifest["label"] == "a").mean()
    assert before > 0.5
    shares = [(shuffled(manifest, seed)["label"] == "a").mean() for seed in range(20)]
    assert 0.3 < np.mean(shares) < before  # 15 of 60 groups at random: .25


def test_a_group_of_several_classes_takes_the_classes_of_another_one() -> None:
    """One group has a and b half and half, the others c: it stays so, wherever it goes."""
    manifest = manifest_of(["p"] * 8 + ["q"] * 8 + ["r"] * 16, ["a"] * 4 + ["b"] * 4 + ["c"] * 24)
    mixed = set()
    for seed in range(12):
        rows = shuffled(manifest, seed)
        contents = {group: part["label"].value_counts().to_dict() for group, part in rows.groupby("group")}
        (taker,) = [group for group, counts in contents.items() if "a" in counts]
        mixed.add(taker)
        assert contents[taker] == ({"a": 8, "b": 8} if taker == "r" else {"a": 4, "b": 4})
    assert {"p", "q"} <= mixed  # r would make the share of c differ by more than the tolerance


def test_the_labels_of_a_mixed_group_are_in_random_order_within_it() -> None:
    manifest = manifest_of(["p"] * 20, ["a"] * 10 + ["b"] * 10)
    drawn = {tuple(shuffled(manifest, seed)["label"]) for seed in range(5)}
    assert len(drawn) == 5
    assert all(sorted(labels) == ["a"] * 10 + ["b"] * 10 for labels in drawn)


def test_copies_of_a_picture_keep_one_label_and_join_their_groups() -> None:
    manifest = manifest_of([f"g{number % 20:02d}" for number in range(60)], (["a"] * 10 + ["b"] * 10) * 3)
    pictures = own_pictures(manifest)
    for first, copy in (("0000.png", "0021.png"), ("0002.png", "0013.png"), ("0020.png", "0040.png")):
        pictures[copy] = first  # across g00 and g01; across g02 and g13, of two labels; within g00
    for seed in range(20):
        rows = shuffled(manifest, seed, pictures).set_index("id")["label"]
        assert (rows.groupby(pictures).nunique() == 1).all()
        together = rows[[name for name, group in zip(manifest["id"], manifest["group"], strict=True) if group < "g02"]]
        assert together.nunique() <= 2
    assert manifest["group"].nunique() == 20


def test_given_parts_keep_their_labels_to_themselves() -> None:
    manifest = manifest_of(
        [f"g{number}" for number in range(60)], ["a"] * 40 + ["b"] * 20, ["train"] * 30 + ["val"] * 5 + ["test"] * 25
    )
    rows = shuffled(manifest, 4)
    for part in ("train", "val", "test"):
        inside = manifest["split"] == part
        assert rows["label"][inside].value_counts().to_dict() == manifest["label"][inside].value_counts().to_dict()
    assert (rows["label"] != manifest["label"]).any()


def test_the_test_part_decides_nothing_about_the_labels_that_models_are_trained_on() -> None:
    """Groups of many sizes: several permutations are tried, and which one is taken must not depend on the test part."""
    random = np.random.default_rng(3)
    sizes = np.maximum(1, random.lognormal(2, 1, 60).astype(int)).tolist()
    manifest = patients(sizes, ["a"] * 20 + ["b"] * 40)
    manifest["split"] = np.where(manifest["group"] < "P30", "train", "test")
    training = manifest["split"] == "train"
    other = manifest.assign(label=np.where(training, manifest["label"], "b"))[(training | (manifest["group"] > "P40"))]
    for seed in range(5):
        expected = shuffled(manifest, seed)["label"][training]
        assert shuffled(other, seed)["label"][training[other.index]].equals(expected)


def test_neither_the_order_of_rows_nor_their_index_matters_and_seeds_differ() -> None:
    manifest = patients([3, 4, 5, 6] * 8, ["a", "b"] * 16)
    rows = shuffled(manifest, 7)
    turned = manifest[::-1]
    again = shuffle_labels(turned, own_pictures(manifest), 7)
    assert again.index.equals(turned.index)
    assert again.sort_index().equals(rows)
    assert len({tuple(shuffled(manifest, seed)["label"]) for seed in range(10)}) == 10


def test_names_that_are_not_utf_8_and_a_single_group_are_no_trouble() -> None:
    manifest = manifest_of(["\udcff", "\udcfe", "ä"] * 4, ["a", "b", "b"] * 4)
    assert sorted(set(shuffled(manifest, 0)["label"])) == ["a", "b"]
    one = manifest_of(["g"] * 4, ["a"] * 4)
    assert shuffled(one, 0)["label"].tolist() == ["a"] * 4


def test_the_labels_do_not_follow_the_draw_of_the_test_part() -> None:
    """Both permute the groups by a seed: with one stream the test part would be the groups that take certain labels."""
    agreement = []
    for seed in range(40):
        manifest = patients([4] * 40, ["a", "b"] * 20)
        rows = shuffled(manifest, seed)
        tested = rows["group"].isin(draw_test(manifest, 0.25, 1, seed))
        agreement.append((rows["label"][tested] == "a").mean())
    assert 0.4 < np.mean(agreement) < 0.6


def test_the_warning_says_that_it_is_a_control() -> None:
    assert control_warning(None) == ""
    assert control_warning(0).startswith("NULL CONTROL: the labels are shuffled over groups (split.control: 0)")


def test_a_model_on_shuffled_labels_is_at_chance_and_one_that_knows_the_patients_is_not() -> None:
    """Sixty patients whose pictures resemble each other: the AUC's interval holds 0.5 in 18 of 20 and more.

    The features tell the true class, and the patient even better. A split by image instead of by patient then scores
    far above chance on shuffled labels: that is what the control is there to show.
    """
    by_patient = [_auc_of_shuffled(seed, grouped=True) for seed in range(20)]
    assert sum(low <= 0.5 <= high for low, high in by_patient) >= 18
    by_image = [_auc_of_shuffled(seed, grouped=False) for seed in range(5)]
    assert all(low > 0.5 for low, _ in by_image)


def _auc_of_shuffled(seed: int, *, grouped: bool) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    sizes = np.maximum(2, random.lognormal(2, 0.5, 60).astype(int)).tolist()
    manifest = patients(sizes, ["a", "b"] * 30)
    codes = np.unique(manifest["group"], return_inverse=True)[1]
    features: NDArray[np.float64] = 1.5 * random.normal(size=(60, 40))[codes] + random.normal(size=(len(codes), 40))
    features[:, 0] += 2.0 * (manifest["label"] == "a")
    rows = shuffled(manifest, seed)
    test = rows["group"].isin(draw_test(rows, 0.5, 1, seed)) if grouped else pd.Series(random.random(len(rows)) < 0.5)
    model = LogisticRegression(max_iter=1000).fit(features[~test], rows["label"][~test])
    table = make_predictions(rows[test].assign(split="test"), model.predict_proba(features[test]), ["a", "b"], "digest")
    result = intervals(table, 0.95, bootstrap=0)
    return float(result["auc_low"]), float(result["auc_high"])  # type: ignore[arg-type]


def test_the_preparation_shuffles_after_the_audit_and_says_so(params: Params) -> None:
    manifest, images, read_crops = images_of_scenes(["a"] * 12 + ["b"] * 12, [0, 0, *range(2, 24)])
    images = images.assign(width=64, height=64, bytes=np.arange(24), format="PNG", red=9, green=9, blue=9, border=0)
    split = params.split.model_copy(update={"folds": 2, "control": 1})
    small = params.model_copy(update={"split": split, "folds": (0,)})
    copies = find_copies(manifest, images, read_crops, params.audit)
    unusable = pd.DataFrame(columns=["path", "reason", "detail"], dtype=object)
    control = prepare_data(manifest, images, copies, unusable=unusable, params=small)
    control.raise_error()
    assert control.label_conflicts.empty
    assert "split: " + control_warning(1) in control.warnings
    labels = control.manifest.set_index("id")["label"]
    assert labels.value_counts().to_dict() in ({"a": 12, "b": 12}, {"a": 11, "b": 13})
    assert labels["000"] == labels["001"]
    assert (labels != manifest.set_index("id")["label"]).sum() > 4
    assert control.audited["label"].equals(manifest["label"])  # the data are as they were
