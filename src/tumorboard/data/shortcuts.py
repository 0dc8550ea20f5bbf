"""Measures how well facts of the files, such as their size or format, predict the class.

A shortcut is a fact whose skill is large and could hardly be luck: the labels of whole groups are permuted, because
pictures of one patient share scanner and label, and twelve patients are twelve pieces of evidence, not a thousand.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Images, Manifest
from tumorboard.data.grouping import factorize

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

FACTS = {  # columns of the table of images by the name of the fact, which is also a key of the metrics
    "width": ["width"],
    "height": ["height"],
    "width and height": ["width", "height"],
    "file size": ["bytes"],
    "format": ["format"],
    "mean color": ["red", "green", "blue"],
    "border": ["border"],
}
EVERYTHING = "all of them"
SCORES = ("accuracy", "majority", "skill")
PROBE_COLUMNS = ("facts", "images", *SCORES, "p")
TEST_COLUMNS = ("facts", "images", *SCORES)
FOLDS = 5  # folds of the cross-validation
TREES = 10  # trees of the random forest
MAX_PROBED_IMAGES = 10_000  # images that are probed
MAX_PERMUTED_IMAGES = 1_000  # images whose labels are permuted
PERMUTATIONS = 99  # permutations of the labels; fewer where it is clear earlier that no fact is significant
MAX_P = 0.05  # largest p of a shortcut: the chance that any fact of data without a shortcut does as well

Features: TypeAlias = NDArray[np.float64]  # [N, D]
Codes: TypeAlias = NDArray[np.int64]  # [N]
ShortcutScores: TypeAlias = pd.DataFrame  # one row per fact: PROBE_COLUMNS
TestShortcutScores: TypeAlias = pd.DataFrame  # one row per fact: TEST_COLUMNS


def probe_shortcuts(manifest: Manifest, images: Images, seed: int, threshold: float) -> ShortcutScores:
    """Scores a random forest per fact that predicts the label from this fact of the files alone.

    Nothing depends on rows of the test set.

    Args:
        manifest: the Manifest after the split.
        images: one row per image with id, width, height, bytes, format, red, green, blue, border, as text or numbers.
        seed: the seed of folds, forests and permutations, and of the draw from more than MAX_PROBED_IMAGES rows.
        threshold: skill from which a fact is tested, as `audit.shortcut`.

    Returns:
        One row per fact of FACTS and one for EVERYTHING. `images`: rows that are not 'test'. `accuracy`, `majority`
        (the accuracy of always predicting the most frequent class) and `skill` (balanced accuracy rescaled so that
        guessing is 0 and perfect is 1): of a cross-validation over whole groups. `p`: see `_permutation_p`; NaN for a
        fact whose skill is below `threshold`. NaN where a score cannot be computed: a class in one group.

    Source: scikit-learn's RandomForestClassifier and `balanced_accuracy_score(adjusted=True)`.
    """
    rows = _draw_rows(manifest[manifest["split"] != "test"], MAX_PROBED_IMAGES, seed)
    features = _features_of(rows, images)
    labels, groups = factorize(rows["label"])[1], factorize(rows["group"])[1]
    folds = _folds(labels, groups, seed)
    scores = [(name, len(rows), *_cross_validate(table, labels, folds, seed)) for name, table in features.items()]
    probe = pd.DataFrame(scores, columns=list(PROBE_COLUMNS[:-1]))
    tested = (probe["skill"] >= threshold).to_numpy()
    probe["p"] = np.nan
    if tested.any():
        few = _draw_rows(rows, MAX_PERMUTED_IMAGES, seed)
        p = _permutation_p(list(_features_of(few, images).values()), few, tested, seed)
        probe["p"] = np.where(tested, p, np.nan)
    return probe


def probe_test_shortcuts(manifest: Manifest, images: Images, seed: int) -> TestShortcutScores:
    """Scores forests as in `probe_shortcuts` on the rows of the test set, trained on the others.

    Args:
        manifest: the Manifest after the split.
        images: as for `probe_shortcuts`.
        seed: the seed of the forests and of the draws.

    Returns:
        One row per fact; `images`: rows of the test set. NaN where there is no test set, or it has one class.
    """
    parts = [manifest[(manifest["split"] == "test") == is_test] for is_test in (False, True)]
    train, test = (_draw_rows(part, MAX_PROBED_IMAGES, seed) for part in parts)
    features = _features_of(pd.concat([train, test]), images)
    labels = factorize(pd.concat([train, test])["label"])[1]
    is_test = np.arange(len(labels)) >= len(train)
    scores = [(name, len(test), *_train_and_test(table, labels, is_test, seed)) for name, table in features.items()]
    return pd.DataFrame(scores, columns=list(TEST_COLUMNS))


def _draw_rows(rows: Manifest, count: int, seed: int) -> Manifest:
    """Returns `count` rows drawn at random, or all rows if they are fewer, sorted by id."""
    rows = rows.sort_values("id", ignore_index=True)
    return rows.iloc[np.sort(order(seed, keys_of(rows["id"].tolist()), 0)[:count])].reset_index(drop=True)


def _features_of(rows: Manifest, images: Images) -> dict[str, Features]:
    """Returns the features of each fact, and of EVERYTHING, for the rows of a Manifest."""
    facts = images.set_index("id").loc[rows["source_id"]]
    every_column = list(dict.fromkeys(column for columns in FACTS.values() for column in columns))
    numbers = facts[[column for column in every_column if column != "format"]].astype(np.float64)
    numbers["format"] = factorize(facts["format"])[1]
    return {name: numbers[columns].to_numpy() for name, columns in (FACTS | {EVERYTHING: every_column}).items()}


def select_shortcuts(probe: ShortcutScores, threshold: float) -> ShortcutScores:
    """Returns the rows of a probe whose skill reaches `threshold` with a `p` of at most MAX_P."""
    numbers = probe[["skill", "p"]].astype(np.float64)
    return probe[(numbers["skill"] >= threshold) & (numbers["p"] <= MAX_P)]


def count_shortcuts(probe: ShortcutScores, threshold: float) -> dict[str, Any]:
    """Returns a probe for the metrics, flat: the number of shortcuts, and the skill of each fact."""
    return {"shortcuts": len(select_shortcuts(probe, threshold))} | _skills(probe)


def count_test_shortcuts(probe: TestShortcutScores) -> dict[str, Any]:
    """Returns the skill of each fact on the test set for the metrics, flat."""
    return _skills(probe)


def _skills(probe: pd.DataFrame) -> dict[str, Any]:
    return {
        f"shortcut_{str(name).replace(' ', '_')}": skill
        for name, skill in zip(probe["facts"], probe["skill"], strict=True)
    }


def shortcuts_warning(probe: ShortcutScores, threshold: float) -> str:
    """Returns a sentence that names the shortcuts with their skills, or '' where there are none."""
    shortcuts = select_shortcuts(probe, threshold)
    if shortcuts.empty:
        return ""
    listed = ", ".join(f"{row['facts']} {row['skill']:.2f}" for row in shortcuts.to_dict("records"))
    return (
        "facts of the files alone predict the class, and a model may learn them instead of the disease (skill, from "
        f"0, guessing, to 1, perfect): {listed}"
    )


def _forest(seed: int) -> "RandomForestClassifier":
    from sklearn.ensemble import RandomForestClassifier  # here, because it is slow to import

    # Leaves of one image: the exact size that one scanner writes may give a class away.
    return RandomForestClassifier(
        TREES, max_features=None, class_weight="balanced", random_state=seed % 2**32, n_jobs=1
    )


def _cross_validate(
    features: Features, labels: Codes, folds: Sequence[tuple[Codes, Codes]], seed: int
) -> tuple[float, ...]:
    """Returns SCORES over the folds of `_folds`; NaN where there are none."""
    if not folds:
        return (np.nan,) * len(SCORES)
    predicted = np.empty_like(labels)
    for train, validation in folds:
        predicted[validation] = _forest(seed).fit(features[train], labels[train]).predict(features[validation])
    return _score(labels, predicted)


def _folds(labels: Codes, groups: Codes, seed: int) -> list[tuple[Codes, Codes]]:
    """Returns the training and validation rows of FOLDS folds of whole groups.

    There are fewer where a class has fewer groups, and none where one has a single group.
    """
    classes = np.unique(labels)
    folds = min([FOLDS, *(len(np.unique(groups[labels == label])) for label in classes)])
    if len(classes) < 2 or folds < 2:
        return []
    from tumorboard.data.group_folds import StratifiedGroups  # here, because scikit-learn is slow to import

    splitter = StratifiedGroups(folds, shuffle=True, random_state=seed % 2**32)
    return list(splitter.split(labels, labels, groups))


def _train_and_test(features: Features, labels: Codes, test: NDArray[np.bool_], seed: int) -> tuple[float, ...]:
    """Returns SCORES on the rows of `test`, trained on the others."""
    if not test.any() or len(np.unique(labels[~test])) < 2 or len(np.unique(labels[test])) < 2:
        return (np.nan,) * len(SCORES)
    predicted = _forest(seed).fit(features[~test], labels[~test]).predict(features[test])
    return _score(labels[test], predicted)


def _score(labels: Codes, predicted: Codes) -> tuple[float, float, float]:
    """Returns SCORES of predictions."""
    majority = float(np.bincount(labels).max() / len(labels))
    # Only the classes that are present count; scikit-learn would warn of the others that were predicted.
    present = np.unique(labels)
    recalls = np.array([(predicted[labels == label] == label).mean() for label in present])
    guess = 1 / len(present)
    return float((predicted == labels).mean()), majority, float((recalls.mean() - guess) / (1 - guess))


def _permutation_p(
    features: Sequence[Features], rows: Manifest, tested: NDArray[np.bool_], seed: int
) -> NDArray[np.float64]:
    """Tests the skill of each fact against permutations of the labels over groups.

    In each permutation every group takes the labels of another one, and the best studentized skill of all facts is
    kept, so that the chance of any false alarm among the facts is at most MAX_P. The skills are those of single trees,
    refitted to each permutation: predictions kept from the data would not show that two neighbors decide for
    each other.

    Args:
        features: the features of each fact.
        rows: the rows of `features`, with label and group.
        tested: bool[F], the facts that matter; it ends early when each of them is beyond MAX_P.
        seed: the seed of the folds and permutations.

    Returns:
        float64[F], p of each fact: the share of permutations, the data among them, whose best studentized skill is
        at least the fact's own.

    Source: Westfall & Young 1993 (the best of all); Besag & Clifford 1991 (the early end).
    """
    labels, groups = factorize(rows["label"])[1], factorize(rows["group"])[1]
    varying = [fact for fact, table in enumerate(features) if (table != table[0]).any()]
    tables = {fact: np.ascontiguousarray(features[fact], dtype=np.float32) for fact in varying}
    own = np.zeros(len(features))
    own[varying] = _studentized_tree_skills(tables, labels, groups, seed)
    rng = Generator(Philox(key=np.array([seed % 2**64, keys_of(["shortcuts"])[0]], dtype=np.uint64)))
    reached, drawn = np.ones(len(features)), 1
    most = MAX_P * (1 + PERMUTATIONS)
    while drawn <= PERMUTATIONS and (reached[tested] <= most).any():
        skills = _studentized_tree_skills(tables, _permute_labels(labels, groups, rng), groups, seed)
        reached += skills.max(initial=0.0) >= own - 1e-9
        drawn += 1
    return np.where(reached > most, np.maximum(reached / drawn, np.nextafter(MAX_P, 1)), reached / drawn)


def _permute_labels(labels: Codes, groups: Codes, rng: Generator) -> Codes:
    """Gives each group the labels of another group in random order, repeated or cut to its own number of rows."""
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    permuted = np.empty_like(labels)
    for taker, donor in zip(members, rng.permutation(len(members)), strict=True):
        permuted[taker] = np.resize(rng.permutation(labels[members[donor]]), len(taker))
    return permuted


def _studentized_tree_skills(
    tables: Mapping[int, NDArray[np.float32]], labels: Codes, groups: Codes, seed: int
) -> NDArray[np.float64]:
    """Returns `_studentized_skill` of a cross-validated tree per fact; zeros where a class has one group only."""
    folds = _folds(labels, groups, seed)
    if not folds:
        return np.zeros(len(tables))
    from sklearn.tree import DecisionTreeClassifier  # here, because it is slow to import

    # Without scikit-learn's checks of its input, which take longer than these small trees.
    weights = 1 / np.bincount(labels)[labels]  # as class_weight="balanced" for the trees
    skills = []
    for table in tables.values():
        predicted = np.empty_like(labels)
        for train, validation in folds:
            tree = DecisionTreeClassifier(random_state=seed % 2**32)
            tree.fit(table[train], labels[train], sample_weight=weights[train], check_input=False)
            predicted[validation] = tree.predict(table[validation], check_input=False)
        skills.append(_studentized_skill(labels, predicted, groups))
    return np.array(skills)


def _studentized_skill(labels: Codes, predicted: Codes, groups: Codes) -> float:
    """Returns the skill of predictions divided by its standard error, where groups and classes weigh the same.

    The skill is a sum of one part per group, and its standard error the root of the sum of their squares. A fact that
    is right in three of four images of each of 12 patients has 3.5; one that is right in all images of nine patients
    and in none of the others has the same skill and 1.7, for it may be luck.

    Args:
        labels: codes of the classes.
        predicted: codes of the classes.
        groups: codes of the G groups, from 0.

    Returns:
        From -sqrt(G) to sqrt(G), about N(0, 1) for guesses; 0 where all parts are 0.

    Source: the score test with a variance of clusters, as in Boos, "On generalized score tests", 1992.
    """
    weights = 1 / np.bincount(groups)[groups]
    of_class = np.bincount(labels, weights)
    gains = (predicted == labels) - 1 / np.count_nonzero(of_class)  # gain over guessing
    parts = np.bincount(groups, weights * gains / of_class[labels])
    spread = float(np.sqrt((parts**2).sum()))
    return float(parts.sum()) / spread if spread > 1e-9 else 0.0  # less is rounding
