"""The paths that the commands read, against dvc.yaml."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tumorboard.commands.paths import (
    BALANCE,
    HELD_OUT,
    METRICS,
    MODELS,
    PANEL,
    RECIPES,
    SPLIT,
    STORE,
    TEST_METRICS,
    UNLIKE,
)
from tumorboard.commands.run import SIDE_BY_SIDE

ROOT = Path(__file__).resolve().parents[2]


def stages() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def options(stage: str) -> dict[str, str]:
    """The value of each option in a stage's command."""
    words = stages()[stage]["cmd"].split()
    return {name.removeprefix("--"): value for name, value in itertools.pairwise(words) if name[:2] == "--"}


def test_the_data_are_those_of_the_train_stage() -> None:
    train = options("train")
    assert train["store"] == str(STORE)
    assert train["manifest"] == str(SPLIT)
    assert train["balance"] == f"{BALANCE}/${{item.fold}}"
    assert options("balance")["out"] == train["balance"]


def outs(stage: str) -> list[str]:
    entries = [*stages()[stage]["outs"], *stages()[stage]["metrics"]]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_models_panel_and_metrics_are_outputs_of_their_stages() -> None:
    assert options("train")["weights"] == f"{MODELS}/${{item.model}}/${{item.fold}}.safetensors"
    assert options("train")["weights"] in stages()["train"]["outs"]
    assert options("train")["held-out"] == f"{HELD_OUT}/${{item.model}}/${{item.fold}}.safetensors"
    assert options("train")["held-out"] in stages()["train"]["outs"]
    assert options("evaluate")["unlike"] == f"{UNLIKE}/${{item.model}}/${{item.fold}}.safetensors"
    assert options("evaluate")["unlike"] in outs("evaluate")
    for option, path in (("panel", PANEL), ("metrics", METRICS), ("test-metrics", TEST_METRICS)):
        assert options("ensemble")[option] == str(path)
        assert str(path) in outs("ensemble")


def test_recipes_and_the_metrics_of_the_model_cards_are_outputs_of_their_stages() -> None:
    assert options("recipe")["out"] == str(RECIPES)
    for stage in ("crop", "split"):
        assert options(stage)["metrics"] == f"{METRICS.parent}/{stage}.json"
    assert options("split")["audit-metrics"] == f"{METRICS.parent}/audit.json"
    assert options("ensemble")["comparison"] == f"{METRICS.parent}/votes.json"
    assert options("ensemble")["test-comparison"] == f"{METRICS.parent}/test/votes.json"


def test_the_artifact_is_the_folder_of_the_models() -> None:
    whole = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert whole["artifacts"]["panel"]["path"] == str(MODELS)


@pytest.mark.parametrize("stage", SIDE_BY_SIDE)
def test_a_stage_that_runs_side_by_side_is_a_matrix_of_models_and_folds(stage: str) -> None:
    assert stages()[stage]["matrix"] == {"model": "${models}", "fold": "${folds}"}
