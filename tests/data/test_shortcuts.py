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
    probe_shortcuts,
    select_shortcuts,
    shortcuts_warning,
)


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


def test_a_planted_size_is_found_by_its_fact_and_by_all_of_them() -> None:
    labels = ["a", "b", "b"] * 60
    probe = probe_shortcuts(*tables(labels, width=[512 if label == "a" else 300 for label in labels]), 0)
    by_fact = probe.set_index("facts")
    assert list(by_fact.index) == [*FACTS, EVERYTHING]
    assert by_fact.loc[["width", "width and height", EVERYTHING], "skill"].tolist() == [1, 1, 1]
    assert by_fact.loc["width", "accuracy"] == 1
    assert by_fact["majority"].tolist() == pytest.approx([2 / 3] * len(probe))
    assert by_fact.loc["format", "skill"] == 0
    assert (by_fact.loc[["height", "file size", "mean colour", "border"], "skill"].abs() < 0.25).all()
    assert by_fact[["test_accuracy", "test_majority", "test_skill"]].isna().all(axis=None)
    warning = shortcuts_warning(probe, 0.25)
    assert warning.endswith(": width 100.0%, width and height 100.0%, all of them 100.0%")
    assert "most frequent class: 66.7%" in warning
    counts = count_shortcuts(probe, 0.25)
    assert counts["shortcuts"] == 3
    assert counts["shortcut_width_and_height_accuracy"] == 1
    assert all(not isinstance(value, dict) for value in counts.values())


def test_the_format_and_the_color_count_too() -> None:
    labels = ["a", "b"] * 40
    made = tables(labels, format=["PNG" if label == "a" else "JPEG" for label in labels], green=[len(labels)] * 80)
    assert probe_shortcuts(*made, 0).set_index("facts").loc["format", "skill"] == 1
    made = tables(labels, green=[9.5 if label == "a" else 10.5 for label in labels])
    assert probe_shortcuts(*made, 0).set_index("facts").loc["mean colour", "skill"] == 1


def test_a_rare_class_is_not_hidden_by_the_commonest() -> None:
    labels = (["a"] * 19 + ["b"]) * 20
    probe = probe_shortcuts(*tables(labels, border=[0.3 if label == "b" else 0.0 for label in labels]), 0)
    assert probe.set_index("facts").loc["border", "skill"] == 1
    assert probe["majority"].iloc[0] == 0.95


def test_classes_weigh_the_same_whatever_their_number() -> None:
    """All 20 images of b have a border, and 40 of 380 of a: by number such an image is an a, by weight it is a b.

    The recalls are 1 and 340 / 380; the skill is their sum minus 1.
    """
    labels = ["b"] * 20 + ["a"] * 380
    probe = probe_shortcuts(*tables(labels, border=[1.0] * 60 + [0.0] * 340), 0)
    assert probe.set_index("facts").loc["border", "skill"] == pytest.approx(340 / 380)


def test_groups_are_kept_whole() -> None:
    """Each patient's images have a width of their own, which predicts the class only of patients seen in training."""
    patients = np.repeat(np.arange(40), 6)
    classes = np.random.default_rng(1).permutation(np.arange(40) % 2)
    manifest, images = tables(
        [f"{classes[p]}" for p in patients], width=np.random.default_rng(2).permutation(40)[patients]
    )
    alone = probe_shortcuts(manifest, images, 0).set_index("facts")
    grouped = probe_shortcuts(manifest.assign(group=[f"P{p}" for p in patients]), images, 0).set_index("facts")
    assert alone.loc["width", "skill"] == 1
    assert grouped.loc["width", "skill"] < 0.4


def test_a_test_set_is_scored_and_not_trained_on() -> None:
    labels = ["a", "b"] * 50
    manifest, images = tables(
        labels, bytes=[(1 if label == "a" else 2) * (1 if n < 80 else -1) + 2 for n, label in enumerate(labels)]
    )
    manifest["split"] = ["train"] * 80 + ["test"] * 20
    probe = probe_shortcuts(manifest, images, 0)
    row = probe.set_index("facts").loc["file size"]
    # In training a has 3 and b has 4; in the test set a has 1, b has 0: all of them are nearer to a.
    assert (row["images"], row["accuracy"], row["test_accuracy"], row["test_majority"]) == (80, 1, 0.5, 0.5)
    assert (row["skill"], row["test_skill"]) == (1, 0)
    assert select_shortcuts(probe, 0.9)["facts"].tolist() == ["file size", EVERYTHING]


