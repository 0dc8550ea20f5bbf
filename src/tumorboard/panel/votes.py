"""Votes: each turns the members' Predictions, as `join_members` returns them, into one Predictions table.

Example:
    Two members classify three test images of class a. They agree on the first; on the second they disagree, and one is
    surer; on the third they disagree and are equally sure:

    >>> import numpy as np, pandas as pd
    >>> rows = pd.DataFrame({"id": ["1", "2", "3"], "group": "g", "split": "test", "label": "a"})
    >>> members = {
    ...     "cnn": make_predictions(rows, np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), ["a", "b"], "digest"),
    ...     "resnet18": make_predictions(rows, np.array([[0.7, 0.3], [0.1, 0.9], [0.3, 0.7]]), ["a", "b"], "digest"),
    ... }
    >>> for name in ("hard", "soft", "product"):
    ...     print(f"{name:8}", VOTES[name](members)["p_a"].round(3).tolist())
    hard     [0.933, 0.45, 0.5]
    soft     [0.8, 0.35, 0.5]
    product  [0.955, 0.143, 0.5]
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from tumorboard.base.tables import Members, Predictions, classes_of, make_predictions, probabilities_of
from tumorboard.evaluation.metrics import labels_and_probabilities
from tumorboard.panel.members import FoldPredictions, join_members

Vote: TypeAlias = Callable[[Members], Predictions]  # same rows, same order, same manifest as the members

LARGEST_GAP = 1e-4  # nats by which the loss of fitted weights may exceed the least possible loss
EM_STEPS = 20_000  # the most steps of expectation-maximization


def hard_vote(members: Members) -> Predictions:
    """Returns the share of members that decide for each class, with ties broken by the mean probability.

    The members' mean probabilities count as one more vote, divided among the classes. They cannot overturn a majority,
    because their lead is below one vote, and the most probable class of the result is the decision.
    """
    probabilities = _stack_probabilities(members)
    votes = np.eye(probabilities.shape[2])[probabilities.argmax(2)].sum(0)
    return _vote_predictions(members, (votes + probabilities.mean(0)) / (len(members) + 1))


def soft_vote(members: Members) -> Predictions:
    """Returns the mean of the members' probabilities."""
    return _vote_predictions(members, _stack_probabilities(members).mean(0))


def product_vote(members: Members) -> Predictions:
    """Returns the normalized product of the members' probabilities (Kittler et al. 1998).

    Logarithms are summed, so that many small factors do not underflow. A probability of 0 counts as the smallest
    positive float64, so that two members who rule out each other's class do not leave 0 / 0.
    """
    logarithms = np.log(np.maximum(_stack_probabilities(members), np.finfo(np.float64).tiny))
    return _vote_predictions(members, softmax(logarithms.sum(0), axis=1))


def weighted_vote(members: Members) -> Predictions:
    """Returns the mean of the members' probabilities under the weights of `fit_weights`."""
    weights = fit_weights(members)
    pooled = np.tensordot([weights[model] for model in members], _stack_probabilities(members), 1)
    return _vote_predictions(members, pooled)


# By the value of `ensemble.vote` in params.yaml.
VOTES: dict[str, Vote] = {
    "hard": hard_vote,
    "soft": soft_vote,
    "product": product_vote,
    "weighted": weighted_vote,
}


def vote_by_fold(folds: FoldPredictions) -> dict[str, dict[int, Predictions]]:
    """Lets the models of one fold at a time vote, on the fold's validation rows and on the test rows.

    Returns:
        The Predictions by vote and fold.

    Raises:
        InputError: where the members do not belong together, as `join_members` does.
    """
    members_of = {
        fold: join_members({model: {fold: tables[fold]} for model, tables in folds.items()})
        for fold in next(iter(folds.values()))
    }
    return {name: {fold: vote(members) for fold, members in members_of.items()} for name, vote in VOTES.items()}


def fit_weights(members: Members) -> dict[str, float]:
    """Fits the weights of a weighted mean of the members' probabilities to the validation rows.

    The weights minimize the cross-entropy on the rows with split 'val'; test rows have no influence. This is a convex
    problem, solved by SLSQP from equal weights. SLSQP may stop early among members that are very sure and wrong; then
    expectation-maximization continues.

    Returns:
        A weight per model, not negative; they sum to 1.

    Raises:
        InputError: where there are no validation rows, or one of them has no label.

    Source:
        Linear opinion pool: Stone 1961. Stacking: Breiman 1996. EM: Dempster et al. 1977.
    """
    validation = {model: table[table["split"] == "val"] for model, table in members.items()}
    actual, _ = labels_and_probabilities(next(iter(validation.values())))
    of_label = _stack_probabilities(validation)[:, np.arange(len(actual)), actual]
    # Where every member gives the label probability 0, the logarithm would be minus infinity for all weights.
    of_label = np.maximum(of_label, np.finfo(np.float64).eps)
    weights = _minimize_cross_entropy(of_label)
    if _gains(weights, of_label).max() > 1 + LARGEST_GAP:
        weights = _maximize_expectation(weights, of_label)
    return dict(zip(members, weights.tolist(), strict=True))


def _minimize_cross_entropy(of_label: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns SLSQP's weights float64[M] for the label's probabilities float64[M, N] of M members."""

    def loss_and_gradient(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
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
    weights: NDArray[np.float64] = np.maximum(solution.x, 0)
    weights /= weights.sum()
    return weights


def _gains(weights: NDArray[np.float64], of_label: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each member's mean ratio to the pool, float64[M]; at the optimum none exceeds 1.

    By Jensen's inequality no weights have a loss that is lower by more than the logarithm of the largest gain.
    """
    gains: NDArray[np.float64] = (of_label / (weights @ of_label)).mean(1)
    return gains


def _maximize_expectation(weights: NDArray[np.float64], of_label: NDArray[np.float64]) -> NDArray[np.float64]:
    """Improves weights by expectation-maximization until the loss is within `LARGEST_GAP` of the least."""
    weights = (weights + 1 / len(weights)) / 2  # a weight of 0 would stay 0
    for _ in range(EM_STEPS):
        gains = _gains(weights, of_label)
        if gains.max() <= 1 + LARGEST_GAP:
            break
        weights *= gains
    return weights


def _stack_probabilities(members: Members) -> NDArray[np.float64]:
    """Returns the members' probabilities, float64[M, N, K]."""
    return np.stack([probabilities_of(table) for table in members.values()])


def _vote_predictions(members: Members, probabilities: NDArray[np.float64]) -> Predictions:
    rows = next(iter(members.values()))
    return make_predictions(rows, probabilities, classes_of(rows), rows["manifest"].iloc[0])
