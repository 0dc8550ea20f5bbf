"""The code blocks of README.md and docs/: commands that are parsed, pages that are run, outputs that are compared.

A block of commands has the language `sh` or none. A block `text` is an output, a drawing or an example of a file: it
has no command for the reader, so that none is run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHELL = ("", "sh", "bash")  # languages of blocks whose lines may be commands
_FENCE = re.compile(r"^( *)```([a-z]*)[^\n]*\n(.*?)^\1```", re.M | re.S)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int  # number of its first line, from 1
    language: str
    text: str


class Command(NamedTuple):
    """One command of a block."""

    where: str  # page and line
    words: list[str]


def blocks_of(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, match.start(3)) + 1, match[2], match[3]) for match in _FENCE.finditer(text)
    ]


def commands_of(block: Block) -> Iterator[Command]:
    r"""Yields the single commands of a block of a shell: without prompts, comments and what is piped to others.

    >>> [each.words for each in commands_of(Block("p", 1, "sh", "a b \\\n  c && d | e  # f\nX=1 g 'h #i' > j\n"))]
    [['a', 'b', 'c'], ['d'], ['e'], ['g', 'h #i']]
    """
    text = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", block.text, flags=re.M | re.S)  # here-documents
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        try:
            tokens = list(lexer)
        except ValueError:
            continue  # a line of an output with an open quote
        words: list[str] = []
        for token in [*tokens, ";"]:
            if set(token) <= set("|&;<>"):
                while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
                    words = words[1:]
                if words and not _is_target(token, words):
                    yield Command(f"{block.page}:{block.line}", words)
                words = [">"] if set(token) <= set("<>") else []
            else:
                words.append(token)


def _is_target(token: str, words: list[str]) -> bool:  # noqa: ARG001 - the same words end at any token
    """Whether the words are what a redirection names."""
    return words[0] == ">"


def programs(name: str) -> list[Command]:
    """Returns all commands of a program in the pages."""
    return [
        command
        for page in PAGES
        for block in blocks_of(page)
        if block.language in SHELL
        for command in commands_of(block)
        if command.words[0] == name
    ]


def inline_commands(name: str) -> list[Command]:
    """Returns the commands of a program in spans of code within sentences and tables."""
    commands = []
    for page in PAGES:
        text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
        for match in re.finditer(rf"`({name} [^`]+)`", text):
            line = text.count("\n", 0, match.start()) + 1
            span = re.sub(r"\s+", " ", match[1]).replace("\\|", "|")
            commands += list(commands_of(Block(page.name, line, "sh", span)))
    return [command for command in commands if command.words[0] == name]


def environment_of_a_stranger(home: Path) -> dict[str, str]:
    """Returns an environment in which git and DVC know nothing of a user."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "XDG_"))}
    return kept | {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "COLUMNS": "200",
    }


def run_page(page: Path, folder: Path, environment: dict[str, Any]) -> int:
    """Runs the blocks `sh` of a page in their order, and compares the blocks `text` behind them with the output.

    Args:
        page: Markdown.
        folder: where the first block begins; a later one begins where the one before it ended.
        environment: environment variables of the commands.

    Returns:
        How many outputs were compared.

    Raises:
        AssertionError: a command fails, or a line of a block `text` is not in the output of the block before it.
    """
    state = folder.parent / "folder"
    state.write_text(str(folder))
    output, compared = None, 0
    for block in blocks_of(page):
        where = f"{block.page}:{block.line}"
        if block.language == "sh":
            output = run_commands(block.text, where, state, environment)
        elif block.language == "text" and output is not None:
            missing = missing_lines(block.text, output)
            assert not missing, f"{where}: not in the output: {missing[0]!r}\n{output}"
            output, compared = None, compared + 1
        else:
            output = None
    return compared


def run_commands(text: str, where: str, state: Path, environment: dict[str, Any]) -> str:
    """Runs commands of a shell, where a failing one ends all, and returns what they print.

    Args:
        text: the commands.
        where: is named in messages.
        state: file with the folder where they begin; it gets the folder where they end.
        environment: environment variables of the commands.

    Raises:
        AssertionError: a command fails.
    """
    script = f'set -eo pipefail\ncd "$(cat {state})"\n{text}\npwd > {state}\n'
    done = subprocess.run(
        ["bash", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(f"----- {where}\n{done.stdout}")
    assert done.returncode == 0, f"{where} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


def missing_lines(expected: str, output: str) -> list[str]:
    """Returns the lines of a documented output that the real one lacks; numbers and spaces may differ.

    >>> missing_lines("loss  0.123  x\\n…\\n3 classes", "a\\nloss 0.2 x\\n4 classes")
    []
    >>> missing_lines("4 images  b", "4 images a")
    ['4 images  b']
    """
    real = {_plain(line) for line in output.replace("\r", "\n").splitlines()}
    return [line for line in expected.splitlines() if (plain := _plain(line)) and plain != "…" and plain not in real]


def _plain(line: str) -> str:
    """Returns a line without its numbers, colors and runs of spaces."""
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    line = re.sub(r"[0-9a-f]{7,64}\b|[-+]?\d[\d.,:e%-]*", "#", line)
    return re.sub(r"[\s─]+", " ", line).strip()
