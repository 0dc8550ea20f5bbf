"""Checks a raw folder: what a run would do with each file and whether it would stop. Leaves nothing on disk."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from tumorboard.base.errors import InputError, printable
from tumorboard.base.files import read_table
from tumorboard.base.params import Params
from tumorboard.base.tables import Images, Manifest, read_manifest
from tumorboard.data.audit import Copies, find_copies, picture_names
from tumorboard.data.boxes import read_listed_boxes
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.label_warnings import describe_listing, describe_placeholders
from tumorboard.data.parts import few_validation_warning
from tumorboard.data.prepare import Prepared, prepare_data
from tumorboard.data.quarantine import check_usable_images
from tumorboard.data.shortcuts import select_shortcuts
from tumorboard.data.sources import list_images
from tumorboard.data.split import missing_class_warning
from tumorboard.data.store import CropStore
from tumorboard.data.unlabeled_ranges import describe_unlabeled
from tumorboard.data.workers import worker_count

FEW = 5  # files named per message
# Entries of the section `data` that apply to one raw folder alone.
OF_ONE_FOLDER = ("table", "columns", "prefix", "extension", "classes", "unit", "positive", "boxes")
SKIPPED_BY_DVC = {".git", ".hg", ".dvc"}  # folders that DVC does not hash


@dataclass
class Account:
    """What a run would do with a raw folder; as JSON the object of `tumorboard check --json`.

    Paths are relative to the raw folder, with forward slashes.
    """

    classes: dict[str, int] = field(default_factory=dict)  # number of accepted images by label
    accepted: list[str] = field(default_factory=list)  # paths of the images that the run would use
    quarantined: list[dict[str, str]] = field(default_factory=list)  # path, reason, detail
    ignored: list[dict[str, str]] = field(default_factory=list)  # path, reason
    left_out: list[dict[str, str]] = field(default_factory=list)  # path, reason; accepted, but not trained on
    duplicates: list[dict[str, Any]] = field(default_factory=list)  # kind (bytes, pixels, near, overlap), paths
    label_conflicts: list[list[str]] = field(default_factory=list)  # paths of each picture under several labels
    shortcuts: list[dict[str, Any]] = field(default_factory=list)  # scores of facts that reach audit.shortcut
    warnings: list[str] = field(default_factory=list)  # sentences about what a run would accept
    groups: int = 0  # groups (patients) of the accepted images
    grouped: bool = False  # whether a pattern, a table or the files name groups; else each image is its own
    refused: dict[str, str] | None = None  # message: the error with which a run would stop; None: it would not stop


def params_for(params: Params, raw: Path, group_pattern: str | None) -> Params:
    """Returns params with `data.raw` set to another folder.

    The table, the layout and the groups that `params` describe apply only where `raw` is their own folder.

    Args:
        params: the project's parameters.
        raw: the folder to check.
        group_pattern: replaces `data.group_pattern`; None: it is not replaced.
    """
    data = {"raw": str(raw), **dict.fromkeys(OF_ONE_FOLDER), "layout": "auto", "group_pattern": group_pattern}
    if os.path.realpath(params.data.raw) == os.path.realpath(raw):  # unlike `resolve`, it raises no errors
        data = {"raw": str(raw)} if group_pattern is None else {"raw": str(raw), "group_pattern": group_pattern}
    return params.model_copy(update={"data": params.data.model_copy(update=data)})


def check_folder(raw: Path, params: Params, labels: Path | None = None, place: Path | None = None) -> Account:
    """Crops, audits and splits the images of a folder in a temporary folder, as a run would, and reports the outcome.

    An error with which a run would stop is `Account.refused`; everything known until then is reported too.

    Args:
        raw: folder of the images.
        params: the run's parameters, see `params_for`.
        labels: a label table that replaces `data.table` and may lie outside `raw`.
        place: folder for temporary files, which the workers of `runtime.scheduler` see under this name; None: the
            system's folder.
    """
    account = Account()
    with _temporary_folder(place) as folder:
        try:
            _fill(account, raw, params, labels=labels, folder=folder)
        except InputError as error:
            account.refused = {"message": str(error)}
            if not account.classes and _is_folder(raw):  # no label is known, but the pictures can be compared
                account.warnings += describe_unlabeled(raw, params.crop, params.data.frames)
    return account


def _is_folder(raw: Path) -> bool:
    try:
        return raw.is_dir()
    except OSError:  # the name is too long, or there is no permission
        return False


@contextmanager
def _temporary_folder(place: Path | None) -> Iterator[Path]:
    """Yields a new folder, which is deleted at the end with all that it holds; so is `place`, if it is empty then."""
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix="tumorboard-check-", dir=place) as name:
            yield Path(name)
    finally:
        if place is not None:
            with suppress(OSError):
                place.rmdir()


def _fill(account: Account, raw: Path, params: Params, *, labels: Path | None, folder: Path) -> None:
    """Fills the account step by step; raises the InputError with which a run would stop."""
    listed, ignored = list_images(raw, params.data, labels)
    account.warnings += filter(None, [_dvc_warning(raw), *describe_listing(listed, raw, params.data, labels)])
    account.classes = dict.fromkeys(sorted(set(listed["label"])), 0)
    account.ignored = _records(ignored)
    # No limit: the account needs the crops even where a run would stop. The limit is checked below.
    job = CropJob(
        raw=raw,
        out=folder,
        cache=folder / "cache",
        crop=params.crop,
        frames=params.data.frames,
        max_quarantined=None,
        workers=worker_count(params.runtime.workers),
        scheduler=params.runtime.scheduler,
        links=params.data.links,
    )
    account.warnings += crop_images(listed, ignored, job).warnings
    manifest, images = read_manifest(folder / "manifest.csv"), read_table(folder / "images.csv")
    account.grouped = bool((manifest["group"] != manifest["id"]).any())
    unusable = read_table(folder / "quarantined.csv")
    account.quarantined = _records(unusable)
    _accept(account, manifest)
    copies = find_copies(manifest, images, CropStore(folder / "store").read_once, params.audit)
    account.duplicates, account.label_conflicts = _list_copies(manifest, images, copies)
    if copies.faint:
        account.warnings.append(
            f"too faint to be compared, so that near duplicates among them go unseen: {len(copies.faint)}, the first "
            f"{copies.faint[0]!r}"
        )
    check_usable_images(unusable, listed, params.data.max_quarantined)
    attributes = read_table(folder / "attributes.csv")
    prepared = prepare_data(manifest, images, copies, unusable=unusable, params=params, attributes=attributes)
    _add_prepared(account, prepared, params)
    read_listed_boxes(params.data, folder)


def _add_prepared(account: Account, prepared: Prepared, params: Params) -> None:
    """Adds what audit and split would do; raises the error with which they would stop."""
    account.quarantined += _records(prepared.label_conflicts)
    _accept(account, prepared.audited)
    account.left_out = _records(prepared.left_out)
    # The other warnings of audit and split repeat what the account lists.
    divided = prepared.manifest
    warnings = [
        describe_placeholders(prepared.audited),
        missing_class_warning(divided),
        few_validation_warning(divided, params.folds, params.split.leave_out),
    ]
    account.warnings += filter(None, warnings)
    account.shortcuts = [
        {str(key): None if value != value else value for key, value in row.items()}  # JSON has no NaN
        for row in select_shortcuts(prepared.shortcuts, params.audit.shortcut).to_dict("records")
    ]
    prepared.raise_error()


def _dvc_warning(raw: Path) -> str:
    """Returns a sentence that names the files at which DVC stops when it hashes the raw folder, or ''."""
    unreadable = list(_unreadable_by_dvc(raw))
    names = "; ".join(f"{printable(path)} ({why})" for path, why in unreadable[:FEW])
    more = f"; and {len(unreadable) - FEW} more" if len(unreadable) > FEW else ""
    return (
        f"`dvc repro` will stop, or wait forever, before its first stage: DVC hashes the whole folder, and cannot read "
        f"{names}{more}. Remove or repair them first"
        if unreadable
        else ""
    )


def _unreadable_by_dvc(raw: Path) -> Iterator[tuple[str, str]]:
    """Yields path and reason of the files that DVC cannot hash, even if crop would quarantine, read or ignore them."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(raw, followlinks=True):
        if (end := os.path.realpath(folder)) in seen:
            folders[:] = []  # a cycle of links outside of raw, or a folder that is linked twice
            continue
        seen.add(end)
        folders[:] = sorted(set(folders) - SKIPPED_BY_DVC)
        for name in sorted(names):
            file = Path(folder, name)
            path = file.relative_to(raw).as_posix()
            try:
                path.encode()
                mode = file.stat().st_mode
            except UnicodeEncodeError:
                yield path, "its name is not UTF-8"
            except OSError as error:
                yield path, "a broken link" if file.is_symlink() else str(error.strerror)
            else:
                if not stat.S_ISREG(mode):
                    yield path, "not a regular file"
                elif not os.access(file, os.R_OK):
                    yield path, "no permission"


