"""Loads pre-trained weights into a backbone."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tumorboard.base.errors import InputError
from tumorboard.models.fit_tensors import check_finite, fit_tensors
from tumorboard.models.output_layer import output_layer_names, removed_layer_names
from tumorboard.models.packaged import packaged_tensors
from tumorboard.models.published import PACKAGES, check_published
from tumorboard.models.study_code import is_study_code
from tumorboard.models.tensors import copy_tensors, read_tensors
from tumorboard.models.timm_names import TIMM_PREFIX, create_timm
from tumorboard.models.zoo import torchvision_models

_LSTM = "lstm."  # prefix of the tensors that lstm_resnet18 has and ResNet-18 has not


def load_pretrained(backbone: nn.Module, architecture: str, pretrained: str) -> None:
    """Copies pre-trained weights into a backbone; no code in a file is run.

    The network's own output layer is left out where the backbone has none or one of another width. Every other tensor
    must fit by name and shape, as `fit_tensors` reads the file. The backbone `lstm_resnet18` takes the weights of a
    ResNet-18 into its inner network.

    Args:
        backbone: receives the weights.
        architecture: the backbone's name in the registry.
        pretrained: "none", "imagenet" (downloaded by torchvision or timm), "packaged", or the path of a .safetensors,
            .pth or .pt file. A file has the tensor names of torchvision or timm, or is a model file of this project.

    Raises:
        InputError: names the source and the first tensor that does not fit or is not finite.
    """
    if pretrained == "none":
        return
    where = f"pretrained: {pretrained}, for {architecture}"
    if pretrained == "imagenet":
        check_published(architecture)
        tensors = _imagenet_tensors("resnet18" if architecture == "lstm_resnet18" else architecture)
    elif pretrained == "packaged":
        tensors = packaged_tensors(architecture)
    else:
        tensors = read_tensors(Path(pretrained))
    if architecture == "lstm_resnet18" and not any(_LSTM in name for name in tensors):
        backbone = backbone.get_submodule("resnet")
    outputs = removed_layer_names(backbone) if is_study_code(architecture) else output_layer_names(backbone)
    fitted = fit_tensors(tensors, backbone, where, outputs)
    check_finite(fitted, where)
    copy_tensors(backbone, fitted, where)


def _imagenet_tensors(architecture: str) -> Mapping[str, Tensor]:
    """Returns the weights that timm or torchvision publishes, downloaded where they are not cached."""
    try:
        if architecture.startswith(TIMM_PREFIX):
            return create_timm(architecture, pretrained=True).state_dict()
        weights = torchvision_models().get_model_weights(architecture).DEFAULT
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise InputError(
            f"pretrained: imagenet: the weights of {architecture} cannot be fetched ({error}). Without a network, set "
            f"pretrained to packaged (with architecture {next(iter(PACKAGES))}), or fetch them elsewhere and set it to "
            "the path of that .safetensors or .pth file"
        ) from error
    # DenseNet's published files have the tensor names of an older torchvision.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
