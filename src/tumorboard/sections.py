"""Plain values held against frozen sections: what YAML or JSON gives is checked once, and every fault has its line."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tumorboard.errors import InputError

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A branch of params.yaml: frozen, strict about keys and types, without defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse(section: type[S], tree: Mapping[str, Any], where: str) -> S:
    """Check plain values, as YAML or JSON gives them, against a section; raises InputError, one line a fault."""
    try:
        return section.model_validate(_lists_to_tuples(tree))
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {line}" for line in _explain(error, section, tree))) from None


def _explain(error: ValidationError, section: type[Section], tree: Any) -> list[str]:
    """One line a wrong key; the faults of a union's members, which pydantic lists one by one, are joined by 'or'."""
    wishes: dict[str, list[str]] = {}
    for fault in error.errors():
        key, value = _locate(fault["loc"], tree)
        if fault["type"] == "too_short" and len(value) >= fault["ctx"]["min_length"]:
            continue  # pydantic's count of the right items of a list; the wrong ones have lines of their own
        if fault["type"] == "extra_forbidden":
            wish = "unknown key" + nearest(str(fault["loc"][-1]), _keys_at(section, fault["loc"][:-1]))
        elif fault["type"] == "missing":
            wish = "missing"
        elif fault["type"] == "value_error":
            wish = str(fault["ctx"]["error"])
        else:
            said = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}".replace("tuple", "list")
            wish = f"is {value!r}: {said}"
        wishes.setdefault(key, []).append(wish)
    return [f"{key}: {_join(texts)}" if key else _join(texts) for key, texts in wishes.items()]


def _join(texts: list[str]) -> str:
    first, *others = dict.fromkeys(texts)
    return " or ".join([first, *(text.split(": ", 1)[-1] for text in others)])


def _locate(loc: tuple[int | str, ...], tree: Any) -> tuple[str, Any]:
    """The part of a fault's place that exists in the tree (a union adds its members' names), and the value there."""
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
    """The Section inside an annotation such as dict[str, Section] or Section | None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section_of(part))), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to follow a wrong name: the nearest right one, or else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}" if known else ""


def _lists_to_tuples(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _lists_to_tuples(value) for key, value in tree.items()}
    return tuple(_lists_to_tuples(value) for value in tree) if isinstance(tree, list) else tree


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, its scalars as DVC reads them; raises InputError."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _CoreLoader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's scalars, as DVC reads the same file: `off` is a word, 1e-3 a number; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # An own key comes after the merged ones and wins; keep that last one, so that the check above sees no twins.
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
