"""Splits a Manifest into a test set and validation folds by whole groups, so that no patient is on two sides."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, counted
from tumorboard.base.params import Split
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Images, Manifest, check_manifest
from tumorboard.data.audit import Pictures
from tumorboard.data.grouping import connected_sets, factorize
from tumorboard.data.near_duplicates import Pairs
from tumorboard.data.parts import count_tree
from tumorboard.data.preconditions import check_given_parts

LeftOutImages: TypeAlias = pd.DataFrame  # one row per image: path, reason
JoinedRows: TypeAlias = pd.DataFrame  # a Manifest sorted by id with the column `picture`; groups are merged by picture

PART_RANK = {"train": 0, "val": 1, "test": 2}  # a group in two given parts stays in the higher-ranked one
ATTEMPTS = 2000  # groups visited in search of a test set, beyond one visit of each


def split_manifest(
    manifest: Manifest, pictures: Pictures, *, split: Split, folds: Sequence[int], seed: int
) -> tuple[Manifest, dict[str, Any]]:
    """Gives every row its part and fold; the order of the rows does not matter.

    Groups that share a picture become one, named by the smallest name. A given test set is kept, else one is drawn. A
    given validation set becomes fold 0; given folds are kept; else folds are drawn. Where given parts share a group,
    its rows stay only in the part that ranks highest (test, then validation); `left_out` lists the others.

    Args:
        manifest: a Manifest of originals, with the given parts and folds.
        pictures: name of each image's picture, by id.
        split: size of the test set, number of folds and their seed.
        folds: the folds that will be validated on; each must have rows.
        seed: the seed of the test set, and of the folds where `split.fold_seed` is None.

    Returns:
        The Manifest, sorted by id, and the counts for the metrics.

    Raises:
        InputError: the split is given for some rows only or contradicts itself, or a class has too few groups.
    """
    whole = _join_groups(manifest, pictures)
    check_given_parts(manifest)
    given = set(whole["split"])
    higher_part, same_picture = _higher_parts(whole)
    dropped = _count_dropped(whole, higher_part, same_picture)
    rows = whole[higher_part == ""].reset_index(drop=True)
    draws_test = "test" not in given
    draws_folds = "val" not in given and bool(rows["fold"].isna().all())
    classes = sorted(set(manifest["label"]))
    _check_enough_groups(whole, rows, classes, split, draws_test=draws_test, draws_folds=draws_folds)

    if draws_test:
        rows["split"] = rows["split"].replace("", "train")
        drawn = draw_test(rows[rows["split"] == "train"], split.test, split.folds if draws_folds else 1, seed)
        rows.loc[rows["group"].isin(drawn), "split"] = "test"
    rows.loc[rows["split"] == "test", "fold"] = pd.NA
    if "val" in given:
        if rows["fold"].notna().any():
            raise InputError("the data gives both a validation set (split val) and folds: give one of them")
        rows.loc[rows["split"] == "val", ["split", "fold"]] = "train", 0
    training = (rows["split"] == "train").to_numpy()
    if draws_folds:
        fold_seed = seed if split.fold_seed is None else split.fold_seed
        rows.loc[training, "fold"] = draw_folds(rows[training], split.folds, fold_seed)
    _check_folds(rows[training], classes, folds=split.folds, validated=folds, given_part="val" in given)
    divided = check_manifest(rows[list(manifest.columns)], "the split")
    return divided, count_tree(divided) | dropped


def left_out(manifest: Manifest, pictures: Pictures) -> LeftOutImages:
    """Returns the images that `split_manifest` leaves out of given parts: columns path, reason; sorted by id."""
    rows = _join_groups(manifest, pictures)
    names = {"val": "validation", "test": "test"}
    reasons = [
        f"{'picture' if same else 'patient'} in the given {names[part]} set" if part else ""
        for part, same in zip(*_higher_parts(rows), strict=True)
    ]
    table = pd.DataFrame({"path": rows["path"], "reason": reasons}, dtype=object)
    return table[table["reason"] != ""]


def left_out_warning(images: LeftOutImages) -> str:
    """Returns a sentence that counts the rows of `left_out`, or '' where there are none."""
    if images.empty:
        return ""
    same_picture = int(images["reason"].str.startswith("picture").sum())
    return (
        f"{counted(len(images), 'image is', 'images are')} left out of the given training and validation sets: "
        f"{same_picture} with the same picture, {len(images) - same_picture} with the same group (patient) as an image "
        f"on the other side; the first: {images['path'].iloc[0]!r}"
    )


def missing_class_warning(manifest: Manifest) -> str:
    """Returns a sentence that names the classes that a given test set lacks, or '' where it has all."""
    test = manifest["split"] == "test"
    missing = sorted(set(manifest["label"]) - set(manifest["label"][test]))
    names = ", ".join(map(repr, missing))
    return (
        f"the given test set has no image of {names}: test scores that need one (recall, means over the classes) are "
        "undefined"
        if missing
        else ""
    )


def merge_groups(rows: pd.DataFrame, through: Sequence[str]) -> pd.Series:
    """Returns the group of each row after groups that share a value of a column were merged.

    A merged group has the smallest of the names.

    Args:
        rows: a table with the column `group` and the columns of `through`.
        through: columns whose shared values merge groups.

    >>> rows = pd.DataFrame({"group": ["p2", "p1", "p3"], "picture": ["x", "x", "y"]})
    >>> merge_groups(rows, ["picture"]).tolist()
    ['p1', 'p1', 'p3']
    """
    names, groups = factorize(rows["group"])
    # Nodes are the groups, and after them the values of each column; each row links its group to its values.
    ends, nodes = [], len(names)
    for column in through:
        values, codes = factorize(rows[column])
        ends.append(nodes + codes)
        nodes += len(values)
    smallest = connected_sets(nodes, np.tile(groups, len(through)), np.concatenate(ends))
    return pd.Series(names[smallest[groups]], index=rows.index, dtype=object)


def draw_test(rows: Manifest, share: float, keep: int, seed: int) -> set[str]:
    """Draws the groups of a test set with about `share` of the images of every class.

    Groups are visited in an order that depends on (seed, name). A group is taken where it brings the test set closer
    to the aim, by the squared differences of the classes' shares. Where groups are few, several orders are tried and
    the closest part is returned.

    Args:
        rows: the rows from which groups are drawn.
        share: wanted share of each class, in (0, 1).
        keep: groups that each class keeps outside the test set.
        seed: the seed of the orders.

    Raises:
        InputError: a class has no group that fits into the test set.
    """
    (names, groups), (classes, labels) = factorize(rows["group"]), factorize(rows["label"])
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (groups, labels), 1)
    sizes = counts / counts.sum(0)
    # Where the share is less than a class's smallest group, that group is the aim.
    aim = np.maximum(share, np.where(sizes > 0, sizes, 1).min(0))
    keys = keys_of(names.tolist())
    draws = [_take_groups(sizes, aim, keep, order(seed, keys, attempt)) for attempt in range(1 + ATTEMPTS // len(keys))]
    shares = np.stack([sizes[taken].sum(0) for taken in draws])
    best = int(np.lexsort((((shares - aim) ** 2).sum(1), (shares == 0).sum(1)))[0])
    if (none := shares[best] == 0).any():
        raise InputError(
            f"no group fits into a test set of {share:.0%} (split.test) that has class {classes[none][0]!r}: "
            "raise split.test, lower split.folds, or give the test set with the data"
        )
    return set(names[draws[best]])


def _take_groups(
    sizes: NDArray[np.float64], aim: NDArray[np.float64], keep: int, visits: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Returns which groups bool[G] are taken, visited in a given order.

    `sizes` float64[G, K] is the share of each class that each group holds, `aim` float64[K] the wanted share.
    """
    taken = np.zeros(len(sizes), dtype=bool)
    left = (sizes > 0).sum(0)
    for group in visits:
        own = sizes[group] > 0
        if ((aim - sizes[group]) ** 2).sum() < (aim**2).sum() and (left[own] > keep).all():
            taken[group] = True
            aim = aim - sizes[group]
            left = left - own
    return taken


