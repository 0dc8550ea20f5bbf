"""Which images train, validate and test: whole groups, so that no patient and no picture is on two sides."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from tumorboard.errors import InputError
from tumorboard.params import Split
from tumorboard.randomness import keys_of, order
from tumorboard.tables import check_manifest

RANK = {"train": 0, "val": 1, "test": 2}
ATTEMPTS = 2000  # groups visited in search of a test part, beyond one visit of each


def split_manifest(
    manifest: pd.DataFrame, pictures: pd.Series, split: Split, folds: Sequence[int], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Give every row its part and fold; returns the Manifest, sorted by id, and the counts for the metrics.

    Groups that share a picture (`pictures` names each id's) become one, named by the smallest name. A given test part
    is kept, else one is drawn; a given validation part becomes fold 0, given folds are kept, else they are drawn by
    StratifiedGroupKFold (scikit-learn). Where given parts share a group, its rows stay in the test part, or else in the
    validation part, only; the rows left out are counted as twins (their picture is on the other side) or patients
    (another of their group is).
    `folds` are those that are to be validated on: each must have rows. Nothing depends on the order of the rows.
    Raises InputError.
    """
    whole = _join_groups(manifest, pictures)
    given = set(whole["split"])
    if "" in given and len(given) > 1:
        raise InputError("split is given for some images and empty for others: give it for all or for none")
    rows, dropped = _drop_shared(whole)
    draws_test = "test" not in given
    draws_folds = "val" not in given and bool(rows["fold"].isna().all())
    classes = sorted(set(manifest["label"]))
    _check_classes(whole, rows, classes, split, draws_test, draws_folds)

    if draws_test:
        rows["split"] = rows["split"].replace("", "train")
        drawn = draw_test(rows[rows["split"] == "train"], split.test, split.folds if draws_folds else 1, seed)
        rows.loc[rows["group"].isin(drawn), "split"] = "test"
    rows.loc[rows["split"] == "test", "fold"] = pd.NA
    if "val" in given:
        if rows["fold"].notna().any():
            raise InputError("the data gives both a validation part (split val) and folds: give one of them")
        rows.loc[rows["split"] == "val", ["split", "fold"]] = "train", 0
    training = (rows["split"] == "train").to_numpy()
    if draws_folds:
        fold_seed = seed if split.fold_seed is None else split.fold_seed
        rows.loc[training, "fold"] = draw_folds(rows[training], split.folds, fold_seed)
    _check_folds(rows[training], classes, split.folds, folds, "val" in given)
    result = check_manifest(rows[list(manifest.columns)], "the split")
    if gap := gap_in_test(result):
        _warn(gap)
    return result, _count(result) | dropped


def left_out(manifest: pd.DataFrame, pictures: pd.Series) -> pd.DataFrame:
    """The images of given parts that `split_manifest` will leave out (path, reason)."""
    rows = _join_groups(manifest, pictures)
    higher, twin = _reach(rows)
    names = {"val": "validation", "test": "test"}
    reasons = [
        f"{'picture' if same else 'patient'} in the given {names[part]} part" if part else ""
        for part, same in zip(higher, twin, strict=True)
    ]
    return pd.DataFrame({"path": rows["path"], "reason": reasons}, dtype=object)[higher != ""]


def gap_in_test(manifest: pd.DataFrame) -> str:
    """A sentence where the test part of a split Manifest lacks a class, as only a given one can; else ''."""
    test = manifest["split"] == "test"
    missing = sorted(set(manifest["label"]) - set(manifest["label"][test]))
    names = ", ".join(map(repr, missing))
    return f"the given test part has no image of {names}: how well that is recognised stays unknown" if missing else ""


def merge_groups(rows: pd.DataFrame, through: Sequence[str]) -> pd.Series:
    """The group of each row, after groups that share a value of a column of `through` became one.

    It is named by the smallest of their names.
    """
    names, groups = _number(rows["group"])
    ends, nodes = [], len(names)
    for column in through:
        values, numbers = _number(rows[column])
        ends.append(nodes + numbers)
        nodes += len(values)
    links = coo_array(
        (np.ones(len(rows) * len(through)), (np.tile(groups, len(through)), np.concatenate(ends))), shape=(nodes, nodes)
    )
    component = connected_components(links, directed=False)[1][: len(names)]
    # Names are sorted: the first of a component is its smallest.
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return pd.Series(names[first][inverse][groups], index=rows.index, dtype=object)


