"""The search of hyper-parameters: its space, its memory, which trials run, stop and run again; one small real run."""

import json
import math
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from tests.pipeline import Project
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, load_params
from tumorboard.base.schema import parse, read_yaml
from tumorboard.base.search_params import Dimension, Search
from tumorboard.commands.app import app
from tumorboard.commands.paths import PANEL
from tumorboard.commands.search import check_model, check_start, report
from tumorboard.commands.search_experiments import end_orphan, read_epochs, read_reason
from tumorboard.commands.search_results import advise, best_record, ends_reached, importances, trials_table
from tumorboard.commands.search_space import check_space, overrides_of, present_point, recipe_at
from tumorboard.commands.search_study import Study, TrialRecord, import_optuna, locked, search_key
from tumorboard.commands.search_trials import EpochLoss, Plan, Scheduler

EPOCHS = 6


def with_search(params: Params, space: dict[str, Any], **settings: int) -> Params:
    tree = {"space": space, "trials": 8, "startup": 3, "warmup": 1} | settings
    return params.model_copy(update={"search": parse(Search, tree, "params.yaml: search")})


LR = {"train.lr": {"low": 0.0001, "high": 0.1, "log": True}}


# ----- The space ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "search.space is empty"),
        ({"train.lr": None}, "search.space is empty"),
        ({"train.lrr": {"choices": [1, 2]}}, "search.space.train.lrr: is no key of train"),
        ({"lr": {"low": 0.1, "high": 1}}, "which a model's recipe overrides; did you mean train.lr?"),
        ({"crop.side": {"choices": [64, 96]}}, "search.space.crop.side: is no key of train"),
        ({"train.augment": {"choices": [1, 2]}}, "search.space.train.augment: is no key of train"),
        ({"train.architecture": {"choices": ["cnn", "cnn3"]}}, "search.space.train.architecture: is no key of train"),
        ({"train.lr": {"low": 0, "high": 1}}, "search.space.train.lr: lr: is 0: input should be greater than 0"),
        (
            {"train.epochs": {"low": 1, "high": 2.5}},
            "search.space.train.epochs: epochs: is 2.5: input should be a valid",
        ),
        ({"train.optimizer": {"choices": ["sgd", "adamx"]}}, "is 'adamx': input should be 'sgd', 'adam' or 'adamw'"),
        ({"train.lr": {"low": 0.1, "high": 0.01}}, "space.train.lr: low 0.1 is not below high 0.01"),
        ({"train.lr": {"low": 0, "high": 1, "log": True}}, "space.train.lr: low 0 has no logarithm"),
        ({"train.lr": {"low": 0.1}}, "space.train.lr: has neither low and high nor choices"),
        ({"train.lr": {"low": 0.1, "hihg": 1}}, "space.train.lr.hihg: unknown key; did you mean high?"),
        ({"train.lr": {"low": "0.1", "high": 1}}, "space.train.lr.low: is '0.1'"),
        ({"train.lr": {"low": 0.1, "high": 1, "choices": [1, 2]}}, "space.train.lr: has choices, beside which low"),
        ({"train.lr": {"choices": [0.1]}}, "space.train.lr: has 1 choices"),
        ({"train.lr": {"choices": [0.1, 0.1]}}, "space.train.lr: lists a choice twice"),
        ({"train.lr": 3}, "space.train.lr: is 3"),
        (
            {"train.epochs": {"low": 1, "high": 4}, "train.freeze_epochs": {"low": 0, "high": 2}},
            "search.space: with epochs 1, freeze_epochs 2: recipes.cnn: freeze_epochs 2 leaves the backbone none",
        ),
    ],
)
def test_a_space_that_the_recipe_refuses_is_refused_by_name(
    params: Params, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        check_space(with_search(params, space), "cnn")
    assert message in str(raised.value)
    assert str(raised.value).startswith("params.yaml: ")


def test_an_entry_of_a_short_file_replaces_the_packages(tmp_path: Path) -> None:
    """As docs/search.md says: choices in place of a range, and what is not named stays as in the package."""
    file = tmp_path / "params.yaml"
    file.write_text("tumorboard: 0.0.1\nsearch: {space: {train.batch_size: , train.lr: {choices: [0.001, 0.01]}}}\n")
    assert load_params(file).search.dimensions == {
        "train.lr": Dimension(choices=(0.001, 0.01)),
        "train.weight_decay": Dimension(low=0.0001, high=0.3, log=True),
    }
    file.write_text("tumorboard: 0.0.1\nsearch: {space: {train.lr: {low: 0.1, high: 0.2}}}\n")
    assert load_params(file).search.dimensions["train.lr"] == Dimension(low=0.1, high=0.2)  # log is not inherited


def test_a_strategy_that_sets_a_searched_key_is_named(params: Params) -> None:
    weighted = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "weights"})})
    with pytest.raises(InputError, match=r"search\.space: with class_weights none: balance\.strategy weights sets"):
        check_space(with_search(weighted, {"train.class_weights": {"choices": ["none", "balanced"]}}), "cnn")


