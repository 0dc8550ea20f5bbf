"""Trains one model: runs its epochs, validates after each, and saves the weights of the kept epoch."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Recipe, Runtime
from tumorboard.base.tables import Predictions, make_predictions
from tumorboard.evaluation.held_out import start_held_out, write_held_out
from tumorboard.evaluation.metrics import HEADLINE_SCORES, scores
from tumorboard.models.device import choose_device, set_deterministic
from tumorboard.models.inference import predict_logits, softmax
from tumorboard.models.model_file import ModelCard, save_model
from tumorboard.models.normalization import MeanStd, dataset_statistics, normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.tensors import copy_tensors
from tumorboard.training.batch_norm import average_batch_norm, fewest_images, synchronize_batch_norm
from tumorboard.training.checkpoint import Checkpoints, open_checkpoints
from tumorboard.training.distributed import Callback, Group, launch
from tumorboard.training.ema import start_average, swapped_tensors
from tumorboard.training.histograms import WeightHistograms
from tumorboard.training.job import Epoch, Job, Setup, State, best_epoch, job_key, kept_epoch
from tumorboard.training.last_epochs import add_epoch, estimate_batch_norm, is_averaged
from tumorboard.training.loader import Loader, smallest_micro_batch
from tumorboard.training.losses import class_weights, make_loss
from tumorboard.training.one_step import graphed_steps
from tumorboard.training.optim import make_optimizer
from tumorboard.training.progressive import sides_by_epoch
from tumorboard.training.steps import not_finite, set_train_mode, train_epoch
from tumorboard.training.threads import ThreadWatch


def train_model(job: Job, runtime: Runtime, on_epoch: Callback, checkpoints: Path | None = None) -> None:
    """Trains a model and writes `job.weights`; each epoch prints a line and writes <job.out>/history.csv.

    A killed training resumes from its newest checkpoint, with any number of processes, and ends with the result it
    would have had. The result is a function of the job alone. The number of processes changes it by rounding, by the
    images that one batch norm sees, and by the draws of dropout. With the recipe's `deterministic` two runs are equal
    to the bit, except for CUDA operations without a deterministic kernel, which torch names in a warning.

    Args:
        job: the model, its recipe and its data.
        runtime: device, number of processes and how often a checkpoint is written.
        on_epoch: called with each finished Epoch in the calling process, or under torchrun on rank 0. A resumed
            training reports its past epochs again.
        checkpoints: folder of all jobs' checkpoints; None: none are written. Rank 0 alone reads and writes there.

    Raises:
        InputError: the recipe does not fit the data or the machine, memory is too small, or a loss is not finite.
    """
    recipe = job.recipe
    if job.val_rows.empty:
        raise InputError(f"fold {job.fold} has no validation rows: name one of the split's folds in `folds`")
    if recipe.precision == "fp16" and choose_device(runtime) == "cpu":
        raise InputError("precision is fp16, which needs a CUDA device: use bf16 on a CPU")
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA reads it when it starts
    work = partial(_train, job=job, mean_std=mean_std_of(job), runtime=runtime, folder=checkpoints)
    launch(work, runtime, on_epoch)


def mean_std_of(job: Job) -> MeanStd:
    """Returns the mean and standard deviation per channel by which the job's network normalizes its images."""
    if job.recipe.normalize == "dataset":
        return dataset_statistics(job.store, job.rows["id"].tolist())
    return normalization(job.recipe)


def _train(
    group: Group, on_epoch: Callback, *, job: Job, mean_std: MeanStd, runtime: Runtime, folder: Path | None
) -> None:
    setup, state = set_up(group, job, mean_std, cuda_graphs=runtime.cuda_graphs)
    histograms = WeightHistograms(job.out / "tensorboard", on=job.recipe.tensorboard and group.rank == 0)
    histograms.add(state.model, 0)
    with open_checkpoints(group, folder, runtime, lambda: job_key(job, state.model.state_dict())) as checkpoints:
        if checkpoints.resume(state) and group.rank == 0:
            _say(group, job, f"resumed from epoch {len(state.history) + 1} step {state.step}")
            for past in state.history:
                on_epoch(past)
            _write_history(job, state)
        threads = ThreadWatch(setup, state, runtime)
        while not _has_ended(job.recipe, state.history):
            try:
                epoch = _train_and_validate(setup, state, checkpoints)
            except torch.OutOfMemoryError:
                raise InputError(
                    f"model '{job.name}', fold {job.fold}: {group.device} has too little memory for batch_size "
                    f"{job.recipe.batch_size} with accumulate {job.recipe.accumulate}: `tumorboard batch-size "
                    f"{job.name}` finds the accumulate that fits"
                ) from None
            state.history.append(epoch)
            if group.rank == 0:
                _keep_held_out(job, state)
            if epoch.best:
                weights = _validated_weights(job.recipe, state)
                state.best_weights = {name: value.cpu().clone() for name, value in weights.items()}
            if group.rank == 0:
                _write_history(job, state)
                first = epoch is best_epoch(state.history) and not any(past.best for past in state.history[:-1])
                meaning = f" (* marks the best epoch so far, by val {job.recipe.select})" if first else ""
                print(epoch_line(job, epoch) + meaning, flush=True)
                on_epoch(epoch)
            if news := threads.after_epoch():
                _say(group, job, news)
            histograms.add(state.model, epoch.number)
        if group.rank == 0:
            _save(job, state, mean_std)
        checkpoints.delete()


