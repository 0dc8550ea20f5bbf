"""Finished runs, of which the tests of this folder read the page and the tables."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeOnce
from tests.report.finished_run import (
    conclusions_of,
    inputs_of,
    make_results,
    panel_params,
    run_stages,
    write_finished_run,
)
from tumorboard.base.params import Params
from tumorboard.report.conclusions import Conclusions
from tumorboard.report.results import Results, read_results


@pytest.fixture(scope="session")
def panel(params: Params) -> Params:
    """Params of two models on two folds, with few resamples."""
    return panel_params(params)


@pytest.fixture(scope="session")
def run(made_once: MakeOnce, panel: Params) -> Path:
    """The folder of a finished run, report included, with names that HTML, matplotlib and CSV have to escape.

    printed.txt is what the stages printed. The report replaced one with a picture that is no longer drawn.
    """

    def write(root: Path) -> None:
        write_finished_run(root, panel, skill=0.4)
        for folder in ("images", "test"):
            (root / "plots" / folder).mkdir(parents=True)
            (root / "plots" / folder / "stale.png").write_bytes(b"old")
        (root / "printed.txt").write_text(run_stages(root, panel), encoding="utf-8")

    return made_once("reported", write)


@pytest.fixture(scope="session")
def results(run: Path, panel: Params) -> Results:
    """The results of that run."""
    return read_results(panel, **inputs_of(run))


@pytest.fixture(scope="session")
def conclusions(results: Results) -> Conclusions:
    """The conclusions from these results."""
    return conclusions_of(results)


@pytest.fixture(scope="session")
def judged_folder(made_once: MakeOnce, params: Params) -> Callable[..., Path]:
    """A function that returns the folder of a run of classes a and b; equal arguments, equal folder.

    It takes the arguments of `write_finished_run` and, as `changes`, those of `panel_params`.
    """

    def make(*, changes: dict[str, Any] | None = None, **options: Any) -> Path:
        key = hashlib.sha256(repr((changes, options)).encode()).hexdigest()[:12]
        return made_once(
            f"judged-{key}", lambda root: make_results(root, panel_params(params, **(changes or {})), **options)
        )

    return make


@pytest.fixture(scope="session")
def judged(judged_folder: Callable[..., Path], params: Params) -> Callable[..., Results]:
    """A function that returns the results of such a run."""
    read: dict[str, Results] = {}

    def make(*, changes: dict[str, Any] | None = None, **options: Any) -> Results:
        root = judged_folder(changes=changes, **options)
        if root.name not in read:
            read[root.name] = read_results(panel_params(params, **(changes or {})), **inputs_of(root))
        return read[root.name]

    return make


@pytest.fixture(scope="session")
def binary(judged: Callable[..., Results]) -> Results:
    """The results of a run with 24 test patients that is to detect class b."""
    return judged(changes={"data": {"positive": "b"}})


@pytest.fixture(scope="session")
def unknown(judged: Callable[..., Results]) -> Results:
    """The results of a run whose groups nobody named."""
    return judged(changes={"data": {"unit": None}})


@pytest.fixture(scope="session")
def hard(judged: Callable[..., Results]) -> Results:
    """The results of a run whose heading vote is the hard one."""
    return judged(changes={"ensemble": {"vote": "hard"}})
