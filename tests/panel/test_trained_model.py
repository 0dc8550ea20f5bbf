"""A model file in a panel: what it computes where the memory of the GPU runs out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.panel.models import save_untrained
from tumorboard.base.params import Params
from tumorboard.panel.trained_model import TrainedModel, load_trained

CROPS = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)


class Bounded(nn.Module):
    """A backbone in a memory that holds a number of images."""

    def __init__(self, backbone: nn.Module, most: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.most = most
        self.error: type[RuntimeError] = torch.OutOfMemoryError
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        features: Tensor = self.backbone(images)
        return features


@pytest.fixture
def trained(tmp_path: Path, params: Params) -> TrainedModel:
    return load_trained(save_untrained(tmp_path, params, "cnn", 0, 1), "cpu", None)


def bounded(trained: TrainedModel, most: int) -> Bounded:
    """Puts a bound on a model's memory."""
    trained.network.backbone = Bounded(trained.network.backbone, most)
    return trained.network.backbone


def test_batches_are_halved_until_they_fit_and_each_crop_keeps_its_place(trained: TrainedModel) -> None:
    expected = trained.outputs(CROPS)
    assert expected.logits.shape == (70, 3)
    backbone = bounded(trained, 9)
    found = trained.outputs(CROPS)
    assert backbone.sizes == [70, 35, 17, *[8] * 8, 6], "a size that did not fit is not tried again"
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-6)


def test_with_views_the_features_are_those_of_the_unaltered_crops(trained: TrainedModel) -> None:
    """The memory also runs out in the second view, when the features of the first are there already."""
    plain = trained.outputs(CROPS).features
    recipe = trained.card.recipe.model_copy(update={"tta": ("vflip",)})
    viewed = trained._replace(card=trained.card.model_copy(update={"recipe": recipe}))
    expected = viewed.outputs(CROPS)
    backbone = bounded(viewed, 1000)

    def run_out_once(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        if backbone.sizes == [70]:
            backbone.sizes.append(0)
            raise torch.OutOfMemoryError

    backbone.register_forward_pre_hook(run_out_once)
    found = viewed.outputs(CROPS)
    assert backbone.sizes == [70, 0, 35, 35, 35, 35]
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.features, plain, rtol=1e-5, atol=1e-6)


def test_where_not_even_one_fits_the_error_is_raised(trained: TrainedModel) -> None:
    backbone = bounded(trained, 0)
    with pytest.raises(torch.OutOfMemoryError):
        trained.outputs(CROPS)
    assert backbone.sizes == [70, 35, 17, 8, 4, 2, 1]


def test_other_errors_are_no_reason_to_try_again(trained: TrainedModel) -> None:
    backbone = bounded(trained, 0)
    backbone.error = RuntimeError
    with pytest.raises(RuntimeError):
        trained.outputs(CROPS)
    assert backbone.sizes == [70]
