"""The training loop against plain torch, against itself, and on problems whose answer is known."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import scores
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.pretrained import normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.weights import load_model
from tumorboard.params import Params, Recipe, Runtime
from tumorboard.randomness import keys_of, order
from tumorboard.tables import make_predictions, read_table, write_table
from tumorboard.training import loop, steps
from tumorboard.training.checkpoint import Checkpoints
from tumorboard.training.distributed import Group
from tumorboard.training.loop import train_model
from tumorboard.training.state import Epoch, Job, State

CLASSES = ("blue", "red")
CPU = torch.device("cpu")
MakeJob = Callable[..., Job]


def _train(job: Job, runtime: Runtime) -> tuple[Classifier, list[Epoch]]:
    epochs: list[Epoch] = []
    train_model(job, runtime, epochs.append)
    return load_model(job.out / "model.safetensors", CPU)[0], epochs


def _fresh(job: Job) -> Classifier:
    return build_model(job.recipe, 2, 32, normalization(job.recipe))


def _plain_torch(job: Job) -> tuple[dict[str, torch.Tensor], float]:
    """The same training in a few lines of torch, one whole batch a step, and its mean loss in the last epoch."""
    recipe, model = job.recipe, _fresh(job)
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, momentum=recipe.momentum)
    ids, labels = job.rows["id"].tolist(), torch.tensor([CLASSES.index(label) for label in job.rows["label"]])
    weights = len(ids) / (2 * labels.bincount().float())
    for epoch in range(recipe.epochs):
        loss_sum = 0.0
        model.backbone.requires_grad_(epoch >= recipe.freeze_epochs)
        steps = math.ceil(len(ids) / recipe.batch_size)
        for batch in np.array_split(order(recipe.seed, keys_of(ids), epoch), steps):
            images = torch.from_numpy(job.store[[ids[row] for row in batch]]).permute(0, 3, 1, 2)
            loss = F.cross_entropy(model(images), labels[batch], weights, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * weights[labels[batch]].sum().item()
    return model.state_dict(), loss_sum / weights[labels].sum().item()


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 5), (2, 3), (3, 2), (4, 1)])
def test_processes_and_micro_batches_change_nothing_but_rounding(
    make_job: MakeJob, alone: Runtime, processes: int, accumulate: int
) -> None:
    """101 images in 7 batches of 14 or 15: unequal shares, unequal micro-batches, unequal class weights in each."""
    own = {"class_weights": "balanced", "label_smoothing": 0.1, "weight_decay": 0.0, "freeze_epochs": 1}
    job = make_job(101, 31, epochs=2, accumulate=accumulate, **own)
    trained, epochs = _train(job, alone.model_copy(update={"processes": processes}))
    expected, loss = _plain_torch(job)
    assert epochs[-1].best
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-6, rtol=1e-4)
    assert epochs[-1].train["loss"] == pytest.approx(loss, abs=1e-5)
    reference = _fresh(job)
    reference.load_state_dict(expected)
    logits = predict_logits(reference, job.store, job.val_rows["id"].tolist(), "off", False, CPU, 50)
    judged = make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16)
    found = scores(judged)
    assert epochs[-1].val == pytest.approx({name: found[name] for name in loop.SCORES}, abs=1e-4, nan_ok=True)


def _files(job: Job) -> list[bytes]:
    """The bytes of a finished training's weights, history and Predictions of its validation rows."""
    model, _ = load_model(job.weights, CPU)
    logits = predict_logits(model, job.store, job.val_rows["id"].tolist(), "bf16", True, CPU, 16)
    judged = make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16)
    write_table(judged, job.out / "predictions.csv")
    return [(job.out / name).read_bytes() for name in ("model.safetensors", "history.csv", "predictions.csv")]


@pytest.mark.parametrize(("architecture", "threads"), [("cnn", 1), ("resnet18", 2), ("linear", 2)])
def test_two_runs_are_equal_to_the_byte(
    make_job: MakeJob, alone: Runtime, params: Params, architecture: str, threads: int
) -> None:
    """With batch norm, dropout, augmentation and bf16; whatever torch's random state is."""
    files, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    for seed, out in enumerate(("one", "two")):
        torch.manual_seed(seed)
        own = {"architecture": architecture, "head": "mlp", "precision": "bf16", "augment": params.train.augment}
        job = make_job(out=out, epochs=2, accumulate=2, optimizer="adam", lr=0.001, **own)
        _train(job, alone)
        files.append(_files(job))
    torch.set_num_threads(before)
    assert files[0] == files[1]


