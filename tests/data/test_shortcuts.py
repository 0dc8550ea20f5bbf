"""The shortcut probe: it reports a planted fact, cross-validates over whole groups, and reports nothing in noise."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from tumorboard.data import shortcuts
from tumorboard.data.shortcuts import (
    EVERYTHING,
    FACTS,
    count_shortcuts,
    count_test_shortcuts,
    probe_shortcuts,
    probe_test_shortcuts,
    select_shortcuts,
    shortcuts_warning,
)


@pytest.fixture(autouse=True)
def one_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests of skill alone."""
    monkeypatch.setattr(shortcuts, "PERMUTATIONS", 1)


@pytest.fixture
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least p is 1 / 20, the largest that counts."""
    monkeypatch.setattr(shortcuts, "PERMUTATIONS", 19)


needs_p = pytest.mark.usefixtures("few_permutations")


def tables(labels: list[str], **facts: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that are all training, each a group; facts that are not given are noise, and text as in images.csv."""
    generator = np.random.default_rng(0)
    n = len(labels)
    ids = [f"{k:04d}" for k in range(n)]
    manifest = pd.DataFrame(
        {"id": ids, "source_id": ids, "label": labels, "group": ids, "split": "train"}, dtype=object
    )
    images = pd.DataFrame({"id": ids, "pixels": ids})
    for name in ("width", "height", "bytes", "red", "green", "blue", "border"):
        images[name] = generator.random(n)
    images["format"] = "JPEG"
    return manifest, images.assign(**facts).astype(str).astype(object)


@needs_p
def test_a_planted_size_is_found_by_its_fact_and_by_all_of_them() -> None:
    labels = ["a", "b", "b"] * 60
    probe = probe_shortcuts(*tables(labels, width=[512 if label == "a" else 300 for label in labels]), 0, 0.25)
    by_fact = probe.set_index("facts")
    assert list(by_fact.index) == [*FACTS, EVERYTHING]
    assert by_fact.loc[["width", "width and height", EVERYTHING], "skill"].tolist() == [1, 1, 1]
    assert by_fact.loc["width", "accuracy"] == 1
    assert by_fact["majority"].tolist() == pytest.approx([2 / 3] * len(probe))
    assert by_fact.loc["format", "skill"] == 0
    assert (by_fact.loc[["height", "file size", "mean color", "border"], "skill"].abs() < 0.25).all()
    # No permutation of 180 labels does as well as the width itself; the others are not tested.
    assert by_fact.loc[["width", "width and height", EVERYTHING], "p"].tolist() == [0.05] * 3
    assert by_fact.loc[["height", "file size", "format", "mean color", "border"], "p"].isna().all()
    warning = shortcuts_warning(probe, 0.25)
    assert warning.endswith(": width 1.00, width and height 1.00, all of them 1.00")
    assert "%" not in warning
    counts = count_shortcuts(probe, 0.25)
    assert counts["shortcuts"] == 3
    assert counts["shortcut_width_and_height"] == 1
    assert len(counts) == 1 + len(FACTS) + 1


def test_the_format_and_the_color_count_too() -> None:
    labels = ["a", "b"] * 40
    made = tables(labels, format=["PNG" if label == "a" else "JPEG" for label in labels], green=[len(labels)] * 80)
    assert probe_shortcuts(*made, 0, 0.25).set_index("facts").loc["format", "skill"] == 1
    made = tables(labels, green=[9.5 if label == "a" else 10.5 for label in labels])
    assert probe_shortcuts(*made, 0, 0.25).set_index("facts").loc["mean color", "skill"] == 1


def test_a_rare_class_is_not_hidden_by_the_commonest() -> None:
    labels = (["a"] * 19 + ["b"]) * 20
    probe = probe_shortcuts(*tables(labels, border=[0.3 if label == "b" else 0.0 for label in labels]), 0, 0.25)
    assert probe.set_index("facts").loc["border", "skill"] == 1
    assert probe["majority"].iloc[0] == 0.95


