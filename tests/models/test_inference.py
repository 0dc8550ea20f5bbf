"""Logits of stored images: their order, their batches, their precision."""

import numpy as np
import pytest
import torch
from torch import nn

from tumorboard.data.store import CropStore, write_store
from tumorboard.errors import InputError
from tumorboard.models.inference import autocast, predict_logits, softmax
from tumorboard.models.registry import Classifier

CPU = torch.device("cpu")


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
@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_logits_are_the_models_in_the_order_of_the_ids(store: CropStore, batch_size: int, channels_last: bool) -> None:
    model = Classifier(Means(), nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ids = [f"{n}.png" for n in (7, 2, 2, 10, 0, 5)]
    logits = predict_logits(model, store, ids, "off", channels_last, CPU, batch_size)
    crops = store[ids].astype(np.float64) / 255
    expected = np.concatenate([crops.mean((1, 2)), crops[:, 0, 0, :1]], axis=1)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_no_images_give_no_rows(store: CropStore) -> None:
    model = Classifier(Means(), nn.Linear(4, 3), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert predict_logits(model, store, [], "off", True, CPU, 4).shape == (0, 3)


def test_dropout_is_off_and_no_graph_is_kept(store: CropStore) -> None:
    model = Classifier(Means(), nn.Dropout(0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).train()
    twice = [predict_logits(model, store, store.ids, "off", True, CPU, 4) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert not model.training


def test_bf16_rounds_products_to_eight_bits(store: CropStore) -> None:
    model = Classifier(Means(), nn.Linear(4, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    exact = predict_logits(model, store, store.ids, "off", True, CPU, 4)
    rounded = predict_logits(model, store, store.ids, "bf16", True, CPU, 4)
    np.testing.assert_array_equal(rounded, torch.from_numpy(rounded).bfloat16().float().numpy())
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    assert not np.array_equal(rounded, exact)


def test_fp16_without_cuda_is_refused() -> None:
    with pytest.raises(InputError, match="fp16 needs CUDA, the device is cpu"):
        autocast("fp16", CPU)


def test_softmax_by_hand() -> None:
    probabilities = softmax(np.array([[0, np.log(3)], [1000, 0], [5, 5]], dtype=np.float32))
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, [[0.25, 0.75], [1, 0], [0.5, 0.5]], rtol=1e-7)
