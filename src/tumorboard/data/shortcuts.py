"""Measures how well facts of the files, such as their size or format, predict the class."""

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Images, Manifest
from tumorboard.data.grouping import factorize

FACTS = {  # columns of the table of images by the name of the fact, which is also a key of the metrics
    "width": ["width"],
    "height": ["height"],
    "width and height": ["width", "height"],
    "file size": ["bytes"],
    "format": ["format"],
    "mean colour": ["red", "green", "blue"],
    "border": ["border"],
}
EVERYTHING = "all of them"
SCORES = ("accuracy", "majority", "skill", "error")
PROBE_COLUMNS = ("facts", "images", *SCORES, *(f"test_{score}" for score in SCORES))
FOLDS = 5  # of the cross-validation
TREES = 10  # of the random forest
MAX_PROBED_IMAGES = 10_000  # images that are probed
# Standard errors that a skill must lie above guessing. The 16 skills of a probe would need 2.9; but in noise two
# neighbors decide for each other, which counts one piece of luck twice: times the square root of two.
MIN_ERRORS = 4.0

Features: TypeAlias = NDArray[np.float64]  # [N, D]
Codes: TypeAlias = NDArray[np.int64]  # [N]
ShortcutScores: TypeAlias = pd.DataFrame  # one row per fact: PROBE_COLUMNS


def probe_shortcuts(manifest: Manifest, images: Images, seed: int) -> ShortcutScores:
    """Scores a random forest per fact that predicts the label from this fact of the files alone.

    Args:
        manifest: after the split.
        images: one row per image with id, width, height, bytes, format, red, green, blue, border, as text or numbers.
        seed: of the folds, of the forests, and of the draw where there are more than MAX_PROBED_IMAGES rows.

    Returns:
        One row per fact of FACTS and one for EVERYTHING. `images`: rows that are not 'test'. `accuracy`, `majority`
        (the accuracy of always predicting the most frequent class), `skill` (balanced accuracy rescaled so that
        guessing is 0 and perfect is 1) and `error` (the standard error of the skill for independent images): of a
        cross-validation over whole groups of these rows. The same four as `test_<score>`: trained on these rows, scored
        on the 'test' rows. NaN where a score cannot be computed: a class in one group, no test set.

    Source: scikit-learn's RandomForestClassifier and `balanced_accuracy_score(adjusted=True)`.
    """
    rows = manifest.sort_values("id", ignore_index=True)
    rows = rows.iloc[np.sort(order(seed, keys_of(rows["id"].tolist()), 0)[:MAX_PROBED_IMAGES])]
    facts = images.set_index("id").loc[rows["source_id"]]
    every_column = dict.fromkeys(column for columns in FACTS.values() for column in columns)
    numbers = facts[[column for column in every_column if column != "format"]].astype(np.float64)
    numbers["format"] = factorize(facts["format"])[1]
    labels, groups = factorize(rows["label"])[1], factorize(rows["group"])[1]
    test = (rows["split"] == "test").to_numpy()
    scores = []
    for name, columns in (FACTS | {EVERYTHING: list(every_column)}).items():
        features = numbers[columns].to_numpy()
        validated = _cross_validate(features[~test], labels[~test], groups[~test], seed)
        tested = _train_and_test(features, labels, test, seed)
        scores.append((name, int((~test).sum()), *validated, *tested))
    return pd.DataFrame(scores, columns=list(PROBE_COLUMNS))


def select_shortcuts(probe: ShortcutScores, threshold: float) -> ShortcutScores:
    """Returns the rows of a probe whose skill, cross-validated or on the test set, reaches `threshold`.

    The skill must also be more than MIN_ERRORS standard errors above guessing, because among few images any fact may
    predict the class by chance.
    """
    numbers = probe.drop(columns="facts").astype(np.float64)
    validated, tested = (
        (numbers[f"{part}skill"] >= threshold) & (numbers[f"{part}skill"] > MIN_ERRORS * numbers[f"{part}error"])
        for part in ("", "test_")
    )
    return probe[validated | tested]


