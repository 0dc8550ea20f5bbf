"""Draws new images of a class from codes between those of two training images; the networks are fitted here.

An autoencoder learns to draw images from codes, a critic of patches keeps its images sharp, and pairs of codes of one
class are interpolated. Unlike a GAN that draws from noise, it learns an image's coarse structure within some hundred
steps.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tumorboard.augment.generator_networks import Generator, Networks, inner_side, on_sphere, resize
from tumorboard.base.params import Augment, Generate
from tumorboard.base.progress import Progress
from tumorboard.base.randomness import keys_of, uniforms

LARGEST = 128  # pixels: side up to which images are generated; twice the side takes four times as long
BETWEEN = (0.25, 0.75)  # range of the weight of the first of two codes: no image is drawn from nearly one code alone
_CRITICS_RATE = 0.5  # the critic's learning rate as a share of `lr`
_RECONSTRUCTION = 10.0  # weight of the reconstruction's loss, next to the critic's
_SCALES = 3  # scales at which the reconstruction is compared: full, half and quarter side
_NOISE_ON_CODES = 0.1  # standard deviation of noise on codes, so that nearby codes draw similar images
# Largest alterations of images before the critic sees them.
_BRIGHTNESS = 0.25  # level; white is 1
_SHIFT = 1 / 16  # share of the side
_AVERAGE = 0.995  # weight of the past in the moving averages of the weights
_BETAS = (0.5, 0.99)  # Adam's decay rates of the two moments
_BATCH = 64  # images drawn at once
_SETTLING = 8  # batches from which batch norms take their means and variances at the end
_LINES = 10  # reports per fit
_THREADS = 1  # threads of torch on any machine: another number rounds sums differently, and a fit amplifies that

Crops: TypeAlias = NDArray[np.uint8]  # [N, S, S, 3]


class Step(NamedTuple):
    """The progress of a fit."""

    done: int  # number of finished steps
    critic: float  # the critic's mean hinge loss since the last report; 2: it guesses, 0: it recognizes all images
    difference: (
        float  # mean absolute difference of images and their reconstructions since then, where black to white is 2
    )
    seconds_left: float


@dataclass(frozen=True)
class Fit:
    """A fitted generator, and what it draws from."""

    generator: Generator
    codes: list[Tensor]  # per class: the codes of its training images, float32[n, latent]


def fit_generator(
    crops: Crops,
    labels: NDArray[np.int64],
    *,
    settings: Generate,
    augment: Augment,
    seed: int,
    report: Callable[[Step], None] = lambda _: None,
) -> Fit:
    """Fits a generator to images.

    Batches draw classes equally often. Where `augment` flips images or turns them by up to 180 degrees, images are
    mirrored or turned by right angles, which changes no pixel's value. The same call returns the same weights, to the
    bit, on one machine; torch's random numbers stay as they are.

    Args:
        crops: uint8[N, S, S, 3].
        labels: int64[N], from 0, each class with one image or more.
        settings: the settings of the fit.
        augment: its `hflip`, `vflip` and `rotate` decide which positions of an image are as good as its own.
        seed: the seed of weights, batches and alterations.
        report: function that is called ten times.

    Source:
        Dablain et al. 2022 (DeepSMOTE), Larsen et al. 2016 (autoencoder with a critic), Berthelot et al. 2019 (critic
        of interpolations), Isola et al. 2017 (critic of patches), Karras et al. 2019 (noise in each layer).
    """
    with _reproducible(seed):
        images = RealImages(crops, labels, augment, inner_side(crops.shape[1]))
        networks, averages = (Networks(settings, images.classes, crops.shape[1]) for _ in range(2))
        averages.load_state_dict(networks.state_dict())
        _train(networks, averages, images, settings=settings, report=report)
        _settle(averages, images)
        return Fit(averages.generator.eval(), images.encode(averages.encoder.eval()))


def _train(
    networks: Networks,
    averages: Networks,
    images: "RealImages",
    *,
    settings: Generate,
    report: Callable[[Step], None],
) -> None:
    """Trains networks for all steps, and moves the averages of their weights along."""
    drawing = [*networks.encoder.parameters(), *networks.generator.parameters()]
    optimizers = (
        torch.optim.Adam(networks.critic.parameters(), lr=_CRITICS_RATE * settings.lr, betas=_BETAS),
        torch.optim.Adam(drawing, lr=settings.lr, betas=_BETAS),
    )
    sums, reported, began = np.zeros(2), 0, time.monotonic()
    with Progress("generator", settings.steps, "step") as bar:
        for step in range(1, settings.steps + 1):
            sums += _train_step(networks, optimizers, *images.draw(settings.batch_size))
            _follow(averages, networks, min(_AVERAGE, step / (step + 9)))
            bar.update()
            if step * _LINES // settings.steps > (step - 1) * _LINES // settings.steps:
                left = (time.monotonic() - began) / step * (settings.steps - step)
                critic, difference = (sums / (step - reported)).tolist()
                report(Step(step, critic, difference, left))
                reported, sums = step, np.zeros(2)


@torch.no_grad()
def draw_images(fit: Fit, ids: Sequence[str], labels: NDArray[np.int64], seed: int) -> Iterator[Crops]:
    """Draws images, each from a code between those of two images of its class, which its id chooses.

    Args:
        fit: the fitted generator and its codes.
        ids: N ids.
        labels: int64[N], the classes of the images; each has two training images or more.
        seed: together with the id it determines an image.

    Yields:
        The crops uint8[S, S, 3], in the order of the ids.
    """
    keys = keys_of(ids)
    drawn = uniforms(seed, keys, 0, 3)
    with Progress("generated images", len(ids), "image") as bar:
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            codes = _codes_between(fit.codes, labels[part], drawn[part])
            noise = _noise(seed, keys[part], fit.generator.noise_count)
            with _reproducible(seed):
                images = fit.generator(codes, torch.from_numpy(labels[part]), noise)
            pixels = ((images + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
            yield from pixels.permute(0, 2, 3, 1).contiguous().numpy()
            bar.update(len(pixels))


def _codes_between(codes: Sequence[Tensor], labels: NDArray[np.int64], drawn: NDArray[np.float64]) -> Tensor:
    """Returns a code float32[N, latent] between two different codes of each image's class.

    Args:
        codes: the codes of each class, float32[n, latent].
        labels: int64[N].
        drawn: float64[N, 3], uniform: they choose the first code, the second one, and the weight of the first.
    """
    rows = []
    for label, (first, second, weight) in zip(labels, drawn, strict=True):
        own = codes[label]
        one = int(first * len(own))
        other = (one + 1 + int(second * (len(own) - 1))) % len(own)
        share = BETWEEN[0] + weight * (BETWEEN[1] - BETWEEN[0])
        rows.append(own[one] * share + own[other] * (1 - share))
    return on_sphere(torch.stack(rows))


def _noise(seed: int, keys: NDArray[np.uint64], count: int) -> Tensor:
    """Returns standard normal numbers float32[N, count] from a stream of Philox per key (Salmon et al. 2011)."""
    streams = [np.random.Philox(key=[seed % 2**64, int(key)]) for key in keys]
    rows = [np.random.Generator(stream).standard_normal(count, dtype=np.float32) for stream in streams]
    return torch.from_numpy(np.stack(rows))


class RealImages:
    """Draws batches of real images: classes equally often, each image in one of the positions that `augment` admits.

    Args:
        crops: uint8[N, S, S, 3].
        labels: int64[N], from 0, each class with one image or more.
        augment: `hflip`, `vflip` above 0 admit mirror images, `rotate` of 180 turns by right angles.
        side: side of the images that it returns, in pixels.
    """

    def __init__(self, crops: Crops, labels: NDArray[np.int64], augment: Augment, side: int) -> None:
        self._crops = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
        self._side = side
        self._rows = [torch.from_numpy(np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1)]
        self._mirrors = [dim for dim, share in ((2, augment.hflip), (1, augment.vflip)) if share > 0]
        self._turns = 4 if augment.rotate >= 180 else 1

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self._rows)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns images float32[count, 3, side, side] from -1 to 1 and their classes int64[count]."""
        labels = torch.randint(self.classes, (count,))
        rows = [int(self._rows[label][torch.randint(len(self._rows[label]), ())]) for label in labels.tolist()]
        images = []
        for row in rows:
            turns, *flips = torch.randint(self._turns, (1,)).tolist() + torch.randint(2, (2,)).tolist()
            mirrored = [dim for dim, flip in zip(self._mirrors, flips, strict=False) if flip]
            images.append(torch.rot90(self._crops[row].flip(mirrored), turns, (1, 2)))
        return self._scaled(torch.stack(images)), labels

    @torch.no_grad()
    def encode(self, encoder: nn.Module) -> list[Tensor]:
        """Returns the codes of all images as they are, float32[n, latent] per class."""
        parts = [torch.split(rows, _BATCH) for rows in self._rows]  # type: ignore[no-untyped-call]
        return [torch.cat([encoder(self._scaled(self._crops[part])) for part in own]) for own in parts]

    def _scaled(self, crops: Tensor) -> Tensor:
        return resize(crops.float() / 127.5 - 1, self._side)


