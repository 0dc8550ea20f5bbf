"""One temperature by which the probabilities of a model become surer or less sure.

A model is calibrated if nine of ten images to which it gives a class with a probability of 0.9 are of this class. A
temperature above 1 makes it less sure, one below 1 surer; the order of the classes within an image stays.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError

Probabilities: TypeAlias = NDArray[np.float64]

COLDEST = 0.05  # least temperature of a fit
HOTTEST = 20.0  # largest temperature of a fit
# Standard deviation of log T in the prior: two of three models need a factor between 1/2 and 2. It decides where the
# rows cannot: twenty images without a mistake would ask for a temperature of 0.
PRIOR_SPREAD = math.log(2)
GRID = 25  # temperatures that are tried before the best of them is refined


def fit_temperature(
    probabilities: Probabilities, actual: NDArray[np.int64], *, prior_spread: float = PRIOR_SPREAD
) -> float:
    """Fits the temperature by which the logarithms of probabilities are to be divided.

    It minimizes the cross-entropy, summed over the rows, plus (log T)^2 / (2 prior_spread^2). This is the most probable
    temperature where log T has a normal distribution around 0. The prior counts as much as a few images: it matters
    below about a hundred rows, and without a mistake or with one class only it keeps T from the bounds.

    Args:
        probabilities: float64[N, K]; 0 counts as the smallest normal float64.
        actual: int64[N], the index of each row's label.
        prior_spread: standard deviation of log T; `math.inf` fits without a prior, as scikit-learn does.

    Returns:
        T between COLDEST and HOTTEST, to six significant digits, so that the order of the rows does not matter.

    Raises:
        InputError: there are no rows.

    Source:
        Guo et al. 2017, temperature scaling.

    >>> sure = np.array([[0.99, 0.01]] * 100)  # 99 % sure, and right in 80 of 100
    >>> temperature = fit_temperature(sure, np.repeat([0, 1], [80, 20]))
    >>> round(temperature, 2), apply_temperature(sure, temperature)[0].round(3).tolist()
    (3.09, [0.816, 0.184])
    """
    from scipy.optimize import minimize_scalar  # applying a temperature needs no scipy

    if len(probabilities) == 0:
        raise InputError("no images to fit a temperature on")
    logarithms = _logarithms(probabilities)
    of_label, largest = logarithms[np.arange(len(actual)), actual], logarithms.max(1)
    powers = np.empty_like(logarithms)  # one array for all temperatures: a new one each time takes as long as the rest

    def cost(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        np.divide(logarithms, temperature, out=powers)
        np.subtract(powers, (largest / temperature)[:, None], out=powers)
        np.exp(powers, out=powers)
        scaled = of_label / temperature - largest / temperature - np.log(powers.sum(1))
        return float(-scaled.sum() + log_temperature**2 / (2 * prior_spread**2))

    grid = np.linspace(math.log(COLDEST), math.log(HOTTEST), GRID)
    costs = [cost(point) for point in grid]
    best = int(np.argmin(costs))
    ends = (max(0, best - 1), min(GRID - 1, best + 1))
    refined = minimize_scalar(cost, bounds=grid[list(ends)], method="bounded", options={"xatol": 1e-9})
    # The bounded method never tries the bounds themselves.
    tried = [(costs[end], grid[end]) for end in ends] + [(float(refined.fun), refined.x)]
    _, log_temperature = min(tried, key=lambda pair: pair[0])
    return float(f"{math.exp(log_temperature):.6g}")


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Returns softmax(log(probabilities) / temperature), float64[N, K].

    Args:
        probabilities: float64[N, K]; 0 counts as the smallest normal float64.
        temperature: 1 returns a copy of the probabilities, unchanged to the last digit.
    """
    if temperature == 1:
        return np.array(probabilities, dtype=np.float64)
    return softmax(_logarithms(probabilities) / temperature)


def softmax(logits: Probabilities) -> Probabilities:
    """Returns the class probabilities float64[N, K] of logits float64[N, K], equal to scipy's to the last digit.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Probabilities = powers / powers.sum(1, keepdims=True)
    return shares


def _logarithms(probabilities: Probabilities) -> Probabilities:
    logarithms: Probabilities = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logarithms
