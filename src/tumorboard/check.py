"""What a run would make of a raw folder: the account of its files, by the code of crop and split, writing nothing."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from tumorboard.data.audit import Copies, audit_manifest, find_copies, picture_names
from tumorboard.data.crop import crop_images, worker_count
from tumorboard.data.quarantine import check_count, check_usable
from tumorboard.data.shortcuts import found_shortcuts, probe_shortcuts
from tumorboard.data.sources import list_images
from tumorboard.data.split import check_split, gap_in_test, left_out, split_manifest
from tumorboard.data.store import CropStore
from tumorboard.errors import InputError, printable
from tumorboard.params import Params
from tumorboard.tables import read_manifest, read_table

FEW = 5  # that a message names
DVC_PASSES = {".git", ".hg", ".dvc"}  # folders that DVC leaves out


@dataclass
class Account:
    """What was found; as JSON it is the object of `tumorboard check --json`.

    `classes`: accepted images by label; `accepted`: their paths; `quarantined`: path, reason, detail; `ignored`: path,
    reason; `left_out`: path, reason of the accepted ones that will not be trained on, as a given part has their picture
    or patient; `duplicates`: kind (bytes, pixels or near) and paths; `label_conflicts`: the paths of each picture under
    several labels; `shortcuts`: the facts of the files that predict the label as well as `audit.shortcut` or better,
    with their scores; `warnings`: sentences on what a run would accept and the user may not expect; `groups`: how many
    there are; `refused`: None, or the message with which a run would stop. Paths are relative to the raw folder, POSIX.
    """

    classes: dict[str, int] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    label_conflicts: list[list[str]] = field(default_factory=list)
    shortcuts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    groups: int = 0
    refused: dict[str, str] | None = None


def params_for(params: Params, raw: Path, group_pattern: str | None) -> Params:
    """Params with `data.raw` set to `raw`; its table and pattern of groups count only where it was that before."""
    data = {"raw": str(raw), "table": None, "group_pattern": group_pattern}
    if Path(params.data.raw).resolve() == raw.resolve():
        data = {"raw": str(raw)} if group_pattern is None else {"raw": str(raw), "group_pattern": group_pattern}
    return params.model_copy(update={"data": params.data.model_copy(update=data)})


def check_folder(raw: Path, params: Params, labels: Path | None = None) -> Account:
    """Read every image below `raw` as crop would, split them as split would, and tell what was found.

    What the two write goes to a temporary folder. `labels` is a table that goes before `data.table` and may lie
    elsewhere.
    """
    account = Account()
    with TemporaryDirectory(prefix="tumorboard-check-") as temporary:
        try:
            _fill(account, raw, params, labels, Path(temporary))
        except InputError as error:
            account.refused = {"message": str(error)}
    return account


def _fill(account: Account, raw: Path, params: Params, labels: Path | None, folder: Path) -> None:
    rows, ignored = list_images(raw, params.data, labels)
    account.warnings += filter(None, [_warn_of_dvc(raw)])
    account.classes = dict.fromkeys(sorted(set(rows["label"])), 0)
    account.ignored = _records(ignored)
    workers = worker_count(params.runtime.workers)
    # None: the account goes on where a run would stop; that follows below.
    crop_images(rows, ignored, raw, params.crop, params.data.frames, folder, folder / "cache", workers, None)
    manifest, images = read_manifest(folder / "manifest.csv"), read_table(folder / "images.csv")
    quarantined = read_table(folder / "quarantined.csv")
    account.quarantined = _records(quarantined)
    _accept(account, manifest)
    copies = find_copies(manifest, images, CropStore(folder / "store").__getitem__, params.audit)
    account.duplicates, account.label_conflicts = _sets(manifest, images, copies)
    if copies.faint:
        account.warnings.append(
            f"too faint to be compared, so that near duplicates among them go unseen: {len(copies.faint)}, the first "
            f"{copies.faint[0]!r}"
        )
    check_usable(quarantined, rows, params.data.max_quarantined)
    # What audit and split warn of is in the account.
    with redirect_stderr(StringIO()):
        found = audit_manifest(manifest, copies, params.audit)
        account.quarantined += _records(found.quarantined)
        _accept(account, found.manifest)
        check_count(pd.concat([quarantined, found.quarantined]), len(rows), params.data.max_quarantined)
        account.left_out = _records(left_out(found.manifest, found.pictures))
        split, _ = split_manifest(found.manifest, found.pictures, params.split, params.folds, params.seed)
    account.warnings += filter(None, [gap_in_test(split)])
    check_split(split, images, found.pairs, copies=params.audit.policy != "report")
    reached = found_shortcuts(probe_shortcuts(split, images, params.seed), params.audit.shortcut)
    account.shortcuts = [
        {str(key): None if value != value else value for key, value in row.items()}  # JSON knows no nan
        for row in reached.to_dict("records")
    ]


def _warn_of_dvc(raw: Path) -> str:
    """A sentence where DVC, which hashes the raw folder before crop begins, will not come through; else ''."""
    unread = list(_unread(raw))
    names = "; ".join(f"{printable(path)} ({why})" for path, why in unread[:FEW])
    more = f"; and {len(unread) - FEW} more" if len(unread) > FEW else ""
    return (
        f"`dvc repro` will stop, or wait forever, before its first stage: DVC hashes all of the folder, and cannot "
        f"read {names}{more}. Remove or mend it first"
        if unread
        else ""
    )


def _unread(raw: Path) -> Iterator[tuple[str, str]]:
    """What DVC cannot hash of a raw folder, though crop would quarantine it, read it or pass it by; and why."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(raw, followlinks=True):
        if (end := os.path.realpath(folder)) in seen:
            folders[:] = []  # a circle of links somewhere outside, or a folder linked twice
            continue
        seen.add(end)
        folders[:] = sorted(set(folders) - DVC_PASSES)
        for name in sorted(names):
            file = Path(folder, name)
            path = file.relative_to(raw).as_posix()
            try:
                path.encode()
                mode = file.stat().st_mode
            except UnicodeEncodeError:
                yield path, "its name is no UTF-8"
            except OSError as error:
                yield path, "a link to nothing" if file.is_symlink() else str(error.strerror)
            else:
                if not stat.S_ISREG(mode):
                    yield path, "no regular file"
                elif not os.access(file, os.R_OK):
                    yield path, "no permission"


