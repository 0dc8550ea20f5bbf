"""Simulates how often the intervals of `tumorboard.evaluation.intervals` contain the true score.

A patient has an effect u, normal with mean 0 and the standard deviation `effect` on the logit scale, and an image of
that patient is right with the log-odds margin + u: some patients are easy, others hard. In detail the image's logits
are Gumbel noise, and margin + u + log(classes - 1) more for the true class. The margin is chosen so that the accuracy
over all patients is the cell's. A patient has 12 images; lognormal sizes have this mean and the parameter 1; a giant
has 44 % of all images. Labels are drawn uniformly by image, or by patient for all images of the patient.

By symmetry the true recall, precision and F1 of every class are the accuracy, and the specificity is 1 minus an equal
share of the errors. The true AUC, Brier score and loss of a cell are those of 250,000 simulated patients with one image
each.

Example:
    python -m benchmarks.coverage --repetitions 250 --workers 2
    python -m benchmarks.coverage --repetitions 250 --workers 2 --only auc
    python -m benchmarks.coverage --rows 1000000                # simulates nothing: seconds and memory of many rows
"""

import itertools
import resource
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, softmax

from benchmarks import argument_parser, machine
from tumorboard.base.randomness import keys_of
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.clustered import BRIER_RANGE, Rows, estimate_scores
from tumorboard.evaluation.intervals import interval_with_bootstrap, intervals
from tumorboard.evaluation.metrics import CLASS_SCORES

IMAGES = 12  # per patient, in the mean
GIANT = 0.44  # share of the images
POPULATION = 250_000  # patients
CONFIDENCE = 0.95
# Scores whose intervals are counted; those of a class are of the first one, since all are alike.
SCORES = ("accuracy", "recall_0", "specificity_0", "precision_0", "f1_0", "auc_0")
MEANS = ("balanced_accuracy", "precision", "f1", "auc", "brier", "loss")
HIGH = 0.95  # true scores above it are shown apart: few mistakes are seen
MANY = 0.5  # least share of the repetitions with an interval for a cell that is shown
KINDS = ("effect up to 0.6", f"score above {HIGH}", "effect 1.0", "one giant patient")


class Cell(NamedTuple):
    """One situation."""

    patients: int
    sizes: str  # distribution of images per patient: equal, lognormal or giant
    effect: float  # standard deviation between patients on the logit scale
    labels: str  # by image or by patient
    classes: int
    accuracy: float


CELLS = [
    Cell(*values)
    for values in itertools.product(
        (15, 40, 100, 8),
        ("equal", "lognormal", "giant"),
        (0.0, 0.6, 1.0),
        ("image", "patient"),
        (2, 5),
        (0.5, 0.75, 0.93, 0.98),
    )
]


@cache
def margin_of(accuracy: float, effect: float) -> float:
    """Returns the log-odds of a patient without effect, for which the mean over all patients is the accuracy."""
    points, weights = np.polynomial.hermite_e.hermegauss(81)
    weights = weights / weights.sum()
    return float(brentq(lambda margin: weights @ expit(margin + effect * points) - accuracy, -10, 15))


