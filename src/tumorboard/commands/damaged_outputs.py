"""Finds outputs of the pipeline that differ from dvc.lock: files that are damaged, cut, edited or of another commit."""

import os
from hashlib import md5
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.stage import PipelineStage

from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import counted, printable
from tumorboard.base.findings import Finding
from tumorboard.base.schema import read_yaml
from tumorboard.base.versioning import in_last_commit
from tumorboard.commands.stale_locks import works_now

READ_BYTES = 1_000_000  # largest file whose content is read; of larger ones the size counts
FEW = 3  # names in a message
CHECK = "outputs"


def check_outputs(project: Path) -> list[Finding]:
    """Compares the outputs that are there with dvc.lock, and so their copies in DVC's cache.

    A missing output is no fault: a clone has none before `dvc pull`.
    """
    if works_now(project):
        message = "not compared with dvc.lock, since a command of DVC may be writing them"
        return [Finding(CHECK, "note", message, "tumorboard doctor, once that command has ended")]
    entries = _entries(project)
    findings = []
    if changed := [entry for entry in entries if _differs(project / entry["path"], entry)]:
        names = [entry["path"] for entry in changed]
        message = f"{_list(names)}: not as in dvc.lock: damaged, edited, or of another commit or an unfinished run"
        findings.append(Finding(CHECK, "problem", message, _cure(project, changed)))
    copies = {_copy_of(project, entry): entry for entry in entries if _is_cached_file(entry)}
    if damaged := [str(copy) for copy, entry in copies.items() if _differs(copy, entry)]:
        paths = [entry["path"] for copy, entry in copies.items() if str(copy) in damaged]
        message = f"DVC's cache has a damaged copy of {_list(paths)}: {_list(damaged)}"
        cure = "delete what is damaged there, then dvc pull; if no remote has it, dvc repro makes it again"
        findings.append(Finding(CHECK, "problem", message, cure))
    there = sum((project / entry["path"]).exists() for entry in entries)
    missing = len(entries) - there
    more = f"; {missing:,} more {'is' if missing == 1 else 'are'} not here" if missing else ""
    message = f"{counted(there, 'output')} compared with dvc.lock: size, and content of small files{more}"
    return findings or [Finding(CHECK, "ok", message)]


def _cure(project: Path, changed: list[dict[str, Any]]) -> str:
    """Returns the command that brings outputs back: without training where the cache or a remote may have them."""
    in_dvc = [entry for entry in changed if not in_last_commit(project, entry["path"])]  # git has metrics and plots
    if len(in_dvc) < len(changed):
        return "dvc repro"
    copies = [(_copy_of(project, entry), entry) for entry in in_dvc if isinstance(entry.get("md5"), str)]
    whole = [copy.is_file() and not (_is_cached_file(entry) and _differs(copy, entry)) for copy, entry in copies]
    if len(whole) == len(in_dvc) and all(whole):
        return "dvc checkout --force"
    if any('remote "' in file.read_text(errors="replace") for file in (project / ".dvc").glob("config*")):
        return "dvc pull --force; what the remote lacks, dvc repro makes again"
    return "dvc repro"


def _entries(project: Path) -> list[dict[str, Any]]:
    """Returns the outputs in dvc.lock that have a path and a size; none where the pipeline cannot be read.

    DVC keeps the entries of stages that were renamed or removed. Other stages may write their files now.
    """
    try:
        stages = read_yaml(project / "dvc.lock").get("stages")
        with Repo(str(project)) as repo:
            names = {stage.name for stage in repo.index.stages if isinstance(stage, PipelineStage)}
    except Exception:
        return []  # no dvc.lock before the first run; other checks report what is torn or what DVC cannot load
    present = [stage for name, stage in stages.items() if name in names] if isinstance(stages, dict) else []
    outs = [stage.get("outs") for stage in present if isinstance(stage, dict)]
    listed = [out for each in outs if isinstance(each, list) for out in each if isinstance(out, dict)]
    return [out for out in listed if isinstance(out.get("path"), str) and isinstance(out.get("size"), int)]


def _is_cached_file(entry: dict[str, Any]) -> bool:
    return entry.get("hash") == "md5" and isinstance(entry.get("md5"), str) and not entry["md5"].endswith(".dir")


def _copy_of(project: Path, entry: dict[str, Any]) -> Path:
    """Returns the path of an output's copy in the cache, which need not be there."""
    inside = Path("files", "md5", entry["md5"][:2], entry["md5"][2:])
    places = [cache / inside for cache in dvc_cache_folders(project.resolve())]
    return next((place for place in places if place.exists()), project / ".dvc" / "cache" / inside)


def _differs(path: Path, entry: dict[str, Any]) -> bool:
    """Returns whether a file or folder is there and has another size or, if it is small, another content.

    What cannot be read differs, such as a link into a cache that is gone.
    """
    try:
        if path.is_dir():
            files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
            return len(files) != entry.get("nfiles") or sum(file.stat().st_size for file in files) != entry["size"]
        if not path.is_file():
            return path.is_symlink()
        size = path.stat().st_size
        if size != entry["size"] or size > READ_BYTES or entry.get("hash") != "md5":
            return bool(size != entry["size"])
        return md5(path.read_bytes(), usedforsecurity=False).hexdigest() != entry.get("md5")
    except OSError:
        return True


def _list(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(printable(name) for name in names[:FEW]) + more
