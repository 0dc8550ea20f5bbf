"""Finds the files of DVC that a kill, a power cut or a merge left damaged, and restores their last whole version."""

import shlex
import shutil
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.schema import COMPILED_LOCKFILE_SCHEMA, COMPILED_MULTI_STAGE_SCHEMA, COMPILED_SINGLE_STAGE_SCHEMA
from dvc.utils.serialize import parse_yaml
from voluptuous import Invalid

from tumorboard.base.errors import printable
from tumorboard.base.findings import FIX, KEPT, Finding
from tumorboard.base.versioning import run_git
from tumorboard.commands.study_pipeline import PIPELINE

LOCK = "dvc.lock"
COMMITS = 50  # latest commits of a file that are searched for a whole version


def check_torn_files(project: Path) -> list[Finding]:
    """Checks dvc.yaml, dvc.lock and the `.dvc` files; with one of them torn, every command of DVC fails."""
    listed = run_git(project, "ls-files", "-z", "-co", "--exclude-standard", "--", "*.dvc") or ""
    names = [LOCK, *sorted(set(filter(None, listed.split("\0"))))]
    findings = [_check_pipeline(project)]
    findings += [_check_file(project, name) for name in names if (project / name).is_file()]
    return [finding for finding in findings if finding] or [
        Finding("files of DVC", "ok", "dvc.lock and .dvc are whole")
    ]


def marks_of_merge(file: Path) -> int:
    """Returns the number of the first line of a file at which git has marked an unresolved merge; 0 without one."""
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if file.is_file() else []
    return next((number for number, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")), 0)


def is_whole(name: str, text: str) -> bool:
    """Returns whether DVC accepts a dvc.lock or `.dvc` file whose last line is complete, or a dvc.yaml with stages."""
    schemas = {LOCK: COMPILED_LOCKFILE_SCHEMA, PIPELINE: COMPILED_MULTI_STAGE_SCHEMA}
    try:
        tree = parse_yaml(text, name)
        schemas.get(Path(name).name, COMPILED_SINGLE_STAGE_SCHEMA)(tree)
    except (DvcException, Invalid, ValueError):
        return False
    if name == PIPELINE:
        return bool(tree.get("stages"))
    return text.endswith("\n")  # DVC ends both with a line break; a file cut within a line may still be valid


def last_whole_version(project: Path, name: str) -> tuple[str, str] | None:
    """Returns the content of the last whole version that git has, and its place there; None if there is none."""
    log = run_git(project, "log", f"-{COMMITS}", "--format=%h", "--", name) or ""
    places = {":": "git's index"} | {f"{commit}:": f"commit {commit}" for commit in log.split()}
    for revision, place in places.items():
        text = run_git(project, "show", f"{revision}./{name}")
        if text is not None and is_whole(name, text):
            return text, place
    return None


def _check_pipeline(project: Path) -> Finding | None:
    """Checks dvc.yaml, which a user may have edited, so that --fix leaves it as it is."""
    if not (project / PIPELINE).is_file():
        return None
    text = (project / PIPELINE).read_text(encoding="utf-8", errors="surrogateescape")
    if is_whole(PIPELINE, text):
        return None
    line = marks_of_merge(project / PIPELINE)
    reason = f"has the marks of an unresolved merge, first in line {line}" if line else "is damaged, or wrongly edited"
    log = run_git(project, "log", f"-{COMMITS}", "--format=%h", "--", PIPELINE) or ""
    texts = {commit: run_git(project, "show", f"{commit}:./{PIPELINE}") for commit in log.split()}
    commit = next((commit for commit, text in texts.items() if text is not None and is_whole(PIPELINE, text)), "")
    cure = f"git checkout {commit} -- {PIPELINE}" if commit else "dvc status"
    return Finding("files of DVC", "problem", f"{PIPELINE} {reason}: DVC reads no stage", cure)


def _check_file(project: Path, name: str) -> Finding | None:
    text = (project / name).read_text(encoding="utf-8", errors="surrogateescape")
    if is_whole(name, text):
        return None
    shown = printable(name)
    staged = run_git(project, "show", f":./{name}")  # None while the merge goes on; the marks may have been committed
    if marks_of_merge(project / name) and (staged is None or is_whole(name, staged)):
        cure = "git checkout --ours dvc.lock && dvc repro" if name == LOCK else f"git mergetool {shlex.quote(name)}"
        return Finding("files of DVC", "problem", f"{shown} has the marks of an unresolved merge", cure)
    version = last_whole_version(project, name)
    if version is None and name != LOCK:
        path = shlex.quote(name.removesuffix(".dvc"))
        return Finding("files of DVC", "problem", f"{shown} is torn, and git has no whole version", f"dvc add {path}")
    message = f"{shown} is torn: a kill or a power cut while DVC wrote it"
    return Finding("files of DVC", "problem", message, FIX, lambda: _restore(project, name, version))


def _restore(project: Path, name: str, version: tuple[str, str] | None) -> str:
    """Moves the torn file aside and writes the whole version in its place."""
    kept = project / KEPT / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(project / name, kept)
    note = f"the torn one is {KEPT}/{name}; `dvc repro` takes what it lacks from the run cache"
    if version is None:
        return f"moved {name} away, of which git has no whole version; {note}"
    content, place = version
    (project / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    return f"restored {name} from {place}; {note}"
