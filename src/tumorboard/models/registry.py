"""Networks by name: own ones, every classifier of torchvision, every one of timm as `timm/<name>`."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from tumorboard.errors import InputError
from tumorboard.models.cnn import cnn, cnn3
from tumorboard.models.googlenet import googlenet_bn
from tumorboard.models.heads import build_head
from tumorboard.models.linear import linear
from tumorboard.models.lstm_resnet import LstmResNet18
from tumorboard.models.pretrained import TIMM, load_pretrained, output_layers
from tumorboard.params import Recipe


class Classifier(nn.Module):
    """Images to logits: normalisation by `mean` and `std` (buffers), a `backbone` to features, a `head` to classes."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] of grey values 0 to 255, uint8 or float, to logits [N, K]."""
        logits: Tensor = self.head(self.backbone((images - 255 * self.mean) / (255 * self.std)))
        return logits


def build_model(
    recipe: Recipe, classes: int, size: int, mean_std: tuple[Sequence[float], Sequence[float]]
) -> Classifier:
    """The network of a recipe for images of `size` pixels, on the CPU, initialised or pre-trained as the recipe says.

    A function of its arguments (and a weights file that the recipe names): the weights are drawn from recipe.seed and
    the caller's random state stays as it was. Raises InputError for an unknown architecture, a size that it cannot
    take, and weights that do not fit.
    """
    check_architecture(recipe.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        try:
            backbone = _build_backbone(recipe.architecture, size)
            if recipe.head_input == "features":
                _remove_output_layer(backbone, recipe.architecture)
            features = _count_features(backbone, size)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise InputError(
                f"architecture {recipe.architecture} cannot take images of crop.side {size} pixels: {error}"
            ) from error
        if recipe.head_input == "classifier" and not output_layers(backbone) and features != 1000:
            raise InputError(
                f"architecture {recipe.architecture} has no output layer of its own: set head_input to features"
            )
        head = build_head(recipe, features, classes)
    load_pretrained(backbone, recipe.architecture, recipe.pretrained)
    return Classifier(backbone, head, *mean_std)


def check_architecture(name: str) -> None:
    """Raise InputError, with the nearest names and the list of own ones, where no architecture has this name."""
    timm_names = [TIMM + known for known in (*timm.list_models(), *timm.list_models(pretrained=True))]
    known = {*ARCHITECTURES, *_torchvision_names(), *timm_names}
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known), n=3)
        raise InputError(
            f"unknown architecture '{name}'{'; did you mean ' + ', '.join(close) + '?' if close else '.'} "
            f"Own ones: {', '.join(ARCHITECTURES)}; beside them every classifier of torchvision by its name there "
            f"and every model of timm as {TIMM}<name>"
        )


def _torchvision_names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _build_backbone(architecture: str, size: int) -> nn.Module:
    settings: dict[str, Any] = {}
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](size)
    if architecture.startswith(TIMM):
        name = architecture.removeprefix(TIMM)
        cfg: Any = timm.get_pretrained_cfg(name)
        settings = {"img_size": size} if cfg.fixed_input_size else {}
        return timm.create_model(name, num_classes=1000, **settings)
    if architecture in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    elif architecture.startswith("vit_"):
        settings = {"image_size": size}
    elif architecture.startswith("maxvit_"):
        settings = {"input_size": (size, size)}
    network: nn.Module = torchvision.models.get_model(architecture, **settings)
    return network


def _remove_output_layer(backbone: nn.Module, architecture: str) -> None:
    """Leave the features that the network's own output layer was made to read."""
    if architecture.startswith(TIMM):
        backbone.reset_classifier(0)  # type: ignore[operator]  # a method of every network of timm
    else:
        for name in output_layers(backbone):
            backbone.set_submodule(name, nn.Identity())


@torch.no_grad()
def _count_features(backbone: nn.Module, size: int) -> int:
    """The width F of the features [1, F] of one image; raises ValueError where there are others."""
    backbone.eval()
    features = backbone(torch.zeros(1, 3, size, size))
    backbone.train()
    if features.ndim != 2:
        raise ValueError(f"its features have the shape {list(features.shape)}")
    return int(features.shape[1])


def _lstm_resnet18(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    return LstmResNet18()


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "linear": linear,
    "cnn": cnn,
    "cnn3": cnn3,
    "googlenet_bn": googlenet_bn,
    "lstm_resnet18": _lstm_resnet18,
}
