"""The model file: a model is read as it was written, equal models give equal bytes, foreign files are refused."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, resolve_recipe
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.registry import Classifier, build_model


def make_model(params: Params, architecture: str = "cnn", **changes: object) -> tuple[Classifier, ModelCard]:
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": architecture})
    mean_std = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    model = build_model(recipe, 2, params.crop.side, mean_std)
    for module in model.modules():  # statistics that a new network does not have, as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.linspace(-1, 1, module.num_features))
            module.num_batches_tracked.fill_(7)
    card = {"name": "cnn", "classes": ("blast", "normal"), "fold": 0, "crop": params.crop, "mean": mean_std[0]}
    card |= {"std": mean_std[1], "recipe": recipe, "manifest": "0123456789abcdef", "parameters": 5, "epoch": 3}
    card |= {"score": {"loss": 0.25, "auc": float("nan")}, "versions": {"torch": "2"}, "seed": 0}
    return model, ModelCard.model_validate(card | changes)


@pytest.mark.parametrize("architecture", ["cnn", "mnasnet0_5", "timm/resnet18"])
def test_a_model_is_read_as_it_was_written(tmp_path, params: Params, architecture: str) -> None:
    model, card = make_model(params, architecture)
    model = model.to(memory_format=torch.channels_last)
    save_model(tmp_path / "model.safetensors", model, card)
    loaded, read = load_model(tmp_path / "model.safetensors", "cpu")
    assert read == card.model_copy(update={"score": {"loss": 0.25, "auc": None}})
    assert read.intended_use == "For research, not for diagnosis."
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model.eval()(images))


def test_equal_models_are_equal_bytes(tmp_path, params: Params) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, *make_model(params))
    save_model(tmp_path / "c", *make_model(params, epoch=4))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_header_is_one_json_entry(tmp_path, params: Params) -> None:
    save_model(tmp_path / "model", *make_model(params))
    content = (tmp_path / "model").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert list(metadata) == ["tumorboard"]
    card = json.loads(metadata["tumorboard"])
    assert card["classes"] == ["blast", "normal"]
    fields = "name classes fold crop mean std recipe manifest parameters epoch score versions seed intended_use"
    assert list(card) == fields.split(), "other versions of the project read these"


def test_a_pretrained_recipe_is_loaded_without_its_weights_file(tmp_path, params: Params) -> None:
    model, card = make_model(params)
    card = card.model_copy(update={"recipe": card.recipe.model_copy(update={"pretrained": "gone.pth"})})
    save_model(tmp_path / "model", model, card)
    loaded, read = load_model(tmp_path / "model", "cpu")
    assert read.recipe.pretrained == "gone.pth"
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_a_file_that_is_no_model_is_named(tmp_path, params: Params) -> None:
    with pytest.raises(InputError, match=r"missing\.safetensors: no such file"):
        load_model(tmp_path / "missing.safetensors", "cpu")
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(InputError, match=r"text: not a whole \.safetensors file"):
        load_model(tmp_path / "text", "cpu")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(InputError, match="foreign: holds weights, but no model card"):
        load_model(tmp_path / "foreign", "cpu")
    save_file({"a": torch.zeros(2)}, tmp_path / "odd", metadata={"tumorboard": '{"name": 3}'})
    with pytest.raises(InputError, match="odd: its model card cannot be read"):
        load_model(tmp_path / "odd", "cpu")
    save_model(tmp_path / "model", *make_model(params))
    (tmp_path / "short").write_bytes((tmp_path / "model").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"short: not a whole \.safetensors file"):
        load_model(tmp_path / "short", "cpu")


def test_a_card_of_other_classes_than_the_weights_is_refused(tmp_path, params: Params) -> None:
    save_model(tmp_path / "model", *make_model(params, classes=("a", "b", "c")))
    with pytest.raises(InputError, match=r"tensor 'head.weight' has the shape \[2, 256\], expected \[3, 256\]"):
        load_model(tmp_path / "model", "cpu")


def test_the_file_holds_the_normalization(tmp_path, params: Params) -> None:
    save_model(tmp_path / "model", *make_model(params))
    loaded, _ = load_model(tmp_path / "model", "cpu")
    np.testing.assert_allclose(loaded.mean.flatten().numpy(), [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(loaded.std.flatten().numpy(), [0.4, 0.5, 0.6], rtol=1e-6)
