"""The synthetic data set: its names, counts, bytes and duplicates, and that no shortcut predicts the label."""

import re
from collections import Counter
from io import BytesIO
from math import sqrt
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Phantom, load_params
from tumorboard.data.phantom import (
    CUES,
    _depth,
    _draw_cues,
    _draw_grain,
    _inside,
    _soft_minimum,
    draw_phantom,
    draw_picture,
)
from tumorboard.images.crop import remove_border
from tumorboard.images.decode import decode

SET = Phantom(images=300, patients=20, side=96)
CROP = load_params(Path(__file__).parents[2] / "params.yaml").crop


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """The content of each file by its path."""
    return dict(draw_phantom(SET, 0))


@pytest.fixture(scope="module")
def pixels(pictures) -> dict[str, np.ndarray]:
    """The decoded picture uint8[H, W, 3] by its path."""
    return {path: decode(content, CROP, None)[0] for path, content in pictures.items()}


def patient(path: str) -> str:
    return re.search(r"(P\d+)_", path)[1]


def name(path: str) -> str:
    return path.split("/")[1]


def test_count_names_and_patients(pictures, params: Params):
    assert len(pictures) == 300
    for path in pictures:
        assert re.fullmatch(r"(blast|normal)/P\d\d_\d{3}\.jpg", path)
        assert re.search(params.data.group_pattern, path)[1] == patient(path)
    images = Counter(map(patient, pictures))
    assert sorted(images) == [f"P{number:02d}" for number in range(1, 21)]
    assert max(images.values()) > 2 * min(images.values())


def test_numbers_of_a_patient_are_consecutive(pictures):
    images = Counter(map(patient, pictures))
    expected = {f"{who}_{number:03d}.jpg" for who, count in images.items() for number in range(1, count + 1)}
    assert {name(path) for path in pictures} == expected


def test_about_three_in_four_pictures_are_blasts(pictures):
    assert 0.68 < np.mean([path.startswith("blast/") for path in pictures]) < 0.82


def test_most_patients_have_both_classes(pictures):
    classes = Counter(who for who, _ in {(patient(path), path.split("/")[0]) for path in pictures})
    assert sum(count == 2 for count in classes.values()) >= 16


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    few = SET.model_copy(update={"images": 40, "patients": 10})
    first = list(draw_phantom(few, 5))
    assert first == list(draw_phantom(few, 5))
    assert not {content for _, content in first} & {content for _, content in draw_phantom(few, 6)}


def test_a_larger_set_contains_the_pictures_of_a_smaller_one(pictures):
    for larger in (Phantom(images=90, patients=20, side=96), Phantom(images=90, patients=40, side=96)):
        other = dict(draw_phantom(larger, 0))
        common = other.keys() & pictures.keys()
        assert len(common) > 30
        assert all(other[path] == pictures[path] for path in common)


def test_a_picture_does_not_depend_on_those_drawn_before(pictures):
    for path in ("P20_003.jpg", "P02_005.jpg"):
        label, content = draw_picture(96, 0, int(path[1:3]), int(path[4:7]))
        assert pictures[f"{label}/{path}"] == content


def test_about_one_in_a_hundred_is_an_exact_duplicate_of_the_same_patient_and_class(pictures):
    owners: dict[bytes, set[str]] = {}
    for path, content in pictures.items():
        owners.setdefault(content, set()).add(path.split("_")[0])
    assert all(len(owner) == 1 for owner in owners.values())
    assert 0.003 < 1 - len(owners) / len(pictures) < 0.03


def test_about_one_in_a_hundred_is_the_same_picture_saved_again(pictures, pixels):
    saved_again = 0
    for path, image in pixels.items():
        for other, twin in pixels.items():
            if other < path and patient(other) == patient(path) and image.shape == twin.shape:
                same = np.abs(image.astype(int) - twin).mean() < 4
                assert not same or other.split("/")[0] == path.split("/")[0]
                saved_again += same and pictures[path] != pictures[other]
    assert 0.003 < saved_again / len(pictures) < 0.03


def field(image: np.ndarray) -> np.ndarray:
    """The picture without its dark border."""
    return remove_border(image, 24, 0.02)


def test_fields_have_the_requested_size_and_borders_vary(pixels):
    sides = np.array([sorted(field(image).shape[:2]) for image in pixels.values()])
    # Shorter side 0.94 to 1.1, longer side 1.1 to 1.25 of the size; JPEG smears an edge by a few pixels.
    assert sides[:, 0].min() >= 0.94 * 96 - 1
    assert sides[:, 0].max() <= 1.1 * 96 + 4
    assert sides[:, 1].min() >= 1.1 * 96 - 1
    assert sides[:, 1].max() <= 1.25 * 96 + 4
    borders = [image.shape[0] - field(image).shape[0] for image in pixels.values()]
    assert np.std(borders) > 3
    assert max(borders) > 15


