"""Builds networks by name: the project's own, torchvision's, timm's as `timm/<name>`, and the study's own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.models.heads import build_head
from tumorboard.models.names import check_architecture
from tumorboard.models.networks.cnn import cnn, cnn3
from tumorboard.models.networks.googlenet import googlenet_bn
from tumorboard.models.networks.linear import linear
from tumorboard.models.networks.lstm_resnet import lstm_resnet18
from tumorboard.models.networks.resnet_v1 import resnet50_v1, resnet101_v1, resnet152_v1
from tumorboard.models.output_layer import output_layer_names
from tumorboard.models.pretrained import load_pretrained
from tumorboard.models.published import published_tag
from tumorboard.models.study_code import build_study_network, is_study_code, study_digest, study_features
from tumorboard.models.timm_names import TIMM_PREFIX, create_timm, timm_config
from tumorboard.models.zoo import torchvision_models

_OUTPUTS = 1000  # outputs of a network's own output layer: the classes of ImageNet

ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {  # `names.OWN` lists the same names
    "linear": linear,
    "cnn": cnn,
    "cnn3": cnn3,
    "googlenet_bn": googlenet_bn,
    "lstm_resnet18": lstm_resnet18,
    "resnet50_v1": resnet50_v1,
    "resnet101_v1": resnet101_v1,
    "resnet152_v1": resnet152_v1,
}


class Classifier(nn.Module):
    """Turns images into logits: normalizes the pixels, then runs a backbone and a head."""

    mean: Tensor  # buffer [1, 3, 1, 1]: mean of pixel values from 0 to 1, per channel
    std: Tensor  # buffer [1, 3, 1, 1]: standard deviation of pixel values from 0 to 1, per channel
    versions: dict[str, str]  # the model card's entries about the network, as `build_model` sets them

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keeps the parts.

        Args:
            backbone: maps normalized images [N, 3, S, S] to features [N, F].
            head: maps features [N, F] to logits [N, K].
            mean: mean of pixel values from 0 to 1, one number per channel.
            std: standard deviation of pixel values from 0 to 1, one number per channel.
        """
        super().__init__()
        self.versions = {}
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits [N, K] of images [N, 3, S, S] with pixel values from 0 to 255, uint8 or float."""
        logits: Tensor = self.head(self.backbone((images - 255 * self.mean) / (255 * self.std)))
        return logits


def build_model(
    recipe: Recipe, classes: int, size: int, mean_std: tuple[Sequence[float], Sequence[float]]
) -> Classifier:
    """Builds the network of a recipe on the CPU, initialized at random or with pre-trained weights.

    The weights depend on the arguments and the weights file alone: random ones are drawn from `recipe.seed`, and the
    caller's random state is unchanged.

    Args:
        recipe: its `architecture`, `seed`, `pretrained`, `head` and `head_*` entries are used.
        classes: number K of classes.
        size: side of the square images in pixels.
        mean_std: mean and standard deviation, one number per channel, of pixel values from 0 to 1.

    Raises:
        InputError: the architecture is unknown or cannot take images of this size, or the weights do not fit.
    """
    check_architecture(recipe.architecture)
    versions = _network_versions(recipe)  # versions of the code that is about to run
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        try:
            backbone = _build_backbone(recipe.architecture, size)
            if recipe.head_input == "features":
                _remove_output_layer(backbone, recipe.architecture)
            features = _count_features(backbone, size, recipe.architecture)
        except InputError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise _unfit_size(recipe.architecture, size, error) from error
        has_outputs = not is_study_code(recipe.architecture) and output_layer_names(backbone)
        if recipe.head_input == "classifier" and not has_outputs and features != _OUTPUTS:
            raise InputError(
                f"architecture {recipe.architecture} has no output layer of its own: set head_input to features"
            )
        head = build_head(recipe, features, classes)
    load_pretrained(backbone, recipe.architecture, recipe.pretrained)
    model = Classifier(backbone, head, *mean_std)
    model.versions = versions
    return model


def outline_model(recipe: Recipe, classes: int, size: int, features: int) -> Classifier:
    """Builds the network of a recipe as `build_model` does, but with tensors that have a shape and take no memory.

    The backbone of the study's own code is built as it is: its code may need values.

    Args:
        recipe: as in `build_model`.
        classes: number K of classes.
        size: side of the square images in pixels.
        features: width F of the backbone's features.

    Raises:
        InputError: the architecture is unknown or cannot take images of this size.
    """
    check_architecture(recipe.architecture)
    with torch.random.fork_rng(devices=[]):
        own = build_study_network(recipe.architecture, size) if is_study_code(recipe.architecture) else None
    with _WithoutMemory():
        try:
            backbone = _build_backbone(recipe.architecture, size) if own is None else own
            if recipe.head_input == "features":
                _remove_output_layer(backbone, recipe.architecture)
        except InputError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise _unfit_size(recipe.architecture, size, error) from error
        mean_std = ((0.0,) * 3, (1.0,) * 3)
        return Classifier(backbone, build_head(recipe, features, classes), *mean_std)


class _WithoutMemory(TorchFunctionMode):
    """Puts new tensors on torch's device `meta`, except ranges, from which some networks compute their layout.

    `torch.device("meta")` would put all of them there, and then torchvision's RegNets cannot be built. Random values,
    which a tensor without memory cannot hold, are not drawn: torch would import its compiler for that.
    """

    _FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
    _DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._DRAWS and args[0].is_meta:
            return args[0]
        if func in self._FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _unfit_size(architecture: str, size: int, error: Exception) -> InputError:
    return InputError(f"architecture {architecture} cannot take images of crop.side {size} pixels: {error}")


def _network_versions(recipe: Recipe) -> dict[str, str]:
    """Returns the SHA-256 of the study's own code by the architecture's name, and the weights' name by "imagenet"."""
    code = {recipe.architecture: study_digest(recipe.architecture)} if is_study_code(recipe.architecture) else {}
    return code | ({"imagenet": published_tag(recipe.architecture)} if recipe.pretrained == "imagenet" else {})


