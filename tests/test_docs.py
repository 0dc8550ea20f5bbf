"""The documented lists are the code's; the commands, keys and outputs in the pages are those of the program."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from tests.docs_blocks import (
    PAGES,
    ROOT,
    Command,
    blocks_of,
    environment_of_a_stranger,
    inline_commands,
    missing_lines,
    programs,
    run_page,
)
from tests.layouts import LAYOUTS
from tumorboard.base.errors import Reason
from tumorboard.base.params import Params, Recipe
from tumorboard.base.schema import read_yaml
from tumorboard.commands.app import SUMMARIES, app, load_command
from tumorboard.data.sources import IgnoreReason

PAGE = (ROOT / "docs/quarantine.md").read_text(encoding="utf-8")
TROUBLES = (ROOT / "docs/troubles.md").read_text(encoding="utf-8")


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs/hooks"))
    return importlib.import_module("reference")


@pytest.fixture
def site(reference: ModuleType) -> ModuleType:  # noqa: ARG001 - the path of both
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    return importlib.import_module("docs.hooks.site")


@pytest.mark.parametrize(("section", "reasons"), [("Quarantined", Reason), ("Ignored", IgnoreReason)])
def test_the_page_lists_every_reason_in_order(section: str, reasons: object) -> None:
    body = PAGE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `([^`]+)` \|", body, flags=re.M) == list(get_args(reasons))


def test_every_trouble_has_a_test_that_exists() -> None:
    rows = [line for line in TROUBLES.splitlines() if line.startswith("| ") and not line.startswith("| trouble")]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", row.split(" | ")[-1])
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_a_trouble_is_marked_slow_where_its_test_is() -> None:
    for file, test, mark in re.findall(r"`(tests/\S+\.py)::(test_\w+)`( \((?:partly )?slow\))?", TROUBLES):
        text = (ROOT / file).read_text(encoding="utf-8")
        before = text.split(f"def {test}(")[0].rsplit("\n\n\n", 1)[-1]
        slow = "pytest.mark.slow" in before or "pytestmark = pytest.mark.slow" in text
        assert slow == bool(mark), f"{file}::{test}"


def test_every_command_in_the_pages_parses() -> None:
    blocks, inline = programs("tumorboard"), inline_commands("tumorboard")
    assert len(blocks) > 50
    assert {command.words[1] for command in blocks if len(command.words) > 1} >= {"new", "check", "predict", "compare"}
    problems = [problem for command in blocks if (problem := parse_problem(command, complete=True))]
    problems += [problem for command in inline if (problem := parse_problem(command, complete=False))]
    assert problems == []


def parse_problem(command: Command, *, complete: bool) -> str:
    """Returns why the command line would refuse a command; '' if it does not.

    Args:
        command: its words, `tumorboard` first.
        complete: whether a missing argument counts; in a sentence, `tumorboard predict` names a command.
    """
    name, *words = command.words[1:] or [""]
    if name.startswith("-") and not words:
        return "" if name in ("--help", "--version") else f"{command.where}: tumorboard has no option {name}"
    if name not in SUMMARIES:
        return f"{command.where}: tumorboard has no command {name!r}"
    try:
        load_command(name).make_context(name, words)
    except Exception as error:
        kind = type(error).__name__
        if kind == "Exit" or (kind == "MissingParameter" and not complete):
            return ""
        return f"{command.where}: {' '.join(command.words)}: {kind}: {getattr(error, 'message', error)}"
    return ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["check", "x", "--groups", "y"], "NoSuchOption"),
        (["chek", "x"], "no command 'chek'"),
        (["predict"], "MissingParameter"),
        (["search", "cnn", "--trials", "many"], "BadParameter"),
        (["preset", "xray"], ""),
        (["check", "--help"], ""),
        (["--verbose"], "no option"),
    ],
)
def test_a_wrong_command_is_found(words: list[str], problem: str) -> None:
    found = parse_problem(Command("page:1", ["tumorboard", *words]), complete=True)
    assert (problem in found) if problem else found == ""


def test_every_parameter_in_the_pages_exists() -> None:
    commands = [*programs("dvc"), *inline_commands("dvc")]
    settings = [(command, value) for command in commands for value in settings_of(command.words)]
    assert len(settings) > 30
    problems = [f"{command.where}: -S {value}: {problem}" for command, value in settings if (problem := wrong(value))]
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "yaml":
                tree = yaml.safe_load(block.text)
                keys = keys_in(tree) if isinstance(tree, dict) else []
                problems += [f"{block.page}:{block.line}: {problem}" for key in keys if (problem := wrong_key(key))]
    assert problems == []


def settings_of(words: list[str]) -> list[str]:
    """Returns what follows each -S of a command.

    >>> settings_of("dvc exp run -S a.b=1 --set-param c=2 -S".split())
    ['a.b=1', 'c=2']
    """
    return [value for flag, value in pairwise(words) if flag in ("-S", "--set-param")]


def keys_in(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted keys of the values of a tree; mappings that are one value count as one."""
    keys = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        inside = isinstance(value, dict) and key not in ("data.columns", "data.classes", "search.space")
        keys += keys_in(value, f"{key}.") if inside else [key]
    return keys