def test_a_larger_size_scales_the_same_picture():
    small, large = (field(decode(draw_picture(size, 0, 1, 1)[1], CROP, None)[0]) for size in (96, 192))
    np.testing.assert_allclose(np.array(large.shape[:2]) / small.shape[:2], 2, atol=0.06)
    # Halved in size, the larger picture equals the smaller one except for noise and texture.
    halved = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.8


def test_the_comment_of_every_file_states_that_it_is_synthetic(pictures):
    assert all(b"synthetic" in Image.open(BytesIO(content)).info["comment"] for content in pictures.values())


def test_no_statistic_of_the_file_or_the_colors_predicts_the_label(pictures, pixels):
    blast = [path.startswith("blast/") for path in pictures]
    statistics = {
        "bytes": [len(content) for content in pictures.values()],
        "height": [image.shape[0] for image in pixels.values()],
        "width": [image.shape[1] for image in pixels.values()],
    }
    for channel, color in enumerate(("red", "green", "blue")):
        statistics[f"mean of {color}"] = [image[..., channel].mean() for image in pixels.values()]
        statistics[f"spread of {color}"] = [image[..., channel].std() for image in pixels.values()]
    scores = {name: roc_auc_score(blast, values) for name, values in statistics.items()}
    assert all(abs(scores[name] - 0.5) < 0.1 for name in ("bytes", "height", "width")), scores
    assert all(abs(score - 0.5) < 0.2 for score in scores.values()), scores


def test_each_cue_is_weak_and_all_together_are_strong_but_not_perfect():
    # If two classes of equal frequency are normally distributed with means d standard deviations apart, the best
    # threshold is right with probability Phi(d / 2). For independent cues the squares of d add up.
    apart = {name: abs(cue.blast - cue.normal) / cue.deviation for name, cue in CUES.items()}
    assert all(0.6 < norm.cdf(d / 2) < 0.85 for d in apart.values()), apart
    assert 0.93 < norm.cdf(sqrt(sum(d * d for d in apart.values())) / 2) < 0.99


def test_a_cue_is_drawn_around_the_mean_of_its_class():
    rng = np.random.default_rng(0)
    for label in ("normal", "blast"):
        drawn = [_draw_cues(label, rng) for _ in range(2000)]
        for name, cue in CUES.items():
            values = [cues[name] for cues in drawn]
            mean = cue.blast if label == "blast" else cue.normal
            assert abs(np.mean(values) - mean) < 4 * cue.deviation / sqrt(2000), name
            assert np.std(values) == pytest.approx(cue.deviation, rel=0.08), name


def test_an_outline_is_a_circle_plus_its_bumps():
    angles = np.linspace(0, 2 * np.pi, 9)
    # 10 pixels from the center; bump k multiplies the radius by 1 + |bump| cos((k + 2) angle + phase).
    plane = 10 * np.exp(1j * angles)
    depth = _depth(plane, 20.0, np.array([0.1, 0.05j]))
    expected = 20 * (1 + 0.1 * np.cos(2 * angles) + 0.05 * np.cos(3 * angles + np.pi / 2)) - 10
    np.testing.assert_allclose(depth, expected, atol=1e-9)


def test_inside_is_a_smooth_step_of_four_times_the_softness():
    np.testing.assert_allclose(_inside(np.array([-9, -2, 0, 1, 2, 9.0]), 1.0), [0, 0, 0.5, 27 / 32, 1, 1])


def test_the_soft_minimum_is_the_minimum_except_where_the_depths_are_close():
    a, b = np.array([0.0, 5, 2]), np.array([9.0, 1, 2])
    # Equal depths are lowered by a quarter of the reach.
    np.testing.assert_allclose(_soft_minimum(a, b, 2.0), [0, 1, 1.5])


def test_grain_has_unit_variance_and_clumps_of_the_given_size():
    fine, coarse = (_draw_grain(np.random.default_rng(0), (400, 400), size) for size in (2.0, 5.0))
    for grain in (fine, coarse):
        assert grain.std() == pytest.approx(1, abs=0.08)
    # White noise filtered by a Gaussian of width s has the autocorrelation exp(-d^2 / (4 s^2)) at distance d.
    for grain, size in ((fine, 2.0), (coarse, 5.0)):
        correlation = np.corrcoef(grain[:, :-4].ravel(), grain[:, 4:].ravel())[0, 1]
        assert correlation == pytest.approx(np.exp(-(4**2) / (4 * size**2)), abs=0.05)


def test_more_patients_than_images_is_an_error():
    with pytest.raises(InputError, match=r"phantom\.patients is 41: expected at most phantom\.images, 40"):
        next(draw_phantom(Phantom(images=40, patients=41, side=96), 0))