def test_a_point_changes_one_models_recipe_and_nothing_else_of_it(params: Params) -> None:
    point = {"train.lr": 0.5, "train.augment.rotate": 7.0, "train.tta": ("hflip", "vflip")}
    recipe, present = recipe_at(params, "linear", point), recipe_at(params, "linear", {})
    assert (recipe.lr, recipe.augment.rotate, recipe.tta) == (0.5, 7.0, ("hflip", "vflip"))
    changed = {"lr": present.lr, "tta": present.tta, "augment": present.augment}
    assert recipe.model_copy(update=changed) == present
    assert recipe.augment.model_copy(update={"rotate": present.augment.rotate}) == present.augment


def test_the_words_for_dvc_are_read_back_as_the_point() -> None:
    """By DVC's own reader of `-S`."""
    point = {
        "train.lr": 1e-05,
        "train.batch_size": 32,
        "train.deterministic": False,
        "train.precision": "off",
        "train.pretrained": "weights/my net.safetensors",
        "train.head_widths": (64, 32),
        "train.augment.rotate": 3.5,
    }
    assert overrides_of("a-b", point)[0] == "++recipes.a-b.lr=1e-05"
    assert read_by_dvc(overrides_of("cnn", point)) == {
        "lr": 1e-05,
        "batch_size": 32,
        "deterministic": False,
        "precision": "off",
        "pretrained": "weights/my net.safetensors",
        "head_widths": [64, 32],
        "augment": {"rotate": 3.5},
    }


