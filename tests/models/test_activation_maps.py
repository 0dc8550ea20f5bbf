"""Grad-CAM: values by hand on a small network, places that are found again, layers of each family."""

import numpy as np
import pytest
import torch
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.activation_maps import MapLayer, activation_maps, choose_layer, map_crops
from tumorboard.models.registry import Classifier, build_model, outline_model


def tiny() -> Classifier:
    """Two channels pass red and green of 4 x 4 cells; class 0 likes red, class 1 likes green and dislikes red."""
    convolution = nn.Conv2d(3, 2, 1, bias=False)
    convolution.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1)
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[2.0, 0], [-1, 4]])
    backbone = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(backbone, head, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def image() -> torch.Tensor:
    """Red in the cell (0, 1), green in the cell (3, 2)."""
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    pixels[0, 0, 0, 1] = 255
    pixels[0, 1, 3, 2] = 102
    return pixels


def test_a_map_by_hand() -> None:
    model = tiny()
    layer = choose_layer(model, 4, "tiny")
    assert layer == MapLayer("0", "channels first", 4)
    expected = np.zeros((4, 4), np.float32)
    expected[0, 1] = 1  # weight 2 / 16 times red 1, divided by the maximum
    np.testing.assert_allclose(activation_maps(model, layer, image(), [0])[0], expected)
    expected = np.zeros((4, 4), np.float32)
    expected[3, 2] = 1  # green alone: red speaks against class 1, and is 0
    np.testing.assert_allclose(activation_maps(model, layer, image(), [1])[0], expected, atol=1e-7)


def test_a_map_without_any_evidence_is_zero() -> None:
    model = tiny()
    pixels = image()
    pixels[:, 1] = 0
    assert not activation_maps(model, choose_layer(model, 4, "tiny"), pixels, [1]).any()


def test_each_image_has_its_own_map_and_the_model_stays() -> None:
    model = tiny().train()
    both = torch.cat([image(), image().flip(3)])
    layer = choose_layer(model, 4, "tiny")
    maps = activation_maps(model, layer, both, [0, 0])
    np.testing.assert_array_equal(maps[1], maps[0][:, ::-1])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_of_crops_do_not_depend_on_the_batch() -> None:
    model = tiny()
    crops = torch.cat([image(), image().flip(2), image().flip(3)]).permute(0, 2, 3, 1).numpy()
    together = map_crops(model, crops, [0, 1, 0], "tiny", batch_size=2)
    alone = np.concatenate([map_crops(model, crops[n : n + 1], [[0, 1, 0][n]], "tiny") for n in range(3)])
    np.testing.assert_allclose(together, alone)
    assert map_crops(model, crops[:0], [], "tiny").shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("architecture", "side", "name", "order", "grid"),
    [
        ("resnet18", 64, "layer3", "channels first", 4),
        ("resnet18", 128, "layer4", "channels first", 4),
        ("googlenet_bn", 32, "11", "channels first", 8),
        ("timm/tf_efficientnet_lite0", 64, "blocks.4", "channels first", 4),
        ("vit_b_16", 64, "encoder.layers.encoder_layer_11.ln_1", "tokens", 4),
        ("timm/vit_tiny_patch16_224", 64, "blocks.11.norm1", "tokens", 4),
        ("swin_t", 64, "features.5", "channels last", 4),
        ("cnn", 64, "15", "channels first", 4),
        ("cnn3", 32, "7", "channels first", 8),
        ("lstm_resnet18", 64, "resnet.layer3", "channels first", 4),
        ("densenet121", 64, "features.denseblock3", "channels first", 4),
        ("mobilenet_v3_small", 64, "features.8", "channels first", 4),
        ("squeezenet1_1", 64, "features.7", "channels first", 7),
    ],
)
def test_the_layer_of_a_family(architecture: str, side: int, name: str, order: str, grid: int, params: Params) -> None:
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": architecture})
    model = build_model(recipe, 2, side, ([0.5] * 3, [0.2] * 3))
    layer = choose_layer(model, side, architecture)
    assert (layer.name, layer.order, layer.grid) == (name, order, grid)
    maps = activation_maps(model, layer, torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8), [0])
    assert maps.shape == (1, side, side)
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize(
    ("architecture", "side", "name", "grid"),
    [
        ("vgg16", 32, "features.22", 4),  # the pooling behind the features enlarges one cell to seven by seven
        ("vgg16", 64, "features.29", 4),
        ("vgg16", 224, "avgpool", 7),
        ("alexnet", 64, "features.4", 7),
        ("convnext_tiny", 64, "features.5", 4),
        ("swin_v2_t", 64, "features.5", 4),  # its tables of positions are square, too
        ("resnet50_v1", 64, "layer3", 4),
        ("efficientnet_v2_s", 64, "features.5", 4),
        ("regnet_y_400mf", 64, "trunk_output.block3", 4),
        ("shufflenet_v2_x0_5", 64, "stage3", 4),
    ],
)
def test_the_layer_of_a_large_network(architecture: str, side: int, name: str, grid: int, params: Params) -> None:
    """Without its weights, whose random values take seconds."""
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": architecture})
    model = outline_model(recipe, 2, side, 1)
    model.head = nn.Identity()
    layer = choose_layer(model.to("meta"), side, architecture)
    assert (layer.name, layer.grid) == (name, grid)


