"""Checks plain values from YAML or JSON against typed sections; an error message has one line per wrong key."""

import copy
import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from tumorboard.base.errors import InputError

S = TypeVar("S", bound="Section")

EXPECTED = "expected"  # type of pydantic's error whose message is what was expected instead of the value
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


def expecting(text: str) -> WrapValidator:
    """Returns a validator that replaces all faults of a value by one message: what is expected there.

    Args:
        text: end of the message, behind "is VALUE, expected".

    >>> from typing import Annotated
    >>> class Pair(Section):
    ...     names: Annotated[tuple[str, str], expecting("two names")]
    >>> parse(Pair, {"names": ["cnn"]}, "params.yaml")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: params.yaml: names: is ['cnn'], expected two names
    """

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError(EXPECTED, "{text}", {"text": text}) from None

    return WrapValidator(check)


@dataclass(frozen=True)
class _Place:
    """Where an error of pydantic lies in the checked values."""

    path: tuple[str, ...]  # keys and indices, without the names that pydantic adds for members of a union
    value: Any  # the value there; None for a missing key
    union: tuple[str, ...] | None  # path of the value for which pydantic tried the members of a union
    member: int | str | None  # pydantic's name of the member of the union
    inside: bool  # whether the error lies inside the member, which thus has the value's type


def _describe_errors(error: ValidationError, section: type[Section], tree: Any) -> list[str]:
    """Returns one line per wrong key.

    Where a value has the type of one member of a union, only the faults of that member are described; else the types of
    all members are joined by 'or'.
    """
    problems = _without_unfit_members([(problem, _locate(problem, tree)) for problem in error.errors()])
    expected: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for problem, place in problems:
        if problem["type"] == "too_short" and len(place.value) >= problem["ctx"]["min_length"]:
            continue  # pydantic counts only the valid items of a list; each invalid one has its own line
        if problem["type"] == "missing" and isinstance(problem["loc"][-1], int):
            expected.pop(place.path, None)  # the last item that a list lacks is the one that its length needs
        expected.setdefault(place.path, []).append(_hint(problem, place, section))
    lines = {".".join(path): _join(hints) for path, hints in expected.items()}
    return [f"{key}: {text}" if key else text for key, text in lines.items()]


def _without_unfit_members(problems: list[tuple[Any, _Place]]) -> list[tuple[Any, _Place]]:
    """Leaves out the errors of members of a union that have another type than the value, or fewer of its keys."""
    misfits: dict[tuple[str, ...], dict[int | str | None, float]] = {}  # by union and member
    for problem, place in problems:
        if place.union is not None:
            by_member = misfits.setdefault(place.union, {})
            misfit = problem["type"] in ("missing", "extra_forbidden") if place.inside else math.inf
            by_member[place.member] = by_member.get(place.member, 0) + misfit
    return [
        (problem, place)
        for problem, place in problems
        if place.union is None or misfits[place.union][place.member] == min(misfits[place.union].values())
    ]


def _hint(problem: Any, place: _Place, section: type[Section]) -> tuple[str, str]:
    """Returns the beginning of an error's message, which is the value or '', and the rest."""
    kind, given = problem["type"], f"is {place.value!r}"
    if kind == "extra_forbidden":
        return "", "unknown key" + _meant(str(problem["loc"][-1]), _keys_at(section, problem["loc"][:-1]))
    if kind == "invalid_key" or (kind == "string_type" and problem["loc"][-1] == "[key]"):
        return "", f"the key {problem['input']!r} is not text: write it in quotes"
    if kind == "missing" and isinstance(problem["loc"][-1], int):  # an item that a list lacks
        return f"{given}: ", f"list should have {problem['loc'][-1] + 1} items"
    if kind == "missing":
        return "", "missing"
    if kind == "value_error":
        return "", str(problem["ctx"]["error"])
    if kind == EXPECTED:
        return f"{given}, ", f"expected {problem['msg']}"
    if kind in ("model_type", "dict_type"):
        if place.value is None:
            return "", "is empty: give it keys, or delete the line"
        return f"{given}: ", "input should be a mapping of keys"
    message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}".replace("tuple", "list")
    if kind == "string_type" and isinstance(place.value, bool | int | float):
        message += ", so write it in quotes"
    return f"{given}: ", message.replace(" after validation", "")


def _join(hints: list[tuple[str, str]]) -> str:
    (beginning, first), *others = hints
    texts = {beginning + first: None} | {text: None for _, text in others if text != first}
    return " or ".join(texts)


def _locate(problem: Any, tree: Any) -> _Place:
    """Returns the place of an error of pydantic."""
    path: list[str] = []
    union, member, inside = None, None, problem["type"] == "value_error"
    for number, step in enumerate(problem["loc"], start=1):
        if step in (tree if isinstance(tree, Mapping) else range(len(tree)) if isinstance(tree, (list, tuple)) else ()):
            path.append(str(step))
            tree = tree[step]
        elif problem["type"] == "missing" and number == len(problem["loc"]):
            if isinstance(step, str):
                path.append(step)
                tree = None
        elif step == "[key]":  # a key of a mapping is wrong, not what is below it
            tree = path[-1]
        else:
            union, member = tuple(path), step
            continue
        inside = inside or union is not None
    return _Place(tuple(path), tree, union, member, inside)


def _keys_at(section: type[Section], loc: tuple[int | str, ...]) -> Iterable[str]:
    """Returns the known keys at a place; where a union has several sections, the keys of those that fit the place."""
    sections = [section]
    for step in loc:
        if any(step in each.model_fields for each in sections):
            fields = [each.model_fields[str(step)] for each in sections if step in each.model_fields]
            sections = [inner for field in fields for inner in _sections_of(field.annotation)]
    return {key for each in sections for key in each.model_fields}


def _sections_of(annotation: Any) -> list[type[Section]]:
    """Returns the sections inside an annotation such as dict[str, Section] or Section | None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [inner for part in getattr(annotation, "__args__", ()) for inner in _sections_of(part)]


def _meant(key: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown key, also of one that is written as in `-S train.lr=1`."""
    if not key.isprintable():
        return f", with invisible characters: {key!a}"
    section, dot, rest = key.partition(".")
    if dot and section in known:
        return f": write {rest} below `{section}:`"
    return nearest(key, known)


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
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is not UTF-8: save the file in that encoding") from None
    # PyYAML lets Python's own errors through where a tag such as !!int does not fit its value.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        hint = "; use spaces: YAML takes no tabs there" if r"'\t'" in str(error) else ""
        raise InputError(f"{path}: not readable as YAML: {error}{hint}") from None
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

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Returns a number in decimal: of YAML 1.1, PyYAML would read 010 as 8."""
        return int(self.construct_scalar(node))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _CoreLoader.construct_yaml_int)
_CoreLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
