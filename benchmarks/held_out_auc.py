"""Measures how far the AUC of held-out validation rows lies below that of one model, on simulated panels.

    python -m benchmarks.held_out_auc

A patient's images have one label. What is fitted without a patient (temperatures, weights) depends on that patient's
label: without a patient on whom the panel is wrong, the others look better, and the panel becomes surer. So the rows of
different parts have different scales, and pooled ranks lean against the labels, the more so the fewer the patients.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from benchmarks import argument_parser, machine
from tumorboard.evaluation.held_out import assign_parts
from tumorboard.panel.fits import Fitting, cross_fit

IMAGES = 10  # images per patient
SKILL = 2.0  # distance of the classes' mean log-odds
BETWEEN, WITHIN = 2.0, 2.0  # standard deviations of the log-odds between patients, and between a patient's images


def held_out_auc(patients: int, *, members: int, leaning: float, seed: int) -> tuple[float, float, float]:
    """Returns the AUC of the mean of the members' probabilities without any fit, and of soft and weighted votes.

    Args:
        patients: number of patients of each of two classes.
        members: number of members.
        leaning: log-odds that each member adds in favor of the second class.
        seed: seed of the outputs.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(2 * patients), IMAGES)
    actual = owner % 2
    odds = SKILL * (actual - 0.5) + leaning + BETWEEN * rng.normal(size=(members, 2 * patients))[:, owner]
    odds += WITHIN * rng.normal(size=odds.shape)
    probabilities = softmax(np.stack([-odds / 2, odds / 2], axis=-1), axis=-1)
    parts = assign_parts([f"p{number}" for number in owner])
    names = [f"m{number}" for number in range(members)]
    fitting = Fitting(models=names, classes=["a", "b"], vote="soft", calibrate=True, positive=None, rule=None)
    fitted = cross_fit(fitting, np.stack([probabilities] * (parts.max() + 2)), actual, parts)

    def auc(table: NDArray[np.float64]) -> float:
        return float(roc_auc_score(actual, np.log(table[:, 1]) - np.log(table[:, 0])))

    return auc(probabilities.mean(0)), auc(fitted.votes["soft"]), auc(fitted.votes["weighted"])


def main() -> None:
    """Prints the table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=100, help="panels per row (default: %(default)s)")
    options = parser.parse_args()
    print("| patients per class | members | leaning | not fitted | soft, held out | weighted, held out |")
    print("|---|---|---|---|---|---|")
    for patients in (2, 3, 5, 10, 20, 40):
        for members, leaning in ((1, 0.0), (1, 2.0), (3, 0.0), (3, 2.0)):
            every = np.array(
                [
                    held_out_auc(patients, members=members, leaning=leaning, seed=seed)
                    for seed in range(options.repetitions)
                ]
            )
            cells = " | ".join(f"{mean:.3f}" for mean in every.mean(0))
            print(f"| {patients} | {members} | {leaning:g} | {cells} |", flush=True)
    print(machine())


if __name__ == "__main__":
    main()
