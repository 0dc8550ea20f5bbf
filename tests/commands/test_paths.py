"""The paths that the commands read, against dvc.yaml."""

import itertools
from pathlib import Path
from typing import Any

import yaml

from tumorboard.commands.paths import BALANCE, JOINED, MODELS, SPLIT, STORE
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


def test_models_and_predictions_are_outputs_of_their_stages() -> None:
    assert options("train")["weights"] == f"{MODELS}/${{item.model}}/${{item.fold}}.safetensors"
    assert options("train")["weights"] in stages()["train"]["outs"]
    assert options("ensemble")["joined"] == str(JOINED)
    assert str(JOINED) in stages()["ensemble"]["outs"]


def test_the_stage_that_runs_side_by_side_is_a_matrix_of_models_and_folds() -> None:
    assert stages()[SIDE_BY_SIDE]["matrix"] == {"model": "${models}", "fold": "${folds}"}
