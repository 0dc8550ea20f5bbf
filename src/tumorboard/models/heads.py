"""Builds heads: the layers that turn a backbone's features into one logit per class."""

from collections.abc import Callable

from torch import nn

from tumorboard.base.params import Train

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def build_head(recipe: Train, features: int, classes: int) -> nn.Module:
    """Returns the head that `recipe.head` names in `HEADS`.

    Args:
        recipe: its `head` and `head_*` entries are used.
        features: width F of the backbone's features.
        classes: number K of classes.

    Returns:
        A module from features [N, F] to logits [N, K].
    """
    return HEADS[recipe.head](recipe, features, classes)


def linear_head(recipe: Train, features: int, classes: int) -> nn.Module:  # noqa: ARG001 - all heads share a signature
    """Returns one linear layer."""
    return nn.Linear(features, classes)


def mlp_head(recipe: Train, features: int, classes: int) -> nn.Module:
    """Returns hidden layers of `head_widths`, each linear, batch norm, activation and dropout, then a linear layer."""
    widths = recipe.head_widths
    norms, dropouts = recipe.head_batch_norm, recipe.head_dropout
    norms = norms if isinstance(norms, tuple) else (norms,) * len(widths)
    dropouts = dropouts if isinstance(dropouts, tuple) else (dropouts,) * len(widths)
    layers: list[nn.Module] = []
    for width, norm, dropout in zip(widths, norms, dropouts, strict=True):
        layers.append(nn.Linear(features, width))
        if norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(_ACTIVATIONS[recipe.head_activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


HEADS: dict[str, Callable[[Train, int, int], nn.Module]] = {"linear": linear_head, "mlp": mlp_head}
