"""The stage that writes one resolved recipe per model."""

import json
from pathlib import Path

import pytest

import stages.recipe
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.base.recipe import resolve_recipe


def test_stage_writes_the_whole_recipe_of_each_model_that_runs(tmp_path: Path, params: Params) -> None:
    stages.recipe.main(params, out=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"{model}.json" for model in params.models}
    assert set(params.models) < set(params.recipes)
    text = (tmp_path / "linear.json").read_text()
    written = json.loads(text)
    assert text == json.dumps(written, indent=2) + "\n"
    assert list(written) == list(Recipe.model_fields)
    assert written["architecture"] == "linear"
    assert written["lr"] == params.recipes["linear"].lr != params.train.lr
    assert written["epochs"] == params.train.epochs
    assert Recipe.model_validate_json(text) == resolve_recipe(params, "linear")


def test_stage_writes_what_the_balancing_strategy_sets(tmp_path: Path, params: Params) -> None:
    params = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "focal"})})
    stages.recipe.main(params, out=tmp_path)
    for model in params.models:
        written = json.loads((tmp_path / f"{model}.json").read_text())
        assert (written["loss"], written["class_weights"], written["sampler"]) == ("focal", "balanced", "shuffle")


def test_stage_prints_and_writes_which_published_weights_a_model_takes(
    tmp_path: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = params.recipes["resnet18"].model_copy(update={"pretrained": "imagenet"})
    params = params.model_copy(update={"recipes": params.recipes | {"resnet18": changed}})
    stages.recipe.main(params, out=tmp_path)
    assert capsys.readouterr().out == "resnet18: pretrained: imagenet takes ResNet18_Weights.IMAGENET1K_V1\n"
    written = json.loads((tmp_path / "resnet18.json").read_text())
    assert written["pretrained_tag"] == "ResNet18_Weights.IMAGENET1K_V1"


def test_stage_writes_nothing_when_one_model_cannot_be_trained(tmp_path: Path, params: Params) -> None:
    last = params.models[-1]
    wrong = params.recipes[last].model_copy(update={"architecture": "resnet_18"})
    params = params.model_copy(update={"recipes": params.recipes | {last: wrong}})
    with pytest.raises(InputError, match=rf"^recipes\.{last}: unknown architecture 'resnet_18'"):
        stages.recipe.main(params, out=tmp_path)
    assert not list(tmp_path.iterdir())
