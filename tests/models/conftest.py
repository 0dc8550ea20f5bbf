"""The recipe that the tests of networks start from."""

import pytest

from tumorboard.base.params import Params, Recipe
from tumorboard.base.recipe import resolve_recipe


@pytest.fixture
def recipe(params: Params) -> Recipe:
    """A ResNet-18 with random weights and a linear head."""
    settings = {"pretrained": "none", "head": "linear", "normalize": "auto"}
    return resolve_recipe(params, "resnet18").model_copy(update=settings)
