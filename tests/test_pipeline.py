"""The pipeline by DVC, in a copy of a project that has run; each test builds on the ones before it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.pipeline import ROOT, SMALL, Project, ran


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy_of(finished, tmp_path_factory.mktemp("pipeline"))


def test_a_run_leaves_scores_plots_a_report_and_nothing_to_do(project: Project) -> None:
    headline = project.metrics("ensemble.json")
    assert 0 <= headline["accuracy"] <= 1
    # The fold has few patients: each score has an interval, or says why there is none.
    for score in ("loss", "accuracy", "auc", "sensitivity"):
        ends = headline[f"{score}_low"], headline[f"{score}_high"]
        assert (f"{score}_method" in headline) if ends == (None, None) else ends[0] <= headline[score] <= ends[1]
    assert (project.folder / "report/index.html").stat().st_size > 10_000
    assert "up to date" in project("dvc", "repro")
    assert "up to date" in project("dvc", "status")
    assert project("git", "status", "--short") == ""


def test_scores_of_test_images_are_in_files_that_dvc_does_not_show(project: Project) -> None:
    """Whoever chooses by `dvc metrics`, `dvc exp show` and `dvc plots` sees validation scores."""
    scores = project.metrics("test/ensemble.json")
    assert all(name.startswith("test_") for name in scores)
    assert scores["test_images"] + project.metrics("ensemble.json")["images"] < SMALL["phantom"]["images"]
    shown = project("dvc", "metrics", "show", "--json")
    assert "metrics/ensemble.json" in shown
    assert "metrics/test" not in shown
    assert "test_accuracy" not in shown + project("dvc", "exp", "show", "--json")
    looks = (project.folder / ".cache/test-looks.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(look)["model"] for look in looks) == ["cnn", "linear"]


def test_a_test_part_may_stay_unscored_until_the_choices_are_made(project: Project) -> None:
    validation = (project.folder / "metrics/votes.json").read_bytes()
    log = project("dvc", "exp", "run", "-S", "evaluate.test=false")
    assert ran(log) == {"evaluate@linear-0", "evaluate@cnn-0", "ensemble", "explain", "report"}
    assert project.metrics("test/ensemble.json") == project.metrics("test/votes.json") == {}
    assert (project.folder / "metrics/votes.json").read_bytes() == validation
    assert len((project.folder / ".cache/test-looks.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    project.undo()


def test_a_change_of_runtime_reruns_nothing(project: Project) -> None:
    log = project("dvc", "exp", "run", "-S", "runtime.workers=2", "-S", "runtime.device=auto")
    assert ran(log) == set()
    project("git", "reset", "--hard", "--quiet")


def test_a_shared_parameter_retrains_only_the_models_that_use_it(project: Project) -> None:
    log = project("dvc", "exp", "run", "--name", "slower", "-S", "train.lr=0.01")
    assert {stage for stage in ran(log) if stage.startswith("train@")} == {"train@cnn-0"}
    assert "metrics/train/cnn/0.json" in project("dvc", "metrics", "diff")
    assert "train.lr" in project("dvc", "params", "diff")


def test_plots_of_two_runs_show_their_charts_without_internet(project: Project) -> None:
    log = project("dvc", "plots", "diff", "HEAD", "--out", "page")
    assert "failed to load" not in log
    page = (project.folder / "page/index.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)\s*=\s*"https?:', page) == []
    charts = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    titles = [next(iter(chart)) for chart in charts if isinstance(chart, dict)]
    for title in titles:
        assert re.search(rf'"(title|text)":\s*"{re.escape(title)}"', page), f"no chart {title}"
    assert page.count("vegaEmbed(") >= len(titles)
    assert '"rev": "HEAD"' in page.replace('"rev":"', '"rev": "')
    shutil.rmtree(project.folder / "page")


def test_a_run_is_undone_by_git_and_dvc_checkout(project: Project) -> None:
    project.undo()
    assert "up to date" in project("dvc", "status")


def test_an_earlier_value_takes_the_models_from_the_cache(project: Project) -> None:
    project("dvc", "exp", "apply", "slower")
    log = project("dvc", "repro")
    assert not any(stage.startswith("train@") for stage in ran(log)), log
    project.undo()
