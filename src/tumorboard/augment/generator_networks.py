"""The networks that draw new images: an encoder, a generator that draws images from codes, and a critic of patches."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumorboard.base.params import Generate

_SMALLEST = 4  # pixels: the networks' smallest images have this side or more, and less than twice this side
_WIDEST = 8  # no layer has more than this many times `width` channels
_CRITICS_HALVINGS = 3  # halvings of the side, so that the critic judges patches of 22 pixels
_NOISE = 0.2  # initial strength of the noise that is added to each layer of the generator


def inner_side(side: int) -> int:
    """Returns the side in pixels, `side` or a little more, at which the networks see images of this side.

    >>> [inner_side(side) for side in (64, 100, 127)]
    [64, 112, 128]
    """
    least: int = 2 ** _doublings(side)
    return -(-side // least) * least


def _doublings(side: int) -> int:
    return int(side // _SMALLEST).bit_length() - 1


class Generator(nn.Module):
    """Draws images of a class from codes: small images with many channels, doubled several times.

    Args:
        settings: `latent` and `width`.
        classes: number of classes.
        side: side of the images in pixels.
    """

    def __init__(self, settings: Generate, classes: int, side: int) -> None:
        super().__init__()
        self.side, doublings = side, _doublings(side)
        self.start = inner_side(side) // 2**doublings
        self.noise_sides = [self.start * 2**level for level in range(1, doublings + 1)]
        self.noise_count = sum(side**2 for side in self.noise_sides)  # numbers per image
        widths = [settings.width * min(_WIDEST, 2**level) for level in reversed(range(doublings))]
        after = [*widths[1:], settings.width]
        self.project = nn.Linear(settings.latent, widths[0] * self.start**2)
        self.norms = nn.ModuleList(_ClassNorm(width, classes) for width in [*widths, settings.width])
        self.layers = nn.ModuleList(
            nn.Conv2d(one, other, 3, padding=1, bias=False) for one, other in zip(widths, after, strict=True)
        )
        self.strengths = nn.ParameterList(torch.full((1, width, 1, 1), _NOISE) for width in after)
        self.paint = nn.Conv2d(settings.width, 3, 3, padding=1)

    def forward(self, codes: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Returns images float32[N, 3, S, S] from -1 to 1 for codes [N, latent], classes int64[N], noise [N, count]."""
        return resize(self.draw(codes, labels, noise), self.side)

    def draw(self, codes: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Returns the images at the inner side: float32[N, 3, inner, inner]."""
        images: Tensor = self.project(codes).view(len(codes), -1, self.start, self.start)
        parts = torch.split(noise, [side**2 for side in self.noise_sides], dim=1)  # type: ignore[no-untyped-call]
        for norm, layer, strength, part in zip(self.norms, self.layers, self.strengths, parts, strict=False):
            images = functional.interpolate(functional.relu(norm(images, labels)), scale_factor=2.0)
            images = layer(images) + strength * part.view(len(part), 1, *images.shape[2:])
        painted: Tensor = self.paint(functional.relu(self.norms[-1](images, labels)))
        return painted.tanh()


class _ClassNorm(nn.Module):
    """A batch norm whose scale and offset depend on the class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.scale, self.offset = nn.Embedding(classes, width), nn.Embedding(classes, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.offset.weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        scale, offset = (table(labels)[:, :, None, None] for table in (self.scale, self.offset))
        result: Tensor = self.norm(images) * scale + offset
        return result


class Encoder(nn.Module):
    """Returns the code of an image, a point on a sphere: float32[N, latent] for images [N, 3, inner, inner]."""

    def __init__(self, settings: Generate, side: int) -> None:
        super().__init__()
        doublings = _doublings(side)
        widths = [3, *(settings.width * min(_WIDEST, 2**level) for level in range(doublings))]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, other, 4, 2, 1, bias=False), nn.BatchNorm2d(other), nn.LeakyReLU(0.2))
            for one, other in pairwise(widths)
        )
        self.code = nn.Linear(widths[-1] * (inner_side(side) // 2**doublings) ** 2, settings.latent)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images)
        return on_sphere(self.code(images.flatten(1)))


class Critic(nn.Module):
    """Distinguishes patches of real images of a class from others: numbers above 0 stand for real ones."""

    def __init__(self, settings: Generate, classes: int, side: int) -> None:
        super().__init__()
        halvings = min(_CRITICS_HALVINGS, _doublings(side))
        widths = [3, *(settings.width * min(_WIDEST, 2**level) for level in range(1, halvings + 1))]
        self.layers = nn.ModuleList(nn.Conv2d(one, other, 4, 2, 1) for one, other in pairwise(widths))
        self.real = nn.Conv2d(widths[-1], 1, 1)
        self.of_class = nn.Embedding(classes, widths[-1])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        for layer in self.layers:
            images = functional.leaky_relu(layer(images), 0.2)
        of_class = (self.of_class(labels)[:, :, None, None] * images).sum(1) / images.shape[1] ** 0.5
        result: Tensor = self.real(images)[:, 0] + of_class
        return result


class Networks(nn.Module):
    """Encoder, generator and critic of one fit."""

    def __init__(self, settings: Generate, classes: int, side: int) -> None:
        super().__init__()
        self.encoder = Encoder(settings, side)
        self.generator = Generator(settings, classes, side)
        self.critic = Critic(settings, classes, side)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def on_sphere(codes: Tensor) -> Tensor:
    """Returns codes [N, latent] with a mean square of 1."""
    result: Tensor = functional.normalize(codes) * codes.shape[1] ** 0.5
    return result


def resize(images: Tensor, side: int) -> Tensor:
    """Returns images [N, 3, S, S] with another side; images that have it already are returned as they are."""
    if images.shape[-1] == side:
        return images
    resized: Tensor = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return resized