def _train_step(
    networks: Networks, optimizers: Sequence[torch.optim.Optimizer], real: Tensor, labels: Tensor
) -> tuple[float, float]:
    """Trains the critic, then encoder and generator, by one step; returns the critic's loss and the difference."""
    count, (critics, drawing) = len(real), optimizers
    codes = networks.encoder(real)
    between = _mixed(codes, labels)
    codes = on_sphere(codes + _NOISE_ON_CODES * torch.randn(codes.shape))
    twice, noise = labels.repeat(2), torch.randn(2 * count, networks.generator.noise_count)
    drawn = networks.generator.draw(torch.cat([codes, between]), twice, noise)
    opinions = networks.critic(_alter(torch.cat([real, drawn.detach()])), labels.repeat(3))
    hinge = functional.relu(1 - opinions[:count]).mean() + functional.relu(1 + opinions[count:]).mean()
    _descend(critics, hinge)
    difference = _difference(drawn[:count], real)
    _descend(drawing, _RECONSTRUCTION * difference - networks.critic(_alter(drawn), twice).mean())
    return hinge.item(), difference.item()


def _mixed(codes: Tensor, labels: Tensor) -> Tensor:
    """Returns each code [N, latent] mixed in random shares with a random one of its class, perhaps its own."""
    partners = [
        int(same[torch.randint(len(same), ())]) for same in ((labels == label).nonzero()[:, 0] for label in labels)
    ]
    share = torch.rand(len(codes), 1)
    return on_sphere(codes * share + codes[partners] * (1 - share))


