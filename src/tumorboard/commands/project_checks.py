"""Checks of a project's folder: git, params.yaml, the data, and faults that would surprise a run or a colleague."""

import configparser
import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tumorboard.base.errors import InputError, printable
from tumorboard.base.findings import Finding
from tumorboard.base.params import Params, load_params
from tumorboard.base.schema import read_yaml
from tumorboard.base.versioning import (
    commit_command,
    explain_missing,
    explain_unversioned,
    in_last_commit,
    is_stage_output,
    nearest_path,
    run_git,
)
from tumorboard.commands.image_guard import large_images
from tumorboard.commands.torn_files import marks_of_merge

FEW = 3  # names in a message
READ_BY_DVC = {  # what dvc.yaml takes from the file params.yaml itself, with a line to write
    "models": "models: [linear, cnn]",
    "folds": "folds: [0]",
    "medmnist": "medmnist: []",
    "data.raw": "raw: /path/to/images",
}


def check_identity(project: Path) -> list[Finding]:
    """Checks that git knows a name and an e-mail address, which every experiment of DVC is committed with."""
    known = {key: (run_git(project, "config", f"user.{key}") or "").strip() for key in ("name", "email")}
    both = known if all(known.values()) else dict.fromkeys(known, "")  # DVC takes the configuration whole or not at all
    missing = [
        key
        for key, value in both.items()
        if not all(os.environ.get(f"GIT_{role}_{key.upper()}", value) for role in ("AUTHOR", "COMMITTER"))
    ]
    if not missing:
        return [Finding("git identity", "ok", "git knows a name and an e-mail address")]
    return [
        Finding(
            "git identity",
            "problem",
            "git knows no name or no e-mail address of yours: `git commit` fails, `dvc exp run` guesses both or fails",
            'git config --global user.name "Your Name" && git config --global user.email you@example.org',
        )
    ]


def check_git(project: Path) -> list[Finding]:
    """Checks that the folder is a repository of git that git agrees to read, with a commit."""
    if run_git(project, "rev-parse", "--git-dir") is None:
        if any((folder / ".git").exists() for folder in (project, *project.resolve().parents)):
            message = "git refuses the folder, which belongs to another account (or git is not installed)"
            cure = f"git config --global --add safe.directory {shlex.quote(str(project.resolve()))}"
            return [Finding("git", "problem", message, cure)]
        cure = "git init && git add -A && git commit -m Begin"
        return [Finding("git", "problem", "the folder is no repository of git, which DVC needs", cure)]
    if run_git(project, "rev-parse", "HEAD") is None:
        message = "there is no commit yet, which every experiment starts from"
        return [Finding("git", "problem", message, "git add -A && git commit -m Begin")]
    if place := (run_git(project, "rev-parse", "--show-prefix") or "").strip():
        message = (
            f"the folder is {printable(place)} of a larger repository of git: there `tumorboard compare`, `search` and "
            "`control` cannot read its commits"
        )
        return [Finding("git", "problem", message, "move it out, then git init && git add -A && git commit -m Begin")]
    return [Finding("git", "ok", "the folder is a repository of git")]


def check_params(project: Path) -> list[Finding]:
    """Checks params.yaml; DVC would report a wrong `models` there as "'Value' object is not iterable"."""
    try:
        load_params(project / "params.yaml")
    except InputError as error:
        if line := marks_of_merge(project / "params.yaml"):
            message = f"params.yaml has the marks of an unresolved merge, first in line {line}"
            cure = "keep one side of each pair in params.yaml, and delete the lines <<<<<<<, ======= and >>>>>>>"
            return [Finding("params.yaml", "problem", message, cure)]
        return [Finding("params.yaml", "problem", str(error), _cure_of_params(project, str(error)))]
    tree = read_yaml(project / "params.yaml")
    return [_absent(key) for key in READ_BY_DVC if not _has(tree, key.split("."))] or [
        Finding("params.yaml", "ok", "all keys are known, all values of the right type")
    ]


