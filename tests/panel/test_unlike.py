"""Unlike pictures: the distances against numpy's, and who is flagged by a panel of the phantom."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from tests.panel.models import NORMALIZATION
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.images.crop import crop_file
from tumorboard.images.grey import three_channels
from tumorboard.models.inference import crop_logits
from tumorboard.models.model_file import ModelCard
from tumorboard.models.registry import Classifier, build_model
from tumorboard.panel import fit_unlike as fitting
from tumorboard.panel.fit_unlike import collected_features, fit_unlike
from tumorboard.panel.unlike import (
    UnlikeStatistics,
    image_statistics,
    load_unlike,
    panel_scores,
    panel_threshold,
    save_unlike,
    unlike_scores,
)

SIDE = 32
PATIENTS = 40
Crops = NDArray[np.uint8]
Members = list[tuple[Classifier, UnlikeStatistics]]


def smears(patients: range, each: int = 8) -> Crops:
    """Purple blobs on a pink ground, uint8[N, S, S, 3]; a patient's images share their stain."""
    pictures = []
    for patient in patients:
        random = np.random.default_rng(patient)
        stain = random.normal(0, 6, 3)
        for _ in range(each):
            y, x = np.mgrid[:SIDE, :SIDE] - random.uniform(12, 20, 2)[:, None, None]
            blob = 1 / (1 + np.exp(np.hypot(x, y) - random.uniform(6, 10)))[..., None]
            picture = (1 - blob) * np.array([225, 200, 210]) + blob * np.array([120, 70, 150]) + stain
            pictures.append(np.clip(picture + random.normal(0, 4, picture.shape), 0, 255))
    return np.array(pictures).astype(np.uint8)


def manifest_of(patients: range, each: int = 8) -> pd.DataFrame:
    ids = [f"{patient:03d}/{number}" for patient in patients for number in range(each)]
    return pd.DataFrame({"id": ids, "group": [name[:3] for name in ids]}, dtype=object)


def scans(number: int) -> Crops:
    """Grey ellipses with a texture on black, as a stand-in for slices of a brain."""
    pictures = []
    for seed in range(number):
        random = np.random.default_rng(1000 + seed)
        y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
        inside = (x / random.uniform(9, 13)) ** 2 + (y / random.uniform(11, 15)) ** 2 < 1
        texture = 90 + 300 * gaussian_filter(random.normal(size=(SIDE, SIDE)), 2)
        pictures.append(np.where(inside, np.clip(texture, 0, 255), 0))
    return np.repeat(np.array(pictures)[..., None], 3, axis=3).astype(np.uint8)


def card_of(params: Params, name: str) -> tuple[Classifier, ModelCard]:
    recipe = resolve_recipe(params, name)
    network = build_model(recipe, 2, SIDE, NORMALIZATION)
    mean, std = NORMALIZATION
    fields: dict[str, Any] = {
        "parameters": 1,
        "epoch": 1,
        "score": {},
        "versions": {},
        "seed": len(name),
        "manifest": "0" * 16,
    }
    return network, ModelCard(
        name=name, classes=("a", "b"), fold=0, crop=params.crop, mean=mean, std=std, recipe=recipe, **fields
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, manifest_of(range(PATIENTS))["id"].tolist(), smears(range(PATIENTS)), 2)
    return CropStore(folder)


@pytest.fixture(scope="module")
def members(params: Params, store: CropStore) -> Members:
    """Two untrained networks; patients 0 to 23 are their training part, 24 to 39 their validation fold."""
    fitted = []
    for name in ("linear", "cnn"):
        network, card = card_of(params, name)
        statistics = fit_unlike(
            network, card, train=manifest_of(range(24)), held_out=manifest_of(range(24, PATIENTS)), crops=store
        )
        fitted.append((network, statistics))
    return fitted


def features_of(network: Classifier, crops: Crops) -> NDArray[np.float32]:
    with collected_features(network) as batches:
        crop_logits(network, crops, precision="off", channels_last=False, device=network.mean.device)
    return np.concatenate(batches)


def scored(members: Members, crops: Crops) -> NDArray[np.float64]:
    return panel_scores(
        [unlike_scores(statistics, features_of(network, crops), crops) for network, statistics in members]
    )


def check_flagged(members: Members, crops: Crops) -> None:
    own = scored(members, smears(range(100, 130)))
    others = scored(members, crops)
    threshold = panel_threshold({0: [statistics for _, statistics in members]}, 0.05)
    assert roc_auc_score([0] * len(own) + [1] * len(others), [*own, *others]) >= 0.95
    assert (own > threshold).mean() <= 0.05
    assert (others > threshold).mean() >= 0.95


