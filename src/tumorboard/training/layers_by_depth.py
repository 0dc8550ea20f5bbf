"""Groups the parameters of a network into layers in order of depth, for learning rates that differ per layer."""

from collections import Counter

from torch.nn import Module, ModuleDict, ModuleList, Parameter, Sequential

# Exact types only: a subclass such as torchvision's Conv2dNormActivation is a block.
_CONTAINERS = (Sequential, ModuleList, ModuleDict)


def layers_of(backbone: Module) -> list[list[Parameter]]:
    """Returns all parameters of a network, grouped into layers, from the input on.

    A network of timm names its layers itself (`group_matcher`). In any other network a layer is a block, that is a
    module of a class that occurs more than once, or a single module between blocks. Containers, and modules that
    occur once and have children, are opened. A module without a matrix, such as a batch norm, joins the layer before
    it. A parameter that an opened module holds itself (a class token, a position embedding) joins the first layer.

    Source: timm's layer decay, after BEiT (Bao et al. 2022).

    >>> from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear
    >>> network = Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), Flatten(), Linear(8, 2))
    >>> [[tuple(parameter.shape) for parameter in layer] for layer in layers_of(network)]
    [[(8, 3, 3, 3), (8,), (8,), (8,)], [(2, 8), (2,)]]
    """
    if hasattr(backbone, "group_matcher"):
        from timm.models import group_parameters  # timm is imported already, since the network is its own

        layer_of = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
        layers: list[list[Parameter]] = [[] for _ in range(max(layer_of.values()) + 1)]
        for name, parameter in backbone.named_parameters():
            layers[layer_of[name]].append(parameter)
        return layers
    classes = Counter(type(module) for module in backbone.modules())
    loose: list[Parameter] = []
    layers = []
    for block in _layer_blocks(backbone, classes, loose):
        if layers and all(parameter.ndim <= 1 for parameter in block):
            layers[-1] += block
        else:
            layers.append(block)
    return [loose + layers[0], *layers[1:]] if layers else [loose] * bool(loose)


def _layer_blocks(module: Module, classes: Counter[type[Module]], loose: list[Parameter]) -> list[list[Parameter]]:
    """Returns the parameters of each block of a module; adds those that opened modules hold themselves to `loose`."""
    is_opened = type(module) in _CONTAINERS or classes[type(module)] == 1
    if not (is_opened and any(True for _ in module.children())):
        return [own] if (own := list(module.parameters())) else []
    loose += module.parameters(recurse=False)
    return [block for child in module.children() for block in _layer_blocks(child, classes, loose)]