def _accept(account: Account, manifest: pd.DataFrame) -> None:
    account.classes = dict.fromkeys(account.classes, 0) | Counter(manifest["label"])
    account.accepted = manifest["id"].tolist()
    account.groups = len(set(manifest["group"]))


def _sets(manifest: pd.DataFrame, images: pd.DataFrame, copies: Copies) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The sets of equal files, of equal pixels and of near duplicates; and the pictures under several labels.

    A set is left out where a stricter kind has the very same files.
    """
    digests = dict(zip(images["id"], images["pixels"], strict=True))
    pictures = picture_names(manifest["id"], copies.pairs)
    near = set(pictures[copies.pairs["first"][copies.pairs["kind"] == "near"]])
    name_of = {
        "bytes": dict(zip(manifest["id"], manifest["sha256"], strict=True)),
        "pixels": {name: digests[name] for name in manifest["id"]},
        "near": {name: picture for name, picture in zip(pictures.index, pictures, strict=True) if picture in near},
    }
    found: list[dict[str, Any]] = []
    for kind, names in name_of.items():
        known = {tuple(entry["paths"]) for entry in found}
        found += [{"kind": kind, "paths": paths} for paths in _shared(names) if tuple(paths) not in known]
    label_of = dict(zip(manifest["id"], manifest["label"], strict=True))
    same = _shared(dict(zip(pictures.index, pictures, strict=True)))
    return found, [paths for paths in same if len({label_of[path] for path in paths}) > 1]


def _shared(names: Mapping[str, str]) -> list[list[str]]:
    """The ids that share a name, in sets of two or more."""
    sets: dict[str, list[str]] = {}
    for identity, name in names.items():
        sets.setdefault(name, []).append(identity)
    return [sorted(ids) for ids in sets.values() if len(ids) > 1]


def _records(table: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]