def test_classes_weigh_the_same_whatever_their_number() -> None:
    """All 20 images of b have a border, and 40 of 380 of a: by number such an image is an a, by weight it is a b.

    The recalls are 1 and 340 / 380; the skill is their sum minus 1.
    """
    labels = ["b"] * 20 + ["a"] * 380
    probe = probe_shortcuts(*tables(labels, border=[1.0] * 60 + [0.0] * 340), 0, 0.25)
    assert probe.set_index("facts").loc["border", "skill"] == pytest.approx(340 / 380)


def test_groups_are_kept_whole() -> None:
    """Each patient's images have a width of their own, which predicts the class only of patients seen in training."""
    patients = np.repeat(np.arange(40), 6)
    classes = np.random.default_rng(1).permutation(np.arange(40) % 2)
    manifest, images = tables(
        [f"{classes[p]}" for p in patients], width=np.random.default_rng(2).permutation(40)[patients]
    )
    alone = probe_shortcuts(manifest, images, 0, 0.25).set_index("facts")
    grouped = probe_shortcuts(manifest.assign(group=[f"P{p}" for p in patients]), images, 0, 0.25).set_index("facts")
    assert alone.loc["width", "skill"] == 1
    assert grouped.loc["width", "skill"] < 0.4


def test_a_test_set_is_scored_alone_and_changes_nothing_else() -> None:
    labels = ["a", "b"] * 50
    manifest, images = tables(
        labels, bytes=[(1 if label == "a" else 2) * (1 if n < 80 else -1) + 2 for n, label in enumerate(labels)]
    )
    manifest["split"] = ["train"] * 80 + ["test"] * 20
    probe = probe_shortcuts(manifest, images, 0, 0.25)
    row = probe.set_index("facts").loc["file size"]
    # In training a has 3 and b has 4; in the test set a has 1, b has 0: all of them are nearer to a.
    assert (row["images"], row["accuracy"], row["skill"]) == (80, 1, 1)
    tested = probe_test_shortcuts(manifest, images, 0)
    row = tested.set_index("facts").loc["file size"]
    assert (row["images"], row["accuracy"], row["majority"], row["skill"]) == (20, 0.5, 0.5, 0)
    assert count_test_shortcuts(tested)["shortcut_file_size"] == 0
    # Other labels, facts and formats of the test images, or fewer of them.
    is_test = (manifest["split"] == "test").to_numpy()
    noise = images.assign(width=images["width"].where(~is_test, "7"), format=images["format"].where(~is_test, "AAA"))
    shuffled = manifest.assign(label=manifest["label"].where(~is_test, "b"))
    pd.testing.assert_frame_equal(probe, probe_shortcuts(shuffled, noise, 0, 0.25))
    pd.testing.assert_frame_equal(probe, probe_shortcuts(manifest[:85], images, 0, 0.25))


def test_without_a_test_set_its_scores_are_missing() -> None:
    tested = probe_test_shortcuts(*tables(["a", "b"] * 20), 0)
    assert tested["skill"].isna().all()
    assert tested["images"].tolist() == [0] * len(tested)


def test_skill_is_the_adjusted_balanced_accuracy_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, 50), generator.integers(0, 3, 50)
    expected = balanced_accuracy_score(labels, predicted, adjusted=True)
    assert shortcuts._score(labels, predicted)[2] == pytest.approx(expected)