@pytest.mark.parametrize("kind", ["noise", "inverted", "scans", "one color", "dark"])
def test_unlike_pictures_are_flagged_and_images_of_new_patients_are_not(kind: str, members: Members) -> None:
    random = np.random.default_rng(5)
    pictures = {
        "noise": random.integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8),
        "inverted": 255 - smears(range(200, 205)),
        "scans": scans(30),
        "one color": np.repeat(random.integers(0, 256, (30, 1, 1, 3), dtype=np.uint8), SIDE, 1).repeat(SIDE, 2),
        "dark": smears(range(200, 205)) // 3,
    }
    check_flagged(members, pictures[kind])


def test_real_brain_scans_are_flagged(members: Members, params: Params, shared: Path) -> None:
    folder = shared / "brain_mri_small/Testing"
    if not folder.is_dir():
        pytest.skip("needs brain_mri_small")
    files = sorted(folder.rglob("*.jpg"))[::4]
    assert files
    crops = [three_channels(crop_file(file.read_bytes(), params.crop, None).square) for file in files]
    check_flagged(members, np.stack(crops))


def test_features_are_what_the_head_reads_and_nothing_stays_hooked(members: Members) -> None:
    network = members[1][0]
    crops = smears(range(2))
    expected = network.backbone((torch.tensor(crops).permute(0, 3, 1, 2) / 255 - network.mean) / network.std)
    features = features_of(network, crops)
    assert features.shape == (16, 256)
    np.testing.assert_allclose(features, expected.detach().numpy(), rtol=1e-3, atol=1e-3)
    assert not network.head._forward_pre_hooks


def test_distances_are_those_of_numpy_and_scikit_learn(store: CropStore, members: Members) -> None:
    network, statistics = members[1]
    train, new = store[manifest_of(range(24))["id"].tolist()], smears(range(50, 52))
    features, own = features_of(network, train).astype(np.float64), features_of(network, new).astype(np.float64)
    analysis = PCA(64).fit(features)
    along = analysis.transform(own)
    variances = analysis.explained_variance_ * (len(train) - 1) / len(train)
    rest = ((own - analysis.inverse_transform(along)) ** 2).sum(1)
    mean_rest = ((features - analysis.inverse_transform(analysis.transform(features))) ** 2).sum(1).mean()
    by_features = (along**2 / (variances + 0.01 * variances.mean())).sum(1)
    if mean_rest > 0.01 * variances.mean():
        by_features += rest / mean_rest
    covariance = np.cov(image_statistics(train).T, bias=True) + 1e-4 * np.eye(15)
    offset = image_statistics(new) - image_statistics(train).mean(0)
    by_image = np.diag(offset @ np.linalg.solve(covariance, offset.T))
    logs = np.log(np.stack([by_features, by_image], 1))
    expected = ((logs - statistics.center) / statistics.spread).mean(1)
    np.testing.assert_allclose(unlike_scores(statistics, own.astype(np.float32), new), expected, rtol=1e-2, atol=1e-2)


def test_held_out_scores_have_the_median_0_in_both_parts(members: Members, store: CropStore) -> None:
    for network, statistics in members:
        crops = store[manifest_of(range(24, PATIENTS))["id"].tolist()]
        again = unlike_scores(statistics, features_of(network, crops), crops)
        np.testing.assert_allclose(again, statistics.held_out, atol=1e-3)
        assert statistics.held_out_groups.tolist() == np.repeat(np.arange(16), 8).tolist()
        assert abs(np.median(statistics.held_out)) < 0.5


def test_the_fit_does_not_depend_on_the_order_of_rows_nor_on_the_validation_images_for_the_training_part(
    params: Params, store: CropStore, members: Members
) -> None:
    network, card = card_of(params, "cnn")
    train, held_out = manifest_of(range(24))[::-1], manifest_of(range(24, PATIENTS))[::-1]
    again = fit_unlike(network, card, train=train, held_out=held_out, crops=store)
    for name, array in vars(members[1][1]).items():
        assert np.array_equal(array, getattr(again, name)), name
    other = fit_unlike(network, card, train=train, held_out=held_out[:40], crops=store)
    assert np.array_equal(other.directions, again.directions)
    assert len(other.held_out) == 40


