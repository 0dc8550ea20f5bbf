"""Finished runs, of which the tests of this folder read the page and the tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.finished_run import inputs_of, make_results, panel_params, run_stages, write_finished_run
from tumorboard.base.params import Params
from tumorboard.report.conclusions import Conclusions, draw_conclusions
from tumorboard.report.results import Results, read_results


@pytest.fixture(scope="session")
def panel(params: Params) -> Params:
    """Params of two models on two folds, with few resamples."""
    return panel_params(params)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, panel: Params) -> Path:
    """The folder of a finished run, report included, with names that HTML, matplotlib and CSV have to escape."""
    root = tmp_path_factory.mktemp("run")
    write_finished_run(root, panel, skill=0.4)
    run_stages(root, panel)
    return root


@pytest.fixture(scope="session")
def results(run: Path, panel: Params) -> Results:
    """The results of that run."""
    return read_results(panel, **inputs_of(run))


@pytest.fixture(scope="session")
def conclusions(results: Results) -> Conclusions:
    """The conclusions from these results."""
    return draw_conclusions(results)


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Results:
    """The results of a run with 24 test patients that is to detect class b."""
    return make_results(tmp_path_factory.mktemp("binary"), panel_params(params, data={"positive": "b"}))


@pytest.fixture
def judged(tmp_path: Path, params: Params) -> Callable[..., Results]:
    """A function that writes a run of classes a and b and returns its results.

    It takes the arguments of `write_finished_run` and, as `changes`, those of `panel_params`.
    """

    def make(*, changes: dict[str, Any] | None = None, **options: Any) -> Results:
        return make_results(tmp_path, panel_params(params, **(changes or {})), **options)

    return make
