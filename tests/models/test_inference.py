"""Logits of stored images: their order, batches and precision."""

import numpy as np
import pytest
import torch
from torch import nn

from tumorboard.base import progress
from tumorboard.data.store import CropStore, write_store
from tumorboard.models.inference import crops_to_tensor, predict_logits, softmax
from tumorboard.models.registry import Classifier

SETTINGS = {"precision": "off", "channels_last": True, "device": torch.device("cpu"), "batch_size": 4}


class Means(nn.Module):
    """Features that can be computed by hand: the mean of each channel, and the first pixel's red."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean((2, 3)), images[:, 0, 0, :1]], dim=1)


@pytest.fixture
def store(tmp_path) -> CropStore:
    crops = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    write_store(tmp_path, [f"{n}.png" for n in range(11)], crops, 3)
    return CropStore(tmp_path)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_tensor_of_crops_has_the_layout_asked_for(channels_last: bool) -> None:
    crops = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    images = crops_to_tensor(crops, torch.device("cpu"), channels_last)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 4, 4)
    assert images[1, 2, 3, 0].item() == crops[1, 3, 0, 2]
    assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert images.is_contiguous() == (not channels_last)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_logits_are_the_models_in_the_order_of_the_ids(store: CropStore, batch_size: int, channels_last: bool) -> None:
    model = Classifier(Means(), nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ids = [f"{n}.png" for n in (7, 2, 2, 10, 0, 5)]
    logits = predict_logits(model, store, ids, **SETTINGS | {"channels_last": channels_last, "batch_size": batch_size})
    crops = store[ids].astype(np.float64) / 255
    expected = np.concatenate([crops.mean((1, 2)), crops[:, 0, 0, :1]], axis=1)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_no_images_give_no_rows(store: CropStore) -> None:
    model = Classifier(Means(), nn.Linear(4, 3), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert predict_logits(model, store, [], **SETTINGS).shape == (0, 3)


def test_dropout_is_off_and_no_graph_is_kept(store: CropStore) -> None:
    model = Classifier(Means(), nn.Dropout(0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).train()
    twice = [predict_logits(model, store, store.ids, **SETTINGS) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert not model.training


def test_bf16_rounds_products_to_eight_bits(store: CropStore) -> None:
    model = Classifier(Means(), nn.Linear(4, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    exact = predict_logits(model, store, store.ids, **SETTINGS)
    rounded = predict_logits(model, store, store.ids, **SETTINGS | {"precision": "bf16"})
    np.testing.assert_array_equal(rounded, torch.from_numpy(rounded).bfloat16().float().numpy())
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize(("shown", "lines"), [(True, ["predict  batch 1/3", "predict  batch 2/3"]), (False, [])])
def test_a_long_prediction_prints_lines_if_it_is_to_show_progress(
    store: CropStore, shown: bool, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    model = Classifier(Means(), nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    logits = predict_logits(model, store, store.ids, **SETTINGS, progress=shown)
    np.testing.assert_array_equal(logits, predict_logits(model, store, store.ids, **SETTINGS))
    assert capsys.readouterr().err.splitlines() == lines


def test_softmax_by_hand() -> None:
    probabilities = softmax(np.array([[0, np.log(3)], [1000, 0], [5, 5]], dtype=np.float32))
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, [[0.25, 0.75], [1, 0], [0.5, 0.5]], rtol=1e-7)
