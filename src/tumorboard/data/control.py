"""Shuffles the labels over the groups: a null control, in which no picture has information about its label.

A pipeline whose scores are above chance on shuffled labels leaks the answer somewhere.

Example:
    >>> groups = ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4"]
    >>> rows = pd.DataFrame({"id": list("stuvwxyz"), "group": groups, "split": "", "label": list("aaaabbbb")})
    >>> pictures = pd.Series(rows["id"].to_numpy(), index=rows["id"])
    >>> shuffle_labels(rows, pictures, seed=3)["label"].tolist()  # two patients have a, as before
    ['b', 'b', 'a', 'a', 'a', 'a', 'b', 'b']
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Manifest
from tumorboard.data.audit import Pictures
from tumorboard.data.grouping import factorize
from tumorboard.data.split import PART_RANK, merge_groups

TOLERANCE = 0.05  # largest difference of a class's share of the images from before
ATTEMPTS = 100  # permutations that are tried to stay within TOLERANCE; the closest one is kept
STREAM = "control//"  # prefix of the names, so that no other draw has these keys
# Added to the counter of the pictures' draws.
GIVING = 2**32
TAKING = 2**33

Codes = NDArray[np.int64]


def shuffle_labels(manifest: Manifest, pictures: Pictures, seed: int) -> Manifest:
    """Returns the Manifest with the labels permuted over whole groups; nothing else changes.

    Groups that share a picture count as one. Each group takes the labels of another one of the same given part: all of
    them if it has as many pictures, else a draw from them, in random order. Copies of a picture thus have one label, a
    group of one label gets one label, and of such groups each class has as many as before. Where groups differ in size,
    up to ATTEMPTS permutations are tried until each class's share of the part's images is within TOLERANCE of the
    former share, else the closest permutation is taken.

    Args:
        manifest: a Manifest of originals, after the audit and before the split.
        pictures: name of each image's picture, by id.
        seed: the seed of the permutation; with the names of groups and pictures it determines the result.
    """
    rows = manifest[["id", "group", "split", "label"]].reset_index(drop=True)
    rows["picture"] = pictures.reindex(rows["id"]).to_numpy(object)
    rows["group"] = merge_groups(rows, ["picture"])
    group = factorize(rows["group"])[1]
    rank = rows["split"].map(PART_RANK).fillna(0).to_numpy(np.int64)
    part = np.zeros(int(group.max()) + 1, dtype=np.int64)
    np.maximum.at(part, group, rank)  # a group in two given parts is in the higher-ranked one
    for number in np.unique(part):
        inside = np.flatnonzero(part[group] == number)
        rows.loc[inside, "label"] = _shuffle_part(rows.iloc[inside], seed)
    return manifest.assign(label=pd.Series(rows["label"].to_numpy(object), index=manifest.index, dtype=object))


def _shuffle_part(rows: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """Returns the new label object[N] of each row of one part."""
    names, group = factorize(rows["group"])
    picture_names, picture = factorize(rows["picture"])
    classes, label = factorize(rows["label"])
    first = np.unique(picture, return_index=True)[1]  # a row of each picture
    keys, picture_keys = (keys_of([STREAM + name for name in texts]) for texts in (names, picture_names))
    before = np.bincount(label, minlength=len(classes)) / len(label)
    best, least = label, np.inf
    for attempt in range(ATTEMPTS):
        given, taken = (order(seed, picture_keys, counter + attempt) for counter in (GIVING, TAKING))
        drawn = _deal(group[first], label[first], order(seed, keys, attempt), given, taken)[picture]
        gap = np.abs(np.bincount(drawn, minlength=len(classes)) / len(label) - before).max()
        if gap < least:
            best, least = drawn, gap
        if gap <= TOLERANCE:
            break
    return classes[best]


def _deal(group: Codes, label: Codes, donors: Codes, given: Codes, taken: Codes) -> Codes:
    """Returns the new label int64[P] of each picture.

    Args:
        group: int64[P], the number of each picture's group.
        label: int64[P], the number of its class.
        donors: int64[G], the group whose labels each group takes.
        given: int64[P], the order in which pictures give their labels.
        taken: int64[P], the order in which pictures take labels.
    """
    givers, takers = (_members(group, visits) for visits in (given, taken))
    dealt = np.empty_like(label)
    for taker, donor in enumerate(donors):
        dealt[takers[taker]] = np.resize(label[givers[donor]], len(takers[taker]))
    return dealt


def _members(group: Codes, visits: Codes) -> list[Codes]:
    """Returns the pictures of each group in the order of `visits`."""
    by_group = visits[np.argsort(group[visits], kind="stable")]
    return np.split(by_group, np.cumsum(np.bincount(group))[:-1])


def control_warning(seed: int | None) -> str:
    """Returns a sentence that the labels are shuffled, or '' where `split.control` is None."""
    if seed is None:
        return ""
    return (
        f"NULL CONTROL: the labels are shuffled over groups (split.control: {seed}), so every score must be at chance; "
        "no model of this run can be used"
    )