def by_patient(patients: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Patients with four images, one label and facts of their own that do not know it."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 4)
    label = generator.permutation(np.arange(patients) % 2)[patient]
    facts = {
        name: generator.normal(size=patients)[patient]
        for name in ("width", "height", "bytes", "red", "green", "border")
    }
    manifest, images = tables(["ab"[number] for number in label], **facts)
    return manifest.assign(group=[f"P{number}" for number in patient]), images


@needs_p
def test_the_luck_of_few_patients_is_no_shortcut() -> None:
    """A third of these data sets have a fact with skill; a false alarm in 5 % of 8 is less than one."""
    skilled = warned = 0
    for seed in range(8):
        probe = probe_shortcuts(*by_patient(12, seed), seed, 0.25)
        skilled += (probe["skill"] >= 0.25).any()
        warned += len(select_shortcuts(probe, 0.25)) > 0
    assert skilled >= 3
    assert warned <= 1


@needs_p
def test_a_scanner_per_class_is_a_shortcut_of_twelve_patients() -> None:
    manifest, images = by_patient(12, 0)
    images["width"] = np.where(manifest["label"] == "a", "512", "300")
    assert "width" in select_shortcuts(probe_shortcuts(manifest, images, 0, 0.25), 0.25)["facts"].tolist()


def test_skill_is_studentized_by_how_it_differs_between_patients() -> None:
    """Each of twelve patients has a part of 0.25 (right in three of four), 0.5 (always) or -0.5 (never).

    Both predictions have a skill of 0.5: (12 x 0.25) / sqrt(12 x 0.25^2), and (9 - 3) x 0.5 / sqrt(12 x 0.5^2).
    """
    groups = np.repeat(np.arange(12), 4)
    labels = groups % 2
    most_of_each = np.where(np.arange(48) % 4 < 3, labels, 1 - labels)
    all_of_nine = np.where(np.isin(groups, [0, 1, 2]), 1 - labels, labels)
    assert shortcuts._score(labels, most_of_each)[2] == shortcuts._score(labels, all_of_nine)[2] == 0.5
    assert shortcuts._studentized_skill(labels, most_of_each, groups) == pytest.approx(12**0.5)
    assert shortcuts._studentized_skill(labels, all_of_nine, groups) == pytest.approx(6 / 12**0.5)
    assert shortcuts._studentized_skill(labels, 1 - labels, groups) == pytest.approx(-(12**0.5))


def test_studentized_skill_weighs_patients_and_classes_equally() -> None:
    """Weights of images: patient 0 has 1/2 each, patient 1 has 1/4 each, patient 2 has 1.

    Classes weigh 1/2 + 3/4 = 5/4 (class 0), 1/2 + 1/4 = 3/4 (class 2) and 1 (class 3); guessing is right in 1/3.
    Parts: 1/2 (2/3) / (5/4) + 1/2 (-1/3) / (3/4) = 2/45; 3/4 (2/3) / (5/4) + 1/4 (2/3) / (3/4) = 28/45; 2/3 = 30/45.
    """
    groups = np.array([0, 0, 1, 1, 1, 1, 2])
    labels = np.array([0, 2, 0, 0, 0, 2, 3])
    predicted = np.array([0, 1, 0, 0, 0, 2, 3])
    expected = (2 + 28 + 30) / (2**2 + 28**2 + 30**2) ** 0.5
    assert shortcuts._studentized_skill(labels, predicted, groups) == pytest.approx(expected)


def test_a_patient_with_most_of_the_images_counts_once() -> None:
    groups = np.repeat(np.arange(12), [500] + [4] * 11)
    assert shortcuts._studentized_skill(groups % 2, groups % 2, groups) == pytest.approx(12**0.5)


def test_studentized_skill_is_zero_where_the_parts_of_all_groups_are() -> None:
    """One predicted class: 2/3 - 1/3 - 1/3 in each group, which floats round to a little more or less than 0."""
    groups, labels = np.repeat(np.arange(9), 3), np.tile([0, 1, 2], 9)
    assert shortcuts._studentized_skill(labels, np.zeros(27, dtype=int), groups) == 0


@needs_p
def test_a_fact_right_in_most_images_of_each_patient_is_beyond_the_luck_of_scanners() -> None:
    """A third of the permutations give a scanner a skill of 0.5 or more, so skill alone could not find the width."""
    manifest, images = by_patient(12, 3)
    is_a = (manifest["label"] == "a").to_numpy()
    images["width"] = np.where(is_a ^ (np.arange(48) % 4 == 3), "512", "300")
    probe = probe_shortcuts(manifest, images, 3, 0.25)
    assert probe.set_index("facts").loc["width", "skill"] == 0.5
    assert "width" in select_shortcuts(probe, 0.25)["facts"].tolist()


@needs_p
def test_two_patients_per_class_prove_nothing() -> None:
    """Of the six ways to deal out the labels, at least two are as good as the truth."""
    manifest, images = by_patient(4, 0)
    images["width"] = np.where(manifest["label"] == "a", "512", "300")
    probe = probe_shortcuts(manifest, images, 0, 0.25)
    assert probe.set_index("facts").loc["width", "skill"] == 1
    assert select_shortcuts(probe, 0.25).empty


def test_permuted_labels_move_by_whole_groups() -> None:
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 4])
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
    rng = np.random.default_rng(0)
    draws = [shortcuts._permute_labels(labels, groups, rng) for _ in range(200)]
    for draw in draws:
        of_group = [set(draw[groups == group]) for group in range(5)]
        assert all(len(found) == 1 for found in of_group)  # groups of one label stay so
        assert sum(found == {1} for found in of_group) == 2  # as before
    # Each group is one of the two in 2 of 5 draws.
    assert np.mean([draw[0] for draw in draws]) == pytest.approx(0.4, abs=0.1)


