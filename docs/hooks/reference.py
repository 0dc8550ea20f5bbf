"""Pages of the reference, written from params.yaml, its types and the commands: they cannot differ from these."""

import json
import re
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import click

from tumorboard.base.package_files import package_file
from tumorboard.base.params import Params
from tumorboard.base.schema import Section, read_yaml
from tumorboard.commands.app import SUMMARIES, load_command

TITLES = {
    "": ("Study", "What the whole study is about; these keys stand at the top of `params.yaml`."),
    "data": ("data", "Which images there are, and the class, patient and part of each."),
    "train": ("train", "The recipe that every model starts from; an entry under `recipes` overrides it for one model."),
    "balance": ("balance", "What is done about classes of different size."),
    "ensemble": ("ensemble", "How the members vote."),
    "evaluate": ("evaluate", "How members and votes are scored and decide."),
    "crop": ("crop", "How a file becomes a square of pixels."),
    "split": ("split", "Which images are for training, validation and test."),
    "audit": ("audit", "What counts as a copy of a picture, and what is done about copies."),
    "phantom": ("phantom", "The embedded synthetic data set; `tumorboard practice` draws a small one."),
    "lr_find": ("lr_find", "Of `tumorboard lr-find`; no stage depends on it."),
    "search": ("search", "Of `tumorboard search`; no stage depends on it."),
    "runtime": ("runtime", "How fast a stage runs, never its result; no stage depends on it."),
}


class Row(NamedTuple):
    """One key of params.yaml."""

    key: str  # dotted
    kind: str  # what it may be, as text
    default: str  # as params.yaml has it
    meaning: str


def params_page() -> str:
    """Returns the page of all parameters as Markdown."""
    rows = list(param_rows())
    lines = [
        "# Parameters",
        "",
        f"Every key of `params.yaml`, of tumorboard {version('tumorboard')}. `tumorboard params` prints the same with",
        "the package's values, `tumorboard params --resolved` the values of the study in this folder. In a study of",
        "`tumorboard new`, a key that `params.yaml` leaves out has the default here. For one experiment:",
        "`dvc exp run -S '++train.lr=0.01'`. *By preset*: an empty key has the value of the preset, see",
        "[presets](presets.md).",
        "",
    ]
    for section, (title, text) in TITLES.items():
        own = [row for row in rows if (row.key.split(".")[0] if "." in row.key else "") == section]
        if own:
            lines += [f"## {title}", "", text, "", "| key | may be | default | what it is |", "|---|---|---|---|"]
            lines += [
                f"| `{row.key}` | {cell(row.kind)} | {code(row.default) if row.default else ''} | {cell(row.meaning)} |"
                for row in own
            ]
            lines.append("")
    return "\n".join([*lines, *_recipes()]) + "\n"


def _recipes() -> Iterator[str]:
    """Yields the section of the recipes that are ready."""
    yield from ("## recipes", "", "A recipe names an architecture and what differs from `train`, see")
    yield from ("[members](members.md). These are ready to be listed under `models`:", "")
    yield from ("| recipe | architecture | what differs |", "|---|---|---|")
    for name, recipe in read_yaml(package_file("params.yaml"))["recipes"].items():
        others = ", ".join(f"{key}: {json.dumps(value)}" for key, value in recipe.items() if key != "architecture")
        yield f"| `{name}` | `{recipe['architecture']}` | {f'`{others}`' if others else ''} |"


def param_rows() -> Iterator[Row]:
    """Yields each key of params.yaml but those of recipes, in the order of the file."""
    file = package_file("params.yaml")
    tree, comments = read_yaml(file), read_comments(file.read_text(encoding="utf-8"))
    for key, kind in keys_of(Params):
        if key.split(".")[0] == "recipes":
            continue
        value: Any = tree
        for step in key.split("."):
            value = value[step] if isinstance(value, Mapping) else value
        comment = comments.get(key, "")
        if "by preset" in comment and value is None:
            comment = re.sub(r"[;,]?\s*by preset$|^by preset[;,]?\s*", "", comment)
            yield Row(key, describe(kind, empty=False), "by preset", comment or _meaning_of_twin(key, comments))
        else:
            default = "" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
            words = describe(kind)
            listed = re.sub(r"[^a-z0-9_|]", "", comment) == re.sub(r"[^a-z0-9_|]", "", words.replace(" or ", "|"))
            yield Row(key, words, default, "" if listed else comment or _meaning_of_twin(key, comments))


def _meaning_of_twin(key: str, comments: Mapping[str, str]) -> str:
    """Returns what `train.augment` says of a key of `balance.augment`."""
    twin = comments.get(key.replace("balance.augment", "train.augment"), "")
    return re.sub(r"[;,]?\s*by preset$|^by preset[;,]?\s*", "", twin)


