"""Validation outputs that had no part in the choice of the epoch, and the parts by which everything is cross-fitted.

The validation rows of a fold are divided into parts of whole groups. For each part the training keeps the outputs of
the epoch that the rows *outside* the part choose. Temperatures, weights and thresholds are then fitted outside the part
as well (panel/fits.py), so that the scores of the part's rows owe nothing to their labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.arrays import read_arrays, write_arrays
from tumorboard.base.errors import InputError
from tumorboard.base.randomness import keys_of

PARTS = 5  # parts that a fold's validation rows are divided into


def assign_parts(groups: Sequence[str]) -> NDArray[np.int64]:
    """Divides rows into parts of whole groups and about equal size, whatever the labels are.

    Groups are assigned by falling size, then by the key of their name, each to the part with the fewest rows.

    Args:
        groups: the group of each of N rows.

    Returns:
        int64[N], 0 to PARTS - 1; with fewer groups than PARTS, as many parts as groups.

    >>> assign_parts(["p", "p", "p", "q", "q", "r", "s", "t", "u"]).tolist()
    [0, 0, 0, 1, 1, 2, 4, 3, 2]
    """
    names, row_group, sizes = np.unique(np.array(groups, dtype=object), return_inverse=True, return_counts=True)
    part_of_group = np.zeros(len(names), dtype=np.int64)
    rows_of_part = np.zeros(min(PARTS, max(1, len(names))), dtype=np.int64)
    for group in np.lexsort((keys_of(names.tolist()), -sizes)):
        part_of_group[group] = rows_of_part.argmin()
        rows_of_part[part_of_group[group]] += sizes[group]
    return part_of_group[row_group]


@dataclass(frozen=True)
class HeldOut:
    """The outputs of one training for its N validation rows: one set per part, and one for all rows."""

    parts: NDArray[np.int64]  # [N], the part of each row: 0 to P - 1
    logits: NDArray[np.float32]  # [P + 1, N, K]; index p: epoch chosen without part p; index P: epoch chosen by all
    epochs: NDArray[np.int64]  # [P + 1], numbers of these epochs, from 1
    scores: NDArray[np.float64]  # [P + 1], the validation score by which each was chosen; nan: undefined so far

    @property
    def own_logits(self) -> NDArray[np.float32]:
        """Returns for each row the output of the epoch that was chosen without the row, float32[N, K]."""
        return self.logits[self.parts, np.arange(len(self.parts))]

    def probabilities(self, choice: int) -> NDArray[np.float64]:
        """Returns the probabilities float64[N, K] of one of the P + 1 choices."""
        from scipy.special import softmax  # here, because a training needs no scipy, which is slow to import

        probabilities: NDArray[np.float64] = softmax(self.logits[choice].astype(np.float64), axis=1)
        return probabilities

    def choose(
        self, logits: NDArray[np.float32], epoch: int, better: Sequence[bool], scores: Sequence[float]
    ) -> "HeldOut":
        """Returns a copy in which a new epoch takes the place of the chosen one where `better` is true.

        Args:
            logits: float32[N, K], the new epoch's logits.
            epoch: the new epoch's number.
            better: for each of the P + 1 choices, whether the new epoch is chosen.
            scores: for each of the P + 1 choices, the new epoch's validation score.
        """
        chosen = np.array(better)
        return replace(
            self,
            logits=np.where(chosen[:, None, None], logits, self.logits),
            epochs=np.where(chosen, epoch, self.epochs),
            scores=np.where(chosen, scores, self.scores),
        )


def start_held_out(groups: Sequence[str], classes: int) -> HeldOut:
    """Returns the state before the first epoch: no epoch is chosen."""
    parts = assign_parts(groups)
    choices = int(parts.max(initial=0)) + 2
    return HeldOut(
        parts=parts,
        logits=np.zeros((choices, len(parts), classes), np.float32),
        epochs=np.zeros(choices, np.int64),
        scores=np.full(choices, np.nan),
    )


def write_held_out(held_out: HeldOut, path: Path) -> None:
    """Writes the outputs as safetensors; equal outputs give equal bytes."""
    write_arrays(held_out, path)


def read_held_out(path: Path, rows: int, classes: int) -> HeldOut:
    """Reads what `write_held_out` wrote.

    Args:
        path: the file.
        rows: the number of validation rows that the file must have.
        classes: the number of classes that the file must have.

    Raises:
        InputError: the file is missing, damaged or for other rows.
    """
    held_out = read_arrays(HeldOut, path)
    choices = int(held_out.parts.max(initial=0)) + 2
    if held_out.parts.shape != (rows,):
        raise InputError(f"{path}: has parts of {len(held_out.parts)} images, expected {rows}: run `dvc repro`")
    if held_out.logits.shape != (choices, rows, classes):
        raise InputError(
            f"{path}: has outputs {list(held_out.logits.shape)}, expected {[choices, rows, classes]}: it was written "
            "for other validation images, run `dvc repro`"
        )
    return held_out
