"""The views of an image: each once, as numpy makes them, and what stays when their logits are averaged."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from tumorboard.base.params import View
from tumorboard.models.inference import crop_logits
from tumorboard.models.registry import Classifier
from tumorboard.models.views import views_of

SETTINGS: dict[str, Any] = {"precision": "off", "channels_last": True, "device": torch.device("cpu")}
ALL = [names for count in range(5) for names in itertools.combinations(get_args(View), count)]


def crops(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moves images [N, S, S, 3] by whole pixels, by numpy's padding."""
    side = images.shape[1]
    room = abs(down) + abs(right)
    padded = np.pad(images, ((0, 0), (room, room), (room, room), (0, 0)), mode="reflect")
    return padded[:, room - down : room - down + side, room - right : room - right + side]


def by_hand(images: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
    """The views of images [N, S, S, 3], with numpy, some of them twice."""
    views = [images]
    if "hflip" in names:
        views += [view[:, :, ::-1] for view in views]
    if "vflip" in names:
        views += [view[:, ::-1] for view in views]
    if "quarter_turns" in names:
        views = [np.rot90(view, turns, (1, 2)) for view in views for turns in range(4)]
    if "shift" in names:
        step = max(1, images.shape[1] // 16)
        views += [shifted(images, *places) for places in ((0, step), (0, -step), (step, 0), (-step, 0))]
    return views


class FirstPixels(nn.Module):
    """Features that tell every view from the others: a corner, its neighbor, and a sum that weighs each pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weights = torch.linspace(-1, 1, images.shape[-1] ** 2).view(1, 1, *images.shape[2:]) ** 3
        return torch.cat([images[:, 0, 0, :2], (images * weights).mean((2, 3))], dim=1)


@pytest.fixture
def model() -> Classifier:
    return Classifier(FirstPixels(), nn.Identity(), (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("names", ALL, ids="+".join)
def test_each_view_is_numpys_and_there_once_and_the_first_is_the_image(names: tuple[View, ...]) -> None:
    images = crops(2)
    views = [view(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for view in views_of(names)]
    assert np.array_equal(views[0], images)
    given = [np.ascontiguousarray(view).tobytes() for view in views]
    assert len(given) == len(set(given))
    assert set(given) == {np.ascontiguousarray(view).tobytes() for view in by_hand(images, names)}
    assert {view.dtype for view in views} == {torch.uint8}


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ((), 1),
        (("hflip",), 2),
        (("vflip",), 2),
        (("hflip", "vflip"), 4),
        (("vflip", "hflip"), 4),
        (("quarter_turns",), 4),
        (("quarter_turns", "vflip"), 8),
        (("hflip", "vflip", "quarter_turns"), 8),
        (("shift",), 5),
        (("hflip", "vflip", "quarter_turns", "shift"), 12),
    ],
)
def test_the_number_of_views(names: tuple[View, ...], count: int) -> None:
    assert len(views_of(names)) == count


@pytest.mark.parametrize("side", [16, 20, 33])
def test_a_shift_is_a_sixteenth_of_the_side_and_at_least_a_pixel(side: int) -> None:
    images = crops(1, side)
    right = views_of(("shift",))[1](torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    step = {16: 1, 20: 1, 33: 2}[side]
    assert np.array_equal(right[:, :, step:], images[:, :, :-step])
    assert np.array_equal(right[:, :, :step], images[:, :, step:0:-1])  # the edge pixel is not repeated


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("names", [("hflip",), ("hflip", "vflip", "quarter_turns"), ("shift",)], ids="+".join)
def test_logits_are_the_mean_of_those_of_views_made_by_hand(
    model: Classifier, names: tuple[View, ...], channels_last: bool
) -> None:
    images, settings = crops(5), SETTINGS | {"channels_last": channels_last}
    views = {view.tobytes(): view for view in map(np.ascontiguousarray, by_hand(images, names))}
    each = np.stack([crop_logits(model, view, **settings) for view in views.values()])
    logits = crop_logits(model, images, **settings, tta=names)
    assert (logits.dtype, logits.shape) == (np.float32, (5, 5))
    np.testing.assert_allclose(logits, each.astype(np.float64).mean(0), atol=1e-6)
    assert not np.allclose(logits, each[0], atol=1e-3)


def test_images_keep_their_places_in_the_batch(model: Classifier) -> None:
    images, names = crops(6), ("hflip", "quarter_turns", "shift")
    whole = crop_logits(model, images, **SETTINGS, tta=names)
    alone = [crop_logits(model, images[row : row + 1], **SETTINGS, tta=names) for row in range(6)]
    np.testing.assert_allclose(whole, np.concatenate(alone), atol=1e-6)


class Symmetric(nn.Module):
    """Features that no flip, turn or reflected shift of an image of one color changes, exactly."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.amax((2, 3)) / 3


@pytest.mark.parametrize("names", ALL, ids="+".join)
def test_a_network_that_sees_no_difference_gives_what_it_gives_without(names: tuple[View, ...]) -> None:
    model = Classifier(Symmetric(), nn.Identity(), (0.1, 0.2, 0.3), (0.7,) * 3)
    images = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (7, 1, 1, 3), dtype=np.uint8), (7, 16, 16, 3))
    expected = crop_logits(model, np.ascontiguousarray(images), **SETTINGS)
    assert np.array_equal(crop_logits(model, np.ascontiguousarray(images), **SETTINGS, tta=names), expected)


def test_views_are_computed_one_after_the_other_and_no_images_give_no_rows(model: Classifier) -> None:
    passes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    crop_logits(model, crops(3), **SETTINGS, tta=("hflip", "vflip", "shift"))
    assert passes == [3] * 8
    assert crop_logits(model, crops(0), **SETTINGS, tta=("quarter_turns", "shift")).shape == (0, 5)