def read_comments(text: str) -> dict[str, str]:
    """Returns the comment behind each key of a YAML file by the dotted key; lines of comments below one continue it.

    >>> read_comments("a:  # first\\n  b: 1  # second\\n         # line\\nc: '#'  # third")
    {'a': 'first', 'a.b': 'second line', 'c': 'third'}
    """
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    last = ""
    for line in text.splitlines():
        if match := re.match(r"^(\s*)([A-Za-z_]\w*):(.*)$", line):
            indent = len(match[1])
            path = [*(step for step in path if step[0] < indent), (indent, match[2])]
            last = ".".join(name for _, name in path)
            comment = re.search(r"""(?:^|\s)#\s*(.*)$""", re.sub(r"'[^']*'|\"[^\"]*\"", _same_length, match[3]))
            if comment:
                comments[last] = match[3][comment.start(1) :].strip()
        elif (match := re.match(r"^\s{12,}#\s*(.*)$|^\s{8,}#\s*(.*)$", line)) and last in comments:
            comments[last] += " " + (match[1] or match[2] or "").strip()
    return comments


def _same_length(match: re.Match[str]) -> str:
    """Returns a text of the same length without signs, in place of a quoted one in front of a comment."""
    return match[0] if "#" not in match[0] else "x" * len(match[0])


def keys_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the type of each value below a section."""
    for name, field in section.model_fields.items():
        kind = field.rebuild_annotation()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def describe(kind: Any, *, empty: bool = True) -> str:
    """Returns what a value may be, in words.

    >>> from pydantic import Field
    >>> describe(Annotated[int, Field(ge=1)]), describe(Literal["a", "b"]), describe(tuple[bool, ...] | None)
    ('whole number, 1 or more', '`a` or `b`', 'list of true or false, or empty')
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(describe(parts[0], empty=empty), parts[1:])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts if part is not None)
    if origin in (Union, types.UnionType):
        texts = [describe(part, empty=empty) for part in parts if part is not type(None)]
        return " or ".join(texts) + (", or empty" if empty and type(None) in parts else "")
    if origin is tuple:
        inner = [describe(part) for part in parts if part is not Ellipsis]
        return f"list of {_plural(inner[0])}" if Ellipsis in parts else f"{len(inner)} {_plural(inner[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, Section):
        return "mapping of " + ", ".join(f"`{name}`" for name in kind.model_fields)
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _plural(words: str) -> str:
    """Returns the words for several values.

    >>> _plural("whole number, 0 or more"), _plural("`a` or `b`"), _plural("text")
    ('whole numbers, 0 or more', '`a` or `b`', 'texts')
    """
    return re.sub(r"^(whole number|number|text)", r"\1s", words)


def _bounded(text: str, constraints: tuple[Any, ...]) -> str:
    """Adds lower and upper bounds to the words for a number."""
    found: dict[str, float] = {}
    for constraint in constraints:
        for part in (constraint, *getattr(constraint, "metadata", ())):
            bounds = {name: getattr(part, name, None) for name in ("ge", "gt", "le", "lt")}
            found |= {name: bound for name, bound in bounds.items() if isinstance(bound, int | float)}
    low = f"{found['ge']:g} or more" if "ge" in found else f"above {found['gt']:g}" if "gt" in found else ""
    high = f"at most {found['le']:g}" if "le" in found else f"below {found['lt']:g}" if "lt" in found else ""
    if "ge" in found and "le" in found:
        return f"{text} from {found['ge']:g} to {found['le']:g}"
    if found.get("lt") == 2**63:
        high = ""
    return ", ".join(part for part in (text, low, high) if part)


def cell(text: str) -> str:
    """Returns a text as the cell of a Markdown table; code in it stays as it is.

    >>> cell("a | b <c> `<d>`")
    'a \\\\| b &lt;c> `<d>`'
    """
    text = text.replace("|", "\\|").replace("\n", " ")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(text.split("`")))


def code(text: str) -> str:
    """Returns a text as code in the cell of a Markdown table."""
    return "`" + text.replace("|", "\\|").replace("\n", " ") + "`"


def commands_page() -> str:
    """Returns the page of the command line as Markdown."""
    lines = [
        "# Commands",
        "",
        f"The subcommands of `tumorboard` {version('tumorboard')}, as their own `--help` has them. The pipeline itself",
        "is run by `dvc repro`, experiments by `dvc exp run`.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`{name}`](#tumorboard-{name}) | {cell(text)} |" for name, text in SUMMARIES.items()),
        "",
    ]
    for name in SUMMARIES:
        lines += [f"## tumorboard {name}", "", *_command(name), ""]
    return "\n".join(lines) + "\n"


def _command(name: str) -> Iterator[str]:
    """Yields the lines about one subcommand."""
    command = load_command(name)
    context = click.Context(command, info_name=f"tumorboard {name}")
    yield from ("```text", command.get_usage(context).removeprefix("Usage: ").replace("\n", " "), "```", "")
    yield from (cell(line) for line in (command.help or "").replace("\b", "").splitlines())
    rows = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    yield from ("", "| argument or option | what it is |", "|---|---|")
    for param in rows:
        record = param.get_help_record(context)
        if record is not None:
            yield f"| {code(record[0])} | {cell(record[1])} |"
    if command.epilog:
        yield from ("", f"`{command.epilog.removeprefix('Example: ')}`")