def _has(tree: Any, path: list[str]) -> bool:
    return not path or (isinstance(tree, dict) and path[0] in tree and _has(tree[path[0]], path[1:]))


def _absent(key: str) -> Finding:
    """Returns the finding for a key for which the package has a value, but which DVC reads from the file alone."""
    *section, _ = key.split(".")
    place = f"below `{section[0]}:` in params.yaml" if section else "in params.yaml"
    message = f"params.yaml: {key}: missing, and DVC runs nothing without it"
    return Finding("params.yaml", "problem", message, f"write {place}, as in `{READ_BY_DVC[key]}`")


def _cure_of_params(project: Path, message: str) -> str:
    if not (project / "params.yaml").exists():  # the message names the command that makes a study
        return "git checkout HEAD -- params.yaml" if in_last_commit(project, "params.yaml") else ""
    for key in ("models", "folds", "medmnist"):
        if f": {key}: is " in message:
            line = READ_BY_DVC[key]
            return f"write a list in params.yaml, as in `{line}`; in a command: -S '{line.replace(': ', '=')}'"
    return "correct the key in params.yaml; `git diff params.yaml` shows your changes"


def check_project_path(project: Path) -> list[Finding]:
    """Checks the folder's own path, which DVC's experiments in a copy need in ASCII."""
    path = str(project.resolve())
    if path.isascii():
        return [Finding("path", "ok", "the path of the project is plain ASCII")]
    message = f"the path {printable(path)} is not ASCII: `dvc exp run --queue` and `--temp` fail in DVC"
    return [Finding("path", "note", message, "move the project to a folder without accents in its path")]


def check_data(project: Path) -> list[Finding]:
    """Checks that `data.raw` is there, and that a queued experiment would have it."""
    params = _params(project)
    if params is None or not _has(read_yaml(project / "params.yaml"), ["data", "raw"]):  # check_params reports it
        return []
    raw = params.data.raw
    if not (project / raw).exists() and not is_stage_output(project, Path(os.path.normpath(raw)).as_posix()):
        missing = explain_missing(raw, project)
        cure = (
            "dvc checkout" if missing else "correct data.raw in params.yaml; `tumorboard check FOLDER` tries a folder"
        )
        message = f"data.raw: there is no '{printable(raw)}': {missing or nearest_path(project / raw)}"
        return [Finding("data", "problem", message, cure)]
    if unversioned := explain_unversioned(raw, project):
        message, _, cure = unversioned.partition(": `")
        return [Finding("data", "note", f"data.raw: {message}", cure.rstrip("`"))]
    return [Finding("data", "ok", f"data.raw is {printable(raw)}")]


def check_uncommitted(project: Path) -> list[Finding]:
    """Checks for `.dvc` files that the last commit lacks, and for images that git would take or has."""
    findings = []
    status = run_git(project, "status", "--porcelain", "-z", "--no-renames", "-uall", "--", "*.dvc", "*.gitignore")
    names = [line[3:] for line in (status or "").split("\0") if line]
    if files := [name for name in names if name.endswith(".dvc")]:
        ignoring = [name for name in names if name.endswith(".gitignore")]
        message = f"{_list(files)}: not committed; `git reset --hard` would lose it, and a queued experiment lacks it"
        findings.append(Finding("uncommitted", "problem", message, commit_command([*files, *ignoring], "Add data")))
    hidden = run_git(project, "ls-files", "-z", "-o", "-i", "--exclude-standard", "--", "*.dvc") or ""
    if names := [name for name in hidden.split("\0") if name and not name.startswith((".venv/", ".dvc/"))]:
        message = f"{_list(names)}: git ignores it, so that DVC does not see it"
        findings.append(Finding("uncommitted", "problem", message, f"git check-ignore -v {shlex.quote(names[0])}"))
    listed = run_git(project, "ls-files", "-z", "-co", "--exclude-standard") or ""
    if images := large_images(project, [name for name in listed.split("\0") if name]):
        folder = Path(images[0]).parent.as_posix()
        message = f"git has or would take {len(images)} images: {_list(images)}"
        cure = f"git rm -r -q --cached --ignore-unmatch {shlex.quote(folder)} && dvc add {shlex.quote(folder)}"
        findings.append(Finding("uncommitted", "problem", message, cure))
    return findings or [Finding("uncommitted", "ok", "every .dvc file is committed; git has no images")]