def draw_folds(rows: Manifest, folds: int, seed: int) -> NDArray[np.int64]:
    """Draws the fold int64[N] of each row; rows must be sorted by id.

    Source: scikit-learn's StratifiedGroupKFold. It deals out the groups by decreasing spread over the classes, and only
    shuffles equal ones: with few groups two seeds may give the same folds.
    """
    from tumorboard.data.group_folds import StratifiedGroups  # here, because scikit-learn is slow to import

    labels, groups = factorize(rows["label"])[1], factorize(rows["group"])[1]
    fold_of = np.empty(len(rows), dtype=np.int64)
    splitter = StratifiedGroups(folds, shuffle=True, random_state=seed % 2**32)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        fold_of[validation] = fold
    return fold_of


def check_split(manifest: Manifest, images: Images, pairs: Pairs, *, copies: bool) -> None:
    """Checks that train, test and the folds share no group and no source.

    Args:
        manifest: the Manifest after the split; altered copies may be among its rows.
        images: one row per original, with `id` and `pixels`.
        pairs: near duplicates (first, second); a pair with an image that the Manifest lacks is ignored.
        copies: whether parts must also share no file, no pixels and no pair.

    Raises:
        InputError: something is on two sides.
    """
    rows = manifest.assign(side=_sides(manifest))
    if copies:
        rows["pixels"] = _pictures_of(rows, images.set_index("id")["pixels"])
    for column in ("group", "source_id", *(("sha256", "pixels") if copies else ())):
        first = rows["side"].groupby(factorize(rows[column])[1]).transform("first")
        if (astray := (rows["side"] != first).to_numpy()).any():
            row = int(np.argmax(astray))
            raise InputError(
                f"the {column} {rows[column].iloc[row]!r} is on two sides: {first.iloc[row]} and "
                f"{rows['side'].iloc[row]} (id {rows['id'].iloc[row]!r})"
            )
    if copies:
        side = rows.loc[~rows["source_id"].duplicated()].set_index("source_id")["side"]
        one, other = (side.reindex(pairs[end]).to_numpy(object) for end in ("first", "second"))
        parted = (one != other) & pd.notna(one) & pd.notna(other)
        if parted.any():
            row = int(np.argmax(parted))
            raise InputError(
                f"the near duplicates {pairs['first'].iloc[row]!r} and {pairs['second'].iloc[row]!r} are on two sides: "
                f"{one[row]} and {other[row]}"
            )


