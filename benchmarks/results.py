"""Rebuilds the tables of docs/results.md: trains each comparison anew and writes its table between its marks.

    python -m benchmarks.results --list                        # the names
    python -m benchmarks.results --data ../shared/data         # all of them; `make results DATA=../shared/data`
    python -m benchmarks.results --data ../shared/data e b     # some of them

A comparison is some keys of params.yaml. Its models are trained in this process by the functions of the stages, on all
validation folds that the keys name, and are compared by validation loss; the test images are scored once, after that.
The page has the `dvc exp run` with the same keys, which trains the same models. Where the folder of data sets is not
given, the comparisons that need it are skipped, by name.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ROOT, argument_parser, machine
from benchmarks.accuracy import AGAINST, Against, measure_against
from benchmarks.studies import Study, one_process
from tumorboard.base.files import replacing
from tumorboard.base.params import Params
from tumorboard.base.presets import fill_empty
from tumorboard.base.schema import parse, read_yaml
from tumorboard.base.short_params import complete_values
from tumorboard.panel.comparison import HEADING, PanelResults
from tumorboard.panel.votes import VOTES

PAGE = ROOT / "docs/results.md"
OWN_GROUPS = {"data.unit": None, "data.positive": None}  # every image is its own group, no class is to be detected


@dataclass(frozen=True)
class Comparison:
    """Some keys of params.yaml, and a value of one of them per table."""

    about: str  # one line for --list
    keys: Mapping[str, Any]  # dotted key of params.yaml: value
    raw: str | None = None  # folder below --data; None: the phantom
    each: tuple[str, tuple[Any, ...]] | None = None  # a key, and the values that get a table each

    def runs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a title, empty for the only one, and the keys of each table."""
        if self.each is None:
            yield "", dict(self.keys)
            return
        key, values = self.each
        for value in values:
            yield f"`{key}: {value}`", {**self.keys, key: value}


COMPARISONS: dict[str, Comparison] = {
    "bccd": Comparison(
        "blood cells, three classes, smears as groups",
        {
            "data.unit": "smear",
            "data.positive": None,
            "data.group_pattern": r"(BloodImage_\d+)",
            "crop.border": False,
            "models": ["linear", "cnn", "resnet18"],
        },
        raw="bccd_cells",
    ),
    "balance": Comparison(
        "five ways to balance, on two folds",
        {"models": ["cnn"], "folds": [0, 1]},
        each=("balance.strategy", ("none", "augment", "weights", "sampler", "focal")),
    ),
    "a": Comparison(
        "models and optimizers",
        {
            "crop.side": 32,
            "models": [
                f"deep_{model}_{optimizer}"
                for model in ("linear", "resnet18", "resnet34", "lstm_resnet18")
                for optimizer in ("sgd", "adam")
            ],
        },
    ),
    "b": Comparison(
        "ways to use pre-trained weights",
        {
            **OWN_GROUPS,
            "preset": "mri",
            "balance.strategy": "none",
            "crop.side": 64,
            "train.epochs": 6,
            "models": [
                f"lite0_{way}"
                for way in (
                    "scratch",
                    "head_only",
                    "whole",
                    "unfreeze",
                    "discriminative",
                    "layer_decay",
                    "head_512_128_32",
                    "head_512_64",
                )
            ],
        },
        raw="brain_mri",
    ),
    "c": Comparison(
        "GoogLeNet against VGG, with a cosine schedule to zero",
        {
            "crop.side": 32,
            "balance.strategy": "none",
            "train.epochs": 10,
            "models": ["googlenet_bn_cosine", "vgg16_cosine"],
        },
    ),
    "d": Comparison(
        "three depths, with batches of 16 and of 64",
        {
            "crop.side": 32,
            "balance.multiply": 2,
            "train.optimizer": "sgd",
            "train.lr": 0.001,
            "train.weight_decay": 0.0005,
            "train.schedule": "constant",
            "models": ["resnet18", "resnet50", "resnet152"],
        },
        each=("train.batch_size", (16, 64)),
    ),
    "e": Comparison(
        "a small network, a pre-trained one, and the latter for longer",
        {"crop.side": 48, "models": ["plateau_cnn3", "plateau_lite0", "plateau_lite0_longer"]},
    ),
}
TABLES: dict[str, Comparison | Against] = {**COMPARISONS, **AGAINST}