def test_the_images_that_are_embedded_are_bounded(
    params: Params, store: CropStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, card = card_of(params, "cnn")
    seen: list[int] = []

    def counting(network: Classifier, crops: Crops, **settings: Any) -> NDArray[np.float32]:
        seen.append(len(crops))
        return crop_logits(network, crops, **settings)

    monkeypatch.setattr(fitting, "MAX_IMAGES", 20)
    monkeypatch.setattr(fitting, "crop_logits", counting)
    fitted = fit_unlike(
        network, card, train=manifest_of(range(24)), held_out=manifest_of(range(24, PATIENTS)), crops=store
    )
    assert sum(seen) == 1 + 20 + 20
    assert len(fitted.held_out) == 20
    assert len(fitted.directions) <= 19  # no more than 20 images span


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_or_equal_training_images_give_finite_scores(number: int, params: Params, store: CropStore) -> None:
    network, card = card_of(params, "cnn")
    rows = manifest_of(range(1))[:number]
    fitted = fit_unlike(network, card, train=rows, held_out=rows, crops=store)
    scores = unlike_scores(fitted, features_of(network, scans(3)), scans(3))
    assert np.isfinite(scores).all()
    assert np.isfinite(panel_threshold({0: [fitted]}, 0.05))


def test_a_grey_data_set_does_not_call_a_slight_tint_unlike(tmp_path: Path, params: Params) -> None:
    ids = [f"{number:03d}" for number in range(80)]
    write_store(tmp_path, ids, scans(80), 1)
    rows = pd.DataFrame({"id": ids, "group": ids}, dtype=object)
    network, card = card_of(params, "cnn")
    fitted = fit_unlike(network, card, train=rows[:50], held_out=rows[50:], crops=CropStore(tmp_path))
    threshold = panel_threshold({0: [fitted]}, 0.05)
    tinted = np.clip(scans(80)[50:].astype(np.int16) + np.array([1, 0, -1]), 0, 255).astype(np.uint8)
    assert (unlike_scores(fitted, features_of(network, tinted), tinted) > threshold).mean() < 0.15
    colored = smears(range(4))
    assert (unlike_scores(fitted, features_of(network, colored), colored) > threshold).all()


def test_no_crops_give_no_scores(members: Members) -> None:
    network, statistics = members[1]
    none = np.zeros((0, SIDE, SIDE, 3), np.uint8)
    assert unlike_scores(statistics, np.zeros((0, 256), np.float32), none).shape == (0,)
    assert image_statistics(none).shape == (0, 15)
    assert network.training is False


def test_a_panels_threshold_is_of_the_mean_of_its_models_within_each_fold(members: Members) -> None:
    one, other = (statistics for _, statistics in members)
    largest = ((one.held_out + other.held_out) / 2).max()
    assert panel_threshold({0: [one, other]}, 0.001) == largest
    assert panel_threshold({0: [one], 1: [other]}, 0.001) == max(one.held_out.max(), other.held_out.max())
    fewer = UnlikeStatistics(**vars(other) | {"held_out": other.held_out[1:], "held_out_groups": np.arange(127)})
    with pytest.raises(InputError, match="fold 0: the models have other validation images"):
        panel_threshold({0: [one, fewer]}, 0.05)


def test_statistics_are_the_same_after_the_file_and_the_file_is_small(tmp_path: Path, members: Members) -> None:
    file = tmp_path / "unlike/cnn.safetensors"
    for _, statistics in members:
        save_unlike(statistics, file)
        first = file.read_bytes()
        again = load_unlike(file)
        assert all(np.array_equal(array, getattr(again, name)) for name, array in vars(statistics).items())
        save_unlike(again, file)
        assert file.read_bytes() == first
        assert len(first) < 2_500_000


def test_a_missing_damaged_or_foreign_file_is_an_input_error(tmp_path: Path, members: Members) -> None:
    file = tmp_path / "cnn.safetensors"
    with pytest.raises(InputError, match=r"cnn.safetensors: is not there: `dvc repro`"):
        load_unlike(file)
    file.write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="is damaged"):
        load_unlike(file)
    save_unlike(members[1][1], file)
    with pytest.raises(InputError, match=r"feature_mean has the shape \[256\], expected \[1000\]"):
        load_unlike(file, features=1000)
    save_unlike(replace(members[1][1], image_mean=np.zeros(14), image_precision=np.eye(14)), file)
    with pytest.raises(InputError, match=r"image_mean has the shape \[14\], expected \[15\]"):
        load_unlike(file)
    save_unlike(members[1][1], file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="is damaged"):
        load_unlike(file)


def test_image_statistics_of_a_picture_computed_by_hand() -> None:
    crop = np.zeros((1, 16, 16, 3), np.uint8)
    crop[0, :, 8:] = (255, 0, 0)  # the right half is red: grey value 1/3
    values = image_statistics(crop)[0]
    np.testing.assert_allclose(values[:6], [0.5, 0, 0, 0.5, 0, 0], atol=1e-6)
    assert values[6] == pytest.approx(np.log(1 / 3 / 15 + 1e-3), rel=1e-5)
    assert values[7] == pytest.approx(np.log(1 / 3 * 2 / 14 + 1e-3), rel=1e-5)
    np.testing.assert_allclose(values[8:], [1 / 6, 1 / 6, 1 / 6, 0.5, 0, 1 / 6, 1 / 3], atol=1e-6)


def test_large_crops_are_thinned() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (1, 400, 400, 3), dtype=np.uint8)
    assert np.array_equal(image_statistics(crop), image_statistics(crop[:, ::3, ::3]))
    assert not np.array_equal(image_statistics(crop[:, :255, :255]), image_statistics(crop[:, :255:2, :255:2]))
