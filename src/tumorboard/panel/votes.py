"""Votes: each turns the members' probabilities for the same images into the panel's.

Example:
    Two members classify three images into two classes. They agree on the first; on the second they disagree, and one is
    surer; on the third they disagree and are equally sure:

    >>> cnn = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]
    >>> resnet18 = [[0.7, 0.3], [0.1, 0.9], [0.3, 0.7]]
    >>> for name, vote in POOLS.items():
    ...     print(f"{name:8}", vote(np.array([cnn, resnet18]), np.array([0.75, 0.25]))[:, 0].round(3).tolist())
    single   [0.9, 0.6, 0.7]
    hard     [0.933, 0.45, 0.5]
    soft     [0.8, 0.35, 0.5]
    product  [0.955, 0.143, 0.5]
    weighted [0.85, 0.475, 0.6]
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.temperature import softmax

Array: TypeAlias = NDArray[np.float64]
# Computes the panel's probabilities [N, K] from the members' [M, N, K] and weights [M]; each row sums to 1.
Pool: TypeAlias = Callable[[Array, Array], Array]

LARGEST_GAP = 1e-4  # nats by which the loss of fitted weights may exceed the least possible loss
EM_STEPS = 20_000  # the most steps of expectation-maximization


def single_vote(members: Array, weights: Array) -> Array:
    """Returns the probabilities of the member with the largest weight; the first at a tie."""
    alone: Array = members[weights.argmax()]
    return alone


def hard_vote(members: Array, _: Array) -> Array:
    """Returns the share of members that decide for each class, with ties broken by the mean probability.

    The members' mean probabilities count as one more vote, divided among the classes. They cannot overturn a majority,
    because their lead is below one vote, and the most probable class of the result is the decision. The shares are no
    probabilities.
    """
    votes = np.eye(members.shape[2])[members.argmax(2)].sum(0)
    shares: Array = (votes + members.mean(0)) / (len(members) + 1)
    return shares


def soft_vote(members: Array, _: Array) -> Array:
    """Returns the mean of the members' probabilities."""
    mean: Array = members.mean(0)
    return mean


def product_vote(members: Array, _: Array) -> Array:
    """Returns the normalized product of the members' probabilities (Kittler et al. 1998).

    Logarithms are summed, so that many small factors do not underflow. A probability of 0 counts as the smallest
    positive float64, so that two members who rule out each other's class do not leave 0 / 0.
    """
    logarithms = np.log(np.maximum(members, np.finfo(np.float64).tiny))
    product: Array = softmax(logarithms.sum(0))
    return product


def weighted_vote(members: Array, weights: Array) -> Array:
    """Returns the weighted mean of the members' probabilities."""
    mean: Array = np.tensordot(weights, members, 1)
    return mean


# Votes by the value of `ensemble.vote` in params.yaml.
POOLS: dict[str, Pool] = {
    "single": single_vote,
    "hard": hard_vote,
    "soft": soft_vote,
    "product": product_vote,
    "weighted": weighted_vote,
}
STACKING = "stacking"  # the vote that is a regression of its own, see panel/stacking.py
VOTES = (*POOLS, STACKING)
# The votes whose results are probabilities.
PROBABILISTIC = ("single", "soft", "product", "weighted", STACKING)
# The votes among which `ensemble.vote: auto` chooses, the simplest first. A weighted vote can be a single member's.
AUTOMATIC = ("soft", "product", "weighted", STACKING)
# The votes that get a temperature. A single member has its own, and a regression is calibrated by its fit.
TEMPERED = ("soft", "product", "weighted")


def fit_weights(members: Array, actual: NDArray[np.int64]) -> Array:
    """Fits the weights of a weighted mean of the members' probabilities.

    The weights minimize the cross-entropy. This is a convex problem, solved by SLSQP from equal weights. SLSQP may stop
    early among members that are very sure and wrong; then expectation-maximization continues.

    Args:
        members: float64[M, N, K], the members' probabilities.
        actual: int64[N], the labels as class indices; without rows all weights are equal.

    Returns:
        float64[M], not negative, with the sum 1.

    Source:
        Linear opinion pool: Stone 1961. Stacking: Breiman 1996. EM: Dempster et al. 1977.
    """
    if len(actual) == 0:
        return np.full(len(members), 1 / len(members))
    # Where every member gives the label probability 0, the logarithm would be minus infinity for all weights.
    of_label = np.maximum(members[:, np.arange(len(actual)), actual], np.finfo(np.float64).eps)
    weights = _minimize_cross_entropy(of_label)
    if _gains(weights, of_label).max() > 1 + LARGEST_GAP:
        weights = _maximize_expectation(weights, of_label)
    return weights


def _minimize_cross_entropy(of_label: Array) -> Array:
    """Returns SLSQP's weights float64[M] for the label's probabilities float64[M, N] of M members."""
    from scipy.optimize import minimize  # applying a vote needs no scipy

    def loss_and_gradient(weights: Array) -> tuple[float, Array]:
        pooled = weights @ of_label
        return -float(np.log(pooled).mean()), -(of_label / pooled).mean(1)

    solution = minimize(
        loss_and_gradient,
        np.full(len(of_label), 1 / len(of_label)),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(of_label),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    weights: Array = np.maximum(solution.x, 0)
    weights /= weights.sum()
    return weights


def _gains(weights: Array, of_label: Array) -> Array:
    """Returns each member's mean ratio to the pool, float64[M]; at the optimum none exceeds 1.

    By Jensen's inequality no weights have a loss that is lower by more than the logarithm of the largest gain.
    """
    gains: Array = (of_label / (weights @ of_label)).mean(1)
    return gains


def _maximize_expectation(weights: Array, of_label: Array) -> Array:
    """Improves weights by expectation-maximization until the loss is within `LARGEST_GAP` of the least."""
    weights = (weights + 1 / len(weights)) / 2  # a weight of 0 would stay 0
    for _ in range(EM_STEPS):
        gains = _gains(weights, of_label)
        if gains.max() <= 1 + LARGEST_GAP:
            break
        weights *= gains
    return weights