def test_skill_is_the_adjusted_balanced_accuracy_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, 50), generator.integers(0, 3, 50)
    expected = balanced_accuracy_score(labels, predicted, adjusted=True)
    assert shortcuts._score(labels, predicted)[2] == pytest.approx(expected)


def test_the_error_is_that_of_two_shares_by_hand() -> None:
    """By guessing among two classes of 4 and 16: deviations of 0.25 and 0.125; of their mean the half of the root of
    the sum of squares, 0.1398; of the skill twice that. What is recalled of them does not make it smaller."""
    labels = np.array([0] * 4 + [1] * 16)
    predicted = np.array([0, 0, 0, 1] + [1] * 8 + [0] * 8)
    assert shortcuts._score(labels, predicted)[2:] == pytest.approx((0.25, 0.2795), abs=1e-4)
    assert shortcuts._score(labels, labels)[2:] == pytest.approx((1, 0.2795), abs=1e-4)


def test_the_error_found_counts_where_it_is_larger_than_that_of_guessing() -> None:
    """Four classes of 4, each with half of them right: deviations of 0.25, of their mean 0.125, of the skill 4/3 of it.

    By guessing they would be 0.2165.
    """
    labels = np.repeat(np.arange(4), 4)
    predicted = np.where(np.arange(16) % 2, labels, (labels + 1) % 4)
    assert shortcuts._score(labels, predicted)[2:] == pytest.approx((1 / 3, 1 / 6))


@pytest.mark.parametrize("images", [24, 60])
def test_noise_is_no_shortcut_however_few_its_images(images: int) -> None:
    """With a limit of two standard errors, 31 of 50 folders like these had a warning."""
    warned = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        facts = {name: generator.random(images) for name in ("width", "height", "bytes", "red", "border")}
        manifest, table = tables(["a", "b"] * (images // 2), **facts)
        manifest["split"] = np.where(generator.random(images) < 0.2, "test", "train").astype(object)
        warned += len(select_shortcuts(probe_shortcuts(manifest, table, seed), 0.25)) > 0
    assert warned <= 1


def test_a_size_that_gives_one_class_of_four_away_is_a_shortcut() -> None:
    """As in brain_mri, where all images of a class are of one size, which is rare among the others."""
    generator = np.random.default_rng(5)
    labels = ["a", "b", "c", "d"] * 50
    width = [512 if label == "a" or generator.random() < 0.1 else generator.integers(150, 500) for label in labels]
    assert "width" in select_shortcuts(probe_shortcuts(*tables(labels, width=width), 0), 0.25)["facts"].tolist()


def test_the_luck_of_few_images_is_no_shortcut() -> None:
    row = {"facts": "width", "skill": 0.4, "error": 0.11, "test_skill": np.nan, "test_error": np.nan}
    assert select_shortcuts(pd.DataFrame([row]), 0.25).empty
    assert len(select_shortcuts(pd.DataFrame([row | {"error": 0.09}]), 0.25)) == 1
    assert len(select_shortcuts(pd.DataFrame([row | {"test_skill": 0.3, "test_error": 0.01}]), 0.25)) == 1
    assert select_shortcuts(pd.DataFrame([row | {"error": 0.09}]), 0.41).empty
    assert len(select_shortcuts(pd.DataFrame([row | {"error": 0.09}]), 0.4)) == 1


def test_a_class_in_a_single_group_cannot_be_probed() -> None:
    manifest, images = tables(["a"] * 20 + ["b"] * 5)
    manifest.loc[20:, "group"] = "P"
    probe = probe_shortcuts(manifest, images, 0)
    assert probe["skill"].isna().all()
    assert select_shortcuts(probe, 0.0).empty
    assert shortcuts_warning(probe, 0.25) == ""


def test_many_rows_are_drawn_by_lot_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MAX_PROBED_IMAGES", 50)
    manifest, images = tables(["a", "b"] * 100)
    probe = probe_shortcuts(manifest, images, 3)
    assert probe["images"].tolist() == [50] * len(probe)
    pd.testing.assert_frame_equal(probe, probe_shortcuts(manifest.sample(frac=1, random_state=0), images[::-1], 3))
