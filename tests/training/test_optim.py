"""Compares schedules with torch's own, and optimizers with parameter groups and steps computed by hand."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from tumorboard.base.params import Params, Recipe
from tumorboard.training.optim import OPTIMIZERS, make_optimizer, scheduled_lr, set_lr

STEPS = 7  # per epoch
KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.fixture
def recipe(params: Params) -> Recipe:
    rates = {"lr": 0.5, "schedule": "constant", "warmup_epochs": 0.0, "step_epochs": 3, "step_factor": 0.2}
    return Recipe(**dict(params.train) | rates | {"epochs": 11}, architecture="cnn", seed=0)


def _torch_rates(scheduler: LRScheduler, epochs: int) -> list[float]:
    rates = []
    for _ in range(epochs * STEPS):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def _own_rates(recipe: Recipe) -> list[float]:
    return [scheduled_lr(recipe, step, STEPS, ()) for step in range(recipe.epochs * STEPS)]


def _sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def test_schedules_equal_torchs(recipe: Recipe) -> None:
    steps = recipe.epochs * STEPS
    for name, scheduler in (
        ("cosine", CosineAnnealingLR(_sgd(), steps)),
        ("step", StepLR(_sgd(), 3 * STEPS, 0.2)),
        ("onecycle", OneCycleLR(_sgd(), 0.5, steps, cycle_momentum=False)),
    ):
        expected = _torch_rates(scheduler, recipe.epochs)
        assert _own_rates(recipe.model_copy(update={"schedule": name})) == pytest.approx(
            expected, rel=1e-9, abs=1e-12
        ), name


def test_a_one_cycle_of_a_single_step_is_defined(recipe: Recipe) -> None:
    short = recipe.model_copy(update={"schedule": "onecycle", "epochs": 1})
    assert 0 < scheduled_lr(short, 0, 1, ()) <= 0.5


def test_the_warm_up_rises_linearly_and_multiplies_the_schedule(recipe: Recipe) -> None:
    warm = recipe.model_copy(update={"warmup_epochs": 10 / STEPS})
    assert _own_rates(warm)[:11] == pytest.approx([0.05 * n for n in range(1, 11)] + [0.5])
    cosine = warm.model_copy(update={"schedule": "cosine"})
    assert _own_rates(cosine)[4] == pytest.approx(0.25 * (1 + math.cos(math.pi * 4 / 77)) / 2)
    onecycle = recipe.model_copy(update={"schedule": "onecycle"})
    assert _own_rates(onecycle.model_copy(update={"warmup_epochs": 2.0})) == _own_rates(onecycle)


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.8, 0.9, 0.9, 0.9, 0.7],
        [1.0, 0.99995, 0.9999, 0.99985, 0.9998, 0.9997],
        [math.nan, 1.0, math.nan, math.nan, math.nan, 0.5],
        [],
    ],
)
@pytest.mark.parametrize("patience", [0, 2])
def test_the_plateau_schedule_equals_torchs(recipe: Recipe, losses: list[float], patience: int) -> None:
    plateau = recipe.model_copy(update={"schedule": "plateau", "plateau_patience": patience})
    optimizer = _sgd()
    scheduler = ReduceLROnPlateau(optimizer, factor=0.2, patience=patience, eps=0)
    for epoch in range(len(losses) + 1):
        ours = scheduled_lr(plateau, epoch * STEPS, STEPS, losses[:epoch])
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
        if epoch < len(losses):
            scheduler.step(losses[epoch])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_part_has_its_learning_rate_and_only_matrices_have_weight_decay(recipe: Recipe, name: str) -> None:
    backbone, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    changes = {"optimizer": name, "backbone_lr_scale": 0.01, "weight_decay": 0.3, "momentum": 0.7}
    optimizer = make_optimizer(backbone, head, recipe.model_copy(update=changes))
    set_lr(optimizer, 0.2)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings == {
        id(backbone[0].weight): (pytest.approx(0.002), 0.3),
        id(backbone[0].bias): (pytest.approx(0.002), 0.0),
        id(backbone[1].weight): (pytest.approx(0.002), 0.0),
        id(backbone[1].bias): (pytest.approx(0.002), 0.0),
        id(head.weight): (0.2, 0.3),
        id(head.bias): (0.2, 0.0),
    }
    assert isinstance(optimizer, KINDS[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_those_of_torchs_own_optimizer_to_the_bit(recipe: Recipe, name: str) -> None:
    """Five steps; after two of them the state is saved and loaded. Hooks of steps are called as in torch."""
    made = recipe.model_copy(update={"optimizer": name, "momentum": 0.7, "weight_decay": 0.3, "lr": 0.5})
    random = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 4, 6, generator=random)
    ends, hooked = [], []
    for own in (True, False):
        head = nn.Linear(6, 4, bias=False)
        head.weight.data = torch.ones(4, 6)
        settings = {"momentum": 0.7} if name == "sgd" else {}
        theirs = KINDS[name](head.parameters(), 0.5, weight_decay=0.3, fused=True, **settings)
        optimizer = make_optimizer(nn.Identity(), head, made) if own else theirs
        optimizer.register_step_post_hook(lambda *_, own=own: hooked.append(own))
        for step, gradient in enumerate(gradients):
            optimizer.zero_grad()
            assert head.weight.grad is None
            (head.weight * gradient).sum().backward()
            optimizer.step()
            assert torch.is_grad_enabled()
            if step == 2:
                state = optimizer.state_dict()
                optimizer.load_state_dict(state)
        ends.append(head.weight.detach())
    assert torch.equal(*ends)
    assert hooked == [True] * 5 + [False] * 5


def test_each_layer_learns_at_layer_decay_times_the_rate_of_the_next_one(recipe: Recipe) -> None:
    """Three layers, the second with a batch norm: 0.5 ** 3, 0.5 ** 2 and 0.5 of the backbone's rate 0.1 * 0.8."""
    convolution, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    backbone, head = nn.Sequential(nn.Linear(2, 2), nn.Sequential(convolution, norm), nn.Linear(4, 4)), nn.Linear(4, 2)
    changes = {"backbone_lr_scale": 0.1, "layer_decay": 0.5, "weight_decay": 0.3}
    optimizer = make_optimizer(backbone, head, recipe.model_copy(update=changes))
    set_lr(optimizer, 0.8)
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    expected = {}
    for layer, rate in ((backbone[0], 0.01), (convolution, 0.02), (backbone[2], 0.04), (head, 0.8)):
        expected |= {id(layer.weight): (pytest.approx(rate), 0.3), id(layer.bias): (pytest.approx(rate), 0.0)}
    expected |= {id(parameter): (pytest.approx(0.02), 0.0) for parameter in norm.parameters()}
    assert settings == expected


