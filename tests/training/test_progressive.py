"""Sides by hand, scaled images against Pillow, and trainings whose images grow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.training.trainings import CPU, MakeJob, train
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe, Runtime
from tumorboard.models.model_file import load_model
from tumorboard.models.recipes import check_progressive, pin_recipes
from tumorboard.models.registry import Classifier
from tumorboard.training.distributed import Group
from tumorboard.training.loop import mean_std_of, set_up
from tumorboard.training.progressive import resize_images, rising_sides, sides_by_epoch

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(params: Params) -> MakeRecipe:
    def make(**changes: Any) -> Recipe:
        return Recipe(**dict(params.train) | {"progressive": 0.5} | changes, seed=0)

    return make


@pytest.mark.parametrize(
    ("share", "epochs", "side", "step", "expected"),
    [
        (0.5, 8, 64, 16, (32, 32, 48, 48, 64, 64, 64, 64)),  # exactly 32, 38.4, 44.8, 51.2, 57.6, then 64
        (0.5, 6, 224, 16, (112, 144, 176, 192, 224, 224)),  # 112, 140, 168, 196
        (0.5, 6, 224, 32, (128, 128, 160, 192, 224, 224)),
        (0.5, 2, 100, 16, (48, 100)),
        (0.5, 1, 64, 16, (64,)),
        (0.01, 3, 64, 16, (16, 32, 64)),
        (0.99, 3, 70, 16, (64, 64, 70)),
        (0.99, 3, 78, 16, (78, 78, 78)),  # a multiple above the full side is no side
        (0.5, 3, 16, 32, (16, 16, 16)),
    ],
)
def test_sides_by_hand(share: float, epochs: int, side: int, step: int, expected: tuple[int, ...]) -> None:
    assert rising_sides(share, epochs, side=side, step=step) == expected


def test_scaled_images_are_pillows_and_each_its_own() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    images = torch.from_numpy(crops).permute(0, 3, 1, 2)
    scaled = resize_images(images, 48)
    assert (scaled.dtype, scaled.shape) == (torch.float32, (5, 3, 48, 48))
    pillow = [np.asarray(Image.fromarray(crop).resize((48, 48), Image.Resampling.BILINEAR)) for crop in crops]
    np.testing.assert_allclose(scaled.permute(0, 2, 3, 1), np.stack(pillow), atol=1.01)  # Pillow rounds twice
    for row in range(5):
        assert torch.equal(resize_images(images[row : row + 1], 48)[0], scaled[row])
    assert resize_images(images, 64) is images


class EvenOnly(nn.Module):
    """Takes images whose side is a multiple of 32, as networks do that join feature maps of several scales."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] % 32:
            raise RuntimeError("sizes must match\nmore")
        return images.mean((2, 3))


def test_a_network_for_multiples_of_32_gets_these(recipe: MakeRecipe) -> None:
    model = Classifier(EvenOnly(), nn.Linear(3, 2), (0.5,) * 3, (0.25,) * 3)
    given = recipe(epochs=6, architecture="cnn")
    assert sides_by_epoch(model, given, 224) == (128, 128, 160, 192, 224, 224)
    assert sides_by_epoch(model, given.model_copy(update={"progressive": 1.0}), 50) == (50,) * 6
    with pytest.raises(
        InputError, match=r"cnn does not take the smaller images of progressive 0\.5 \(48 pixels: sizes must match\)"
    ):
        sides_by_epoch(model, given, 100)  # whose full side is none


def test_images_too_small_for_the_network_are_named(recipe: MakeRecipe) -> None:
    given = recipe(epochs=3, architecture="resnet18", progressive=0.01)
    pooled = nn.Sequential(nn.AvgPool2d(24), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(pooled, nn.Linear(3, 2), (0.5,) * 3, (0.25,) * 3)
    assert sides_by_epoch(model, given.model_copy(update={"progressive": 0.5}), 64) == (32, 48, 64)
    assert sides_by_epoch(model, given, 64) == (32, 32, 64)  # in steps of 32
    model.backbone[0] = nn.AvgPool2d(40)
    with pytest.raises(InputError, match=r"resnet18 does not take the smaller images of progressive 0\.01 \(16 pixels"):
        sides_by_epoch(model, given, 64)


@pytest.mark.parametrize("architecture", ["linear", "cnn3", "vit_b_16", "maxvit_t", "timm/vit_tiny_patch16_224"])
def test_a_network_for_one_side_is_refused_by_name(recipe: MakeRecipe, architecture: str) -> None:
    message = rf"progressive is 0\.5, but architecture {architecture} takes images of one side only, crop\.side 64"
    with pytest.raises(InputError, match=message):
        check_progressive(recipe(architecture=architecture), 64)
    check_progressive(recipe(architecture=architecture, progressive=1.0), 64)


@pytest.mark.parametrize("architecture", ["cnn", "resnet18", "lstm_resnet18", "timm/tf_efficientnet_lite0"])
def test_a_network_for_any_side_is_accepted(recipe: MakeRecipe, architecture: str) -> None:
    check_progressive(recipe(architecture=architecture), 64)


def test_the_stage_recipe_refuses_before_anything_is_trained(params: Params) -> None:
    growing = params.model_copy(update={"train": params.train.model_copy(update={"progressive": 0.5})})
    with pytest.raises(InputError, match=r"recipes\.linear: progressive is 0\.5, but architecture linear"):
        pin_recipes(growing.model_copy(update={"models": ("linear", "cnn")}))
    assert pin_recipes(growing.model_copy(update={"models": ("cnn",)}))["cnn"]["progressive"] == 0.5


def sides_seen(job: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Trains a job; returns the mode and the side of each of the network's passes."""
    seen: list[tuple[bool, int]] = []
    forward = Classifier.forward

    def watched(model: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append((model.training, images.shape[-1]))
        return forward(model, images)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", watched)
        train(job, runtime)
    return seen


def test_training_images_grow_and_validation_images_do_not(
    make_job: MakeJob, alone: Runtime, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 images in three steps per epoch, with cutmix, whose boxes are in pixels of the epoch's side."""
    changes = {"architecture": "cnn", "epochs": 3, "progressive": 0.5, "cutmix": 1.0, "augment": params.train.augment}
    job = make_job(**changes)
    setup, _ = set_up(Group(0, 1, CPU), job, mean_std_of(job))
    assert setup.sides == (16, 32, 32)
    seen = sides_seen(job, alone, monkeypatch)
    assert [side for training, side in seen if training][1:] == [16] * 3 + [32] * 6  # after the pass of set_up
    assert {side for training, side in seen[4:] if not training} == {32}
    _, card = load_model(job.weights, CPU)
    assert card.recipe.progressive == 0.5


@pytest.mark.slow
def test_two_processes_train_on_images_of_the_same_sides(make_job: MakeJob, alone: Runtime) -> None:
    """A frozen backbone, whose batch norm does not depend on what a process sees; the mean of two epochs is kept."""
    changes = {"architecture": "cnn", "backbone_lr_scale": 0.0, "epochs": 3, "progressive": 0.5, "cutmix": 1.0}
    changes |= {"average_last": 2, "keep": "last", "tta": ("shift",)}
    one, _ = train(make_job(out="one", **changes), alone)
    two, _ = train(make_job(out="two", **changes), alone.model_copy(update={"processes": 2}))
    other, _ = train(make_job(out="other", **changes | {"progressive": 1.0}), alone)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, atol=2e-6, rtol=1e-4)
    assert (other.head.weight - one.head.weight).abs().max() > 1e-4
