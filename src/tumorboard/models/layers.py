"""The layers of a network in their order, for learning rates that differ by depth."""

from collections import Counter

from timm.models import group_parameters
from torch.nn import Module, ModuleDict, ModuleList, Parameter, Sequential

_CONTAINERS = (Sequential, ModuleList, ModuleDict)  # but no subclass: torchvision's Conv2dNormActivation is a block


def layers_of(backbone: Module) -> list[list[Parameter]]:
    """All parameters of a network, layer by layer from the input on.

    A network of timm names its layers itself (`group_matcher`, after BEiT: Bao et al. 2022). In any other one a layer
    is a block, which is a module of a class that occurs more than once, or a single module between blocks; containers,
    and modules that occur once and have parts, are opened. What holds no matrix, such as a batch norm, joins the layer
    before it, and a parameter of an opened module (a class token, an embedding of places) the first layer.
    """
    if hasattr(backbone, "group_matcher"):
        layer_of = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
        layers: list[list[Parameter]] = [[] for _ in range(max(layer_of.values()) + 1)]
        for name, parameter in backbone.named_parameters():
            layers[layer_of[name]].append(parameter)
        return layers
    classes = Counter(type(module) for module in backbone.modules())
    loose: list[Parameter] = []
    layers = []
    for part in _blocks(backbone, classes, loose):
        if layers and all(parameter.ndim <= 1 for parameter in part):
            layers[-1] += part
        else:
            layers.append(part)
    return [loose + layers[0], *layers[1:]] if layers else [loose] * bool(loose)


def _blocks(module: Module, classes: Counter[type[Module]], loose: list[Parameter]) -> list[list[Parameter]]:
    opened = type(module) in _CONTAINERS or classes[type(module)] == 1
    if not (opened and any(True for _ in module.children())):
        return [own] if (own := list(module.parameters())) else []
    loose += module.parameters(recurse=False)
    return [block for child in module.children() for block in _blocks(child, classes, loose)]
