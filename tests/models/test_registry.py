"""Networks by name: their features and seeds, wrong names and sizes, and the recipes of all models that run."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models import names
from tumorboard.models.heads import build_head
from tumorboard.models.names import OWN, check_architecture, names_in_source
from tumorboard.models.networks.cnn import cnn
from tumorboard.models.recipes import pin_recipes
from tumorboard.models.registry import ARCHITECTURES, Classifier, build_model

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The width of the last hidden layer, from the papers; the size is the smallest that each test can afford.
FEATURES = {
    ("linear", 32): 1000,
    ("cnn", 32): 256,
    ("cnn3", 32): 64,
    ("googlenet_bn", 32): 1024,
    ("resnet50_v1", 32): 2048,
    ("resnet18", 32): 512,
    ("resnet50", 32): 2048,
    ("vgg16", 32): 4096,
    ("googlenet", 32): 1024,
    ("inception_v3", 75): 2048,
    ("densenet121", 32): 1024,
    ("mobilenet_v3_small", 32): 1024,
    ("efficientnet_v2_s", 32): 1280,
    ("convnext_tiny", 32): 768,
    ("vit_b_16", 32): 768,
    ("swin_t", 32): 768,
    ("squeezenet1_1", 32): 512,
    ("regnet_y_400mf", 32): 440,
    ("shufflenet_v2_x0_5", 32): 1024,
    ("mnasnet0_5", 32): 1280,
    ("timm/resnet18", 32): 512,
    ("timm/tf_efficientnet_lite0", 32): 1280,
    ("timm/vit_tiny_patch16_224", 32): 192,
    ("timm/deit_tiny_distilled_patch16_224", 32): 192,
}


@pytest.mark.parametrize(("architecture", "size"), FEATURES)
def test_head_follows_the_features(recipe: Recipe, architecture: str, size: int) -> None:
    # Shapes and gradients need no values, which saves time; RegNet's constructor does need them.
    with torch.device("cpu" if architecture.startswith("regnet") else "meta"):
        model = build_model(recipe.model_copy(update={"architecture": architecture}), 3, size, HALF)
        logits = model(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    assert model.head.in_features == FEATURES[architecture, size]
    assert logits.shape == (2, 3)
    logits.sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle, "a parameter without gradient stops distributed training"


@pytest.mark.parametrize("architecture", ["resnet18", "vgg11", "squeezenet1_1", "timm/resnet18"])
def test_head_can_follow_the_networks_own_outputs(recipe: Recipe, architecture: str) -> None:
    settings = {"architecture": architecture, "head_input": "classifier"}
    with torch.device("meta"):
        model = build_model(recipe.model_copy(update=settings), 3, 32, HALF)
        without = build_model(recipe.model_copy(update={"architecture": architecture}), 3, 32, HALF)
    assert model.head.in_features == 1000
    own_outputs = without.head.in_features * 1000 + 1000
    assert count(model.backbone) == count(without.backbone) + own_outputs


def test_output_layer_behind_the_lstm_is_kept_or_removed(recipe: Recipe) -> None:
    settings = {"architecture": "lstm_resnet18", "head_input": "classifier"}
    kept = build_model(recipe.model_copy(update=settings), 3, 32, HALF)
    removed = build_model(recipe.model_copy(update=settings | {"head_input": "features"}), 3, 32, HALF)
    assert (kept.head.in_features, removed.head.in_features) == (1000, 512)
    assert count(kept.backbone) == 11_690_655 == count(removed.backbone) + 512 * 1000 + 1000


def test_head_input_classifier_needs_outputs_of_the_networks_own(recipe: Recipe) -> None:
    settings = {"head_input": "classifier", "architecture": "linear"}
    assert build_model(recipe.model_copy(update=settings), 3, 32, HALF).head.in_features == 1000
    with pytest.raises(InputError, match=r"cnn has no output layer of its own: set head_input to features"):
        build_model(recipe.model_copy(update=settings | {"architecture": "cnn"}), 3, 32, HALF)


def test_features_of_vgg16_come_after_its_two_hidden_layers(recipe: Recipe) -> None:
    with torch.device("meta"):
        model = build_model(recipe.model_copy(update={"architecture": "vgg16"}), 2, 32, HALF)
        assert count(model.backbone) == count(torchvision.models.vgg16()) - (4096 * 1000 + 1000)
    assert isinstance(model.backbone.classifier[6], nn.Identity)


def test_weights_are_a_function_of_the_recipe(recipe: Recipe) -> None:
    torch.manual_seed(1)
    first, after = build_model(recipe, 2, 32, HALF), torch.rand(1)
    torch.manual_seed(1)
    expected_after = torch.rand(1)
    second = build_model(recipe, 2, 32, HALF)
    third = build_model(recipe.model_copy(update={"seed": recipe.seed + 1}), 2, 32, HALF)
    assert torch.equal(after, expected_after)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.head.weight, third.head.weight)
    assert not torch.equal(first.backbone.conv1.weight, third.backbone.conv1.weight)


def test_a_new_model_is_in_training_mode_and_has_seen_no_batch(recipe: Recipe) -> None:
    model = build_model(recipe, 2, 32, HALF)
    assert all(module.training for module in model.modules())
    assert model.backbone.bn1.num_batches_tracked.item() == 0
    assert not model.backbone.bn1.running_mean.any()


def test_classifier_normalizes_each_channel_by_its_mean_and_deviation() -> None:
    mean, std = (0.1, 0.2, 0.4), (0.5, 0.25, 0.2)
    model = Classifier(nn.Flatten(), nn.Identity(), mean, std)
    images = torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8).view(1, 3, 1, 2)
    expected = torch.tensor([[(0 - 0.1) / 0.5, (0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.6 - 0.2) / 0.25, 2.0, 3.0]])
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(model(images.float()), expected)


def test_classifier_is_head_after_backbone(recipe: Recipe) -> None:
    model = build_model(recipe, 2, 32, HALF).eval()
    network = torchvision.models.resnet18().eval()
    network.fc = build_head(recipe, 512, 2)
    network.load_state_dict(model.backbone.state_dict(), strict=False)
    network.fc.load_state_dict(model.head.state_dict())
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), network((images / 255 - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet81", "resnet18"), ("timm/resnet_18", "timm/resnet18"), ("google_net_bn", "googlenet_bn")],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_the_own_ones(name: str, near: str) -> None:
    with pytest.raises(InputError) as raised:
        check_architecture(name)
    text = str(raised.value)
    assert f"'{name}'" in text
    assert near in text
    assert all(own in text for own in ARCHITECTURES)


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet50_fpn",
        "fcn_resnet50",
        "r3d_18",
        "raft_small",
        "timm/nothing_of_the_kind",
        "timm/",
        "",
        "timm/hf-hub:a",
    ],
)
def test_detectors_and_nonsense_are_no_architectures(name: str) -> None:
    with pytest.raises(InputError, match="unknown architecture"):
        check_architecture(name)


@pytest.mark.parametrize(
    "name",
    [
        *ARCHITECTURES,
        "alexnet",
        "maxvit_t",
        "vit_h_14",
        "wide_resnet50_2",
        "timm/resnet18.a1_in1k",
        "timm/hf-hub:a/b.c-d@v1",
    ],
)
def test_own_and_published_names_are_known(name: str) -> None:
    check_architecture(name)


def test_own_networks_are_those_that_the_registry_builds() -> None:
    assert tuple(ARCHITECTURES) == OWN


def test_the_source_of_torchvision_shows_the_names_that_it_lists() -> None:
    assert names_in_source() == set(torchvision.models.list_models(module=torchvision.models))


def test_a_name_that_the_source_does_not_show_is_asked_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "names_in_source", frozenset)
    check_architecture("resnet18")
    with pytest.raises(InputError, match="unknown architecture 'resnet_18'; did you mean resnet18"):
        check_architecture("resnet_18")


@pytest.mark.parametrize(
    ("architecture", "size"), [("vgg16", 16), ("inception_v3", 64), ("vit_b_16", 40), ("maxvit_t", 64), ("cnn3", 2)]
)
def test_a_size_that_a_network_cannot_take_is_refused(recipe: Recipe, architecture: str, size: int) -> None:
    text = f"{architecture} cannot take images of crop.side {size} pixels: "
    with torch.device("meta"), pytest.raises(InputError, match=text):
        build_model(recipe.model_copy(update={"architecture": architecture}), 2, size, HALF)


def with_recipe(params: Params, model: str, **changes: object) -> Params:
    """The params with other entries in one model's recipe."""
    return params.model_copy(
        update={"recipes": params.recipes | {model: params.recipes[model].model_copy(update=changes)}}
    )