def with_keys(keys: Mapping[str, Any]) -> Params:
    """Returns the parameters of params.yaml with other values.

    Args:
        keys: dotted key: value; a new preset fills the empty keys, as in `dvc exp run -S`.
    """
    tree = read_yaml(ROOT / "params.yaml")
    for key, value in keys.items():
        *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section[part]
        section[name] = value
    return one_process(parse(Params, fill_empty(complete_values(tree)), "params.yaml"))


def command_of(comparison: Comparison) -> str:
    """Returns the command of DVC that trains the same models, with `$DATA` for the folder of data sets.

    >>> print(command_of(Comparison("", {"crop.side": 32, "models": ["a", "b"], "data.unit": None})))
    dvc exp run -S crop.side=32 -S 'models=[a,b]' -S data.unit=null
    """
    keys = dict(comparison.keys)
    if comparison.each:
        key, values = comparison.each
        keys[key] = values
    words = ["dvc exp run" + " --queue" * bool(comparison.each)]
    words += [f"-S data.raw=$DATA/{comparison.raw}"] if comparison.raw else []
    for key, value in keys.items():
        if isinstance(value, list):
            words.append(f"-S '{key}=[{','.join(map(str, value))}]'")
        elif isinstance(value, tuple):
            words.append(f"-S {key}={','.join(map(str, value))}")
        elif isinstance(value, str) and not value.isidentifier():
            words.append(f"-S '{key}=\"{value}\"'")
        else:
            words.append(f"-S {key}={yaml.safe_dump(value).split(chr(10))[0]}")
    lines, line = [], words[0]
    for word in words[1:]:
        if len(line) + len(word) > 116:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line += f" {word}"
    return "\n".join([*lines, line])


def share(scores: Mapping[str, Any], name: str) -> str:
    """Returns a score in percent with its interval, where it has one.

    >>> share({"accuracy": 0.912, "accuracy_low": 0.9, "accuracy_high": 0.92}, "accuracy")
    '91.2 % (90.0 to 92.0)'
    >>> share({"accuracy": 0.912, "accuracy_low": None, "accuracy_high": None}, "accuracy")
    '91.2 %'
    """
    low, high = (scores.get(f"{name}_{end}") for end in ("low", "high"))
    return _percent(scores, name) + ("" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})")


HEADER = [
    "| | validation loss | validation accuracy | test accuracy (95 % interval) | balanced accuracy | test AUC |",
    "|---|---|---|---|---|---|",
]


