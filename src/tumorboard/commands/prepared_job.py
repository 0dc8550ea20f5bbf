"""What `lr-find` and `batch-size` share: a model's training job on the prepared data, for one process."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Runtime
from tumorboard.base.recipe import resolve_recipe
from tumorboard.commands.paths import BALANCE, SPLIT, STORE
from tumorboard.models.device import choose_device, use_threads
from tumorboard.training.distributed import Group
from tumorboard.training.job import Job, Setup, State, read_job
from tumorboard.training.loop import mean_std_of, set_up
from tumorboard.training.steps import set_train_mode

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An entry under `recipes` in params.yaml.")]
FoldOption = Annotated[int, typer.Option(min=0, help="The validation fold; the images of the others are trained on.")]


def read_prepared_job(params: Params, model: str, fold: int) -> Job:
    """Returns the job that the stage `train` would train, with nowhere to write a result.

    Args:
        params: parameters of the project in the current folder.
        model: an entry under `recipes`.
        fold: the validation fold.

    Raises:
        InputError: the model has no recipe, or its data are not prepared yet.
    """
    recipe = resolve_recipe(params, model)
    for path in (STORE, SPLIT, BALANCE / str(fold)):
        if not path.exists():
            raise InputError(f"{path} is not there: `dvc repro balance@{fold}` prepares the images of fold {fold}")
    return read_job(
        model,
        fold=fold,
        recipe=recipe,
        crop=params.crop,
        store=STORE,
        manifest=SPLIT,
        balance=BALANCE / str(fold),
        weights=Path(),
        held_out=Path(),
        out=Path(),
    )


def prepare_alone(job: Job, runtime: Runtime) -> tuple[Setup, State]:
    """Returns the job and its state before the first step, for this process alone, with the whole network trainable."""
    use_threads(runtime)
    group = Group(0, 1, torch.device(choose_device(runtime)))
    setup, state = set_up(group, job, mean_std_of(job))
    set_train_mode(state.model, job.recipe, job.recipe.freeze_epochs)
    return setup, state