def draw_images(cell: Cell, sizes: np.ndarray, generator: np.random.Generator) -> Rows:
    """Returns the predictions for patients with the given numbers of images."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    effects = generator.normal(0, cell.effect, len(sizes))
    by_patient = cell.labels == "patient"
    actual = generator.integers(cell.classes, size=len(sizes) if by_patient else len(group))
    actual = actual[group] if by_patient else actual
    logits = generator.gumbel(size=(len(group), cell.classes))
    logits[np.arange(len(group)), actual] += (
        margin_of(cell.accuracy, cell.effect) + effects[group] + np.log(cell.classes - 1)
    )
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return Rows(actual, odds / odds.sum(1, keepdims=True), group, len(sizes))


def draw_sizes(cell: Cell, generator: np.random.Generator) -> np.ndarray:
    """Returns the number of images of each patient."""
    sizes = np.full(cell.patients, IMAGES)
    if cell.sizes == "lognormal":
        sizes = np.maximum(np.round(generator.lognormal(np.log(IMAGES) - 0.5, 1, cell.patients)), 1).astype(np.int64)
    if cell.sizes == "giant":
        sizes[0] = round(GIANT / (1 - GIANT) * (cell.patients - 1) * IMAGES)
    return sizes


@cache
def true_scores(cell: Cell) -> Mapping[str, float]:
    """Returns the scores of a population."""
    generator = np.random.default_rng(1)
    rows = draw_images(cell, np.ones(POPULATION, dtype=np.int64), generator)
    names = [str(column) for column in range(cell.classes)]
    scores = {estimate.score: estimate.value for estimate in estimate_scores(rows, names)}
    same = ("accuracy", "balanced_accuracy", "recall_0", "precision_0", "precision", "f1_0", "f1")
    specificity = 1 - (1 - cell.accuracy) / (cell.classes - 1)
    return (
        {score: scores[score] for score in ("auc", "brier", "loss")}
        | dict.fromkeys(same, cell.accuracy)
        | {"specificity_0": specificity, "auc_0": scores["auc"]}
    )


def population_of(cell: Cell) -> Cell:
    """Returns the part of a cell that its true scores depend on."""
    return cell._replace(patients=0, sizes="", labels="image")


def measure_cell(task: tuple[Cell, int, int, tuple[str, ...]]) -> list[dict[str, object]]:
    """Returns one row per score of a cell: how many intervals were given, held the truth, and lay above or below."""
    cell, repetitions, resamples, only = task
    truth = true_scores(population_of(cell))
    names = [str(column) for column in range(cell.classes)]
    keys = keys_of([str(patient) for patient in range(cell.patients)])
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for repetition in range(repetitions):
        generator = np.random.default_rng([CELLS.index(cell), repetition])
        rows = draw_images(cell, draw_sizes(cell, generator), generator)
        for estimate in estimate_scores(rows, names, only=only):
            if estimate.score in SCORES + MEANS:
                interval = interval_with_bootstrap(
                    estimate, rows, keys, confidence=CONFIDENCE, seed=repetition, resamples=resamples, unit="patient"
                )
                if interval.low is not None and interval.high is not None:
                    ends[estimate.score].append((interval.low, interval.high))
    table = []
    for score in [score for score in SCORES + MEANS if not only or score.startswith(only)]:
        low, high = np.array(ends[score]).reshape(-1, 2).T
        given = max(len(low), 1)
        above, below = (low > truth[score] + 1e-12).sum() / given, (high < truth[score] - 1e-12).sum() / given
        table.append(
            {
                **cell._asdict(),
                "score": score,
                "true": truth[score],
                "given": len(low) / repetitions,
                "coverage": 1 - above - below,
                "above": above,
                "below": below,
                "width": (high - low).sum() / given * (BRIER_RANGE if score == "brier" else 1),
            }
        )
    return table


def kind_of(row: pd.Series) -> str:
    """Returns in which part of the table a cell's score stands."""
    if row["sizes"] == "giant":
        return "one giant patient"
    if row["effect"] > 0.6:
        return "effect 1.0"
    # Brier score and loss are errors: the accuracy says whether few mistakes are seen.
    value = row["accuracy"] if row["score"] in ("brier", "loss") else row["true"]
    return f"score above {HIGH}" if value > HIGH else "effect up to 0.6"


