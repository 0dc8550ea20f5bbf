"""A worker's own checkout of a study: from git and the DVC remote, through which its result comes back as well.

The process that runs the study publishes what a training needs (`publish_study`) and takes its result (`take_result`);
a worker fetches the one (`own_checkout`, `fetch_inputs`) and pushes the other (`push_result`). The entry of DVC's run
cache, a short text, travels with the worker's answer: `dvc push --run-cache` would copy all entries that there are.
"""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from dvc.stage.cache import _get_stage_hash

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing
from tumorboard.base.versioning import run_git
from tumorboard.commands.trainings import open_repo

SHARED_CURE = "or start the workers where they see this folder under the same path"
WEIGHTS = "weights"  # the study's folder of pre-trained weights, which no training lists among its dependencies


@dataclass(frozen=True)
class Source:
    """The place from which a worker fetches a study."""

    url: str  # URL of the git remote
    commit: str
    prefix: str  # the study's folder within the repository, as in 'studies/one/'; '' for the repository itself
    lock: str  # content of dvc.lock, which has the stages that ran before the trainings
    name: str  # name of the worker's folder


class Entry(NamedTuple):
    """An entry of DVC's run cache: a stage's dependencies and the hashes of its outputs."""

    key: str
    value: str
    text: str


def publish_study(stages: Sequence[str]) -> Source:
    """Pushes what trainings depend on to the DVC remote, and returns where a worker fetches the study from.

    Args:
        stages: stages of the trainings, as in train@cnn-0.

    Raises:
        InputError: a file has changes that no commit has, the commit is on no git remote, there is no DVC remote, or
            it cannot be written to.
    """
    with open_repo(wait=True) as repo:
        _refuse_changes(repo)
        url, commit = _pushed_commit()
        if not repo.config["core"].get("remote"):
            raise InputError(
                "the study has no DVC remote: `dvc remote add --default storage URL`, then commit .dvc/config; "
                + SHARED_CURE
            )
        inputs = _inputs_of(repo, stages)
        _transferred("the inputs of the trainings cannot be pushed to", repo.push, targets=inputs)
    prefix = (run_git(Path(), "rev-parse", "--show-prefix") or "").rstrip("\n")
    name = f"{Path.cwd().name}-{sha256(f'{url} {prefix}'.encode()).hexdigest()[:8]}"
    return Source(url, commit, prefix, Path("dvc.lock").read_text(encoding="utf-8"), name)


def take_result(entry: Entry) -> None:
    """Fetches a training's outputs from the DVC remote into the cache and adds its entry to the run cache.

    Raises:
        InputError: an output is not on the remote.
    """
    with open_repo(wait=True) as repo:
        with replacing(Path(repo.stage_cache.cache_dir, entry.key[:2], entry.key, entry.value)) as temporary:
            temporary.write_text(entry.text, encoding="utf-8")
        for hashes in repo.stage_cache.get_used_objs([(entry.key, entry.value)]).values():
            if _transferred("its outputs cannot be fetched from", repo.cloud.pull, hashes).failed:
                raise InputError("the DVC remote lacks some of its outputs")