class KilledError(Exception):
    pass


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """kill(n): a training stops after its n-th step from then on, its checkpoint written; kill(0): none does."""
    tick, left = Checkpoints.tick, [0]

    def ticked(checkpoints: Checkpoints, state: State) -> None:
        tick(checkpoints, state)
        if checkpoints._writing is not None:
            checkpoints._writing.result()
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    monkeypatch.setattr(Checkpoints, "tick", ticked)
    return lambda steps: left.__setitem__(0, steps)


@pytest.mark.parametrize(
    "tricks", [{}, {"ema_decay": 0.9, "mixup": 0.4, "cutmix": 1.0, "nonfinite": "skip", "clip_norm": 1.0}]
)
def test_a_training_that_is_killed_at_every_step_ends_as_one_that_was_not(
    tricks: dict[str, Any],
    make_job: MakeJob,
    alone: Runtime,
    params: Params,
    tmp_path: Path,
    kill: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three epochs of three steps, the backbone frozen in the first, the best one not the last."""
    own = {"architecture": "cnn", "head": "mlp", "precision": "bf16", "augment": params.train.augment}
    own |= {"epochs": 3, "accumulate": 2, "optimizer": "adam", "lr": 0.02, "schedule": "plateau", "freeze_epochs": 1}
    own |= {"plateau_patience": 0, "step_factor": 0.5, "select": "auc", "class_weights": "balanced"}
    own |= tricks
    job = make_job(out="uninterrupted", **own)
    _, expected = _train(job, alone)
    assert tricks or [epoch.best for epoch in expected][-1] is False
    assert capsys.readouterr().err == ""

    killed, folder = make_job(out="killed", **own), tmp_path / "checkpoints"
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    for _ in range(9):
        kill(1)
        with pytest.raises(KilledError):
            train_model(killed, each_step, lambda _: None, folder)
    epochs: list[Epoch] = []
    kill(0)
    train_model(killed, each_step, epochs.append, folder)
    resumed = [line.split("resumed from ")[1] for line in capsys.readouterr().out.splitlines() if "resumed" in line]
    assert resumed == [f"epoch {epoch} step {step}" for epoch in (1, 2, 3) for step in (1, 2, 3)]
    assert _files(killed) == _files(job)
    for found, wanted in zip(epochs, expected, strict=True):
        same = {"seconds": 0.0, "images_per_second": 0.0}
        # As text: an undefined score, nan, is not equal to itself.
        assert str(dataclasses.replace(found, **same)) == str(dataclasses.replace(wanted, **same))
    assert list(folder.iterdir()) == []


def test_checkpoints_change_nothing_and_a_changed_job_starts_afresh(
    make_job: MakeJob,
    alone: Runtime,
    tmp_path: Path,
    kill: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    kill(4)
    with pytest.raises(KilledError):
        train_model(make_job(epochs=2), each_step, lambda _: None, tmp_path / "checkpoints")
    plain, other = make_job(epochs=2, lr=0.021, out="plain"), make_job(epochs=2, lr=0.021, out="other")
    _train(plain, alone)
    train_model(other, each_step, lambda _: None, tmp_path / "checkpoints")
    assert "resumed" not in capsys.readouterr().out
    assert _files(plain) == _files(other)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1  # the first job's, which may yet go on


def test_two_processes_begin_and_one_or_four_go_on(
    make_job: MakeJob, alone: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two are killed in the second epoch; batches of 14 or 15 images, to be shared by four."""
    folder, copy = tmp_path / "checkpoints", tmp_path / "copy"
    job = make_job(101, 31, epochs=2, weight_decay=0.0, class_weights="balanced")
    each_step = alone.model_copy(update={"checkpoint_seconds": 1e-9})

    def end(_: Epoch) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train_model(job, each_step.model_copy(update={"processes": 2}), end, folder)
    shutil.copytree(folder, copy)
    expected, loss = _plain_torch(job)
    for processes in (1, 4):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        capsys.readouterr()
        epochs: list[Epoch] = []
        train_model(job, each_step.model_copy(update={"processes": processes}), epochs.append, folder)
        if processes == 1:  # the others print elsewhere
            assert "resumed from epoch " in capsys.readouterr().out
        trained = load_model(job.weights, CPU)[0].state_dict()
        torch.testing.assert_close(trained, expected, atol=2e-6, rtol=1e-4)
        assert epochs[-1].train["loss"] == pytest.approx(loss, abs=1e-5)


def test_two_colours_are_learnt_to_the_last_image(
    make_job: MakeJob, alone: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(architecture="cnn", epochs=4, loss="focal", lr=0.01)
    model, epochs = _train(job, alone)
    assert epochs[-1].train["accuracy"] == 1
    best = min(epochs, key=lambda epoch: epoch.val["loss"])
    assert best.val["accuracy"] == best.val["auc"] == 1
    ids = job.rows["id"].tolist()
    found = predict_logits(model, job.store, ids, "off", False, CPU, 16).argmax(1)
    assert [CLASSES[code] for code in found] == job.rows["label"].tolist()
    history = read_table(job.out / "history.csv")
    assert history["epoch"].tolist() == ["1", "2", "3", "4"]
    assert [float(loss) for loss in history["val_loss"]] == [epoch.val["loss"] for epoch in epochs]
    card = load_model(job.out / "model.safetensors", CPU)[1]
    assert (card.epoch, card.score) == (best.number, pytest.approx(best.val))
    assert (card.name, card.fold, card.classes, card.recipe) == ("m", 0, CLASSES, job.recipe)
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("fold 0  m  epoch 1/4  lr 0.01  train loss ")
    assert [line.endswith(" *") for line in lines] == [epoch.best for epoch in epochs]


def test_the_balanced_sampler_shows_as_many_of_each_class_and_says_so_in_the_card(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 images 14 are blue: all of them come once and six again, and 20 of the 26 red ones."""
    arrived: list[torch.Tensor] = []
    load = loop.Loader.load

    def spy(self: Any, *arguments: Any) -> Any:
        for images, labels in load(self, *arguments):
            arrived.append(labels)
            yield images, labels

    monkeypatch.setattr(loop.Loader, "load", spy)
    job = make_job(epochs=1, sampler="balanced", accumulate=3)
    _train(job, alone)
    assert torch.cat(arrived).bincount().tolist() == [20, 20]
    assert len(arrived) == 3 * math.ceil(40 / 16)
    assert load_model(job.out / "model.safetensors", CPU)[1].recipe.sampler == "balanced"


@pytest.mark.parametrize("own", [{"backbone_lr_scale": 0.0}, {"freeze_epochs": 1}])
def test_a_frozen_backbone_keeps_weights_and_statistics(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, own: dict[str, float]
) -> None:
    """Head only: all stays. Frozen for the first of two epochs: changed after the second, but not after the first."""
    seen: list[dict[str, torch.Tensor]] = []
    validate = loop._validate

    def spy(run: Any, model: Classifier) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return validate(run, model)

    monkeypatch.setattr(loop, "_validate", spy)
    job = make_job(architecture="cnn", epochs=2, **own)
    _train(job, alone)
    start = _fresh(job).state_dict()
    frozen_throughout = "backbone_lr_scale" in own
    for epoch, state in enumerate(seen):
        held = frozen_throughout or epoch == 0
        for name, value in state.items():
            if name.startswith("backbone."):
                assert torch.equal(value, start[name]) == held, (epoch, name)
        assert not torch.equal(state["head.weight"], start["head.weight"])


def test_training_stops_early_and_keeps_the_best(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation accuracies 0.6, 0.8, 0.8 (a tie is not better), nan, 0.7: kept is the second, stopped after three."""
    given = iter([0.6, 0.8, 0.8, math.nan, 0.7, 0.9])
    found: list[dict[str, torch.Tensor]] = []

    def validate(_: Any, model: Classifier) -> dict[str, float]:
        found.append({name: value.clone() for name, value in model.state_dict().items()})
        return dict.fromkeys(loop.SCORES, 0.5) | {"accuracy": next(given)}

    monkeypatch.setattr(loop, "_validate", validate)
    model, epochs = _train(make_job(epochs=6, select="accuracy", early_stopping=3), alone)
    assert [epoch.best for epoch in epochs] == [True, True, False, False, False]
    assert all(torch.equal(value, found[1][name]) for name, value in model.state_dict().items())


def test_the_last_epoch_is_kept_where_the_recipe_says_so(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([0.9, 0.8, 0.7])
    found: list[dict[str, torch.Tensor]] = []

    def validate(_: Any, model: Classifier) -> dict[str, float]:
        found.append({name: value.clone() for name, value in model.state_dict().items()})
        return dict.fromkeys(loop.SCORES, 0.5) | {"accuracy": next(given)}

    monkeypatch.setattr(loop, "_validate", validate)
    job = make_job(epochs=6, select="accuracy", early_stopping=2, keep="last")
    model, epochs = _train(job, alone)
    assert [epoch.best for epoch in epochs] == [True, False, False]
    assert all(torch.equal(value, found[2][name]) for name, value in model.state_dict().items())
    card = load_model(job.out / "model.safetensors", CPU)[1]
    assert (card.epoch, card.score["accuracy"]) == (3, 0.7)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_averaged_weights_are_judged_and_kept(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """By hand beside a training without: each step's weights and statistics at decay 0.9 after its warm-up."""
    trail: list[dict[str, torch.Tensor]] = []
    update = steps.update

    def spy(recipe: Recipe, state: State) -> None:
        update(recipe, state)
        trail.append({name: value.double() for name, value in state.model.state_dict().items()})

    own = {"architecture": "cnn", "epochs": 2, "optimizer": "sgd", "lr": 0.05, "keep": keep}
    with monkeypatch.context() as patch:
        patch.setattr(steps, "update", spy)
        raw, _ = _train(make_job(out="raw", **own), alone)
    job = make_job(ema_decay=0.9, **own)
    model, epochs = _train(job, alone)
    kept = load_model(job.out / "model.safetensors", CPU)[1].epoch
    assert kept == (2 if keep == "last" else max(epoch.number for epoch in epochs if epoch.best))
    average = {name: value.double() for name, value in _fresh(job).state_dict().items()}
    assert len(trail) == 6  # 40 images: three steps an epoch
    for step, state in enumerate(trail[: 3 * kept]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * state[name] for name, value in average.items()}
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value.double(), average[name], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model.head.weight, raw.head.weight, atol=1e-4)
    logits = predict_logits(model, job.store, job.val_rows["id"].tolist(), "off", True, CPU, 16)
    judged = scores(make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16))
    assert epochs[kept - 1].val["loss"] == pytest.approx(judged["loss"], rel=1e-5)


def test_an_undefined_score_keeps_the_last_epoch_and_says_so(
    make_job: MakeJob, alone: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validation rows of one class have no AUC."""
    job = make_job(epochs=2, select="auc", early_stopping=5)
    one_class = job.val_rows[job.val_rows["label"] == "red"]
    _, epochs = _train(dataclasses.replace(job, val_rows=one_class), alone)
    assert [epoch.best for epoch in epochs] == [False, False]
    assert load_model(job.out / "model.safetensors", CPU)[1].epoch == 2
    assert capsys.readouterr().out.splitlines()[-1].endswith("auc is undefined in every epoch: the last one is kept")
    assert read_table(job.out / "history.csv")["val_auc"].tolist() == ["", ""]


def test_what_cannot_be_trained_is_said_at_the_start(make_job: MakeJob, alone: Runtime) -> None:
    def fails(job: Job, message: str) -> None:
        with pytest.raises(InputError, match=message):
            train_model(job, alone, lambda _: None)
        assert not (job.out / "history.csv").exists()

    fails(make_job(val=0), "fold 0 has no validation rows")
    fails(make_job(precision="fp16"), "precision is fp16, which needs a CUDA device: use bf16")
    one_image = "batch_size 16 .* 1 processes .* accumulate 8 leaves a process 1 images at a time"
    fails(make_job(architecture="resnet18", accumulate=8), f"{one_image}.* needs 2 for its batch norm")
    job = make_job(architecture="cnn", sync_batchnorm=True)
    with pytest.raises(InputError, match="sync_batchnorm is true, but torch has it on CUDA only, and 2 processes"):
        loop.prepare(Group(0, 2, CPU), job, normalization(job.recipe))
    fails(make_job(architecture="no_such_net"), "unknown architecture 'no_such_net'")
    fails(make_job(class_weights=(1.0, 2.0, 3.0)), "class_weights has 3 numbers")


def test_a_loss_that_is_not_finite_ends_the_training(make_job: MakeJob, alone: Runtime) -> None:
    with pytest.raises(InputError, match=r"model 'm', fold 0: the loss of epoch 1, step 2 of 3 \(.*\) is not finite"):
        train_model(make_job(lr=1e30, epochs=3), alone, lambda _: None)
    with pytest.raises(InputError, match="an output for a validation image is not finite"):
        train_model(make_job(train=16, lr=1e38, out="one_step"), alone, lambda _: None)


def test_what_a_training_ended_with_is_not_gone_on_from(make_job: MakeJob, alone: Runtime, tmp_path: Path) -> None:
    """The second step ruins the weights, which is known a step later; the first one's are only large."""
    often = alone.model_copy(update={"checkpoint_seconds": 1e-9})
    for _ in range(2):
        with pytest.raises(InputError, match=r"the loss of epoch 1, step 2 of 3 \(.*\) is not finite"):
            train_model(make_job(lr=1e30, epochs=3), often, lambda _: None, tmp_path / "checkpoints")
    assert [path.name for path in (tmp_path / "checkpoints").rglob("*.ckpt*")] == ["000001-000000001.ckpt"]


def test_weights_that_validation_moves_go_on_learning(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA an LSTM lays its weights into one new buffer whenever the model is moved; here it does so on the CPU."""

    def flatten(module: torch.nn.LSTM) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()

    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", flatten)
    _, epochs = _train(make_job(train=8, val=4, architecture="lstm_resnet18", epochs=2), alone)
    assert len(epochs) == 2


def test_too_little_memory_names_the_way_out(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "train_epoch", full)
    with pytest.raises(InputError, match=r"model 'm', fold 0: cpu has too little memory for batch_size 16 with accum"):
        train_model(make_job(), alone, lambda _: None)
