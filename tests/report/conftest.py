"""A finished run, of which the tests of this folder read the page and the tables."""

from pathlib import Path

import pytest

from tests.report.finished_run import folders_of, panel_params, run_stages, write_finished_run
from tumorboard.base.params import Params
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
    return read_results(panel, **folders_of(run))
