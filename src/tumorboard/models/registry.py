"""Builds networks by name: the project's own, those of torchvision, of timm as `timm/<name>`, and the study's own."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tumorboard.base.errors import InputError, clip
from tumorboard.base.params import Params, Recipe, resolve_recipe
from tumorboard.models.heads import build_head
from tumorboard.models.networks.cnn import cnn, cnn3
from tumorboard.models.networks.googlenet import googlenet_bn
from tumorboard.models.networks.linear import linear
from tumorboard.models.networks.lstm_resnet import lstm_resnet18
from tumorboard.models.networks.resnet_v1 import resnet50_v1, resnet101_v1, resnet152_v1
from tumorboard.models.output_layer import output_layer_names
from tumorboard.models.pretrained import load_pretrained, pin_pretrained, published_tag
from tumorboard.models.study_code import (
    FOLDER,
    build_study_network,
    is_study_code,
    load_factory,
    study_digest,
    study_features,
    study_sources,
)
from tumorboard.models.timm_names import TIMM_PREFIX, create_timm, is_hub_name, timm_config, timm_names

_OUTPUTS = 1000  # of a network with an output layer of its own, the classes of ImageNet

ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
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

    mean: Tensor  # buffer [1, 3, 1, 1], of pixel values from 0 to 1
    std: Tensor  # likewise
    versions: dict[str, str]  # what the model card records of the network, as `build_model` sets it

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keeps the parts.

        Args:
            backbone: from normalized images [N, 3, S, S] to features [N, F].
            head: from features [N, F] to logits [N, K].
            mean: one number per channel, of pixel values from 0 to 1.
            std: standard deviation, likewise.
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
        recipe: its `architecture`, `seed`, `pretrained`, `head` and `head_*` entries count.
        classes: number K of classes.
        size: side of the square images in pixels.
        mean_std: mean and standard deviation, one number per channel, of pixel values from 0 to 1.

    Raises:
        InputError: the architecture is unknown or cannot take images of this size, or the weights do not fit.
    """
    check_architecture(recipe.architecture)
    versions = _network_versions(recipe)  # of the code that is about to run
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
        recipe: as of `build_model`.
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
    """Puts new tensors on torch's device `meta`, except ranges: some networks compute their layout from these.

    `torch.device("meta")` would put all of them there, and the RegNets of torchvision cannot be built.
    """

    _FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _unfit_size(architecture: str, size: int, error: Exception) -> InputError:
    return InputError(f"architecture {architecture} cannot take images of crop.side {size} pixels: {error}")


def check_architecture(name: str) -> None:
    """Checks that an architecture has this name.

    Raises:
        InputError: there is none; names the nearest ones and lists the project's own. Or it names code of the study
            that is missing.

    >>> check_architecture("resnet18")
    >>> check_architecture("resnet_18")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tumorboard.base.errors.InputError: unknown architecture 'resnet_18'; did you mean resnet18, ...
    """
    if is_study_code(name):
        study_sources(name)
        return
    known = {*ARCHITECTURES, *_torchvision_names(), *timm_names()}
    if name not in known and not is_hub_name(name):
        close = difflib.get_close_matches(name, sorted(known), n=3)
        raise InputError(
            f"unknown architecture {clip(name)!r}{'; did you mean ' + ', '.join(close) + '?' if close else '.'} "
            f"Own ones: {', '.join(ARCHITECTURES)}; beside them every classifier of torchvision by its name there, "
            f"every model of timm as {TIMM_PREFIX}<name> and of the Hub as {TIMM_PREFIX}hf-hub:<owner>/<name>, and the "
            f"study's own as {FOLDER}.<module>:<factory>"
        )


def check_progressive(recipe: Recipe, size: int) -> None:
    """Checks that a network takes images of other sides than it was built for, where `progressive` needs that.

    Args:
        recipe: its `progressive` and `architecture` count.
        size: the full side of the images in pixels.

    Raises:
        InputError: its weights depend on the side, or it takes no other side.
    """
    name = recipe.architecture
    if recipe.progressive == 1:
        return
    fixed = timm_config(name).fixed_side if name.startswith(TIMM_PREFIX) else name.startswith(("vit_", "maxvit_"))
    if fixed or _weights_of(recipe, size) != _weights_of(recipe, 2 * size):
        raise InputError(
            f"progressive is {recipe.progressive:g}, but architecture {name} takes images of one side only, "
            f"crop.side {size}: set progressive to 1 for it, or choose a network that pools over the whole image"
        )


def _weights_of(recipe: Recipe, size: int) -> dict[str, torch.Size]:
    """Returns the shapes of the weights of a backbone for images of a side, by name."""
    backbone = outline_model(recipe, 2, size, 1).backbone
    return {key: tensor.shape for key, tensor in backbone.state_dict().items()}  # type: ignore[operator]


def pin_recipes(params: Params) -> dict[str, dict[str, Any]]:
    """Resolves and checks the recipes of all models that run, so that none fails after others were trained.

    Args:
        params: `models` names those that run.

    Returns:
        Each model's whole recipe as JSON values, by model name. Where `pretrained` names a file, `pretrained_sha256` is
        its digest; where it is `imagenet`, `pretrained_tag` is the name of the weights. Where `architecture` is code of
        the study, `architecture_sha256` is its digest.

    Raises:
        InputError: names the recipe whose entries, architecture or pre-trained weights cannot be used.
    """
    recipes = {model: resolve_recipe(params, model) for model in params.models}
    return {model: _pin_recipe(recipe, params.crop.side, f"recipes.{model}") for model, recipe in recipes.items()}


def _pin_recipe(recipe: Recipe, size: int, where: str) -> dict[str, Any]:
    try:
        check_architecture(recipe.architecture)
        check_progressive(recipe, size)
        pinned = pin_pretrained(recipe)
        if is_study_code(recipe.architecture):
            load_factory(recipe.architecture)
            pinned["architecture_sha256"] = study_digest(recipe.architecture)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return recipe.model_dump(mode="json") | pinned


def _network_versions(recipe: Recipe) -> dict[str, str]:
    """Returns the SHA-256 of the study's own code by the architecture's name, and the name of weights by "imagenet"."""
    code = {recipe.architecture: study_digest(recipe.architecture)} if is_study_code(recipe.architecture) else {}
    return code | ({"imagenet": published_tag(recipe.architecture)} if recipe.pretrained == "imagenet" else {})


def _torchvision_names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


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
    network: nn.Module = torchvision.models.get_model(architecture, **settings)
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
