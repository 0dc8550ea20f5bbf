"""The files of a new study, made from those of the installed package, and its first commit."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tumorboard.base.errors import InputError
from tumorboard.base.package_files import package_file
from tumorboard.base.presets import PRESETS, explain_preset
from tumorboard.base.short_params import DEFAULTS_OF
from tumorboard.base.study import package_version
from tumorboard.commands.new_data import Copy, copy_data
from tumorboard.commands.new_panel import panel_of
from tumorboard.commands.preset import as_yaml
from tumorboard.commands.study_pipeline import PICTURES, pipeline_text
from tumorboard.data.guess_groups import Guess

_COPIED = (".gitignore", ".gitattributes", ".dvcignore", "weights/README.md", "architectures/README.md")
_TEMPLATE = ("raw", "table", "group_pattern", "unit", "positive")  # keys of `data` that each study has
EPOCHS = 16  # of a new study's trainings
_PLOTS = ".dvc/plots"  # templates and page of `dvc plots`


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """The facts that `tumorboard new` has about the data."""

    name: str  # name of the study
    data: Path  # path of the images, absolute or relative to the study
    table: str | None  # label table inside the data
    group_pattern: str | None
    guess: Guess | None  # a grouping that nobody confirmed
    unit: str | None  # what a group is
    positive: str | None
    preset: str
    lines: Mapping[str, Any] = field(default_factory=dict)  # further values of params.yaml, by section


def study_files(facts: StudyFacts) -> dict[str, bytes]:
    """Returns the content of each file of a new study by its name."""
    files = {name: package_file(name).read_bytes() for name in _COPIED}
    pictures = "".join(f"/{folder}/\n" for folder in PICTURES).encode()
    files[".gitignore"] = files[".gitignore"].replace(b"/data/phantom/\n", pictures)
    templates = package_file(_PLOTS)
    files |= {
        f"{_PLOTS}/{file.name}": file.read_bytes()
        for file in sorted(templates.iterdir())
        if file.is_file() and file.suffix != ".py"  # Python may have left its __pycache__ there
    }
    files[".dvc/config"] = _DVC_CONFIG
    files[".dvc/.gitignore"] = b"/config.local\n/tmp\n/cache\n"
    files["dvc.yaml"] = pipeline_text(package_file("dvc.yaml").read_text(encoding="utf-8")).encode()
    files["params.yaml"] = params_text(facts).encode()
    files["README.md"] = _README.format(name=facts.name, data=facts.data).encode()
    return files


def params_text(facts: StudyFacts) -> str:
    """Returns the params.yaml of a study: the values that differ from the package's defaults, each line explained."""
    own = {key: value for key, value in facts.lines.items() if key not in (DEFAULTS_OF, "preset")}
    first = {"study": facts.name, "models": list(panel_of(facts.preset).models), "folds": [0], "medmnist": []}
    first |= {key: own.pop(key) for key in first if key in own}
    data = {key: value for key, value in own.pop("data", {}).items() if key not in _TEMPLATE}
    evaluate = {"subgroups": [], "test": True} | own.pop("evaluate", {})
    subgroups, test = _flow(evaluate.pop("subgroups")), _yaml(evaluate.pop("test"))
    train = {"epochs": EPOCHS} | own.pop("train", {})
    epochs = train.pop("epochs")
    longer = ": half as many were worse in 15 of 18 pairs (docs/results.md)" if epochs == EPOCHS else ""
    panel = panel_of(facts.preset)
    why = f": {panel.reason}" if first["models"] == list(panel.models) else ""
    lines = [
        "# The study's parameters. `tumorboard params` prints all others with explanations and default values; what is",
        "# to differ goes here. For one experiment: dvc exp run -S '++train.lr=0.01'",
        f"{DEFAULTS_OF}: {_yaml(package_version())}  # version whose defaults hold for every key that is not here",
        "",
        f"study: {_yaml(first['study'])}  # name in the report",
        f"models: {_flow(first['models'])}  # the panel{why}; `tumorboard params` lists more under recipes",
        f"folds: {_flow(first['folds'])}  # validation folds to train; [0, 1, 2, 3, 4] is five-fold cross-validation",
        f"medmnist: {_flow(first['medmnist'])}",
        f"preset: {facts.preset}  # for {PRESETS[facts.preset].pictures}",
        *_preset_lines(facts.preset),
        "",
        "data:",
        f"  raw: {_yaml(str(facts.data))}",
        f"  table: {_yaml(facts.table)}",
        f"  group_pattern: {_yaml(facts.group_pattern)}  # images of one group are never on two sides of the split",
    ]
    if facts.guess:
        lines += [
            f"  # The names look like {facts.guess.groups} groups ({facts.guess.example}). If that is right:",
            f"  # group_pattern: {_yaml(facts.guess.pattern)}",
        ]
    lines += [
        f"  unit: {_yaml(facts.unit)}  # what a group is: patient | smear | slide; empty: nobody said",
        f"  positive: {_yaml(facts.positive)}  # the one of two classes that is to be detected",
        *_below(data),
        "",
        "train:",
        f"  epochs: {_yaml(epochs)}  # of a model whose recipe has no number of its own{longer}",
        *_below(train),
        "",
        "evaluate:",
        f"  subgroups: {subgroups}  # columns of the table, such as [sex, site]: scores per value",
        f"  test: {test}  # false: leave the test images unscored until all choices are made",
        *_below(evaluate),
        "",
    ]
    return "\n".join(lines) + (_dump(own) if own else "")


