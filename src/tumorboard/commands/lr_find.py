"""The command `tumorboard lr-find`: the loss over a rising learning rate, and two rates to choose from."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from tqdm import tqdm

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing, write_table
from tumorboard.base.params import LrFind, Runtime, load_params
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.prepared_job import FoldOption, ModelArgument, prepare_alone, read_prepared_job
from tumorboard.report.plots import LrCurve, learning_rate_curve, to_png
from tumorboard.training.job import Job, Setup
from tumorboard.training.loader import epoch_batches
from tumorboard.training.one_step import StepPlan, backward, optimizer_step, plan_step
from tumorboard.training.optim import set_lr

DIVERGED = 4.0  # multiple of the lowest smoothed loss, as in fastai

app = typer.Typer(add_completion=False)


@app.command("lr-find", epilog="Example: tumorboard lr-find resnet18 --fold 0")
@reports_user_errors
def lr_find(model: ModelArgument, fold: FoldOption = 0) -> None:
    """Trains MODEL at a rising learning rate and suggests one; writes lr_find/MODEL.csv and .png.

    The first and last rate, the steps and the smoothing are `lr_find` in params.yaml.
    """
    params = load_params("params.yaml")
    job = read_prepared_job(params, model, fold)
    curve = find_lr(job, params.runtime, params.lr_find)
    table, picture = Path(f"lr_find/{model}.csv"), Path(f"lr_find/{model}.png")
    write_table(curve, table)
    suggested = suggest_lr(curve)
    with replacing(picture) as temporary:
        temporary.write_bytes(to_png(learning_rate_curve(curve, suggested, f"{model}, fold {fold}")))
    for name, lr in suggested.items():
        typer.echo(f"{name}: {lr:.2g}")
    typer.echo(f"the recipe's lr is {job.recipe.lr:g}; {table} and {picture} show {len(curve)} steps")
    first = next(iter(suggested.values()))
    typer.echo(f"to train with the first: dvc exp run -S '++recipes.{model}.lr={first:.2g}'")


def find_lr(job: Job, runtime: Runtime, ramp: LrFind) -> LrCurve:
    """Trains while the learning rate rises exponentially and returns the loss of each step.

    The batches, the augmentation and the optimizer follow the recipe. The schedule is left out, the whole
    network is trained, and this process trains alone. The ramp ends early at the first step whose smoothed loss is not
    finite or exceeds DIVERGED times its lowest value.

    Args:
        job: the training whose recipe and images are used; its outputs are not written.
        runtime: decides the device.
        ramp: first and last rate, number of steps, and the smoothing of the running mean, 0 (none) to 1.

    Source:
        Smith, "Cyclical learning rates for training neural networks" (2017), section 3.3.
    """
    setup, state = prepare_alone(job, runtime)
    rows: list[tuple[float, float, float]] = []
    mean, lowest = 0.0, math.inf
    rates = np.geomspace(ramp.first, ramp.last, ramp.steps).tolist()
    plans = _endless_plans(setup)
    for step, lr in enumerate(tqdm(rates, desc=f"{job.name} learning rates", unit="step", leave=False, disable=None)):
        torch.manual_seed(job.recipe.seed + step)  # dropout draws from torch's own generator
        plan = next(plans)
        set_lr(state.optimizer, lr)
        losses = backward(setup, state, model=state.model, plan=plan, batches=setup.loader.load(plan.micro_batches))[0]
        loss = float(losses.double().sum()) / plan.weight
        mean = ramp.smoothing * mean + (1 - ramp.smoothing) * loss
        smoothed = mean / (1 - ramp.smoothing ** (step + 1))
        if not smoothed <= DIVERGED * lowest:
            break
        lowest = min(lowest, smoothed)
        rows.append((lr, loss, smoothed))
        optimizer_step(job.recipe, state)
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])


def suggest_lr(curve: LrCurve) -> dict[str, float]:
    """Suggests two learning rates: a tenth of the rate with the lowest loss, and the rate with the steepest fall.

    Both are read from the smoothed loss. The first tenth of the steps is left out, because the running mean is still
    short there; the steepest fall is searched up to the lowest loss.

    Example:
        >>> smoothed = [2.0, 1.9, 1.0, 0.7, 0.6, 0.9]
        >>> curve = pd.DataFrame({"lr": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0], "smoothed": smoothed})
        >>> suggest_lr(curve)
        {'tenth of the lowest': 1.0, 'steepest fall': 0.1}

    Raises:
        InputError: if the loss never fell.
    """
    start = len(curve) // 10
    lr, smoothed = curve["lr"].to_numpy()[start:], curve["smoothed"].to_numpy()[start:]
    lowest = int(np.argmin(smoothed)) if len(curve) > 1 else 0
    if lowest == 0:
        raise InputError("the loss never fell: lower lr_find.first, or check whether the model can learn at all")
    slope = np.gradient(smoothed, np.log(lr))[: lowest + 1]
    return {"tenth of the lowest": float(lr[lowest] / 10), "steepest fall": float(lr[np.argmin(slope)])}


def _endless_plans(setup: Setup) -> Iterator[StepPlan]:
    """Yields the plan of each step, epoch after epoch, without end."""
    recipe, loader = setup.job.recipe, setup.loader
    for epoch in itertools.count():
        for batch in epoch_batches(
            loader.keys, loader.strata, seed=recipe.seed, epoch=epoch, batch_size=recipe.batch_size
        ):
            yield plan_step(setup, batch)
