"""Detects inputs that change while a stage runs: DVC would record its outputs beside the new inputs."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorboard.base.errors import InputError, printable
from tumorboard.base.schema import read_yaml

LISTED = 5  # changed names in a message

Stamp = tuple[int, int, int]  # size in bytes, time of modification in ns, inode: what DVC itself compares


@dataclass(frozen=True)
class Snapshot:
    """What a stage reads, at one moment."""

    params: Mapping[str, Any]  # the stage's parameters in params.yaml, by dotted key
    files: Mapping[str, Stamp]  # the files of its inputs, by path


def take_snapshot(stage: str, paths: Iterable[Path]) -> Snapshot:
    """Returns the parameters that dvc.yaml lists for a stage, and the size, time and inode of each input file.

    Args:
        stage: name in dvc.yaml. Without a dvc.yaml, all parameters but `runtime` count.
        paths: files and folders; a folder stands for all files below it, a missing one for none.

    Raises:
        InputError: params.yaml or dvc.yaml cannot be read.
    """
    tree = read_yaml(Path("params.yaml"))
    return Snapshot(
        {key: _value_at(tree, key) for key in _param_keys(stage, tree)},
        {str(file): stamp for path in paths for file, stamp in _stamps(path)},
    )


def check_unchanged(before: Snapshot, after: Snapshot) -> None:
    """Raises InputError with the names of what changed between two snapshots of a stage."""
    changed = [
        f"params.yaml: {key} was {before.params[key]!r} and is {after.params.get(key)!r}"
        for key in before.params
        if before.params[key] != after.params.get(key)
    ]
    names = sorted(before.files.keys() | after.files.keys())
    changed += [
        f"{printable(name)} was {_change(before.files.get(name), after.files.get(name))}"
        for name in names
        if before.files.get(name) != after.files.get(name)
    ]
    if changed:
        more = [f"  … and {len(changed) - LISTED} more"] if len(changed) > LISTED else []
        lines = "\n".join([f"  {line}" for line in changed[:LISTED]] + more)
        raise InputError(f"inputs changed while the stage ran; nothing was written, run it again:\n{lines}")


def _change(before: Stamp | None, after: Stamp | None) -> str:
    return "added" if before is None else "removed" if after is None else "changed"


def _stamps(path: Path) -> Iterable[tuple[Path, Stamp]]:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                yield from _stamps_of_file(Path(folder, name))
    else:
        yield from _stamps_of_file(path)


def _stamps_of_file(file: Path) -> Iterable[tuple[Path, Stamp]]:
    try:
        status = file.stat()
    except OSError:  # missing, or a link to nothing; the code that reads it reports that
        return
    yield file, (status.st_size, status.st_mtime_ns, status.st_ino)


def _param_keys(stage: str, tree: Mapping[str, Any]) -> list[str]:
    file = Path("dvc.yaml")
    if not file.is_file():
        return [key for key in tree if key != "runtime"]
    stages = read_yaml(file).get("stages")
    entry = stages.get(stage) if isinstance(stages, dict) else None
    keys = entry.get("params", []) if isinstance(entry, dict) else []
    return [key for key in keys if isinstance(key, str)]


def _value_at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree
