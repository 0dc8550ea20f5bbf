"""Labels and members' probabilities of small panels, and what is applied to one row, for the tests of the fits."""

import numpy as np
from scipy.special import softmax

from tumorboard.panel.fits import (
    CrossFit,
    Fitting,
)

ROWS = 60


def fitting(members=3, vote="auto", calibrate=True, positive=None, rule=None, classes=2, columns=(), stacks=True):
    models = [f"m{number}" for number in range(members)]
    return Fitting(
        models=models,
        classes=[f"c{number}" for number in range(classes)],
        vote=vote,
        calibrate=calibrate,
        positive=positive,
        rule=rule,
        stacking_columns=columns,
        stacks=stacks,
    )


def cells(rows=ROWS):
    """An age, which some rows lack, and a sex, which tells nothing."""
    generator = np.random.default_rng(99)
    ages = [str(age) if age < 75 else "" for age in generator.integers(20, 90, rows)]
    return np.array([ages, generator.choice(["f", "m"], rows).tolist()], dtype=object).T


def groups(rows=ROWS, size=3):
    return [f"patient {row // size}" for row in range(rows)]


def panel(seed, members=3, rows=ROWS, classes=2, versions=1, skill=1.0):
    """Labels int64[N], probabilities float64[versions, M, N, K]; the members are overconfident, of rising skill."""
    generator = np.random.default_rng(seed)
    actual = generator.integers(0, classes, rows)
    logits = generator.normal(size=(versions, members, rows, classes)) * 2.5
    logits[..., np.arange(rows), actual] += skill * np.linspace(0.5, 2, members)[:, None]
    return actual, softmax(logits, axis=-1)


def applied(result: CrossFit, row: int) -> list[bytes]:
    """All that is applied to one row, to the last bit."""
    tables = [result.members[:, row], *(table[row] for table in result.votes.values())]
    return [
        table.tobytes() for table in (*tables, result.heading[row], result.uncalibrated[row], result.thresholds[row])
    ]


def few(count, rows=ROWS, parts=5):
    """Labels of which `count` are of the second class, spread over the parts, and the parts."""
    actual = np.zeros(rows, np.int64)
    actual[:count] = 1
    return actual, np.arange(rows) % parts
