"""A Dask cluster for the tests of what can run on one."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A scheduler and two worker processes of two threads; a killed worker is replaced."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=2, processes=True, dashboard_address=None) as local:
        yield local
