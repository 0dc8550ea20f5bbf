"""The stage that writes resolved recipes."""

import json
from pathlib import Path

import pytest

import stages.recipe
from tumorboard.errors import InputError
from tumorboard.params import Params, Recipe, resolve_recipe


def test_stage_writes_the_whole_resolved_recipe_of_each_model_that_runs(tmp_path: Path, params: Params) -> None:
    stages.recipe.main(params, str(tmp_path))
    assert {file.stem for file in tmp_path.iterdir()} == set(params.models) < set(params.recipes)
    written = json.loads((tmp_path / "linear.json").read_text())
    assert written["architecture"] == "linear"
    assert written["lr"] == params.recipes["linear"].lr != params.train.lr
    assert written["epochs"] == params.train.epochs
    assert Recipe.model_validate_json(json.dumps(written)) == resolve_recipe(params, "linear")


def test_stage_refuses_a_wrong_architecture_of_any_model(tmp_path: Path, params: Params) -> None:
    wrong = params.recipes["cnn"].model_copy(update={"architecture": "resnet_18"})
    params = params.model_copy(update={"recipes": params.recipes | {"cnn": wrong}})
    with pytest.raises(InputError, match=r"'resnet_18'; did you mean resnet18"):
        stages.recipe.main(params, str(tmp_path))


def test_stage_writes_what_the_balancing_strategy_sets(tmp_path: Path, params: Params) -> None:
    params = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "focal"})})
    stages.recipe.main(params, str(tmp_path))
    for model in params.models:
        written = json.loads((tmp_path / f"{model}.json").read_text())
        assert (written["loss"], written["class_weights"], written["sampler"]) == ("focal", "balanced", "shuffle")


def test_a_recipe_that_does_not_run_may_be_at_odds_with_the_shared_numbers(tmp_path: Path, params: Params) -> None:
    frozen = params.recipes["vgg16"].model_copy(update={"freeze_epochs": params.train.epochs + 1})
    params = params.model_copy(update={"recipes": params.recipes | {"vgg16": frozen}})
    stages.recipe.main(params, str(tmp_path))
    with pytest.raises(InputError, match=r"recipes\.vgg16: freeze_epochs 2 leaves the backbone none of 1 epochs"):
        stages.recipe.main(params.model_copy(update={"models": ("vgg16",)}), str(tmp_path))


def test_a_model_without_recipe_is_refused(params: Params) -> None:
    with pytest.raises(InputError, match="model 'linea' has no entry under recipes; did you mean linear"):
        resolve_recipe(params, "linea")
