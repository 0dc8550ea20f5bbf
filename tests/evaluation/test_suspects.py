import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.suspects import SUSPECT_COLUMNS, find_suspects


def draw(seed, flipped, classes=3, images=600, skill=4.0):
    """Returns Predictions of a model with about 96 % accuracy, and the ids whose labels were flipped afterwards."""
    generator = np.random.default_rng(seed)
    actual = generator.integers(classes, size=images)
    logits = generator.normal(size=(images, classes)) * 1.5
    logits[np.arange(images), actual] += skill
    flips = generator.uniform(size=images) < flipped
    labels = np.where(flips, (actual + generator.integers(1, classes, size=images)) % classes, actual)
    return predictions(labels, softmax(logits, axis=1)), {f"i{k:04}" for k in np.flatnonzero(flips)}


def predictions(labels, probabilities):
    names = [f"c{k}" for k in range(probabilities.shape[1])]
    rows = pd.DataFrame({"id": [f"i{k:04}" for k in range(len(labels))], "group": "g", "split": "val"})
    return make_predictions(rows.assign(label=[names[k] for k in labels]), probabilities, names, "digest")


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_flipped_labels_are_found(classes):
    recalls, precisions = [], []
    for seed in range(5):
        table, flips = draw(seed, 0.05, classes)
        suspects = find_suspects(table)
        recalls.append(len(flips & set(suspects["id"])) / len(flips))
        precisions.append(len(flips & set(suspects["id"][:20])) / 20)
    assert np.mean(recalls) >= 0.7
    assert np.mean(precisions) >= 0.6


def test_right_labels_give_a_short_list():
    assert np.mean([len(find_suspects(draw(seed, 0)[0])) for seed in range(5)]) < 6  # of 600


def test_columns_by_hand():
    """Twenty sure images of each class, and one of each that the model calls the other one."""
    ill = np.array([0.95] * 20 + [0.02] + [0.05] * 20 + [0.94])
    labels = [0] * 21 + [1] * 21
    table = predictions(labels, np.stack([ill, 1 - ill], 1))
    suspects = find_suspects(table.sample(frac=1, random_state=0))
    assert tuple(suspects.columns) == SUSPECT_COLUMNS
    assert suspects[["rank", "id", "group", "label", "suggested"]].to_numpy().tolist() == [
        [1, "i0020", "g", "c0", "c1"],
        [2, "i0041", "g", "c1", "c0"],
    ]
    assert suspects["p_label"].to_numpy() == pytest.approx([0.02, 0.06])
    assert suspects["p_suggested"].to_numpy() == pytest.approx([0.98, 0.94])


def test_the_order_of_rows_does_not_matter():
    table, _ = draw(1, 0.05)
    rounded = predictions_rounded(table)
    pd.testing.assert_frame_equal(find_suspects(rounded), find_suspects(rounded.sample(frac=1, random_state=1)))


def predictions_rounded(table):
    """Returns two classes' Predictions with many equal probabilities."""
    first = (table["p_c0"] * 20).round() / 20
    labels = (table["label"] != "c0").astype(int)
    return predictions(labels.to_numpy(), np.stack([first, 1 - first], 1))


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        pytest.param([0, 0, 0], [[0.1, 0.9]] * 3, id="one class only"),
        pytest.param([0], [[0.1, 0.9]], id="one image"),
        pytest.param([0, 1], [[0.5, 0.5]] * 2, id="no opinion"),
        pytest.param([0, 2, 2, 0], [[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0], [0, 1.0, 0]], id="a class without images"),
        pytest.param([0, 1, 1, 0], [[1.0, 0], [0, 1.0], [0, 1.0], [1.0, 0]], id="saturated"),
    ],
)
def test_ugly_tables_give_a_table_and_no_warning(labels, probabilities):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suspects = find_suspects(predictions(labels, np.array(probabilities)))
    assert tuple(suspects.columns) == SUSPECT_COLUMNS
    assert (suspects["label"] != suspects["suggested"]).all()


def test_the_suggested_class_has_images():
    table = predictions(
        [0] * 20 + [2] * 20 + [2], np.array([[0.9, 0.0, 0.1]] * 20 + [[0.1, 0.0, 0.9]] * 20 + [[0.3, 0.7, 0.0]])
    )
    suspects = find_suspects(table)
    assert suspects["id"].tolist() == ["i0040"]
    assert suspects["suggested"].tolist() == ["c0"]
    assert suspects["p_suggested"].tolist() == [0.3]


def test_images_without_labels_are_refused():
    table = predictions([0, 1], np.array([[0.1, 0.9]] * 2)).assign(label=["c0", ""])
    with pytest.raises(InputError, match="'i0001' has no label"):
        find_suspects(table)
