"""A short params.yaml: it names a version of the package, whose values hold for each key that it leaves out."""

from collections.abc import Mapping
from typing import Any

from tumorboard.base.package_files import package_file
from tumorboard.base.schema import read_yaml

DEFAULTS_OF = "tumorboard"  # the key of a short params.yaml
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


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any], *path: str) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in own.items():
        old = merged.get(key)
        if path != WHOLE and isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value, *path, key)
        merged[key] = value
    return merged