def _has_ended(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    best = best_epoch(history)
    epochs_since_best = len(history) - (best.number if best else 0)
    return len(history) == recipe.epochs or 0 < recipe.early_stopping <= epochs_since_best


def set_up(group: Group, job: Job, mean_std: MeanStd, *, cuda_graphs: bool = False) -> tuple[Setup, State]:
    """Builds what one process of a training needs.

    Args:
        group: the processes of the training.
        job: the model, its recipe and its data.
        mean_std: mean and standard deviation by which the network normalizes its images (`mean_std_of`).
        cuda_graphs: as in `runtime`.

    Returns:
        What stays the same from step to step, and the state before the first step.

    Raises:
        InputError: the recipe does not fit the data, the network or the device.
    """
    recipe = job.recipe
    set_deterministic(recipe.deterministic)
    # Filling uninitialized memory only helps to find bugs, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not recipe.deterministic
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = build_model(recipe, len(job.classes), job.store.size, mean_std).to(group.device).to(memory_format=layout)
    sides = sides_by_epoch(model, recipe, job.store.size)
    _check_micro_batches(job, group, model, min(sides))
    if recipe.sync_batchnorm and group.size > 1:
        model = synchronize_batch_norm(model, group)
    labels = np.array([job.classes.index(label) for label in job.rows["label"]], dtype=np.int64)
    weights = class_weights(recipe, labels, job.classes)
    loader = Loader(
        job.store,
        ids=job.rows["id"].tolist(),
        labels=labels,
        sampler=recipe.sampler,
        augment=recipe.augment,
        seed=recipe.seed,
        device=group.device,
    )
    loss = make_loss(recipe, weights.to(group.device))
    optimizer = make_optimizer(model.backbone, model.head, recipe)
    scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
    average = start_average(model) if recipe.ema_decay or recipe.average_last else None
    sums = torch.zeros(2, dtype=torch.float64, device=group.device)
    setup = Setup(job, group, loader, loss, weights.double().numpy()[labels], sides)
    state = State(model, optimizer, scaler, sums, average=average)
    if cuda_graphs:
        setup = replace(setup, graphs=graphed_steps(setup, state, partial(_say, group, job)))
    return setup, state


def _say(group: Group, job: Job, line: str) -> None:
    if group.rank == 0:
        print(f"fold {job.fold}  {job.name}  {line}", flush=True)


def _check_micro_batches(job: Job, group: Group, model: Classifier, side: int) -> None:
    recipe = job.recipe
    smallest = smallest_micro_batch(len(job.rows), recipe.batch_size, group.size, recipe.accumulate)
    set_train_mode(model, recipe, recipe.freeze_epochs)
    needed = fewest_images(model, side)
    if smallest < needed:
        raise InputError(
            f"batch_size {recipe.batch_size} over {len(job.rows)} training images, {group.size} processes "
            f"(runtime.processes) and accumulate {recipe.accumulate} leaves a process {smallest} images at a time, "
            f"but model '{job.name}' needs {needed}{' for its batch norm' if needed == 2 else ''}: "
            "raise batch_size, or lower processes or accumulate"
        )


def _train_and_validate(setup: Setup, state: State, checkpoints: Checkpoints) -> Epoch:
    """Carries out the next epoch, or the rest of one that was resumed."""
    number = len(state.history)
    if state.step == 0:
        state.began = time.perf_counter()
    train = train_epoch(setup, state, number, checkpoints)
    trained = time.perf_counter()
    average = _validated_average(setup.job.recipe, state, number)
    if average and setup.job.recipe.average_last:
        add_epoch(state, setup.job.recipe, number)
    with swapped_tensors(state.model, average) if average else nullcontext():
        if average and setup.job.recipe.average_last:
            estimate_batch_norm(setup, state, number)
        if average:
            average_batch_norm(state.model, setup.group)
        val, state.val_logits = _validate(setup, state.model)
    past_best = best_epoch(state.history)
    return Epoch(
        number=number + 1,
        lr=state.optimizer.param_groups[-1]["lr"],  # the last group is the head's
        train=train,
        val=val,
        best=_is_better(setup.job.recipe.select, val, past_best.val if past_best else None),
        seconds=time.perf_counter() - state.began,
        images_per_second=len(setup.job.rows) / (trained - state.began),
    )


def _validated_average(recipe: Recipe, state: State, epoch: int) -> dict[str, Tensor] | None:
    """Returns the average that is validated after an epoch (from 0) and may be kept; None where it is the weights."""
    return state.average if is_averaged(recipe, epoch) else None


def _validated_weights(recipe: Recipe, state: State) -> Mapping[str, Tensor]:
    """Returns the weights that the last validation used and that may be kept."""
    return _validated_average(recipe, state, len(state.history) - 1) or state.model.state_dict()


def _validate(setup: Setup, model: Classifier) -> tuple[dict[str, float], NDArray[np.float32]]:
    """Returns the headline scores of the validation rows and, on rank 0, their logits float32[N, K].

    Inference is in float32, whatever precision the training has: bfloat16 leaves few distinct probabilities. The images
    are distributed over the processes, as many at a time as a training step has; rank 0 computes the scores, and all
    processes return them.
    """
    job, group, recipe = setup.job, setup.group, setup.job.recipe
    ids = job.val_rows["id"].tolist()
    own, batch_size = ids[group.rank :: group.size], -(-recipe.batch_size // (group.size * recipe.accumulate))
    part = np.empty((0, len(job.classes)), np.float32)
    if own:
        part = predict_logits(
            model,
            job.store,
            own,
            precision="off",
            channels_last=recipe.channels_last,
            device=group.device,
            batch_size=batch_size,
            tta=recipe.tta,
            progress=group.rank == 0,
        )
    logits = group.gather(part, len(ids))
    headline: dict[str, float] = {}
    if group.rank == 0:
        if not np.isfinite(logits).all():
            raise not_finite(job, "an output for a validation image")
        all_scores = scores(_val_predictions(job, logits))
        headline = {name: all_scores[name] for name in HEADLINE_SCORES}
    return group.broadcast(headline), logits


def _val_predictions(job: Job, logits: NDArray[np.float32]) -> Predictions:
    return make_predictions(job.val_rows.assign(split="val"), softmax(logits), job.classes, job.digest)


def _keep_held_out(job: Job, state: State) -> None:
    """Lets each part's other rows, and all rows, choose between the last epoch and the one they chose before."""
    held_out = state.held_out or start_held_out(job.val_rows["group"].tolist(), len(job.classes))
    table, select, last = _val_predictions(job, state.val_logits), job.recipe.select, state.history[-1]
    better, new = [], []
    for choice, old in enumerate(held_out.scores):
        outside = table[held_out.parts != choice]
        score = scores(outside)[select] if len(outside) else math.nan
        new.append(score)
        undefined = not math.isfinite(old)  # as in `kept_epoch`, the last epoch is kept where none has a score
        past: Mapping[str, float] = {select: float(old)}
        better.append(job.recipe.keep == "last" or undefined or _is_better(select, {select: score}, past))
    state.held_out = held_out.choose(state.val_logits, last.number, better, new)


def _is_better(select: str, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Returns whether the selected score is better than before: a lower loss, else a higher score; nan never is."""
    if not math.isfinite(new[select]):
        return False
    return old is None or (new[select] < old[select] if select == "loss" else new[select] > old[select])


def _write_history(job: Job, state: State) -> None:
    if state.history:
        write_table(pd.DataFrame([_row(epoch) for epoch in state.history]), job.out / "history.csv")


def _row(epoch: Epoch) -> dict[str, float]:
    parts = (("train", epoch.train), ("val", epoch.val))
    columns = {f"{part}_{name}": value for part, part_scores in parts for name, value in part_scores.items()}
    return {"epoch": epoch.number, "lr": epoch.lr} | columns


def epoch_line(job: Job, epoch: Epoch) -> str:
    """Returns the line that a training prints per epoch; a star at its end marks the best epoch so far."""
    auc = f"{epoch.val['auc']:.4f}" if math.isfinite(epoch.val["auc"]) else "undefined"
    return (
        f"fold {job.fold}  {job.name}  epoch {epoch.number}/{job.recipe.epochs}  lr {epoch.lr:.3g}  "
        f"train loss {epoch.train['loss']:.4f} accuracy {epoch.train['accuracy']:.4f}  "
        f"val loss {epoch.val['loss']:.4f} accuracy {epoch.val['accuracy']:.4f} auc {auc}  "
        f"{epoch.images_per_second:.0f} images/s  {epoch.seconds:.1f} s{'  *' if epoch.best else ''}"
    )


def _save(job: Job, state: State, mean_std: MeanStd) -> None:
    """Writes the model file with the weights of the epoch that is kept."""
    kept = kept_epoch(state.history, job.recipe.keep)
    if job.recipe.keep == "best" and not kept.best:
        print(f"fold {job.fold}  {job.name}  {job.recipe.select} is undefined in every epoch: the last one is kept")
    # A kept epoch that is marked as best is the best one, also where `keep` is "last".
    weights = state.best_weights if kept.best and state.best_weights else _validated_weights(job.recipe, state)
    copy_tensors(state.model, weights, job.name)
    card = ModelCard(
        name=job.name,
        classes=job.classes,
        fold=job.fold,
        crop=job.crop,
        mean=mean_std[0],  # type: ignore[arg-type]  # the card checks that there are three
        std=mean_std[1],  # type: ignore[arg-type]
        recipe=job.recipe,
        manifest=job.digest,
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        epoch=kept.number,
        score=dict(kept.val),
        versions={package: version(package) for package in ("torch", "torchvision", "timm", "numpy")}
        | state.model.versions,
        seed=job.recipe.seed,
    )
    save_model(job.weights, state.model, card)
    assert state.held_out is not None
    write_held_out(state.held_out, job.held_out)
