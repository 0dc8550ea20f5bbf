"""Groups rows: integer codes of a column's values, and the sets that pairs connect."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def factorize(column: pd.Series) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Returns the sorted distinct values of a column and the code int64[N] of each row's value among them.

    `pandas.factorize` and `groupby` encode text as UTF-8 and fail on file names that are not UTF-8; this does not.

    >>> values, codes = factorize(pd.Series(["b", "a", "b"], dtype=object))
    >>> values.tolist(), codes.tolist()
    (['a', 'b'], [1, 0, 1])
    """
    values, codes = np.unique(column.to_numpy(object), return_inverse=True)
    return values, codes


def connected_sets(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the smallest member int64[count] of the set that each number is in, where each pair joins two sets.

    Args:
        count: how many numbers there are: 0 to count - 1; without pairs each is a set of its own.
        first: one end int64[P] of each pair.
        second: the other end int64[P] of each pair.

    Source: scipy's `connected_components`.

    >>> connected_sets(6, np.array([4, 3]), np.array([1, 4])).tolist()
    [0, 1, 2, 1, 1, 5]
    """
    from scipy.sparse import coo_array  # here, because it is slow to import
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    _, smallest, set_of = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(smallest[set_of], dtype=np.int64)
