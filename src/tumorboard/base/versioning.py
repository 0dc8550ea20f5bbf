"""Finds out whether git and DVC track a path. It runs git and reads DVC's files; DVC itself is not run."""

import os
import re
import shlex
import subprocess
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from tumorboard.base.errors import printable


def run_git(folder: Path, *arguments: str) -> str | None:
    """Returns the output of a git command in a folder; None if it fails or git is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def current_commit(folder: Path = Path()) -> str:
    """Returns the abbreviated hash of the last commit, with '+' where tracked files differ from it; '' without git."""
    commit = (run_git(folder, "rev-parse", "--short", "HEAD") or "").strip()
    changed = (run_git(folder, "status", "--porcelain", "--untracked-files=no") or "").strip()
    return f"{commit}+" if commit and changed else commit


def in_last_commit(project: Path, path: str) -> bool:
    """Returns whether the last commit has a file, or a folder with files.

    Args:
        project: folder of the project.
        path: the path, relative to `project`.
    """
    return bool(run_git(project, "ls-tree", "HEAD", "--", f"./{path}"))


def commit_command(files: list[str], message: str) -> str:
    """Returns the shell command that commits files.

    >>> commit_command(["datasets/my set.dvc"], "Add my set")
    "git add 'datasets/my set.dvc' && git commit -m 'Add my set'"
    """
    return f"git add {' '.join(map(shlex.quote, files))} && git commit -m {shlex.quote(message)}"


def tracking_file(project: Path, path: str) -> str | None:
    """Returns the `.dvc` file of a path or of a folder above it, relative to the project; None if there is none."""
    parents = [Path(path), *Path(path).parents][:-1]
    return next((f"{each.as_posix()}.dvc" for each in parents if (project / f"{each}.dvc").is_file()), None)


def explain_unversioned(raw: str, project: Path = Path()) -> str:
    """Returns why an experiment that runs in a copy of the project would lack a path, and the cure.

    `dvc exp run --queue` and `--temp` run in a copy of the last commit.

    Args:
        raw: the path as in params.yaml; an absolute one is the same in a copy.
        project: folder of the project, which a relative path starts from.

    Returns:
        One sentence; '' if the path is in the copy, or the folder is no project of git and DVC.
    """
    if Path(raw).is_absolute() or not (project / ".dvc").is_dir() or run_git(project, "rev-parse", "HEAD") is None:
        return ""
    if Path(os.environ.get("DVC_ROOT", project)).resolve() != project.resolve():
        return ""  # this project is a copy itself
    path = Path(os.path.normpath(raw)).as_posix()
    lacks = "experiments of `--queue` and `--temp`, which run in a copy of the last commit, lack it"
    if path.split("/")[0] == "..":
        return (
            f"'{printable(raw)}' lies outside the project: {lacks}; set data.raw to the absolute path "
            f"{printable(str((project / raw).resolve()))}"
        )
    if is_stage_output(project, path) or in_last_commit(project, path):
        return ""
    file = tracking_file(project, path)
    if file is None:
        command = f"dvc add {shlex.quote(path)} && git commit -m {shlex.quote(f'Add {path}')}"
        return f"'{printable(raw)}' is not known to git: {lacks}: `{command}`"
    if in_last_commit(project, file):
        return ""
    ignoring = (Path(file).parent / ".gitignore").as_posix()
    files = [file, *([ignoring] if (project / ignoring).is_file() else [])]
    command = commit_command(files, f"Add {file.removesuffix('.dvc')}")
    return f"'{printable(file)}' is not known to git: {lacks}: `{command}`"


def explain_missing(raw: str, project: Path = Path()) -> str:
    """Returns the commands that restore a missing path, in a sentence; '' if DVC does not track it."""
    if Path(raw).is_absolute() or (project / raw).exists():
        return ""
    file = tracking_file(project, Path(os.path.normpath(raw)).as_posix())
    if file is None:
        return ""
    return f"'{printable(file)}' tracks it: `dvc checkout {shlex.quote(file)}` restores it, or `dvc pull` fetches it"


def nearest_path(path: Path) -> str:
    """Returns a clause about a missing path: the first folder that is missing, and what has nearly its name there.

    Args:
        path: a path that does not exist.
    """
    try:
        missing = next(each for each in reversed([path, *path.parents]) if not each.exists())
        names = sorted(each.name for each in missing.parent.iterdir())
    except (OSError, StopIteration) as error:  # a name that is too long, a folder without permission
        return str(error) or "it is there now"
    if missing.is_symlink():
        return f"'{printable(str(missing))}' is a link to nothing"
    near = get_close_matches(missing.name, names, n=1)
    place = printable(str(missing.parent))
    return f"'{place}' has no '{printable(missing.name)}'" + (f"; nearest: '{printable(near[0])}'" if near else "")


def is_stage_output(project: Path, path: str) -> bool:
    """Returns whether a stage of dvc.yaml writes a path, such as data/phantom, or a folder above it."""
    try:
        tree = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
        stages = tree["stages"].values()
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False
    outputs = (output for stage in stages if isinstance(stage, dict) for output in _names(stage.get("outs")))
    return any(re.match(rf"{_pattern(output)}(/|$)", path) for output in outputs)


def _names(entries: Any) -> list[str]:
    """Returns the paths of a list of outputs, each of which is a path or a mapping of one path to its settings."""
    entries = entries if isinstance(entries, list) else []
    return [str(next(iter(entry), "")) if isinstance(entry, dict) else str(entry) for entry in entries]


def _pattern(output: str) -> str:
    """Returns a regular expression for an output's path, with anything in place of ${…}.

    >>> _pattern("medmnist:${item.set}")
    'medmnist:[^/]+'
    """
    return "[^/]+".join(map(re.escape, re.split(r"\$\{[^}]*\}", output)))