def _difference(drawn: Tensor, real: Tensor) -> Tensor:
    """Returns the mean absolute difference of images, averaged over several scales."""
    differences = []
    for _ in range(_SCALES):
        differences.append((drawn - real).abs().mean())
        drawn, real = functional.avg_pool2d(drawn, 2), functional.avg_pool2d(real, 2)
    return torch.stack(differences).mean()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _alter(images: Tensor) -> Tensor:
    """Returns images [N, 3, S, S] a little brighter or darker and shifted, so that the critic cannot memorize them.

    Both alterations have a gradient (Zhao et al. 2020).
    """
    count, side = len(images), images.shape[-1]
    reach = max(1, round(side * _SHIFT))
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    corners = torch.randint(2 * reach + 1, (count, 2)).tolist()
    shifted = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(shifted) + _BRIGHTNESS * (2 * torch.rand(count, 1, 1, 1) - 1)


@torch.no_grad()
def _follow(averages: nn.Module, networks: nn.Module, weight: float) -> None:
    """Moves averages of weights towards the weights; `weight` is the weight of the past."""
    for mean, value in zip(averages.parameters(), networks.parameters(), strict=True):
        mean.lerp_(value, 1 - weight)


@torch.no_grad()
def _settle(networks: Networks, images: RealImages) -> None:
    """Sets the means and variances of the batch norms to those that the networks' present weights lead to."""
    for module in networks.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    for _ in range(_SETTLING):
        real, labels = images.draw(_BATCH)
        codes = _mixed(networks.encoder(real), labels)
        networks.generator.draw(codes, labels, torch.randn(_BATCH, networks.generator.noise_count))


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Sets torch's random numbers, algorithms and number of threads for the body, and restores all of them."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(_THREADS)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)