def _build_backbone(architecture: str, size: int) -> nn.Module:
    """Returns the whole network of an architecture, with its own output layer and random weights."""
    settings: dict[str, Any] = {}
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](size)
    if is_study_code(architecture):
        return build_study_network(architecture, size)
    if architecture.startswith(TIMM_PREFIX):
        settings = {"img_size": size} if timm_config(architecture).fixed_side else {}
        return create_timm(architecture, num_classes=_OUTPUTS, **settings)
    if architecture in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    elif architecture.startswith("vit_"):
        settings = {"image_size": size}
    elif architecture.startswith("maxvit_"):
        settings = {"input_size": (size, size)}
    network: nn.Module = torchvision_models().get_model(architecture, **settings)
    return network


def _remove_output_layer(backbone: nn.Module, architecture: str) -> None:
    """Makes a network return the features that its own output layer reads; the study's own returns features already."""
    if is_study_code(architecture):
        return
    if architecture.startswith(TIMM_PREFIX):
        backbone.reset_classifier(0)  # type: ignore[operator]  # a method of every network of timm
    else:
        for name in output_layer_names(backbone):
            backbone.set_submodule(name, nn.Identity())


def _count_features(backbone: nn.Module, size: int, architecture: str) -> int:
    """Returns the width F of the features [N, F] of N images; raises ValueError where they have another shape."""
    backbone.eval()
    with torch.no_grad():
        if is_study_code(architecture):
            features = study_features(backbone, size, architecture)
        else:
            features = backbone(torch.zeros(1, 3, size, size))
    backbone.train()
    if features.ndim != 2:
        raise ValueError(f"its features have the shape {list(features.shape)}")
    return int(features.shape[1])