def summarize(cells: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per kind of cell and score; per number of patients mean and least coverage and mean width."""
    shown = cells[cells["given"] >= MANY]
    shown = shown.assign(kind=shown.apply(kind_of, axis=1))
    rows = []
    for kind in KINDS:
        for score in SCORES + MEANS:
            chosen = shown[(shown["kind"] == kind) & (shown["score"] == score)]
            if chosen.empty:
                continue
            row = {"cells": kind, "score": score, "number": str(len(chosen))}
            for patients, some in chosen.groupby("patients"):
                coverage, width = some["coverage"], some["width"].mean()
                row[f"{patients} patients"] = f"{coverage.mean():.3f} ({coverage.min():.3f}), {width:.2f}"
            row["above"] = f"{chosen['above'].mean():.3f} ({chosen['above'].max():.3f})"
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


def markdown(table: pd.DataFrame) -> str:
    """Returns a table of text as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def targets(cells: pd.DataFrame) -> Iterable[str]:
    """Yields a line per aim: whether it is reached and, if not, by which cells."""
    shown = cells[cells["given"] >= MANY]
    shown = shown.assign(kind=shown.apply(kind_of, axis=1))
    plain = shown[shown["kind"] == "effect up to 0.6"]
    hard = shown[shown["kind"].isin(["one giant patient", "effect 1.0"])]
    accuracy = shown[
        (shown["score"] == "accuracy")
        & (shown["patients"] >= 40)
        & (shown["sizes"] != "giant")
        & (shown["effect"] <= 0.6)
    ]
    silent = cells[(cells["patients"] < 10) & (cells["given"] > 0)]
    yield from (
        f"effect up to 0.6, no giant, true score up to {HIGH}: mean coverage {plain['coverage'].mean():.3f} (aim .93)",
        _line(plain, plain["coverage"] < 0.9, "coverage at least .90"),
        _line(plain, plain["above"] > 0.06, "misses above at most .06"),
        _line(accuracy, ~accuracy["coverage"].between(0.93, 0.98), "accuracy, 40 patients or more: .93 to .98"),
        _line(hard, hard["coverage"] < 0.84, "a giant or effect 1.0: at least .84"),
        f"8 patients: {len(silent)} cells with an interval",
    )


def _line(cells: pd.DataFrame, missed: pd.Series, aim: str) -> str:
    worst = cells[missed].sort_values("coverage")
    columns = ["patients", "sizes", "effect", "labels", "classes", "accuracy", "score", "coverage", "above"]
    listed = "".join(
        "\n  " + ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row)
        for row in worst[columns].itertuples(index=False)
    )
    return f"{aim}: {len(cells) - len(worst)} of {len(cells)} cells; least {cells['coverage'].min():.3f}{listed}"


def time_rows(count: int) -> None:
    """Prints how long the intervals of many rows take, and the peak memory of this process.

    Args:
        count: rows, in groups of ten; the two classes are drawn with probabilities that favor the label.
    """
    generator = np.random.default_rng(0)
    actual = generator.integers(0, 2, count)
    logits = generator.normal(size=(count, 2))
    logits[np.arange(count), actual] += 1
    ids, groups = np.arange(count).astype(str).astype(object), (np.arange(count) // 10).astype(str).astype(object)
    rows = pd.DataFrame({"id": ids, "label": np.array(["a", "b"], object)[actual], "group": groups, "split": "test"})
    table = make_predictions(rows, softmax(logits, axis=1), ["a", "b"], "0" * 16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bootstrap in (False, True):
        start = time.process_time()
        intervals(table, bootstrap=1000 if bootstrap else 0)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"bootstrap {bootstrap}: {seconds:.1f} s of CPU time, {peak / 1024:.0f} MiB, {before / 1024:.0f} before")


def main() -> None:
    """Prints the table and writes it, and the cells behind it, to files."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--repetitions", type=int, default=250, help="draws per cell; a tenth for 8 patients (default: %(default)s)"
    )
    parser.add_argument("--resamples", type=int, default=200, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--patients", type=int, nargs="+", default=[8, 15, 40, 100], choices=[8, 15, 40, 100])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 5], choices=[2, 5])
    parser.add_argument("--only", nargs="+", default=[], choices=CLASS_SCORES, help="scores (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="measure the time and memory of the intervals of so many rows instead")
    parser.add_argument("--out", type=Path, default=Path("coverage.md"), help="the table (default: %(default)s)")
    parser.add_argument("--cells", type=Path, default=Path("coverage.csv"), help="all cells (default: %(default)s)")
    options = parser.parse_args()
    if options.rows:
        time_rows(options.rows)
        return
    chosen = [cell for cell in CELLS if cell.patients in options.patients and cell.classes in options.classes]
    only = tuple(options.only)
    tasks = [
        (cell, options.repetitions // (10 if cell.patients < 10 else 1), options.resamples, only) for cell in chosen
    ]
    for cell in chosen:  # before the processes start, which inherit them
        true_scores(population_of(cell))
    table: list[dict[str, object]] = []
    with Pool(options.workers) as pool:
        for number, rows in enumerate(pool.imap_unordered(measure_cell, tasks, chunksize=4), start=1):
            table.extend(rows)
            if number % 48 == 0:
                print(f"{number} of {len(tasks)} cells", flush=True)
    keys = [*Cell._fields, "score"]
    cells = pd.DataFrame(table).sort_values(keys, ignore_index=True)
    cells.to_csv(options.cells, index=False, float_format="%.5g")
    heading = f"{options.repetitions} repetitions per cell, {options.resamples} resamples; {machine()}"
    text = "\n".join([heading, "", *targets(cells), "", markdown(summarize(cells)), ""])
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