def check_remote(project: Path) -> list[Finding]:
    """Checks that DVC has what a remote needs, and that a clone would know the remote and the pushed run."""
    shared, own = (_remotes(project / ".dvc" / name) for name in ("config", "config.local"))
    if not shared and not own:
        return [Finding("remote", "ok", "no remote, so that results are on this machine only")]
    urls = shared | {name: url for name, url in own.items() if url}  # credentials alone are often in config.local
    for name, url in sorted(urls.items()):
        if package := _missing_client(url):
            message = f"the remote {printable(name)}: DVC needs {package}, which is not installed here"
            return [Finding("remote", "note", message, f"pip install {package}")]
    if not shared:
        message = f"the remote {_list(sorted(own))} is only in .dvc/config.local, which no clone has"
        return [Finding("remote", "note", message, "dvc remote add without --local, then git commit .dvc/config")]
    changed = (run_git(project, "status", "--porcelain", "-z", "--", ".dvc/config", "dvc.lock") or "").split("\0")
    names = [line[3:] for line in changed if line]
    if ".dvc/config" in names:
        message = f"the remote {_list(sorted(shared))} is not committed: a clone would not know it"
        return [Finding("remote", "problem", message, commit_command([".dvc/config"], "Add the remote"))]
    if names:
        message = "dvc.lock is not committed: `dvc pull` in a clone would fetch the run of the last commit"
        return [Finding("remote", "note", message, "git add -A && git commit -m Run")]
    return [Finding("remote", "ok", f"the remote {_list(sorted(shared))} is committed")]


def _remotes(config: Path) -> dict[str, str]:
    """Returns the URLs of the remotes in a file of DVC, by name."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(config, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}  # DVC itself names a damaged configuration
    names = [name for name in parser.sections() if name.startswith("'remote \"") and name.count('"') == 2]
    return {name.split('"')[1]: parser[name].get("url", "") for name in names}


def _missing_client(url: str) -> str:
    """Returns the package by which DVC would reach a URL; empty if it is installed, or none is needed.

    >>> _missing_client("/archive")
    ''
    """
    from dvc.fs import known_implementations  # imports what other commands do without

    scheme, separator, _ = url.partition("://")
    client = known_implementations.get(scheme, {}) if separator else {}
    module = client.get("class", "").partition(".")[0]
    return "" if not module or find_spec(module) else module.replace("_", "-")


def check_leftovers(project: Path) -> list[Finding]:
    """Checks for files of models that params.yaml does not list, as `dvc exp apply` leaves them."""
    params = _params(project)
    if params is None:
        return []
    listed = {f"{model}/{fold}" for model in params.models for fold in params.folds}
    places = {
        "metrics/train": "*/*.json",
        "metrics/evaluate": "*/*.json",
        "training": "*/[0-9]*",
        "predictions/members": "*/*.csv",
    }
    stale = [
        file.relative_to(project).as_posix()
        for folder, pattern in places.items()
        for file in sorted((project / folder).glob(pattern))
        if file.relative_to(project / folder).with_suffix("").as_posix() not in listed
    ]
    if not stale:
        return [Finding("leftovers", "ok", "no files of models that params.yaml does not list")]
    message = f"{_list(stale)}: of models or folds that params.yaml does not list, as `dvc exp apply` leaves them"
    return [Finding("leftovers", "note", message, "dvc repro")]


def _params(project: Path) -> Params | None:
    try:
        return load_params(project / "params.yaml")
    except InputError:
        return None  # check_params reports the fault


def _list(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(printable(name) for name in names[:FEW]) + more
