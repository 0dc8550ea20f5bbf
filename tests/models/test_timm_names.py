"""Names of timm's models: what timm knows of their weights, and models of the Hub without a network."""

import pytest
import timm

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.models import timm_names
from tumorboard.models.normalization import normalization
from tumorboard.models.registry import build_model
from tumorboard.models.timm_names import timm_config

HUB = "timm/hf-hub:someone/small_vit"


@pytest.fixture
def described(monkeypatch):
    """Lets the Hub describe a small vision transformer of 64 pixels; counts the calls."""
    calls = []

    def describe(name: str, **_: object) -> tuple[dict[str, object], str, dict[str, object]]:
        calls.append(name)
        cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "fixed_input_size": True, "input_size": [3, 64, 64]}
        cfg |= {"classifier": "head", "hf_hub_id": name, "num_classes": 7}
        return cfg, "vit_small_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}

    monkeypatch.setattr(timm.models, "load_model_config_from_hf", describe)
    monkeypatch.setattr(timm.models._factory, "load_model_config_from_hf", describe)
    timm_names._hub_description.cache_clear()
    yield calls
    timm_names._hub_description.cache_clear()


def test_a_model_of_the_hub_is_built_from_its_description(described, recipe: Recipe) -> None:
    recipe = recipe.model_copy(update={"architecture": HUB})
    model = build_model(recipe, 3, 96, ((0.5,) * 3, (0.5,) * 3))
    assert set(described) == {"someone/small_vit"}
    assert model.head.in_features == 24
    assert model.backbone.pos_embed.shape == (1, 37, 24)
    assert len(model.backbone.blocks) == 2
    used = recipe.model_copy(update={"pretrained": "weights/a.pth"})
    assert normalization(used) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_without_a_network_a_model_of_the_hub_is_refused_with_the_cure(monkeypatch, recipe: Recipe) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm.models, "load_model_config_from_hf", fail)
    timm_names._hub_description.cache_clear()
    message = (
        rf"^architecture {HUB}: its description cannot be fetched .*\(FileNotFoundError\)\. Offline, fetch "
        r"config\.json and model\.safetensors of someone/small_vit elsewhere, name its network, timm/<.*set pretrained"
    )
    with pytest.raises(InputError, match=message):
        build_model(recipe.model_copy(update={"architecture": HUB}), 3, 64, ((0.5,) * 3, (0.5,) * 3))


def test_a_description_of_a_network_that_timm_lacks_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(timm.models, "load_model_config_from_hf", lambda _: ({}, "resnet_of_2040", {}))
    timm_names._hub_description.cache_clear()
    with pytest.raises(InputError, match=r"small_vit: it is a resnet_of_2040, which timm [0-9.]+ does not have"):
        timm_config(HUB)
    timm_names._hub_description.cache_clear()


def test_a_model_without_a_tag_has_the_default_weights() -> None:
    config = timm_config("timm/vit_tiny_patch16_224")
    assert config.name == "vit_tiny_patch16_224." + timm.get_pretrained_cfg("vit_tiny_patch16_224").tag
    assert config.fixed_side
    assert config.mean == (0.5, 0.5, 0.5)
    assert not timm_config("timm/resnet18").fixed_side
    assert timm_config("timm/resnet18").mean == (0.485, 0.456, 0.406)