def draw_test(rows: pd.DataFrame, share: float, keep: int, seed: int) -> set[str]:
    """Draw the groups of a test part that has about `share` of every class's images.

    Groups are visited in an order given by (seed, name) and taken where that brings the test part closer to the aim,
    by the squared differences of the classes' shares, and leaves each class `keep` groups; where groups are few, the
    closest of several orders counts. Raises InputError where a class finds no place in the test part.
    """
    (names, groups), (classes, labels) = _number(rows["group"]), _number(rows["label"])
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (groups, labels), 1)
    sizes = counts / counts.sum(0)
    # Where the share is less than a class's smallest group, that group is the aim.
    aim = np.maximum(share, np.where(sizes > 0, sizes, 1).min(0))
    keys = keys_of(names.tolist())
    draws = [_fill(sizes, aim, keep, order(seed, keys, attempt)) for attempt in range(1 + ATTEMPTS // len(keys))]
    shares = np.stack([sizes[taken].sum(0) for taken in draws])
    best = int(np.lexsort((((shares - aim) ** 2).sum(1), (shares == 0).sum(1)))[0])
    if (none := shares[best] == 0).any():
        raise InputError(
            f"no group fits into a test part of {share:.0%} (split.test) that has class {classes[none][0]!r}: "
            "raise split.test, lower split.folds, or give the test part with the data"
        )
    return set(names[draws[best]])


def _fill(
    sizes: NDArray[np.float64], aim: NDArray[np.float64], keep: int, visits: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which groups bool[G] are taken, their shares of the classes being float64[G, K]."""
    taken = np.zeros(len(sizes), dtype=bool)
    left = (sizes > 0).sum(0)
    for group in visits:
        own = sizes[group] > 0
        if ((aim - sizes[group]) ** 2).sum() < (aim**2).sum() and (left[own] > keep).all():
            taken[group] = True
            aim = aim - sizes[group]
            left = left - own
    return taken


def draw_folds(rows: pd.DataFrame, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold int64[N] of each row, by StratifiedGroupKFold over rows sorted by id.

    That deals out the groups by how uneven they are, and draws the order of equals alone: of few groups two seeds may
    make the same folds.
    """
    labels, groups = _number(rows["label"])[1], _number(rows["group"])[1]
    fold_of = np.empty(len(rows), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        fold_of[validation] = fold
    return fold_of


def check_split(manifest: pd.DataFrame, images: pd.DataFrame, pairs: pd.DataFrame, *, copies: bool) -> None:
    """Raise InputError where something is on two sides: train and test, or two folds.

    That is a group or a source; with `copies` also a file, a picture (`pixels` of `images`), or the two images of one
    of `pairs` (first, second: near duplicates among them), as far as the Manifest has both.
    """
    rows = manifest.assign(side=_sides(manifest))
    if copies:
        rows["pixels"] = _pictures_of(rows, images.set_index("id")["pixels"])
    for column in ("group", "source_id", *(("sha256", "pixels") if copies else ())):
        first = rows["side"].groupby(_number(rows[column])[1]).transform("first")
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


def _sides(manifest: pd.DataFrame) -> pd.Series:
    return manifest["split"] + manifest["fold"].astype(object).map(lambda n: "" if n is pd.NA else f", fold {n}")


def count_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count a split Manifest: part ('train', 'test', and 'fold_<n>', which is among train), label, images, groups."""
    labels = sorted(set(manifest["label"]))
    counts = []
    for part, rows in _parts(manifest):
        for label in labels:
            own = rows[rows["label"] == label]
            counts.append((part, label, len(own), len(set(own["group"]))))
    return pd.DataFrame(counts, columns=["part", "label", "images", "groups"])


def _parts(manifest: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    parts = [(part, manifest[manifest["split"] == part]) for part in ("train", "test")]
    folds = sorted(manifest["fold"].dropna().unique())
    return parts + [(f"fold_{fold}", manifest[manifest["fold"] == fold]) for fold in folds]


def _count(manifest: pd.DataFrame) -> dict[str, Any]:
    """The counts as a tree for the metrics: images by part and class, groups by part."""
    table = count_table(manifest)
    return {
        "images": {
            part: dict(zip(rows["label"], rows["images"].tolist(), strict=True))
            for part, rows in table.groupby("part", sort=False)
        },
        "groups": {part: len(set(rows["group"])) for part, rows in _parts(manifest)},
    }


def _pictures_of(rows: pd.DataFrame, pictures: pd.Series) -> pd.Series:
    """The name of each row's picture; a copy has its source's."""
    if unknown := [source for source in rows["source_id"] if source not in pictures.index]:
        raise InputError(f"the table of images has no row for {unknown[0]!r}")
    return pd.Series(pictures.reindex(rows["source_id"]).to_numpy(object), index=rows.index, dtype=object)


def _number(column: pd.Series) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """The sorted values of a column and the number of each row's value among them.

    pandas groups text by its UTF-8 bytes; file names that are not UTF-8 have none.
    """
    values, numbers = np.unique(column.to_numpy(object), return_inverse=True)
    return values, numbers


def _join_groups(manifest: pd.DataFrame, pictures: pd.Series) -> pd.DataFrame:
    """The rows sorted by id, with their pictures, and groups that share a picture made one."""
    rows = manifest.sort_values("id", ignore_index=True)
    rows["picture"] = _pictures_of(rows, pictures)
    rows["group"] = merge_groups(rows, ["picture"])
    return rows


def _reach(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The given part into which a row's group reaches and that ranks higher, or ''; and whether the picture is kept."""
    rank = rows["split"].map(RANK).fillna(0)
    highest = rank.groupby(_number(rows["group"])[1]).transform("max")
    higher = highest.map(dict(enumerate(RANK))).where(rank < highest, "")
    picture = pd.Series(_number(rows["picture"])[1], index=rows.index)
    return higher, (higher != "") & picture.isin(picture[higher == ""])


def _drop_shared(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leave out the rows of given parts whose group reaches into a part that ranks higher; and how many they are."""
    higher, twin = _reach(rows)
    dropped = higher != ""
    counts = {}
    for part in ("train", "val"):
        here = dropped & (rows["split"] == part)
        counts[f"dropped_{part}_twins"] = int((here & twin).sum())
        counts[f"dropped_{part}_patients"] = int((here & ~twin).sum())
    if dropped.any():
        _warn(
            f"{int(dropped.sum())} images are left out of the given training and validation parts: {int(twin.sum())} "
            f"have the same picture, {int((dropped & ~twin).sum())} the same group (patient) as an image on the other "
            f"side; the first: {rows['id'][dropped].iloc[0]!r}"
        )
    return rows[~dropped].reset_index(drop=True), counts


def _check_classes(
    whole: pd.DataFrame, rows: pd.DataFrame, classes: Sequence[str], split: Split, draws_test: bool, draws_folds: bool
) -> None:
    """Every class needs a group for each part that is drawn, and one to train on; `rows` is what is left of `whole`."""
    free = rows[rows["split"].isin(("", "train"))]
    groups = {name: len(set(free["group"][free["label"] == name])) for name in classes}
    needed = (split.folds if draws_folds else 1) + draws_test
    few = [name for name in classes if groups[name] < needed]
    if not few:
        return
    own = free[free["label"] == few[0]]
    if own.empty:
        given = int(((whole["label"] == few[0]) & (whole["split"] == "train")).sum())
        left = f"all {given} are left out, as their picture or patient is in another given part: take it out there"
        none = "all are in another given part: add some, or take the class out"
        raise InputError(f"class {few[0]!r} has no images to train on: {left if given else none}")
    wants = [f"{split.folds} validation folds (split.folds)"] if draws_folds else ["training"]
    wants += ["a test part (split.test)"] if draws_test else []
    ways = ["lower split.folds"] if draws_folds else []
    ways += ["give the test part with the data"] if draws_test else []
    count = groups[few[0]]
    grouped = (
        f". Its {len(own)} images are grouped by data.group_pattern, a table's column group, the PatientID of DICOM "
        "files, or as copies; where that names no patients, the pattern '(?s)(.*)' makes each image its own group"
    )
    raise InputError(
        f"class {few[0]!r} has {count} group{'s' if count > 1 else ''} of images to train on, fewer than the {needed} "
        f"that {' and '.join(wants)} need: {', '.join([*ways, 'or add images'])}{grouped if len(own) > count else ''}"
    )


def _check_folds(
    training: pd.DataFrame, classes: Sequence[str], folds: int, wanted: Sequence[int], given_part: bool
) -> None:
    """Folds lie below `folds` and hold whole groups; each wanted one has images and leaves some of every class."""
    present = training["fold"].dropna()
    if given_part and set(wanted) != {0}:
        raise InputError(f"the data gives its validation part, which is fold 0: set folds to [0], not {list(wanted)}")
    if ((present < 0) | (present >= folds)).any():
        raise InputError(f"the data gives fold {present.max()}, but split.folds makes 0 to {folds - 1}: set it higher")
    spread = training["fold"].fillna(-1).groupby(_number(training["group"])[1]).transform("nunique") > 1
    if spread.any():
        group = training["group"][spread].iloc[0]
        ids = training["id"][training["group"] == group]
        raise InputError(
            f"the given folds split the group {group!r} (same patient or same picture): {ids.iloc[0]!r} and "
            f"{ids.iloc[-1]!r} are among its images; give all of them one fold"
        )
    for fold in wanted:
        if not (present == fold).any():
            if given_part:
                raise InputError(
                    "no image of the given validation part is left: their pictures or patients are in test"
                )
            known = sorted(present.unique().tolist())
            raise InputError(f"folds lists {fold}, but no image is left in that fold; those with images: {known}")
        left = set(training["label"][(training["fold"] != fold).fillna(True)])
        if missing := sorted(set(classes) - left):
            raise InputError(
                f"with fold {fold} as validation, class {missing[0]!r} has no image left to train on: "
                "it has too few groups for split.folds; where folds are drawn, more of them or another "
                "split.fold_seed may do"
            )


def _warn(text: str) -> None:
    print(f"split: {text}", file=sys.stderr)