def _sides(manifest: Manifest) -> pd.Series:
    """Returns the side of each row, such as 'test' or 'train, fold 0'."""
    return manifest["split"] + manifest["fold"].astype(object).map(lambda n: "" if n is pd.NA else f", fold {n}")


def _pictures_of(rows: Manifest, pictures: Pictures) -> pd.Series:
    """Returns the name of each row's picture; an altered copy has its source's picture."""
    if unknown := [source for source in rows["source_id"] if source not in pictures.index]:
        raise InputError(f"the table of images has no row for {unknown[0]!r}")
    return pd.Series(pictures.reindex(rows["source_id"]).to_numpy(object), index=rows.index, dtype=object)


def _join_groups(manifest: Manifest, pictures: Pictures) -> JoinedRows:
    """Returns the rows sorted by id, with a column `picture`, and groups that share a picture merged."""
    rows = manifest.sort_values("id", ignore_index=True)
    rows["picture"] = _pictures_of(rows, pictures)
    rows["group"] = merge_groups(rows, ["picture"])
    return rows


def _higher_parts(rows: JoinedRows) -> tuple[pd.Series, pd.Series]:
    """Compares each row's given part with those of its group.

    Returns:
        The part of the group that ranks higher than the row's own, or ''; and whether that part has the row's picture.
    """
    rank = rows["split"].map(PART_RANK).fillna(0)
    highest = rank.groupby(factorize(rows["group"])[1]).transform("max")
    higher_part = highest.map(dict(enumerate(PART_RANK))).where(rank < highest, "")
    picture = pd.Series(factorize(rows["picture"])[1], index=rows.index)
    return higher_part, (higher_part != "") & picture.isin(picture[higher_part == ""])


