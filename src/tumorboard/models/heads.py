"""Heads: what turns a network's features into one logit a class."""

from torch import nn

from tumorboard.params import Train

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def build_head(recipe: Train, features: int, classes: int) -> nn.Module:
    """A module from features [N, F] to logits [N, K]: `HEADS` by name."""
    return HEADS[recipe.head](recipe, features, classes)


def linear(recipe: Train, features: int, classes: int) -> nn.Module:  # noqa: ARG001 - all heads are called alike
    """One linear layer."""
    return nn.Linear(features, classes)


def mlp(recipe: Train, features: int, classes: int) -> nn.Module:
    """Hidden layers of `head_widths` (linear, batch norm, activation, dropout), then a linear layer."""
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


HEADS = {"linear": linear, "mlp": mlp}
