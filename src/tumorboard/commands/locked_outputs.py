"""Compares outputs of the pipeline with dvc.lock. DVC itself is not imported, which takes a second."""

import json
import os
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path
from typing import Any

from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import InputError, printable
from tumorboard.base.schema import read_yaml
from tumorboard.base.versioning import in_last_commit

READ_BYTES = 1_000_000  # largest file whose content is read; of larger ones the size counts
FEW = 3  # names in a message


def explain_other_run(project: Path, files: Iterable[Path]) -> str:
    """Returns which of a command's files are not those of dvc.lock, and the cure; '' where there is no such file.

    `git checkout`, `git stash` and `git reset` bring back what git has, such as the metrics, and not what DVC has, such
    as the models: without `dvc checkout` the two are of different runs.

    Args:
        project: folder of the project.
        files: outputs of the pipeline, relative to the project; one that is missing differs from nothing.
    """
    try:
        stages = read_yaml(project / "dvc.lock").get("stages")
    except InputError:
        return ""  # there is none before the first run; DVC and `doctor` report a torn one
    known: dict[str, list[dict[str, Any]]] = {}  # several stages have one path where one of them was renamed
    for entry in outs_of(list(stages.values()) if isinstance(stages, dict) else []):
        known.setdefault(entry["path"], []).append(entry)
    names = dict.fromkeys(file.as_posix() for file in files)
    entries = [known[name] for name in names if name in known and (project / name).exists()]
    changed = [each[0] for each in entries if all(differs(project / one["path"], one) for one in each)]
    if not changed:
        return _explain_other_order(project, stages, list(names))
    shown = list_few([entry["path"] for entry in changed])
    return f"{shown}: not as in dvc.lock, but of another commit or an unfinished run: {cure_of(project, changed)}"


def _explain_other_order(project: Path, stages: Any, names: list[str]) -> str:
    """Returns which files of dvc.lock were made before or after those that belong to them, and the cure; '' if none."""
    stages = {str(title): stage for title, stage in stages.items()} if isinstance(stages, dict) else {}
    stages = {title: stage for title, stage in stages.items() if isinstance(stage, dict)}
    if ahead := [name for name in names if _is_ahead(stages, name)]:
        return f"{list_few(ahead)}: trained after the scores were computed: dvc repro"
    for name in names:
        if stage := _maker_with_older_inputs(project, stages, name):
            cure = f"dvc unfreeze {stage}; dvc repro" if _is_frozen(project, stage) else "dvc repro"
            return f"{printable(name)}: made before the members' predictions, which stage {stage} reads: {cure}"
    return ""


def _maker_with_older_inputs(project: Path, stages: dict[str, Any], name: str) -> str:
    """Returns the stage that made a file if it read other predictions than those that are here now, else ''.

    A frozen stage `ensemble` leaves panel.json so when the members are trained anew.
    """
    evaluations = [stage for title, stage in stages.items() if title.startswith("evaluate@")]
    predicted = [str(out.get("path")) for out in _entries_of(evaluations, "outs")]
    older = []  # an entry of a removed stage may name the file too
    for title, stage in stages.items():
        if any(out.get("path") == name for out in _entries_of([stage], "outs")):
            read = [entry for entry in _complete(_entries_of([stage], "deps")) if (project / entry["path"]).is_dir()]
            read = [entry for entry in read if any(path.startswith(f"{entry['path']}/") for path in predicted)]
            if not any(differs(project / entry["path"], entry) for entry in read):
                return ""
            older.append(title)
    return older[-1] if older else ""


def _is_frozen(project: Path, stage: str) -> bool:
    try:
        stages = read_yaml(project / "dvc.yaml").get("stages")
    except InputError:
        return False
    entry = stages.get(stage) if isinstance(stages, dict) else None
    return isinstance(entry, dict) and bool(entry.get("frozen"))