def test_a_layer_that_enlarges_or_is_no_map_of_the_images_is_not_taken() -> None:
    class Positions(nn.Module):
        """Adds a number that it computes from a table of 5 x 5 places."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Conv2d(1, 1, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            moved: torch.Tensor = images + self.table(torch.zeros(1, 1, 5, 5)).mean()
            return moved

    backbone = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), Positions(), nn.AdaptiveAvgPool2d(7), nn.Flatten())
    model = Classifier(backbone, nn.Linear(98, 2), (0.0,) * 3, (1.0,) * 3)
    assert choose_layer(model, 16, "made up") == MapLayer("1", "channels first", 4)


def test_a_network_without_places_has_no_map(params: Params) -> None:
    recipe = resolve_recipe(params, "linear")
    model = build_model(recipe, 2, 16, ([0.5] * 3, [0.2] * 3))
    with pytest.raises(InputError, match="linear has no layer that keeps the places"):
        choose_layer(model, 16, "linear")


def test_maps_depend_on_the_weights(params: Params) -> None:
    """The sanity check of Adebayo et al. 2018: with other weights a map must be another."""
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": "resnet18"})
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, second = (
        build_model(recipe.model_copy(update={"seed": seed}), 2, 64, ([0.5] * 3, [0.2] * 3)) for seed in (0, 1)
    )
    layer = choose_layer(first, 64, "resnet18")
    maps = [activation_maps(model, layer, images, [0] * 4).reshape(4, -1) for model in (first, second)]
    same = activation_maps(first, layer, images, [0] * 4).reshape(4, -1)
    np.testing.assert_array_equal(maps[0], same)
    correlations = [abs(np.corrcoef(one, other)[0, 1]) for one, other in zip(*maps, strict=True)]
    assert max(correlations) < 0.9


@pytest.mark.parametrize("architecture", ["cnn", "timm/vit_tiny_patch16_224"])
def test_maps_depend_on_the_head_and_on_the_layers_below(architecture: str, params: Params) -> None:
    """Adebayo et al. randomize from the top: the head alone, then all layers; a map of edges alone would stay."""
    recipe = resolve_recipe(params, "cnn").model_copy(update={"architecture": architecture})
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, other = (
        build_model(recipe.model_copy(update={"seed": seed}), 2, 64, ([0.5] * 3, [0.2] * 3)) for seed in (0, 1)
    )
    layer = choose_layer(first, 64, architecture)
    maps = [activation_maps(first, layer, images, [0] * 4)]
    first.head.load_state_dict(other.head.state_dict())
    maps.append(activation_maps(first, layer, images, [0] * 4))
    first.backbone.load_state_dict(other.backbone.state_dict())
    maps.append(activation_maps(first, layer, images, [0] * 4))
    for one, another in ((0, 1), (1, 2), (0, 2)):
        pairs = zip(maps[one].reshape(4, -1), maps[another].reshape(4, -1), strict=True)
        correlations = [float(np.corrcoef(a, b)[0, 1]) if a.std() * b.std() > 0 else 0.0 for a, b in pairs]
        assert np.mean(np.abs(correlations)) < 0.8


def marked_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Noise of 32 pixels with a mark of 8 by 8, red in class 0 and green in class 1, in one of 4 x 4 cells.

    Returns:
        The images, their classes, and row and column of the marked cells.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    classes, cells = np.arange(count) % 2, rng.integers(0, 4, (count, 2))
    for image, label, (row, column) in zip(images, classes, 8 * cells, strict=True):
        image[:, row : row + 8, column : column + 8] = 0
        image[label, row : row + 8, column : column + 8] = 255
    return torch.from_numpy(images), torch.from_numpy(classes), cells


def small_network(seed: int) -> Classifier:
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for width, wider in ((3, 16), (16, 32)):
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return Classifier(nn.Sequential(*layers), nn.Linear(32, 2), (0.5,) * 3, (0.25,) * 3)


def test_what_a_training_has_learned_is_where_its_maps_are_and_goes_with_its_weights() -> None:
    """Adebayo et al. 2018 on a trained network: it points at the marks; with random weights it no longer does."""
    model = small_network(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(40):
        images, classes, _ = marked_images(32, step)
        images[:8] = torch.from_numpy(np.random.default_rng(step).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8))
        # Of images without a mark and of each class by itself, or one class could be the absence of the other's mark.
        targets = nn.functional.one_hot(classes, 2).float()
        targets[:8] = 0
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(images), targets).backward()
        optimizer.step()
    images, classes, cells = marked_images(64, 1000)
    assert (model(images).argmax(1) == classes).float().mean() > 0.95
    layer = choose_layer(model, 32, "small")

    def maps_and_hits() -> tuple[np.ndarray, float]:
        maps = activation_maps(model, layer, images, classes.tolist()).reshape(64, -1)
        row, column = np.divmod(maps.argmax(1), 32)
        return maps, float(((row // 8 == cells[:, 0]) & (column // 8 == cells[:, 1])).mean())

    learned, hits = maps_and_hits()
    model.load_state_dict(small_network(10).state_dict())
    random, random_hits = maps_and_hits()
    assert hits > 0.8
    assert random_hits < 0.3, "one of sixteen cells by chance"
    pairs = [(one, other) for one, other in zip(learned, random, strict=True) if one.std() * other.std() > 0]
    assert np.mean([abs(np.corrcoef(one, other)[0, 1]) for one, other in pairs]) < 0.5