def test_sgd_has_the_recipes_momentum(recipe: Recipe) -> None:
    """Two steps of gradient 1 from 0 at rate 0.1 with momentum 0.7: -0.1, then -0.1 - 0.1 * 1.7."""
    head = nn.Linear(1, 1)
    nn.init.zeros_(head.bias)
    changes = {"optimizer": "sgd", "momentum": 0.7, "weight_decay": 0.0}
    optimizer = make_optimizer(nn.Identity(), head, recipe.model_copy(update=changes))
    for expected in (-0.1, -0.27):
        set_lr(optimizer, 0.1)
        head.bias.grad = torch.ones(1)
        optimizer.step()
        assert head.bias.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_first_step_that_fp16_skips_leaves_no_trace(recipe: Recipe, name: str) -> None:
    """The scaler skips a step whose gradients are not finite; the next step is then the first one."""
    ends = []
    for gradients in ((torch.inf, 1.0), (1.0,)):
        head = nn.Linear(50, 50)
        nn.init.zeros_(head.weight)
        optimizer = make_optimizer(
            nn.Identity(), head, recipe.model_copy(update={"optimizer": name, "precision": "fp16"})
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        set_lr(optimizer, 0.1)
        for gradient in gradients:
            optimizer.zero_grad()
            scaler.scale(head.weight.sum()).backward()
            head.weight.grad.fill_(gradient)
            scaler.step(optimizer)
            scaler.update(1.0)
        ends.append(head.weight.detach().clone())
    assert torch.equal(*ends)
