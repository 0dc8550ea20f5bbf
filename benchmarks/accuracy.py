"""Compares the panel with what a user would otherwise do, on the same files, the same split and in the same time.

    python -m benchmarks.accuracy --data $DATA/bccd_cells --group-pattern '(BloodImage_\\d+)' --preset cells --side 96
    python -m benchmarks.accuracy --data $DATA/brain_mri --preset mri --side 96 --fastai PYTHON

- panel: the members of --models over --folds, the vote by `ensemble.vote: auto`
- fine-tune: a packaged, pre-trained network as a student fine-tunes it: all training images, flips and small rotations,
  label smoothing, Adam with a one-cycle rate, the last epoch
- fastai: `vision_learner` and `fine_tune` with the same weights and their default alterations; PYTHON is an interpreter
  with fastai, timm and safetensors
- commonest: always the most frequent class
- probe: a random forest on facts of the files (size, format, mean color, border), which sees no picture

The panel trains first; each of the others gets the seconds that it took, counted in whole epochs after a trial epoch.
Test images are predicted once, at the end. All differences are paired by patient (`tumorboard compare`).
"""

import argparse
import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import ROOT, argument_parser, machine
from benchmarks.studies import Study, changed, one_process, with_preset
from tumorboard.base.params import Params, load_params
from tumorboard.base.tables import Manifest, Predictions, make_predictions, manifest_digest
from tumorboard.commands.new_files import EPOCHS
from tumorboard.data.shortcuts import EVERYTHING
from tumorboard.evaluation.intervals import intervals
from tumorboard.evaluation.paired import compare
from tumorboard.models.pretrained import load_pretrained
from tumorboard.panel.comparison import HEADING, PanelResults

NETWORK = "timm/tf_efficientnet_lite0"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Against:
    """A comparison of docs/results.md, which `benchmarks.results` writes there."""

    about: str
    options: tuple[str, ...]  # options of this program, without --data and --fastai
    raw: str | None = None  # folder below --data; None: the phantom


CELLS = ("--preset", "cells", "--side", "64", "--folds", "0", "--models", "cnn,resnet18")
AGAINST: dict[str, Against] = {
    "others_brain": Against(
        "brain MRI: the panel against a fine-tune, fastai and the probe",
        ("--preset", "mri", "--side", "64", "--folds", "0"),
        raw="brain_mri",
    ),
    "others_brain_160": Against(
        "the same at the side of the preset mri",
        ("--preset", "mri", "--epochs", "8", "--side", "160", "--folds", "0"),
        raw="brain_mri",
    ),
    "others_bccd": Against("blood cells: the same", ("--group-pattern", r"(BloodImage_\d+)", *CELLS), raw="bccd_cells"),
    "others_phantom": Against("the phantom: the same", CELLS),
}


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images from files with a class index."""

    def __init__(self, paths: list[str], labels: NDArray[np.int64], transform: v2.Compose) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def fine_tune(
    train: tuple[list[str], NDArray[np.int64]], test: list[str], *, classes: int, side: int, seconds: float, seed: int
) -> tuple[NDArray[np.float64], int]:
    """Fine-tunes the packaged network as a student writes it; returns probabilities and the number of epochs."""
    prepare = [v2.Resize(side), v2.CenterCrop(side)]
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    altered = v2.Compose([*prepare, v2.RandomHorizontalFlip(), v2.RandomRotation(10), *tensor])
    torch.manual_seed(seed)
    batches = DataLoader(Files(*train, altered), batch_size=32, shuffle=True, num_workers=2, drop_last=True)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def trained(epochs: int) -> tuple[torch.nn.Module, float]:
        network = pretrained_network(classes)
        optimizer = torch.optim.Adam(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * len(batches))
        network.train()
        start = time.perf_counter()
        for _ in range(epochs):
            for images, labels in batches:
                optimizer.zero_grad()
                loss(network(images), labels).backward()
                optimizer.step()
                schedule.step()
        return network, time.perf_counter() - start

    epochs = max(1, int(seconds / trained(1)[1]))
    network = trained(epochs)[0].eval()
    plain = v2.Compose([*prepare, *tensor])
    with torch.inference_mode():
        loader = DataLoader(Files(test, np.zeros(len(test), np.int64), plain), batch_size=32, num_workers=2)
        outputs = torch.cat([network(images).softmax(1) for images, _ in loader])
    return outputs.numpy().astype(np.float64), epochs


def pretrained_network(classes: int) -> torch.nn.Module:
    """Returns the packaged network with a new output layer."""
    network = timm.create_model(NETWORK.removeprefix("timm/"), num_classes=classes)
    load_pretrained(network, NETWORK, "packaged")
    return network


def run_fastai(python: str, spec: Mapping[str, Any], folder: Path) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Runs benchmarks/fastai_script.py by an interpreter; returns probabilities and what it printed."""
    weights = folder / "lite0.safetensors"
    save_file(pretrained_network(len(spec["classes"])).state_dict(), weights)
    out = folder / "fastai.csv"
    file = folder / "spec.json"
    settings = {"weights": str(weights), "architecture": NETWORK.removeprefix("timm/"), "out": str(out)}
    file.write_text(json.dumps({**spec, **settings}))
    # -P: without it, benchmarks/cuda.py would be taken for a package that torch looks for.
    command = [python, "-P", str(ROOT / "benchmarks/fastai_script.py"), str(file)]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return np.loadtxt(out, delimiter=",", ndmin=2), json.loads(done.stdout.splitlines()[-1])


