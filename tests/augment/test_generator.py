"""The generator: what it is fitted to, that it is reproducible, and what it draws."""

import numpy as np
import pytest
import torch

from tests.augment.manifests import random_crops
from tumorboard.augment.generator import BETWEEN, Fit, RealImages, Step, draw_images, fit_generator
from tumorboard.augment.generator_networks import inner_side
from tumorboard.base.params import Augment, Generate, Params

TINY = Generate(steps=3, batch_size=4, lr=0.001, latent=4, width=4, min_images=2)


@pytest.fixture
def augment(params: Params) -> Augment:
    """Alterations that leave images as they are."""
    still = {"hflip": 0.0, "vflip": 0.0, "rotate": 0.0}
    return params.balance.augment.model_copy(update=still)


def draw(
    crops: np.ndarray, augment: Augment, ids: list[str], *, settings: Generate = TINY, seed: int = 5
) -> np.ndarray:
    """Fits a generator to crops of the classes 0, 1, 0, 1, ... and draws images of the same classes."""
    labels = np.arange(len(crops)) % 2
    fit = fit_generator(crops, labels, settings=settings, augment=augment, seed=seed)
    return np.stack(list(draw_images(fit, ids, np.arange(len(ids)) % 2, seed)))


@pytest.mark.parametrize("side", [16, 20, 31, 64, 127])
def test_images_have_the_side_of_the_crops(augment: Augment, side: int) -> None:
    settings = TINY.model_copy(update={"steps": 1, "batch_size": 2})
    images = draw(random_crops(4, side), augment, ["a//g1", "b//g1"], settings=settings)
    assert images.shape == (2, side, side, 3)
    assert images.dtype == np.uint8


def test_the_networks_see_images_as_large_as_the_crops_or_a_little_larger() -> None:
    """They begin with four to seven pixels and double them."""
    sides = {16: 16, 20: 20, 31: 32, 63: 64, 64: 64, 96: 96, 100: 112, 127: 128, 128: 128}
    assert {side: inner_side(side) for side in sides} == sides


def test_a_seed_gives_the_same_bytes_on_any_number_of_threads_and_leaves_torch_as_it_was(augment: Augment) -> None:
    crops, ids = random_crops(8, 32), ["a//g1", "b//g1", "a//g2"]
    settings = TINY.model_copy(update={"batch_size": 16, "width": 8})
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            torch.manual_seed(number)
            state, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
            results.append(draw(crops, augment, ids, settings=settings))
            assert torch.equal(torch.get_rng_state(), state)
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    first, again = results
    assert again.tobytes() == first.tobytes()
    assert draw(crops, augment, ids, settings=settings, seed=6).tobytes() != first.tobytes()
    assert len({image.tobytes() for image in first}) == 3


def test_an_image_is_a_function_of_its_id_and_class(augment: Augment) -> None:
    """Whatever else is drawn; the processor may round otherwise in batches of another length."""
    crops = random_crops(8, 16)
    fit = fit_generator(crops, np.arange(8) % 2, settings=TINY, augment=augment, seed=5)
    ids = [f"a//g{n}" for n in range(70)]  # more than are drawn at once
    together = list(draw_images(fit, ids, np.zeros(70, np.int64), 5))
    for number in (0, 63, 64, 69):
        (alone,) = draw_images(fit, [ids[number]], np.zeros(1, np.int64), 5)
        assert np.abs(alone.astype(int) - together[number]).max() <= 1
    (other_class,) = draw_images(fit, ids[:1], np.ones(1, np.int64), 5)
    (other_seed,) = draw_images(fit, ids[:1], np.zeros(1, np.int64), 6)
    assert other_class.tobytes() != together[0].tobytes() != other_seed.tobytes()


