"""Detects inputs that change while a stage runs: DVC would record its outputs beside the new inputs."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorboard.base.errors import InputError, printable
from tumorboard.base.schema import read_yaml

LISTED = 5  # changed names in a message

Stamp = tuple[int, int, int]  # size in bytes, time of modification in ns, inode, which DVC itself compares


@dataclass(frozen=True)
class Snapshot:
    """The inputs of a stage at one moment."""

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
    file = params_file(stage)
    tree = read_yaml(file)
    return Snapshot(
        {key: _value_at(tree, key) for key in _param_keys(stage, tree)},
        {str(file): stamp for path in paths for file, stamp in _stamps(path)},
    )


def check_unchanged(before: Snapshot, after: Snapshot) -> None:
    """Raises InputError with the names of the parameters and files that differ between two snapshots of a stage."""
    old, new = (
        {name: leaf for key, value in snapshot.params.items() for name, leaf in _leaves(key, value)}
        for snapshot in (before, after)
    )
    changed = [
        f"params.yaml: {key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
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


def params_file(stage: str) -> Path:
    """Returns the file of the stage's parameters: the one that dvc.yaml names, else params.yaml."""
    named = [next(iter(entry)) for entry in _params_of(stage) if isinstance(entry, dict)]
    return Path(named[0] if named else "params.yaml")


def source_lists(stage: str) -> list[Path]:
    """Returns the lists of source files (`<stage>.sha256`) that a stage depends on in dvc.yaml, where they exist."""
    deps = [Path(dep) for dep in _stage_entry(stage).get("deps") or [] if isinstance(dep, str)]
    return [dep for dep in deps if dep.suffix == ".sha256" and dep.is_file()]


def _leaves(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Yields each value within a section by its dotted key; an empty section is one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


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
    if not Path("dvc.yaml").is_file():
        return [key for key in tree if key != "runtime"]
    keys: list[str] = []
    for entry in _params_of(stage):
        keys += [entry] if isinstance(entry, str) else [key for listed in entry.values() for key in listed or []]
    return keys


def _params_of(stage: str) -> list[str | dict[str, list[str]]]:
    """Returns the entries `params` of a stage: keys of params.yaml, or keys by another file."""
    entries = _stage_entry(stage).get("params") or []
    return [entry for entry in entries if isinstance(entry, str | dict) and entry]


def _stage_entry(stage: str) -> Mapping[str, Any]:
    """Returns a stage's entry in dvc.yaml; an empty mapping where there is none."""
    file = Path("dvc.yaml")
    stages = read_yaml(file).get("stages") if file.is_file() else None
    entry = stages.get(stage) if isinstance(stages, dict) else None
    return entry if isinstance(entry, dict) else {}


def _value_at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree
