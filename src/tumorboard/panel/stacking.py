"""The vote `stacking`: a regression of the label on the members' log-probabilities and on columns of the data's table.

Example:
    Two members classify images into two classes. The first is right, but far too unsure; the second guesses:

    >>> labels = np.array([0, 1] * 20)
    >>> right = np.where(labels[:, None] == [0, 1], 0.6, 0.4)
    >>> guess = np.random.default_rng(0).dirichlet([1, 1], size=40)
    >>> stacking = fit_stacking(np.stack([right, guess]), labels, 10.0)
    >>> apply_stacking(stacking, np.stack([right, guess]))[:2].round(2).tolist()
    [[0.92, 0.08], [0.08, 0.92]]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tumorboard.evaluation.attribute_values import UNKNOWN
from tumorboard.evaluation.temperature import softmax

Array: TypeAlias = NDArray[np.float64]
Cells: TypeAlias = NDArray[np.object_]  # [N, J], the text of N images in J columns of the data's table

LOWEST = 1e-6  # probabilities below count as this one, so that a sure mistake has a finite logarithm
FEWEST = 10  # images of each class that a fit needs
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # candidates for scikit-learn's C, the inverse strength of the L2 penalty
PRODUCTS = 2**15  # products of features and coefficients that are summed at once: 256 kB
MISSING = frozenset({"", UNKNOWN})  # texts of a cell that has no value

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Column:
    """How the cells of one column of the data's table become numbers."""

    name: str
    values: tuple[str, ...]  # texts in the fit's rows, each with an indicator; empty for a column of numbers
    mean: Number | None  # mean of a column of numbers; None: a column of texts
    scale: Annotated[Number, Field(gt=0)] | None  # standard deviation of the numbers; None: a column of texts

    @property
    def width(self) -> int:
        """How many numbers a cell becomes; the last is 1 where the cell has no value."""
        return 2 if self.mean is not None else len(self.values) + 1


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """The numbers of a multinomial logistic regression with K classes."""

    coefficients: tuple[tuple[Number, ...], ...]  # [K, F]; features: M members by K classes, then the columns
    intercepts: tuple[Number, ...]  # [K]
    penalty: float  # C of the fit
    columns: tuple[Column, ...] = ()


def why_not_stacked(actual: NDArray[np.int64], parts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Returns why a regression cannot be fitted to rows and compared on their parts, as a clause; '' where it can.

    Args:
        actual: int64[N], the labels.
        parts: int64[N], the part of each row.
        classes: names of the K classes.

    >>> why_not_stacked(np.array([0] * 12 + [1] * 3), np.arange(15) % 5, ["well", "ill"])
    "a fit has 3 validation images of 'ill', it needs 10"
    """
    counts = np.bincount(actual, minlength=len(classes))
    if counts.min() < FEWEST:
        return f"a fit has {counts.min()} validation images of '{classes[int(counts.argmin())]}', it needs {FEWEST}"
    if len(np.unique(parts)) < 2:
        return "a fit has the validation images of one group only"
    for part in np.unique(parts):
        outside = np.bincount(actual[parts != part], minlength=len(classes))
        if not outside.all():
            return f"all validation images of '{classes[int(outside.argmin())]}' are of one group, or of few"
    return ""


def fit_stacking(
    members: Array,
    actual: NDArray[np.int64],
    penalty: float,
    *,
    names: Sequence[str] = (),
    cells: Cells | None = None,
) -> Stacking:
    """Fits the regression; the intercepts are not penalized.

    Args:
        members: float64[M, N, K], the members' probabilities, calibrated.
        actual: int64[N], the labels; each of the K classes occurs.
        penalty: C, the inverse strength of the L2 penalty on the coefficients.
        names: names of the columns of `cells`.
        cells: object[N, J], the text of each row in each column; None without columns.

    Source:
        Wolpert 1992, Stacked generalization; Ting and Witten 1999. scikit-learn's `LogisticRegression`.
    """
    from sklearn import config_context  # applying the vote needs no scikit-learn
    from sklearn.linear_model import LogisticRegression

    columns = tuple(describe_column(name, cells[:, place]) for place, name in enumerate(names) if cells is not None)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        solver = "newton-cholesky" if members.shape[2] == 2 else "lbfgs"  # the faster one
        regression = LogisticRegression(C=penalty, solver=solver, tol=1e-6, max_iter=1000)
        regression.fit(_features(members, columns, cells), actual)
    coefficients, intercepts = regression.coef_, regression.intercept_
    if members.shape[2] == 2:  # with two classes scikit-learn has the second's numbers alone
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return Stacking(
        coefficients=tuple(map(tuple, coefficients.tolist())),
        intercepts=tuple(intercepts.tolist()),
        penalty=penalty,
        columns=columns,
    )


def apply_stacking(stacking: Stacking, members: Array, cells: Cells | None = None) -> Array:
    """Returns the probabilities float64[N, K] of calibrated members float64[M, N, K] and cells object[N, J].

    The result of a row does not depend on the other rows, to the last digit.
    """
    features, coefficients = _features(members, stacking.columns, cells), np.array(stacking.coefficients)
    odds = np.empty((len(features), len(coefficients)))
    # A product of matrices would round a row differently beside other rows. The products of all rows at once would not
    # fit into the processor's cache.
    rows = max(1, PRODUCTS // coefficients.size)
    for begin in range(0, len(features), rows):
        block = features[begin : begin + rows, None, :]
        odds[begin : begin + rows] = (block * coefficients).sum(-1)
    probabilities: Array = softmax(odds + np.array(stacking.intercepts))
    return probabilities


def _features(members: Array, columns: Sequence[Column], cells: Cells | None) -> Array:
    """Returns float64[N, F]: each member's log-probabilities, less their mean over the classes, then the columns."""
    logarithms = np.log(np.maximum(members, LOWEST))
    centered = logarithms - logarithms.mean(2, keepdims=True)
    blocks = list(centered)
    if columns and cells is not None:
        blocks += [_encode(column, cells[:, place]) for place, column in enumerate(columns)]
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def describe_column(name: str, cells: NDArray[np.object_]) -> Column:
    """Returns how a column becomes numbers: numbers are standardized, texts have an indicator per value.

    >>> describe_column("age", np.array(["40", "", "60"], dtype=object))
    Column(name='age', values=(), mean=50.0, scale=10.0)
    >>> describe_column("sex", np.array(["m", "f", "m", "unknown"], dtype=object))
    Column(name='sex', values=('f', 'm'), mean=None, scale=None)
    """
    known = [cell for cell in cells if cell not in MISSING]
    numbers = np.array([number_of(cell) for cell in known])
    if not known or np.isnan(numbers).any():
        return Column(name, tuple(sorted(set(known))), None, None)
    return Column(name, (), float(numbers.mean()), float(numbers.std()) or 1.0)


def number_of(cell: str) -> float:
    """Returns a cell as a number; nan where it is no number or not finite."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _encode(column: Column, cells: NDArray[np.object_]) -> Array:
    """Returns float64[N, width]; a text that the fit's rows lack is all zeros, a cell that is no number is missing."""
    block = np.zeros((len(cells), column.width))
    missing = np.array([cell in MISSING for cell in cells], dtype=bool)
    if column.mean is not None and column.scale is not None:
        numbers = np.array([number_of(cell) for cell in cells], dtype=np.float64)
        missing |= np.isnan(numbers)
        block[~missing, 0] = (numbers[~missing] - column.mean) / column.scale
    for place, value in enumerate(column.values):
        block[:, place] = cells == value
    block[missing, -1] = 1
    return block