def _preset_lines(preset: str) -> list[str]:
    """Returns comments with what a preset sets, and why."""
    rows = [row for row in explain_preset(preset) if not row.key.startswith("balance.")]
    return [
        f"# What it sets, and why (a key below wins; `tumorboard preset {preset}` has those of balance.augment too):",
        *(f"#   {row.key}: {as_yaml(row.value)}  # {row.reason}" for row in rows),
    ]


def _flow(values: Any) -> str:
    """Returns a list as YAML on one line."""
    return yaml.safe_dump(values, default_flow_style=True, allow_unicode=True, width=10_000).strip()  # type: ignore[no-any-return]


def _below(section: Mapping[str, Any]) -> list[str]:
    """Returns the lines of further keys of a section."""
    return [f"  {line}" for line in _dump(section).splitlines()] if section else []


def _dump(tree: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=110)
    return text


def _yaml(value: Any) -> str:
    """Returns a scalar as YAML 1.2 reads it back; a JSON text is YAML."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def write_study(folder: Path, files: Mapping[str, bytes], copy: Copy | None) -> None:
    """Writes the files of a study into a new folder and makes its first commit.

    Args:
        folder: folder of the study.
        files: content of each file by its name.
        copy: the images to copy, which DVC then keeps; None: they stay where they are.

    Raises:
        InputError: git or DVC fails; the folder is then left for the reader to look at.
    """
    if copy:
        copy_data(copy, folder)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    run_in(folder, "git", "init", "--quiet")
    if copy:
        run_in(folder, sys.executable, "-m", "dvc", "add", "--quiet", copy.target.as_posix())
    run_in(folder, "git", "add", "--all")
    run_in(folder, "git", "commit", "--quiet", "--message", "Begin the study")


def run_in(folder: Path, *command: str) -> None:
    """Runs a command in a folder; raises InputError with its output where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"`{shlex.join(command)}` failed in {folder}: {(done.stderr or done.stdout).strip()}")


_DVC_CONFIG = b"""[core]
    analytics = false
    check_update = false
    autostage = true
[plots]
    html_template = plots/offline.html
[cache]
    type = "reflink,hardlink,copy"
"""

_README = """# {name}

A study by tumorboard on the images of `{data}`. For research, not for diagnosis.

    dvc repro                     # crop, split, train, vote, report: report/index.html
    git add -A && git commit -m "First run"
    dvc exp run -S '++train.lr=0.01'      # another value, compared by validation scores: dvc exp show
    tumorboard predict new/ --out ../new.csv  # the panel on new images
"""