def _is_ahead(stages: dict[str, Any], name: str) -> bool:
    """Returns whether dvc.lock has another version of a file than the one its stages `evaluate` have read.

    `dvc repro train@cnn-0` leaves it so. Entries of other stages may be older than the pipeline.
    """

    def versions(key: str, matrix: str) -> set[Any]:
        of_matrix = [stage for title, stage in stages.items() if title.startswith(matrix)]
        return {entry.get("md5") for entry in _entries_of(of_matrix, key) if entry.get("path") == name}

    made, read = versions("outs", "train@"), versions("deps", "evaluate@")
    return bool(made and read and not made & read)


def cure_of(project: Path, changed: list[dict[str, Any]]) -> str:
    """Returns the command that brings outputs back: without training where the cache or a remote may have them."""
    in_dvc = [entry for entry in changed if not in_last_commit(project, entry["path"])]  # git has metrics and plots
    if len(in_dvc) < len(changed):
        return "dvc repro"
    copies = [(copy_of(project, entry), entry) for entry in in_dvc if isinstance(entry.get("md5"), str)]
    whole = [copy.is_file() and not (is_cached_file(entry) and differs(copy, entry)) for copy, entry in copies]
    if len(whole) == len(in_dvc) and all(whole):
        return "dvc checkout --force"
    if any('remote "' in file.read_text(errors="replace") for file in (project / ".dvc").glob("config*")):
        return "dvc pull --force; what the remote lacks, dvc repro makes again"
    return "dvc repro"


def outs_of(stages: list[Any]) -> list[dict[str, Any]]:
    """Returns the outputs of stages of dvc.lock that have a path and a size."""
    return _complete(_entries_of(stages, "outs"))


def _complete(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if isinstance(entry.get("path"), str) and isinstance(entry.get("size"), int)]


def _entries_of(stages: Iterable[Any], key: str) -> list[dict[str, Any]]:
    """Returns what stages of dvc.lock list as `outs` or `deps`; what has another form than DVC writes is left out."""
    lists = [stage.get(key) for stage in stages if isinstance(stage, dict)]
    return [entry for each in lists if isinstance(each, list) for entry in each if isinstance(entry, dict)]


def has_digest(entry: dict[str, Any]) -> bool:
    """Returns whether an output has the digest by which the cache of DVC 3 names its copy."""
    return entry.get("hash") == "md5" and isinstance(entry.get("md5"), str)


def is_cached_file(entry: dict[str, Any]) -> bool:
    """Returns whether an output is a file that DVC's cache has, and no folder."""
    return has_digest(entry) and not entry["md5"].endswith(".dir")


def copy_of(project: Path, entry: dict[str, Any]) -> Path:
    """Returns the path of an output's copy in the cache, which need not be there."""
    inside = Path("files", "md5", entry["md5"][:2], entry["md5"][2:])
    places = [cache / inside for cache in dvc_cache_folders(project.resolve())]
    return next((place for place in places if place.exists()), project / ".dvc" / "cache" / inside)


def differs(path: Path, entry: dict[str, Any]) -> bool:
    """Returns whether a file or folder is there and has another size or, if it is small, another content.

    What cannot be read differs, such as a link into a cache that is gone.

    Args:
        path: the file or folder.
        entry: what dvc.lock has of it.
    """
    try:
        if path.is_dir():
            files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
            if len(files) != entry.get("nfiles") or sum(file.stat().st_size for file in files) != entry["size"]:
                return True
            return (
                entry["size"] <= READ_BYTES and entry.get("hash") == "md5" and _digest(path, files) != entry.get("md5")
            )
        if not path.is_file():
            return path.is_symlink()
        size = path.stat().st_size
        if size != entry["size"] or size > READ_BYTES or entry.get("hash") != "md5":
            return bool(size != entry["size"])
        return _md5(path.read_bytes()) != entry.get("md5")
    except OSError:
        return True


def _digest(folder: Path, files: Iterable[Path]) -> str:
    """Returns DVC's digest of a folder: that of the list of its files, by their path in it."""
    listed = [{"md5": _md5(file.read_bytes()), "relpath": file.relative_to(folder).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return _md5(json.dumps(listed, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return md5(content, usedforsecurity=False).hexdigest()


def list_few(names: list[str]) -> str:
    """Returns the first FEW names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(printable(name) for name in names[:FEW]) + more
