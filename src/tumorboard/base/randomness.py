"""Random numbers as a function of (seed, key, counter): order, workers and processes cannot change them."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def keys_of(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Returns the 64-bit key of each id.

    Args:
        ids: N texts.

    Returns:
        uint64[N], the first eight bytes of each id's BLAKE2b digest.

    >>> keys_of(["a", "b"]).tolist() == [keys_of(["a"])[0], keys_of(["b"])[0]]
    True
    """
    return np.array(
        [int.from_bytes(blake2b(i.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") for i in ids],
        dtype=np.uint64,
    )


def uniforms(seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Draws `n` uniform numbers per key.

    Args:
        seed: the seed of all draws.
        keys: uint64[N], one per row.
        counter: one number for all rows or int64[N], such as the epoch or the number of a copy.
        n: numbers per row.

    Returns:
        float64[N, n] in [0, 1). Row i depends only on (seed, keys[i], counter or counter[i]).

    Source:
        SplitMix64 (Steele, Lea & Flood 2014), started from a mix of seed, key and counter.

    >>> keys = keys_of(["first.png", "second.png"])
    >>> uniforms(0, keys, counter=1, n=2).round(3)
    array([[0.754, 0.892],
           [0.598, 0.145]])
    >>> uniforms(0, keys[::-1], counter=1, n=2).round(3)  # the same numbers for the same keys
    array([[0.598, 0.145],
           [0.754, 0.892]])
    """
    counters = np.broadcast_to(np.asarray(counter, dtype=np.int64), keys.shape).astype(np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64(seed % 2**64) * _STEP
        state = _mix(_mix(keys ^ _mix(np.array([start + _STEP]))) + _mix(counters * _STEP + _STEP))
        draws = _mix(state[:, None] + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * _STEP)
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, keys: NDArray[np.uint64], counter: int) -> NDArray[np.int64]:
    """Returns a random permutation that does not depend on the order of the rows.

    Args:
        seed: the seed of the permutation.
        keys: uint64[N], one per row.
        counter: number of the permutation; another number gives another one.

    Returns:
        int64[N], row numbers. The same key is at the same place however the rows were ordered.

    >>> keys = keys_of(["a", "b", "c"])
    >>> keys[order(0, keys, 0)].tolist() == keys[::-1][order(0, keys[::-1], 0)].tolist()
    True
    """
    return np.lexsort((keys, uniforms(seed, keys, counter, 1)[:, 0]))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