def read_by_dvc(words: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text("recipes:\n  cnn: {architecture: cnn}\n", encoding="utf-8")
        apply_overrides(file, words)
        tree = read_yaml(file)["recipes"]["cnn"]
    assert tree.pop("architecture") == "cnn"
    return tree


def test_the_present_recipe_is_a_point_only_where_the_space_has_it(params: Params) -> None:
    space: dict[str, Any] = LR | {"train.batch_size": {"choices": [8, 16]}}
    assert present_point(with_search(params, space), "linear") == {"train.lr": 0.0001, "train.batch_size": 8}
    assert present_point(with_search(params, LR | {"train.batch_size": {"choices": [16, 32]}}), "linear") is None
    assert present_point(with_search(params, {"train.lr": {"low": 0.01, "high": 0.1}}), "linear") is None


# ----- Trials, by a runner without processes --------------------------------------------------------------------------


@dataclass
class Fake:
    """Trials whose loss falls by epoch to |log10(lr) + 2|, so that lr 0.01 is the best; one epoch per look."""

    folds: int = 1
    fails: Callable[[int], str] = lambda _: ""
    killed_at: int | None = None  # the trial after whose first epoch the search is asked to end
    received: list[int] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    most: int = 0
    running: int = 0
    slots: list[int] = field(default_factory=list)

    def begin(self, experiment: str, point: Any, slot: int) -> "FakeTrial":
        self.begun.append(experiment)
        self.points[experiment] = point
        self.slots.append(slot)
        self.running += 1
        self.most = max(self.most, self.running)
        return FakeTrial(self, experiment, abs(math.log10(point["train.lr"]) + 2))

    def loss(self, experiment: str) -> float:
        return abs(math.log10(self.points[experiment]["train.lr"]) + 2)


@dataclass
class FakeTrial:
    runner: Fake
    experiment: str
    goal: float
    looks: int = 0

    def begun(self) -> bool:
        return self.looks > 0

    def ended(self) -> str | None:
        self.looks += 1
        index = len(self.runner.begun)
        if self.runner.killed_at == index and self.looks > 1:
            self.runner.received.append(signal.SIGTERM)
        reason = self.runner.fails(index)
        done = self.looks > EPOCHS * self.runner.folds or bool(reason)
        self.runner.running -= done
        return reason if done else None

    def epochs(self) -> list[EpochLoss]:
        total = min(self.looks, EPOCHS * self.runner.folds)
        return [
            EpochLoss(number // EPOCHS, number % EPOCHS + 1, EPOCHS, self.goal + 1 / (number % EPOCHS + 1))
            for number in range(total)
        ]

    def stop(self) -> None:
        self.runner.running -= 1
        self.runner.stopped.append(self.experiment)

    def facts(self) -> Mapping[str, Any]:
        return {"process": 1, "created": 2.0}


def run(study: Study, runner: Fake, **plan: Any) -> list[str]:
    lines: list[str] = []
    settings = {"trials": 8, "jobs": 1, "folds": runner.folds, "prefix": "cnn-search-abcd"} | plan
    clock = iter(range(10**6))
    scheduler = Scheduler(
        study,
        runner,
        Plan(**settings),
        runner.received,
        say=lines.append,
        wait=lambda: None,
        clock=lambda: float(next(clock)),
    )
    scheduler.run()
    return lines


@pytest.fixture
def searched(params: Params) -> Params:
    return with_search(params, LR)


def open_study(folder: Path, params: Params) -> Study:
    return Study(folder / "cnn-abcd.log", params, present_point(params, "cnn"))


def test_trials_end_with_the_best_and_the_first_is_the_present_recipe(tmp_path: Path, searched: Params) -> None:
    study, runner = open_study(tmp_path, searched), Fake()
    lines = run(study, runner, trials=12)
    records = study.records()
    assert [record.number for record in records] == list(range(12))
    assert records[0].point == {"train.lr": 0.001}
    assert {record.state for record in records} == {"complete", "pruned"}
    best = best_record(records)
    assert best is not None
    assert best.loss == min(runner.loss(record.experiment) for record in records if record.state == "complete")
    assert best.loss == pytest.approx(abs(math.log10(best.point["train.lr"]) + 2))
    assert lines[0] == "1 of 12  cnn-search-abcd-001  lr 0.001"


def test_a_trial_is_stopped_at_the_epoch_at_which_it_exceeds_the_median(tmp_path: Path, params: Params) -> None:
    """Three finished trials of losses 1, 2 and 0 (lr .001, .0001, .01): the median is 1. A trial of 2 is stopped."""
    space = with_search(params, {"train.lr": {"choices": [0.001, 0.0001, 0.01]}}, startup=3, warmup=2)
    study, runner = Study(tmp_path / "s.log", space, None), Fake()
    for lr in (0.001, 0.0001, 0.01, 0.0001, 0.01):
        study.optuna.enqueue_trial({"train.lr": json.dumps(lr)})
    run(study, runner, trials=5)
    states = [record.state for record in study.records()]
    assert states == ["complete", "complete", "complete", "pruned", "complete"]
    assert runner.stopped == ["cnn-search-abcd-004"]
    pruned = study.records()[3]
    assert pruned.epochs == 3, "the first epoch after the warm-up of two"
    assert pruned.loss == pytest.approx(2 + 1 / 3)


def test_no_trial_is_stopped_before_the_startup_trials_or_at_its_last_epoch(tmp_path: Path, params: Params) -> None:
    space = with_search(params, {"train.lr": {"choices": [0.01, 0.0001]}}, startup=2, warmup=EPOCHS - 1)
    study, runner = Study(tmp_path / "s.log", space, None), Fake()
    for lr in (0.01, 0.0001, 0.01, 0.0001):
        study.optuna.enqueue_trial({"train.lr": json.dumps(lr)})
    run(study, runner, trials=4)
    assert [record.state for record in study.records()] == ["complete"] * 4


def test_folds_are_compared_with_the_same_fold_and_count_as_their_mean(tmp_path: Path, params: Params) -> None:
    space = with_search(params, {"train.lr": {"choices": [0.01, 0.001]}}, startup=1, warmup=0)
    study, runner = Study(tmp_path / "s.log", space, None), Fake(folds=2)
    study.optuna.enqueue_trial({"train.lr": "0.01"})
    run(study, runner, trials=1)
    values = study.optuna.trials[0].intermediate_values
    assert list(values) == [1, 2, 3, 4, 5, 6, *(100_000 + epoch for epoch in range(1, 7))]
    # The first fold's best is 1/6. The second begins at 1.
    assert values[6] == pytest.approx(1 / 6)
    assert values[100_001] == pytest.approx((1 / 6 + 1) / 2)
    assert values[100_006] == pytest.approx(1 / 6)


def test_a_stopped_search_goes_on_and_ends_as_if_it_had_not_been_stopped(tmp_path: Path, searched: Params) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = open_study(tmp_path / "whole", searched)
    run(whole, Fake(), trials=6)
    first = Fake(killed_at=3)
    run(open_study(tmp_path / "parts", searched), first, trials=6)
    assert first.stopped == ["cnn-search-abcd-003"]
    study = open_study(tmp_path / "parts", searched)
    assert study.recover() == []
    again = Fake()
    run(study, again, trials=6)
    records = [record for record in study.records() if record.state != "killed"]
    assert [record.point for record in records][:4] == [record.point for record in whole.records()][:4]
    assert again.points["cnn-search-abcd-004"] == first.points["cnn-search-abcd-003"]
    assert [record.state for record in study.records()].count("killed") == 1
    assert len(records) == 6


def test_a_search_that_was_killed_outright_runs_its_trials_again(tmp_path: Path, searched: Params) -> None:
    study = open_study(tmp_path, searched)
    number, point = study.ask()
    study.note(number, experiment="cnn-search-abcd-001", process=123, created=1.5)
    del study  # as SIGKILL leaves it, with a torn line and Optuna's own lock
    with (tmp_path / "cnn-abcd.log").open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    (tmp_path / "cnn-abcd.log.lock").symlink_to("nowhere")
    resumed = open_study(tmp_path, searched)
    assert not resumed.is_new
    assert resumed.recover() == [{"number": 0, "experiment": "cnn-search-abcd-001", "process": 123, "created": 1.5}]
    assert [record.state for record in resumed.records()] == ["killed"]
    assert resumed.ask() == (1, point)
    assert resumed.recover() != []


def test_draws_differ_between_the_trials_of_a_resumed_search(tmp_path: Path, searched: Params) -> None:
    """A sampler that begins anew with its seed would draw the first trials again."""
    for _ in range(3):
        study = open_study(tmp_path, searched)
        run(study, Fake(), trials=len(study.records()) + 1)
    study = open_study(tmp_path, searched)
    run(study, Fake(), trials=5)
    assert len({record.point["train.lr"] for record in study.records()}) == 5


def test_finished_searches_run_nothing_and_more_trials_continue_them(tmp_path: Path, searched: Params) -> None:
    study = open_study(tmp_path, searched)
    run(study, Fake(), trials=3)
    runner = Fake()
    run(study, runner, trials=3)
    assert runner.begun == []
    run(study, runner, trials=4)
    assert runner.begun == ["cnn-search-abcd-004"]


def test_several_trials_run_at_a_time_each_in_a_slot_of_its_own(tmp_path: Path, searched: Params) -> None:
    runner = Fake()
    study = open_study(tmp_path, searched)
    run(study, runner, trials=7, jobs=3)
    assert runner.most == 3
    assert runner.slots[:3] == [0, 1, 2]
    assert set(runner.slots) == {0, 1, 2}
    assert len(study.records()) == 7


def test_after_the_time_is_over_no_trial_begins_and_the_running_one_ends(tmp_path: Path, searched: Params) -> None:
    runner = Fake()  # the clock of `run` counts its calls: a trial takes several
    study = open_study(tmp_path, searched)
    run(study, runner, trials=100, seconds=20.0)
    assert 1 <= len(runner.begun) < 20
    assert study.records()[-1].state in ("complete", "pruned")


def test_failed_trials_are_not_tried_again_and_three_in_a_row_end_the_search(tmp_path: Path, searched: Params) -> None:
    study = open_study(tmp_path, searched)
    run(study, Fake(fails=lambda index: "train: loss is nan" if index in (2, 3) else ""), trials=5)
    assert [record.state for record in study.records()].count("failed") == 2
    assert study.records()[1].reason == "train: loss is nan"
    assert len(study.records()) == 5
    with pytest.raises(InputError, match="3 trials failed one after another, the last one: train: no GPU"):
        run(study, Fake(fails=lambda _: "train: no GPU"), trials=50)
    assert len(study.records()) == 8


def test_a_result_that_is_not_finite_is_a_failure(tmp_path: Path, searched: Params) -> None:
    class Broken(Fake):
        def loss(self, experiment: str) -> float:  # noqa: ARG002
            return math.nan

    study = open_study(tmp_path, searched)
    run(study, Broken(), trials=1)
    assert study.records()[0].reason == "its held-out loss is not finite"


def test_lists_and_text_come_back_from_the_file_as_they_were(tmp_path: Path, params: Params) -> None:
    space = {
        "train.head_widths": {"choices": [[64, 32], [128]]},
        "train.optimizer": {"choices": ["sgd", "adam"]},
        "train.epochs": {"low": 2, "high": 9},
    }
    study = Study(tmp_path / "s.log", with_search(params, space), None)
    _, point = study.ask()
    assert point["train.head_widths"] in ((64, 32), (128,))
    assert point["train.optimizer"] in ("sgd", "adam")
    assert type(point["train.epochs"]) is int
    assert study.records()[0].point == point


# ----- What belongs to one search -------------------------------------------------------------------------------------


def test_the_key_changes_with_what_makes_trials_comparable(searched: Params) -> None:
    key = search_key(searched, "cnn", "c0ffee")
    more = searched.search.model_copy(update={"trials": 99})
    longer = searched.search.model_copy(update={"warmup": 5})
    evaluate = searched.evaluate.model_copy(update={"bootstrap": 7})
    train = searched.train.model_copy(update={"epochs": 77})
    for same in ({"search": more}, {"evaluate": evaluate}, {"models": ("cnn",)}, {"study": "another name"}):
        assert search_key(searched.model_copy(update=same), "cnn", "c0ffee") == key
    others = [{"search": longer}, {"train": train}, {"seed": 3}, {"folds": (0, 1)}, {"preset": "mri"}]
    keys = {search_key(searched.model_copy(update=other), "cnn", "c0ffee") for other in others}
    keys |= {search_key(searched, "linear", "c0ffee"), search_key(searched, "cnn", "c0ffed"), key}
    assert len(keys) == len(others) + 3


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'tumorboard\[search\]'"):
        import_optuna()


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, "cnnn", "model 'cnnn' has no entry under recipes; did you mean cnn"),
        ({"models": ("linear",)}, "cnn", "models in params.yaml lists linear: add cnn"),
        ({"search": {}}, "cnn", "search.space is empty"),
        ({}, "cnn", "data/balance/0 is not there: `dvc repro balance@0`"),
    ],
)
def test_a_search_that_cannot_begin_is_refused_with_the_cure(
    tmp_path: Path,
    searched: Params,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    model: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = with_search(searched, {})
    params = searched.model_copy(update=changes | ({"search": empty.search} if "search" in changes else {}))

    def check() -> None:
        check_model(params, model)
        check_start(params)

    with pytest.raises(InputError) as raised:
        check()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        (None, [], "search: {folder} is no study: it has no params.yaml."),
        ("search: {{space: 3}}", [], "search: params.yaml: search.space: is 3"),
        ("search: {{space: {{lr: {{low: 0.1, high: 1}}}}}}", [], "search: params.yaml: search.space.lr: is no key of "),
        ("runtime: {{device: cuda}}", ["--gpus", "977"], "search: --gpus is 977: torch finds "),
        ("runtime: {{device: cpu}}", ["--gpus", "7"], "search: --gpus is 7, but runtime.device is cpu"),
    ],
)
def test_what_is_wrong_is_said_once_and_before_the_folder_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str | None, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tumorboard.commands.search.prepare_start", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if lines is not None:
        Path("params.yaml").write_text("tumorboard: 0.0.1\n" + lines.format(), encoding="utf-8")
    done = CliRunner().invoke(app, ["search", "cnn", *words])
    assert done.exit_code == 1
    assert done.stderr.startswith(message.format(folder=tmp_path))
    assert "cure:" not in done.stderr


