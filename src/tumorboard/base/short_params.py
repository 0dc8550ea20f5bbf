"""A short params.yaml: it names a version of the package, whose values hold for each key that it leaves out."""

from collections.abc import Mapping
from typing import Any

from tumorboard.base.errors import InputError
from tumorboard.base.package_files import package_file
from tumorboard.base.schema import nearest, read_yaml
from tumorboard.base.study import package_version

DEFAULTS_OF = "tumorboard"  # the key of a short params.yaml
SLIPS = 2  # most sections that a file in full may lack by mistake; one that lacks more is a short file
WHOLE = ("search", "space")  # path whose entries replace the package's: a range and choices differ in their keys


def complete_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the plain values of params.yaml, with the package's own for each key that a short file leaves out.

    A file without the key DEFAULTS_OF is not short, and is returned as it is. A mapping of a short file is merged with
    that of the package key by key, so that the recipes of the package stay available. An entry of `search.space` is
    taken as a whole.
    """
    if DEFAULTS_OF not in tree:
        return dict(tree)
    own = {key: value for key, value in tree.items() if key != DEFAULTS_OF}
    return _merge(read_yaml(package_file("params.yaml")), own)


def read_short(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the values of a study's own file as `complete_values` does, and checks the line that makes it short.

    Args:
        tree: the file's plain values.
        where: its path, for the message.

    Raises:
        InputError: the file is short, but lacks that line, or the version there is no text.
    """
    if DEFAULTS_OF not in tree:
        _check_whole(tree, where)
    elif not isinstance(tree[DEFAULTS_OF], str):
        raise InputError(f"{where}: {DEFAULTS_OF}: is {tree[DEFAULTS_OF]!r}, expected {_version_line()}")
    return complete_values(tree)


def _check_whole(tree: Mapping[str, Any], where: str) -> None:
    """Raises InputError for a short file without the line that makes it one, such as a misspelled one."""
    sections = read_yaml(package_file("params.yaml")).keys()
    if len(sections - tree.keys()) <= SLIPS:
        return
    hint = next((f": '{key}' is misspelled" for key in tree if nearest(str(key), [DEFAULTS_OF]).endswith("?")), "")
    raise InputError(
        f"{where}: lacks the line {_version_line()}, by which the package's values hold for all that is not in the "
        f"file{hint}"
    )


def _version_line() -> str:
    return f'`{DEFAULTS_OF}: "{package_version()}"`'


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any], *path: str) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in own.items():
        old = merged.get(key)
        if path != WHOLE and isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value, *path, key)
        merged[key] = value
    return merged
