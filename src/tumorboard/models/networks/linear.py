"""A network without convolutions: fully connected layers on the pixels."""

from torch import nn


def linear(size: int) -> nn.Module:
    """Returns a network from images [N, 3, size, size] to features [N, 1000].

    Three fully connected layers of 1000, with ReLU and dropout of 0.25 after the first and ReLU after the second.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * size * size, 1000),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(1000, 1000),
        nn.ReLU(),
        nn.Linear(1000, 1000),
    )
