"""Two small convolutional networks for training from scratch."""

from torch import nn


def cnn(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns a network from images [N, 3, H, W] to features [N, 256].

    Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pool, with 32, 64, 128 and 256 channels, then a global
    average pool.
    """
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
    """Returns a network from images [N, 3, size, size] to features [N, 64].

    Three convolutions that keep the side: 5x5 with 16 channels, 5x5 with 16, 3x3 with 3. Each is followed by ReLU, the
    first two also by a 2x2 max pool. A fully connected layer of 64 ends it, without an activation, so that it and a
    linear head compute a linear map together.

    >>> sum(parameter.numel() for parameter in cnn3(64).parameters())  # 57,413 with a linear head of two classes
    57283
    """
    side = size // 2 // 2  # side of the last feature map, in pixels
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(3 * side * side, 64),
    )