def count_shortcuts(probe: ShortcutScores, threshold: float) -> dict[str, Any]:
    """Returns a probe for the metrics, flat: the number of shortcuts, skill and accuracies per fact, the baselines."""
    counts: dict[str, Any] = {"shortcuts": len(select_shortcuts(probe, threshold))}
    for row in probe.to_dict("records"):
        name = str(row["facts"]).replace(" ", "_")
        counts |= {f"shortcut_{name}": row["skill"], f"shortcut_{name}_accuracy": row["accuracy"]}
        counts[f"shortcut_{name}_test_accuracy"] = row["test_accuracy"]
    counts["shortcut_majority"] = probe["majority"].iloc[0]
    counts["shortcut_test_majority"] = probe["test_majority"].iloc[0]
    return counts


def shortcuts_warning(probe: ShortcutScores, threshold: float) -> str:
    """Returns a sentence that names the shortcuts with their accuracies, or '' where there are none."""
    shortcuts = select_shortcuts(probe, threshold)
    if shortcuts.empty:
        return ""
    listed = ", ".join(
        f"{row['facts']} {row['accuracy']:.1%}"
        + ("" if np.isnan(row["test_accuracy"]) else f" ({row['test_accuracy']:.1%} on the test set)")
        for row in shortcuts.to_dict("records")
    )
    return (
        "facts of the files alone predict the class, and a model may learn them instead of the disease (accuracy; "
        f"always predicting the most frequent class: {probe['majority'].iloc[0]:.1%}): {listed}"
    )


def _forest(seed: int) -> RandomForestClassifier:
    # Leaves of one image: the exact size that one scanner writes may give a class away.
    return RandomForestClassifier(
        TREES, max_features=None, class_weight="balanced", random_state=seed % 2**32, n_jobs=1
    )


def _cross_validate(features: Features, labels: Codes, groups: Codes, seed: int) -> tuple[float, ...]:
    """Returns SCORES over FOLDS folds of whole groups, or fewer where a class has fewer groups."""
    classes = np.unique(labels)
    folds = min([FOLDS, *(len(np.unique(groups[labels == label])) for label in classes)])
    if len(classes) < 2 or folds < 2:
        return (np.nan,) * len(SCORES)
    predicted = np.empty_like(labels)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    for train, validation in splitter.split(features, labels, groups):
        predicted[validation] = _forest(seed).fit(features[train], labels[train]).predict(features[validation])
    return _score(labels, predicted)


def _train_and_test(features: Features, labels: Codes, test: NDArray[np.bool_], seed: int) -> tuple[float, ...]:
    """Returns SCORES on the rows of `test`, trained on the others."""
    if not test.any() or len(np.unique(labels[~test])) < 2 or len(np.unique(labels[test])) < 2:
        return (np.nan,) * len(SCORES)
    predicted = _forest(seed).fit(features[~test], labels[~test]).predict(features[test])
    return _score(labels[test], predicted)


def _score(labels: Codes, predicted: Codes) -> tuple[float, float, float, float]:
    """Returns SCORES of predictions.

    The error is the larger one of two: at the recalls that were measured, and at those of guessing, since a recall of 1
    among three images has no error of its own.
    """
    majority = float(np.bincount(labels).max() / len(labels))
    # Only the classes that are present count; scikit-learn would warn of the others that were predicted.
    present = np.unique(labels)
    counts = np.array([(labels == label).sum() for label in present])
    recalls = np.array([(predicted[labels == label] == label).mean() for label in present])
    guess = 1 / len(present)
    scale = 1 - guess
    skill = (recalls.mean() - guess) / scale
    variance = max((share * (1 - share) / counts).sum() for share in (recalls, guess))
    error = np.sqrt(variance) / len(present) / scale
    return float((predicted == labels).mean()), majority, float(skill), float(error)
