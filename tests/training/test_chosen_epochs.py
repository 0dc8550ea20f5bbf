"""Tests which epoch's outputs a training keeps for each part of its validation rows: no row chooses its own."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from tests.training.trainings import CLASSES, CPU, MakeJob, train
from tumorboard.base.params import Runtime
from tumorboard.evaluation.held_out import HeldOut, assign_parts, read_held_out
from tumorboard.models.inference import predict_logits
from tumorboard.models.model_file import load_model
from tumorboard.training import loop
from tumorboard.training.job import Epoch, Job

VAL = 30


def grouped(job: Job, size: int = 3) -> Job:
    """Returns the job with its validation rows in groups."""
    groups = [f"patient {row // size}" for row in range(len(job.val_rows))]
    return dataclasses.replace(job, val_rows=job.val_rows.assign(group=groups))


def flipped(job: Job, row: int) -> Job:
    """Returns the job with the other label in one validation row."""
    labels = job.val_rows["label"].tolist()
    labels[row] = CLASSES[1 - CLASSES.index(labels[row])]
    return dataclasses.replace(job, val_rows=job.val_rows.assign(label=labels))


def kept(job: Job, logits: NDArray[np.float32]) -> HeldOut:
    """Returns what is kept after epochs with these logits [E, N, K]."""
    state: Any = SimpleNamespace(held_out=None, history=[])
    for number, state.val_logits in enumerate(logits, 1):
        state.history.append(Epoch(number, 0.1, {}, {}, False, 1.0, 1.0))
        loop._keep_held_out(job, state)
    held_out: HeldOut = state.held_out
    return held_out


def random_logits(epochs: int, rows: int = VAL) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(epochs, rows, 2)).astype(np.float32)


SCORES = {
    "loss": lambda actual, p: -log_loss(actual, p, labels=[0, 1]),
    "accuracy": lambda actual, p: accuracy_score(actual, p > 0.5),
    "auc": roc_auc_score,
}


@pytest.mark.parametrize("select", SCORES)
def test_each_parts_epoch_is_the_best_by_the_rows_of_the_other_parts(make_job: MakeJob, select: str) -> None:
    job = grouped(make_job(40, VAL, select=select))
    logits = random_logits(8)
    held_out = kept(job, logits)
    actual = np.array([CLASSES.index(label) for label in job.val_rows["label"]])
    probability = softmax(logits.astype(np.float64), axis=2)[..., 1]
    assert held_out.parts.tolist() == assign_parts(job.val_rows["group"].tolist()).tolist()
    assert len(held_out.epochs) == 6
    for choice in range(6):
        outside = held_out.parts != choice  # all rows for the last choice
        values = [SCORES[select](actual[outside], p[outside]) for p in probability]
        best = int(np.argmax(np.round(values, 12)))  # the first of equals
        assert held_out.epochs[choice] == best + 1
        assert (held_out.logits[choice] == logits[best]).all()
        assert abs(held_out.scores[choice]) == pytest.approx(abs(values[best]))
    assert len(set(held_out.epochs.tolist())) > 1


@pytest.mark.parametrize("select", ["loss", "accuracy", "balanced_accuracy", "f1", "auc"])
def test_a_rows_label_changes_no_choice_without_the_row(make_job: MakeJob, select: str) -> None:
    """Two epochs differ in one row's outputs alone: every choice that sees the row follows its label."""
    job = grouped(make_job(40, VAL, select=select))
    for row in (0, 11):
        one = random_logits(1)[0]
        one[row] = [-3, 3]
        other = one.copy()
        other[row] = [3, -3]
        logits = np.stack([one, other])
        before, after = kept(job, logits), kept(flipped(job, row), logits)
        part = before.parts[row]
        assert (after.parts == before.parts).all()
        for name in ("logits", "epochs", "scores"):
            assert getattr(after, name)[part].tobytes() == getattr(before, name)[part].tobytes()
        own = before.parts == part
        assert after.own_logits[own].tobytes() == before.own_logits[own].tobytes()
        assert before.epochs[part] == 1, "a tie without the row"
        by_label = {"red": 1, "blue": 2}
        for held_out, label in (
            (before, job.val_rows["label"].iloc[row]),
            (after, flipped(job, row).val_rows["label"].iloc[row]),
        ):
            assert set(np.delete(held_out.epochs, part)) == {by_label[label]}


def test_with_keep_last_all_have_the_last_epoch(make_job: MakeJob) -> None:
    held_out = kept(grouped(make_job(40, VAL, keep="last")), random_logits(5))
    assert held_out.epochs.tolist() == [5] * 6


def test_rows_that_leave_no_score_have_the_last_epoch_until_there_is_one(make_job: MakeJob) -> None:
    """With one group the choice without it sees no row; with one class outside, the AUC is undefined."""
    job = make_job(40, VAL, select="loss")
    logits = random_logits(6)
    alone = kept(grouped(job, VAL), logits)
    losses = [log_loss(job.val_rows["label"] == "red", p) for p in softmax(logits.astype(np.float64), axis=2)[..., 1]]
    assert alone.epochs.tolist() == [6, int(np.argmin(losses)) + 1]
    assert np.isnan(alone.scores[0])
    two = make_job(40, VAL, select="auc")
    labels = ["blue"] * 15 + ["red"] * 15
    two = dataclasses.replace(two, val_rows=two.val_rows.assign(label=labels))
    held_out = kept(grouped(two, 15), logits)
    assert held_out.epochs[:2].tolist() == [6, 6]
    assert held_out.epochs[2] < 6


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_a_training_writes_the_outputs_that_its_saved_model_has_in_float32(
    make_job: MakeJob, alone: Runtime, precision: str
) -> None:
    job = grouped(make_job(40, VAL, epochs=3, precision=precision))
    model, epochs = train(job, alone)
    held_out = read_held_out(job.held_out, VAL, 2)
    card = load_model(job.weights, CPU)[1]
    assert held_out.epochs[-1] == card.epoch
    assert held_out.scores[-1] == card.score["loss"] == min(epoch.val["loss"] for epoch in epochs)
    ids = job.val_rows["id"].tolist()
    logits = predict_logits(
        model, job.store, ids, precision="off", channels_last=True, device=CPU, batch_size=job.recipe.batch_size
    )
    assert held_out.logits[-1] == pytest.approx(logits, abs=1e-5), "in bf16 they differ by about 1e-2"
    assert set(held_out.epochs) <= {1, 2, 3}


def test_a_validation_labels_flip_changes_no_output_for_its_part_in_a_real_training(
    make_job: MakeJob, alone: Runtime
) -> None:
    changes = {"epochs": 4, "lr": 0.1, "select": "accuracy"}
    before, after = grouped(make_job(40, VAL, **changes)), grouped(make_job(40, VAL, out="flipped", **changes))
    after = flipped(after, 7)
    for job in (before, after):
        train(job, alone)
    one, two = (read_held_out(job.held_out, VAL, 2) for job in (before, after))
    own = one.parts == one.parts[7]
    assert (two.parts == one.parts).all()
    assert two.own_logits[own].tobytes() == one.own_logits[own].tobytes()
    assert (two.scores != one.scores).any()