def _count_dropped(rows: JoinedRows, higher_part: pd.Series, same_picture: pd.Series) -> dict[str, int]:
    """Counts the rows that leave each part because of their picture (twins) or only their group (patients)."""
    counts = {}
    for part in ("train", "val"):
        leaves = (higher_part != "") & (rows["split"] == part)
        counts[f"dropped_{part}_twins"] = int((leaves & same_picture).sum())
        counts[f"dropped_{part}_patients"] = int((leaves & ~same_picture).sum())
    return counts


def _check_enough_groups(
    whole: Manifest, rows: Manifest, classes: Sequence[str], split: Split, *, draws_test: bool, draws_folds: bool
) -> None:
    """Raises InputError where a class has fewer groups in `rows`, kept from `whole`, than the drawn parts need."""
    free = rows[rows["split"].isin(("", "train"))]
    groups = {name: len(set(free["group"][free["label"] == name])) for name in classes}
    needed = (split.folds if draws_folds else 1) + draws_test
    few = [name for name in classes if groups[name] < needed]
    if not few:
        return
    own = free[free["label"] == few[0]]
    if own.empty:
        given = int(((whole["label"] == few[0]) & (whole["split"] == "train")).sum())
        dropped = f"all {given} are left out, as their picture or patient is in another given part: take it out there"
        none = "all are in another given part: add some, or take the class out"
        raise InputError(f"class {few[0]!r} has no images to train on: {dropped if given else none}")
    uses = [f"{split.folds} validation folds (split.folds)"] if draws_folds else ["training"]
    uses += ["a test set (split.test)"] if draws_test else []
    cures = ["lower split.folds"] if draws_folds else []
    cures += ["give the test set with the data"] if draws_test else []
    count = int(groups[few[0]])  # split.folds is 2 or more: one group alone is never enough where folds are drawn
    cures = [*cures, "or add images"] if count > draws_folds else ["add images of more groups"]
    grouped = (
        f". Its {len(own)} images are grouped; where that names no patients, data.columns: {{group: null}} passes over "
        "a table's group, and data.group_pattern: '(?s)(.*)' over the PatientID of DICOM files or another pattern"
    )
    if own["picture"].nunique() == count:
        grouped = f". Its {len(own)} images are copies of {counted(count, 'picture')}, and copies are one group"
    raise InputError(
        f"class {few[0]!r} has {counted(count, 'group')} of images to train on, fewer than the {needed} "
        f"that {' and '.join(uses)} need: {', '.join(cures)}{grouped if len(own) > count else ''}"
    )


def _check_folds(
    training: Manifest, classes: Sequence[str], *, folds: int, validated: Sequence[int], given_part: bool
) -> None:
    """Raises InputError where a fold cannot be validated on, or a given fold is out of range or splits a group.

    `validated` are the folds to validate on; with `given_part` the data gives its validation set, which is fold 0.
    """
    present = training["fold"].dropna()
    if given_part and set(validated) != {0}:
        raise InputError(f"the data gives its validation set, which is fold 0: set folds to [0], not {list(validated)}")
    if ((present < 0) | (present >= folds)).any():
        raise InputError(f"the data gives fold {present.max()}, but split.folds makes 0 to {folds - 1}: set it higher")
    spread = training["fold"].fillna(-1).groupby(factorize(training["group"])[1]).transform("nunique") > 1
    if spread.any():
        group = training["group"][spread].iloc[0]
        ids = training["id"][training["group"] == group]
        raise InputError(
            f"the given folds split the group {group!r} (same patient or same picture): {ids.iloc[0]!r} and "
            f"{ids.iloc[-1]!r} are among its images; give all of them one fold"
        )
    for fold in validated:
        if not (present == fold).any():
            if given_part:
                raise InputError("no image of the given validation set is left: their pictures or patients are in test")
            known = sorted(present.unique().tolist())
            raise InputError(f"folds lists {fold}, but no image is left in that fold; those with images: {known}")
        left = set(training["label"][(training["fold"] != fold).fillna(True)])
        if missing := sorted(set(classes) - left):
            few = "it has too few groups for split.folds; where folds are drawn, more folds or another seed may help"
            one = f"the data gives all images fold {fold}: give some another, or none, to have folds drawn"
            what = f"with fold {fold} as validation, class {missing[0]!r} has no image left to train on"
            raise InputError(f"{what}: {few if left else one}")
