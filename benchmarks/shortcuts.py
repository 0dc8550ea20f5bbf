"""Measures how often the shortcut probe raises a false alarm, and how often it finds a true shortcut.

    python -m benchmarks.shortcuts --skill 0 --repetitions 200      # false alarms
    python -m benchmarks.shortcuts --skill 0.5 --repetitions 40     # power
    python -m benchmarks.shortcuts --skill 0.5 --label-by patient --patients 12

Each data set has two classes and facts that differ by patient: each patient has a scanner with a width, file size and
color of its own, around which the images vary. `label` is one per patient or one per image. With a skill of 0 no fact
knows the label. With a skill of 0.5, the width of three images in four is that of their class.
"""

import argparse
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

from tumorboard.base.tables import Images, Manifest
from tumorboard.data.shortcuts import probe_shortcuts, select_shortcuts

THRESHOLD = 0.25  # as audit.shortcut
IMAGES_PER_PATIENT = 10


class Cell(NamedTuple):
    """One row of the table."""

    patients: int
    label_by: str  # patient | image
    skill: float  # skill of the planted shortcut, 0 to 1


CELLS = [Cell(patients, by, skill) for skill in (0.0, 0.5) for by in ("patient", "image") for patients in (12, 24, 60)]


def draw_data(cell: Cell, rng: np.random.Generator) -> tuple[Manifest, Images]:
    """Draws a Manifest and the table of images."""
    sizes = rng.integers(IMAGES_PER_PATIENT // 2, IMAGES_PER_PATIENT * 3 // 2 + 1, cell.patients)
    patient = np.repeat(np.arange(cell.patients), sizes)
    if cell.label_by == "patient":
        label = rng.permutation(np.arange(cell.patients) % 2)[patient]
    else:
        label = (rng.random(len(patient)) < rng.uniform(0.3, 0.7, cell.patients)[patient]).astype(int)
    scanner = rng.normal(size=(cell.patients, 7))[patient]
    facts = scanner + 0.3 * rng.normal(size=scanner.shape)
    if cell.skill:
        # By guessing half of the others are right: the skill is the share of images that tell their class.
        tells = rng.random(len(patient)) < cell.skill
        facts[:, 0] = np.where(tells, label, rng.integers(0, 2, len(patient)))
    ids = [f"{number:05d}" for number in range(len(patient))]
    manifest = pd.DataFrame({"id": ids, "source_id": ids, "split": "train"}, dtype=object)
    manifest["label"] = np.array(["a", "b"], dtype=object)[label]
    manifest["group"] = [f"P{number}" for number in patient]
    images = pd.DataFrame(facts, columns=["width", "height", "bytes", "red", "green", "blue", "border"])
    return manifest, images.assign(id=ids, format="PNG")


def alarm_rate(cell: Cell, repetitions: int) -> float:
    """Returns the share of data sets in which the probe names a shortcut; of a planted one, its own fact."""
    alarms = 0
    for seed in range(repetitions):
        shortcuts = select_shortcuts(
            probe_shortcuts(*draw_data(cell, np.random.default_rng(seed)), seed, THRESHOLD), THRESHOLD
        )
        alarms += "width" in set(shortcuts["facts"]) if cell.skill else len(shortcuts) > 0
    return alarms / repetitions


def main() -> None:
    """Prints one row per cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="data sets per row")
    parser.add_argument(
        "--skill", type=float, nargs="+", default=[0.0, 0.5], choices=(0.0, 0.5), help="rows to measure"
    )
    parser.add_argument(
        "--label-by", nargs="+", default=["patient", "image"], choices=("patient", "image"), help="rows to measure"
    )
    parser.add_argument("--patients", type=int, nargs="+", default=[12, 24, 60], choices=(12, 24, 60), help="likewise")
    options = parser.parse_args()
    print(f"| planted skill | label by | patients | alarms of {options.repetitions} |\n|---|---|---|---|")
    for cell in CELLS:
        if (
            cell.skill not in options.skill
            or cell.label_by not in options.label_by
            or cell.patients not in options.patients
        ):
            continue
        rate = alarm_rate(cell, options.repetitions)
        print(f"| {cell.skill} | {cell.label_by} | {cell.patients} | {rate:.1%} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
