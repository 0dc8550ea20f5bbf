"""How much of the class shows in what a file is, not in what the picture shows."""

import sys
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from tumorboard.randomness import keys_of, order

FACTS = {
    "width": ["width"],
    "height": ["height"],
    "width and height": ["width", "height"],
    "file size": ["bytes"],
    "format": ["format"],
    "mean colour": ["red", "green", "blue"],
    "border": ["border"],
}
EVERYTHING = "all of them"
FOLDS = 5
MOST = 10000  # images that are probed
# Standard errors above guessing from which a skill is no luck. 16 skills are looked at, for which 2.9 would do; but in
# noise two neighbours decide for each other, which counts one piece of luck twice: times the root of two.
ERRORS = 4.0

Numbers = NDArray[np.float64]


def probe_shortcuts(manifest: pd.DataFrame, images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How well facts of the files predict the label; a row a fact (FACTS), and one for all of them.

    `images` has id, width, height, bytes, format, red, green, blue, border, as text or numbers. Columns: facts; images;
    accuracy, majority (always naming the commonest class), skill and its standard error, cross-validated over whole
    groups of the rows that are not 'test'; the same four as test_..., trained on those rows and scored on the 'test'
    rows. Skill is the balanced accuracy on a scale from guessing (0) to perfect (1): scikit-learn's `adjusted`; the
    error is that of independent images, the larger of the one at the recalls found and the one under guessing (a recall
    of 1 among three images has no error of its own). The model is a random forest with balanced class weights
    (scikit-learn). What cannot be computed is nan: a class in one group, no test part. Of very many rows, 10,000 are
    drawn by lot.
    """
    rows = manifest.sort_values("id", ignore_index=True)
    rows = rows.iloc[np.sort(order(seed, keys_of(rows["id"].tolist()), 0)[:MOST])]
    facts = images.set_index("id").loc[rows["source_id"]]
    numbers = facts.drop(columns=["format", "pixels"], errors="ignore").astype(np.float64)
    numbers["format"] = np.unique(facts["format"].to_numpy(object).astype(str), return_inverse=True)[1]
    labels = np.unique(rows["label"].to_numpy(object), return_inverse=True)[1]
    groups = np.unique(rows["group"].to_numpy(object), return_inverse=True)[1]
    test = (rows["split"] == "test").to_numpy()
    sets = FACTS | {EVERYTHING: [column for columns in FACTS.values() for column in columns]}
    sets[EVERYTHING] = list(dict.fromkeys(sets[EVERYTHING]))
    results = []
    for name, columns in sets.items():
        values = numbers[columns].to_numpy()
        own = _cross_validate(values[~test], labels[~test], groups[~test], seed)
        given = _train_and_test(values, labels, test, seed)
        results.append((name, int((~test).sum()), *own, *given))
    scores = ("accuracy", "majority", "skill", "error")
    return pd.DataFrame(results, columns=["facts", "images", *scores, *(f"test_{score}" for score in scores)])


def count_shortcuts(shortcuts: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """The probe for the metrics: skills by fact, the baseline, and how many facts reach the threshold."""
    counts: dict[str, Any] = {"shortcuts": len(found_shortcuts(shortcuts, threshold))}
    for row in shortcuts.to_dict("records"):
        name = str(row["facts"]).replace(" ", "_")
        counts |= {f"shortcut_{name}": row["skill"], f"shortcut_{name}_accuracy": row["accuracy"]}
        counts[f"shortcut_{name}_test_accuracy"] = row["test_accuracy"]
    counts["shortcut_majority"] = shortcuts["majority"].iloc[0]
    counts["shortcut_test_majority"] = shortcuts["test_majority"].iloc[0]
    return counts


def found_shortcuts(shortcuts: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of a probe whose skill, cross-validated or on the test part, is `threshold` or more, and no chance.

    Chance is ruled out where the skill is ERRORS standard errors above guessing: few images may look like anything.
    """
    numbers = shortcuts.drop(columns="facts").astype(np.float64)
    reached = [
        (numbers[f"{part}skill"] >= threshold) & (numbers[f"{part}skill"] > ERRORS * numbers[f"{part}error"])
        for part in ("", "test_")
    ]
    return shortcuts[reached[0] | reached[1]]


def warn_of_shortcuts(shortcuts: pd.DataFrame, threshold: float) -> None:
    """Name on standard error the facts that reach the threshold."""
    found = found_shortcuts(shortcuts, threshold)
    if len(found):
        listed = ", ".join(
            f"{row['facts']} {row['accuracy']:.1%}"
            + ("" if np.isnan(row["test_accuracy"]) else f" ({row['test_accuracy']:.1%} on the test part)")
            for row in found.to_dict("records")
        )
        print(
            f"shortcuts: the class shows in facts of the files alone, which a model may learn instead of the disease "
            f"(accuracy; always naming the commonest class: {shortcuts['majority'].iloc[0]:.1%}): {listed}",
            file=sys.stderr,
        )


def _model(seed: int) -> RandomForestClassifier:
    # Leaves of one image: a single scanner's very size may give a class away.
    return RandomForestClassifier(10, max_features=None, class_weight="balanced", random_state=seed % 2**32, n_jobs=1)


def _cross_validate(
    values: Numbers, labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> tuple[float, ...]:
    """Accuracy, majority, skill and its error over folds of whole groups, at most as many as a class has groups."""
    classes = np.unique(labels)
    folds = min([FOLDS, *(len(np.unique(groups[labels == label])) for label in classes)])
    if len(classes) < 2 or folds < 2:
        return (np.nan,) * 4
    decided = np.empty_like(labels)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    for train, validation in splitter.split(values, labels, groups):
        decided[validation] = _model(seed).fit(values[train], labels[train]).predict(values[validation])
    return _score(labels, decided)


def _train_and_test(
    values: Numbers, labels: NDArray[np.int64], test: NDArray[np.bool_], seed: int
) -> tuple[float, ...]:
    if not test.any() or len(np.unique(labels[~test])) < 2 or len(np.unique(labels[test])) < 2:
        return (np.nan,) * 4
    decided = _model(seed).fit(values[~test], labels[~test]).predict(values[test])
    return _score(labels[test], decided)


def _score(labels: NDArray[np.int64], decided: NDArray[np.int64]) -> tuple[float, ...]:
    majority = float(np.bincount(labels).max() / len(labels))
    # Averaged over the classes that are there; scikit-learn would warn of others that were decided for.
    known = np.unique(labels)
    counts = np.array([(labels == label).sum() for label in known])
    recalls = np.array([(decided[labels == label] == label).mean() for label in known])
    range_ = 1 - 1 / len(known)
    skill = (recalls.mean() - 1 / len(known)) / range_
    spread = max((share * (1 - share) / counts).sum() for share in (recalls, 1 / len(known)))
    error = np.sqrt(spread) / len(known) / range_
    return float((decided == labels).mean()), majority, float(skill), float(error)