def test_two_searches_of_one_model_do_not_run_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "cnn.lock"),
        pytest.raises(InputError, match="cnn: another `tumorboard search` of this model runs"),
        locked(tmp_path / "cnn.lock"),
    ):
        pass
    with locked(tmp_path / "cnn.lock"):
        pass


# ----- Logs and processes ---------------------------------------------------------------------------------------------

LINE = "fold {}  my cnn  epoch {}/4  lr 0.00265  train loss 25.4 accuracy 0.45  val loss {} accuracy 0.6 auc 0.3"


def test_epochs_are_read_from_the_log_by_the_position_of_their_fold() -> None:
    log = "\n".join(
        [
            "Running stage 'train@cnn-2':",
            LINE.format(2, 1, "2.5"),
            "fold 2  step 3/9  train loss 3",
            LINE.format(0, 4, "nan"),
        ]
    )
    first, second = read_epochs(log, [2, 0])
    assert first == EpochLoss(0, 1, 4, 2.5)
    assert second[:3] == (1, 4, 4)
    assert math.isnan(second.loss)


def test_an_experiments_reason_is_the_stages_own_message() -> None:
    log = "Running stage 'train@cnn-0':\n> python -m stages.train\ntrain: the loss is nan\n"
    log += "ERROR: failed to reproduce 'train@cnn-0': x"
    assert read_reason(log) == "train: the loss is nan"
    assert (
        read_reason("ERROR: failed to reproduce 'x': no such stage") == "ERROR: failed to reproduce 'x': no such stage"
    )
    assert read_reason("") == ""


