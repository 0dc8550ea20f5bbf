"""The model file: a model is read as it was written, equal models give equal bytes, foreign files are refused."""

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models import model_file
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.registry import Classifier, build_model, outline_model


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


@pytest.mark.parametrize(
    ("architecture", "built"),
    [("linear", False), ("lstm_resnet18", False), ("mnasnet0_5", True)],  # the last checks its weights as it takes them
)
def test_random_weights_are_drawn_only_where_the_file_cannot_fill_the_network(
    tmp_path, params: Params, monkeypatch: pytest.MonkeyPatch, architecture: str, built: bool
) -> None:
    """In both cases the outputs are those of the model that was saved, to the last bit."""
    model, card = make_model(params, architecture)
    save_model(tmp_path / "model", model, card)
    calls = []
    monkeypatch.setattr(model_file, "build_model", lambda *args: calls.append(1) or build_model(*args))
    loaded, _ = load_model(tmp_path / "model", "cpu")
    assert bool(calls) == built
    side = params.crop.side
    images = torch.randint(0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    assert all(one.requires_grad for one in loaded.parameters())
    assert all(one.data_ptr() % 64 == 0 for one in loaded.parameters()), "kernels round by where their numbers lie"


def test_a_network_with_a_table_that_no_file_has_is_built(tmp_path, params: Params, monkeypatch) -> None:
    """A buffer that is not saved would be without memory in an outline that is filled."""
    model, card = make_model(params)
    save_model(tmp_path / "model", model, card)
    outline = model_file.outline_model

    def with_table(*args: Any) -> Classifier:
        network = outline(*args)
        network.backbone.register_buffer("table", torch.zeros(3, device="meta"), persistent=False)
        return network

    monkeypatch.setattr(model_file, "outline_model", with_table)
    loaded, _ = load_model(tmp_path / "model", "cpu")
    assert "table" not in dict(loaded.backbone.named_buffers())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_a_network_with_weights_under_two_names_is_read_as_it_was_written(tmp_path, params: Params) -> None:
    model, card = make_model(params)
    model.backbone[5].weight = model.backbone[5].bias
    save_model(tmp_path / "model", model, card)
    loaded, _ = load_model(tmp_path / "model", "cpu")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


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
    with pytest.raises(InputError, match="short: ends too early, or is damaged"):
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


def rewrite_card(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the card of a model file and leaves its tensors."""
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["tumorboard"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(card)
    save_file(tensors, path, metadata={"tumorboard": json.dumps(card)})


def wide_head(card: dict[str, Any]) -> None:
    card["recipe"] |= {"head": "mlp", "head_widths": [10**7, 10**7]}


def wide_first_layer(card: dict[str, Any]) -> None:
    card["recipe"] |= {"head": "mlp", "head_widths": [10**12]}


def many_layers(card: dict[str, Any]) -> None:
    card["recipe"] |= {"head": "mlp", "head_widths": [1] * 10**6}


def many_classes(card: dict[str, Any]) -> None:
    card["classes"] = [str(number) for number in range(10**6)]


def large_linear(card: dict[str, Any]) -> None:
    card["recipe"]["architecture"] = "linear"
    card["crop"]["side"] = 2048


def large_network(card: dict[str, Any]) -> None:
    card["recipe"]["architecture"] = "regnet_y_128gf"


def giant_of_timm(card: dict[str, Any]) -> None:
    card["recipe"]["architecture"] = "timm/vit_giant_patch14_224"
    card["crop"]["side"] = 2016


def endless_name(card: dict[str, Any]) -> None:
    card["recipe"]["architecture"] = "x" * 10**6


def long_card(card: dict[str, Any]) -> None:
    card["intended_use"] = "x" * 10**7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wide_head, r"tensor 'head\.0\.weight' \[10000000, 256\] is missing"),
        (wide_first_layer, r"tensor 'head\.0\.weight' \[1000000000000, 256\] is missing"),
        (many_layers, r"its card names 1,000,000 head_widths, but the file has [0-9]+ tensors"),
        (many_classes, r"tensor 'head\.weight' has the shape \[2, 256\], expected \[1000000, 256\]"),
        (large_linear, r"tensor 'backbone\.1\.weight' has the shape .* expected \[1000, 12582912\]"),
        (large_network, r"tensor 'backbone.* is missing"),
        (giant_of_timm, r"tensor 'backbone.* is missing"),
        (endless_name, r"unknown architecture 'x{99}…'\."),
        (long_card, r"its model card has [0-9,]+ characters, more than 10,000,000"),
    ],
)
def test_the_network_of_a_card_is_compared_with_the_file_before_it_takes_memory(
    tmp_path: Path, params: Params, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_model(file, *make_model(params))
    rewrite_card(file, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as raised:
        load_model(file, "cpu")
    assert len(str(raised.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000, "KiB"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "a"]}, "its classes are not two or more different names"),
        ({"classes": ["a"]}, "its classes are not two or more different names"),
        ({"classes": ["a", "b\x1b[2J"]}, r"a name that cannot be printed: 'b\\x1b\[2J'"),
        ({"name": "two\nlines"}, r"a name that cannot be printed: 'two\\nlines'"),
        ({"manifest": "\u202eabc"}, r"a name that cannot be printed: '\\u202eabc'"),
        ({"name": "../../secret"}, "names a path, expected a model's name"),
        ({"\x1b[31mred": 1}, r"its model card cannot be read: '\\x1b\[31mred': Extra inputs"),
    ],
)
def test_a_card_whose_texts_would_deceive_is_refused(
    tmp_path: Path, params: Params, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_model(file, *make_model(params))
    rewrite_card(file, lambda card: card.update(changes))
    with pytest.raises(InputError, match=message):
        load_model(file, "cpu")


@pytest.mark.parametrize("architecture", ["regnet_y_400mf", "swin_t", "lstm_resnet18"])
def test_every_kind_of_network_is_outlined_as_it_is_built(params: Params, architecture: str) -> None:
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": architecture})
    built = build_model(recipe, 2, 32, ((0.5,) * 3, (0.2,) * 3))
    outline = outline_model(recipe, 2, 32, built.head.in_features)
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == shapes
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}


def test_a_model_of_version_0_1_0_is_read(tmp_path: Path, params: Params) -> None:
    """Its card has no crop.max_bytes, and no test-time augmentation."""
    model, card = make_model(params)
    tree = json.loads(card.model_dump_json())
    del tree["crop"]["max_bytes"]
    for key in ("tta", "progressive", "average_last"):
        del tree["recipe"][key]
    save_file(dict(model.state_dict()), tmp_path / "old.safetensors", {"tumorboard": json.dumps(tree)})
    read = load_model(tmp_path / "old.safetensors", "cpu")[1]
    assert read.crop == card.crop
    assert (read.recipe.tta, read.recipe.progressive, read.recipe.average_last) == ((), 1.0, 0)
