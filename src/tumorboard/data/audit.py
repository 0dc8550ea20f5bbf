"""Pictures that are in the data more than once: equal files, equal pixels, near duplicates; and what follows."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tumorboard.data.near import Crops, Numbers, components, near_duplicates
from tumorboard.errors import InputError, Reason
from tumorboard.params import Audit

PAIRS = ("first", "second", "kind", "correlation", "mirrored")
KINDS = ("bytes", "pixels", "near")
LABEL_CONFLICT: Reason = "label conflict"
NAMED, LISTED = 5, 10  # images of a set, sets in a message; what says more is not read


class Copies(NamedTuple):
    """The pictures that are there several times: `pairs` (PAIRS) join the rows of each, without listing all its pairs;
    `faint`: the ids too faint for `near_duplicates`."""

    pairs: pd.DataFrame
    faint: list[str]


class Findings(NamedTuple):
    """What an audit found and did.

    `pairs` (first, second, kind, correlation, mirrored, then label and given split of both) join every set of copies,
    without listing each of its pairs; `pictures` names each id's picture, by the smallest id that shows it, or under
    the policy 'report', which keeps no copies together, by its own; `manifest` is the Manifest without the quarantined
    rows; `quarantined` has path, reason, detail; `counts` is flat.
    """

    pairs: pd.DataFrame
    pictures: pd.Series
    manifest: pd.DataFrame
    quarantined: pd.DataFrame
    counts: dict[str, Any]


def audit_manifest(manifest: pd.DataFrame, copies: Copies, audit: Audit) -> Findings:
    """Judge a Manifest of originals by the copies in it: take out pictures under two labels; rows come sorted by id.

    With `audit.label_conflicts` 'quarantine' all copies of a picture under two labels are taken out. Raises InputError
    where there are copies and `audit.policy` is 'refuse', where a picture has two labels and `audit.label_conflicts` is
    'refuse', and where a class loses all its images.
    """
    rows, pairs = manifest.sort_values("id", ignore_index=True), copies.pairs.copy()
    pictures = picture_names(rows["id"], pairs)
    # By numbers: pandas groups text by its UTF-8 bytes, and file names that are not UTF-8 have none.
    picture = np.unique(pictures.to_numpy(object), return_inverse=True)[1]
    again = np.bincount(picture)[picture] > 1
    sets = [rows.iloc[part] for part in _split_by(picture[again], np.flatnonzero(again))]
    conflicts = [part for part in sets if part["label"].nunique() > 1]
    _refuse(sets, conflicts, audit)

    quarantined = _quarantine(conflicts, audit)
    left = rows[~rows["path"].isin(quarantined["path"])]
    _check_left(rows, left, conflicts, pairs)
    if conflicts:
        what = (
            "all their copies are quarantined" if len(quarantined) else "they stay in the data (audit.label_conflicts)"
        )
        first = _describe(conflicts[0])
        _warn(f"{len(conflicts)} pictures are there under two labels; {what}; the first: {first}")

    by_id = rows.set_index("id")
    for column in ("label", "split"):
        for end in ("first", "second"):
            pairs[f"{end}_{column}"] = by_id[column].reindex(pairs[end]).to_numpy()
    crossing = sum(part["split"].nunique() > 1 for part in sets)
    if audit.policy == "report" and sets:
        _warn(
            f"audit.policy is report: {len(sets)} pictures that are there several times are neither kept on one side "
            "nor left out, so that the split may leak"
        )
    counts = {
        "policy": audit.policy,
        "may_leak": bool(sets) and audit.policy == "report",
        "images": len(rows),
        "pictures": int(picture.max() + 1),
        **{f"pairs_{kind}": int((pairs["kind"] == kind).sum()) for kind in KINDS},
        "pairs_mirrored": int(pairs["mirrored"].sum()),
        "sets": len(sets),
        "largest_set": max(map(len, sets), default=1),
        "sets_across_given_parts": crossing,
        "too_faint_to_compare": len(copies.faint),
        "label_conflicts": len(conflicts),
        "quarantined": len(quarantined),
    }
    if audit.policy == "report":
        pictures = pd.Series(pictures.index, index=pictures.index)
    pairs = pairs.sort_values(["kind", "first", "second"], ignore_index=True)
    return Findings(pairs, pictures, left[list(manifest.columns)].reset_index(drop=True), quarantined, counts)


def find_copies(manifest: pd.DataFrame, images: pd.DataFrame, crops: Crops, audit: Audit) -> Copies:
    """Find the rows of a Manifest of originals that show one picture.

    `images` has id and pixels (the digest of the decoded picture), `crops` gives uint8[N, S, S, 3] for ids. Equal files
    and equal pixels are joined to the first of their ids in the order of the alphabet; only those first ones are then
    looked at. An image without pixels raises InputError.
    """
    digests = dict(zip(images["id"], images["pixels"], strict=True))
    rows = manifest[["id", "sha256"]].sort_values("id", ignore_index=True)
    if unknown := [name for name in rows["id"] if name not in digests]:
        raise InputError(f"the table of images has no row for {unknown[0]!r}")
    rows["pixels"] = [digests[name] for name in rows["id"]]
    found = []
    for kind, column in (("bytes", "sha256"), ("pixels", "pixels")):
        first = rows.groupby(column, sort=False)["id"].transform("first")
        again = first != rows["id"]
        pair = pd.DataFrame({"first": first[again], "second": rows["id"][again], "kind": kind}, dtype=object)
        found.append(pair.assign(correlation=1.0, mirrored=False))
        rows = rows[~again]
    near, faint = near_duplicates(rows["id"].tolist(), crops, audit)
    found.append(near.assign(kind="near")[list(PAIRS)])
    pairs = pd.concat(found, ignore_index=True).astype({"correlation": np.float64, "mirrored": bool})
    return Copies(pairs[list(PAIRS)], faint)


def picture_names(ids: Sequence[str] | pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """The name of each id's picture, by id: the smallest of the ids that pairs join to it, or its own."""
    names = np.array(sorted(ids), dtype=object)
    index = pd.Index(names)
    component = components(len(names), index.get_indexer(pairs["first"]), index.get_indexer(pairs["second"]))
    # Names are sorted: the first of a component is its smallest.
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return pd.Series(names[first][inverse], index=index, dtype=object)


