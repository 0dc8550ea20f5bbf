"""An LSTM that reads the pixels one after another, then a ResNet-18 on what it wrote."""

from torch import Tensor, nn
from torchvision.models import resnet18


class LstmResNet18(nn.Module):
    """Images [N, 3, H, W] to the 1000 outputs of a ResNet-18 [N, 1000].

    The H*W pixels pass as a sequence of three features through an LSTM of 12, whose outputs form a picture of 12
    channels again; a 3x3 convolution brings it to three.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 12, batch_first=True)
        self.convolution = nn.Conv2d(12, 3, 3, padding=1)
        self.activation = nn.ELU()
        self.resnet = resnet18()

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] to [N, F]."""
        sequence, _ = self.lstm(images.flatten(2).transpose(1, 2))
        picture = sequence.transpose(1, 2).unflatten(2, images.shape[2:])
        outputs: Tensor = self.resnet(self.activation(self.convolution(picture)))
        return outputs
