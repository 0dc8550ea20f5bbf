"""Each benchmark can be imported: no name that it imports has moved since."""

from importlib import import_module
from pathlib import Path

import pytest

import benchmarks

NEEDS_AN_ENVIRONMENT_OF_ITS_OWN = {"fastai_script"}
NAMES = sorted(
    file.stem
    for file in Path(benchmarks.__file__).parent.glob("[!_]*.py")
    if file.stem not in NEEDS_AN_ENVIRONMENT_OF_ITS_OWN
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_finds_all_that_it_imports(name: str) -> None:
    assert import_module(f"benchmarks.{name}").__doc__
