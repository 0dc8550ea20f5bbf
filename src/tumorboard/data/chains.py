"""Takes chains of similar pictures apart: A resembles B and B resembles C, but A and C are different pictures."""

from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.data.grouping import connected_sets

CENTERS = 4  # members of a set that are tried as its center
SAMPLE = 64  # members that are compared with a center first; most chains fail here
GAP = 2.0  # in a chain, copies must be this many times closer to each other than to the next picture
NOISE = 0.002  # distance (1 minus correlation) that saving a picture again may cause; smaller ones count as this
CLOSEST = 1 - NOISE / GAP  # correlation beyond which a chain is not searched for copies

Rows: TypeAlias = NDArray[np.int64]  # row numbers of pictures
Floats: TypeAlias = NDArray[np.float32]  # float32 of any shape


class Correlate(Protocol):
    """Returns the correlation float32[P] of pairs of pictures, mirrored or not, whichever is larger."""

    def __call__(self, first: Rows, second: Rows) -> Floats: ...


class _Part(NamedTuple):
    """Pictures that pairs connect."""

    edges: Rows  # numbers of the pairs
    threshold: float  # lowest correlation of these pairs
    outside: float  # highest correlation of a pair with a picture outside; -1 for a whole set
    chain: Rows  # the pictures of the whole set


def select_copies(
    first: Rows, second: Rows, correlation: Floats, *, near: float, correlate: Correlate
) -> NDArray[np.bool_]:
    """Selects the pairs whose set consists of copies of one picture.

    A set, all pictures that pairs connect, is kept if each member correlates with one member, its center, by `near` or
    more. Any other set is a chain, such as the slices of a scan or discs of growing radius: what they have in common is
    no evidence of a copy. A chain is cut at its weakest pairs; a part of it is kept only if it has a center too and
    its members are GAP times closer to the center than the next picture of the chain is to the part.

    Args:
        first: row of one picture of each pair, int64[P].
        second: row of the other picture, int64[P].
        correlation: correlation of each pair, float32[P], at least `near`.
        near: lowest correlation of copies.
        correlate: computes correlations of further pairs.

    Returns:
        bool[P], whether the pair is kept.
    """
    kept = np.zeros(len(first), bool)
    whole = _connected(np.arange(len(first)), first, second)
    waiting = [_Part(edges, near, -1.0, np.union1d(first[edges], second[edges])) for edges in whole]
    while waiting:
        part = waiting.pop()
        if len(part.edges) == 1:
            spread: float | None = 1 - float(correlation[part.edges[0]])
        else:
            spread = _distance_to_center(first[part.edges], second[part.edges], near=near, correlate=correlate)
        if spread is not None and GAP * max(spread, NOISE) <= 1 - part.outside:
            members = np.union1d(first[part.edges], second[part.edges])
            if GAP * max(spread, NOISE) <= 1 - _nearest_outside(members, part.chain, correlate):
                kept[part.edges] = True
                continue
        threshold = 1 - (1 - part.threshold) / 2
        if threshold <= CLOSEST:
            closer = part.edges[correlation[part.edges] >= threshold]
            for edges in _connected(closer, first, second):
                inside = np.union1d(first[edges], second[edges])
                crossing = np.isin(first[part.edges], inside) != np.isin(second[part.edges], inside)
                outside = float(correlation[part.edges][crossing].max(initial=part.outside))
                waiting.append(_Part(edges, threshold, outside, part.chain))
    return kept


def _connected(edges: Rows, first: Rows, second: Rows) -> list[Rows]:
    """Divides pairs into those of each connected set."""
    if not len(edges):
        return []
    nodes, codes = np.unique(np.concatenate([first[edges], second[edges]]), return_inverse=True)
    one, other = codes[: len(edges)], codes[len(edges) :]
    set_of_edge = connected_sets(len(nodes), one, other)[one]
    by_set = np.argsort(set_of_edge, kind="stable")
    limits = np.flatnonzero(np.diff(set_of_edge[by_set])) + 1
    return [edges[part] for part in np.split(by_set, limits)]


def _nearest_outside(members: Rows, chain: Rows, correlate: Correlate) -> float:
    """Returns the highest correlation of a member with a picture of the chain that is no member; -1 without any.

    Pictures that pairs connect were not all compared. Where there are many, about SAMPLE outside are compared with
    SAMPLE / 2 members.
    """
    outside = np.setdiff1d(chain, members)
    if not len(outside):
        return -1.0
    outside = outside[:: 1 + len(outside) // SAMPLE]
    members = members[:: 1 + 2 * len(members) // SAMPLE]
    return float(correlate(np.repeat(members, len(outside)), np.tile(outside, len(members))).max())


def _distance_to_center(first: Rows, second: Rows, *, near: float, correlate: Correlate) -> float | None:
    """Returns 1 minus the lowest correlation of a member with the center of a set; None where it has no center."""
    members, degree = np.unique(np.concatenate([first, second]), return_counts=True)
    for center in members[np.argsort(-degree, kind="stable")][:CENTERS]:
        others = members[members != center]
        sample = others[:: max(1, len(others) // SAMPLE)]
        lowest = correlate(np.full(len(sample), center), sample).min()
        if lowest >= near and len(sample) < len(others):
            lowest = correlate(np.full(len(others), center), others).min()
        if lowest >= near:  # compared as float32, as where the pairs were verified
            return 1 - float(lowest)
    return None