class Painter(torch.nn.Module):
    """Draws images whose red is the code's first number in grey levels; stands in for a generator."""

    noise_count = 1

    def forward(self, codes: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        images = torch.zeros(len(codes), 3, 2, 2)
        images[:, 0] += (torch.atan2(codes[:, 1], codes[:, 0]) / 127.5)[:, None, None] * 100
        return images


def test_codes_are_between_those_of_two_different_images_of_the_class() -> None:
    """Codes on a circle: of class 0 at 0 and 1, of class 1 at -1 and -1.2 (in radians)."""

    def at(*angles: float) -> torch.Tensor:
        return 2**0.5 * torch.tensor([[np.cos(angle), np.sin(angle)] for angle in angles])

    fit = Fit(Painter(), [at(0.0, 1.0), at(-1.0, -1.2)])  # type: ignore[arg-type]
    ids = [f"a//g{n}" for n in range(400)]
    for label, (low, high) in enumerate([(0.0, 1.0), (-1.2, -1.0)]):
        images = np.stack(list(draw_images(fit, ids, np.full(400, label), 3)))
        angles = (images[:, 0, 0, 0].astype(float) - 127.5) / 100
        # Along the chord, a share of the way is nearly the same share of the angle.
        span, slack = high - low, 0.03
        assert angles.min() == pytest.approx(low + BETWEEN[0] * span, abs=slack)
        assert angles.max() == pytest.approx(low + BETWEEN[1] * span, abs=slack)
        assert len(np.unique(angles)) > 5


def test_every_image_counts(augment: Augment) -> None:
    """With 20 steps of 16 images each of the 8 images is seen; a change of one changes what is learned."""
    settings = TINY.model_copy(update={"steps": 20, "batch_size": 16})
    crops = random_crops(8, 16)
    before = draw(crops, augment, ["a//g1"], settings=settings)
    for row in (0, 7):
        changed = crops.copy()
        changed[row] = 255 - changed[row]
        assert draw(changed, augment, ["a//g1"], settings=settings).tobytes() != before.tobytes()


def test_a_generator_learns_what_a_class_looks_like(augment: Augment) -> None:
    """Dark blue images and bright yellow ones, ten to one; images of the rare class are as they should be."""
    dark, bright = np.array([10, 10, 90], np.uint8), np.array([230, 230, 60], np.uint8)
    labels = np.array([0] * 40 + [1] * 4)
    crops = np.where(labels[:, None, None, None] == 0, dark, bright) + np.zeros((44, 16, 16, 3), np.uint8)
    settings = Generate(steps=60, batch_size=8, lr=0.003, latent=8, width=8, min_images=2)
    fit = fit_generator(crops, labels, settings=settings, augment=augment, seed=0)
    means = [
        np.mean(list(draw_images(fit, [f"{label}//g{n}" for n in range(32)], np.full(32, label), 0)), (0, 1, 2))
        for label in (0, 1)
    ]
    assert np.abs(means[0] - dark).max() < 50, means
    assert np.abs(means[1] - bright).max() < 50, means


def test_a_fit_reports_ten_times(augment: Augment) -> None:
    steps: list[Step] = []
    settings = TINY.model_copy(update={"steps": 25})
    fit_generator(
        random_crops(4, 16), np.array([0, 1, 0, 1]), settings=settings, augment=augment, seed=0, report=steps.append
    )
    assert [step.done for step in steps] == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    assert all(np.isfinite([step.critic, step.difference]).all() for step in steps)
    assert all(step.critic >= 0 for step in steps)
    assert steps[-1].seconds_left == 0 < steps[0].seconds_left


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, {(0, 0)}),
        ({"rotate": 179.0}, {(0, 0)}),
        ({"hflip": 0.1}, {(0, 0), (1, 0)}),
        ({"vflip": 0.1}, {(0, 0), (1, 2)}),
        ({"hflip": 0.1, "vflip": 0.1}, {(0, 0), (1, 0), (1, 2), (0, 2)}),
        ({"rotate": 180.0}, {(0, 0), (0, 1), (0, 2), (0, 3)}),
        ({"rotate": 180.0, "vflip": 0.1}, {(mirrored, turns) for mirrored in (0, 1) for turns in range(4)}),
    ],
)
def test_real_images_are_drawn_in_the_positions_that_the_alterations_admit(
    augment: Augment, changes: dict, positions: set
) -> None:
    """A position is whether the image is mirrored (left and right), then how often it is turned by a right angle."""
    crops = random_crops(3, 8)
    known = {
        (row, np.rot90(crop[:, ::-1] if mirrored else crop, turns).tobytes()): (mirrored, turns)
        for row, crop in enumerate(crops)
        for mirrored in (0, 1)
        for turns in range(4)
    }
    images = RealImages(crops, np.array([0, 1, 1]), augment.model_copy(update=changes), 8)
    torch.manual_seed(0)
    drawn, labels = images.draw(400)
    pixels = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    seen = set()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        rows = [row for row in ([0], [1, 2])[label] if (row, np.ascontiguousarray(image).tobytes()) in known]
        seen.add((rows[0], known[rows[0], np.ascontiguousarray(image).tobytes()]))
    assert seen == {(row, position) for row in range(3) for position in positions}
    assert 150 < labels.sum() < 250, "classes are drawn equally often, though one has twice the images"