@contextmanager
def own_checkout(source: Source, base: Path) -> Iterator[Path]:
    """Checks out a study's commit in a folder that no other process uses, and yields the study's folder there.

    The folders are `<base>/0`, `<base>/1`, …, and the first that is free is taken: so a worker that was restarted finds
    the checkpoints of the one before it. They share one cache of DVC, and they stay.

    Args:
        source: the place from which the study is fetched.
        base: a folder of this machine, only for this study.

    Raises:
        InputError: the commit cannot be fetched.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)  # for this user only, as it has patients' images
    with _first_free(base) as folder:
        _git(source, "init", "--quiet", str(folder))
        _git(source, "-C", str(folder), "fetch", "--quiet", source.url, "+refs/heads/*:refs/remotes/source/*")
        _git(source, "-C", str(folder), "checkout", "--quiet", "--force", "--detach", source.commit)
        study = folder / source.prefix
        with replacing(study / ".dvc/config.local") as temporary:
            temporary.write_text(f"[cache]\n    dir = {base / 'cache'}\n", encoding="utf-8")
        with replacing(study / "dvc.lock") as temporary:
            temporary.write_text(source.lock, encoding="utf-8")
        yield study


def fetch_inputs(stage: str) -> None:
    """Fetches what a training depends on from the DVC remote into the current folder, an own checkout."""
    with open_repo(wait=True) as repo:
        repo.pull(targets=_inputs_of(repo, [stage]), force=True)


def push_result(stage: str) -> Entry:
    """Pushes the outputs of a stage that has just run to the DVC remote and returns its entry of the run cache."""
    with open_repo(wait=True) as repo, repo.lock:
        (found,) = repo.stage.collect(stage)
        found.save_deps()
        key = _get_stage_hash(found)
        newest = max(Path(repo.stage_cache.cache_dir, key[:2], key).iterdir(), key=lambda file: file.stat().st_mtime)
        entry = Entry(key, newest.name, newest.read_text(encoding="utf-8"))
        for hashes in repo.stage_cache.get_used_objs([(entry.key, entry.value)]).values():
            if _transferred("its outputs cannot be pushed to", repo.cloud.push, hashes).failed:
                raise InputError("some of its outputs cannot be pushed to the DVC remote")
    return entry


def _transferred(failure: str, transfer: Callable[..., Any], *words: Any, **options: Any) -> Any:
    """Returns what a transfer returns; any error, possibly from a remote's own client, becomes an InputError."""
    try:
        return transfer(*words, **options)
    except Exception as error:
        raise InputError(f"{failure} the DVC remote: {error}") from None


def _inputs_of(repo: Any, stages: Sequence[str]) -> list[str]:
    """Returns the files and folders that stages read and DVC has, from the current folder on."""
    dependencies = [each.fs_path for stage in stages for found in repo.stage.collect(stage) for each in found.deps]
    read = {path for path in dependencies if _is_output(repo, path)}
    weights = {
        out.fs_path
        for out in repo.index.outs
        if out.stage.is_data_source and Path(out.fs_path).is_relative_to(Path(WEIGHTS).resolve())
    }
    return sorted(os.path.relpath(path) for path in read | weights)


def _is_output(repo: Any, path: str) -> bool:
    """Returns whether a path is an output that DVC knows, or lies within such an output."""
    return any(Path(path).absolute().is_relative_to(out.fs_path) for out in repo.index.outs)


def _refuse_changes(repo: Any) -> None:
    """Raises InputError if a file that git tracks differs from the last commit; a stage's output and dvc.lock may."""
    listed = run_git(Path(), "diff", "--name-only", "-z", "--relative", "HEAD")
    if listed is None:
        raise InputError(f"the study is no git repository with a commit: make one, {SHARED_CURE}")
    for name in filter(None, listed.split("\0")):
        if name != "dvc.lock" and not _is_output(repo, name):
            raise InputError(f"{name} has changes that no commit has: commit and push them, {SHARED_CURE}")


def _pushed_commit() -> tuple[str, str]:
    """Returns the URL of the git remote and the last commit, which the remote has."""
    branch = (run_git(Path(), "branch", "--show-current") or "").strip()
    remote = (run_git(Path(), "config", f"branch.{branch}.remote") or "origin").strip()
    url = (run_git(Path(), "remote", "get-url", remote) or "").strip()
    if not url:
        raise InputError(f"the study has no git remote '{remote}': `git remote add {remote} URL`, {SHARED_CURE}")
    commit = (run_git(Path(), "rev-parse", "HEAD") or "").strip()
    if not run_git(Path(), "for-each-ref", f"--contains={commit}", f"refs/remotes/{remote}/"):
        raise InputError(
            f"the last commit, {commit[:7]}, is not on the git remote '{remote}': `git push`, {SHARED_CURE}"
        )
    return url, commit


def _git(source: Source, *words: str) -> None:
    """Runs git without questions; its messages are part of the log."""
    done = subprocess.run(["git", *words], stdin=subprocess.DEVNULL, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"})
    if done.returncode:
        raise InputError(f"commit {source.commit[:7]} of {source.url} cannot be fetched here: git says why above")


@contextmanager
def _first_free(base: Path) -> Iterator[Path]:
    """Yields the first of the folders 0, 1, … that no other process has locked; the lock ends with this process."""
    number = 0
    while True:
        with (base / f"{number}.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            yield base / str(number)
            return