def without_twins(study: Study, rows: Manifest) -> set[str]:
    """Returns the ids of the test images of which no copy was found among the other images."""
    name = dict(zip(study.manifest["id"], study.manifest["id"], strict=True))

    def root(one: str) -> str:
        while name[one] != one:
            one = name[one]
        return one

    for first, second in zip(study.prepared.pairs["first"], study.prepared.pairs["second"], strict=True):
        if first in name and second in name:
            name[root(first)] = root(second)
    test = set(rows["id"])
    others = {root(one) for one in study.manifest["id"] if one not in test}
    return {one for one in test if root(one) not in others}


def score_line(name: str, table: Predictions, note: str) -> str:
    """Returns a row of the table of methods; a score that is not defined, as where a class has no image, is empty."""
    scores = intervals(table)
    low, high = scores["balanced_accuracy_low"], scores["balanced_accuracy_high"]
    interval = "" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    shares = ["" if (x := scores[key]) is None else f"{100 * x:.1f} %" for key in ("balanced_accuracy", "accuracy")]
    numbers = ["" if (x := scores[key]) is None else f"{x:.3f}" for key in ("brier", "auc")]
    return f"| {' | '.join([name, shares[0] + interval, shares[1], *numbers, note])} |"


def difference_cells(first: Predictions, second: Predictions) -> list[str]:
    """Returns cells of the table of differences: a difference with its interval and verdict, and its p, per score."""
    rows = compare(first, second).set_index("score")
    cells = []
    for score in ("balanced_accuracy", "brier"):
        row = rows.loc[score] if score in rows.index else {"difference": None}
        if row["difference"] is None or pd.isna(row["difference"]):
            cells += ["", ""]
            continue
        interval = "" if pd.isna(row["low"]) else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        p = "" if pd.isna(row["p"]) else f"{row['p']:.4f}"
        cells += [f"{row['difference']:+.3f}{interval}, {row['verdict']}", p]
    return cells


def table_lines(tables: Mapping[str, tuple[Predictions, str]], title: str, study: Study | None = None) -> list[str]:
    """Returns a table of the methods' scores and one of the differences of the panel from each other method.

    Args:
        tables: predictions of the same images by each method, the panel's first, and a note.
        title: name of the images.
        study: whose shortcut probe is a row too; None where the images are not its whole test part.
    """
    first = next(iter(tables.values()))[0]
    lines = [f"{title}: {len(first):,} test images of {first['group'].nunique():,} groups", ""]
    lines += ["| method | balanced accuracy (95 % interval) | accuracy | Brier | AUC | |", "|---|---|---|---|---|---|"]
    lines += [score_line(name, table, note) for name, (table, note) in tables.items()]
    if study:
        facts = study.prepared.test_shortcuts.set_index("facts").loc[EVERYTHING]
        classes = first["label"].nunique()
        balanced = 1 / classes + float(facts["skill"]) * (1 - 1 / classes)
        lines.append(
            f"| probe | {100 * balanced:.1f} % | {100 * float(facts['accuracy']):.1f} % | | | sees no picture |"
        )
    lines += ["", "| the panel against | balanced accuracy | p | Brier | p |", "|---|---|---|---|---|"]
    for name, (table, _) in list(tables.items())[1:]:
        lines.append(f"| {' | '.join([name, *difference_cells(first, table)])} |")
    return lines


