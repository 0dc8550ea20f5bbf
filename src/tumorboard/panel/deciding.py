"""How a panel decides about new images: its fitted numbers, the vote, the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorboard.base.errors import InputError
from tumorboard.base.files import plain_path
from tumorboard.panel.fitted import Fit
from tumorboard.panel.stacking import Cells
from tumorboard.panel.stacking_columns import CellsByFile
from tumorboard.panel.votes import STACKING


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """How a panel decides about new images."""

    fit: Fit  # what was fitted on validation images; `unfitted` for models without a panel's file
    vote: str  # a name in `VOTES`
    positive: str | None  # the class that `fit.threshold` belongs to; only the vote `fit.vote` uses it
    abstain: float  # an image whose decided class has a lower probability is left undecided
    unlike: float | None = None  # score from which an image is called unlike; None: it is not scored
    cells: CellsByFile | None = None  # each image's cells in the columns that the vote 'stacking' needs

    @property
    def columns(self) -> list[str]:
        """The columns of a table that the vote needs beside the images."""
        if self.vote != STACKING or self.fit.stacking is None:
            return []
        return [column.name for column in self.fit.stacking.columns]

    def check_vote(self) -> None:
        """Raises InputError where the vote lacks its fitted numbers or the columns that it needs."""
        needed = {"weighted": self.fit.weights, "single": self.fit.single, STACKING: self.fit.stacking}
        if not needed.get(self.vote, True):
            if self.fit.weights:
                raise InputError(
                    f"the {self.vote} vote was not fitted in this study (stacking needs two models, or a column, and "
                    "enough validation images of each class): choose another --vote"
                )
            raise InputError(
                f"the {self.vote} vote needs the weights of a study's models/panel.json: choose hard, soft or product"
            )
        if self.columns and self.cells is None:
            raise InputError(
                f"the stacking vote needs {', '.join(self.columns)} of each image: name a table with the columns path, "
                f"{', '.join(self.columns)}: --columns CSV, or another vote, such as --vote soft"
            )

    def cells_of(self, paths: Sequence[str]) -> Cells | None:
        """Returns the cells object[N, J] of images in the columns that the vote needs; None where it needs none."""
        if self.cells is None or not self.columns:
            return None
        return np.array([self.cells[plain_path(Path(path))] for path in paths], dtype=object)

    @property
    def threshold(self) -> float | None:
        """The lowest probability of the positive class that decides for it, where there is one."""
        return self.fit.threshold if self.positive is not None and self.vote == self.fit.vote else None


def unfitted(models: Sequence[str]) -> Fit:
    """Returns the numbers of a panel that nothing was fitted for: temperatures of 1, and no weights."""
    return Fit(vote="soft", temperatures=dict.fromkeys(models, 1.0), weights={}, vote_temperatures={})
