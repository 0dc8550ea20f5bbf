"""The training of one model: epochs, a validation after each, and the weights of the best."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import scores
from tumorboard.models import batchnorm
from tumorboard.models.inference import choose_device, predict_logits, softmax
from tumorboard.models.pretrained import MeanStd, copy_tensors, dataset_statistics, normalization
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.weights import ModelCard, save_model
from tumorboard.params import Recipe, Runtime
from tumorboard.tables import make_predictions, write_table
from tumorboard.training.averaging import exchanged, start_average
from tumorboard.training.checkpoint import Checkpoints, checkpoints_of, job_key
from tumorboard.training.distributed import Group, Report, launch
from tumorboard.training.loader import Loader, smallest_micro_batch
from tumorboard.training.losses import class_weights, make_loss
from tumorboard.training.optim import make_optimizer
from tumorboard.training.state import Epoch, Job, Run, State
from tumorboard.training.steps import not_finite, set_modes, train_epoch

# Those of an epoch's validation that are kept; the others are by class.
SCORES = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "auc")


def train_model(job: Job, runtime: Runtime, on_epoch: Report, checkpoints: Path | None = None) -> None:
    """Train a model; write `job.weights` (of the best epoch) and, every epoch, history.csv to the folder `job.out`.

    `on_epoch` is called with each finished Epoch, in the process that called this function or under torchrun on rank 0.
    A job that was killed goes on from its newest checkpoint in the folder `checkpoints`, with any number of processes:
    its past epochs are reported again, and what it comes to is what an uninterrupted run would have come to. Rank 0
    alone reads and writes there.
    The result is a function of the job alone: the number of processes changes it by rounding, by the share of a batch
    that batch norm sees, and by dropout's draws. With `deterministic` two runs are equal to the bit where torch has a
    deterministic kernel; where CUDA has none, torch warns and names the operation. Raises InputError.
    """
    recipe = job.recipe
    if job.val_rows.empty:
        raise InputError(f"fold {job.fold} has no validation rows: name one of the split's folds in `folds`")
    if recipe.precision == "fp16" and choose_device(runtime) == "cpu":
        raise InputError("precision is fp16, which needs a CUDA device: use bf16 on a CPU")
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA when it starts
    launch(_train, (job, mean_std_of(job), runtime, checkpoints), runtime, on_epoch)


def mean_std_of(job: Job) -> MeanStd:
    """The mean and standard deviation a channel by which the job's network normalises its images."""
    if job.recipe.normalize == "dataset":
        return dataset_statistics(job.store, job.rows["id"].tolist())
    return normalization(job.recipe)


def _train(group: Group, job: Job, mean_std: MeanStd, runtime: Runtime, folder: Path | None, report: Report) -> None:
    run, state = prepare(group, job, mean_std)
    with checkpoints_of(group, folder, runtime, lambda: job_key(job, state.model.state_dict())) as checkpoints:
        if checkpoints.resume(state) and group.rank == 0:
            print(
                f"fold {job.fold}  {job.name}  resumed from epoch {len(state.history) + 1} step {state.step}",
                flush=True,
            )
            for past in state.history:
                report(past)
            _write_history(job, state)
        while not _has_ended(job.recipe, state.history):
            try:
                outcome = _epoch(run, state, checkpoints)
            except torch.OutOfMemoryError:
                raise InputError(
                    f"model '{job.name}', fold {job.fold}: {run.group.device} has too little memory for batch_size "
                    f"{job.recipe.batch_size} with accumulate {job.recipe.accumulate}: `tumorboard batch-size "
                    f"{job.name}` finds the accumulate that fits"
                ) from None
            state.history.append(outcome)
            if outcome.best:
                state.best_weights = {name: value.cpu().clone() for name, value in _judged_weights(state).items()}
            if group.rank == 0:
                _write_history(job, state)
                print(_line(job, outcome), flush=True)
                report(outcome)
        if group.rank == 0:
            _save(job, state, mean_std)
        checkpoints.discard()


