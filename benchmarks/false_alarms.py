"""Measures how often a comparison of two models is wrong: false alarms, and intervals that miss the true difference.

Both models classify the same simulated images of two classes. An image is right where a sum exceeds a threshold: the
model's own effect of the patient and class (normal, standard deviation `effect`), and a normal noise of variance 1, of
which both models share a half. The effect is 0, 26 and 50 % of the variance for an effect of 0, 0.6 and 1. Patients
have 20 images on average (lognormal). Labels differ either from image to image or from patient to patient, with 40 % in
the positive class.

With models of equal skill the table has the share of repetitions in which the comparison calls one of them ahead at a
confidence of 95 %: in each score by its own p; in any of the scores beside the accuracy, by their own p and, as they
are shown, by p after Holm's correction; and by McNemar's exact test of the same images. With models of unequal skill it
has, for accuracy and AUC, the share of intervals of the difference that lie above and below the true one, their mean
width, and how often the first model is called ahead. The true difference of AUC is that of 20,000 simulated patients.

Example:
    python -m benchmarks.false_alarms --repetitions 1000
    python -m benchmarks.false_alarms --repetitions 1000 --skills 0.9 0.85
    python -m benchmarks.false_alarms --repetitions 1000 --skills 0.98 0.96
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from benchmarks import argument_parser
from tumorboard.evaluation.auc_difference import AucDifference, auc_difference
from tumorboard.evaluation.clustered import Rows
from tumorboard.evaluation.comparisons import PRIMARY_SCORE, holm
from tumorboard.evaluation.contributions import paired_contributions
from tumorboard.evaluation.sign_flip import Flipped, flip_signs

PATIENTS = (8, 10, 15, 40, 100)
EFFECTS = (0.0, 0.6, 1.0)
LABELS = ("image", "patient")
POSITIVES = 0.4  # share of images or patients
PERMUTATIONS = 511  # where there are more than 10 patients; of 10 all are taken


class Images(NamedTuple):
    """N simulated images of two classes and two models' probabilities of them."""

    actual: NDArray[np.int64]  # [N], 1 for the positive class
    patient: NDArray[np.int64]  # [N], from 0
    probabilities: tuple[NDArray[np.float64], NDArray[np.float64]]  # [N, 2] each


def simulate(
    generator: np.random.Generator, patients: int, effect: float, labels: str, skills: tuple[float, float]
) -> Images:
    """Simulates images of `patients` patients; `skills` are the models' expected accuracies."""
    images = np.maximum(1, generator.lognormal(np.log(14.5), 0.8, patients).round().astype(int))
    patient = np.repeat(np.arange(patients), images)
    if labels == "image":
        actual = (generator.random(len(patient)) < POSITIVES).astype(np.int64)
    else:
        actual = (patient < round(POSITIVES * patients)).astype(np.int64)
    shared = generator.normal(size=len(patient))
    probabilities = []
    for skill in skills:
        effects = effect * generator.normal(size=(patients, 2))[patient, actual]
        noise = np.sqrt(0.5) * (shared + generator.normal(size=len(patient)))
        of_label = expit(2 * (norm.ppf(skill) * np.sqrt(1 + effect**2) + effects + noise))
        positive = np.where(actual == 1, of_label, 1 - of_label)
        probabilities.append(np.stack([1 - positive, positive], 1))
    return Images(actual, patient, (probabilities[0], probabilities[1]))


def compare(images: Images, seed: int) -> dict[str, Flipped | AucDifference]:
    """Compares the two models as `tumorboard.evaluation.paired.compare` does, without its tables."""
    first, second = images.probabilities
    parts = paired_contributions(
        images.actual, images.patient, first=first, second=second, classes=["well", "ill"], positive="ill"
    )
    names = [str(number) for number in range(images.patient.max() + 1)]
    one, other = (Rows(images.actual, table, images.patient, len(names)) for table in images.probabilities)
    return {
        score: flip_signs(part.difference, part.weights, names, confidence=0.95, seed=seed, permutations=PERMUTATIONS)
        for score, part in parts.items()
        if score != "auc"
    } | {"auc": auc_difference(one, other, 0.95)}


def mcnemar(images: Images) -> float:
    """Returns the p of McNemar's exact test, which takes images for independent."""
    first, second = (table.argmax(1) == images.actual for table in images.probabilities)
    differing = int((first != second).sum())
    return float(binomtest(int((first & ~second).sum()), differing).pvalue) if differing else 1.0


def family_alarms(flipped: dict[str, Flipped | AucDifference]) -> dict[str, float]:
    """Returns whether any exploratory score raises an alarm, without and with the correction for their number."""
    p = np.array([one.p for score, one in flipped.items() if score != PRIMARY_SCORE])
    corrected = np.array(holm(p.tolist()))
    return {"any other": float((p < 0.05).any()), "any other, Holm": float((corrected < 0.05).any())}


def sample_auc_difference(images: Images) -> float:
    """Returns the difference of the two models' AUCs."""
    first, second = (roc_auc_score(images.actual, table[:, 1]) for table in images.probabilities)
    return float(first - second)


def measure(
    seed: int, patients: int, effect: float, labels: str, *, skills: tuple[float, float], repetitions: int
) -> dict[str, float]:
    """Returns the share of false alarms by score, or of misses by the intervals; nan: too few patients."""
    generator = np.random.default_rng([seed, patients, int(10 * effect), LABELS.index(labels)])
    equal = skills[0] == skills[1]
    true_auc = 0.0 if equal else sample_auc_difference(simulate(generator, 20_000, effect, labels, skills))
    outcomes = []
    for repetition in range(repetitions):
        images = simulate(generator, patients, effect, labels, skills)
        flipped = compare(images, repetition)
        if equal:
            alarms = {score: np.nan if np.isnan(one.p) else float(one.p < 0.05) for score, one in flipped.items()}
            outcomes.append({**alarms, **family_alarms(flipped), "McNemar": float(mcnemar(images) < 0.05)})
        else:
            truth = {"accuracy": skills[0] - skills[1], "auc": true_auc}
            outcomes.append(
                {
                    f"{score} {name}": value
                    for score, true in truth.items()
                    for name, value in {
                        "above": flipped[score].low > true,
                        "below": flipped[score].high < true,
                        "width": flipped[score].high - flipped[score].low,
                        "found": flipped[score].p < 0.05,
                    }.items()
                }
            )
    return pd.DataFrame(outcomes).astype(float).mean().to_dict()


def main() -> None:
    """Prints a table in Markdown, in percent."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--skills", type=float, nargs=2, default=(0.85, 0.85), help="expected accuracy of each model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    header: list[str] = []
    for labels, patients, effect in product(LABELS, PATIENTS, EFFECTS):
        shares = measure(
            options.seed, patients, effect, labels, skills=tuple(options.skills), repetitions=options.repetitions
        )
        if not header:
            header = list(shares)
            print("| label by | patients | effect |", " | ".join(header), "|")
            print("|---" * (3 + len(header)) + "|")
        cells = ("too few" if np.isnan(shares[name]) else f"{100 * shares[name]:.1f}" for name in header)
        print(f"| {labels} | {patients} | {effect} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
