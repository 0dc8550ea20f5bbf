"""An LSTM that reads the pixels one by one, followed by a ResNet-18 that sees the LSTM's outputs as an image."""

from torch import Tensor, nn

from tumorboard.models.zoo import torchvision_models


def lstm_resnet18(size: int) -> nn.Module:  # noqa: ARG001 - all own architectures are called with the size
    """Returns an `LstmResNet18`, which takes images of any size."""
    return LstmResNet18()


class LstmResNet18(nn.Module):
    """Turns images [N, 3, H, W] into the outputs [N, 1000] of a ResNet-18, or into features where its `fc` is removed.

    An LSTM of width 12 reads the H*W pixels row by row, three values per pixel. Its outputs form an image of 12
    channels, which a 3x3 convolution reduces to the three that the ResNet takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 12, batch_first=True)
        self.convolution = nn.Conv2d(12, 3, 3, padding=1)
        self.activation = nn.ELU()
        self.resnet = torchvision_models().resnet18()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the ResNet's outputs for images [N, 3, H, W]."""
        sequence, _ = self.lstm(images.flatten(2).transpose(1, 2))
        picture = sequence.transpose(1, 2).unflatten(2, images.shape[2:])
        outputs: Tensor = self.resnet(self.activation(self.convolution(picture)))
        return outputs
