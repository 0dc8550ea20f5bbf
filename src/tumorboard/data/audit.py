"""Audits images for copies: equal files, equal pixels, near duplicates, overlaps, and copies under two labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError, Reason
from tumorboard.base.params import Audit
from tumorboard.base.tables import Images, Manifest
from tumorboard.data.grouping import connected_sets, factorize
from tumorboard.data.near_duplicates import Pairs, ReadCrops, find_near_duplicates
from tumorboard.data.overlaps import find_overlaps
from tumorboard.data.quarantine import QuarantinedFiles

PAIR_COLUMNS = ("first", "second", "kind", "correlation", "mirrored")
PAIR_KINDS = ("bytes", "pixels", "near", "overlap")  # what two pictures have in common, the strictest first
LABEL_CONFLICT: Reason = "label conflict"
SHOWN_IMAGES = 5  # images named per set of copies in a message
SHOWN_SETS = 10  # sets of copies named per message

Pictures: TypeAlias = pd.Series  # name of the picture that each image shows, by image id


class Copies(NamedTuple):
    """The images that show the same picture, and those that show parts of one field."""

    pairs: Pairs  # PAIR_COLUMNS; enough pairs to connect every set of copies, and all overlaps of different pictures
    faint: list[str]  # ids of the images with too little detail to compare


class AuditResult(NamedTuple):
    """The data after the audit."""

    pairs: Pairs  # the pairs of Copies, with first_label, second_label, first_split, second_split
    pictures: Pictures  # smallest id that shows the same picture; each image's own id under the policy 'report'
    manifest: Manifest  # without the quarantined rows, sorted by id; groups that share a field are merged
    quarantined: QuarantinedFiles  # all copies of a picture under two labels, sorted by path
    counts: dict[str, Any]  # counts for the metrics, flat
    warnings: list[str]  # sentences for the user


def audit_manifest(manifest: Manifest, copies: Copies, audit: Audit) -> AuditResult:
    """Quarantines pictures under two labels, merges groups that share a field, and counts copies.

    Pictures that overlap are different pictures: they may have two labels, and none of them is left out as a copy.
    Under the policy 'regroup' their groups become one, named by the smallest name.

    Args:
        manifest: a Manifest of originals.
        copies: the copies among these originals, from `find_copies`.
        audit: `policy` and `label_conflicts`.

    Raises:
        InputError: there are copies and `audit.policy` is 'refuse'; a picture has two labels and
            `audit.label_conflicts` is 'refuse'; or all images of a class are quarantined.
    """
    rows, pairs = manifest.sort_values("id", ignore_index=True), copies.pairs.copy()
    overlaps = pairs[pairs["kind"] == "overlap"]
    pictures = picture_names(rows["id"], pairs[pairs["kind"] != "overlap"])
    sets = _sets_of_copies(rows, pictures)
    conflicts = [part for part in sets if part["label"].nunique() > 1]
    _refuse(sets, conflicts, overlaps, audit)
    quarantined = _quarantine(conflicts, audit)
    left = rows[~rows["path"].isin(quarantined["path"])]
    _check_classes_left(rows, left, conflicts, pairs)

    by_id = rows.set_index("id")
    for column in ("label", "split"):
        for end in ("first", "second"):
            pairs[f"{end}_{column}"] = by_id[column].reindex(pairs[end]).to_numpy()
    counts = {
        "policy": audit.policy,
        "may_leak": bool(len(sets) + len(overlaps)) and audit.policy == "report",
        "images": len(rows),
        "pictures": len(set(pictures)),
        **{f"pairs_{kind}": int((pairs["kind"] == kind).sum()) for kind in PAIR_KINDS},
        "pairs_mirrored": int(pairs["mirrored"].sum()),
        "sets": len(sets),
        "largest_set": max(map(len, sets), default=1),
        "sets_across_given_parts": sum(part["split"].nunique() > 1 for part in sets),
        "too_faint_to_compare": len(copies.faint),
        "label_conflicts": len(conflicts),
        "quarantined": len(quarantined),
    }
    return AuditResult(
        pairs=pairs.sort_values(["kind", "first", "second"], ignore_index=True),
        pictures=pd.Series(pictures.index, index=pictures.index) if audit.policy == "report" else pictures,
        manifest=_merge_overlapping_groups(left[list(manifest.columns)], overlaps, audit),
        quarantined=quarantined,
        counts=counts,
        warnings=_warnings(sets, conflicts, overlaps, audit),
    )


def find_copies(manifest: Manifest, images: Images, read_crops: ReadCrops, audit: Audit) -> Copies:
    """Finds the images of a Manifest that show the same picture or parts of one field.

    Equal files and equal pixels are paired with the smallest of their ids; only this id is compared further. Among near
    duplicates, too, only the smallest id is searched for overlaps.

    Args:
        manifest: a Manifest of originals.
        images: one row per image, with `id` and `pixels`, the digest of the decoded picture.
        read_crops: returns the crops uint8[N, S, S, 3] of ids.
        audit: `near`, `candidates` and `mirror`, see `find_near_duplicates`; `overlap`, see `find_overlaps`.

    Raises:
        InputError: `images` lacks an image of the Manifest.
    """
    digests = dict(zip(images["id"], images["pixels"], strict=True))
    rows = manifest[["id", "sha256"]].sort_values("id", ignore_index=True)
    if unknown := [name for name in rows["id"] if name not in digests]:
        raise InputError(f"the table of images has no row for {unknown[0]!r}")
    rows["pixels"] = [digests[name] for name in rows["id"]]
    tables = []
    for kind, column in (("bytes", "sha256"), ("pixels", "pixels")):
        first = rows.groupby(column, sort=False)["id"].transform("first")
        again = first != rows["id"]
        pair = pd.DataFrame({"first": first[again], "second": rows["id"][again], "kind": kind}, dtype=object)
        tables.append(pair.assign(correlation=1.0, mirrored=False))
        rows = rows[~again]
    near, faint = find_near_duplicates(rows["id"].tolist(), read_crops, audit)
    tables.append(near.assign(kind="near")[list(PAIR_COLUMNS)])
    if audit.overlap is not None:
        different = sorted(set(picture_names(rows["id"], near)) - set(faint))
        tables.append(find_overlaps(different, read_crops, audit.overlap).assign(kind="overlap", mirrored=False))
    pairs = pd.concat(tables, ignore_index=True).astype({"correlation": np.float64, "mirrored": bool})
    return Copies(pairs[list(PAIR_COLUMNS)], faint)


def picture_names(ids: Sequence[str] | pd.Series, pairs: Pairs) -> Pictures:
    """Names the picture of each image by the smallest id that pairs connect to it; the result is sorted by id.

    >>> picture_names(["c", "b", "a"], pd.DataFrame({"first": ["b"], "second": ["c"]})).to_dict()
    {'a': 'a', 'b': 'b', 'c': 'b'}
    """
    names = np.array(sorted(ids), dtype=object)
    index = pd.Index(names)
    smallest = connected_sets(len(names), index.get_indexer(pairs["first"]), index.get_indexer(pairs["second"]))
    return pd.Series(names[smallest], index=index, dtype=object)


def _sets_of_copies(rows: Manifest, pictures: Pictures) -> list[Manifest]:
    """Returns the rows of each picture that two or more images show, by picture; `pictures` has the rows' order."""
    picture = factorize(pictures)[1]
    copied = np.flatnonzero(np.bincount(picture)[picture] > 1)
    by_picture = copied[np.argsort(picture[copied], kind="stable")]
    limits = np.flatnonzero(np.diff(picture[by_picture])) + 1
    return [rows.iloc[part] for part in np.split(by_picture, limits)] if len(copied) else []


