"""The mean of the last epochs against torch's own stochastic weight averaging."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from tests.training.trainings import CPU, MakeJob, train
from tumorboard.base.params import Params, Recipe, Runtime
from tumorboard.models.model_file import load_model
from tumorboard.training.distributed import Group
from tumorboard.training.last_epochs import add_epoch, estimate_batch_norm, is_averaged
from tumorboard.training.loader import epoch_batches
from tumorboard.training.loop import mean_std_of, set_up
from tumorboard.training.steps import set_train_mode


def test_which_epochs_are_averaged(params: Params) -> None:
    recipe = Recipe(**dict(params.train) | {"epochs": 5}, architecture="cnn", seed=0)
    averaged = [
        [is_averaged(recipe.model_copy(update=change), epoch) for epoch in range(5)]
        for change in ({}, {"average_last": 2}, {"average_last": 5}, {"ema_decay": 0.9})
    ]
    assert averaged == [[False] * 5, [False] * 3 + [True] * 2, [True] * 5, [True] * 5]


def test_a_mean_of_more_epochs_than_there_are_and_two_kinds_of_average_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(ValueError, match="average_last 3 is more than all of 2 epochs"):
        make_job(epochs=2, average_last=3)
    with pytest.raises(ValueError, match="average_last and ema_decay both average the weights: set one of them to 0"):
        make_job(epochs=2, average_last=1, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"early_stopping 3 may end a training before .* average_last 1 averages: set"):
        make_job(epochs=9, average_last=1, early_stopping=3)


@pytest.mark.parametrize("freeze", [0, 3])
def test_the_mean_and_its_batch_norm_are_torchs(make_job: MakeJob, freeze: int) -> None:
    """Weights after three epochs, of which two count; a frozen backbone keeps its statistics."""
    job = make_job(architecture="cnn", head="mlp", epochs=4, average_last=2, freeze_epochs=freeze)
    setup, state = set_up(Group(0, 1, CPU), job, mean_std_of(job))
    theirs = AveragedModel(state.model)  # a plain mean
    for epoch in (2, 3):
        with torch.no_grad():
            for tensor in state.model.state_dict().values():
                tensor.add_(torch.randn(tensor.shape).abs() if tensor.is_floating_point() else 3)
        theirs.update_parameters(state.model)
        add_epoch(state, job.recipe, epoch)
    names = [name for name, _ in state.model.named_parameters()]
    mean = theirs.module.state_dict()
    assert state.average is not None
    for name in names:
        torch.testing.assert_close(state.average[name], mean[name])

    last = freeze - 1 if freeze else 3
    state.model.load_state_dict(state.average)
    set_train_mode(state.model, job.recipe, last)
    before = copy.deepcopy(state.model)
    estimate_batch_norm(setup, state, last)
    batches = epoch_batches(setup.loader.keys, setup.loader.strata, seed=5, epoch=last, batch_size=16)
    pixels = [images for images, _ in setup.loader.load(batches)]
    expected = copy.deepcopy(before)
    for module in expected.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn(pixels, expected)  # sets the whole network to training mode
    for name, tensor in expected.state_dict().items():
        kept = freeze and name.startswith("backbone")
        wanted = before.state_dict()[name] if kept else tensor
        if not freeze or kept:
            torch.testing.assert_close(state.model.state_dict()[name], wanted, rtol=1e-5, atol=1e-6, msg=name)
    head = next(name for name in before.state_dict() if name.startswith("head") and name.endswith("running_mean"))
    assert not torch.equal(before.state_dict()[head], state.model.state_dict()[head])
    changed = not torch.equal(before.backbone[1].running_mean, state.model.backbone[1].running_mean)
    assert changed == (not freeze)
    assert not state.model.training
    assert state.model.backbone[1].momentum == 0.1


def test_the_mean_of_the_last_epochs_is_validated_and_kept(make_job: MakeJob, alone: Runtime) -> None:
    """Without batch norm: the kept weights are the mean of those of two shorter trainings."""
    plain = {"architecture": "cnn3", "epochs": 4, "keep": "last", "lr": 0.05}
    (third, shorter), (fourth, _) = (
        train(make_job(out=f"plain{epochs}", **plain | {"epochs": epochs}), alone) for epochs in (3, 4)
    )
    job = make_job(out="mean", **plain, average_last=2)
    model, epochs = train(job, alone)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (third.state_dict()[name] + fourth.state_dict()[name]) / 2)
    assert epochs[2].val["loss"] == shorter[2].val["loss"]  # the mean of one epoch is its weights
    card = load_model(job.weights, CPU)[1]
    assert (card.epoch, card.score["loss"]) == (4, epochs[3].val["loss"])


def test_an_earlier_epoch_is_kept_where_the_mean_is_not_better(make_job: MakeJob, alone: Runtime) -> None:
    """The area under the curve is 1 after the first epoch already."""
    changes = {"architecture": "cnn3", "lr": 0.05, "select": "auc"}
    job = make_job(epochs=3, average_last=1, **changes)
    model, epochs = train(job, alone)
    assert [epoch.best for epoch in epochs] == [True, False, False]
    assert load_model(job.weights, CPU)[1].epoch == 1
    first, _ = train(make_job(epochs=1, out="first", **changes), alone)
    for name, tensor in first.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