def test_an_orphan_is_ended_unless_its_number_is_another_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        end_orphan(child.pid, created=1.0)
        assert child.poll() is None
        # As DVC does, the parent ends when its command has: here it has none, and is killed after the wait.
        created = psutil.Process(child.pid).create_time()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tumorboard.commands.search_experiments.KILL_SECONDS", 0.1)
            end_orphan(child.pid, created)
        assert child.wait(10) == -signal.SIGKILL
        end_orphan(child.pid, created)
    finally:
        child.kill()
        child.wait()


# ----- Results --------------------------------------------------------------------------------------------------------


def record(number: int, loss: float | None, state: Any = "complete", lr: float = 0.01) -> TrialRecord:
    return TrialRecord(number, f"x-{number}", state, {"train.lr": lr}, loss, 3, 1.0, "")


def test_the_best_is_a_finished_trial_and_the_earlier_one_at_a_tie(searched: Params) -> None:
    records = [record(0, 0.5), record(1, 0.3, "pruned"), record(2, 0.4), record(3, 0.4), record(4, None, "failed")]
    best = best_record(records)
    assert best is not None
    assert best.number == 2
    assert best_record([records[1], records[4]]) is None
    assert advise(records, searched)[0] == "3 trials finished, 1 stopped early, 1 failed"
    table = trials_table(records, searched.search.dimensions)
    assert table["trial"].tolist() == [1, 2, 3, 4, 5]
    assert table.columns.tolist()[-1] == "train.lr"