def wrong(setting: str) -> str:
    """Returns what is wrong with a KEY=VALUE of `dvc exp run -S`; '' if nothing is.

    >>> [wrong(each) for each in ("train.lr=0.1,0.2", "++recipes.cnn.lr=0.1", "models=[cnn]", "data.unit=null")]
    ['', '', '', '']
    >>> wrong("train.lrr=1"), wrong("models=linear")
    ('there is no train.lrr', "'linear' is no value of models")
    >>> wrong("balance.strategy=none,wieghts"), wrong("++recipes.cnn.lrr=1")
    ("'wieghts' is no value of balance.strategy", 'there is no recipes.cnn.lrr')
    """
    key, _, text = setting.lstrip("+~").partition("=")
    if problem := wrong_key(key):
        return problem
    for each in [text] if text.startswith(("[", "{", '"')) else text.split(","):
        value = each.strip('"') if each.startswith('"') else yaml.safe_load(each)
        try:
            TypeAdapter(kind_of(key)).validate_python(tuple(value) if isinstance(value, list) else value)
        except ValidationError:
            return f"{each!r} is no value of {key}"
    return ""


def wrong_key(key: str) -> str:
    """Returns what is wrong with a dotted key of params.yaml; '' if there is such a key."""
    return "" if kind_of(key) is not None else f"there is no {key}"


def kind_of(key: str) -> Any:
    """Returns the type of a dotted key of params.yaml, or None; `recipes.<any name>` has the keys of a recipe."""
    section: Any = Params
    steps = key.split(".")
    if steps[0] == "recipes":
        section, steps = Recipe, steps[2:]
    for step in steps[:-1]:
        field = getattr(section, "model_fields", {}).get(step)
        section = field.annotation if field else None
    field = getattr(section, "model_fields", {}).get(steps[-1]) if steps else None
    return field.rebuild_annotation() if field else None


def test_what_only_prints_prints() -> None:
    quick = [command.words[1:] for command in programs("tumorboard") if command.words[1] in ("params", "preset")]
    assert ["preset", "xray"] in quick
    for words in [*quick, ["--help"], *([name, "--help"] for name in SUMMARIES)]:
        if "--resolved" not in words:  # of a study
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (words, done.output)
            assert done.output.strip()


def test_programs_and_files_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    made = {word for command in programs("make") for word in command.words[1:] if "=" not in word}
    assert {"test", "lint"} <= made <= targets
    for command in programs("python"):
        if command.words[1:2] == ["-m"]:
            module = command.words[2].replace(".", "/")
            if module.startswith("benchmarks"):
                assert (ROOT / f"{module}.py").is_file(), command
    for command in programs("pytest"):
        assert all((ROOT / word).exists() for word in command.words[1:] if word.startswith("tests")), command


