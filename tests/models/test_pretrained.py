"""Pre-trained weights: what is copied into a backbone, and what is refused."""

import logging
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.models.model_file import ModelCard, save_model
from tumorboard.models.normalization import normalization
from tumorboard.models.pretrained import load_pretrained
from tumorboard.models.published import pin_pretrained
from tumorboard.models.registry import Classifier, build_model

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """The tensors of a ResNet-18 as torchvision publishes it: 1000 outputs, and numbers that no recipe's seed draws."""
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
    # The head has the random weights that it has without a file.
    assert torch.equal(model.head.weight, build(recipe, head_input=head_input).head.weight)


def test_an_output_layer_of_another_width_is_left_out_with_a_warning(tmp_path, recipe, published, caplog) -> None:
    tensors = published | {"fc.weight": torch.ones(5, 512), "fc.bias": torch.ones(5)}
    torch.save(tensors, tmp_path / "five.pth")
    with caplog.at_level(logging.WARNING):
        model = build(recipe, pretrained=str(tmp_path / "five.pth"), head_input="classifier")
    assert "five.pth" in caplog.text
    assert "'fc.weight'" in caplog.text
    fresh = build(recipe, head_input="classifier").backbone.fc
    assert_holds(model.backbone, published | {"fc.weight": fresh.weight, "fc.bias": fresh.bias})


def test_half_precision_is_widened_and_counts_of_batches_may_be_missing(tmp_path, recipe, published) -> None:
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


def test_a_file_that_cannot_be_read_is_named(tmp_path, recipe) -> None:
    (tmp_path / "text.pth").write_text("hello, not weights at all")
    for path, message in (
        (tmp_path / "gone.pth", r"gone\.pth: no such file"),
        (tmp_path / "text.pth", r"text\.pth: not a file of tensors alone"),
        ("imagnet", "'imagnet': expected none, imagenet, packaged or a"),
    ):
        with pytest.raises(InputError, match=message):
            build(recipe, pretrained=str(path))


def test_a_model_of_this_project_gives_its_backbone_and_normalization(tmp_path, params, recipe) -> None:
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
    """Fills torchvision's cache of downloads with a ResNet-18 and lets every download fail."""
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


def test_a_download_is_checked_by_the_digest_in_its_name(tmp_path, monkeypatch, recipe) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    downloads = []

    def fail(url: str, _path: str, hash_prefix: str | None = None, **_settings: object) -> None:
        downloads.append((Path(url).stem, hash_prefix))
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match="cannot be fetched"):
        build(recipe, pretrained="imagenet")
    assert downloads == [("resnet18-f37072fd", "f37072fd")]


def test_side_outputs_in_a_file_are_left_out(tmp_path, recipe) -> None:
    torch.manual_seed(4)
    tensors = torchvision.models.googlenet(init_weights=False).state_dict()
    assert any(name.startswith("aux1.") for name in tensors)
    torch.save(tensors, tmp_path / "googlenet.pth")
    model = build(recipe, architecture="googlenet", pretrained=str(tmp_path / "googlenet.pth"))
    assert_holds(model.backbone, tensors)


@pytest.mark.usefixtures("fetched")
def test_without_a_network_imagenet_names_the_alternatives() -> None:
    backbone = nn.Linear(1, 1)
    for architecture in ("resnet34", "timm/resnet18"):
        with pytest.raises(InputError, match=rf"weights of {architecture} cannot be fetched .*packaged.*path of that"):
            load_pretrained(backbone, architecture, "imagenet")


def test_imagenet_is_refused_for_networks_without_published_weights() -> None:
    unpublished = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    for architecture in ("linear", "cnn", "googlenet_bn", "resnet50_v1", "architectures.a:b", f"timm/{unpublished}"):
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


def test_random_and_packaged_weights_need_no_digest_and_published_ones_have_a_name(recipe) -> None:
    def pin(**changes: str) -> dict[str, str]:
        return pin_pretrained(recipe.model_copy(update=changes))

    assert pin() == {}
    assert pin(pretrained="packaged", architecture="timm/tf_efficientnet_lite0") == {}
    torchvision_name = str(torchvision.models.get_model_weights("resnet18").DEFAULT)
    assert torchvision_name == "ResNet18_Weights.IMAGENET1K_V1"
    for architecture in ("resnet18", "lstm_resnet18"):
        assert pin(pretrained="imagenet", architecture=architecture) == {"pretrained_tag": torchvision_name}
    tag = timm.get_pretrained_cfg("resnet18").tag
    for architecture in ("timm/resnet18", f"timm/resnet18.{tag}"):
        pinned = pin(pretrained="imagenet", architecture=architecture)
        assert pinned == {"pretrained_tag": f"timm/resnet18.{tag}"}
    other = pin(pretrained="imagenet", architecture="timm/resnet18.tv_in1k")
    assert other == {"pretrained_tag": "timm/resnet18.tv_in1k"}
    hub = "timm/hf-hub:timm/resnet18.a1_in1k"
    assert pin(pretrained="imagenet", architecture=hub) == {"pretrained_tag": hub}


@pytest.mark.usefixtures("fetched")
def test_the_network_knows_which_published_weights_it_has(recipe) -> None:
    assert build(recipe, pretrained="imagenet").versions == {"imagenet": "ResNet18_Weights.IMAGENET1K_V1"}
    assert build(recipe).versions == {}


@pytest.mark.parametrize("inner", [True, False])
def test_lstm_resnet18_takes_a_file_of_a_resnet18_or_of_itself(tmp_path, recipe, published, inner) -> None:
    whole = build(recipe, architecture="lstm_resnet18", seed=7, head_input="classifier").backbone
    torch.save(published if inner else whole.state_dict(), tmp_path / "start.pth")
    settings = {"architecture": "lstm_resnet18", "head_input": "features"}
    backbone = build(recipe, pretrained=str(tmp_path / "start.pth"), **settings).backbone
    fresh = build(recipe, **settings).backbone
    assert_holds(backbone.resnet, published if inner else whole.resnet.state_dict())
    assert torch.equal(backbone.lstm.weight_hh_l0, (fresh if inner else whole).lstm.weight_hh_l0)
    assert not torch.equal(fresh.lstm.weight_hh_l0, whole.lstm.weight_hh_l0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, recipe, published, value) -> None:
    odd = published["layer1.0.bn2.running_var"].clone()
    odd[5:7] = value
    torch.save(published | {"layer1.0.bn2.running_var": odd}, tmp_path / "odd.pth")
    message = (
        r"odd\.pth, for resnet18: tensor 'layer1\.0\.bn2\.running_var' has 2 of 64 values that are NaN or infinite"
    )
    with pytest.raises(InputError, match=message):
        build(recipe, pretrained=str(tmp_path / "odd.pth"))
    # Nothing reads the output layer here.
    torch.save(published | {"fc.bias": torch.full((1000,), value)}, tmp_path / "odd.pth")
    assert_holds(build(recipe, pretrained=str(tmp_path / "odd.pth")).backbone, published)
