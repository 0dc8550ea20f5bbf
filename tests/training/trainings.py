"""Trainings that several test files of this folder share."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from tumorboard.base.files import write_table
from tumorboard.base.params import Runtime
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import make_predictions
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.model_file import load_model
from tumorboard.models.normalization import normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.training.job import Epoch, Job
from tumorboard.training.loop import train_model

CLASSES = ("blue", "red")
CPU = torch.device("cpu")
MakeJob = Callable[..., Job]


def train(job: Job, runtime: Runtime) -> tuple[Classifier, list[Epoch]]:
    """Trains a job and returns the model that it wrote, and its epochs."""
    epochs: list[Epoch] = []
    train_model(job, runtime, epochs.append)
    return load_model(job.out / "model.safetensors", CPU)[0], epochs


def untrained(job: Job) -> Classifier:
    """Returns the job's network before the first step."""
    return build_model(job.recipe, 2, 32, normalization(job.recipe))


def train_in_plain_torch(job: Job) -> tuple[dict[str, torch.Tensor], float]:
    """Trains a job in a few lines of torch, a whole batch per step; returns weights and the last epoch's loss."""
    recipe, model = job.recipe, untrained(job)
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


def output_files(job: Job) -> list[bytes]:
    """Returns the bytes of a training's files, and of its model's Predictions for the validation rows."""
    model, _ = load_model(job.weights, CPU)
    logits = predict_logits(
        model, job.store, job.val_rows["id"].tolist(), precision="off", channels_last=True, device=CPU, batch_size=16
    )
    predictions = make_predictions(job.val_rows.assign(split="val"), softmax(logits), CLASSES, "0" * 16)
    write_table(predictions, job.out / "predictions.csv")
    names = ("model.safetensors", "held_out.safetensors", "history.csv", "predictions.csv")
    return [(job.out / name).read_bytes() for name in names]
