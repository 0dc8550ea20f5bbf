"""How far the members of a panel agree: pairwise kappa, unanimous images, and the images that split the panel."""

from collections.abc import Mapping
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.tables import Predictions, classes_of, probabilities_of

Agreement: TypeAlias = pd.DataFrame  # one row per pair of members: first, second, agreement, kappa
Splits: TypeAlias = pd.DataFrame  # one row per image that splits the panel; `find_splits` states the columns

DECIDED = "decided "  # prefix of the column of a member's predicted class
PROBABILITY = "probability "  # prefix of the column of this class's probability


def pairwise_agreement(members: Mapping[str, Predictions]) -> Agreement:
    """Compares the members' decisions, each the more probable class, pair by pair.

    Args:
        members: Predictions by member, with at least one row; all have the same rows in the same order.

    Returns:
        One row per pair: `first`, `second`, `agreement` (the share of images with the same decision) and `kappa`, the
        agreement beyond chance: 0 for what the two members' shares of decisions would give by chance, 1 for full
        agreement; nan where both always decide for the same class.

    Source:
        Cohen 1960.

    >>> one = pd.DataFrame({"p_a": [0.9, 0.8, 0.1, 0.2], "p_b": [0.1, 0.2, 0.9, 0.8]})
    >>> two = pd.DataFrame({"p_a": [0.9, 0.3, 0.1, 0.2], "p_b": [0.1, 0.7, 0.9, 0.8]})
    >>> pairwise_agreement({"one": one, "two": two}).to_numpy().tolist()
    [['one', 'two', 0.75, 0.5]]
    """
    classes = len(classes_of(next(iter(members.values()))))
    rows = []
    for (first, one), (second, two) in combinations(_decisions(members).items(), 2):
        agreement = float((one == two).mean())
        shares = [np.bincount(decisions, minlength=classes) / len(decisions) for decisions in (one, two)]
        chance = float(shares[0] @ shares[1])
        always = len(np.unique(np.concatenate([one, two]))) == 1
        rows.append((first, second, agreement, np.nan if always else (agreement - chance) / (1 - chance)))
    return pd.DataFrame(rows, columns=["first", "second", "agreement", "kappa"])


def share_unanimous(members: Mapping[str, Predictions]) -> float:
    """Returns the share of images for which all members decide for the same class."""
    decisions = np.stack(list(_decisions(members).values()))
    return float((decisions == decisions[0]).all(0).mean())


def find_splits(members: Mapping[str, Predictions]) -> Splits:
    """Lists the images on which members decide differently, those that split the panel most first.

    Args:
        members: Predictions by member; all have the same rows in the same order.

    Returns:
        One row per image: `rank` from 1, `id`, `label`, `entropy` of the members' decisions (0: all agree; it is
        highest where they are evenly divided) and, per member, `decided <member>` and `probability <member>` of that
        class. Images with the same entropy are sorted by how far the members' probabilities are apart (the entropy of
        their mean less the mean of their entropies), then by id.
    """
    first = next(iter(members.values()))
    decisions = np.stack(list(_decisions(members).values()))
    probabilities = np.stack([probabilities_of(table) for table in members.values()])
    classes = np.array(classes_of(first), dtype=object)
    entropy = _entropy(np.eye(len(classes))[decisions].mean(0))
    apart = _entropy(probabilities.mean(0)) - _entropy(probabilities).mean(0)
    table = pd.DataFrame({"id": first["id"].to_numpy(object), "label": first["label"].to_numpy(object)})
    table["entropy"] = entropy.round(12)  # equal divisions are equal, whatever the order of their sum
    for name, chosen, stated in zip(members, decisions, probabilities, strict=True):
        table[DECIDED + name] = classes[chosen]
        table[PROBABILITY + name] = stated.max(1)
    split = table.assign(apart=apart)[(decisions != decisions[0]).any(0)]
    ordered = split.sort_values(["entropy", "apart", "id"], ascending=[False, False, True], ignore_index=True)
    ranked: Splits = ordered.drop(columns="apart")
    ranked.insert(0, "rank", np.arange(1, len(ranked) + 1))
    return ranked


def _decisions(members: Mapping[str, Predictions]) -> dict[str, NDArray[np.int64]]:
    return {name: probabilities_of(table).argmax(1) for name, table in members.items()}


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the entropy in nats over the last axis."""
    entropy: NDArray[np.float64] = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
    return entropy
