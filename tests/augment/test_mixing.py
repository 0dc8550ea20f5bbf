"""Mixup and cutmix: the same as torchvision's for one lambda, and a function of each image alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta, kstest
from torchvision.transforms.v2 import CutMix, MixUp

from tumorboard.augment.mixing import (
    Mixture,
    _boxes,
    draw_mixture,
    mix_batch,
    mix_images,
    needed_positions,
    select_images,
)
from tumorboard.base.params import Params, Recipe
from tumorboard.base.randomness import keys_of, order

KEYS = keys_of([f"{number}.jpg" for number in range(4000)])


@pytest.fixture
def recipe(params: Params) -> Recipe:
    return Recipe(**dict(params.train) | {"mixup": 0.4, "cutmix": 1.0}, architecture="cnn", seed=3)


def _changed(recipe: Recipe, **update: float) -> Recipe:
    return recipe.model_copy(update=update)


def _draw(recipe: Recipe, keys: NDArray[np.uint64], epoch: int, side: int) -> Mixture:
    return draw_mixture(recipe, keys, np.full(len(keys), epoch), side)


def _rows(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(len(KEYS))[:count]


def test_partners_and_mixed_images_are_torchvisions(recipe: Recipe) -> None:
    rows = _rows(12)
    drawn = _draw(recipe, KEYS[rows], 4, 20)
    assert 0 < drawn.cut.sum() < 12
    images = torch.rand(12, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12)
    mixed, own, others, weights = mix_batch(images, labels, drawn)
    assert own.tolist() == list(range(12))
    for row in range(12):
        left, top, right, bottom = drawn.box[row].tolist()
        lam = float(drawn.lam[row])
        if drawn.cut[row]:
            theirs, settings = CutMix(num_classes=12), {"box": (left, top, right, bottom), "lam_adjusted": lam}
            assert lam == 1 - (right - left) * (bottom - top) / 400
        else:
            theirs, settings = MixUp(num_classes=12), {"lam": lam}
        settings |= {"labels": labels, "batch_size": 12}
        torch.testing.assert_close(mixed[row], theirs.transform(images, settings)[row])
        soft = torch.zeros(12).index_add_(
            0, torch.tensor([row, others[row]]), torch.stack([weights[row], 1 - weights[row]])
        )
        torch.testing.assert_close(soft, theirs.transform(labels, settings)[row])


@pytest.mark.parametrize(("lam", "center", "box"), [
    (0.75, (0.5, 0.5), [8, 8, 24, 24]),  # half the side: 16 of 32 pixels around pixel 16
    (0.75, (0.0, 0.99), [0, 23, 8, 32]),  # cut off at the left edge and at the lower one
    (0.0, (0.5, 0.5), [0, 0, 32, 32]),
    (1.0, (0.3, 0.3), [9, 9, 9, 9]),
])  # fmt: skip
def test_boxes_by_hand(lam: float, center: tuple[float, float], box: list[int]) -> None:
    assert _boxes(np.array([lam]), np.array(center)[:, None], 32).tolist() == [box]


def test_boxes_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    for lam, x, y in ((0.31, 3, 28), (0.9, 17, 0), (0.02, 12, 12)):
        theirs = CutMix(num_classes=2)
        monkeypatch.setattr(theirs, "_dist", torch.distributions.Categorical(torch.ones(1)))
        monkeypatch.setattr(theirs._dist, "sample", lambda _, lam=lam: torch.tensor(lam, dtype=torch.float64))
        places = iter([x, y])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(places)]))  # noqa: B023
            expected = theirs.make_params([torch.zeros(1, 3, 29, 29)])["box"]
        center = (np.array([[x], [y]]) + 0.5) / 29
        assert _boxes(np.array([lam]), center, 29).tolist() == [list(expected)]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_lambdas_follow_the_beta_distribution(recipe: Recipe, alpha: float) -> None:
    drawn = _draw(_changed(recipe, mixup=alpha, cutmix=0.0), KEYS, 0, 32)
    assert kstest(drawn.lam, beta(alpha, alpha).cdf).pvalue > 0.01
    assert not drawn.cut.any()
    # Not correlated with the order of the epoch, which decides who is the partner.
    place = np.empty(4000)
    place[order(recipe.seed, KEYS, 0)] = np.arange(4000)
    assert abs(np.corrcoef(place, drawn.lam)[0, 1]) < 0.05


def test_mix_probability_decides_how_many_are_mixed_and_half_of_them_are_cut(recipe: Recipe) -> None:
    both = _draw(_changed(recipe, mix_probability=0.3), KEYS, 0, 32)
    mixed = both.lam < 1
    assert abs(mixed.mean() - 0.3) < 0.03
    assert abs(both.cut[mixed].mean() - 0.5) < 0.06
    left, top, right, bottom = both.box[~mixed].T
    assert not ((right - left) * (bottom - top)).any()
    assert _draw(_changed(recipe, mixup=0.0), KEYS, 0, 32).cut.all()
    none = _draw(_changed(recipe, mix_probability=0.0), KEYS[:9], 0, 32)
    images = torch.rand(9, 3, 32, 32)
    assert torch.equal(mix_images(images, images.roll(1, 0), none), images)
    assert needed_positions(none).tolist() == list(range(9))


def test_the_only_image_of_a_batch_is_not_mixed(recipe: Recipe) -> None:
    for epoch in range(4):
        drawn = _draw(recipe, KEYS[5:6], epoch, 32)
        assert drawn.lam.tolist() == [1.0]
        image = torch.rand(1, 3, 32, 32)
        mixed, own, _, weights = mix_batch(image, torch.tensor([1]), drawn)
        assert torch.equal(mixed, image)
        assert (own.tolist(), weights.tolist()) == ([1], [1.0])


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_mix_the_same_images_to_the_bit(recipe: Recipe, processes: int) -> None:
    images, labels = torch.rand(11, 3, 9, 9) * 255, torch.arange(11)

    def mix(mixture: Mixture) -> tuple[torch.Tensor, ...]:
        needed = needed_positions(mixture)
        assert len(set(needed.tolist())) == len(needed)
        return mix_batch(images[needed], labels[needed], mixture)

    whole = _draw(recipe, KEYS[_rows(11)], 1, 9)
    expected = mix(whole)
    assert needed_positions(whole).tolist() == list(
        range(11)
    )  # all partners are in the batch, so that none is loaded twice
    for rank in range(processes):
        mine = np.arange(rank, 11, processes)
        for part, all_rows in zip(mix(select_images(whole, mine)), expected, strict=True):
            assert torch.equal(part, all_rows[mine])


def test_seed_epoch_and_image_each_change_lambda(recipe: Recipe) -> None:
    first = _draw(recipe, KEYS[:8], 0, 32).lam
    for other in (
        _draw(recipe, KEYS[:8], 1, 32),
        _draw(_changed(recipe, seed=4), KEYS[:8], 0, 32),
        _draw(recipe, KEYS[8:16], 0, 32),
    ):
        assert (other.lam != first).sum() > 4
    again = _draw(recipe, KEYS[:8][::-1], 0, 32)
    assert again.lam[::-1].tolist() == first.tolist()


def test_an_image_that_is_twice_in_a_batch_is_mixed_differently(recipe: Recipe) -> None:
    """The balanced sampler may draw an image twice; each draw has its own counter and its own partner."""
    keys, counters = KEYS[[0, 1, 0, 2]], np.array([0, 0, 1, 0])
    drawn = draw_mixture(recipe, keys, counters, 32)
    assert drawn.lam[0] != drawn.lam[2]
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 2])
    _, own, others, _ = mix_batch(images, labels, drawn)
    assert own.tolist() == [0, 1, 0, 2]
    assert others.tolist() == [2, 0, 1, 0]