def study_params(options: argparse.Namespace) -> Params:
    """Returns the parameters: those of params.yaml with the options' values."""
    params = one_process(load_params(ROOT / "params.yaml"))
    params = with_preset(params, options.preset)
    crop, train = {"side": options.side}, {"epochs": options.epochs}
    params = changed(params, models=tuple(options.models.split(",")), crop=crop, train=train, seed=options.seed)
    if options.data is None:
        return params
    data = {"raw": str(options.data), "group_pattern": options.group_pattern, "unit": None, "positive": None}
    return changed(params, data=data, balance={"strategy": options.balance})


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options of a command line; None: that of this program."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of labeled images; default: the phantom")
    parser.add_argument("--group-pattern", help="as data.group_pattern")
    parser.add_argument("--preset", help="as preset; default: that of params.yaml")
    parser.add_argument("--models", default="resnet18,efficientnet_lite0")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a model without a number of its own")
    parser.add_argument("--balance", default="none", help="as balance.strategy, for --data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fastai", metavar="PYTHON", help="an interpreter with fastai")
    return parser.parse_args(words)


def measure(options: argparse.Namespace) -> list[str]:
    """Runs all methods on one data set; returns lines of Markdown."""
    params = study_params(options)
    if options.fastai:  # before anything is trained
        subprocess.run([options.fastai, "-P", "-c", "import fastai.vision.all, timm"], check=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        study = Study(params, folder)
        rows = study.split(params)
        start = time.perf_counter()
        panel = study.judge(params, params.models, options.folds)
        seconds = time.perf_counter() - start
        tables = {"panel": (panel.test.votes[HEADING], f"{seconds:.0f} s, {describe_vote(panel)}")}
        for name, table in panel.test.members.items():
            loss = panel.validation_scores["members"][name]["loss"]
            tables[name] = table, f"member, validation loss {loss:.3f}"
        tables |= other_methods(options, study, rows, seconds, folder)
        lines = table_lines(tables, options.data.name if options.data else "phantom", study)
        print(*lines, sep="\n", flush=True)
        alone = without_twins(study, rows[rows["split"] == "test"])
        if len(alone) < len(tables["panel"][0]):
            kept = {name: (table[table["id"].isin(alone)], note) for name, (table, note) in tables.items()}
            lines += ["", *table_lines(kept, "without a copy in the other images")]
    return lines


def describe_vote(panel: PanelResults) -> str:
    """Returns the vote that was chosen with its validation loss, and the weights of a weighted one."""
    fit, loss = panel.fit, panel.validation_scores["votes"][panel.fit.vote]["loss"]
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in fit.weights.items())
    return f"{fit.vote}{f' ({weights})' if fit.vote == 'weighted' else ''}, validation loss {loss:.3f}"


def measure_against(against: Against, data: Path | None, fastai: str | None) -> list[str]:
    """Trains the panel and the other methods; returns lines of Markdown."""
    folder = f"$DATA/{against.raw}"
    words = [
        *against.options,
        *(["--data", folder] if against.raw else []),
        *(["--fastai", "PYTHON"] if fastai else []),
    ]
    command = shlex.join(["python", "-m", "benchmarks.accuracy", *words]).replace(f"'{folder}'", folder)
    values = {folder: str((data or Path()) / (against.raw or "")), "PYTHON": fastai}
    options = read_options([values.get(word) or word for word in words])
    return ["```", command, "```", "", *measure(options), "", f"{machine()}."]


def main() -> None:
    """Prints the tables."""
    print("", *measure(read_options()), "", machine(), sep="\n")


def other_methods(
    options: argparse.Namespace, study: Study, rows: Manifest, seconds: float, folder: Path
) -> dict[str, tuple[Predictions, str]]:
    """Trains the other methods; returns their Predictions of the test images and a note each."""
    classes = sorted(rows["label"].unique())
    train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
    paths = [[str(Path(study.params.data.raw) / path) for path in part["id"]] for part in (train, test)]
    digest = manifest_digest(rows)
    labels = pd.Categorical(train["label"], categories=classes).codes.astype(np.int64)
    start = time.perf_counter()
    probabilities, epochs = fine_tune(
        (paths[0], labels), paths[1], classes=len(classes), side=options.side, seconds=seconds, seed=options.seed
    )
    note = f"{time.perf_counter() - start:.0f} s with the trial epoch, {epochs} epochs"
    tables = {"fine-tune": (make_predictions(test, probabilities, classes, digest), note)}
    if options.fastai:
        spec = {"train": list(zip(paths[0], train["label"], strict=True)), "test": paths[1], "classes": classes}
        spec |= {"side": options.side, "seconds": seconds, "seed": options.seed}
        probabilities, printed = run_fastai(options.fastai, spec, folder)
        note = f"{printed['seconds']:.0f} s, {printed['epochs']} epochs"
        tables["fastai"] = make_predictions(test, probabilities, classes, digest), note
    shares = train["label"].value_counts(normalize=True).reindex(classes).to_numpy()
    tables["commonest"] = make_predictions(test, np.tile(shares, (len(test), 1)), classes, digest), "shares of training"
    return tables


if __name__ == "__main__":
    main()