def test_python_in_the_pages_compiles() -> None:
    compiled = []
    for page in PAGES:
        for block in blocks_of(page):
            scripts = [block.text] if block.language == "python" else []
            if block.language == "sh":
                scripts += re.findall(r"^python - <<'END'\n(.*?)^END$", block.text, flags=re.M | re.S)
            compiled += [compile(script, f"{block.page}:{block.line}", "exec").co_filename for script in scripts]
    assert {name.partition(":")[0] for name in compiled} == {"comparing.md", "datasets.md", "export.md", "members.md"}


def test_the_reference_has_every_parameter_and_command(reference: ModuleType) -> None:
    assert doctest.testmod(reference).failed == 0
    rows = {row.key: row for row in reference.param_rows()}
    tree = read_yaml(ROOT / "params.yaml")
    tree.pop("recipes")
    assert rows.keys() == set(keys_in(tree))
    assert rows["train.lr"].default == str(tree["train"]["lr"])
    assert rows["train.lr"].kind == "number, above 0"
    assert rows["crop.side"].default == "by preset"
    assert rows["balance.augment.hflip"].meaning == "probability of a mirror image"
    page = reference.params_page()
    assert all(f"| `{key}` |" in page for key in rows)
    assert "| `efficientnet_lite0` | `timm/tf_efficientnet_lite0` |" in page
    commands = reference.commands_page()
    assert all(f"\n## tumorboard {name}\n" in commands for name in SUMMARIES)
    assert "--group-pattern RE" in commands


def test_links_between_files_become_links_between_pages(site: ModuleType) -> None:
    text = "[a](docs/members.md#x) ![b](plots/images/data.png) [c](https://dvc.org) [d](LICENSE)"
    assert doctest.testmod(site).failed == 0
    assert site.linked_files(text, "README.md") == ["plots/images/data.png", "LICENSE"]
    assert site.relink(text, "README.md", "index.md").startswith("[a](members.md#x) ![b](plots/images/data.png)")
    assert site.relink("[e](../CONTRIBUTING.md)", "docs/data.md", "data.md") == "[e](contributing.md)"


def test_the_configuration_names_every_page_and_nothing_outside() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert "http" not in text
    assert config["theme"]["font"] is False
    assert config["strict"] is True
    entries = [entry for section in config["nav"] for entries in section.values() for entry in entries]
    listed = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    made = {"index.md", "contributing.md", "changelog.md", "benchmarks.md", "params.md", "commands.md"}
    assert sorted(listed) == sorted({page.name for page in (ROOT / "docs").glob("*.md")} | made)


def test_a_documented_output_that_differs_is_found() -> None:
    assert missing_lines("2 classes   96\n…\ncell", "2 classes  97\nother\ncell") == []
    assert missing_lines("2 classes\n3 cats", "2 classes\n3 dogs") == ["3 cats"]


def outputs_of(page: Path) -> int:
    """Returns how many outputs a page has: blocks `text` that follow commands."""
    languages = [block.language for block in blocks_of(page)]
    return sum(pair == ("sh", "text") for pair in pairwise(languages))


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    return environment_of_a_stranger(tmp_path / "home")


@pytest.mark.docs
def test_the_tutorial_is_followed_word_by_word(tmp_path: Path, stranger: dict[str, str]) -> None:
    (tmp_path / "work").mkdir()
    page = ROOT / "docs/tutorial.md"
    assert run_page(page, tmp_path / "work", stranger) == outputs_of(page) > 10


@pytest.mark.docs
def test_published_layouts_are_read_as_their_page_says(tmp_path: Path, stranger: dict[str, str]) -> None:
    for key, value in (("user.name", "tests"), ("user.email", "tests@localhost")):
        subprocess.run(["git", "config", "--global", key, value], env=stranger, check=True)
    for name, write in LAYOUTS.items():
        (tmp_path / "work" / name).mkdir(parents=True)
        write(tmp_path / "work" / name)
    page = ROOT / "docs/datasets.md"
    assert run_page(page, tmp_path / "work", stranger) == outputs_of(page) > 5


@pytest.mark.docs
def test_the_site_builds_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 20
    loads = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:|//)""")
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
