"""The training loop against plain torch, against itself, and on problems whose answer is known."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from tumorboard.data.store import CropStore, write_store
from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import scores
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.pretrained import normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.weights import load_model
from tumorboard.params import Augment, Params, Recipe, Runtime
from tumorboard.randomness import keys_of, order
from tumorboard.tables import make_predictions, read_table, write_table
from tumorboard.training import loop
from tumorboard.training.loop import train_model
from tumorboard.training.state import Epoch, Job

CLASSES = ("blue", "red")
CPU = torch.device("cpu")
MakeJob = Callable[..., Job]


def _rows(ids: list[str], labels: list[str], fold: int) -> pd.DataFrame:
    same = {"path": ids, "label": labels, "group": ids, "split": "train", "source_id": ids, "sha256": "0"}
    rows = pd.DataFrame({"id": ids} | same | {"fold": pd.array([fold] * len(ids), dtype="Int64")})
    return rows[["id", "path", "label", "group", "split", "fold", "source_id", "sha256"]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """132 noisy squares of 32 pixels: two of three 'red', the others 'blue', by which channel is the brighter one."""
    folder = tmp_path_factory.mktemp("store")
    crops = np.random.default_rng(0).integers(0, 100, (132, 32, 32, 3), dtype=np.uint8)
    for number, crop in enumerate(crops):
        crop[..., 0 if number % 3 else 2] += 100
    write_store(folder, [f"{number}.jpg" for number in range(132)], crops, 4)
    return folder


@pytest.fixture
def make_job(store: Path, tmp_path: Path, params: Params) -> MakeJob:
    """A job on the first images, its validation rows behind them, in float32 without augmentation by default."""

    def make(train: int = 40, val: int = 31, out: str = "out", **own: Any) -> Job:
        ids = [f"{number}.jpg" for number in range(train + val)]
        labels = ["red" if number % 3 else "blue" for number in range(train + val)]
        still = dict.fromkeys(Augment.model_fields, 0.0) | {"crop": 1.0, "fill": "reflect"}
        augment = Augment(**still | {"zoom": (1.0, 1.0), "blur_sigma": (1.0, 1.0)})
        plain = {"architecture": "cnn3", "seed": 5, "precision": "off", "augment": augment, "schedule": "constant"}
        plain |= {"optimizer": "sgd", "weight_decay": 0.0005}
        recipe = Recipe(**dict(params.train) | plain | {"batch_size": 16, "lr": 0.02} | own)
        val_rows = _rows(ids[train:], labels[train:], 0)
        return Job("m", 0, recipe, _rows(ids[:train], labels[:train], 1), val_rows, CropStore(store), CLASSES,
                   params.crop, "0" * 16, tmp_path / out / "model.safetensors", tmp_path / out)  # fmt: skip

    return make


@pytest.fixture
def alone(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"device": "cpu", "processes": 1})


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


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 5), (2, 3)])
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


def test_two_runs_are_equal_to_the_byte(make_job: MakeJob, alone: Runtime, params: Params) -> None:
    """With batch norm, dropout, augmentation and bf16; whatever torch's random state is."""
    files = []
    for seed, out in enumerate(("one", "two")):
        torch.manual_seed(seed)
        own = {"architecture": "cnn", "head": "mlp", "precision": "bf16", "augment": params.train.augment}
        job = make_job(out=out, epochs=2, accumulate=2, optimizer="adam", lr=0.001, **own)
        model, _ = _train(job, alone)
        logits = predict_logits(model, job.store, job.val_rows["id"].tolist(), "bf16", True, CPU, 16)
        judged = make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16)
        write_table(judged, job.out / "predictions.csv")
        names = ("model.safetensors", "history.csv", "predictions.csv")
        files.append([(job.out / name).read_bytes() for name in names])
    assert files[0] == files[1]


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
    one_image = "train.batch_size 16 .* 1 processes .* train.accumulate 8 leaves a process 1 images at a time"
    fails(make_job(architecture="cnn", accumulate=8), f"{one_image}.* needs 2 for its batch norm")
    fails(make_job(architecture="no_such_net"), "unknown architecture 'no_such_net'")
    fails(make_job(class_weights=(1.0, 2.0, 3.0)), "class_weights has 3 numbers")


def test_a_loss_that_is_not_finite_ends_the_training(make_job: MakeJob, alone: Runtime) -> None:
    with pytest.raises(InputError, match=r"model 'm', fold 0: the loss of epoch \d, step \d of 3 is not finite; lower"):
        train_model(make_job(lr=1e30, epochs=3), alone, lambda _: None)
    with pytest.raises(InputError, match="an output for a validation image is not finite"):
        train_model(make_job(train=16, lr=1e38, out="one_step"), alone, lambda _: None)