def test_a_group_of_two_labels_gives_both_in_random_order() -> None:
    groups, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])
    rng = np.random.default_rng(0)
    draws = {tuple(shortcuts._permute_labels(labels, groups, rng).tolist()) for _ in range(100)}
    assert draws == {(0, 1, 2, 2), (1, 0, 2, 2), (2, 2, 0, 1), (2, 2, 1, 0)}


@needs_p
def test_a_size_that_gives_one_class_of_four_away_is_a_shortcut() -> None:
    """As in brain_mri, where all images of a class are of one size, which is rare among the others."""
    generator = np.random.default_rng(5)
    labels = ["a", "b", "c", "d"] * 50
    width = [512 if label == "a" or generator.random() < 0.1 else generator.integers(150, 500) for label in labels]
    assert "width" in select_shortcuts(probe_shortcuts(*tables(labels, width=width), 0, 0.25), 0.25)["facts"].tolist()


def test_skill_and_significance_are_both_needed() -> None:
    row = {"facts": "width", "skill": 0.4, "p": 0.06}
    assert select_shortcuts(pd.DataFrame([row]), 0.25).empty
    assert len(select_shortcuts(pd.DataFrame([row | {"p": 0.05}]), 0.25)) == 1
    assert select_shortcuts(pd.DataFrame([row | {"p": 0.05}]), 0.41).empty
    assert len(select_shortcuts(pd.DataFrame([row | {"p": 0.05}]), 0.4)) == 1


@needs_p
def test_a_class_in_a_single_group_cannot_be_probed() -> None:
    manifest, images = tables(["a"] * 20 + ["b"] * 5)
    manifest.loc[20:, "group"] = "P"
    probe = probe_shortcuts(manifest, images, 0, 0.25)
    assert probe["skill"].isna().all()
    assert select_shortcuts(probe, 0.0).empty
    assert shortcuts_warning(probe, 0.25) == ""


def test_many_rows_are_drawn_by_lot_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MAX_PROBED_IMAGES", 50)
    manifest, images = tables(["a", "b"] * 100)
    probe = probe_shortcuts(manifest, images, 3, 0.25)
    assert probe["images"].tolist() == [50] * len(probe)
    pd.testing.assert_frame_equal(
        probe, probe_shortcuts(manifest.sample(frac=1, random_state=0), images[::-1], 3, 0.25)
    )
