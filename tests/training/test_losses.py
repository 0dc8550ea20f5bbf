"""Compares losses with torch's cross-entropy and torchvision's focal loss, and class weights with scikit-learn's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.training.losses import LOSSES, class_weights, make_loss


@pytest.fixture
def recipe(params: Params) -> Recipe:
    return Recipe(**dict(params.train), architecture="cnn", seed=0)


def _batch(rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    return logits.requires_grad_(), torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sum_over_the_summed_weights_is_torchs_weighted_mean(recipe: Recipe, smoothing: float) -> None:
    logits, labels = _batch(17, 3)
    weights = torch.tensor([0.5, 2.0, 1.25])
    loss = make_loss(recipe.model_copy(update={"label_smoothing": smoothing}), weights)
    total = sum(loss(logits[part], labels[part]).sum() for part in (slice(0, 5), slice(5, 17)))
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(total / weights[labels].sum(), expected)


def test_the_focal_loss_without_gamma_and_alpha_is_cross_entropy(recipe: Recipe) -> None:
    logits, labels = _batch(17, 4)
    weights = torch.tensor([0.5, 2.0, 1.25, 1.0])
    focal = make_loss(recipe.model_copy(update={"loss": "focal", "focal_gamma": 0.0}), weights)
    torch.testing.assert_close(focal(logits, labels), F.cross_entropy(logits, labels, weights, reduction="none"))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_two_classes_is_torchvisions_sigmoid_focal_loss(recipe: Recipe, gamma: float) -> None:
    """Softmax over (a, b) gives class 1 the probability sigmoid(b - a); torchvision's alpha is class 1's share."""
    logits, labels = _batch(40, 2)
    focal = make_loss(
        recipe.model_copy(update={"loss": "focal", "focal_gamma": gamma, "focal_alpha": (0.75, 0.25)}), torch.ones(2)
    )
    difference = (logits[:, 1] - logits[:, 0]).detach().requires_grad_()
    expected = sigmoid_focal_loss(difference, labels.float(), alpha=0.25, gamma=gamma, reduction="none")
    torch.testing.assert_close(focal(logits, labels), expected)
    (gradient,) = torch.autograd.grad(focal(logits, labels).sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), difference)
    torch.testing.assert_close(gradient[:, 1], expected_gradient)
    torch.testing.assert_close(gradient[:, 0], -expected_gradient)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_is_finite_for_a_certain_prediction(recipe: Recipe, gamma: float) -> None:
    focal = make_loss(recipe.model_copy(update={"loss": "focal", "focal_gamma": gamma}), torch.ones(2))
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([0, 1])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0]
    assert logits.grad[1].isfinite().all()


def test_balanced_class_weights_are_scikit_learns(recipe: Recipe) -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2] * 3)
    weights = class_weights(recipe.model_copy(update={"class_weights": "balanced"}), labels, ("a", "b", "c"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    assert class_weights(recipe, labels, ("a", "b", "c")).tolist() == [1.0, 1.0, 1.0]
    given = recipe.model_copy(update={"class_weights": (1.0, 2.0, 4.0)})
    assert class_weights(given, labels, ("a", "b", "c")).tolist() == [1.0, 2.0, 4.0]


def test_a_wrong_number_of_weights_and_a_class_without_images_are_named(recipe: Recipe) -> None:
    def changed(**update: object) -> Recipe:
        return recipe.model_copy(update=update)

    with pytest.raises(InputError, match="class_weights has 2 numbers, but there are 3 classes"):
        class_weights(changed(class_weights=(1.0, 2.0)), np.array([0, 1, 2]), ("a", "b", "c"))
    with pytest.raises(InputError, match="'b' has no training image"):
        class_weights(changed(class_weights="balanced"), np.array([0, 2]), ("a", "b", "c"))
    with pytest.raises(InputError, match="focal_alpha has 1 numbers, but there are 2 classes"):
        make_loss(changed(loss="focal", focal_alpha=(1.0,)), torch.ones(2))


def test_every_loss_that_params_allow_exists() -> None:
    assert set(LOSSES) == set(Recipe.model_fields["loss"].annotation.__args__)  # type: ignore[union-attr]
