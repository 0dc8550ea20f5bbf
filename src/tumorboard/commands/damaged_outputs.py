"""Finds outputs of the pipeline that differ from dvc.lock: files that are damaged, cut, edited or of another commit."""

from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.stage import PipelineStage

from tumorboard.base.errors import counted
from tumorboard.base.findings import Finding
from tumorboard.base.schema import read_yaml
from tumorboard.commands.locked_outputs import (
    copy_of,
    cure_of,
    differs,
    has_digest,
    is_cached_file,
    list_few,
    outs_of,
)
from tumorboard.commands.stale_locks import works_now

CHECK = "outputs"


def check_outputs(project: Path) -> list[Finding]:
    """Compares the outputs that are there with dvc.lock, and so their copies in DVC's cache.

    A missing output is no fault: a clone has none before `dvc pull`.
    """
    if works_now(project):
        message = "not compared with dvc.lock, since a command of DVC may be writing them"
        return [Finding(CHECK, "note", message, "tumorboard doctor, once that command has ended")]
    entries, cached = _entries(project)
    findings = []
    if changed := [entry for entry in entries if differs(project / entry["path"], entry)]:
        names = [entry["path"] for entry in changed]
        message = f"{list_few(names)}: not as in dvc.lock: damaged, edited, or of another commit or an unfinished run"
        findings.append(Finding(CHECK, "problem", message, cure_of(project, changed)))
    copies = {copy_of(project, entry): entry for entry in entries if is_cached_file(entry)}
    if damaged := [str(copy) for copy, entry in copies.items() if differs(copy, entry)]:
        paths = [entry["path"] for copy, entry in copies.items() if str(copy) in damaged]
        message = f"DVC's cache has a damaged copy of {list_few(paths)}: {list_few(damaged)}"
        cure = "delete what is damaged there, then dvc pull; if no remote has it, dvc repro makes it again"
        findings.append(Finding(CHECK, "problem", message, cure))
    whole = [] if changed else [entry for entry in entries if (project / entry["path"]).exists()]
    whole = [entry for entry in whole if entry["path"] in cached and has_digest(entry)]
    if lost := [entry["path"] for entry in whole if not copy_of(project, entry).exists()]:
        message = f"DVC's cache has no copy of {list_few(lost)}: dvc repro makes again what is here and whole"
        findings.append(Finding(CHECK, "problem", message, "dvc commit"))
    there = sum((project / entry["path"]).exists() for entry in entries)
    missing = len(entries) - there
    more = f"; {missing:,} more {'is' if missing == 1 else 'are'} not here" if missing else ""
    message = f"{counted(there, 'output')} compared with dvc.lock: size, and content of small files{more}"
    return findings or [Finding(CHECK, "ok", message)]


def _entries(project: Path) -> tuple[list[dict[str, Any]], set[str]]:
    """Returns the outputs in dvc.lock that have a path and a size, and the paths of those that DVC's cache keeps.

    There are none where the pipeline cannot be read. DVC keeps the entries of stages that were renamed or removed;
    other stages may write their files now.
    """
    try:
        stages = read_yaml(project / "dvc.lock").get("stages")
        with Repo(str(project)) as repo:
            present = {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}
            cached = {out.def_path for stage in present.values() for out in stage.outs if out.use_cache}
    except Exception:
        return [], set()  # no dvc.lock before the first run; other checks report what is torn or what DVC cannot load
    locked = [stage for name, stage in stages.items() if name in present] if isinstance(stages, dict) else []
    return outs_of(locked), cached