def test_recipes_are_pinned_for_the_models_that_run(params: Params) -> None:
    pinned = pin_recipes(params)
    assert tuple(pinned) == params.models
    assert set(pinned) < set(params.recipes)
    for model, recipe in pinned.items():
        assert recipe == resolve_recipe(params, model).model_dump(mode="json")


def test_a_wrong_architecture_of_any_model_is_refused(params: Params) -> None:
    params = with_recipe(params, "cnn", architecture="resnet_18")
    with pytest.raises(InputError, match=r"^recipes\.cnn: unknown architecture 'resnet_18'; did you mean resnet18"):
        pin_recipes(params)


def test_a_model_without_recipe_is_refused(params: Params) -> None:
    with pytest.raises(InputError, match="model 'linea' has no entry under recipes; did you mean linear"):
        pin_recipes(params.model_copy(update={"models": ("linea",)}))


def test_a_recipe_that_does_not_run_may_contradict_the_shared_entries(params: Params) -> None:
    params = with_recipe(params, "vgg16", freeze_epochs=params.train.epochs + 1)
    assert "vgg16" not in pin_recipes(params)
    with pytest.raises(InputError, match=r"recipes\.vgg16: freeze_epochs 2 leaves the backbone none of 1 epochs"):
        pin_recipes(params.model_copy(update={"models": ("vgg16",)}))


