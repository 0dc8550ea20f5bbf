"""The stage that writes resolved recipes."""

import json

import pytest

import stages.recipe
from tumorboard.errors import InputError
from tumorboard.params import Params, Recipe, resolve_recipe


def test_stage_writes_the_whole_resolved_recipe(tmp_path, params: Params) -> None:
    stages.recipe.main(params, "linear", str(tmp_path / "recipe.json"))
    written = json.loads((tmp_path / "recipe.json").read_text())
    expected = resolve_recipe(params, "linear")
    assert written["architecture"] == "linear"
    assert written["lr"] == params.recipes["linear"].lr != params.train.lr
    assert written["epochs"] == params.train.epochs
    assert Recipe.model_validate_json(json.dumps(written)) == expected


def test_stage_refuses_a_wrong_architecture_of_any_model(tmp_path, params: Params) -> None:
    wrong = params.recipes["cnn"].model_copy(update={"architecture": "resnet_18"})
    params = params.model_copy(update={"recipes": params.recipes | {"cnn": wrong}})
    with pytest.raises(InputError, match=r"'resnet_18'; did you mean resnet18"):
        stages.recipe.main(params, "linear", str(tmp_path / "recipe.json"))
    assert not (tmp_path / "recipe.json").exists()


def test_stage_refuses_a_model_without_recipe(tmp_path, params: Params) -> None:
    with pytest.raises(InputError, match="model 'linea' has no entry under recipes; did you mean linear"):
        stages.recipe.main(params, "linea", str(tmp_path / "recipe.json"))
