"""The linear network: pixels straight into fully connected layers."""

from torch import nn


def linear(size: int) -> nn.Module:
    """Images [N, 3, size, size] to features [N, 1000]: flatten, 1000, ReLU, dropout 0.25, 1000, ReLU, 1000."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * size * size, 1000),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(1000, 1000),
        nn.ReLU(),
        nn.Linear(1000, 1000),
    )
