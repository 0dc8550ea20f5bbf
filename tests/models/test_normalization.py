"""Normalization: the constants that pre-trained weights expect, and the statistics of a data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.normalization import dataset_statistics, normalization
from tumorboard.models.tensors import CARD_KEY

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, IMAGENET),
        ({"architecture": "timm/tf_efficientnet_lite0"}, IMAGENET),
        ({"architecture": "timm/tf_efficientnet_lite0", "pretrained": "packaged"}, HALF),
        ({"architecture": "timm/tf_efficientnet_lite0", "pretrained": "packaged", "normalize": "imagenet"}, IMAGENET),
        ({"architecture": "timm/vit_tiny_patch16_224", "pretrained": "imagenet"}, HALF),
        ({"architecture": "timm/resnet18", "pretrained": "imagenet"}, IMAGENET),
        ({"architecture": "resnet18", "pretrained": "imagenet"}, IMAGENET),
        ({"architecture": "efficientnet_v2_l", "pretrained": "imagenet"}, HALF),
        ({"architecture": "googlenet", "pretrained": "imagenet"}, HALF),
        ({"architecture": "inception_v3", "pretrained": "imagenet"}, HALF),
        ({"architecture": "googlenet", "pretrained": "none"}, IMAGENET),
        ({"architecture": "lstm_resnet18", "pretrained": "imagenet"}, IMAGENET),
        ({"architecture": "cnn", "pretrained": "weights.pth"}, IMAGENET),
    ],
)
def test_normalization_is_what_the_weights_expect(recipe: Recipe, changes: dict, expected: tuple) -> None:
    assert normalization(recipe.model_copy(update=changes)) == expected


def test_the_normalization_of_googlenet_equals_its_transform_of_the_input() -> None:
    network = torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(network._transform_input((pixels - mean) / std), (pixels - 0.5) / 0.5)


def test_a_model_file_brings_its_own_normalization(tmp_path: Path, recipe: Recipe) -> None:
    card = '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'
    save_file({"backbone.x": torch.zeros(1)}, tmp_path / "model.safetensors", {CARD_KEY: card})
    recipe = recipe.model_copy(update={"pretrained": str(tmp_path / "model.safetensors")})
    assert normalization(recipe) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert normalization(recipe.model_copy(update={"normalize": "imagenet"})) == IMAGENET


def test_a_foreign_safetensors_file_has_the_normalization_of_its_architecture(tmp_path: Path, recipe: Recipe) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    changes = {"pretrained": str(tmp_path / "foreign.safetensors"), "architecture": "timm/vit_tiny_patch16_224"}
    assert normalization(recipe.model_copy(update=changes)) == HALF


@pytest.mark.parametrize("card", ["not JSON", '{"mean": [1]}', '{"mean": 1, "std": 1}', "[]"])
def test_a_damaged_model_card_is_named(tmp_path: Path, recipe: Recipe, card: str) -> None:
    save_file({"backbone.x": torch.zeros(1)}, tmp_path / "odd.safetensors", {CARD_KEY: card})
    changed = recipe.model_copy(update={"pretrained": str(tmp_path / "odd.safetensors"), "normalize": "auto"})
    with pytest.raises(InputError, match=r"odd\.safetensors: its model card is damaged"):
        normalization(changed)


def test_dataset_statistics_equal_numpys(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)
    crops[..., 1] //= 4
    crops[..., 2] = 51
    ids = [f"{n}.png" for n in range(300)]
    write_store(tmp_path, ids, crops, 4)
    store = CropStore(tmp_path)
    some = ids[3:290]  # more than one read
    mean, std = dataset_statistics(store, some)
    values = crops[3:290].astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std((0, 1, 2))[:2], rtol=1e-9)
    assert std[2] == 1.0, "a channel with a single value"
    assert dataset_statistics(store, some[::-1]) == (mean, std)