def _has_ended(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    best = max((past.number for past in history if past.best), default=0)
    return len(history) == recipe.epochs or 0 < recipe.early_stopping <= len(history) - best


def prepare(group: Group, job: Job, mean_std: MeanStd) -> tuple[Run, State]:
    """The job as this process carries it out, and the state before the first step; raises InputError."""
    recipe = job.recipe
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, only finds bugs
    torch.backends.cudnn.benchmark = not recipe.deterministic
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = build_model(recipe, len(job.classes), job.store.size, mean_std).to(group.device).to(memory_format=layout)
    _check_batches(job, group, model)
    if recipe.sync_batchnorm and group.size > 1:
        _check_synchronised(group)
        model = batchnorm.synchronise(model)
    labels = np.array([job.classes.index(label) for label in job.rows["label"]], dtype=np.int64)
    weights = class_weights(recipe, labels, job.classes)
    ids = job.rows["id"].tolist()
    loader = Loader(job.store, ids, labels, recipe.sampler, recipe.augment, recipe.seed, group.device)
    loss = make_loss(recipe, weights.to(group.device))
    optimizer = make_optimizer(model.backbone, model.head, recipe)
    scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
    average = start_average(model) if recipe.ema_decay else None
    run = Run(job, group, loader, loss, weights.double().numpy()[labels])
    sums = torch.zeros(2, dtype=torch.float64, device=group.device)
    return run, State(model, optimizer, scaler, sums, average=average)


def _check_synchronised(group: Group) -> None:
    if group.device.type == "cpu":
        raise InputError(
            f"sync_batchnorm is true, but torch has it on CUDA only, and {group.size} processes train on the CPU: "
            "set it to false, or runtime.processes to 1, where it changes nothing"
        )


def _check_batches(job: Job, group: Group, model: Classifier) -> None:
    recipe = job.recipe
    fewest = smallest_micro_batch(len(job.rows), recipe.batch_size, group.size, recipe.accumulate)
    set_modes(model, recipe, recipe.freeze_epochs)
    needed = batchnorm.fewest_images(model, job.store.size)
    if fewest < needed:
        raise InputError(
            f"batch_size {recipe.batch_size} over {len(job.rows)} training images, {group.size} processes "
            f"(runtime.processes) and accumulate {recipe.accumulate} leaves a process {fewest} images at a time, "
            f"but model '{job.name}' needs {needed}{' for its batch norm' if needed == 2 else ''}: "
            "raise batch_size, or lower processes or accumulate"
        )


def _epoch(run: Run, state: State, checkpoints: Checkpoints) -> Epoch:
    epoch = len(state.history)
    if state.step == 0:
        state.began = time.perf_counter()
    train = train_epoch(run, state, epoch, checkpoints)
    trained = time.perf_counter()
    with exchanged(state.model, state.average) if state.average else nullcontext():
        if state.average:
            run.group.average_batch_norm(state.model)
        val = _validate(run, state.model)
    past_best = next((past.val for past in reversed(state.history) if past.best), None)
    return Epoch(
        number=epoch + 1,
        lr=state.optimizer.param_groups[-1]["lr"],  # the head's
        train=train,
        val=val,
        best=_is_better(run.job.recipe.select, val, past_best),
        seconds=time.perf_counter() - state.began,
        images_per_second=len(run.job.rows) / (trained - state.began),
    )


def _judged_weights(state: State) -> Mapping[str, Tensor]:
    """The weights that validation judged and that may be kept: their average, where there is one."""
    return state.average or state.model.state_dict()


def _validate(run: Run, model: Classifier) -> dict[str, float]:
    """The scores of the validation rows, which the processes share out among them: the inference of `evaluate`."""
    job, group, recipe = run.job, run.group, run.job.recipe
    ids = job.val_rows["id"].tolist()
    mine, batch_size = ids[group.rank :: group.size], -(-recipe.batch_size // group.size)
    part = np.empty((0, len(job.classes)), np.float32)
    if mine:
        part = predict_logits(model, job.store, mine, recipe.precision, recipe.channels_last, group.device, batch_size)
    logits = group.gather(part, len(ids))
    found: dict[str, float] = {}
    if group.rank == 0:
        if not np.isfinite(logits).all():
            raise not_finite(job, "an output for a validation image")
        rows = job.val_rows.assign(split="val")
        found = scores(make_predictions(rows, softmax(logits), job.classes, job.digest))
    return group.broadcast({name: found[name] for name in SCORES if found})


def _is_better(select: str, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Whether scores beat older ones by the selected one: a lower loss, more of others; nan (undefined) never does."""
    if not math.isfinite(new[select]):
        return False
    return old is None or (new[select] < old[select] if select == "loss" else new[select] > old[select])


def _write_history(job: Job, state: State) -> None:
    if state.history:
        write_table(pd.DataFrame([_row(past) for past in state.history]), job.out / "history.csv")


def _row(outcome: Epoch) -> dict[str, float]:
    parts = (("train", outcome.train), ("val", outcome.val))
    found = {f"{part}_{name}": value for part, scored in parts for name, value in scored.items()}
    return {"epoch": outcome.number, "lr": outcome.lr} | found


def _line(job: Job, outcome: Epoch) -> str:
    return (
        f"fold {job.fold}  {job.name}  epoch {outcome.number}/{job.recipe.epochs}  lr {outcome.lr:.3g}  "
        f"train loss {outcome.train['loss']:.4f} accuracy {outcome.train['accuracy']:.4f}  "
        f"val loss {outcome.val['loss']:.4f} accuracy {outcome.val['accuracy']:.4f} auc {outcome.val['auc']:.4f}  "
        f"{outcome.images_per_second:.0f} images/s  {outcome.seconds:.1f} s{'  *' if outcome.best else ''}"
    )


def _save(job: Job, state: State, mean_std: MeanStd) -> None:
    kept, weights = state.history[-1], _judged_weights(state)
    if job.recipe.keep == "best" and state.best_weights:
        kept, weights = next(past for past in reversed(state.history) if past.best), state.best_weights
    elif job.recipe.keep == "best":
        print(f"fold {job.fold}  {job.name}  {job.recipe.select} is undefined in every epoch: the last one is kept")
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
        versions={package: version(package) for package in ("torch", "torchvision", "timm", "numpy")},
        seed=job.recipe.seed,
    )
    save_model(job.weights, state.model, card)
