"""Checks plain values from YAML or JSON against typed sections; an error message has one line per wrong key."""

import copy
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tumorboard.base.errors import InputError

S = TypeVar("S", bound="Section")

MAX_YAML_BYTES = 2_000_000  # bytes of the largest file that is read
MAX_YAML_VALUES = 100_000  # keys, scalars, lists and mappings of a file; values behind an alias count each time


class Section(BaseModel):
    """A mapping of params.yaml: frozen, with strict keys and types, without defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse(section: type[S], tree: Mapping[str, Any], where: str) -> S:
    """Checks plain values against a section.

    Args:
        section: the type to return.
        tree: mappings, lists and scalars, as read from YAML or JSON.
        where: the file or key they come from, for the message.

    Raises:
        InputError: one line per wrong key.

    >>> class Crop(Section):
    ...     side: int
    ...     border: bool
    >>> parse(Crop, {"side": 64, "border": True}, "params.yaml")
    Crop(side=64, border=True)
    >>> parse(Crop, {"side": "64", "boarder": True}, "params.yaml")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: params.yaml: side: is '64': input should be a valid integer
    params.yaml: border: missing
    params.yaml: boarder: unknown key; did you mean border?
    """
    try:
        return section.model_validate(_lists_to_tuples(tree))
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {line}" for line in _describe_errors(error, section, tree))) from None


def _describe_errors(error: ValidationError, section: type[Section], tree: Any) -> list[str]:
    """Returns one line per wrong key; pydantic's errors for the members of a union are joined by 'or'."""
    expected: dict[str, list[str]] = {}
    for problem in error.errors():
        key, value = _locate(problem["loc"], tree)
        if problem["type"] == "too_short" and len(value) >= problem["ctx"]["min_length"]:
            continue  # pydantic counts only the valid items of a list; each invalid one has its own line
        if problem["type"] == "extra_forbidden":
            hint = "unknown key" + nearest(str(problem["loc"][-1]), _keys_at(section, problem["loc"][:-1]))
        elif problem["type"] == "missing":
            hint = "missing"
        elif problem["type"] == "value_error":
            hint = str(problem["ctx"]["error"])
        else:
            message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}".replace("tuple", "list")
            hint = f"is {value!r}: {message}"
        expected.setdefault(key, []).append(hint)
    return [f"{key}: {_join(texts)}" if key else _join(texts) for key, texts in expected.items()]


def _join(texts: list[str]) -> str:
    first, *others = dict.fromkeys(texts)
    return " or ".join([first, *(text.split(": ", 1)[-1] for text in others)])


def _locate(loc: tuple[int | str, ...], tree: Any) -> tuple[str, Any]:
    """Returns an error's key, without the names that pydantic adds for members of a union, and the value there."""
    path: list[str] = []
    for step in loc:
        if isinstance(tree, Mapping):
            path.append(str(step))
            if step not in tree:
                return ".".join(path), None
        elif isinstance(tree, (list, tuple)) and isinstance(step, int) and step < len(tree):
            path.append(str(step))
        else:
            break
        tree = tree[step]
    return ".".join(path), tree


def _keys_at(section: Any, loc: tuple[int | str, ...]) -> Iterable[str]:
    for step in loc:
        if isinstance(section, type) and issubclass(section, Section) and step in section.model_fields:
            section = _section_of(section.model_fields[str(step)].annotation)
    return section.model_fields if isinstance(section, type) and issubclass(section, Section) else ()


def _section_of(annotation: Any) -> Any:
    """Returns the Section inside an annotation such as dict[str, Section] or Section | None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((inner for part in getattr(annotation, "__args__", ()) if (inner := _section_of(part))), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the closest known name, or all of them.

    >>> nearest("resnet81", ["cnn", "resnet18"])
    '; did you mean resnet18?'
    >>> nearest("xyz", ["cnn", "resnet18"])
    '; known: cnn, resnet18'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}" if known else ""


def _lists_to_tuples(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _lists_to_tuples(value) for key, value in tree.items()}
    return tuple(_lists_to_tuples(value) for value in tree) if isinstance(tree, list) else tree


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping, with the scalars of YAML 1.2, as DVC does.

    Raises:
        InputError: there is no such file, it is not YAML, not a mapping, larger than MAX_YAML_BYTES, or has more than
            MAX_YAML_VALUES values once each alias is replaced by what it stands for.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(f"{path}: has {path.stat().st_size:,} bytes, more than {MAX_YAML_BYTES:,}")
        tree = copy.deepcopy(_load_yaml(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path}: not readable as YAML: its values are nested too deeply") from None
    # PyYAML lets Python's own errors through where a tag such as !!int does not fit its value.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


@functools.lru_cache(maxsize=8)
def _load_yaml(text: str) -> Any:
    """Reads a text as YAML after counting its values, which aliases of aliases multiply, here and in each reader.

    A stage reads params.yaml, dvc.yaml and dvc.lock several times, and a parse in plain Python is slow: it is cached.
    """
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > MAX_YAML_VALUES:
            raise yaml.YAMLError(
                f"more than {MAX_YAML_VALUES:,} values, once its aliases (*name) are replaced by what they stand for"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Counts the values of a node, those behind an alias each time; raises YAMLError for an alias inside itself."""
    count = known.get(id(node))
    if count is None:
        known[id(node)] = -1  # marks a node whose parts are being counted
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        count = known[id(node)] = 1 + sum(_count_values(part, known) for part in flat)
    if count < 0:
        raise yaml.YAMLError(f"the value at line {node.start_mark.line + 1} contains itself, by an alias (*name)")
    return count


class _CoreLoader(yaml.SafeLoader):
    """Reads YAML 1.2: `off` is a string and 1e-3 a number. A key that is given twice is an error."""

    values = 0  # number of values read so far

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"more than {MAX_YAML_VALUES:,} values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain text", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # A key of the mapping itself follows the merged key and replaces it; it is no duplicate.
        node.value = list({key.value: (key, value) for key, value in node.value}.values())


_CoreLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