def test_label_smoothing_is_refused_where_balancing_sets_the_focal_loss(params: Params) -> None:
    params = with_recipe(params, "cnn", label_smoothing=0.1)
    assert pin_recipes(params)["cnn"]["label_smoothing"] == 0.1
    params = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "focal"})})
    with pytest.raises(InputError, match=r"recipes\.cnn: label_smoothing is 0\.1, but the focal loss has none"):
        pin_recipes(params)


def test_a_weights_file_is_pinned_by_its_digest(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights/start.pth"
    tensors = cnn(params.crop.side).state_dict()
    torch.save(tensors, file)
    params = with_recipe(params, "cnn", pretrained="weights/start.pth")
    pinned = pin_recipes(params)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert list(pinned["cnn"].items())[-1] == ("pretrained_sha256", digest)
    assert "pretrained_sha256" not in pinned["linear"]
    torch.save({name: tensor for name, tensor in tensors.items() if name != "1.running_var"}, file)
    with pytest.raises(InputError, match=r"^recipes\.cnn: .* tensor '1\.running_var' \[32\] is missing"):
        pin_recipes(params)


def test_a_side_that_a_network_is_not_built_for_is_refused_before_any_training(params: Params) -> None:
    """Patches of 16 pixels divide no side of 100."""
    params = with_recipe(params, "cnn", architecture="vit_b_16")
    assert pin_recipes(params.model_copy(update={"crop": params.crop.model_copy(update={"side": 96})}))
    with pytest.raises(InputError, match=r"^recipes\.cnn: architecture vit_b_16 cannot take images of crop\.side 100"):
        pin_recipes(params.model_copy(update={"crop": params.crop.model_copy(update={"side": 100})}))


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        (
            "imgenet",
            "'imgenet': expected none, imagenet, packaged or a .safetensors, .pth or .pt file; did you mean",
        ),
        ("weights/nowhere.pth", "weights/nowhere.pth: no such file"),
        (
            "/elsewhere/start.pth",
            "the folder weights, which DVC watches, and write weights/start.pth",
        ),
        ("weights/../start.pth", "put the file into the folder weights"),
        ("elsewhere/weights/start.pth", "put the file into the folder weights"),
        ("imagenet", "imagenet: there are no weights for cnn"),
        ("packaged", "packaged holds weights of timm/tf_efficientnet_lite0, .*lite1, .*lite2, not of cnn"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_before_any_training(
    params: Params, pretrained: str, message: str
) -> None:
    with pytest.raises(InputError, match=rf"^recipes\.cnn: pretrained: .*{message}"):
        pin_recipes(with_recipe(params, "cnn", pretrained=pretrained))
