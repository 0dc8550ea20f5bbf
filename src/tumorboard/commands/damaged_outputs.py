"""Finds outputs of the pipeline that are not what dvc.lock says the last run wrote: damaged, cut or edited files."""

import os
from hashlib import md5
from pathlib import Path
from typing import Any

from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import InputError, counted, printable
from tumorboard.base.findings import Finding
from tumorboard.base.schema import read_yaml

READ_BYTES = 1_000_000  # largest file whose content is read; of larger ones the size counts
FEW = 3  # names in a message
CHECK = "outputs"


def check_outputs(project: Path) -> list[Finding]:
    """Compares the outputs that are there with dvc.lock, and so their copies in DVC's cache.

    A missing output is no fault: a clone has none before `dvc pull`.
    """
    entries = _entries(project)
    findings = []
    if changed := [entry["path"] for entry in entries if _differs(project / entry["path"], entry)]:
        message = f"{_list(changed)}: not what the last run wrote: damaged, or changed by hand"
        findings.append(Finding(CHECK, "problem", message, "dvc repro"))
    copies = {_copy_of(project, entry): entry for entry in entries if _is_cached_file(entry)}
    if damaged := [str(copy) for copy, entry in copies.items() if _differs(copy, entry)]:
        paths = [entry["path"] for copy, entry in copies.items() if str(copy) in damaged]
        message = f"DVC's cache has a damaged copy of {_list(paths)}: {_list(damaged)}"
        cure = "delete what is damaged there, then dvc pull; if no remote has it, dvc repro makes it again"
        findings.append(Finding(CHECK, "problem", message, cure))
    there = sum((project / entry["path"]).exists() for entry in entries)
    return findings or [Finding(CHECK, "ok", f"{counted(there, 'output')} as the last run wrote them")]


def _entries(project: Path) -> list[dict[str, Any]]:
    """Returns the outputs of dvc.lock that have a path and a size; none where it cannot be read."""
    try:
        stages = read_yaml(project / "dvc.lock").get("stages")
    except InputError:
        return []  # there is none before the first run; check_torn_files reports a torn one
    outs = [stage.get("outs") for stage in (stages.values() if isinstance(stages, dict) else ())]
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
    """Returns whether a file or folder is there and has another size or, if it is small, another content."""
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        return sum(file.stat().st_size for file in files) != entry["size"] or len(files) != entry.get("nfiles")
    if not path.is_file():
        return False
    size = path.stat().st_size
    if size != entry["size"] or size > READ_BYTES or entry.get("hash") != "md5":
        return bool(size != entry["size"])
    return md5(path.read_bytes(), usedforsecurity=False).hexdigest() != entry.get("md5")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(printable(name) for name in names[:FEW]) + more