def test_a_best_value_at_the_end_of_its_range_is_named() -> None:
    space = {"train.lr": Dimension(low=0.0001, high=0.1, log=True), "train.momentum": Dimension(low=0.0, high=1.0)}
    # A twentieth of three decades is 0.15 of one: up to 0.000141.
    assert ends_reached({"train.lr": 0.00014, "train.momentum": 0.5}, space) == {"train.lr": "lower"}
    assert ends_reached({"train.lr": 0.00015, "train.momentum": 0.96}, space) == {"train.momentum": "upper"}
    assert ends_reached({"train.lr": 0.01}, {"train.lr": Dimension(choices=(0.01, 0.1))}) == {}


def test_a_search_without_a_finished_trial_is_an_error(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    searched = with_search(params, LR)
    study = open_study(tmp_path, searched)
    report(study, searched, "cnn", stopped=True)  # Ctrl-C in the first trial is no fault of a trial
    with pytest.raises(InputError, match=r"no trial was begun: --minutes leaves no time for one"):
        report(study, searched, "cnn")
    monkeypatch.setattr(study, "records", lambda: [record(0, None, "failed")])
    with pytest.raises(InputError, match=r"no trial was finished; .*cnn/trials.csv lists those that failed"):
        report(study, searched, "cnn")


def test_table_and_picture_are_written_and_the_experiment_is_named(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    searched = with_search(params, LR | {"train.optimizer": {"choices": ["sgd", "adam"]}})
    study = open_study(tmp_path, searched)
    run(study, Fake(), trials=6)
    PANEL.parent.mkdir()
    PANEL.touch()  # DVC's exit status is that of a study that has run
    best = best_record(study.records())
    assert best is not None
    monkeypatch.setattr("tumorboard.commands.search.existing_experiments", lambda _: [])
    report(study, searched, "cnn")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("the experiment of the best is no longer there; to run its values again: dvc exp run -S ")
    assert shlex.split(last.partition(": ")[2])[4::2] == [*overrides_of("cnn", best.point)]
    monkeypatch.setattr("tumorboard.commands.search.existing_experiments", lambda prefix: [prefix])
    report(study, searched, "cnn")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"to use the best: dvc exp apply {best.experiment} && dvc repro"
    table = pd.read_csv("search/cnn/trials.csv")
    assert len(table) == 6
    assert table.loc[table["state"] == "complete", "loss"].min() == best.loss
    assert Path("search/cnn/trials.png").read_bytes().startswith(b"\x89PNG")


def test_the_only_key_that_the_loss_depends_on_is_the_important_one(params: Params) -> None:
    space: Any = LR | {"train.weight_decay": {"low": 0.0, "high": 0.1}, "train.batch_size": {"choices": [16, 32, 64]}}
    dimensions = with_search(params, space).search.dimensions
    random = np.random.default_rng(5)
    records = []
    for number in range(20):
        lr, decay, size = 10 ** random.uniform(-4, -1), random.uniform(0, 0.1), int(random.choice([16, 32, 64]))
        point = {"train.lr": lr, "train.weight_decay": decay, "train.batch_size": size}
        state: Any = "pruned" if lr < 0.001 else "complete"
        records.append(TrialRecord(number, "x", state, point, abs(math.log10(lr) + 2), 3, 1.0, ""))
    assert importances(records[:8], dimensions) == {}, "eight trials say nothing about three keys"
    shares = importances(records, dimensions)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["train.lr"] > 0.9
    assert importances([replace(record, loss=0.5) for record in records], dimensions) == {}


# ----- The real thing -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_trials_of_a_tiny_study_are_experiments_and_leave_the_folder_as_it_is(
    finished: Path, tmp_path: Path
) -> None:
    project = Project.copy_of(finished, tmp_path)
    project.environment["PYTHONPATH"] = str(project.folder / "src")
    before = project("git", "status", "--short"), (project.folder / "params.yaml").read_bytes()
    out = project("tumorboard", "search", "linear", "--trials", "2")
    assert (project("git", "status", "--short"), (project.folder / "params.yaml").read_bytes()) == before
    names = re.findall(r"linear-search-[0-9a-f]{4}-00[12]", out)
    listed = project("dvc", "exp", "list", "--name-only").split()
    assert set(listed) == set(names)
    table = pd.read_csv(project.folder / "search/linear/trials.csv")
    assert table["state"].tolist() == ["complete", "complete"]
    for stage in ("evaluate", "ensemble", "report"):
        for log in (project.folder / ".cache/logs").glob("linear-search-*.log"):
            assert f"Running stage '{stage}" not in log.read_text(encoding="utf-8")
    # The first trial is the recipe that the committed run was trained by, which has the same loss on the same images.
    committed = json.loads((project.folder / "metrics/evaluate/linear/0.json").read_text(encoding="utf-8"))
    assert table["loss"][0] == pytest.approx(committed["validation"]["loss"], abs=1e-9)
    assert "2 of 2" not in project("tumorboard", "search", "linear", "--trials", "2"), "a finished search runs nothing"
    best = out.split("dvc exp apply ")[1].split()[0]
    project("dvc", "exp", "apply", best)
    assert str(table.set_index("experiment").loc[best, "train.lr"]) in (project.folder / "params.yaml").read_text()
