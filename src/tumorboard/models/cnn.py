"""Small convolutional networks to be trained from scratch."""

from torch import nn


def cnn(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Images [N, 3, H, W] to features [N, 256]: four blocks of 3x3 convolution, batch norm and ReLU, pooled."""
    layers: list[nn.Module] = []
    width = 3
    for wider in (32, 64, 128, 256):
        layers += [
            nn.Conv2d(width, wider, 3, padding=1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def cnn3(size: int) -> nn.Module:
    """Images [N, 3, size, size] to features [N, 64]: three convolutions (5x5 16, 5x5 16, 3x3 3), pooled, and 64."""
    side = (((size - 4) // 2 - 4) // 2 - 2) // 2
    return nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 3, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3 * side * side, 64),
        nn.ReLU(inplace=True),
    )
