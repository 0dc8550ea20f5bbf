"""A panel of two members whose vote may be a regression on their probabilities, an age and a sex."""

import numpy as np

from tumorboard.panel.panel_file import PanelFile
from tumorboard.panel.stacking import Column, Stacking

AGE, SEX = Column("age", (), 50.0, 8.0), Column("sex", ("F", "M"), None, None)
COEFFICIENTS = np.array([[0.0] * 9, [0.5, -0.5, 1.0, -1.0, 0.25, 2.0, -1.0, 1.0, 3.0]])
STACKING = Stacking(
    coefficients=tuple(map(tuple, COEFFICIENTS.tolist())), intercepts=(0.0, -0.125), penalty=1.0, columns=(AGE, SEX)
)


def panel(vote: str, columns: bool = True) -> PanelFile:
    stacking = STACKING
    if not columns:
        stacking = Stacking(coefficients=((0.0,) * 4,) * 2, intercepts=(0.0, 0.0), penalty=1.0)
    return PanelFile(
        format=1,
        classes=("well", "ill_"),
        manifest="0",
        positive=None,
        vote=vote,
        temperatures={"net": 2.0, "cnn": 0.5},
        weights={"net": 0.3, "cnn": 0.7},
        vote_temperatures={},
        losses={},
        unlike=None,
        threshold=None,
        single="cnn",
        stacking=stacking,
    )