def _accept(account: Account, manifest: Manifest) -> None:
    account.classes = dict.fromkeys(account.classes, 0) | Counter(manifest["label"])
    account.accepted = manifest["id"].tolist()
    account.groups = len(set(manifest["group"]))


def _list_copies(manifest: Manifest, images: Images, copies: Copies) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Returns the sets of copies by kind, and the pictures under several labels.

    A set of equal files is not repeated among equal pixels or near duplicates, unless these add files to it.
    """
    digests = dict(zip(images["id"], images["pixels"], strict=True))
    overlaps = copies.pairs[copies.pairs["kind"] == "overlap"]
    pictures = picture_names(manifest["id"], copies.pairs.drop(overlaps.index))
    near = set(pictures[copies.pairs["first"][copies.pairs["kind"] == "near"]])
    name_of = {
        "bytes": dict(zip(manifest["id"], manifest["sha256"], strict=True)),
        "pixels": {name: digests[name] for name in manifest["id"]},
        "near": {name: picture for name, picture in zip(pictures.index, pictures, strict=True) if picture in near},
    }
    duplicates: list[dict[str, Any]] = []
    for kind, names in name_of.items():
        known = {tuple(entry["paths"]) for entry in duplicates}
        duplicates += [{"kind": kind, "paths": paths} for paths in _ids_by_name(names) if tuple(paths) not in known]
    ends = zip(overlaps["first"], overlaps["second"], strict=True)
    duplicates += [{"kind": "overlap", "paths": list(paths)} for paths in sorted(ends)]
    label_of = dict(zip(manifest["id"], manifest["label"], strict=True))
    copied = _ids_by_name(dict(zip(pictures.index, pictures, strict=True)))
    return duplicates, [paths for paths in copied if len({label_of[path] for path in paths}) > 1]


def _ids_by_name(names: Mapping[str, str]) -> list[list[str]]:
    """Returns the ids that share a name, sorted, in sets of two or more."""
    sets: dict[str, list[str]] = {}
    for identity, name in names.items():
        sets.setdefault(name, []).append(identity)
    return [sorted(ids) for ids in sets.values() if len(ids) > 1]


def _records(table: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]
