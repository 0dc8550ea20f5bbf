"""Compares the training loop with plain torch and with itself, and tests it on problems with a known answer."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.trainings import CLASSES, CPU, MakeJob, output_files, train, train_in_plain_torch, untrained
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Params, Recipe, Runtime
from tumorboard.base.tables import make_predictions
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.evaluation.metrics import HEADLINE_SCORES, scores
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.model_file import load_model
from tumorboard.models.normalization import normalization
from tumorboard.models.registry import Classifier
from tumorboard.training import loop, steps
from tumorboard.training.distributed import Group
from tumorboard.training.job import Job, State
from tumorboard.training.loop import train_model


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 5), (2, 3), (3, 2), (4, 1)])
def test_processes_and_micro_batches_change_a_result_by_rounding_only(
    make_job: MakeJob, alone: Runtime, processes: int, accumulate: int
) -> None:
    """101 images in 7 batches of 14 or 15: shares and micro-batches of unequal size and unequal class weights."""
    changes = {"class_weights": "balanced", "label_smoothing": 0.1, "weight_decay": 0.0, "freeze_epochs": 1}
    job = make_job(101, 31, epochs=2, accumulate=accumulate, **changes)
    trained, epochs = train(job, alone.model_copy(update={"processes": processes}))
    expected, loss = train_in_plain_torch(job)
    assert epochs[-1].best
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-6, rtol=1e-4)
    assert epochs[-1].train["loss"] == pytest.approx(loss, abs=1e-5)
    reference = untrained(job)
    reference.load_state_dict(expected)
    logits = predict_logits(
        reference,
        job.store,
        job.val_rows["id"].tolist(),
        precision="off",
        channels_last=False,
        device=CPU,
        batch_size=50,
    )
    held_out = read_held_out(job.held_out, 31, 2)
    assert held_out.epochs[-1] == 2
    for choice, epoch in enumerate(held_out.epochs):
        assert (epoch == 2) == (held_out.logits[choice] == pytest.approx(logits, abs=1e-4))
    predictions = make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16)
    expected_scores = scores(predictions)
    assert epochs[-1].val == pytest.approx(
        {name: expected_scores[name] for name in HEADLINE_SCORES}, abs=1e-4, nan_ok=True
    )


@pytest.mark.parametrize(
    ("architecture", "threads"),
    [("cnn", 1), pytest.param("resnet18", 2, marks=pytest.mark.slow), ("linear", 2)],
)
def test_two_runs_are_equal_to_the_byte(
    make_job: MakeJob, alone: Runtime, params: Params, architecture: str, threads: int
) -> None:
    """With batch norm, dropout, augmentation and bf16, from two random states of torch."""
    files, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    for seed, out in enumerate(("one", "two")):
        torch.manual_seed(seed)
        changes = {"architecture": architecture, "head": "mlp", "precision": "bf16", "augment": params.train.augment}
        job = make_job(out=out, epochs=2, accumulate=2, optimizer="adam", lr=0.001, **changes)
        train(job, alone)
        files.append(output_files(job))
    torch.set_num_threads(before)
    assert files[0] == files[1]


def test_two_colors_are_learned_to_the_last_image(
    make_job: MakeJob, alone: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(architecture="cnn", epochs=4, loss="focal", lr=0.01)
    model, epochs = train(job, alone)
    assert epochs[-1].train["accuracy"] == 1
    best = min(epochs, key=lambda epoch: epoch.val["loss"])
    assert best.val["accuracy"] == best.val["auc"] == 1
    ids = job.rows["id"].tolist()
    predicted = predict_logits(
        model, job.store, ids, precision="off", channels_last=False, device=CPU, batch_size=16
    ).argmax(1)
    assert [CLASSES[code] for code in predicted] == job.rows["label"].tolist()
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
    assert ["  *" in line for line in lines] == [epoch.best for epoch in epochs]
    meaning = "  * (* marks the best epoch so far, by val loss)"
    assert [line.endswith(meaning) for line in lines] == [True, False, False, False], "explained once"


def test_the_balanced_sampler_draws_equally_from_each_class_and_is_recorded_in_the_card(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 images 14 are blue: each is drawn once and six twice; of the 26 red images 20 are drawn."""
    loaded: list[torch.Tensor] = []
    load = loop.Loader.load

    def spy(self: Any, *arguments: Any) -> Any:
        for images, labels in load(self, *arguments):
            loaded.append(labels)
            yield images, labels

    monkeypatch.setattr(loop.Loader, "load", spy)
    job = make_job(epochs=1, sampler="balanced", accumulate=3)
    train(job, alone)
    assert torch.cat(loaded).bincount().tolist() == [20, 20]
    assert len(loaded) == 3 * math.ceil(40 / 16)
    assert load_model(job.out / "model.safetensors", CPU)[1].recipe.sampler == "balanced"


