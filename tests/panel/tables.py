"""Small Predictions tables, and outputs of members, for the tests of members, comparison and the stage ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from tumorboard.base.tables import Predictions, make_predictions
from tumorboard.evaluation.held_out import HeldOut, assign_parts
from tumorboard.panel.comparison import MemberOutputs


def predictions_of(
    rows: Sequence[tuple[Any, ...]], digest: str = "digest", classes: Sequence[str] = ("a", "b")
) -> Predictions:
    """Returns Predictions of (id, split, label, probabilities...) tuples, each row in a group of its own."""
    frame = pd.DataFrame([row[:3] for row in rows], columns=["id", "split", "label"])
    frame["group"] = "g " + frame["id"]
    return make_predictions(frame, np.array([row[3:] for row in rows], dtype=float), list(classes), digest)


def rows_of(ids: Sequence[str], split: str, labels: Sequence[str], size: int = 2) -> pd.DataFrame:
    """Returns rows in groups of `size`: the digits of an id, divided by it, are the group."""
    groups = [f"patient {int(''.join(filter(str.isdigit, one))) // size}" for one in ids]
    return pd.DataFrame({"id": list(ids), "group": groups, "split": split, "label": list(labels)})


def outputs_of(
    validation: pd.DataFrame,
    logits: NDArray[np.floating[Any]],
    test: Predictions,
    classes: Sequence[str] = ("a", "b"),
) -> MemberOutputs:
    """Returns what a model of one fold predicted.

    Args:
        validation: N rows.
        logits: [P + 1, N, K] by choice of the epoch; P is the number of parts that the groups of the rows have.
        test: its predictions for test rows.
        classes: names.
    """
    parts = assign_parts(validation["group"].tolist())
    choices = len(logits)
    assert choices == parts.max() + 2
    held_out = HeldOut(parts, logits.astype(np.float32), np.arange(1, choices + 1), np.zeros(choices))
    own = softmax(held_out.own_logits.astype(np.float64), axis=1)
    return MemberOutputs(make_predictions(validation, own, list(classes), "digest"), held_out, test)


def panel_outputs(
    seed: int,
    folds: Mapping[int, Sequence[str]],
    models: Sequence[str] = ("one", "two", "three"),
    tests: int = 16,
    flipped: str | None = None,
) -> dict[str, dict[int, MemberOutputs]]:
    """Returns outputs of overconfident members of rising skill, which differ from part to part.

    Args:
        seed: seed of the numbers.
        folds: ids of the validation rows of each fold; they end with a number, and two in a row are one group.
        models: their names.
        tests: number of test rows.
        flipped: id of a validation row that gets the other label; the outputs are as without.
    """
    generator = np.random.default_rng(seed)
    test_labels = generator.integers(0, 2, tests)
    test_rows = rows_of([f"t{number}" for number in range(tests)], "test", ["ab"[label] for label in test_labels])
    labels = {fold: generator.integers(0, 2, len(ids)) for fold, ids in folds.items()}
    outputs: dict[str, dict[int, MemberOutputs]] = {}
    for skill, model in enumerate(models, 1):
        outputs[model] = {}
        for fold, ids in folds.items():
            given = ["ab"[label if one != flipped else 1 - label] for label, one in zip(labels[fold], ids, strict=True)]
            rows = rows_of(ids, "val", given)
            choices = assign_parts(rows["group"].tolist()).max() + 2
            logits = 3 * generator.normal(size=(choices, len(ids), 2)) + skill * np.eye(2)[labels[fold]]
            of_test = softmax(3 * generator.normal(size=(tests, 2)) + skill * np.eye(2)[test_labels], axis=1)
            outputs[model][fold] = outputs_of(rows, logits, make_predictions(test_rows, of_test, ["a", "b"], "digest"))
    return outputs
