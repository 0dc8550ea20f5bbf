"""Repeats real trainings whose right answer is known, and counts how often the project gives it.

    python -m benchmarks.claims control --runs 20
    python -m benchmarks.claims seeds --runs 20
    python -m benchmarks.claims flips --data $DATA/bccd_cells --group-pattern '(BloodImage_\\d+)'

- control: the labels are shuffled over patients; the interval of the AUC must hold 0.5 in 19 of 20 runs.
- seeds: two trainings that differ in the seed alone must be within noise in 19 of 20 pairs in accuracy; counted as well
  are all other scores, whose p is corrected for their number as in `tumorboard compare`.
- flips: 5 % of the labels are changed before the training; the list of suspects must hold 70 % of them, and 12 of its
  first 20 images must be among them.

The data are the phantom, drawn smaller, unless --data names a folder. All models train in this process.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import ROOT, argument_parser, machine
from benchmarks.studies import Study, changed, one_process
from tumorboard.base.params import Params, load_params
from tumorboard.base.tables import Manifest
from tumorboard.evaluation.comparisons import compare_pair
from tumorboard.evaluation.paired import NOISE
from tumorboard.evaluation.suspects import find_suspects
from tumorboard.panel.comparison import HEADING

FLIPPED = 0.05  # share of the labels


def control(study: Study, params: Params, runs: int) -> None:
    """Trains on shuffled labels and prints whether each interval holds 0.5."""
    held = {"validation": 0, "test": 0}
    for seed in range(1, runs + 1):
        shuffled = changed(params, split={"control": seed})
        study.split(shuffled)
        results = study.judge(shuffled, params.models)
        for part, scores in (("validation", results.validation_scores), ("test", results.test_scores)):
            row = scores["votes"][HEADING] if HEADING in scores["votes"] else scores["votes"][results.fit.vote]
            low, high = row["auc_low"], row["auc_high"]
            if low is None or high is None:
                raise SystemExit(f"control {seed} {part}: {row['auc_method']}: take more images")
            held[part] += low <= 0.5 <= high
            print(f"control {seed} {part}: AUC {row['auc']:.3f} ({low:.3f} to {high:.3f})", flush=True)
    for part, count in held.items():
        print(f"{part}: the interval holds 0.5 in {count} of {runs}")


def seeds(study: Study, params: Params, runs: int) -> None:
    """Trains pairs of models that differ in the seed alone, and prints how many are within noise."""
    study.split(params)
    model = params.models[-1]
    noise: dict[str, int] = {}
    for pair in range(runs):
        tables = [study.train(changed(params, seed=seed), model, 0).test for seed in (2 * pair, 2 * pair + 1)]
        primary, others = compare_pair(
            dict(zip("AB", tables, strict=True)),
            confidence=params.evaluate.confidence,
            seed=params.seed,
            positive=params.data.positive,
            unit=params.data.unit,
        )
        row = primary.iloc[0]
        print(
            f"seeds {2 * pair}, {2 * pair + 1}: accuracy {row['first']:.3f}, {row['second']:.3f}, p {row['p']:.3f}",
            flush=True,
        )
        alike = [row["verdict"] == NOISE, *(others["verdict"] == NOISE), (others["verdict"] == NOISE).all()]
        for score, within in zip([row["score"], *others["score"], "all but accuracy"], alike, strict=True):
            noise[score] = noise.get(score, 0) + int(within)
    for score, count in noise.items():
        print(f"{score}: within noise in {count} of {runs}")


def flips(study: Study, params: Params, runs: int) -> None:
    """Changes labels, trains all folds, and prints how many of the changed ones the list of suspects has."""
    folds = range(params.split.folds)
    for seed in range(runs):
        chosen: set[str] = set()

        def change(manifest: Manifest, seed: int = seed, chosen: set[str] = chosen) -> Manifest:
            rng = np.random.default_rng(seed)
            rows = rng.permutation(len(manifest))[: round(FLIPPED * len(manifest))]
            labels = manifest["label"].to_numpy(object).copy()
            classes = np.unique(labels)
            for row in rows:
                labels[row] = rng.choice(classes[classes != labels[row]])
            chosen.update(manifest["id"].iloc[rows])
            return manifest.assign(label=labels)

        study.split(params, change)
        results = study.judge(changed(params, seed=seed), params.models, folds)
        rows = results.validation.votes[HEADING]
        suspects = find_suspects(rows)["id"].tolist()
        flipped = chosen & set(rows["id"])
        recall = len(flipped & set(suspects)) / len(flipped)
        top = len(flipped & set(suspects[:20]))
        listed = f"{len(flipped)} changed, {len(suspects)} suspects, recall {recall:.2f}, {top} of the first 20"
        print(f"flips {seed}: {listed}", flush=True)


RUNS = {"control": control, "seeds": seeds, "flips": flips}


def main() -> None:
    """Prepares the data, then runs one of RUNS."""
    parser = argument_parser(__doc__)
    parser.add_argument("what", choices=sorted(RUNS))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--data", type=Path, help="folder of labeled images; default: the phantom")
    parser.add_argument("--group-pattern", help="as data.group_pattern")
    parser.add_argument("--models", default="linear,cnn")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    params = study_params(options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        RUNS[options.what](Study(params, Path(folder)), params, options.runs)
    print(f"{time.perf_counter() - start:.0f} s; {machine()}")


def study_params(options: argparse.Namespace) -> Params:
    """Returns the parameters of the study: those of params.yaml, with a smaller side and fewer epochs."""
    params = one_process(load_params(ROOT / "params.yaml"))
    train = {"epochs": options.epochs}
    params = changed(params, models=tuple(options.models.split(",")), crop={"side": options.side}, train=train)
    if options.data is None:
        split = {"test": 0.25, "folds": 3}  # at least ten patients per class in each part, else there is no interval
        return changed(params, phantom={"images": 1200, "patients": 120, "side": 96}, split=split)
    data = {"raw": str(options.data), "group_pattern": options.group_pattern, "unit": None, "positive": None}
    return changed(params, data=data, crop={"border": False})


if __name__ == "__main__":
    main()