def _split_by(numbers: Numbers, values: Numbers) -> list[Numbers]:
    """The values that belong to each number, in the order of the numbers."""
    order_of = np.argsort(numbers, kind="stable")
    return np.split(values[order_of], np.flatnonzero(np.diff(numbers[order_of])) + 1) if len(values) else []


def _refuse(sets: list[pd.DataFrame], conflicts: list[pd.DataFrame], audit: Audit) -> None:
    if conflicts and audit.label_conflicts == "refuse":
        raise InputError(
            f"{len(conflicts)} pictures are there under two labels; mend them, or set audit.label_conflicts to "
            f"quarantine or keep:\n{_list(conflicts)}"
        )
    if sets and audit.policy == "refuse":
        raise InputError(
            f"{len(sets)} pictures are there several times; remove the copies, or set audit.policy to regroup or "
            f"report:\n{_list(sets)}"
        )


def _quarantine(conflicts: list[pd.DataFrame], audit: Audit) -> pd.DataFrame:
    """All copies of pictures under two labels, where the policy takes them out (path, reason, detail), by path."""
    taken = conflicts if audit.label_conflicts == "quarantine" else []
    found = [(path, LABEL_CONFLICT, detail) for part in taken for detail in [_describe(part)] for path in part["path"]]
    return pd.DataFrame(sorted(found), columns=["path", "reason", "detail"], dtype=object)


def _check_left(rows: pd.DataFrame, left: pd.DataFrame, conflicts: list[pd.DataFrame], pairs: pd.DataFrame) -> None:
    if lost := sorted(set(rows["label"]) - set(left["label"])):
        sets_of_it = [part for part in conflicts if (part["label"] == lost[0]).any()]
        raise InputError(
            f"every picture of class {lost[0]!r} is there under another label too, so that all were quarantined"
            f"{_nearness(sets_of_it, pairs)}: mend the labels, or set audit.label_conflicts to keep"
        )


def _nearness(sets: list[pd.DataFrame], pairs: pd.DataFrame) -> str:
    """What an error says of sets that near duplicates join; '' where only equal pixels do."""
    ids = {name for part in sets for name in part["id"]}
    if not ((pairs["kind"] == "near") & pairs["first"].isin(ids)).any():
        return ""
    largest = max(map(len, sets))
    return f" (as near duplicates, in a set of {largest} images: where they differ, raise audit.near)"


def _list(sets: list[pd.DataFrame]) -> str:
    more = [f"  … and {len(sets) - LISTED} more"] if len(sets) > LISTED else []
    return "\n".join([f"  {_describe(rows)}" for rows in sets[:LISTED]] + more)


def _describe(rows: pd.DataFrame) -> str:
    """The first images of a set, above all one of each label, and how many there are more."""
    first = rows.loc[rows["label"].duplicated().sort_values(kind="stable").index[:NAMED]].sort_index()
    more = f" … and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(f"{row.path!r} is {row.label!r}" for row in first.itertuples()) + more


def _warn(text: str) -> None:
    print(f"audit: {text}", file=sys.stderr)
