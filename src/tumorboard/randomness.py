"""Random numbers as a function of (seed, key, counter), so that order, workers and processes cannot change them."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def keys_of(ids: Sequence[str]) -> NDArray[np.uint64]:
    """The 64-bit keys uint64[N] of N ids."""
    return np.array(
        [int.from_bytes(blake2b(i.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") for i in ids],
        dtype=np.uint64,
    )


def uniforms(seed: int, keys: NDArray[np.uint64], counter: int | NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Uniform numbers float64[N, n] in [0, 1): row i depends on (seed, keys[i], counter or counter[i]) alone.

    Counter-based: SplitMix64 (Steele, Lea & Flood 2014) over a state mixed from the three.
    """
    counters = np.broadcast_to(np.asarray(counter, dtype=np.int64), keys.shape).astype(np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64(seed % 2**64) * _STEP
        state = _mix(_mix(keys ^ _mix(np.array([start + _STEP]))) + _mix(counters * _STEP + _STEP))
        draws = _mix(state[:, None] + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * _STEP)
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, keys: NDArray[np.uint64], counter: int) -> NDArray[np.int64]:
    """A permutation int64[N] of the rows that has the same keys in the same places however the rows were ordered."""
    return np.lexsort((keys, uniforms(seed, keys, counter, 1)[:, 0]))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