def _merge_overlapping_groups(rows: Manifest, overlaps: Pairs, audit: Audit) -> Manifest:
    """Returns the rows with a new index; groups with overlapping pictures have the smallest of their names."""
    rows = rows.reset_index(drop=True)
    ids = pd.Index(rows["id"])
    first, second = ids.get_indexer(overlaps["first"]), ids.get_indexer(overlaps["second"])
    present = (first >= 0) & (second >= 0)  # neither picture is quarantined
    if audit.policy == "report" or not present.any():
        return rows
    names, groups = factorize(rows["group"])
    smallest = connected_sets(len(names), groups[first[present]], groups[second[present]])
    return rows.assign(group=pd.Series(names[smallest[groups]], index=rows.index, dtype=object))


def _refuse(sets: list[Manifest], conflicts: list[Manifest], overlaps: Pairs, audit: Audit) -> None:
    if conflicts and audit.label_conflicts == "refuse":
        raise InputError(
            f"{len(conflicts)} pictures have two labels; correct the labels, or set audit.label_conflicts to "
            f"quarantine or keep:\n{_list_sets(conflicts)}"
        )
    if sets and audit.policy == "refuse":
        raise InputError(
            f"{len(sets)} pictures appear more than once; remove the copies, or set audit.policy to regroup or "
            f"report:\n{_list_sets(sets)}"
        )
    if len(overlaps) and audit.policy == "refuse":
        raise InputError(
            f"{len(overlaps)} pairs of pictures show parts of one field, the first {_describe_overlap(overlaps)}; "
            "remove one of each pair, set audit.policy to regroup or report, or leave audit.overlap empty"
        )


