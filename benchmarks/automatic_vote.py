"""Compares what `ensemble.vote: auto` chooses with and without `stacking` among the choices, on simulated panels.

    python -m benchmarks.automatic_vote

Four members classify images of patients; what they know differs from kind to kind. Their outputs for an image share
part of their error, and images of one patient share more of it. The panel is fitted to 16 images per patient, and each
choice is judged by its loss on 4,000 images of other patients.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks import argument_parser, machine
from tumorboard.panel.fits import Fitting, choose_vote, fit_panel
from tumorboard.panel.fitted import apply_vote, calibrate_members
from tumorboard.panel.votes import STACKING

MEMBERS = 4
IMAGES = 16  # images per patient to which a panel is fitted
PARTS = 5
# What each member's output moves toward the right class, in standard deviations of its own error.
SKILLS = {
    "equally good": (1.6, 1.6, 1.6, 1.6),
    "one good, three poor": (2.4, 0.6, 0.6, 0.6),
    "one good, three guess": (1.8, 0.0, 0.0, 0.0),
    "better and better": (0.6, 1.1, 1.6, 2.1),
    "each leans to a class": (1.6, 1.6, 1.6, 1.6),
}
LEANING = "each leans to a class"


class Panel(NamedTuple):
    """What four members say of images."""

    members: NDArray[np.float64]  # [4, N, K], probabilities
    actual: NDArray[np.int64]  # [N]
    patients: NDArray[np.int64]  # [N]


def draw_panel(
    kind: str, leaning: NDArray[np.float64], *, patients: int, images: int, rng: np.random.Generator
) -> Panel:
    """Draws the members' outputs for images of patients.

    Args:
        kind: a name in SKILLS.
        leaning: float64[4, 1, K], what each member adds to its outputs; used for LEANING alone.
        patients: their number.
        images: per patient.
        rng: draws the outputs.
    """
    classes = leaning.shape[-1]
    owner = np.repeat(np.arange(patients), images)
    actual = rng.integers(0, classes, len(owner))
    shared = rng.normal(size=(len(owner), classes)) + 0.7 * rng.normal(size=(patients, classes))[owner]
    own = (
        rng.normal(size=(MEMBERS, len(owner), classes)) + 0.5 * rng.normal(size=(MEMBERS, patients, classes))[:, owner]
    )
    outputs = np.array(SKILLS[kind])[:, None, None] * np.eye(classes)[actual] + 0.6 * shared + 0.8 * own
    if kind == LEANING:
        outputs += leaning
    return Panel(softmax(1.5 * outputs, axis=-1), actual, owner)


def losses(kind: str, *, patients: int, classes: int, seed: int) -> tuple[float, float, bool]:
    """Returns the loss on other patients without and with stacking among the choices, and whether it was taken."""
    rng = np.random.default_rng(seed)
    leaning = rng.normal(size=(MEMBERS, 1, classes))
    panel = draw_panel(kind, leaning, patients=patients, images=IMAGES, rng=rng)
    others = draw_panel(kind, leaning, patients=400, images=10, rng=rng)
    names = [f"m{number}" for number in range(MEMBERS)]
    labels = [str(number) for number in range(classes)]
    fitting = Fitting(models=names, classes=labels, vote="auto", calibrate=True, positive=None, rule=None)
    fit = fit_panel(fitting, panel.members, panel.actual, panel.patients % PARTS)
    without = choose_vote({vote: loss for vote, loss in fit.losses.items() if vote != STACKING})
    calibrated = calibrate_members(fit, others.members)
    rows = np.arange(len(others.actual))
    loss_of_vote = {
        vote: float(-np.log(np.maximum(apply_vote(fit, vote, calibrated)[rows, others.actual], 1e-12)).mean())
        for vote in {without, fit.vote}
    }
    return loss_of_vote[without], loss_of_vote[fit.vote], fit.vote == STACKING


def main() -> None:
    """Prints the table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=40, help="panels per row (default: %(default)s)")
    options = parser.parse_args()
    print("| members | patients | classes | without | with stacking | difference (standard error) | stacking taken |")
    print("|---|---|---|---|---|---|---|")
    for kind in SKILLS:
        for patients in (12, 30, 100):
            for classes in (2, 4):
                panels = [
                    losses(kind, patients=patients, classes=classes, seed=seed) for seed in range(options.repetitions)
                ]
                without, present, taken = np.array(panels, dtype=float).T
                gain = present - without
                error = gain.std(ddof=1) / np.sqrt(len(gain))
                print(
                    f"| {kind} | {patients} | {classes} | {without.mean():.4f} | {present.mean():.4f} "
                    f"| {gain.mean():+.4f} ({error:.4f}) | {taken.mean():.0%} |",
                    flush=True,
                )
    print(machine())


if __name__ == "__main__":
    main()
