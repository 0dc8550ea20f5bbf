"""The models that a new study begins with, by its preset."""

from importlib.util import find_spec
from typing import NamedTuple

from tumorboard.base.presets import check_preset
from tumorboard.models.published import PACKAGES


class Panel(NamedTuple):
    """The models of a new study and the reason for them."""

    models: tuple[str, ...]  # entries of the package's recipes
    reason: str  # one sentence without a final period


_SMALL = Panel(
    ("cnn", "resnet18"),
    "from scratch; on two sets of small pictures of cells ahead of a fine-tuned network (docs/results.md)",
)
_PRE_TRAINED = Panel(
    ("resnet18", "efficientnet_lite0"),
    "the second one begins with ImageNet weights, which need fewer images; measured on brain MRI (docs/results.md)",
)
_NETWORK = "timm/tf_efficientnet_lite0"  # the architecture of efficientnet_lite0


def panel_of(preset: str) -> Panel:
    """Returns the models that a new study begins with.

    Args:
        preset: the study's preset. Without the package of pre-trained weights, both models begin from scratch
            and the reason names the command that installs it.

    Raises:
        InputError: there is no such preset.
    """
    if check_preset(preset) == "cells":
        return _SMALL
    if find_spec(PACKAGES[_NETWORK][0]) is None:
        return Panel(
            _SMALL.models,
            "from scratch; a pre-trained member needs pip install 'tumorboard[pretrained-offline]', and then "
            f"models: [{', '.join(_PRE_TRAINED.models)}]",
        )
    return _PRE_TRAINED