def _quarantine(conflicts: list[Manifest], audit: Audit) -> QuarantinedFiles:
    """Returns all images of the pictures under two labels, or none where `audit.label_conflicts` keeps them."""
    taken = conflicts if audit.label_conflicts == "quarantine" else []
    entries = [
        (path, LABEL_CONFLICT, text) for part in taken for text in [_describe_copies(part)] for path in part["path"]
    ]
    return pd.DataFrame(sorted(entries), columns=["path", "reason", "detail"], dtype=object)


def _check_classes_left(rows: Manifest, left: Manifest, conflicts: list[Manifest], pairs: Pairs) -> None:
    """Raises InputError where quarantine leaves no image of a class."""
    lost = sorted(set(rows["label"]) - set(left["label"]))
    if not lost:
        return
    sets = [part for part in conflicts if (part["label"] == lost[0]).any()]
    ids = {name for part in sets for name in part["id"]}
    by_near_duplicates = ((pairs["kind"] == "near") & pairs["first"].isin(ids)).any()
    near = (
        f" (as near duplicates, in a set of {max(map(len, sets))} images: if they differ, raise audit.near)"
        if by_near_duplicates
        else ""
    )
    raise InputError(
        f"every picture of class {lost[0]!r} also has another label, so that all were quarantined{near}: correct the "
        "labels, or set audit.label_conflicts to keep"
    )


def _warnings(sets: list[Manifest], conflicts: list[Manifest], overlaps: Pairs, audit: Audit) -> list[str]:
    warnings = []
    if conflicts:
        consequence = (
            "all their copies are quarantined"
            if audit.label_conflicts == "quarantine"
            else "they stay in the data (audit.label_conflicts)"
        )
        warnings.append(
            f"{len(conflicts)} pictures have two labels; {consequence}; the first: {_describe_copies(conflicts[0])}"
        )
    if audit.policy == "report" and sets:
        warnings.append(
            f"audit.policy is report: the copies of {len(sets)} pictures are neither kept on one side nor left out, so "
            "that the split may leak"
        )
    if audit.policy == "report" and len(overlaps):
        warnings.append(
            f"audit.policy is report: {len(overlaps)} pairs of pictures show parts of one field and are not kept on "
            f"one side, so that the split may leak; the first: {_describe_overlap(overlaps)}"
        )
    return warnings


def _describe_overlap(overlaps: Pairs) -> str:
    """Names the two images of the first pair."""
    first = overlaps.sort_values(["first", "second"]).iloc[0]
    return f"{first['first']!r} and {first['second']!r}"


def _list_sets(sets: list[Manifest]) -> str:
    more = [f"  … and {len(sets) - SHOWN_SETS} more"] if len(sets) > SHOWN_SETS else []
    return "\n".join([f"  {_describe_copies(rows)}" for rows in sets[:SHOWN_SETS]] + more)


def _describe_copies(rows: Manifest) -> str:
    """Names the first images of a set of copies, at least one per label, and the number of the others."""
    first = rows.loc[rows["label"].duplicated().sort_values(kind="stable").index[:SHOWN_IMAGES]].sort_index()
    more = f" … and {len(rows) - SHOWN_IMAGES} more" if len(rows) > SHOWN_IMAGES else ""
    return ", ".join(f"{row.path!r} is {row.label!r}" for row in first.itertuples()) + more
