"""The layers that compute a network's own outputs: their names, and how their tensors are left out."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor, nn

_OUTPUT_LAYER = re.compile(r"(resnet\.)?(fc|classifier|heads?)\b")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # side outputs of GoogLeNet and Inception, used in their training only

_log = logging.getLogger(__name__)


def output_layer_names(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the layers that compute a network's own outputs, or of the Identity in their place.

    There is one in torchvision's classifiers and in most of timm's (two in distilled ones), and none in the project's
    own networks that end in features. Some of timm's have a norm or a hidden layer before it, and timm removes them
    together.

    >>> import torchvision
    >>> output_layer_names(torchvision.models.resnet18())
    ('fc',)
    >>> output_layer_names(nn.Sequential(nn.Flatten(), nn.Linear(12, 64)))
    ()
    """
    if cfg := getattr(network, "pretrained_cfg", None):  # set by timm
        names = cfg["classifier"]
        return tuple(_removed(network, name) for name in ((names,) if isinstance(names, str) else names or ()))
    candidates = [
        name
        for name, layer in network.named_modules()
        if _OUTPUT_LAYER.match(name) and isinstance(layer, (nn.Linear, nn.Conv2d, nn.Identity))
    ]
    return tuple(candidates[-1:])


def _removed(network: nn.Module, name: str) -> str:
    """Returns the first module on a path of names that a network lacks or has an Identity for, else the whole path."""
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return next((path for path in paths if _is_removed(network, path)), name)


def _is_removed(network: nn.Module, name: str) -> bool:
    try:
        return isinstance(network.get_submodule(name), nn.Identity)
    except AttributeError:  # there is no such module
        return True


def removed_layer_names(network: nn.Module) -> tuple[str, ...]:
    """Returns the output layers that a network lacks or has an Identity for; a file's tensors for them are not used.

    For a network of the study's own code only these are left out; a layer that it calls `fc` may be a hidden one.
    """
    return tuple(name for name in output_layer_names(network) if _is_removed(network, name))


def without_output_layer(
    tensors: Mapping[str, Tensor], backbone: nn.Module, where: str, outputs: tuple[str, ...]
) -> dict[str, Tensor]:
    """Returns the tensors that a backbone can take.

    Side outputs are left out, and so is an output layer that the backbone lacks. For an output layer of another width
    the backbone's own tensors are returned, with a warning in the log.

    Args:
        tensors: the tensors by name.
        backbone: the network.
        where: the beginning of the warning, such as the file's name.
        outputs: names of the output layers.
    """
    own = backbone.state_dict()
    prefixes = tuple(f"{name}." for name in outputs)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_AUXILIARY)}
    for name in [name for name in kept if name.startswith(prefixes)]:
        if name not in own:
            del kept[name]
        elif own[name].shape != kept[name].shape:
            _log.warning("%s: output layer '%s' has another width and is left out", where, name)
            kept[name] = own[name]
    return kept