@pytest.mark.parametrize("changes", [{"backbone_lr_scale": 0.0}, {"freeze_epochs": 1}])
def test_a_frozen_backbone_keeps_weights_and_statistics(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    """Throughout with a `backbone_lr_scale` of 0; with `freeze_epochs: 1` until the second epoch."""
    seen: list[dict[str, torch.Tensor]] = []
    validate = loop._validate

    def spy(setup: Any, model: Classifier) -> tuple[dict[str, float], NDArray[np.float32]]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return validate(setup, model)

    monkeypatch.setattr(loop, "_validate", spy)
    job = make_job(architecture="cnn", epochs=2, **changes)
    train(job, alone)
    start = untrained(job).state_dict()
    frozen_throughout = "backbone_lr_scale" in changes
    for epoch, state in enumerate(seen):
        held = frozen_throughout or epoch == 0
        for name, value in state.items():
            if name.startswith("backbone."):
                assert torch.equal(value, start[name]) == held, (epoch, name)
        assert not torch.equal(state["head.weight"], start["head.weight"])


@pytest.mark.parametrize(
    ("select", "values"),
    [("accuracy", [0.6, 0.8, 0.8, math.nan, 0.7, 0.9]), ("loss", [0.6, 0.4, 0.4, math.nan, 0.5, 0.1])],
)
def test_training_stops_early_and_keeps_the_best_epoch(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, select: str, values: list[float]
) -> None:
    """The second epoch is kept: a tie is not better, and neither is nan; three epochs later training stops."""
    given = iter(values)
    weights: list[dict[str, torch.Tensor]] = []

    def validate(_: Any, model: Classifier) -> tuple[dict[str, float], NDArray[np.float32]]:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return dict.fromkeys(HEADLINE_SCORES, 0.5) | {select: next(given)}, np.zeros((31, 2), np.float32)

    monkeypatch.setattr(loop, "_validate", validate)
    model, epochs = train(make_job(epochs=6, select=select, early_stopping=3), alone)
    assert [epoch.best for epoch in epochs] == [True, True, False, False, False]
    assert all(torch.equal(value, weights[1][name]) for name, value in model.state_dict().items())


def test_the_last_epoch_is_kept_where_the_recipe_says_so(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([0.9, 0.8, 0.7])
    weights: list[dict[str, torch.Tensor]] = []

    def validate(_: Any, model: Classifier) -> tuple[dict[str, float], NDArray[np.float32]]:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return dict.fromkeys(HEADLINE_SCORES, 0.5) | {"accuracy": next(given)}, np.zeros((31, 2), np.float32)

    monkeypatch.setattr(loop, "_validate", validate)
    job = make_job(epochs=6, select="accuracy", early_stopping=2, keep="last")
    model, epochs = train(job, alone)
    assert [epoch.best for epoch in epochs] == [True, False, False]
    assert all(torch.equal(value, weights[2][name]) for name, value in model.state_dict().items())
    card = load_model(job.out / "model.safetensors", CPU)[1]
    assert (card.epoch, card.score["accuracy"]) == (3, 0.7)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_averaged_weights_are_validated_and_kept(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """Computed by hand from the weights and statistics after each step of a training without an average."""
    trail: list[dict[str, torch.Tensor]] = []
    optimizer_step = steps.optimizer_step

    def spy(recipe: Recipe, state: State) -> None:
        optimizer_step(recipe, state)
        trail.append({name: value.double() for name, value in state.model.state_dict().items()})

    changes = {"architecture": "cnn", "epochs": 2, "optimizer": "sgd", "lr": 0.05, "keep": keep}
    with monkeypatch.context() as patch:
        patch.setattr(steps, "optimizer_step", spy)
        raw, _ = train(make_job(out="raw", **changes), alone)
    job = make_job(ema_decay=0.9, **changes)
    model, epochs = train(job, alone)
    kept = load_model(job.out / "model.safetensors", CPU)[1].epoch
    assert kept == (2 if keep == "last" else max(epoch.number for epoch in epochs if epoch.best))
    average = {name: value.double() for name, value in untrained(job).state_dict().items()}
    assert len(trail) == 6  # 40 images: three steps per epoch
    for step, state in enumerate(trail[: 3 * kept]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * state[name] for name, value in average.items()}
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value.double(), average[name], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model.head.weight, raw.head.weight, atol=1e-4)
    logits = predict_logits(
        model, job.store, job.val_rows["id"].tolist(), precision="off", channels_last=True, device=CPU, batch_size=16
    )
    validation_scores = scores(make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16))
    assert epochs[kept - 1].val["loss"] == pytest.approx(validation_scores["loss"], rel=1e-5)


def test_with_an_undefined_score_the_last_epoch_is_kept_and_a_line_says_so(
    make_job: MakeJob, alone: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """The AUC is undefined for validation rows of one class."""
    job = make_job(epochs=2, select="auc", early_stopping=5)
    one_class = job.val_rows[job.val_rows["label"] == "red"]
    _, epochs = train(dataclasses.replace(job, val_rows=one_class), alone)
    assert [epoch.best for epoch in epochs] == [False, False]
    assert " auc undefined  " in loop.epoch_line(job, epochs[-1])
    assert load_model(job.out / "model.safetensors", CPU)[1].epoch == 2
    assert capsys.readouterr().out.splitlines()[-1].endswith("auc is undefined in every epoch: the last one is kept")
    assert read_table(job.out / "history.csv")["val_auc"].tolist() == ["", ""]


def test_a_job_that_cannot_be_trained_is_refused_at_the_start(make_job: MakeJob, alone: Runtime) -> None:
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
        loop.set_up(Group(0, 2, CPU), job, normalization(job.recipe))
    fails(make_job(architecture="no_such_net"), "unknown architecture 'no_such_net'")
    fails(make_job(class_weights=(1.0, 2.0, 3.0)), "class_weights has 3 numbers")


def test_a_loss_that_is_not_finite_ends_the_training(make_job: MakeJob, alone: Runtime) -> None:
    with pytest.raises(InputError, match=r"model 'm', fold 0: the loss of epoch 1, step 2 of 3 \(.*\) is not finite"):
        train_model(make_job(lr=1e30, epochs=3), alone, lambda _: None)
    with pytest.raises(InputError, match="an output for a validation image is not finite"):
        train_model(make_job(train=16, lr=1e38, out="one_step"), alone, lambda _: None)


def test_weights_that_validation_moves_in_memory_are_still_trained(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA an LSTM copies its weights into a new buffer whenever the model is moved; here it does so on the CPU."""

    def flatten(module: torch.nn.LSTM) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()

    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", flatten)
    _, epochs = train(make_job(train=8, val=4, architecture="lstm_resnet18", epochs=2), alone)
    assert len(epochs) == 2


def test_too_little_memory_is_an_error_that_names_the_cure(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "train_epoch", full)
    with pytest.raises(InputError, match=r"model 'm', fold 0: cpu has too little memory for batch_size 16 with accum"):
        train_model(make_job(), alone, lambda _: None)


def test_validation_outputs_are_the_mean_of_the_recipes_views(make_job: MakeJob, alone: Runtime) -> None:
    job = make_job(epochs=1, tta=("hflip", "shift"))
    model, epochs = train(job, alone)
    settings = {"precision": "off", "channels_last": True, "device": CPU, "batch_size": 16}
    ids = job.val_rows["id"].tolist()
    averaged, plain = (predict_logits(model, job.store, ids, **settings, tta=views) for views in (job.recipe.tta, ()))
    outputs = read_held_out(job.held_out, 31, 2)
    np.testing.assert_allclose(outputs.own_logits, averaged, atol=1e-6)
    assert np.abs(averaged - plain).max() > 1e-4
    predictions = make_predictions(job.val_rows.assign(split="val"), softmax(averaged), CLASSES, "0" * 16)
    assert epochs[0].val["loss"] == pytest.approx(scores(predictions)["loss"], abs=1e-6)
    assert load_model(job.weights, CPU)[1].recipe.tta == ("hflip", "shift")


@pytest.mark.parametrize(("accumulate", "largest"), [(1, 16), (4, 4), (5, 4)])
def test_a_validation_has_no_more_images_in_memory_than_a_training_step(
    make_job: MakeJob, alone: Runtime, monkeypatch: pytest.MonkeyPatch, accumulate: int, largest: int
) -> None:
    sizes: list[int] = []

    def spy(*arguments: Any, batch_size: int, **options: Any) -> NDArray[np.float32]:
        sizes.append(batch_size)
        return predict_logits(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(loop, "predict_logits", spy)
    train(make_job(epochs=1, batch_size=16, accumulate=accumulate), alone)
    assert sizes == [largest]