def rows_of(results: PanelResults, title: str = "") -> list[str]:
    """Returns rows of a table: the members, then the votes, of which the one that heads the report is bold.

    Args:
        results: a panel's results. Where it is one model, all votes are this model and have no rows.
        title: name of a single model's row, in place of the model's.
    """
    lines = []
    validation, test = results.validation_scores, results.test_scores
    members = list(results.fit.temperatures)
    for group, names in (("members", members), ("votes", VOTES if len(members) > 1 else ())):
        for name in names:
            if name not in validation.get(group, {}):
                continue
            shown = f"`{name}`" if group == "members" else f"{name} vote"
            if group == "votes" and name == results.fit.vote:
                shown = f"**{shown}**"
            own, later = validation[group][name], test[group][name]
            cells = [
                title if title and len(members) == 1 else shown,
                _decimal(own, "loss"),
                _percent(own, "accuracy"),
                share(later, "accuracy"),
                _percent(later, "balanced_accuracy"),
                _decimal(later, "auc"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _decimal(scores: Mapping[str, Any], name: str) -> str:
    value = scores.get(name)
    return "" if value is None else f"{value:.3f}"


def _percent(scores: Mapping[str, Any], name: str) -> str:
    return f"{100 * scores[name]:.1f} %"


def facts_of(results: PanelResults) -> str:
    """Returns how many images the scores are of."""
    counts = []
    for name, part in (("validation", results.validation), ("test", results.test)):
        table = part.votes[HEADING]
        counts.append(f"{len(table):,} {name} images of {table['group'].nunique():,} groups")
    return " and ".join(counts)


def measure(comparison: Comparison, data: Path | None) -> list[str]:
    """Trains a comparison; returns its lines of Markdown. Runs of a single model share one table."""
    text = ["```", command_of(comparison), "```", ""]
    shared = len(comparison.keys["models"]) == 1
    with tempfile.TemporaryDirectory() as folder:
        study, cropped = None, None
        start = time.process_time()
        for number, (title, keys) in enumerate(comparison.runs()):
            if comparison.raw and data is not None:
                keys["data.raw"] = str((data / comparison.raw).resolve())
            params = with_keys(keys)
            if study is None or params.crop != cropped:
                study, cropped = Study(params, Path(folder)), params.crop
            study.split(params)
            results = study.judge(params, params.models, params.folds)
            if not (shared and number):
                text += [f"{title}: {facts_of(results)}" if title and not shared else facts_of(results), "", *HEADER]
            text += rows_of(results, title) + ([] if shared else [""])
    minutes = (time.process_time() - start) / 60
    return [*text, *([""] if shared else []), f"{minutes:.0f} minutes of CPU time on {machine()}."]


def replace_between(page: str, name: str, lines: list[str]) -> str:
    """Returns a page with other lines between the marks of a name.

    >>> replace_between("a\\n<!-- e: begin -->\\nold\\n<!-- e: end -->\\nb", "e", ["new"])
    'a\\n<!-- e: begin -->\\nnew\\n<!-- e: end -->\\nb'
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE}: has no '{begin}' and '{end}'")
    text = "\n".join([begin, *lines, end])
    return pattern.sub(lambda _: text, page)


def main() -> None:
    """Trains the named comparisons and writes their tables."""
    parser = argument_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons; default: all")
    parser.add_argument("--data", type=Path, help="folder with brain_mri and bccd_cells")
    parser.add_argument("--page", type=Path, default=PAGE, help="(default: docs/results.md)")
    parser.add_argument(
        "--fastai", metavar="PYTHON", help="an interpreter with fastai, for the comparisons with others"
    )
    parser.add_argument("--list", action="store_true", help="print the names and train nothing")
    options = parser.parse_args()
    if options.list:
        for name, table in TABLES.items():
            print(f"{name:<15} {table.about}")
        return
    check_names(options, parser)
    for name in options.names or TABLES:
        table = TABLES[name]
        if table.raw and options.data is None:
            print(f"{name}: skipped, since it needs --data", flush=True)
            continue
        if isinstance(table, Against):
            lines = measure_against(table, options.data, options.fastai)
        else:
            lines = measure(table, options.data)
        page = options.page.read_text(encoding="utf-8")  # read late: others may have been written meanwhile
        with replacing(options.page) as temporary:
            temporary.write_text(replace_between(page, name, lines), encoding="utf-8")
        print(f"{name}: written to {options.page}", flush=True)


def check_names(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where a name, a mark of the page or a folder is missing, before anything is trained."""
    for name in options.names:
        if name not in TABLES:
            parser.error(f"there is no comparison '{name}'; there are {', '.join(TABLES)}")
    page = options.page.read_text(encoding="utf-8")
    for name in options.names or TABLES:
        replace_between(page, name, [])
        raw = TABLES[name].raw
        if raw and options.data is not None and not (options.data / raw).is_dir():
            parser.error(f"--data {options.data}: has no folder {raw}")


if __name__ == "__main__":
    main()
